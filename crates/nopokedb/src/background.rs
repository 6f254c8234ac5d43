//! The background worker: one thread per open database that does what no caller should wait for.
//!
//! In order of urgency: rows that have expired, rows from the tail into the graph, footers of sealed segments, compaction, the
//! idle watermark; once nothing was written for a while, what holds the directory small. In a database that is only read: what
//! the writer did since, then memory alone.
//!
//! Invariants:
//! 1. Nothing here is needed for durability or for a right answer; a crash between any two steps loses only work.
//! 2. The worker lives until the last handle of the engine is closed or dropped, which stops and joins it.
//! 3. An error here is kept for `stats()` and tried again later; it never stops writes by itself.
//!
//! Threading: `wake` is cheap and may be called under any lock.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::{CollectionCore, Engine};
use crate::error::Result;

/// Expired rows are deleted so often at most, all that there are at once.
const REAP_EVERY: Duration = Duration::from_secs(1);
/// After a round the worker rests so long. Writes that come one by one are then met by few rounds instead of one each, which
/// would cost them a core.
const REST: Duration = Duration::from_millis(5);
/// An idle log gets its watermark after this long.
const IDLE: Duration = Duration::from_millis(50);
/// After this long it settles: see [`Engine::settle`].
const SETTLED: Duration = Duration::from_secs(2);
/// What failed is tried again after this long, if nothing is written meanwhile.
const AGAIN: Duration = Duration::from_secs(20);

/// What is to be done when nobody has woken the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Nothing,
    Watermark,
    Settle,
    Again,
}

impl Idle {
    fn after(self) -> Option<Duration> {
        match self {
            Idle::Nothing => None,
            Idle::Watermark => Some(IDLE),
            Idle::Settle => Some(SETTLED),
            Idle::Again => Some(AGAIN),
        }
    }
}

/// Of the worker: about a third of the time an equal thread would get. Not more, for it holds the commit lock now and then.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// The worker's signal, and its thread once started.
pub(crate) struct Background {
    state: Mutex<State>,
    /// For the worker: there is work, or it is to stop.
    work: Condvar,
    /// For who waits: a round, or a step of one, is over.
    progress: Condvar,
    /// Read by long work between its steps.
    pub(crate) stop: AtomicBool,
    /// Held by the worker during a round, and by whoever wants nothing moved meanwhile. Comes before every other lock.
    round: Mutex<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    woken: bool,
    /// The worker is at work or at rest, and looks at `woken` before it sleeps.
    busy: bool,
    rounds: u64,
    last_error: Option<String>,
}

impl Background {
    /// No thread yet.
    pub(crate) fn new() -> Self {
        Background {
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            stop: AtomicBool::new(false),
            round: Mutex::default(),
            thread: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the worker of `engine`.
    pub(crate) fn start(&self, engine: &Arc<Engine>) {
        let worked = engine.clone();
        let worker = std::thread::Builder::new().name("nopokedb-background".into()).spawn(move || run(&worked));
        // Without a thread everything still works: rows stay in the tail and are scanned.
        match worker {
            Ok(thread) => *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread),
            Err(e) => self.lock().last_error = Some(format!("the background thread could not be started: {e}")),
        }
    }

    /// There may be something to do.
    pub(crate) fn wake(&self) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.woken, true) && !state.busy {
            drop(state);
            self.work.notify_one();
        }
    }

    /// Waits for the end of the current round, or for `limit`.
    pub(crate) fn wait_progress(&self, limit: Duration) {
        let state = self.lock();
        let round = state.rounds;
        let _ = self.progress.wait_timeout_while(state, limit, |s| s.rounds == round);
    }

    /// Ends the worker and waits for it.
    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
        self.lock().woken = true;
        self.work.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A worker that drops the last handle stops itself: it cannot wait for its own end.
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }

    /// Waits for the end of the worker's round and keeps it from the next one: no graph is built, no segment sealed or
    /// compacted until the guard is dropped. Writes and searches go on.
    pub(crate) fn pause(&self) -> MutexGuard<'_, ()> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What went wrong last, if anything did since the last round that went well.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    /// Rests, then waits to be woken, or for `limit`: then the answer is `true`.
    fn sleep(&self, limit: Option<Duration>) -> bool {
        let resting = |s: &mut State| !(s.woken && self.stop.load(SeqCst));
        let rested = self.work.wait_timeout_while(self.lock(), REST, resting);
        let mut state = rested.unwrap_or_else(PoisonError::into_inner).0;
        state.busy = false;
        let mut state = if let Some(limit) = limit {
            self.work.wait_timeout_while(state, limit, |s| !s.woken).unwrap_or_else(PoisonError::into_inner).0
        } else {
            self.work.wait_while(state, |s| !s.woken).unwrap_or_else(PoisonError::into_inner)
        };
        state.busy = true;
        !std::mem::take(&mut state.woken)
    }
}

/// Lets the calling thread, and those it starts, work behind the application's own threads where they compete for cores. A
/// process may be run without the right to do so; then all are equal.
fn step_back() {
    // On Linux this is the calling thread's alone; elsewhere it would be the whole process's.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// The worker's life: wait, work a round, until stopped.
fn run(engine: &Engine) {
    step_back();
    let (mut next, mut worked, mut reaped) = (Idle::Nothing, Instant::now(), None::<Instant>);
    loop {
        let rest = reaped.map_or(Duration::ZERO, |at| REAP_EVERY.saturating_sub(at.elapsed()));
        let due = engine.reap_in().map(|due| due.max(rest));
        let idle_in = next.after().map(|after| after.saturating_sub(worked.elapsed()));
        let idle = engine.background.sleep(engine.poll().or(idle_in).into_iter().chain(due).min());
        if engine.background.stop.load(SeqCst) {
            return;
        }
        let round = engine.background.pause();
        let outcome = if engine.follower.is_some() {
            engine.follow_round().map(|()| Idle::Nothing)
        } else {
            let rested = reaped.is_none_or(|at| at.elapsed() >= REAP_EVERY);
            let reaping = if rested && engine.reap_in().is_some_and(|due| due.is_zero()) {
                reaped = Some(Instant::now());
                engine.reap().map(drop)
            } else {
                Ok(())
            };
            let rest = if !idle {
                let outcome = engine.busy_round().map(|()| Idle::Watermark);
                worked = Instant::now();
                outcome
            } else {
                engine.idle_round(next, worked.elapsed())
            };
            rest.and_then(|more| reaping.map(|()| more))
        };
        drop(round);
        let mut state = engine.background.lock();
        next = outcome.as_ref().copied().unwrap_or_else(|_| {
            worked = Instant::now();
            Idle::Again
        });
        state.last_error = outcome.err().map(|e| e.to_string());
        state.rounds += 1;
        drop(state);
        engine.background.progress.notify_all();
    }
}

impl Engine {
    /// Threads for building graphs.
    pub(crate) fn build_threads(&self) -> usize {
        match self.options.build_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// Moves tail rows of these collections into their graphs.
    pub(crate) fn index_tails(&self, busy: &[Arc<CollectionCore>]) -> Result<()> {
        for collection in busy {
            let generation = collection.generation();
            while generation.lag(generation.index.len()) > 0 && !self.background.stop.load(SeqCst) {
                generation.absorb(self.build_threads(), &self.background.stop)?;
                self.background.lock().rounds += 1;
                self.background.progress.notify_all();
            }
        }
        Ok(())
    }

    /// Takes dead rows out of the graphs of these collections where they are many.
    pub(crate) fn repair_worn_graphs(&self, busy: &[Arc<CollectionCore>]) -> Result<()> {
        for generation in busy.iter().map(|c| c.generation()).filter(|g| g.wants_repair()) {
            generation.repair(self.build_threads(), &self.background.stop)?;
        }
        Ok(())
    }

    /// Calls `work` with the collections that something happened to since the last round. A collection that nothing happened
    /// to costs nothing. What goes wrong is tried again with the same ones.
    pub(crate) fn with_busy(&self, work: impl FnOnce(&[Arc<CollectionCore>]) -> Result<()>) -> Result<()> {
        let busy = self.take_busy();
        let outcome = work(&busy);
        if outcome.is_err() {
            self.look_at(busy.iter().map(|collection| collection.id));
        }
        outcome
    }

    /// Work that came with writes: graphs first, then whatever makes the directory and memory smaller.
    pub(crate) fn busy_round(&self) -> Result<()> {
        self.with_busy(|busy| self.work_on(busy))
    }

    fn work_on(&self, busy: &[Arc<CollectionCore>]) -> Result<()> {
        self.index_tails(busy)?;
        if self.background.stop.load(SeqCst) {
            return Ok(());
        }
        self.seal_segments()?;
        self.rebuild_collections(busy)?;
        self.repair_worn_graphs(busy)?;
        self.compact_log()?;
        self.checkpoint_if_due(busy)
    }

    /// Work for a log that has been idle so long: what comes `next`, if its time has come. First the watermark, which makes damage to
    /// the last frames tellable from a torn tail.
    fn idle_round(&self, next: Idle, rested: Duration) -> Result<Idle> {
        match next {
            Idle::Watermark if rested >= IDLE => self.lock_log().watermark().map(|()| Idle::Settle),
            Idle::Settle if rested >= SETTLED => self.settle().map(|()| Idle::Nothing),
            Idle::Again if rested >= AGAIN => self.busy_round().map(|()| Idle::Watermark),
            _ => Ok(next),
        }
    }

    /// Work for a log that has been idle for long: what nothing else would make smaller. The segment that is written to, if much
    /// of it is of no use; SQLite's write-ahead log, free pages and dropped collections; images of what is gone.
    pub(crate) fn settle(&self) -> Result<()> {
        let rolled = {
            let mut log = self.lock_log();
            let wasteful = log.active_is_wasteful(self.spare());
            if wasteful {
                log.check_in_place()?;
                log.seal_active()?;
                self.publish_segments(&log);
            }
            wasteful
        };
        if rolled {
            self.busy_round()?;
        }
        self.shrink_images()?;
        self.applier.checkpoint()
    }

    /// Bytes that are not worth the trouble.
    pub(crate) fn spare(&self) -> u64 {
        (self.options.segment_bytes / 4).min(4 << 20)
    }
}
