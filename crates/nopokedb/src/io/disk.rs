//! The real disk: [`Vfs`] over the operating system. The only module that touches `std::fs`.
//!
//! 1. Every descriptor is close-on-exec (the standard library's default), so that a child program never holds our lock.
//! 2. Files are never opened for writing through a symbolic link, and only regular files are opened at all: a directory
//!    from a stranger can neither make us write elsewhere nor hang us on a pipe.
//! 3. A sync that failed is reported and never repeated here: what the kernel had not written may be gone from its cache,
//!    and a second sync would answer "fine". (An interruption, EINTR, is no answer and is waited out.)
//! 4. An error of a write leaves an unknown prefix written; the caller cuts it away or stops.
//!
//! Threading: stateless, except that each open file keeps a mark of its length for the regions mapped from it.
#![allow(clippy::disallowed_methods)] // This module is the door that `clippy.toml` points everybody else to.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use super::beacon::{self, FileBeacon};
use super::mmap::Region;
use super::vfs::{Beacon, Entry, EntryKind, LockGuard, OpenMode, Vfs, VfsFile, Word};

/// Buffers per `pwritev` call: the least that POSIX systems in use accept (`IOV_MAX`).
const MAX_SLICES: usize = 1024;

/// The operating system's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Disk {
    /// The one name of an existing directory, whatever links lead to it.
    pub(crate) fn canonical(self, dir: &Path) -> io::Result<PathBuf> {
        dir.canonicalize()
    }
}

impl Vfs for Disk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => options.custom_flags(flags(OFlags::NONBLOCK)),
            OpenMode::Write => options.write(true).custom_flags(flags(OFlags::NONBLOCK | OFlags::NOFOLLOW)),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        let file = options.open(path)?;
        let len = regular_file_len(&file)?;
        Ok(Arc::new(DiskFile { file: Arc::new(file), known_len: Arc::new(AtomicU64::new(len)) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match File::open(dir)?.sync_all() {
            // File systems that cannot sync a directory say EINVAL (some network and FUSE ones, refused unless forced).
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match fs::metadata(entry.path()) {
                Ok(meta) => entries.push(Entry { name, kind: kind_of(&meta), len: file_len(&meta) }),
                // Removed meanwhile, or a link to nowhere.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if fs::symlink_metadata(entry.path()).is_ok() {
                        entries.push(Entry { name, kind: EntryKind::Other, len: 0 });
                    }
                }
                Err(e) => return Err(e),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(kind_of(&meta))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.custom_flags(flags(OFlags::NONBLOCK | OFlags::NOFOLLOW));
        let file = options.open(path)?;
        regular_file_len(&file)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(DiskLock { file, path: path.to_path_buf() })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn network_file_system(&self, path: &Path) -> io::Result<Option<String>> {
        // The directory may not be there yet: then its nearest existing ancestor tells.
        let mut at = path;
        while !at.as_os_str().is_empty() && !at.try_exists()? {
            at = at.parent().unwrap_or(Path::new(""));
        }
        let at = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        network::file_system(at)
    }

    fn beacon(&self, path: &Path) -> io::Result<Box<dyn Beacon>> {
        Ok(Box::new(FileBeacon::open(self, path)?))
    }

    fn told(&self, path: &Path) -> io::Result<Option<Word>> {
        beacon::read(self, path)
    }
}

fn flags(flags: OFlags) -> i32 {
    // OFlags is the kernel's `int`, held unsigned.
    flags.bits() as i32
}

fn kind_of(meta: &fs::Metadata) -> EntryKind {
    match meta.file_type() {
        t if t.is_file() => EntryKind::File,
        t if t.is_dir() => EntryKind::Dir,
        _ => EntryKind::Other,
    }
}

fn file_len(meta: &fs::Metadata) -> u64 {
    if meta.is_file() { meta.len() } else { 0 }
}

fn regular_file_len(file: &File) -> io::Result<u64> {
    let meta = file.metadata()?;
    if meta.is_file() {
        return Ok(meta.len());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

/// An open file, and how far it is known to reach (shared with the regions mapped from it).
#[derive(Debug)]
struct DiskFile {
    file: Arc<File>,
    known_len: Arc<AtomicU64>,
}

impl VfsFile for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = bufs.iter().filter(|b| !b.is_empty()).map(|b| IoSlice::new(b)).collect();
        let mut rest = slices.as_mut_slice();
        let mut offset = offset;
        while !rest.is_empty() {
            let n = match rustix::io::pwritev(&*self.file, &rest[..rest.len().min(MAX_SLICES)], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => n,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            offset += n as u64;
            self.known_len.fetch_max(offset, Ordering::AcqRel);
            IoSlice::advance_slices(&mut rest, n);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let len = self.file.metadata()?.len();
        self.known_len.fetch_max(len, Ordering::AcqRel);
        Ok(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // Lowered before the cut and raised after the extension: the mark never promises more than there is.
        self.known_len.fetch_min(len, Ordering::AcqRel);
        self.file.set_len(len)?;
        self.known_len.fetch_max(len, Ordering::AcqRel);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 0)
    }

    fn map(&self, capacity: u64) -> io::Result<Region> {
        let whole = self.len()? >= capacity;
        let file = Arc::clone(&self.file);
        let len_now: Option<super::mmap::LenNow> =
            if whole { None } else { Some(Box::new(move || Ok(file.metadata()?.len()))) };
        Region::map_file(&*self.file, capacity, Arc::clone(&self.known_len), len_now)
    }
}

/// A lock: the open file holds it, and the kernel frees it when the last descriptor goes (also when the process dies).
/// It is never unlocked by call: after a fork that would free it under the parent.
#[derive(Debug)]
struct DiskLock {
    file: File,
    path: PathBuf,
}

impl LockGuard for DiskLock {
    fn in_place(&self) -> bool {
        let (ours, there) = (self.file.metadata(), fs::metadata(&self.path));
        matches!((ours, there), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
    }
}

/// Which file systems cannot be trusted with a lock and a sync.
#[cfg(target_os = "linux")]
mod network {
    use std::fs;
    use std::io;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    /// `f_type` of file systems whose bytes live on another machine, or that several machines mount at once.
    const REMOTE: [(u32, &str); 22] = [
        (0x6969, "nfs"),
        (0x517B, "smb"),
        (0xFF53_4D42, "cifs"),
        (0xFE53_4D42, "smb2"),
        (0x0102_1997, "9p"),
        (0x00C3_6400, "ceph"),
        (0x0BD0_0BD0, "lustre"),
        (0x5346_414F, "afs"),
        (0x6B41_4653, "afs"),
        (0x0116_1970, "gfs2"),
        (0x7461_636F, "ocfs2"),
        (0x7375_7245, "coda"),
        (0x564C, "ncp"),
        (0x4750_4653, "gpfs"),
        (0x1983_0326, "beegfs"),
        (0x2003_0528, "orangefs"),
        (0x786F_4256, "vboxsf"),
        (0x7C7C_6673, "prl_fs"),
        (0xBACB_ACBC, "vmhgfs"),
        (0xAAD7_AAEA, "panfs"),
        (0xBEEF_DEAD, "snfs"),
        (0x6163_6673, "acfs"),
    ];

    /// Every FUSE file system has this `f_type`; its name is in the mount table.
    const FUSE: u32 = 0x6573_5546;

    /// FUSE file systems that keep their bytes on this machine and pass fsync on. What is not named is not trusted.
    const LOCAL_FUSE: [&str; 12] = [
        "fuseblk",
        "virtiofs",
        "fuse.ntfs-3g",
        "fuse.exfat",
        "fuse.ext4",
        "fuse.mergerfs",
        "fuse.bindfs",
        "fuse.fuse-overlayfs",
        "fuse.unionfs",
        "fuse.encfs",
        "fuse.gocryptfs",
        "fuse.zfs",
    ];

    pub(super) fn file_system(path: &Path) -> io::Result<Option<String>> {
        // The field's width differs by architecture; the magic numbers fit 32 bits everywhere.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let magic = rustix::fs::statfs(path)?.f_type as u32;
        if magic != FUSE {
            return Ok(REMOTE.iter().find(|(m, _)| *m == magic).map(|(_, name)| (*name).to_string()));
        }
        let device = fs::metadata(path)?.dev();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let name = mount_type(&mounts, rustix::fs::major(device), rustix::fs::minor(device)).unwrap_or("fuse");
        Ok((!LOCAL_FUSE.contains(&name)).then(|| name.to_string()))
    }

    /// The type of the mounted device `major:minor`: `.. 0:45 / /mnt rw - fuse.sshfs host: rw` in mountinfo.
    pub(super) fn mount_type(mounts: &str, major: u32, minor: u32) -> Option<&str> {
        let device = format!("{major}:{minor}");
        let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
        line.split_once(" - ")?.1.split(' ').next()
    }
}

/// Not yet told apart on other systems.
#[cfg(not(target_os = "linux"))]
mod network {
    use std::io;
    use std::path::Path;

    pub(super) fn file_system(_path: &Path) -> io::Result<Option<String>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::vfs::{read_exact_at, read_file};

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn many_slices_are_written_in_order_at_the_offset() {
        let dir = dir();
        let file = Disk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        let parts: Vec<Vec<u8>> = (0..3000u32).map(|i| vec![(i % 251) as u8; (i % 7) as usize]).collect();
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        file.write_all_at(&slices, 5).unwrap();
        let expected: Vec<u8> = [vec![0; 5], parts.concat()].concat();
        assert_eq!(read_file(&Disk, &dir.path().join("f"), 1 << 20).unwrap(), expected);
        assert_eq!(file.len().unwrap(), expected.len() as u64);
        file.write_all_at(&[b"", b""], 0).unwrap();
        let mut one = [0; 1];
        let past = read_exact_at(&*file, &mut one, expected.len() as u64).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn open_modes_keep_their_word() {
        let dir = dir();
        let path = dir.path().join("f");
        assert_eq!(Disk.open(&path, OpenMode::Write).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = Disk.open(&path, OpenMode::CreateNew).unwrap();
        assert_eq!(Disk.open(&path, OpenMode::CreateNew).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.write_all_at(&[b"abc"], 0).unwrap();
        let reader = Disk.open(&path, OpenMode::Read).unwrap();
        assert!(reader.write_all_at(&[b"x"], 0).is_err());
        assert!(Disk.open(dir.path(), OpenMode::Read).is_err(), "a directory is not a file");
        assert_eq!(read_file(&Disk, &path, 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn nothing_is_written_through_a_link_but_it_may_be_read() {
        let dir = dir();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        Disk.open(&target, OpenMode::CreateNew).unwrap().write_all_at(&[b"abc"], 0).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(Disk.open(&link, OpenMode::Write).is_err());
        assert!(Disk.open(&link, OpenMode::CreateNew).is_err());
        assert!(Disk.try_lock(&link).is_err());
        assert_eq!(read_file(&Disk, &link, 10).unwrap(), b"abc");
    }

    #[test]
    fn a_pipe_is_refused_instead_of_waited_for() {
        let dir = dir();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(Disk.open(&path, OpenMode::Read).is_err());
        assert_eq!(Disk.kind(&path).unwrap(), Some(EntryKind::Other));
    }

    #[test]
    fn list_is_sorted_and_tells_kinds_and_lengths() {
        let dir = dir();
        Disk.create_dir_all(&dir.path().join("b/c")).unwrap();
        Disk.create_dir_all(&dir.path().join("b/c")).unwrap();
        Disk.open(&dir.path().join("c"), OpenMode::CreateNew).unwrap().write_all_at(&[b"12"], 0).unwrap();
        Disk.open(&dir.path().join("a"), OpenMode::CreateNew).unwrap();
        let entry = |name: &str, kind, len| Entry { name: name.into(), kind, len };
        let expected =
            vec![entry("a", EntryKind::File, 0), entry("b", EntryKind::Dir, 0), entry("c", EntryKind::File, 2)];
        assert_eq!(Disk.list(dir.path()).unwrap(), expected);
        Disk.rename(&dir.path().join("a"), &dir.path().join("c")).unwrap();
        Disk.remove_file(&dir.path().join("c")).unwrap();
        assert_eq!(Disk.list(dir.path()).unwrap().len(), 1);
        assert_eq!(Disk.kind(&dir.path().join("a")).unwrap(), None);
        Disk.sync_dir(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_excludes_a_second_one_until_dropped() {
        let dir = dir();
        let path = dir.path().join("LOCK");
        let guard = Disk.try_lock(&path).unwrap();
        assert_eq!(Disk.try_lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        Disk.try_lock(&path).unwrap();
    }

    #[test]
    fn a_region_sees_later_writes_and_refuses_what_the_file_does_not_reach() {
        let dir = dir();
        let path = dir.path().join("f");
        let file = Disk.open(&path, OpenMode::CreateNew).unwrap();
        let region = file.map(1 << 20).unwrap();
        assert_eq!(region.get(0, 1), None, "a byte past the end would be a SIGBUS");
        file.write_all_at(&[&1.5f32.to_le_bytes(), &2.5f32.to_le_bytes()], 0).unwrap();
        assert_eq!(region.f32s(0, 2), [1.5, 2.5]);
        assert_eq!(region.get_f32s(2, 1), None, "misaligned");
        assert_eq!(region.get_f32s(0, 3), None);
        Disk.open(&path, OpenMode::Write).unwrap().write_all_at(&[b"later"], 8).unwrap();
        assert_eq!(region.bytes(8, 5), b"later", "written through another handle");
        assert_eq!(file.map(4).unwrap().get(4, 1), None, "in the file but not in the mapping");
        assert_eq!(file.map(0).unwrap().get(0, 1), None);
        assert_eq!(region.get(1 << 20, 1), None);
        assert_eq!(region.get(u64::MAX, 2), None);
        file.set_len(4).unwrap();
        assert_eq!(region.get(4, 1), None, "cut");
    }

    #[test]
    #[should_panic(expected = "outside the mapped file")]
    fn a_read_past_the_end_panics_instead_of_crashing_the_process() {
        let dir = dir();
        let file = Disk.open(&dir.path().join("f"), OpenMode::CreateNew).unwrap();
        file.map(4096).unwrap().bytes(0, 1);
    }

    #[test]
    fn a_local_directory_is_local_even_before_it_exists() {
        let dir = dir();
        let here = Disk.network_file_system(dir.path()).unwrap();
        assert_eq!(Disk.network_file_system(&dir.path().join("not/yet")).unwrap(), here);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_mount_table_names_a_fuse_file_system() {
        let mounts = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n44 22 0:45 / /mnt rw - fuse.sshfs host: rw\n";
        assert_eq!(network::mount_type(mounts, 0, 45), Some("fuse.sshfs"));
        assert_eq!(network::mount_type(mounts, 0, 4), None);
    }
}
