//! The one door to the disk.
//!
//! Everything durable goes through [`Vfs`] and [`VfsFile`], so that the same engine runs on the real disk
//! ([`crate::io::disk`]) and on a simulated one that loses, tears and reorders what was not synced
//! ([`crate::io::sim`]). SQLite's own files are the documented exception.
//!
//! What a caller may rely on, and nothing more:
//! 1. Bytes written are durable only after `sync_data` (or `sync_all`) of that file returned `Ok`.
//! 2. A created, renamed or removed name is durable only after `sync_dir` of its directory returned `Ok`.
//! 3. A file's length is durable with its data: `sync_data` covers whatever metadata is needed to read the data back.
//! 4. After a failed sync nothing is known about the unsynced bytes, and syncing again proves nothing.
//! 5. `rename` replaces its target atomically as seen by a running process; across a crash it is old or new, not neither,
//!    provided the new file's contents were synced first.
//!
//! Errors are plain [`std::io::Error`]s with the operating system's code, so that disk-full is told from the rest.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::mmap::Region;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; an existing name is an error.
    CreateNew,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else (a link, a socket, a device).
    Other,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file name, without its directory.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its length in bytes (0 for directories).
    pub len: u64,
}

/// A file system: the real one or a simulated one.
pub trait Vfs: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory and its parents; existing ones are fine.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>>;
    /// Renames a file over `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// What `path` is, or `None` if nothing has that name.
    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>>;
    /// Takes the exclusive lock on `path` (made if missing) for as long as the guard lives, or fails at once with
    /// [`io::ErrorKind::WouldBlock`]. The operating system frees it when the process dies.
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;
    /// The type of a network file system that holds `path` (`"nfs"`, `"cifs"`, ...), or `None` on a local one.
    fn network_file_system(&self, path: &Path) -> io::Result<Option<String>>;
    /// Where the salts and the identity of one more opening come from. A simulated disk gives what follows from its history, so
    /// that equal disks are equal after equal recoveries.
    fn seed(&self) -> u64 {
        // The standard library seeds each RandomState from the operating system.
        RandomState::new().build_hasher().finish()
    }
    /// The wall clock in Unix milliseconds, as far as it is only shown; a simulated disk's stands still.
    fn wall_clock(&self) -> fn() -> i64 {
        system_now_ms
    }
    /// The beacon `path` (made if missing), to be told to the other processes of this machine. One process at a time.
    fn beacon(&self, path: &Path) -> io::Result<Box<dyn Beacon>> {
        let _ = path;
        Ok(Box::new(Unheard))
    }
    /// What was told last at the beacon `path` since the machine was started; `None` if nothing was.
    fn told(&self, path: &Path) -> io::Result<Option<Word>> {
        let _ = path;
        Ok(None)
    }
}

fn system_now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What a beacon says.
pub type Word = [u8; 32];

/// A word from one process to all others of the machine. Not durable: it outlives its process, but not the machine's next
/// start, so that what it says of the page cache is true of the page cache that a reader looks at.
pub trait Beacon: fmt::Debug + Send + Sync {
    /// Replaces the word: who reads from now on reads this one.
    fn tell(&self, word: &Word) -> io::Result<()>;
}

/// The beacon of a file system that no other process sees.
#[derive(Debug)]
pub(crate) struct Unheard;

/// A file that was let go of.
#[derive(Debug)]
pub(crate) struct Closed;

impl Closed {
    fn refuse<T>() -> io::Result<T> {
        Err(io::Error::other("the file was closed"))
    }
}

impl VfsFile for Closed {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Self::refuse()
    }
    fn write_all_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        Self::refuse()
    }
    fn len(&self) -> io::Result<u64> {
        Self::refuse()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Self::refuse()
    }
    fn sync_data(&self) -> io::Result<()> {
        Self::refuse()
    }
    fn sync_all(&self) -> io::Result<()> {
        Self::refuse()
    }
    fn map(&self, _: u64) -> io::Result<Region> {
        Self::refuse()
    }
}

impl Beacon for Unheard {
    fn tell(&self, _: &Word) -> io::Result<()> {
        Ok(())
    }
}

/// An open file. Positions are explicit, so that a handle can be shared.
#[allow(clippy::len_without_is_empty)] // A file's length is a question that can fail; nobody asks whether it is empty.
pub trait VfsFile: fmt::Debug + Send + Sync {
    /// Reads at `offset`; returns fewer bytes than asked only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bufs`, one after the other, from `offset` on. Short writes are resumed inside; an error leaves
    /// an unknown prefix written. The file grows as needed.
    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the data, and the length needed to read it, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes the data and all metadata durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Whether the file still has a name. Bytes of one without are gone when it is closed, synced or not.
    fn has_name(&self) -> io::Result<bool> {
        Ok(true)
    }
    /// Maps `[0, capacity)` read-only and shared: bytes written later through any handle of this file appear in the
    /// region. `capacity` may exceed the length; bytes past the length must not be read (see [`Region`]).
    fn map(&self, capacity: u64) -> io::Result<Region>;
}

/// Holds a lock until dropped.
pub trait LockGuard: fmt::Debug + Send + Sync {
    /// Whether the path that was locked still leads to the locked file: if not, the directory was moved or removed, and another
    /// may be in its place.
    fn in_place(&self) -> bool {
        true
    }
}

/// Reads exactly `buf.len()` bytes at `offset`, or fails with [`io::ErrorKind::UnexpectedEof`].
pub fn read_exact_at(file: &dyn VfsFile, buf: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_at(buf, offset)? {
        n if n == buf.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The whole contents of a file of at most `limit` bytes; a longer one is [`io::ErrorKind::FileTooLarge`].
pub fn read_file(vfs: &dyn Vfs, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = vfs.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut buf = vec![0; len];
    read_exact_at(&*file, &mut buf, 0)?;
    Ok(buf)
}
