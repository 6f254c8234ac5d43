//! Opening a log: making what the survey found durable, and ready to be written to.
//!
//! Invariants:
//! 1. Nothing is changed before the whole of the log was surveyed and found good.
//! 2. After a stop that was not clean nothing is served from bytes that only the page cache may hold: the last segment is
//!    written to a new file and synced first.
//! 3. What a crash left behind is removed last, and only what neither of the two highest manifests names.
//!
//! Threading: none; the caller holds the directory's lock.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::files::{log_dir, remove_if_there, rewrite};
use super::format::{FRAME_HEADER_LEN, FrameHeader, FrameKind, PAGE, SEGMENT_HEADER_LEN, align_up, hash128};
use super::frame::FrameMeta;
use super::manifest::CollectionEntry;
use super::scan::holds_data;
use super::segment::Segment;
use super::survey::{Scanned, Survey};
use super::told;
use super::writer::{Log, LogOptions, Tail};
use crate::error::{IoContext, Result};
use crate::io::vfs::{OpenMode, Vfs};
use crate::types::Lsn;

/// What was found when the log was opened.
#[allow(dead_code)] // a caller takes what it wants to tell
#[derive(Debug)]
pub(crate) struct Recovered {
    /// All segments in LSN order, the active one last.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) collections: Vec<CollectionEntry>,
    /// The log had been closed in order.
    pub(crate) clean: bool,
    /// What a crash cut off: never acknowledged, and gone now.
    pub(crate) dropped_tail: Option<DroppedTail>,
}

/// The end of the last segment that a crash left unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DroppedTail {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
    pub(crate) why: &'static str,
}

impl Log {
    /// Opens the log in `dir` for writing. The caller holds the directory's lock.
    #[cfg(test)]
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path, options: LogOptions) -> Result<(Log, Recovered)> {
        let survey = Survey::of(&*vfs, dir)?;
        Log::settle(vfs, dir, options, survey)
    }

    /// Makes what was surveyed durable and ready to be written to: the second half of [`Log::open`].
    pub(crate) fn settle(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        options: LogOptions,
        survey: Survey,
    ) -> Result<(Log, Recovered)> {
        settle(vfs, dir, options, survey)
    }
}

impl Log {
    /// Invariant 3. The manifest before the one in use may name a segment that is an orphan now; it is pushed out first, so
    /// that the two highest agree. What cannot be removed is found again by the next opening.
    fn remove_orphans(&mut self, orphans: &[PathBuf], agreed: bool) {
        let segments = orphans.iter().any(|p| p.extension().is_some_and(|e| e == "seg"));
        if segments && !agreed && self.publish_manifest(1).is_err() {
            return;
        }
        for path in orphans {
            let _ = remove_if_there(&*self.vfs, path);
        }
    }
}

/// Makes the surveyed state durable and ready to be written to.
fn settle(vfs: Arc<dyn Vfs>, dir: &Path, options: LogOptions, survey: Survey) -> Result<(Log, Recovered)> {
    let Survey { manifest, highest_manifest, listed, mut scanned, orphans, highest_segment } = survey;
    let mut last = scanned.pop().expect("a survey holds at least the active segment");
    let clean = last.scan.clean;
    let dropped_tail = dropped(&last)?;
    let mut zeroed = last.scan.len;
    let beacon = told::open(&*vfs, dir)?;
    // Names that we rely on may be in the page cache only: a manifest renamed just before its writer was killed, say. A log
    // that was closed in order does not prove them: a manifest may have been written after that, without a frame.
    for directory in [dir, &log_dir(dir)] {
        vfs.sync_dir(directory).context("sync the directory", directory)?;
    }
    if !clean {
        // A successor without frames does not prove that the SEAL before it was synced.
        if last.scan.frames.is_empty()
            && let Some(before) = scanned.last_mut()
        {
            before.rewrite(&*vfs, &[])?;
        }
        last.add_watermark(&*vfs, (options.now_ms)())?;
        zeroed = last.scan.end;
    }
    let mut sealed = listed;
    for s in scanned {
        sealed.push(Arc::new(s.into_segment(SEGMENT_HEADER_LEN)?));
    }
    let (chain, next_lsn, end) = (last.scan.chain, last.scan.next_lsn, last.scan.end);
    let marked = Lsn(next_lsn.0 - 1);
    let capacity = last.header.capacity.max(align_up(end, PAGE) + 2 * PAGE);
    let db_uuid = manifest.db_uuid;
    let active = Arc::new(last.into_segment(capacity)?);
    let fell_back = manifest.number != highest_manifest;
    let mut log = Log {
        vfs,
        dir: dir.to_owned(),
        options,
        db_uuid,
        sealed,
        active,
        capacity,
        tail: Tail { end, zeroed, chain, next_lsn, marked, clean },
        next_segment: manifest.next_segment.max(highest_segment + 1),
        manifest_number: highest_manifest,
        collections: manifest.collections,
        last_compaction_ms: manifest.last_compaction_ms,
        poison: None,
        beacon: Some(beacon),
        heard: None,
        home: Weak::new(),
        directory_failed: Arc::default(),
    };
    if fell_back {
        log.publish_manifest(2)?;
    }
    log.tell();
    log.remove_orphans(&orphans, fell_back);
    let recovered = Recovered { segments: log.segments(), collections: log.collections.to_vec(), clean, dropped_tail };
    Ok((log, recovered))
}

/// What behind the kept frames is not merely zeros that were written ahead.
fn dropped(last: &Scanned) -> Result<Option<DroppedTail>> {
    if !holds_data(&*last.file, &last.path, last.scan.end)? {
        return Ok(None);
    }
    Ok(Some(DroppedTail { file: last.path.clone(), offset: last.scan.stop, why: last.scan.why }))
}

impl Scanned {
    /// Invariant 2: the kept frames and `more` in a fresh, synced file under the same name.
    fn rewrite(&mut self, vfs: &dyn Vfs, more: &[u8]) -> Result<()> {
        rewrite(vfs, &self.path, &*self.file, self.scan.end, more)?;
        self.file = vfs.open(&self.path, OpenMode::Write).context("open", &self.path)?;
        Ok(())
    }

    /// Rewrites the segment with a watermark behind its kept frames, which also ends their group on a page boundary.
    fn add_watermark(&mut self, vfs: &dyn Vfs, unix_ms: i64) -> Result<()> {
        let at = self.scan.end;
        let aligned = at.is_multiple_of(PAGE);
        if aligned && self.scan.frames.last().is_none_or(|f| f.kind == FrameKind::Watermark) {
            return self.rewrite(vfs, &[]);
        }
        let (next_lsn, chain) = (self.scan.next_lsn, self.scan.chain);
        let header = FrameHeader::without_rows(FrameKind::Watermark, next_lsn, chain, at, unix_ms);
        let mut bytes = header.encode(&self.header.salt).to_vec();
        let chain = hash128(&bytes);
        let end = align_up(at + FRAME_HEADER_LEN, PAGE);
        bytes.resize(usize::try_from(end - at).expect("a watermark and its padding are at most two pages"), 0);
        self.rewrite(vfs, &bytes)?;
        self.scan.frames.push(FrameMeta::new(at, &header));
        (self.scan.end, self.scan.chain) = (end, chain);
        Ok(())
    }

    pub(super) fn into_segment(self, capacity: u64) -> Result<Segment> {
        let capacity = capacity.max(self.scan.end);
        let region = self.file.map(capacity).context("map", &self.path)?;
        Ok(Segment::new(self.path, self.file, region, self.header, &self.scan.frames, self.scan.end))
    }
}
