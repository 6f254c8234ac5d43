//! The thread that owns the cache: takes committed batches, applies them in large transactions, and when SQLite fails
//! tries again or begins the cache anew from the log.
//!
//! The steps of one attempt are always the same, so that a failure anywhere is answered by doing them again: begin anew if
//! the file is damaged; replay the log if the cache is empty since then, or if there is nothing in hand (batches that came
//! after those in hand were dropped); apply the batches in hand (rows that the replay brought already are skipped).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::connection::{Outcome, Trouble};
use super::elsewhere::Elsewhere;
use super::queue::{ApplierStats, Job, Shared};
#[cfg(test)]
use super::readers::MetaRecord;
use super::readers::{Reader, Readers};
use super::text::{Scratch, Tokenizers};
use super::{AppliedBatch, MetaLocation, MetaStore};
use crate::error::{Error, Result};
use crate::io::lock::WriterLock;
#[cfg(test)]
use crate::types::RecordId;
use crate::types::{CollectionId, Lsn, Tokenizer};

/// Takes one batch of a replay.
pub(crate) type Sink<'s> = dyn FnMut(Box<dyn AppliedBatch>) -> Result<()> + 's;

/// Reads the log again: hands every batch with rows after the first LSN, up to at least the second, to the sink, in order.
pub(crate) type Replay = Box<dyn FnMut(Lsn, Lsn, &mut Sink<'_>) -> Result<()> + Send>;

/// Batches of a replay in one transaction.
const REPLAY_ROWS: usize = 256 << 10;
const REPLAY_BYTES: usize = 64 << 20;
/// Idle cutters of words that are kept.
const SCRATCHES: usize = 8;
/// How often a read is tried on a cache that turns out to be damaged.
const ATTEMPTS: u32 = 3;

/// The cache at work. Dropping it shuts it down.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    /// Where somebody else keeps the cache, if this only reads.
    elsewhere: Option<Elsewhere>,
    tokenizers: Tokenizers,
    scratches: Mutex<Vec<Scratch>>,
    /// The process that started the thread. In a forked child there is no such thread, and the file is the parent's.
    pid: u32,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Applier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Applier").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Applier {
    /// Starts the thread. `replay` must be able to read everything that was ever submitted.
    pub(crate) fn start(store: MetaStore, replay: Replay) -> Result<Applier> {
        let shared = Arc::new(Shared::new(store.applied_lsn(), store.durable_lsn()));
        let readers = Arc::new(Readers::new(store.place().clone()));
        let tokenizers = store.tokenizers().clone();
        let mut worker = Worker {
            store,
            replay,
            shared: Arc::clone(&shared),
            readers: Arc::clone(&readers),
            damage: None,
            anew: false,
        };
        let thread = std::thread::Builder::new()
            .name("nopokedb-meta".into())
            .spawn(move || worker.run())
            .map_err(|e| Error::io("start a thread for", "meta.sqlite".as_ref(), e))?;
        Ok(Applier {
            shared,
            readers,
            elsewhere: None,
            tokenizers,
            scratches: Mutex::default(),
            pid: std::process::id(),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// No cache of our own: nothing is kept, no thread runs, and who asks is refused, but for what can be read in the file that
    /// the writer of the database `uuid` keeps.
    pub(crate) fn absent(why: &Error, theirs: MetaLocation, uuid: [u8; 16], tokenizers: Tokenizers) -> Applier {
        let elsewhere = match theirs {
            MetaLocation::File(path) => Some(Elsewhere::new(&path, uuid)),
            MetaLocation::Memory => None,
        };
        let place = super::connection::Place::of(super::MetaLocation::Memory);
        Applier {
            shared: Arc::new(Shared::refusing(why)),
            readers: Arc::new(Readers::new(place)),
            elsewhere,
            tokenizers,
            scratches: Mutex::default(),
            pid: std::process::id(),
            thread: Mutex::new(None),
        }
    }

    /// Lets the cache ask `lock` whether the directory is still where it was.
    pub(crate) fn guard_by(&self, lock: &Arc<WriterLock>) {
        self.shared.guard_by(lock);
    }

    /// Hands in committed rows, in LSN order. Waits if very much is queued already.
    pub(crate) fn submit(&self, batch: Box<dyn AppliedBatch>) {
        self.shared.submit(batch);
    }

    /// Returns once everything up to `lsn` can be read, or says why that does not come about.
    pub(crate) fn wait_applied(&self, lsn: Lsn) -> Result<()> {
        self.shared.wait_applied(lsn)
    }

    /// Everything up to here can be read.
    #[cfg(test)]
    pub(crate) fn applied_lsn(&self) -> Lsn {
        self.shared.stats().applied_lsn
    }

    /// Everything up to here is in the file for good: no power loss sets it back further. A delete above this must stay in
    /// the log; if it were dropped, a cache that was set back would keep the deleted record for ever.
    #[cfg(test)]
    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.shared.stats().durable_lsn
    }

    /// Has the file made anew from the log, so that nothing keeps what was deleted, and removes every older one.
    pub(crate) fn purge(&self) -> Result<()> {
        let upto = self.shared.stats().submitted_lsn;
        self.shared.report_damage("what was deleted must not be left in it".to_owned());
        self.wait_applied(upto)?;
        self.checkpoint()?;
        self.shared.check_in_place()?;
        self.readers.place().path().map_or(Ok(()), super::files::remove_set_aside)
    }

    /// The log ends at `lsn`: what is not submitted up to there is read from it, or is nothing that it still has.
    pub(crate) fn reach(&self, lsn: Lsn) {
        self.shared.reach(lsn);
    }

    /// Has the file set aside and built again from the log.
    pub(crate) fn rebuild(&self, why: &str) {
        self.shared.report_damage(why.to_owned());
    }

    /// Reads one state that has everything up to `lsn`, and tells damage as such; it is being rebuilt then.
    pub(crate) fn read_once<T>(&self, lsn: Lsn, f: impl FnOnce(&Reader<'_>) -> Outcome<T>) -> Outcome<T> {
        self.wait_applied(lsn)?;
        let result = self.readers.with(f);
        if let Err(Trouble::Damaged(why)) = &result {
            self.shared.report_damage(why.clone());
        }
        result
    }

    /// The collection was dropped: what is left of it goes with the next checkpoint.
    pub(crate) fn forget(&self, collection: CollectionId) {
        self.shared.forget(collection);
    }

    /// How it is going.
    pub(crate) fn stats(&self) -> ApplierStats {
        self.shared.stats()
    }

    /// Applies what was submitted, then brings the file into the state that opens fastest.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.wait_applied(self.shared.stats().submitted_lsn)?;
        self.shared.checkpoint()
    }

    /// Reads a state that has everything up to `lsn`. Damage met on the way has the cache rebuilt and `f` called again.
    pub(crate) fn read<T>(&self, lsn: Lsn, mut f: impl FnMut(&Reader<'_>) -> Outcome<T>) -> Result<T> {
        if let Some(elsewhere) = &self.elsewhere {
            return elsewhere.read(lsn, f);
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.wait_applied(lsn)?;
            self.shared.check_in_place()?;
            let generation = self.readers.generation();
            let result = self.readers.with(|reader| {
                if reader.applied_lsn()? < lsn {
                    return Ok(None);
                }
                f(reader).map(Some)
            });
            match result {
                Ok(Some(value)) => return Ok(value),
                Err(Trouble::Damaged(why)) if attempt < ATTEMPTS => {
                    // Of a file that has been replaced meanwhile, nobody needs to hear.
                    if self.readers.generation() == generation {
                        self.shared.report_damage(why);
                    }
                }
                // The file was taken away while it was opened, for another reader had met damage in it.
                Err(_) if attempt < ATTEMPTS && self.is_another(generation, lsn) => {}
                Err(trouble) => return Err(trouble.into()),
                // The cache was begun anew just now: wait for it again.
                Ok(None) => std::thread::yield_now(),
            }
        }
    }

    /// Whether the file is no longer the one that was read as `generation`, when it had everything up to `lsn`.
    fn is_another(&self, generation: u64, lsn: Lsn) -> bool {
        self.readers.generation() != generation || self.shared.stats().applied_lsn < lsn
    }

    /// The record `id` as of `lsn` or later.
    #[cfg(test)]
    pub(crate) fn get(&self, lsn: Lsn, collection: CollectionId, id: RecordId) -> Result<Option<MetaRecord>> {
        self.read(lsn, |reader| reader.get(collection, id))
    }

    /// How many records `collection` has, as of `lsn` or later.
    #[cfg(test)]
    pub(crate) fn count(&self, lsn: Lsn, collection: CollectionId) -> Result<u64> {
        self.read(lsn, |reader| reader.count(collection))
    }

    /// How each collection's documents are cut into words.
    pub(crate) fn tokenizers(&self) -> &Tokenizers {
        &self.tokenizers
    }

    /// Lends something that cuts single texts.
    pub(crate) fn with_scratch<T>(&self, tokenizer: Tokenizer, f: impl FnOnce(&Scratch) -> Outcome<T>) -> Result<T> {
        let lock = || self.scratches.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = {
            let mut idle = lock();
            idle.iter().position(|s| s.tokenizer() == tokenizer).map(|i| idle.swap_remove(i))
        };
        let scratch = idle.map_or_else(|| Scratch::new(tokenizer), Ok)?;
        let result = f(&scratch)?;
        let mut idle = lock();
        if idle.len() < SCRATCHES {
            idle.push(scratch);
        }
        Ok(result)
    }

    /// Applies what was submitted, checkpoints, closes the file and ends the thread. Nothing depends on its success.
    /// In a forked child it does nothing.
    pub(crate) fn shutdown(&self) {
        if self.pid != std::process::id() {
            return;
        }
        self.readers.move_to(super::connection::Place::of(super::MetaLocation::Memory));
        self.shared.ask_to_stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.shutdown();
    }
}

struct Worker {
    store: MetaStore,
    replay: Replay,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    /// The file is not to be used any more.
    damage: Option<String>,
    /// The cache was begun anew and has not caught up since.
    anew: bool,
}

/// Tells those who wait that nobody works any more, even if the thread panics.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.thread_ended();
    }
}

impl Worker {
    fn run(&mut self) {
        let _farewell = Farewell(Arc::clone(&self.shared));
        loop {
            let stop = match self.shared.next_job() {
                Job::Apply(batches) => self.apply(&batches),
                Job::Rebuild(why) => {
                    self.damage = Some(why);
                    self.apply(&[])
                }
                Job::Checkpoint(number) => {
                    let result = self.checkpoint();
                    self.shared.durable(self.store.durable_lsn());
                    if let Err(Trouble::Damaged(why)) = &result {
                        self.shared.report_damage(why.clone());
                    }
                    self.shared.checkpointed(number, result.map_err(Error::from));
                    false
                }
                Job::Stop => {
                    match self.shared.check_in_place() {
                        Ok(()) => drop(self.store.close()),
                        Err(_) => self.store.abandon(),
                    }
                    true
                }
            };
            if stop {
                return;
            }
        }
    }

    fn checkpoint(&mut self) -> Outcome<()> {
        self.shared.check_in_place()?;
        self.store.forget(&self.shared.dropped())?;
        self.store.checkpoint()
    }

    /// Applies `batches`, however often it takes. True if the thread was asked to stop before it worked.
    fn apply(&mut self, batches: &[Box<dyn AppliedBatch>]) -> bool {
        loop {
            match self.attempt(batches) {
                Ok(()) => {
                    self.shared.succeeded(self.store.applied_lsn());
                    return false;
                }
                Err(Trouble::Damaged(why)) if self.damage.is_none() => self.damage = Some(why),
                Err(trouble) => {
                    if let Trouble::Damaged(why) = &trouble {
                        self.damage = Some(why.clone());
                    }
                    if self.shared.failed(trouble) {
                        return true;
                    }
                }
            }
        }
    }

    fn attempt(&mut self, batches: &[Box<dyn AppliedBatch>]) -> Outcome<()> {
        self.shared.check_in_place()?;
        if self.damage.is_some() {
            self.store.begin_anew()?;
            self.readers.move_to(self.store.place().clone());
            self.shared.begun_anew();
            self.damage = None;
            self.anew = true;
        }
        self.store.ensure_open()?;
        if let Some(submitted) = self.shared.behind().filter(|_| self.anew || batches.is_empty()) {
            self.catch_up(submitted)?;
            self.shared.caught_up(submitted);
            self.anew = false;
        }
        self.store.apply_batches(batches)
    }

    /// Replays the log after the stamp.
    fn catch_up(&mut self, upto: Lsn) -> Outcome<()> {
        let mut replay = Gathered { store: &mut self.store, batches: Vec::new(), rows: 0, bytes: 0, trouble: None };
        let after = replay.store.applied_lsn();
        let replayed = (self.replay)(after, upto, &mut |batch| replay.take(batch));
        match replay.trouble.take() {
            Some(trouble) => Err(trouble),
            None => {
                replayed?;
                replay.flush()?;
                // The last operations may have been compacted away: they are reflected all the same.
                Ok(self.store.apply(std::iter::empty(), upto)?)
            }
        }
    }
}

/// Gathers replayed batches into large transactions.
struct Gathered<'w> {
    store: &'w mut MetaStore,
    batches: Vec<Box<dyn AppliedBatch>>,
    rows: usize,
    bytes: usize,
    /// What went wrong, in more detail than passes through the replay.
    trouble: Option<Trouble>,
}

impl Gathered<'_> {
    fn take(&mut self, batch: Box<dyn AppliedBatch>) -> Result<()> {
        self.rows += batch.row_count();
        self.bytes += batch.byte_count();
        self.batches.push(batch);
        if self.rows < REPLAY_ROWS && self.bytes < REPLAY_BYTES {
            return Ok(());
        }
        self.flush().map_err(|trouble| {
            self.trouble = Some(trouble);
            Error::closed()
        })
    }

    fn flush(&mut self) -> Outcome<()> {
        (self.rows, self.bytes) = (0, 0);
        self.store.apply_batches(&std::mem::take(&mut self.batches))
    }
}
