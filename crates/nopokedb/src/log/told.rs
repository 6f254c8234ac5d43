//! What a writer says to the readers in other processes: how far the log is acknowledged, and by which manifest it goes.
//!
//! Invariants:
//! 1. An LSN is told only after the `fdatasync` of its frames, and before anybody is answered. So a reader that shows what was
//!    told shows all that was acknowledged, and nothing that a crash may take back or that a failed write is cut back from.
//! 2. A manifest's number is told once it is durable, and before any file that it no longer names is removed.
//! 3. Both are told in one word, under the commit lock: what a compaction dropped had died at or before the LSN told with it.
//!
//! After a start of the machine nothing is told until a writer opens the log: then the files hold nothing but what survived,
//! no page cache before the disk, and a reader shows what recovery would keep.

use std::path::Path;

use super::files::ACKED;
use super::format::{DbUuid, take, u64_at};
use super::writer::Log;
use crate::error::{IoContext, Result};
use crate::io::vfs::{Beacon, Vfs, Word};
use crate::types::Lsn;

/// How far a log may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(super) db_uuid: DbUuid,
    /// Every row up to here is durable.
    pub(super) lsn: Lsn,
    /// The manifest in use.
    pub(super) manifest: u64,
}

impl Told {
    fn word(&self) -> Word {
        let mut word = [0; 32];
        word[..16].copy_from_slice(&self.db_uuid);
        word[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        word[24..].copy_from_slice(&self.manifest.to_le_bytes());
        word
    }

    /// What the writer of `dir` said last; `None` if it said nothing since the machine was started.
    pub(super) fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Told>> {
        let path = dir.join(ACKED);
        let word = vfs.told(&path).context("read", &path)?;
        Ok(word.map(|word| Told { db_uuid: take(&word, 0), lsn: Lsn(u64_at(&word, 16)), manifest: u64_at(&word, 24) }))
    }
}

/// The writer's end.
pub(super) fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Box<dyn Beacon>> {
    let path = dir.join(ACKED);
    vfs.beacon(&path).context("open", &path)
}

impl Log {
    /// Tells readers where the log stands.
    pub(super) fn tell(&self) {
        let told = Told { db_uuid: self.db_uuid, lsn: self.last_lsn(), manifest: self.manifest_number };
        // A word that cannot be said keeps readers at the one before, and loses nothing.
        let _ = self.beacon.as_ref().map(|beacon| beacon.tell(&told.word()));
    }
}
