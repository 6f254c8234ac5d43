//! Files that appear whole or not at all, and directories that stay.
//!
//! [`replace`] writes `<name>.tmp`, syncs it, renames it over `<name>`, and syncs the directory. Whatever happens at
//! whatever step:
//! 1. `<name>` is what it was or all of the new bytes, never a mixture, never missing if it was there.
//! 2. After `Ok` it is the new bytes, also after a loss of power.
//! 3. After an error before the rename nothing has changed, and the caller may try again. When the last step fails (the
//!    directory's sync) a running process sees the new bytes, a loss of power may bring the old ones back, and no later
//!    sync of this directory proves anything: [`WriteFailed::unsure`], upon which the caller stops writing (poison).
//!
//! Threading: one writer per name; the directory's lock sees to that.

use std::io;
use std::path::{Path, PathBuf};

use super::vfs::{OpenMode, Vfs, VfsFile};
use crate::error::{Error, IoContext, Result};

/// Ends the names of files that are being written. One that is found after a crash is garbage.
pub(crate) const TMP_SUFFIX: &str = ".tmp";

/// Why a file was not replaced for certain. Becomes its [`Error`] with `?` where the difference is of no interest.
#[derive(Debug)]
pub(crate) struct WriteFailed {
    /// What went wrong.
    pub(crate) error: Error,
    /// The new bytes may be there or not after a loss of power; nothing in this directory may be acknowledged any more.
    pub(crate) unsure: bool,
}

impl From<WriteFailed> for Error {
    fn from(failed: WriteFailed) -> Error {
        failed.error
    }
}

/// Makes the file `name` in `dir` hold exactly `bytes`, atomically and durably (see the head of this module).
pub(crate) fn write_atomic(vfs: &dyn Vfs, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), WriteFailed> {
    replace(vfs, dir, name, |file| file.write_all_at(&[bytes], 0))
}

/// As [`write_atomic`] with the bytes that `fill` writes into the empty file it is given.
pub(crate) fn replace(
    vfs: &dyn Vfs,
    dir: &Path,
    name: &str,
    fill: impl FnOnce(&dyn VfsFile) -> io::Result<()>,
) -> Result<(), WriteFailed> {
    let (tmp, path) = (tmp_path(dir, name), dir.join(name));
    let renamed = write_tmp(vfs, &tmp, fill).and_then(|()| vfs.rename(&tmp, &path));
    if renamed.is_err() {
        // Best effort: what stays is garbage that the next attempt or the next opening removes.
        let _ = vfs.remove_file(&tmp);
    }
    renamed.context("write", &path).map_err(|error| WriteFailed { error, unsure: false })?;
    vfs.sync_dir(dir).context("sync the directory", dir).map_err(|error| WriteFailed { error, unsure: true })
}

fn write_tmp(vfs: &dyn Vfs, tmp: &Path, fill: impl FnOnce(&dyn VfsFile) -> io::Result<()>) -> io::Result<()> {
    let file = match vfs.open(tmp, OpenMode::CreateNew) {
        // Left over from a crash.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            vfs.remove_file(tmp)?;
            vfs.open(tmp, OpenMode::CreateNew)?
        }
        other => other?,
    };
    fill(&*file)?;
    file.sync_data()
}

fn tmp_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{TMP_SUFFIX}"))
}

/// Removes what interrupted writes left in `dir`. Best effort: such a file is never read.
pub(crate) fn remove_leftovers(vfs: &dyn Vfs, dir: &Path) {
    let Ok(entries) = vfs.list(dir) else { return };
    for entry in entries.iter().filter(|e| e.name.ends_with(TMP_SUFFIX)) {
        let _ = vfs.remove_file(&dir.join(&entry.name));
    }
}

/// Makes `dir` and its parents, and their names durable. The name of a `dir` that exists already is made durable too: the
/// one who made it may have been us, killed before we came to it.
pub(crate) fn create_dir_durable(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let mut unsure = vec![dir];
    let mut made = true;
    while let Some(path) = unsure.last().copied() {
        made = vfs.kind(path).context("look at", path)?.is_none();
        if !made {
            break;
        }
        match path.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(parent) => unsure.push(parent),
            None => break,
        }
    }
    vfs.create_dir_all(dir).context("create the directory", dir)?;
    let top = unsure.len() - 1;
    for (i, path) in unsure.into_iter().enumerate() {
        let parent = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
        match parent.map_or(Ok(()), |p| vfs.sync_dir(p)) {
            // An existing directory may well be in one that we may not even list; then we did not make it.
            Err(e) if i == top && !made && e.kind() == io::ErrorKind::PermissionDenied => {}
            other => other.context("sync the directory above", path)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::io::disk::Disk;
    use crate::io::sim::crash::{Enumeration, FaultSweep, History, Seen};
    use crate::io::sim::{Fate, Fault, SimDisk};
    use crate::io::vfs::read_file;

    const DIR: &str = "/a/db";

    /// What version `i` of the file holds: several sectors, so that it can tear.
    fn version(i: u8) -> Vec<u8> {
        vec![i; 1500 + usize::from(i)]
    }

    /// Writes three versions with `write`.
    fn workload(disk: &SimDisk, history: &History<u8>, write: impl Fn(&SimDisk, &Path, u8) -> Result<(), WriteFailed>) {
        let dir = Path::new(DIR);
        if create_dir_durable(disk, dir).is_err() {
            return;
        }
        for i in 1..=3 {
            let failed = history.attempt(i, || write(disk, dir, i)).err();
            if failed.is_some_and(|f| f.unsure) {
                return;
            }
        }
    }

    fn correct(disk: &SimDisk, dir: &Path, i: u8) -> Result<(), WriteFailed> {
        write_atomic(disk, dir, "f", &version(i))
    }

    fn without_file_sync(disk: &SimDisk, dir: &Path, i: u8) -> io::Result<()> {
        let tmp = disk.open(&dir.join("f.tmp"), OpenMode::CreateNew)?;
        tmp.write_all_at(&[&version(i)], 0)?;
        disk.rename(&dir.join("f.tmp"), &dir.join("f"))?;
        disk.sync_dir(dir)
    }

    fn without_dir_sync(disk: &SimDisk, dir: &Path, i: u8) -> io::Result<()> {
        let tmp = disk.open(&dir.join("f.tmp"), OpenMode::CreateNew)?;
        tmp.write_all_at(&[&version(i)], 0)?;
        tmp.sync_data()?;
        disk.rename(&dir.join("f.tmp"), &dir.join("f"))
    }

    fn in_place(disk: &SimDisk, dir: &Path, i: u8) -> io::Result<()> {
        let path = dir.join("f");
        let mode = if disk.peek(&path).is_some() { OpenMode::Write } else { OpenMode::CreateNew };
        let file = disk.open(&path, mode)?;
        file.write_all_at(&[&version(i)], 0)?;
        file.sync_data()?;
        disk.sync_dir(dir)
    }

    fn recover(disk: &SimDisk) -> Option<Vec<u8>> {
        remove_leftovers(disk, Path::new(DIR));
        let names = disk.names();
        assert!(names.iter().all(|n| !n.to_string_lossy().ends_with(TMP_SUFFIX)), "{names:?}");
        disk.peek(&Path::new(DIR).join("f"))
    }

    fn old_or_new(found: Option<Vec<u8>>, seen: &Seen<'_, u8>) -> Option<u8> {
        let Some(found) = found else {
            assert_eq!(seen.acked().count(), 0, "the file is gone");
            return None;
        };
        let i = found[0];
        assert_eq!(found, version(i), "a mixture");
        assert!(seen.possible().any(|s| *s == i), "out of nowhere");
        assert!(seen.acked().all(|s| *s <= i), "an acknowledged version is lost");
        Some(i)
    }

    #[test]
    fn every_crash_leaves_the_old_file_or_the_new_one() {
        // After a kill the new name may be in the cache alone: whoever serves what it found makes it durable first.
        let recover = |disk: &SimDisk| {
            let found = recover(disk);
            let _ = disk.sync_dir(Path::new(DIR)).and_then(|()| disk.sync_dir(Path::new("/a")));
            found
        };
        let report = Enumeration::thorough().run(|d, h| workload(d, h, correct), recover, old_or_new);
        // Few second crashes leave what no first one does: of equal states one is checked.
        assert!(report.points == 20 && report.checks > 50 && report.second > 10, "{report:?}");
    }

    #[test]
    fn the_enumeration_catches_each_missing_step() {
        let plan = Enumeration { second_every: 0, ..Enumeration::quick() };
        let caught = |write: fn(&SimDisk, &Path, u8) -> io::Result<()>| {
            let unharmed = |disk: &SimDisk, dir: &Path, i| {
                write(disk, dir, i).unwrap();
                Ok(())
            };
            plan.search(|d, h| workload(d, h, unharmed), recover, old_or_new).unwrap_err().message
        };
        let message = caught(without_file_sync);
        assert!(message.contains("failed: "), "{message}");
        assert!(caught(without_dir_sync).contains("the file is gone"));
        assert!(caught(in_place).contains("failed: "));
    }

    #[test]
    fn every_failing_call_leaves_the_old_file_or_the_new_one() {
        let mut sweep = FaultSweep::default();
        sweep.faults.push(Fault::ShortWrite(1000, 28));
        assert!(sweep.run(|d, h| workload(d, h, correct), recover, old_or_new) > 100);
    }

    #[test]
    fn a_failure_before_the_rename_changes_nothing_and_cleans_up() {
        let (disk, dir) = (SimDisk::new(), Path::new(DIR));
        create_dir_durable(&disk, dir).unwrap();
        write_atomic(&disk, dir, "f", b"old").unwrap();
        for call in 0..4 {
            disk.fail_call(disk.calls() + call, Fault::ENOSPC);
            let WriteFailed { error, unsure } = write_atomic(&disk, dir, "f", b"new").unwrap_err();
            assert!(!unsure);
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
            assert!(error.message().contains("/a/db/f: "), "{error}");
            disk.clear_faults();
            assert_eq!(disk.peek(&dir.join("f")).unwrap(), b"old");
            assert_eq!(disk.peek(&dir.join("f.tmp")), None);
        }
        write_atomic(&disk, dir, "f", b"new").unwrap();
        assert_eq!(disk.crash_now(Fate::NOTHING).peek(&dir.join("f")).unwrap(), b"new");
    }

    #[test]
    fn a_leftover_of_a_crash_is_overwritten() {
        let (disk, dir) = (SimDisk::new(), Path::new(DIR));
        create_dir_durable(&disk, dir).unwrap();
        let left = disk.open(&dir.join("f.tmp"), OpenMode::CreateNew).unwrap();
        left.write_all_at(&[b"longer garbage"], 0).unwrap();
        write_atomic(&disk, dir, "f", b"new").unwrap();
        assert_eq!(disk.peek(&dir.join("f")).unwrap(), b"new");
    }

    #[test]
    fn new_directories_survive_power_loss_with_their_parents() {
        let disk = SimDisk::new();
        create_dir_durable(&disk, Path::new("/x/y/z")).unwrap();
        assert_eq!(disk.crash_now(Fate::NOTHING).names().len(), 3);
        create_dir_durable(&disk, Path::new("/x/y/z")).unwrap();
    }

    #[test]
    fn it_works_on_the_real_disk() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("a/b");
        create_dir_durable(&Disk, &dir).unwrap();
        write_atomic(&Disk, &dir, "f", b"old").unwrap();
        replace(&Disk, &dir, "f", |file| file.write_all_at(&[b"n", b"ew"], 0)).unwrap();
        assert_eq!(read_file(&Disk, &dir.join("f"), 100).unwrap(), b"new");
        assert_eq!(Disk.list(&dir).unwrap().len(), 1);
    }
}
