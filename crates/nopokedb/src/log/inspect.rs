//! What a directory is to us, told from names, kinds and lengths alone: nothing is opened, nothing is changed.

use std::path::Path;

use super::copy::BACKUP;
use super::files::{ACKED, log_dir, remove_if_there, segment_no_in};
use super::format::SEGMENT_HEADER_LEN;
use super::manifest;
use crate::error::{Error, IoContext, Result};
use crate::io::atomic::TMP_SUFFIX;
use crate::io::vfs::{Entry, EntryKind, OpenMode, Vfs};

/// There while version 0.5.1's files are being imported: the log beside it is unfinished until there is a manifest.
pub(crate) const IMPORTING: &str = "IMPORTING";
/// There while a repair fills the directory: the log beside it is unfinished until there is a manifest.
pub(crate) const REPAIRING: &str = "REPAIRING";
/// The files of version 0.5.1.
const OLD_FILES: [&str; 3] = ["hnsw_index.bin", "metadata.db", "oplog.jsonl"];

/// What a directory is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DirState {
    /// Missing, empty, or a creation that a crash interrupted before it was of any use.
    Empty,
    /// A database of ours.
    Ours,
    /// A directory that holds other things; their names.
    Foreign(Vec<String>),
    /// A directory that a first backup had only begun to fill.
    UnfinishedBackup,
    /// A directory that a repair had begun to fill with what can be read of another one.
    UnfinishedRepair,
    /// A database of version 0.5.1, to be imported.
    OldNoPokeDB,
}

/// Tells what `dir` is, from names alone.
pub(crate) fn inspect(vfs: &dyn Vfs, dir: &Path) -> Result<DirState> {
    match vfs.kind(dir).context("look at", dir)? {
        None => return Ok(DirState::Empty),
        Some(EntryKind::Dir) => {}
        Some(_) => return Err(Error::path(dir, "is not a directory; choose another path")),
    }
    let entries = vfs.list(dir).context("list", dir)?;
    if entries.iter().any(|e| manifest::number_in(&e.name).is_some()) {
        return Ok(DirState::Ours);
    }
    if has(&entries, BACKUP) {
        return Ok(DirState::UnfinishedBackup);
    }
    if has(&entries, REPAIRING) {
        return Ok(DirState::UnfinishedRepair);
    }
    let (old, importing) = (entries.iter().any(|e| OLD_FILES.contains(&&*e.name)), has(&entries, IMPORTING));
    if old && (importing || !has(&entries, "log")) {
        return Ok(DirState::OldNoPokeDB);
    }
    let ours = |name: &str| ["LOCK", "LOCK.info", ACKED, "log", IMPORTING].contains(&name) || is_temporary(name);
    let foreign: Vec<String> = entries.iter().filter(|e| !ours(&e.name)).map(|e| e.name.clone()).collect();
    if !old && !foreign.is_empty() {
        return Ok(DirState::Foreign(foreign));
    }
    if !has(&entries, "log") {
        return Ok(DirState::Empty);
    }
    // Without a manifest, a log with data is a database whose manifests are lost; one without is an interrupted creation.
    let dir = log_dir(dir);
    let used = vfs.list(&dir).context("list", &dir)?.iter().any(|e| e.len > SEGMENT_HEADER_LEN);
    Ok(match (used, old) {
        (true, _) => DirState::Ours,
        (false, true) => DirState::OldNoPokeDB,
        (false, false) => DirState::Empty,
    })
}

fn has(entries: &[Entry], name: &str) -> bool {
    entries.iter().any(|e| e.name == name)
}

/// What a creation or a first backup that was cut off may have left besides.
fn is_temporary(name: &str) -> bool {
    is_temporary_manifest(name) || name.strip_suffix(TMP_SUFFIX) == Some(BACKUP)
}

pub(super) fn is_temporary_manifest(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|n| manifest::number_in(n).is_some())
}

/// Clears what a crash during a creation left, so that the creation can start afresh.
pub(super) fn remove_unfinished_creation(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if inspect(vfs, dir)? != DirState::Empty {
        return Err(Error::path(dir, "is not empty; choose another path, or open the database that is there"));
    }
    remove_log(vfs, dir)
}

/// Clears what an import that did not finish left, so that it can start afresh.
pub(crate) fn remove_unfinished_import(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if inspect(vfs, dir)? != DirState::OldNoPokeDB {
        return Err(Error::path(dir, "is not a directory of version 0.5 any more; open it again"));
    }
    remove_log(vfs, dir)
}

/// Clears what a repair that did not finish left, so that it can start afresh.
pub(crate) fn remove_unfinished_repair(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if inspect(vfs, dir)? != DirState::UnfinishedRepair {
        return Err(Error::path(dir, "is not empty; give a new directory for what can be read"));
    }
    remove_log(vfs, dir)
}

/// Makes the empty file `mark`, or finds it, and its name durable.
pub(crate) fn set_mark(vfs: &dyn Vfs, dir: &Path, mark: &str) -> Result<()> {
    let path = dir.join(mark);
    if vfs.kind(&path).context("look at", &path)?.is_none() {
        vfs.open(&path, OpenMode::CreateNew).context("create", &path)?;
    }
    // Also if it was there: the one who made it may have been killed before this.
    vfs.sync_dir(dir).context("sync the directory", dir)
}

/// Takes the mark of an import or a repair away, now that there is a manifest.
pub(crate) fn remove_mark(vfs: &dyn Vfs, dir: &Path, mark: &str) -> Result<()> {
    let path = dir.join(mark);
    if vfs.kind(&path).context("look at", &path)?.is_some() {
        vfs.remove_file(&path).context("remove", &path)?;
        vfs.sync_dir(dir).context("sync the directory", dir)?;
    }
    Ok(())
}

fn remove_log(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    for entry in vfs.list(dir).context("list", dir)? {
        if is_temporary(&entry.name) {
            remove_if_there(vfs, &dir.join(&entry.name))?;
        }
    }
    let log = log_dir(dir);
    if vfs.kind(&log).context("look at", &log)?.is_none() {
        return Ok(());
    }
    for entry in vfs.list(&log).context("list", &log)? {
        if segment_no_in(&entry.name).is_some() {
            remove_if_there(vfs, &log.join(&entry.name))?;
        }
    }
    Ok(())
}
