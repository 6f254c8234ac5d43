//! Runs a workload on a simulated disk and then, for every point at which the power may fail and for every fate within
//! bounds of what was not synced, recovers and checks. The first state that fails is reported with its trace.
//!
//! ```text
//! crash::Enumeration::quick().run(
//!     |disk, history| {                                     // once; may use threads
//!         let db = Db::open(disk);
//!         history.skip_setup();                             // optional: crash points before here are skipped
//!         for i in 0..5 { history.attempt(i, || db.add(i)); }   // Ok is an acknowledgement
//!     },
//!     |disk| Db::open(disk).expect("recovers"),             // for each state; this is what a second crash interrupts
//!     |db, seen| {                                          // asserts; what it returns is "what is served"
//!         let rows = db.rows();
//!         assert!(seen.acked().all(|i| rows.contains(i)), "an acknowledged row is lost");
//!         assert!(rows.iter().all(|row| seen.possible().any(|i| i == row)), "a row out of nowhere");
//!         rows
//!     },
//! );
//! ```
//!
//! Besides power losses it tries the death of the process at every point ([`Enumeration::kills`]), and a second power
//! loss at every point of the recovery ([`Enumeration::second_every`]): the second recovery must satisfy the same check,
//! and if the first one had finished, must serve the very same thing, for somebody may have read it.
//!
//! [`FaultSweep`] makes each call of a workload fail with each error in turn, then checks what a reopening finds.
//!
//! Threading: the states are checked one after the other on the calling thread, in an order that depends on nothing but
//! the workload's journal and the seed.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::SimDisk;
use super::fate::{Bounds, Fate, for_each};
use super::fault::{Call, CallKind, Fault};
use super::image::SyncFailure;

/// What became of an attempted operation, as its caller knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// No answer, or an answer that leaves it open: it may be there after a crash or not.
    Open,
    /// Acknowledged when the journal had this length: from there on it must be there.
    Acked(usize),
    /// Refused: it must never be there.
    Refused,
}

struct Attempt<T> {
    value: T,
    started: usize,
    outcome: Outcome,
}

/// What a workload tried and what was acknowledged, against the disk's journal.
pub struct History<T> {
    disk: SimDisk,
    attempts: Mutex<Vec<Attempt<T>>>,
    setup: Mutex<usize>,
}

impl<T> History<T> {
    /// An empty history of what happens on `disk`.
    pub fn new(disk: &SimDisk) -> Self {
        History { disk: disk.clone(), attempts: Mutex::new(Vec::new()), setup: Mutex::new(0) }
    }

    /// Crash points before this moment are of no interest.
    pub fn skip_setup(&self) {
        *self.setup.lock().unwrap_or_else(PoisonError::into_inner) = self.disk.ops();
    }

    /// `value` may be there after a crash from now on. Returns its number, for [`History::ack`].
    pub fn start(&self, value: T) -> usize {
        let started = self.disk.ops();
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(Attempt { value, started, outcome: Outcome::Open });
        attempts.len() - 1
    }

    /// Attempt number `attempt` was acknowledged: it must be there after any crash from now on.
    pub fn ack(&self, attempt: usize) {
        self.decide(attempt, Outcome::Acked(self.disk.ops()));
    }

    /// Attempt number `attempt` was refused, "nothing was written": it must not be there after any crash.
    pub fn refuse(&self, attempt: usize) {
        self.decide(attempt, Outcome::Refused);
    }

    fn decide(&self, attempt: usize, outcome: Outcome) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)[attempt].outcome = outcome;
    }

    /// What was known after `point` operations.
    pub fn at<R>(&self, point: usize, look: impl FnOnce(&Seen<'_, T>) -> R) -> R {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        look(&Seen { attempts: &attempts, point })
    }

    /// Starts `value`, does `operation`, and acknowledges if it says `Ok`.
    pub fn attempt<R, E>(&self, value: T, operation: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        let attempt = self.start(value);
        operation().inspect(|_| self.ack(attempt))
    }
}

/// What was known at a crash point.
pub struct Seen<'a, T> {
    attempts: &'a [Attempt<T>],
    point: usize,
}

impl<'a, T> Seen<'a, T> {
    /// What had been acknowledged, in the order of the attempts: all of it must be there.
    pub fn acked(&self) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let point = self.point;
        let acked = move |a: &&Attempt<T>| matches!(a.outcome, Outcome::Acked(at) if at <= point);
        self.attempts.iter().filter(acked).map(|a| &a.value)
    }

    /// What had been attempted, acknowledged or not, in order: nothing else may be there.
    pub fn possible(&self) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let point = self.point;
        let possible = move |a: &&Attempt<T>| a.started < point && a.outcome != Outcome::Refused;
        self.attempts.iter().filter(possible).map(|a| &a.value)
    }

    /// The crash point: how many operations the disk had done.
    pub fn point(&self) -> usize {
        self.point
    }

    /// Two crash points with the same answer demand the same.
    fn fingerprint(&self) -> (usize, usize) {
        (self.acked().count(), self.possible().count())
    }
}

/// How thorough to be.
#[derive(Clone, Copy, Debug)]
pub struct Enumeration {
    /// The fates tried at each point.
    pub bounds: Bounds,
    /// Also let the process die (without a loss of power) at each point.
    pub kills: bool,
    /// Crash again during the recovery of every so manieth state; 0 never.
    pub second_every: usize,
    /// The fates tried at each point of a recovery.
    pub second_bounds: Bounds,
    /// Give up with a note in the report after so many checks.
    pub max_checks: usize,
    /// Chooses the subsets tried by chance.
    pub seed: u64,
}

impl Enumeration {
    /// A few hundred states per operation with several unsynced parts: for every run of the tests.
    pub fn quick() -> Self {
        let bounds = Bounds { subsets_upto: 6, random_subsets: 8, tears: 6, shred: true, noise: true };
        let second_bounds = Bounds { subsets_upto: 2, random_subsets: 1, tears: 1, shred: false, noise: false };
        Enumeration { bounds, kills: true, second_every: 16, second_bounds, max_checks: usize::MAX, seed: 1 }
    }

    /// All subsets of up to ten unsynced parts and a second crash everywhere: for the night.
    pub fn thorough() -> Self {
        let bounds = Bounds { subsets_upto: 10, random_subsets: 64, tears: 24, shred: true, noise: true };
        let second_bounds = Bounds { subsets_upto: 4, random_subsets: 4, tears: 3, shred: true, noise: true };
        Enumeration { bounds, second_every: 1, second_bounds, ..Self::quick() }
    }

    /// Runs `workload` once on an empty disk, then `recover` and `check` on every state; see the head of this module.
    ///
    /// # Panics
    /// When a state fails: the message has the state, the trace of operations, and the check's own words.
    pub fn run<T, R, S: PartialEq + Debug>(
        &self,
        workload: impl FnOnce(&SimDisk, &History<T>),
        recover: impl Fn(&SimDisk) -> R,
        check: impl Fn(R, &Seen<'_, T>) -> S,
    ) -> Report {
        match self.search(workload, recover, check) {
            Ok(report) => report,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// As [`Enumeration::run`], but returns the first failure: for tests that show a broken protocol being caught.
    pub fn search<T, R, S: PartialEq + Debug>(
        &self,
        workload: impl FnOnce(&SimDisk, &History<T>),
        recover: impl Fn(&SimDisk) -> R,
        check: impl Fn(R, &Seen<'_, T>) -> S,
    ) -> Result<Report, Failure> {
        let disk = SimDisk::new();
        let history = History::new(&disk);
        workload(&disk, &history);
        let History { attempts, setup, .. } = history;
        let attempts = attempts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let setup = setup.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut run = Run {
            plan: self,
            attempts: &attempts,
            recover: &recover,
            check: &check,
            checked: HashSet::new(),
            checked_again: HashSet::new(),
            served_again: HashMap::new(),
            distinct: HashSet::new(),
            report: Report::default(),
        };
        let searched = run.all_points(&disk, setup);
        let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
        let new = run.distinct.iter().filter(|hash| tried.insert(**hash)).count();
        let report = Report { distinct: run.distinct.len(), new, ..run.report };
        searched.map(|()| report)
    }
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Crash points.
    pub points: usize,
    /// States built: point and fate.
    pub states: usize,
    /// States that differ in names or contents, those of crashes during recoveries included.
    pub distinct: usize,
    /// Those of them that no earlier enumeration of this process had.
    pub new: usize,
    /// Recoveries checked after a first power loss (a state equal in bytes and demands is checked once).
    pub checks: usize,
    /// Recoveries checked after the death of the process.
    pub kills: usize,
    /// Recoveries checked after a second power loss.
    pub second: usize,
    /// `max_checks` was reached, so that some states were not tried.
    pub truncated: bool,
}

/// A state that failed.
pub struct Failure {
    /// The message, with the trace.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The states of all enumerations of this process, by a hash of their names and contents.
static TRIED: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

/// How many states all enumerations of this process have tried that differ in names or contents.
pub fn states_tried() -> usize {
    TRIED.lock().unwrap_or_else(PoisonError::into_inner).len()
}

struct Run<'a, T, F, C, S> {
    plan: &'a Enumeration,
    attempts: &'a [Attempt<T>],
    recover: &'a F,
    check: &'a C,
    /// First crash states that were recovered and checked: bytes, and what they owe.
    checked: HashSet<Demand>,
    /// The same of crashes during a recovery.
    checked_again: HashSet<Demand>,
    /// What a disk serves that lost its power after a whole recovery.
    served_again: HashMap<Demand, S>,
    /// The bytes of all states.
    distinct: HashSet<u64>,
    report: Report,
}

/// A disk's bytes, and what a recovery of it owes: states with the same are checked once.
type Demand = (u64, (usize, usize));

/// A recovery that went well: the disk after it, the point at which it began to serve, and what it served.
struct Served<S> {
    disk: SimDisk,
    from: usize,
    upto: usize,
    what: S,
}

impl<T, F, C, S: PartialEq + Debug> Run<'_, T, F, C, S> {
    fn all_points<R>(&mut self, disk: &SimDisk, setup: usize) -> Result<(), Failure>
    where
        F: Fn(&SimDisk) -> R,
        C: Fn(R, &Seen<'_, T>) -> S,
    {
        for point in setup..=disk.ops() {
            self.report.points += 1;
            let mut fates = Vec::new();
            let pending = disk.state().cache_at(point).pending.clone();
            for_each(&pending, &self.plan.bounds, self.plan.seed ^ point as u64, |fate| fates.push(fate));
            for fate in fates {
                if self.done() {
                    return Ok(());
                }
                self.power_loss(disk, point, fate)?;
            }
            if self.plan.kills {
                self.report.kills += 1;
                let what = || format!("process killed at point {point}\n{}", disk.trace(point, &Fate::EVERYTHING));
                let served = self.reopen(disk.kill_at(point), point, point, &what)?;
                self.second(&served, point, self.report.kills, &what)?;
            }
        }
        Ok(())
    }

    fn done(&mut self) -> bool {
        self.report.truncated = self.report.checks + self.report.kills + self.report.second >= self.plan.max_checks;
        self.report.truncated
    }

    fn power_loss<R>(&mut self, disk: &SimDisk, point: usize, fate: Fate) -> Result<(), Failure>
    where
        F: Fn(&SimDisk) -> R,
        C: Fn(R, &Seen<'_, T>) -> S,
    {
        self.report.states += 1;
        let crashed = disk.crash(point, fate);
        let hash = crashed.hash();
        self.distinct.insert(hash);
        let seen = Seen { attempts: self.attempts, point };
        if !self.checked.insert((hash, seen.fingerprint())) {
            return Ok(());
        }
        self.report.checks += 1;
        let what = || format!("power lost at point {point}, {fate:?}\n{}", disk.trace(point, &fate));
        let served = self.reopen(crashed, point, 0, &what)?;
        self.second(&served, point, self.report.checks, &what)
    }

    /// Recovers and checks one disk, whose recovery begins at operation `from`.
    fn reopen<R>(
        &self,
        disk: SimDisk,
        point: usize,
        from: usize,
        what: &dyn Fn() -> String,
    ) -> Result<Served<S>, Failure>
    where
        F: Fn(&SimDisk) -> R,
        C: Fn(R, &Seen<'_, T>) -> S,
    {
        let seen = Seen { attempts: self.attempts, point };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let recovered = (self.recover)(&disk);
            let upto = disk.ops();
            (upto, (self.check)(recovered, &seen))
        }));
        match outcome {
            Ok((upto, what)) => Ok(Served { disk, from, upto, what }),
            Err(payload) => Err(Failure {
                message: format!(
                    "{}\n{} acknowledged, {} possible; the recovery did:\n{}failed: {}",
                    what(),
                    seen.acked().count(),
                    seen.possible().count(),
                    disk.trace(disk.ops(), &Fate::EVERYTHING),
                    words(&*payload)
                ),
            }),
        }
    }

    /// Loses power again at each point of a recovery, and once it served.
    fn second<R>(
        &mut self,
        first: &Served<S>,
        point: usize,
        number: usize,
        what: &dyn Fn() -> String,
    ) -> Result<(), Failure>
    where
        F: Fn(&SimDisk) -> R,
        C: Fn(R, &Seen<'_, T>) -> S,
    {
        if self.plan.second_every == 0 || !number.is_multiple_of(self.plan.second_every) {
            return Ok(());
        }
        let owed = Seen { attempts: self.attempts, point }.fingerprint();
        for again in first.from..=first.upto {
            let pending = first.disk.state().cache_at(again).pending.clone();
            let mut fates = Vec::new();
            for_each(&pending, &self.plan.second_bounds, self.plan.seed ^ again as u64, |fate| fates.push(fate));
            for fate in fates {
                let crashed = first.disk.crash(again, fate);
                let demand = (crashed.hash(), owed);
                let finished = again == first.upto;
                let known = self.checked.contains(&demand) || !self.checked_again.insert(demand);
                if known && !(finished && self.served_again.get(&demand).is_none_or(|s| *s != first.what)) {
                    continue;
                }
                self.report.second += 1;
                self.distinct.insert(demand.0);
                let both = || {
                    let trace = first.disk.trace(again, &fate);
                    format!("{}\nthen power lost in the recovery at point {again}, {fate:?}\n{trace}", what())
                };
                let second = self.reopen(crashed, point, 0, &both)?;
                if finished && second.what != first.what {
                    let (was, is) = (&first.what, &second.what);
                    let message = format!("{}\nfailed: served before {was:?}\nserved now    {is:?}", both());
                    return Err(Failure { message });
                }
                if finished {
                    self.served_again.insert(demand, second.what);
                }
            }
        }
        Ok(())
    }
}

/// The words of a panic.
fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_string())).unwrap_or_else(|| "a panic".into())
}

/// Makes each call of a workload fail in turn.
#[derive(Clone, Debug)]
pub struct FaultSweep {
    /// The faults tried on each call.
    pub faults: Vec<Fault>,
    /// Tries every so manieth call.
    pub every: usize,
    /// Counts and fails calls of this kind alone. Without it, how many calls lie between two syncs, which threads decide,
    /// decides which of every so many are tried.
    pub only: Option<CallKind>,
}

impl Default for FaultSweep {
    fn default() -> Self {
        let eio = rustix::io::Errno::IO.raw_os_error();
        let enospc = rustix::io::Errno::NOSPC.raw_os_error();
        let faults = vec![
            Fault::EIO,
            Fault::ENOSPC,
            Fault::EDQUOT,
            Fault::EMFILE,
            Fault::EACCES,
            Fault::ShortWrite(1, enospc),
            Fault::ShortWrite(700, eio),
            Fault::Sync(SyncFailure::Reverted, eio),
            Fault::Sync(SyncFailure::Persisted, eio),
        ];
        FaultSweep { faults, every: 1, only: None }
    }
}

impl FaultSweep {
    /// Runs `workload` once unharmed to count its calls, then once for each call and fault. The workload goes on after
    /// errors as a program would and acknowledges only what succeeded. After it, `recover` and `check` see: the process
    /// killed; the power lost with nothing surviving; and with everything surviving.
    ///
    /// Returns how many runs were made.
    ///
    /// # Panics
    /// When a check fails: the message names the call and the fault, and has the trace.
    pub fn run<T, R, S>(
        &self,
        workload: impl Fn(&SimDisk, &History<T>),
        recover: impl Fn(&SimDisk) -> R,
        check: impl Fn(R, &Seen<'_, T>) -> S,
    ) -> usize {
        let only = self.only;
        let is_meant = move |c: &Call<'_>| only.is_none_or(|kind| kind == c.kind);
        let (whole, calls) = (SimDisk::new(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&calls);
        whole.fail_if(move |c| {
            counted.fetch_add(usize::from(is_meant(c)), SeqCst);
            None
        });
        workload(&whole, &History::new(&whole));
        let mut runs = 0;
        for call in (0..calls.load(SeqCst)).step_by(self.every.max(1)) {
            for fault in &self.faults {
                runs += 1;
                let disk = SimDisk::new();
                let history = History::new(&disk);
                let (fault, mut met) = (*fault, 0);
                disk.fail_if(move |c| {
                    met += usize::from(is_meant(c));
                    (is_meant(c) && met == call + 1).then_some(fault)
                });
                let point = || disk.ops();
                let worked = catch_unwind(AssertUnwindSafe(|| workload(&disk, &history)));
                let attempts = history.attempts.lock().unwrap_or_else(PoisonError::into_inner);
                let ends = [disk.kill_at(point()), disk.crash_now(Fate::NOTHING), disk.crash_now(Fate::EVERYTHING)];
                let names = ["the process killed", "power lost, nothing survived", "power lost, everything survived"];
                let seen = Seen { attempts: &attempts, point: usize::MAX };
                for (end, name) in ends.iter().zip(names) {
                    let outcome = match &worked {
                        Ok(()) => {
                            catch_unwind(AssertUnwindSafe(|| _ = check(recover(end), &seen))).map_err(|p| words(&*p))
                        }
                        Err(payload) => Err(format!("the workload itself: {}", words(&**payload))),
                    };
                    if let Err(words) = outcome {
                        let trace = disk.trace(point(), &Fate::EVERYTHING);
                        panic!("call {call} failed with {fault:?}, then {name}\n{trace}failed: {words}");
                    }
                }
            }
        }
        runs
    }
}
