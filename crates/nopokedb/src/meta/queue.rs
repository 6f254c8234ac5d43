//! What waits to be applied, and who waits for it.
//!
//! Invariants:
//! 1. A submitter waits while more than [`MAX_ROWS`] rows or [`MAX_BYTES`] bytes are queued, but only while SQLite works:
//!    once it fails, a full queue is dropped instead, and read from the log again later. A commit never waits for ever.
//! 2. `applied` grows, except when the cache is begun anew; then it starts again at 0 and the log is replayed.
//! 3. Whoever waits for an LSN gets it, or the reason why it does not come.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::AppliedBatch;
use super::connection::Trouble;
use crate::error::{Error, ErrorKind, Result};
use crate::io::lock::WriterLock;
use crate::types::{CollectionId, Lsn};

/// Rows queued before submitters wait.
pub(super) const MAX_ROWS: usize = 1 << 20;
/// Bytes (mapped, not copied) queued before submitters wait.
pub(super) const MAX_BYTES: usize = 256 << 20;
/// Rows and bytes in one transaction, give or take a batch.
const TRANSACTION_ROWS: usize = 256 << 10;
const TRANSACTION_BYTES: usize = 64 << 20;
/// Small commits are gathered for so long, unless someone waits for them.
const GATHER: Duration = Duration::from_millis(20);
const GATHER_ROWS: usize = 4_096;
/// Failures in a row before waiters are told instead of kept.
const PATIENCE: u32 = 3;

/// How the applying is going.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApplierStats {
    pub(crate) applied_lsn: Lsn,
    /// Up to here it is checkpointed and synced.
    pub(crate) durable_lsn: Lsn,
    /// Highest operation handed in.
    pub(crate) submitted_lsn: Lsn,
    pub(crate) queued_rows: usize,
    pub(crate) queued_bytes: usize,
    /// Why SQLite does not work at the moment. The log is not affected: writes are durable, and reads by id and unfiltered
    /// queries go on.
    pub(crate) degraded: Option<String>,
    /// How often in a row it has failed.
    pub(crate) failures: u32,
    /// How often the cache was begun anew since it was opened.
    pub(crate) rebuilds: u64,
}

/// What the applier's thread does next.
pub(super) enum Job {
    /// Apply these in one transaction. May be empty: then only what is behind is caught up.
    Apply(Vec<Box<dyn AppliedBatch>>),
    /// Checkpoint, for the request of that number.
    Checkpoint(u64),
    /// A reader met damage.
    Rebuild(String),
    /// End, having applied all there was.
    Stop,
}

#[derive(Default)]
pub(super) struct Queue {
    batches: VecDeque<Box<dyn AppliedBatch>>,
    since: Option<Instant>,
    waiting: usize,
    stats: ApplierStats,
    /// The last failure, for those who wait.
    failure: Option<Error>,
    /// Batches were dropped, or the cache begun anew: the log has to be read again after `applied`.
    behind: bool,
    /// The last operation that was dropped.
    dropped_upto: Lsn,
    damage: Option<String>,
    /// Collections whose rows are not wanted any more.
    dropped: Vec<CollectionId>,
    checkpoints_asked: u64,
    checkpoints_done: u64,
    checkpoint_failure: Option<Error>,
    stop: bool,
    /// The thread has ended.
    gone: bool,
}

/// A [`Queue`] with those who wait for it.
#[derive(Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// Something for the thread to do.
    work: Condvar,
    /// Something was done.
    done: Condvar,
    /// The directory's lock, which knows whether the directory is still where it was.
    home: OnceLock<Weak<WriterLock>>,
}

impl Shared {
    pub(super) fn new(applied: Lsn, durable: Lsn) -> Self {
        let stats = ApplierStats {
            applied_lsn: applied,
            durable_lsn: durable,
            submitted_lsn: applied,
            ..ApplierStats::default()
        };
        Shared { queue: Mutex::new(Queue { stats, ..Queue::default() }), ..Shared::default() }
    }

    /// Of no cache: who waits is refused.
    pub(super) fn refusing(why: &Error) -> Self {
        let stats = ApplierStats { failures: PATIENCE, ..ApplierStats::default() };
        let (failure, checkpoint_failure) = (Some(why.duplicate()), Some(why.duplicate()));
        let queue = Queue { stats, failure, checkpoint_failure, checkpoints_done: u64::MAX, ..Queue::default() };
        Shared { queue: Mutex::new(queue), ..Shared::default() }
    }

    pub(super) fn guard_by(&self, lock: &Arc<WriterLock>) {
        // The first one stands: a directory is locked once.
        let _ = self.home.set(Arc::downgrade(lock));
    }

    /// Refuses to open files by their path if the directory was moved or deleted: another database's may be there.
    pub(super) fn check_in_place(&self) -> Result<()> {
        if self.home.get().and_then(Weak::upgrade).is_none_or(|lock| lock.in_place()) {
            return Ok(());
        }
        let words = "SQLite's cache rests: the database's directory was moved or deleted while it was open";
        Err(Error::new(ErrorKind::Closed, words))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_done<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.done.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> ApplierStats {
        self.lock().stats.clone()
    }

    pub(super) fn submit(&self, batch: Box<dyn AppliedBatch>) {
        let mut queue = self.lock();
        while queue.is_full() && !queue.is_stuck() {
            queue = self.wait_done(queue);
        }
        queue.stats.submitted_lsn = queue.stats.submitted_lsn.max(batch.last_lsn());
        if queue.gone || queue.stop {
            return;
        }
        if queue.is_full() {
            queue.drop_all();
        }
        queue.stats.queued_rows += batch.row_count();
        queue.stats.queued_bytes += batch.byte_count();
        queue.since.get_or_insert_with(Instant::now);
        queue.batches.push_back(batch);
        // A gathering thread looks at the clock itself.
        if queue.batches.len() == 1 || queue.is_urgent() {
            self.work.notify_one();
        }
    }

    /// Has the next checkpoint remove what is left of this collection.
    pub(super) fn forget(&self, collection: CollectionId) {
        self.lock().dropped.push(collection);
    }

    /// The dropped collections.
    pub(super) fn dropped(&self) -> Vec<CollectionId> {
        self.lock().dropped.clone()
    }

    /// Has the log replayed up to `lsn`, unless so much was handed in.
    pub(super) fn reach(&self, lsn: Lsn) {
        let mut queue = self.lock();
        if queue.stats.submitted_lsn < lsn {
            queue.stats.submitted_lsn = lsn;
            queue.behind = true;
            self.work.notify_one();
        }
    }

    pub(super) fn wait_applied(&self, lsn: Lsn) -> Result<()> {
        let mut queue = self.lock();
        queue.waiting += 1;
        while queue.stats.applied_lsn < lsn {
            if queue.gone {
                queue.waiting -= 1;
                return Err(Error::closed());
            }
            if let Some(failure) = queue.failure.as_ref().filter(|_| queue.stats.failures >= PATIENCE) {
                let failure = failure.duplicate();
                queue.waiting -= 1;
                return Err(failure);
            }
            self.work.notify_one();
            queue = self.wait_done(queue);
        }
        queue.waiting -= 1;
        Ok(())
    }

    pub(super) fn checkpoint(&self) -> Result<()> {
        let mut queue = self.lock();
        queue.checkpoints_asked += 1;
        let number = queue.checkpoints_asked;
        self.work.notify_one();
        while queue.checkpoints_done < number {
            if queue.gone {
                return Err(Error::closed());
            }
            queue = self.wait_done(queue);
        }
        queue.checkpoint_failure.as_ref().map_or(Ok(()), |e| Err(e.duplicate()))
    }

    /// A reader met damage: have the cache begun anew, and wait no longer for what was there.
    pub(super) fn report_damage(&self, why: String) {
        let mut queue = self.lock();
        queue.stats.applied_lsn = Lsn(0);
        queue.damage = Some(why);
        self.work.notify_one();
    }

    pub(super) fn ask_to_stop(&self) {
        self.lock().stop = true;
        self.work.notify_one();
        self.done.notify_all();
    }

    // From here on: the thread's side.

    pub(super) fn next_job(&self) -> Job {
        let mut queue = self.lock();
        loop {
            if let Some(why) = queue.damage.take() {
                return Job::Rebuild(why);
            }
            let gathered = queue.since.map(|since| since.elapsed());
            if queue.behind {
                return Job::Apply(Vec::new());
            }
            if gathered.is_some_and(|t| t >= GATHER || queue.is_urgent()) {
                let batches = queue.take_some();
                self.done.notify_all();
                return Job::Apply(batches);
            }
            if queue.checkpoints_asked > queue.checkpoints_done {
                return Job::Checkpoint(queue.checkpoints_asked);
            }
            if queue.stop {
                return Job::Stop;
            }
            let wait = gathered.map_or(Duration::from_secs(3_600), |t| GATHER.saturating_sub(t));
            (queue, _) = self.work.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Highest operation handed in, and whether some before it were dropped.
    pub(super) fn behind(&self) -> Option<Lsn> {
        let queue = self.lock();
        queue.behind.then_some(queue.stats.submitted_lsn)
    }

    /// The log was replayed up to `upto`. Batches that were dropped meanwhile are above it.
    pub(super) fn caught_up(&self, upto: Lsn) {
        let mut queue = self.lock();
        queue.behind = queue.dropped_upto > upto;
    }

    /// The log has to be replayed from the beginning of the cache's knowledge.
    pub(super) fn begun_anew(&self) {
        let mut queue = self.lock();
        queue.behind = true;
        queue.damage = None;
        queue.stats.rebuilds += 1;
        queue.stats.applied_lsn = Lsn(0);
        // durable_lsn stays: an empty cache is replayed from the beginning, and misses no delete.
    }

    pub(super) fn succeeded(&self, applied: Lsn) {
        let mut queue = self.lock();
        // While damage is reported and not yet dealt with, nobody may rely on what is there.
        if queue.damage.is_none() {
            queue.stats.applied_lsn = applied;
        }
        queue.stats.failures = 0;
        queue.stats.degraded = None;
        queue.failure = None;
        self.done.notify_all();
    }

    /// Notes a failure and waits before the next attempt. True if there should be none.
    pub(super) fn failed(&self, trouble: Trouble) -> bool {
        let error = Error::from(trouble);
        let mut queue = self.lock();
        queue.stats.failures += 1;
        queue.stats.degraded = Some(error.message().to_owned());
        queue.failure = Some(error);
        let pause = Duration::from_millis(50 << queue.stats.failures.min(6));
        let until = Instant::now() + pause;
        // Those who ask for a checkpoint are told at once, not when it works again.
        queue.checkpoint_failure = queue.failure.as_ref().map(Error::duplicate);
        queue.checkpoints_done = queue.checkpoints_asked;
        self.done.notify_all();
        while !queue.stop {
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            (queue, _) = self.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
        }
        queue.stop
    }

    pub(super) fn durable(&self, lsn: Lsn) {
        let mut queue = self.lock();
        queue.stats.durable_lsn = queue.stats.durable_lsn.max(lsn);
    }

    pub(super) fn checkpointed(&self, number: u64, result: Result<()>) {
        let mut queue = self.lock();
        queue.checkpoints_done = number;
        queue.checkpoint_failure = result.err();
        self.done.notify_all();
    }

    pub(super) fn thread_ended(&self) {
        let mut queue = self.lock();
        queue.gone = true;
        queue.drop_all();
        self.done.notify_all();
    }
}

impl Queue {
    fn is_full(&self) -> bool {
        self.stats.queued_rows >= MAX_ROWS || self.stats.queued_bytes >= MAX_BYTES
    }

    /// Waiting for room would be in vain.
    fn is_stuck(&self) -> bool {
        self.stats.failures > 0 || self.gone || self.stop
    }

    fn is_urgent(&self) -> bool {
        self.waiting > 0
            || self.stop
            || self.checkpoints_asked > self.checkpoints_done
            || self.stats.queued_rows >= GATHER_ROWS
            || self.stats.queued_bytes >= TRANSACTION_BYTES
    }

    /// Drops what is queued; the log has it.
    fn drop_all(&mut self) {
        if let Some(last) = self.batches.back() {
            self.behind = true;
            self.dropped_upto = last.last_lsn();
        }
        self.batches.clear();
        self.since = None;
        (self.stats.queued_rows, self.stats.queued_bytes) = (0, 0);
    }

    /// The first batches, as many as one transaction should have.
    fn take_some(&mut self) -> Vec<Box<dyn AppliedBatch>> {
        let (mut rows, mut bytes, mut taken) = (0, 0, Vec::new());
        while rows < TRANSACTION_ROWS && bytes < TRANSACTION_BYTES {
            let Some(batch) = self.batches.pop_front() else { break };
            rows += batch.row_count();
            bytes += batch.byte_count();
            taken.push(batch);
        }
        self.stats.queued_rows -= rows;
        self.stats.queued_bytes -= bytes;
        if self.batches.is_empty() {
            self.since = None;
        }
        taken
    }
}
