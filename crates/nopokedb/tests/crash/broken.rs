//! Tests of the tests: the same engine on a disk that lies to it in one way. Each lie is a protocol that somebody shipped
//! once, and each must be caught by the suites of this folder.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use nopokedb::testing::crash::{Enumeration, FaultSweep};
use nopokedb::testing::{
    CallKind, Entry, EntryKind, Fault, LockGuard, OpenMode, Region, SimDisk, SyncFailure, Vfs, VfsFile,
};

use crate::faults;
use crate::support::Write::{Add, Batch, Create, Document};
use crate::workload::{Close, Die, Do, Quiet, Step, search};

/// What is done wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Nothing: the control.
    None,
    /// Segments are not synced: acknowledged from the page cache.
    NoDataSync,
    /// A sync is done when the next call comes: applied and acknowledged before the fsync.
    LateDataSync,
    /// New files are not synced before they get their name.
    NoSyncBeforeRename,
    /// Directories are not synced.
    NoDirectorySync,
    /// A file is replaced by writing over it instead of by a rename.
    ReplaceInPlace,
    /// A failed sync is tried again and then believed.
    RetrySync,
    /// A failed sync is not noticed.
    IgnoreSyncErrors,
}

#[derive(Clone, Debug)]
struct Lying {
    disk: SimDisk,
    lie: Lie,
    /// A sync that is owed ([`Lie::LateDataSync`]).
    owed: Arc<Mutex<Option<Arc<dyn VfsFile>>>>,
}

#[derive(Debug)]
struct LyingFile {
    file: Arc<dyn VfsFile>,
    vfs: Lying,
    temporary: bool,
    fresh: AtomicBool,
}

impl Lying {
    fn over(disk: &SimDisk, lie: Lie) -> Arc<dyn Vfs> {
        Arc::new(Lying { disk: disk.clone(), lie, owed: Arc::default() })
    }

    fn pay(&self) -> io::Result<()> {
        let owed = self.owed.lock().unwrap().take();
        owed.map_or(Ok(()), |file| file.sync_data())
    }
}

impl Vfs for Lying {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let temporary = path.extension().is_some_and(|e| e == "tmp");
        let fresh = AtomicBool::new(mode == OpenMode::CreateNew);
        Ok(Arc::new(LyingFile { file: self.disk.open(path, mode)?, vfs: self.clone(), temporary, fresh }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.lie != Lie::ReplaceInPlace || self.disk.kind(to)?.is_none() {
            return self.disk.rename(from, to);
        }
        let (bytes, target) = (self.disk.peek(from).unwrap(), self.disk.open(to, OpenMode::Write)?);
        target.set_len(0)?;
        target.write_all_at(&[&bytes], 0)?;
        target.sync_data()?;
        self.disk.remove_file(from)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.lie == Lie::NoDirectorySync { Ok(()) } else { self.disk.sync_dir(dir) }
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }
    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        self.disk.kind(path)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.disk.try_lock(path)
    }
    fn network_file_system(&self, path: &Path) -> io::Result<Option<String>> {
        self.disk.network_file_system(path)
    }
}

impl LyingFile {
    fn sync(&self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match self.vfs.lie {
            Lie::NoSyncBeforeRename if self.temporary || self.fresh.load(SeqCst) => Ok(()),
            Lie::NoDataSync if !self.temporary => Ok(()),
            Lie::LateDataSync if !self.temporary => {
                self.vfs.pay()?;
                *self.vfs.owed.lock().unwrap() = Some(self.file.clone());
                Ok(())
            }
            Lie::RetrySync => sync().or_else(|_| sync()),
            Lie::IgnoreSyncErrors => sync().or(Ok(())),
            _ => sync(),
        }
    }
}

impl VfsFile for LyingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.vfs.pay()?;
        self.file.write_all_at(bufs, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.sync(|| self.file.sync_data())
    }
    fn sync_all(&self) -> io::Result<()> {
        let synced = self.sync(|| self.file.sync_all());
        self.fresh.store(false, SeqCst);
        synced
    }
    fn map(&self, capacity: u64) -> io::Result<Region> {
        self.file.map(capacity)
    }
}

/// Enough to touch every sync there is: rolls, footers, manifests, collections, an unclean end, a close.
fn life() -> Vec<Step> {
    let roll = [Do(Add(0, 1.0)), Do(Document(0, 0, 30_000)), Do(Document(0, 0, 30_000)), Do(Document(0, 0, 30_000))];
    let rest = [Quiet, Do(Create(1)), Do(Batch(1, vec![1.0, 2.0])), Die, Do(Add(0, 5.0)), Do(Add(0, 6.0)), Close];
    roll.into_iter().chain(rest).collect()
}

#[test]
fn a_lie_about_what_is_durable_is_caught_by_the_enumeration() {
    let lies = [
        Lie::None,
        Lie::NoDataSync,
        Lie::LateDataSync,
        Lie::NoSyncBeforeRename,
        Lie::NoDirectorySync,
        Lie::ReplaceInPlace,
    ];
    for lie in lies {
        let plan = Enumeration { max_checks: 1_500, ..Enumeration::quick() };
        let found = search(&plan, |disk| Lying::over(disk, lie), &life());
        assert_eq!(found.is_ok(), lie == Lie::None, "{lie:?}: {found:?}");
    }
}

#[test]
fn a_lie_about_a_failed_sync_is_caught_by_the_fault_sweep() {
    // Every sync fails once, and nothing else does.
    let faults = vec![Fault::Sync(SyncFailure::Forgotten, 5)];
    let plan = FaultSweep { faults, every: 1, only: Some(CallKind::Sync) };
    for lie in [Lie::None, Lie::RetrySync, Lie::IgnoreSyncErrors] {
        let sweep = || faults::sweep(&plan, |disk| Lying::over(disk, lie));
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(sweep));
        let found = found.map_err(|words| words.downcast_ref::<String>().cloned());
        assert_eq!(found.is_ok(), lie == Lie::None, "{lie:?}: {found:?}");
    }
}
