//! SQLite's files by name: setting a damaged database aside, and noticing that one was removed or replaced.
//!
//! These files are the documented exception to the one door to the disk: SQLite opens, syncs and locks them itself, so a
//! simulated disk could not see them anyway. They are a cache; no step here needs to be durable to be right.
#![allow(clippy::disallowed_methods)]

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{IoContext, Result};

const DAMAGED: &str = ".damaged-";

/// The name of one of SQLite's companions of `path`.
pub(super) fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether there is a database file.
pub(super) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().context("look for", path)
}

/// Whether a write-ahead log with something in it lies beside `path`.
pub(super) fn has_wal(path: &Path) -> bool {
    std::fs::metadata(companion(path, "-wal")).is_ok_and(|m| m.len() > 0)
}

/// Removes what a database that is gone has left behind.
pub(super) fn remove_companions(path: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let file = companion(path, suffix);
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).context("remove", &file),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the database and what belongs to it.
pub(super) fn discard(path: &Path) -> Result<()> {
    std::fs::remove_file(path).context("remove", path)?;
    remove_companions(path)
}

/// Renames the database to `<path>.damaged-<n>` for whoever wants to look at it, and returns that name. Only the latest
/// is kept, so that damage upon damage does not fill the disk.
pub(super) fn quarantine(path: &Path) -> Result<PathBuf> {
    let earlier = quarantined(path)?;
    let n = earlier.iter().map(|(n, _)| n + 1).max().unwrap_or(1);
    let to = companion(path, &format!("{DAMAGED}{n}"));
    match std::fs::rename(path, &to) {
        // The write-ahead log belongs to the database under its name, or it is of no use to anyone.
        Ok(()) => drop(std::fs::rename(companion(path, "-wal"), companion(&to, "-wal"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).context("set aside the damaged", path),
    }
    remove_companions(path)?;
    for (_, old) in earlier {
        remove_companions(&old)?;
        std::fs::remove_file(&old).context("remove", &old)?;
    }
    Ok(to)
}

/// Removes the databases that were set aside.
pub(super) fn remove_set_aside(path: &Path) -> Result<()> {
    for (_, old) in quarantined(path)? {
        remove_companions(&old)?;
        std::fs::remove_file(&old).context("remove", &old)?;
    }
    Ok(())
}

/// The databases set aside earlier, with their numbers.
fn quarantined(path: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = companion(Path::new(path.file_name().unwrap_or_default()), DAMAGED);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).context("list", dir)? {
        let name = entry.context("list", dir)?.file_name();
        let number = name.to_str().zip(prefix.to_str()).and_then(|(name, prefix)| name.strip_prefix(prefix));
        if let Some(n) = number.and_then(|n| n.parse().ok()) {
            found.push((n, dir.join(&name)));
        }
    }
    Ok(found)
}

/// What shows that a file was changed, or that somebody may be about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) file: Option<FileId>,
    len: u64,
    pub(super) modified: SystemTime,
    /// Whether there is a write-ahead log, an empty one included: whoever writes has one.
    pub(super) has_wal: bool,
}

/// Looks at the database `path`; `None` if there is none.
pub(super) fn look(path: &Path) -> Result<Option<Seen>> {
    let seen = match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.context("look at", path)?,
    };
    let wal = companion(path, "-wal");
    let has_wal = wal.try_exists().context("look for", &wal)?;
    let modified = seen.modified().context("look at", path)?;
    Ok(Some(Seen { file: identity(path), len: seen.len(), modified, has_wal }))
}

/// What tells one file from another that took its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

/// The identity of the file called `path`; `None` if there is none, or if the system has no such notion.
#[cfg(unix)]
pub(super) fn identity(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|m| FileId(m.dev(), m.ino()))
}

/// Elsewhere an open file cannot be removed.
#[cfg(not(unix))]
pub(super) fn identity(_path: &Path) -> Option<FileId> {
    None
}
