//! `backup()`: a copy of the database as of one moment, made while it is open and written to.
//!
//! Invariants:
//! 1. The copy is the log up to one LSN: whole batches, everything acknowledged before the call. How files come and go in
//!    the target: `log/copy.rs`.
//! 2. Only fixing the moment needs the commit lock, for the time of two small files; copying needs none.
//! 3. The target is locked meanwhile, as if it were open.
//! 4. Index images go along, after the log; they are caches, and the target does without them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::PoisonError;

use crate::checkpoint::{ImageOf, Images};
use crate::engine::Engine;
use crate::error::{Error, IoContext, Result};
use crate::io::atomic::create_dir_durable;
use crate::io::lock;
use crate::io::vfs::EntryKind;
use crate::log::{Copied, DirState, Frozen, inspect, write_footer};
use crate::types::Lsn;

/// How often full segments are sealed without holding up writes, before it is done while holding them up.
const PATIENCE: u32 = 8;

/// What [`Database::backup`](crate::Database::backup) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The backup holds every operation up to here, and none after it.
    pub lsn: u64,
    /// Files that were written.
    pub files_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Files that an earlier backup had brought already.
    pub files_kept: u64,
}

impl Engine {
    /// Brings the directory `target` to the state of now.
    pub(crate) fn backup(&self, target: &Path) -> Result<Backup> {
        let vfs = &*self.vfs;
        if target == self.dir() || target.starts_with(self.dir()) || self.dir().starts_with(target) {
            return Err(Error::path(
                target,
                "is the database itself, or one is inside the other; choose another directory",
            ));
        }
        self.refuse_foreign(target)?;
        create_dir_durable(vfs, target)?;
        lock::refuse_network_fs(vfs, target, self.options.force_network_fs)?;
        let _locked = lock::acquire(vfs, target, 0)?;
        self.refuse_foreign(target)?;
        let frozen = self.freeze()?;
        let mut copied = frozen.copy(vfs, target)?;
        self.copy_images(target, frozen.lsn, &mut copied)?;
        let Copied { files, bytes, kept } = copied;
        Ok(Backup { lsn: frozen.lsn.0, files_copied: files, bytes_copied: bytes, files_kept: kept })
    }

    fn refuse_foreign(&self, target: &Path) -> Result<()> {
        match inspect(&*self.vfs, target)? {
            DirState::Empty | DirState::Ours | DirState::UnfinishedBackup => Ok(()),
            DirState::Foreign(_) | DirState::OldNoPokeDB | DirState::UnfinishedRepair => {
                Err(Error::path(target, "holds other files; choose an empty or new directory for this backup"))
            }
        }
    }

    /// The log as of now.
    fn freeze(&self) -> Result<Frozen> {
        for _ in 0..PATIENCE {
            self.seal_segments()?;
            let mut log = self.lock_log();
            let entries = self.current_entries(log.collections());
            if let Some(frozen) = log.freeze(entries)? {
                return Ok(frozen);
            }
        }
        // Segments fill up faster than they are sealed: hold the writers up once.
        let _sealing = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut log = self.lock_log();
        log.without_footer().iter().try_for_each(|segment| write_footer(segment))?;
        let entries = self.current_entries(log.collections());
        let unsealed = || Error::argument("a full segment could not be sealed; try again");
        log.freeze(entries)?.ok_or_else(unsealed)
    }

    /// Copies the newest image of each collection that does not go beyond `lsn`, and removes the others of the target.
    fn copy_images(&self, target: &Path, lsn: Lsn, copied: &mut Copied) -> Result<()> {
        let vfs = &*self.vfs;
        let folder = target.join("index");
        let database = self.lock_log().db_uuid();
        let mut wanted = HashSet::new();
        let listed = Images::list(vfs, self.dir())?;
        for collection in self.all_collections() {
            // Whoever writes or removes an image holds this.
            let written = collection.image_lsn.lock().unwrap_or_else(PoisonError::into_inner);
            let from = self.image_of(database, &collection);
            let to = ImageOf { dir: target, ..from };
            if let Some(image) = from.found(&listed, *written)?.into_iter().find(|image| *image <= lsn) {
                vfs.create_dir_all(&folder).context("create the directory", &folder)?;
                match from.copy(&to, image)? {
                    Some(bytes) => (copied.files, copied.bytes) = (copied.files + 1, copied.bytes + bytes),
                    None => copied.kept += 1,
                }
                wanted.insert(to.path(image));
            }
        }
        if vfs.kind(&folder).context("look at", &folder)? != Some(EntryKind::Dir) {
            return Ok(());
        }
        for entry in vfs.list(&folder).context("list", &folder)? {
            let path = folder.join(&entry.name);
            if !wanted.contains(&path) {
                vfs.remove_file(&path).context("remove", &path)?;
            }
        }
        Ok(())
    }
}
