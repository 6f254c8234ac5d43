//! Protocols that lie, to show that the crash tests notice: the same log on a disk that skips a kind of sync.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::crash::{TINY, attempt, check, quick, recover};
use super::*;
use crate::io::mmap::Region;
use crate::io::sim::SimDisk;
use crate::io::sim::crash::History;
use crate::io::vfs::{Entry, EntryKind, LockGuard, OpenMode, VfsFile};

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    /// Nothing: the control.
    Nothing,
    /// `sync_data` of the segments.
    Data,
    /// `sync_all` of new segments, and `sync_data` of files that are to be renamed.
    NewFiles,
    /// `sync_dir`.
    Directories,
}

#[derive(Clone, Debug)]
struct Lying(SimDisk, Skip);

#[derive(Debug)]
struct LyingFile(Arc<dyn VfsFile>, Skip, bool);

impl Vfs for Lying {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let temporary = path.extension().is_some_and(|e| e == "tmp");
        Ok(Arc::new(LyingFile(self.0.open(path, mode)?, self.1, temporary)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.1 == Skip::Directories { Ok(()) } else { self.0.sync_dir(dir) }
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(dir)
    }
    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        self.0.kind(path)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.0.try_lock(path)
    }
    fn network_file_system(&self, path: &Path) -> io::Result<Option<String>> {
        self.0.network_file_system(path)
    }
}

impl VfsFile for LyingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bufs, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        let skipped = if self.2 { Skip::NewFiles } else { Skip::Data };
        if self.1 == skipped { Ok(()) } else { self.0.sync_data() }
    }
    fn sync_all(&self) -> io::Result<()> {
        if self.1 == Skip::NewFiles { Ok(()) } else { self.0.sync_all() }
    }
    fn map(&self, capacity: u64) -> io::Result<Region> {
        self.0.map(capacity)
    }
}

/// Rolls, a footer, a manifest, and an opening in between.
fn workload(disk: &SimDisk, skip: Skip, history: &History<Vec<u64>>) {
    let vfs: Arc<dyn Vfs> = Arc::new(Lying(disk.clone(), skip));
    let mut log = create(&vfs, Path::new("/db"), TINY);
    for id in 0..5 {
        attempt(&mut log, history, &[puts([id])]);
    }
    log.without_footer().iter().for_each(|s| write_footer(s).unwrap());
    log.publish_footers(&|_| 0).unwrap();
    drop(log);
    let mut log = Log::open(vfs, Path::new("/db"), options(TINY)).unwrap().0;
    attempt(&mut log, history, &[puts([5])]);
}

#[test]
fn a_log_that_leaves_out_a_sync_is_caught() {
    for skip in [Skip::Nothing, Skip::Data, Skip::NewFiles, Skip::Directories] {
        let outcome = quick().search(|disk, history| workload(disk, skip, history), recover, check);
        assert_eq!(outcome.is_ok(), skip == Skip::Nothing, "{skip:?}");
    }
}
