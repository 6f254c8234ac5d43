//! Everything that is open for one directory: the log, its segments, the collections in memory, SQLite's applier, and the
//! background worker.
//!
//! Invariants:
//! 1. Lock order: the worker's round, then `sealing` or a collection's reservations, then the commit queue, then `log` (the
//!    commit lock), then `ids` of a generation. Nothing waits for the background worker or the applier while holding `log`, except
//!    SQLite's bounded back-pressure, and `check()`, which waits for what was queued while it took the lock.
//! 2. The directory's lock is released last, after every file is closed and every thread has ended.
//! 3. An error while applying a durable frame stops all further writes (memory no longer equals the log); reads go on at
//!    the last published snapshot, and reopening replays the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::background::Background;
use crate::commit::queue::GroupCommit;
use crate::commit::reserve::Reservations;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::follower::Follower;
use crate::generation::{Common, Generation};
use crate::import::Imported;
use crate::io::lock::{ProcessMark, WriterLock};
use crate::io::vfs::Vfs;
use crate::log::CollectionEntry;
use crate::log::Log;
use crate::log::{Batch, RowView};
use crate::meta::Applier;
use crate::options::Options;
use crate::types::{CollectionId, Id, Lsn, Metric};
use crate::vectors::rows::{SegmentTable, SharedSegments};

/// An open directory.
pub(crate) struct Engine {
    pub(crate) vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) process: ProcessMark,
    /// The commit lock.
    log: Mutex<Log>,
    pub(crate) queue: GroupCommit<Batch, ()>,
    pub(crate) common: Common,
    /// Those of `common`.
    pub(crate) segments: SharedSegments,
    collections: RwLock<Collections>,
    /// Those that the background worker has to look at: rows came or went, or work was left over. It visits no others.
    busy: Mutex<BTreeSet<CollectionId>>,
    pub(crate) applier: Applier,
    pub(crate) background: Background,
    /// Held while full segments get their footers: one caller at a time.
    pub(crate) sealing: Mutex<()>,
    /// Why writes are refused (invariant 3), if they are.
    failed: Mutex<Option<Error>>,
    handles: AtomicUsize,
    /// From when on the background may have expired rows to delete, in Unix milliseconds.
    pub(crate) next_expiry_ms: AtomicI64,
    shut: AtomicBool,
    /// `None` once it is let go, and in a database that is only read.
    lock: Mutex<Option<Arc<WriterLock>>>,
    /// Of a database that is only read.
    pub(crate) follower: Option<Follower>,
    /// What this opening imported from files of version 0.5.1, if it did.
    pub(crate) imported: Option<Imported>,
}

/// What an opening hands to [`Engine::assemble`].
pub(crate) struct Parts {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    /// `None` to read only.
    pub(crate) lock: Option<WriterLock>,
    pub(crate) log: Log,
    pub(crate) common: Common,
    pub(crate) collections: BTreeMap<CollectionId, Arc<CollectionCore>>,
    pub(crate) applier: Applier,
    pub(crate) imported: Option<Imported>,
}

/// The collections in memory, by number and by name.
#[derive(Debug, Default)]
struct Collections {
    by_id: BTreeMap<CollectionId, Arc<CollectionCore>>,
    by_name: HashMap<String, CollectionId>,
}

impl Collections {
    fn of(by_id: BTreeMap<CollectionId, Arc<CollectionCore>>) -> Self {
        let by_name = by_id.values().map(|c| (c.name.clone(), c.id)).collect();
        Collections { by_id, by_name }
    }
}

/// One collection in memory.
#[derive(Debug)]
pub(crate) struct CollectionCore {
    pub(crate) id: CollectionId,
    pub(crate) name: String,
    /// What made the vectors, if the caller said so.
    pub(crate) model: OnceLock<String>,
    pub(crate) dim: usize,
    pub(crate) metric: Metric,
    pub(crate) m: usize,
    pub(crate) ef_construction: usize,
    pub(crate) reservations: Reservations,
    generation: ArcSwap<Generation>,
    /// The LSN the newest index image on disk reflects.
    pub(crate) image_lsn: Mutex<Lsn>,
    /// Set once the collection is dropped: its handles refuse everything from then on.
    pub(crate) dropped: AtomicBool,
}

impl CollectionCore {
    /// A collection whose rows are those of `generation`.
    pub(crate) fn new(entry: &CollectionEntry, next_id: u64, generation: Generation, image_lsn: Lsn) -> Self {
        CollectionCore {
            id: entry.id,
            name: entry.name.clone(),
            model: entry.model.clone().map_or_else(OnceLock::new, OnceLock::from),
            dim: usize::from(entry.dim),
            metric: entry.metric,
            m: entry.m as usize,
            ef_construction: entry.ef_construction as usize,
            reservations: Reservations::new(next_id),
            generation: ArcSwap::from_pointee(generation),
            image_lsn: Mutex::new(image_lsn),
            dropped: AtomicBool::new(false),
        }
    }

    /// The generation that serves now.
    pub(crate) fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Swaps in a rebuilt generation. Under the commit lock.
    pub(crate) fn replace_generation(&self, generation: Arc<Generation>) {
        self.generation.store(generation);
    }

    /// Calls `read` with the live row of `id` as it stands in the log.
    pub(crate) fn with_row<R>(&self, id: &Id, read: impl Fn(RowView<'_>) -> Result<R>) -> Result<Option<R>> {
        loop {
            let generation = self.generation();
            let Some(slot) = generation.find(id)?.slot else { return Ok(None) };
            let view = generation.view();
            // `None` here: the row was replaced and compacted away between the two look-ups.
            if let Some(row) = view.with_row(slot, &read)? {
                return Ok(Some(row));
            }
        }
    }
}

impl Engine {
    /// Puts an opening's parts together and starts the background worker.
    pub(crate) fn assemble(mut parts: Parts) -> Arc<Engine> {
        let lock = parts.lock.map(Arc::new);
        if let Some(lock) = &lock {
            parts.log.guard_by(lock);
            parts.applier.guard_by(lock);
        }
        let engine = Arc::new(Engine {
            vfs: parts.vfs,
            dir: parts.dir,
            options: parts.options,
            process: ProcessMark::new(),
            log: Mutex::new(parts.log),
            queue: GroupCommit::new(),
            segments: parts.common.segments.clone(),
            common: parts.common,
            busy: Mutex::new(parts.collections.keys().copied().collect()),
            collections: RwLock::new(Collections::of(parts.collections)),
            applier: parts.applier,
            background: Background::new(),
            sealing: Mutex::default(),
            failed: Mutex::new(None),
            handles: AtomicUsize::new(1),
            next_expiry_ms: AtomicI64::new(0),
            shut: AtomicBool::new(false),
            follower: lock.is_none().then(Follower::new),
            lock: Mutex::new(lock),
            imported: parts.imported,
        });
        engine.background.start(&engine);
        engine
    }

    /// The database's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log, and with it the right to change memory.
    pub(crate) fn lock_log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The collection numbered `id`.
    pub(crate) fn collection(&self, id: CollectionId) -> Result<Arc<CollectionCore>> {
        let found = self.with_collections(|collections| collections.get(&id).cloned());
        found.ok_or_else(|| Error::argument(format!("there is no collection {}", id.0)))
    }

    /// The collection every database has.
    pub(crate) fn default_collection(&self) -> Arc<CollectionCore> {
        self.collection(CollectionId::DEFAULT).expect("recovery refuses a directory without it")
    }

    /// All collections.
    pub(crate) fn all_collections(&self) -> Vec<Arc<CollectionCore>> {
        self.with_collections(|collections| collections.values().cloned().collect())
    }

    /// Looks at the table of collections. Nothing else may be locked inside.
    pub(crate) fn with_collections<R>(
        &self,
        look: impl FnOnce(&BTreeMap<CollectionId, Arc<CollectionCore>>) -> R,
    ) -> R {
        look(&self.collections.read().unwrap_or_else(PoisonError::into_inner).by_id)
    }

    /// The collection called `name`, if there is one.
    pub(crate) fn find_collection(&self, name: &str) -> Option<Arc<CollectionCore>> {
        let collections = self.collections.read().unwrap_or_else(PoisonError::into_inner);
        collections.by_id.get(collections.by_name.get(name)?).cloned()
    }

    /// Adds a collection to memory. Under the commit lock.
    pub(crate) fn insert_collection(&self, collection: Arc<CollectionCore>) {
        let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
        collections.by_name.insert(collection.name.clone(), collection.id);
        collections.by_id.insert(collection.id, collection);
    }

    /// Takes a collection out of memory. Under the commit lock.
    pub(crate) fn remove_collection(&self, id: CollectionId) {
        let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
        // A newer collection may have the name by now.
        if let Some(removed) = collections.by_id.remove(&id)
            && collections.by_name.get(&removed.name) == Some(&id)
        {
            collections.by_name.remove(&removed.name);
        }
    }

    /// Has the background worker look at these collections in its next round.
    pub(crate) fn look_at(&self, ids: impl Iterator<Item = CollectionId>) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
    }

    /// What the background worker has to look at, taken over by it.
    pub(crate) fn take_busy(&self) -> Vec<Arc<CollectionCore>> {
        let busy = std::mem::take(&mut *self.busy.lock().unwrap_or_else(PoisonError::into_inner));
        self.with_collections(|collections| busy.iter().filter_map(|id| collections.get(id).cloned()).collect())
    }

    /// Refuses options that contradict what is stored, naming both.
    pub(crate) fn check_stored(&self, options: &Options) -> Result<()> {
        let stored = self.default_collection();
        let model = stored.model.get().map(String::as_str);
        check_stored(&self.dir, options, Stored { dim: stored.dim, metric: stored.metric, model })?;
        if options.read_only {
            return Ok(());
        }
        let tokenizer = self.applier.tokenizers().get(stored.id);
        if let Some(asked) = options.tokenizer.filter(|&asked| asked != tokenizer) {
            let dir = self.dir.display();
            return Err(Error::argument(format!(
                "{dir} is open in this process with tokenizer={:?}; close it before opening it with {:?}",
                tokenizer.name(),
                asked.name()
            )));
        }
        let asked = (options.m.unwrap_or(stored.m), options.ef_construction.unwrap_or(stored.ef_construction));
        if asked == (stored.m, stored.ef_construction) {
            return Ok(());
        }
        Err(Error::argument(format!(
            "{} is open in this process with M={} and ef_construction={}; close it before opening it with M={} and \
             ef_construction={}",
            self.dir.display(),
            stored.m,
            stored.ef_construction,
            asked.0,
            asked.1
        )))
    }

    /// Publishes the log's current segments to the readers, if they changed.
    pub(crate) fn publish_segments(&self, log: &Log) {
        let segments = log.segments();
        if self.segments.load().iter().map(|s| s.no()).ne(segments.iter().map(|s| s.no())) {
            self.segments.store(Arc::new(SegmentTable::new(segments)));
        }
    }

    /// Refuses writes after an apply failed, and to those who only read.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.follower.is_some() {
            return Err(Error::read_only());
        }
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(Ok(()), |e| Err(e.duplicate()))
    }

    /// Stops all further writes because of `cause`.
    pub(crate) fn fail(&self, cause: &Error) -> Error {
        let message = format!(
            "writes have stopped: {}. What was acknowledged is on the disk; close the database and open it again",
            cause.message()
        );
        let error = Error::new(ErrorKind::Closed, message);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.duplicate());
        error
    }

    /// Counts one more handle.
    pub(crate) fn handle_opened(&self) {
        self.handles.fetch_add(1, SeqCst);
    }

    /// Counts one handle less; the last one shuts the engine down.
    pub(crate) fn handle_closed(&self) -> Result<()> {
        if self.handles.fetch_sub(1, SeqCst) == 1 { self.shut_down() } else { Ok(()) }
    }

    /// Stops the threads, writes the caches, marks the log clean, lets the directory go. An error leaves a directory that
    /// opens like after a crash: nothing acknowledged is lost.
    fn shut_down(&self) -> Result<()> {
        self.shut.store(true, SeqCst);
        self.background.stop();
        if self.follower.is_some() {
            self.let_go();
            return Ok(());
        }
        // A directory that was moved or deleted gets no caches, and closing is no error then: writing was.
        let caches = if self.is_in_place() { self.checkpoint() } else { Ok(()) };
        self.applier.shutdown();
        let clean = self.lock_log().close_clean();
        let clean = if self.is_in_place() { clean } else { Ok(()) };
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.let_go();
        clean.and(caches)
    }

    /// Closes the files: objects that outlive the close, as Python's do, hold none of them.
    fn let_go(&self) {
        self.lock_log().let_go();
        self.segments.store(Arc::default());
    }

    /// Whether the directory is still where it was opened, and still the same.
    pub(crate) fn is_in_place(&self) -> bool {
        if self.follower.is_some() {
            return self.refresh().is_ok();
        }
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|lock| lock.in_place())
    }

    /// Whether the last handle is gone.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(SeqCst)
    }

    /// Brings memory to `lsn`, up to which SQLite is, where another process writes both.
    pub(crate) fn reach(&self, lsn: Lsn) -> Result<()> {
        if self.follower.is_none() || self.lock_log().last_lsn() >= lsn {
            return Ok(());
        }
        self.refresh()?;
        let last = self.lock_log().last_lsn();
        if last >= lsn {
            return Ok(());
        }
        // The writer acknowledges before it hands rows to SQLite; but what it said is forgotten when the machine starts.
        let why = format!("meta.sqlite has operation {lsn}, and {last} is the last one known to be acknowledged");
        let why = format!("{why}; open the database once without read_only");
        Err(Error::io("search the words of", &self.dir, std::io::Error::other(why)))
    }

    /// Waits until SQLite reflects everything visible now.
    pub(crate) fn wait_applied(&self) -> Result<()> {
        let visible = self.lock_log().last_lsn();
        self.applier.wait_applied(visible)
    }

    /// Waits until the graphs hold every row visible now, and lead through few dead ones.
    pub(crate) fn wait_indexed(&self, deadline: Option<Instant>) -> Result<bool> {
        for collection in self.all_collections() {
            let target = collection.generation().snapshot.load().len;
            // Memory that was built anew meanwhile has fewer slots: without those of dead rows.
            let unfinished = |generation: &Generation| {
                generation.lag(target.min(generation.snapshot.load().len)) > 0 || generation.wants_repair()
            };
            while unfinished(&collection.generation()) {
                if self.follower.is_none() {
                    self.check_writable()?;
                }
                self.look_at(std::iter::once(collection.id));
                self.background.wake();
                let left = deadline.map_or(Duration::from_millis(100), |d| d.saturating_duration_since(Instant::now()));
                if left.is_zero() {
                    return Ok(false);
                }
                self.background.wait_progress(left.min(Duration::from_millis(100)));
            }
        }
        Ok(true)
    }
}

/// What vectors a collection holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) dim: usize,
    pub(crate) metric: Metric,
    pub(crate) model: Option<&'a str>,
}

/// Refuses options that contradict what is stored, naming both.
pub(crate) fn check_stored(dir: &Path, options: &Options, stored: Stored<'_>) -> Result<()> {
    let (what, Stored { dim, metric, model }) = (dir.display(), stored);
    if let (Some(has), Some(given)) = (model, options.model.as_deref())
        && has != given
    {
        let message = format!("{what} holds vectors of the model {has:?}, but was opened with model={given:?}");
        return Err(Error::argument(message));
    }
    if options.read_only && options.dim == 0 {
        return Ok(());
    }
    if options.dim != dim {
        let made = model.map_or(String::new(), |model| format!(" (made with {model:?})"));
        let message = format!("{what} holds vectors of dimension {dim}{made}, but was opened with dim={}", options.dim);
        return Err(Error::new(ErrorKind::Invalid(Subject::Dimension), message));
    }
    if options.metric != metric {
        let (stored, given) = (metric.name(), options.metric.name());
        return Err(Error::argument(format!("{what} uses space {stored:?}, but was opened with {given:?}")));
    }
    Ok(())
}
