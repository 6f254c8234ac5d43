//! Opening, closing and looking at a database.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::backup::Backup;
use crate::collection::Collection;
use crate::engine::Engine;
use crate::error::{Error, IoContext, Result};
use crate::import::Imported;
use crate::io::disk::Disk;
use crate::io::vfs::Vfs;
use crate::meta::MetaLocation;
use crate::options::{CollectionOptions, Options};
use crate::repair::{Repair, Repaired};
use crate::stats::Stats;
use crate::types::CollectionId;
use crate::verify::Report;

/// An open database directory. Cheap to clone; clones are one handle, closed together.
///
/// Opening a directory that this process has open already gives another handle to the same engine; the directory is
/// let go when the last handle is closed or dropped.
#[derive(Clone)]
pub struct Database {
    handle: Arc<Handle>,
}

/// One opening of a directory.
pub(crate) struct Handle {
    pub(crate) engine: Arc<Engine>,
    pub(crate) options: Options,
    closed: AtomicBool,
    /// The place of this directory among the open ones; `None` on a simulated disk.
    registered: Option<Registered>,
}

type Registered = Arc<Mutex<Weak<Engine>>>;

/// The directories this process has open, so that a second opening shares the engine instead of failing on its own lock.
/// Those who only read have an engine of their own, also beside a writer: it would hold the writer's lock otherwise.
static OPEN: LazyLock<Mutex<HashMap<(PathBuf, bool), Registered>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Database {
    /// Opens the database in directory `path`, making it if there is none.
    ///
    /// # Errors
    /// `Invalid` (an option out of range, another dimension or metric than stored, a path that is a file or holds other
    /// files, a network file system), `Locked` (another process writes here), `Corruption`, `Io`, `Full`.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Database> {
        Self::open_watched(path, options, &mut |_, _| ControlFlow::Continue(()))
    }

    /// [`Database::open`], telling `progress` how many rows of a directory that version 0.5.1 wrote are imported, and of how many.
    /// Breaking before the last ends it with an error, and nothing is imported. While another process holds the directory it is told 0
    /// of 0, and breaking ends the waiting. Anything else is opened without a word.
    pub fn open_watched(
        path: impl AsRef<Path>,
        options: Options,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Database> {
        options.validate()?;
        let path = path.as_ref();
        let vfs: Arc<dyn Vfs> = Arc::new(Disk);
        prepare(&*vfs, path, &options)?;
        let canonical = Disk.canonical(path).context("look at", path)?;
        let registered = lock(&OPEN).entry((canonical.clone(), options.read_only)).or_default().clone();
        let mut open = lock(&registered);
        let engine = match open.upgrade().filter(|e| e.process.check().is_ok() && !e.is_shut() && e.is_in_place()) {
            Some(engine) => {
                engine.check_stored(&options)?;
                if !options.read_only {
                    engine.keep_model(&engine.default_collection(), options.model.as_deref())?;
                }
                engine.handle_opened();
                engine
            }
            None if options.read_only => {
                let meta = MetaLocation::File(canonical.join("meta.sqlite"));
                let engine = Engine::open_reading(vfs, &canonical, &options, meta)?;
                *open = Arc::downgrade(&engine);
                engine
            }
            None => {
                let meta = MetaLocation::File(canonical.join("meta.sqlite"));
                let engine = Engine::open(vfs, &canonical, &options, meta, progress)?;
                *open = Arc::downgrade(&engine);
                engine
            }
        };
        drop(open);
        Ok(Self::with_engine(engine, options, Some(registered)))
    }

    /// Opens a database on another disk, with SQLite in memory. For crash tests.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn open_on(vfs: Arc<dyn Vfs>, path: &Path, options: Options) -> Result<Database> {
        options.validate()?;
        prepare(&*vfs, path, &options)?;
        let engine = if options.read_only {
            Engine::open_reading(vfs, path, &options, MetaLocation::Memory)?
        } else {
            Engine::open(vfs, path, &options, MetaLocation::Memory, &mut |_, _| ControlFlow::Continue(()))?
        };
        Ok(Self::with_engine(engine, options, None))
    }

    /// As [`Database::open_on`], with SQLite's files on the real disk.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn open_on_with_sqlite(vfs: Arc<dyn Vfs>, path: &Path, sqlite: &Path, options: Options) -> Result<Database> {
        options.validate()?;
        crate::recover::prepare_directory(&*vfs, path, &options)?;
        let sqlite = MetaLocation::File(sqlite.to_owned());
        let engine = Engine::open(vfs, path, &options, sqlite, &mut |_, _| ControlFlow::Continue(()))?;
        Ok(Self::with_engine(engine, options, None))
    }

    /// Deletes what has expired, as the background does by itself.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn reap(&self) -> Result<usize> {
        let _paused = self.handle.engine.background.pause();
        self.handle.engine.reap()
    }

    /// Does what the background does now, and once nothing was written for a while.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn settle(&self) -> Result<()> {
        let _paused = self.handle.engine.background.pause();
        self.handle.engine.busy_round()?;
        self.handle.engine.settle()
    }

    fn with_engine(engine: Arc<Engine>, options: Options, registered: Option<Registered>) -> Database {
        Database { handle: Arc::new(Handle { engine, options, closed: AtomicBool::new(false), registered }) }
    }

    /// The collection every database has.
    pub fn collection(&self) -> Collection {
        Collection::new(self.handle.clone(), self.handle.engine.default_collection())
    }

    /// The collection called `name`, made with `options` if there is none.
    ///
    /// # Errors
    /// `Invalid` when it exists with another dimension, metric or model, or an option is out of range.
    pub fn open_collection(&self, name: &str, options: &CollectionOptions) -> Result<Collection> {
        self.handle.check()?;
        Ok(Collection::new(self.handle.clone(), self.handle.engine.open_collection(name, options)?))
    }

    /// Makes collections with the same `options`, all of them or none, in the time it takes to make one: each change of the
    /// table of collections writes all of it. Those that exist already are left as they are. Returns the names of those
    /// that were made.
    ///
    /// # Errors
    /// `Invalid` when one exists with another dimension, metric or model, or an option or a name is out of range.
    pub fn create_collections(&self, names: &[&str], options: &CollectionOptions) -> Result<Vec<String>> {
        self.handle.check()?;
        self.handle.engine.create_collections(names, options)
    }

    /// The collection called `name`, if there is one.
    pub fn find_collection(&self, name: &str) -> Result<Option<Collection>> {
        self.handle.check()?;
        let found = self.handle.engine.find_collection(name);
        Ok(found.map(|core| Collection::new(self.handle.clone(), core)))
    }

    /// Drops a collection with all its rows; `false` if there is none of that name. Handles to it refuse everything from
    /// then on. The default collection cannot be dropped.
    pub fn drop_collection(&self, name: &str) -> Result<bool> {
        self.handle.check_writing()?;
        self.handle.engine.drop_collection(name)
    }

    /// The names of all collections, sorted.
    pub fn collections(&self) -> Result<Vec<String>> {
        self.handle.check()?;
        Ok(self.handle.engine.collection_names())
    }

    /// Makes everything visible that was acknowledged before this call, by this process or another. Without it a handle that was
    /// opened to read only is at most a second behind; in one that writes everything is visible already.
    ///
    /// # Errors
    /// `Closed` (also when the directory was moved, deleted or replaced), `Corruption`, `Io`.
    pub fn refresh(&self) -> Result<()> {
        self.handle.check_open()?;
        self.handle.engine.refresh()
    }

    /// Whether this handle was opened to read only.
    pub fn is_read_only(&self) -> bool {
        self.handle.options.read_only
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.handle.engine.dir()
    }

    /// Whether [`Database::close`] was called on this handle.
    pub fn is_closed(&self) -> bool {
        self.handle.closed.load(SeqCst)
    }

    /// Writes the caches (SQLite's checkpoint and the index image), so that the next open is fast. Durability never
    /// needs it: what `add` acknowledged is on the disk already.
    pub fn save(&self) -> Result<()> {
        self.handle.check_writing()?;
        self.handle.engine.checkpoint()
    }

    /// Closes this handle; closing it again does nothing. The last handle to close writes the caches and lets the
    /// directory go. Calls on a closed handle are `Closed` errors.
    pub fn close(&self) -> Result<()> {
        self.handle.close()
    }

    /// Waits until the graph holds every row that is visible now, and was mended where many rows were deleted; `false` if
    /// `timeout` passed first. Searches never need it: rows outside the graph are scanned.
    pub fn wait_indexed(&self, timeout: Option<Duration>) -> Result<bool> {
        self.handle.check()?;
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        self.handle.engine.wait_indexed(deadline)
    }

    /// Waits until SQLite holds every row that is visible now. Only outside readers of `meta.sqlite` need it.
    pub fn wait_applied(&self) -> Result<()> {
        self.handle.check()?;
        self.handle.engine.wait_applied()
    }

    /// Holds everything that is stored against everything else: the log's checksums, rows, ids, graph and SQLite. Takes a
    /// time in proportion to the data; searches and writes go on.
    pub fn check(&self) -> Result<Report> {
        self.handle.check()?;
        self.handle.engine.verify()
    }

    /// What this opening imported from files that version 0.5.1 wrote, if it found any and no database yet.
    pub fn imported(&self) -> Option<&Imported> {
        self.handle.engine.imported.as_ref()
    }

    /// Copies the database as it is now into the directory `path`, while it is open and written to. The copy is a
    /// database directory like any other: open it to restore. A backup into the directory of an earlier one copies only
    /// what is new; a crash meanwhile leaves the earlier one or the new one.
    ///
    /// SQLite's file is not copied: the first opening of the copy builds it from the log.
    ///
    /// # Errors
    /// `Invalid` when `path` is this database, holds another one or other files, or was opened for writing since it was
    /// backed up to; `Locked` when it is open; `Corruption` when what is to be copied is damaged; `Full`, `Io`. What an earlier
    /// backup brought is still there then.
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<Backup> {
        self.handle.check_writing()?;
        let path = path.as_ref();
        if self.handle.registered.is_none() {
            return self.handle.engine.backup(path);
        }
        let absolute = |path: &Path| Disk.canonical(path).or_else(|_| std::path::absolute(path));
        self.handle.engine.backup(&absolute(path).context("find", path)?)
    }

    /// Repairs the database in the directory `path`, which must not be open elsewhere. Damaged caches (SQLite, index images,
    /// one of the two manifests) are built again in place. If the log itself is damaged and `repair.into` names a new
    /// directory, everything readable goes there, under its ids, and what is lost is listed; the old directory is left as
    /// it is, for a better try.
    ///
    /// # Errors
    /// `Corruption` when the log is damaged and there is no `into`; `Invalid` when `path` is no database or `into` is not
    /// empty; `Locked`, `Full`, `Io`.
    pub fn repair(path: impl AsRef<Path>, repair: &Repair) -> Result<Repaired> {
        let vfs: Arc<dyn Vfs> = Arc::new(Disk);
        let path = Disk.canonical(path.as_ref()).context("find", path.as_ref())?;
        crate::repair::repair(&vfs, &path, repair, &|path, options| Database::open(path, options))
    }

    /// [`Database::repair`] on another disk. For crash tests.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn repair_on(vfs: &Arc<dyn Vfs>, path: &Path, repair: &Repair) -> Result<Repaired> {
        crate::repair::repair(vfs, path, repair, &|path, options| Database::open_on(vfs.clone(), path, options))
    }

    /// Has SQLite's file built again from the log, and writes the manifests anew.
    pub(crate) fn rebuild_caches(&self) -> Result<()> {
        self.handle.engine.rebuild_caches()
    }

    /// Counters of what the database holds and uses.
    pub fn stats(&self) -> Result<Stats> {
        self.handle.check()?;
        self.handle.engine.stats(CollectionId::DEFAULT)
    }
}

/// Refuses a path that cannot be opened.
fn prepare(vfs: &dyn Vfs, path: &Path, options: &Options) -> Result<()> {
    if options.read_only {
        return crate::follower::find_directory(vfs, path, options);
    }
    crate::recover::prepare_directory(vfs, path, options)
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = if self.is_closed() { ", closed" } else { "" };
        write!(f, "Database({}, {:?}{state})", self.path().display(), self.handle.engine.default_collection())
    }
}

impl Handle {
    /// Refuses a handle that was closed or carried over a fork, or that has lost whom it follows.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.check_open()?;
        self.engine.check_fresh()
    }

    /// As [`Handle::check`], at the head of a verb that writes.
    pub(crate) fn check_writing(&self) -> Result<()> {
        self.check_open()?;
        if self.options.read_only { Err(Error::read_only()) } else { Ok(()) }
    }

    fn check_open(&self) -> Result<()> {
        self.engine.process.check()?;
        if self.closed.load(SeqCst) {
            return Err(Error::closed());
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.engine.process.check()?;
        if self.closed.swap(true, SeqCst) {
            return Ok(());
        }
        // Held while shutting down: an opening of the same directory waits instead of meeting our own lock.
        let _open = self.registered.as_ref().map(|r| lock(r));
        self.engine.handle_closed()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // After a fork the engine's threads and locks belong to the parent; a failed close loses no acknowledged write.
        if self.engine.process.check().is_ok() {
            let _ = self.close();
        }
    }
}
