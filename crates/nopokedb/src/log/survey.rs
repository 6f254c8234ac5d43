//! Reading the whole state of a log, as a crash or a clean close left it.
//!
//! Invariants:
//! 1. Only reads. Whatever is refused here is refused before a byte was changed.
//! 2. A bad frame is dropped only if nothing proves that it was durable: no later frame, no later segment, no manifest.
//!    Otherwise it is damage, reported with file and offset.
//!
//! Threading: none; a writer in another process may be at work if `mode` is to read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::BACKUP;
use super::files::{log_dir, read_header, segment_no_in, segment_path};
use super::footer::Footer;
use super::format::{DbUuid, PAGE, SEGMENT_HEADER_LEN, SegmentHeader, SegmentKind};
use super::inspect::is_temporary_manifest;
use super::manifest::{self, CollectionEntry, Manifest, SegmentEntry};
use super::scan::{Scan, holds_data, scan};
use super::segment::Segment;
use crate::error::{Error, IoContext, Result};
use crate::io::vfs::{OpenMode, Vfs, VfsFile, read_exact_at};
use crate::types::{Lsn, SegmentNo};

/// A raw segment that was read frame by frame.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn VfsFile>,
    pub(super) header: SegmentHeader,
    pub(super) scan: Scan,
}

/// What is on disk, before anything is changed. A read-only opening will serve from this.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(super) manifest: Manifest,
    pub(super) highest_manifest: u64,
    pub(super) listed: Vec<Arc<Segment>>,
    /// The raw segments from the manifest's `scan_from` on; each but the last is sealed and names the next.
    pub(super) scanned: Vec<Scanned>,
    pub(super) orphans: Vec<PathBuf>,
    pub(super) highest_segment: u32,
}

impl Survey {
    /// What is on disk in `dir`. Nothing is changed.
    pub(crate) fn of(vfs: &dyn Vfs, dir: &Path) -> Result<Survey> {
        survey(vfs, dir, OpenMode::Write)
    }

    /// The last LSN that the log holds.
    pub(crate) fn last_lsn(&self) -> Lsn {
        self.scanned.last().map_or(Lsn(0), |last| Lsn(last.scan.next_lsn.0 - 1))
    }

    /// The database's identity.
    pub(crate) fn db_uuid(&self) -> DbUuid {
        self.manifest.db_uuid
    }

    /// The collections, as the manifest has them.
    pub(crate) fn collections(&self) -> &[CollectionEntry] {
        &self.manifest.collections
    }

    /// Checks the blocks that hold row tables, which every opening reads: damage there is found before anything is changed.
    pub(crate) fn check_tables(&self) -> Result<()> {
        self.listed.iter().flat_map(|segment| segment.tables()).try_for_each(|table| table.map(drop))
    }
}

/// Reads the whole state of the log in `dir` and changes nothing.
pub(super) fn survey(vfs: &dyn Vfs, dir: &Path, mode: OpenMode) -> Result<Survey> {
    let (manifest, highest_manifest) = manifest::load(vfs, dir)?;
    let listed = open_all_listed(vfs, dir, mode, &manifest)?;
    let scanned = follow_seals(vfs, dir, mode, &manifest, listed.last())?;
    if let Some((last, proof)) = scanned.last().and_then(|last| Some((last, last.scan.proven?))) {
        return Err(Error::corruption(&last.path, last.scan.stop, format!("{}, though {proof}", last.scan.why)));
    }
    let (orphans, highest_segment) = find_orphans(vfs, dir, &manifest, &scanned)?;
    Ok(Survey { manifest, highest_manifest, listed, scanned, orphans, highest_segment })
}

/// Opens the segments that the manifest lists.
pub(super) fn open_all_listed(
    vfs: &dyn Vfs,
    dir: &Path,
    mode: OpenMode,
    manifest: &Manifest,
) -> Result<Vec<Arc<Segment>>> {
    let listed: Vec<_> =
        manifest.segments.iter().map(|entry| open_listed(vfs, dir, mode, manifest, entry)).collect::<Result<_>>()?;
    for pair in listed.windows(2) {
        if pair[0].last_lsn() >= pair[1].first_lsn() {
            return Err(pair[1].damaged(40, "its rows overlap those of the segment before it"));
        }
    }
    Ok(listed)
}

/// Opens a segment that the manifest lists: header, length and footer are checked, the rest when it is touched.
pub(super) fn open_listed(
    vfs: &dyn Vfs,
    dir: &Path,
    mode: OpenMode,
    manifest: &Manifest,
    entry: &SegmentEntry,
) -> Result<Arc<Segment>> {
    let path = segment_path(dir, entry.no);
    let (file, header) = open_segment(vfs, &path, mode, manifest, entry.no)?;
    let bad = |offset, what: &str| Error::corruption(&path, offset, what);
    if header.kind != entry.kind || header.first_lsn != entry.first_lsn {
        return Err(bad(36, "the segment is not the one that the manifest lists"));
    }
    let at = entry.footer;
    let len = file.len().context("read the length of", &path)?;
    if len != at.file_len || at.offset < SEGMENT_HEADER_LEN || at.offset > len {
        return Err(bad(len.min(at.file_len), "the file does not have the length that the manifest lists"));
    }
    let footer_len =
        usize::try_from(len - at.offset).map_err(|_| bad(at.offset, "the footer does not fit in memory"))?;
    let mut bytes = vec![0; footer_len];
    read_exact_at(&*file, &mut bytes, at.offset).context("read", &path)?;
    if let Some((format, min_reader)) = Footer::newer(&bytes) {
        return Err(manifest::newer(&path, format, min_reader));
    }
    let footer = Footer::decode(&bytes).map_err(|what| bad(at.offset, what))?;
    if bytes[8..24] != at.hash || footer.covered != at.offset || footer.last_lsn != entry.last_lsn {
        return Err(bad(at.offset, "the footer is not the one that the manifest lists"));
    }
    Ok(Arc::new(Segment::open_sealed(path.clone(), file, header, footer, at)?))
}

/// Opens segment `no` and checks that its header says so.
pub(super) fn open_segment(
    vfs: &dyn Vfs,
    path: &Path,
    mode: OpenMode,
    manifest: &Manifest,
    no: SegmentNo,
) -> Result<(Arc<dyn VfsFile>, SegmentHeader)> {
    let file = match vfs.open(path, mode) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::corruption(path, 0, "this part of the log is missing"));
        }
        other => other.context("open", path)?,
    };
    let header = read_header(&*file, path)?;
    if header.db_uuid != manifest.db_uuid {
        return Err(Error::corruption(path, 16, "it belongs to another database"));
    }
    if header.no != no {
        return Err(Error::corruption(path, 32, "its header has another segment's number"));
    }
    Ok((file, header))
}

/// Reads the raw segments from `scan_from` on, going from each SEAL to the segment it names. What stands behind the end of the
/// last one, and proves that it is damaged, is for the caller to judge: a writer may be at work there.
pub(super) fn follow_seals(
    vfs: &dyn Vfs,
    dir: &Path,
    mode: OpenMode,
    manifest: &Manifest,
    before: Option<&Arc<Segment>>,
) -> Result<Vec<Scanned>> {
    let mut scanned: Vec<Scanned> = Vec::new();
    let mut no = manifest.scan_from;
    loop {
        let path = segment_path(dir, no);
        let (file, header) = open_segment(vfs, &path, mode, manifest, no)?;
        let bad = |offset, what: &str| Error::corruption(&path, offset, what);
        let expected = match scanned.last() {
            Some(last) => Some((last.scan.chain, last.scan.next_lsn)),
            // Between a listed segment and the scan's start there may have been others that a compaction left nothing of; the
            // manifest, which names both, vouches for that. Numbers are used once, so between neighbours there was none.
            None => before
                .filter(|s| s.kind() == SegmentKind::Raw && s.no().0 + 1 == no.0)
                .and_then(|s| Some((s.footer_chain()?, s.last_lsn().plus(1)))),
        };
        let follows = expected.is_none_or(|(chain, lsn)| header.prev_chain == chain && header.first_lsn == lsn);
        let behind = before.is_none_or(|s| s.last_lsn() < header.first_lsn);
        if header.kind != SegmentKind::Raw || !follows || !behind || header.first_lsn < Lsn(1) {
            return Err(bad(36, "it does not follow the segment before it"));
        }
        let scan = scan(&*file, &path, &header)?;
        let successor = scan.successor;
        let end = scan.end;
        scanned.push(Scanned { path: path.clone(), file, header, scan });
        match successor {
            None => return Ok(scanned),
            Some(next) if next > no => no = next,
            Some(_) => return Err(bad(end - PAGE, "its SEAL frame names a segment before it")),
        }
    }
}

/// The files that are not part of the log, and the highest segment number in use. A raw segment that nothing names and
/// that is newer than the scan's start must be empty: it is what a roll that did not finish leaves behind. If it is not,
/// the SEAL frame that named it is damaged.
pub(super) fn find_orphans(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: &Manifest,
    scanned: &[Scanned],
) -> Result<(Vec<PathBuf>, u32)> {
    let last = scanned.last().expect("following the seals gives at least the segment it starts from");
    let directory = log_dir(dir);
    let (mut orphans, mut highest) = (Vec::new(), last.header.no.0);
    // In a backup that nobody opened, files that no manifest names are what an interrupted one left.
    let is_backup = vfs.kind(&dir.join(BACKUP)).context("look at", dir)?.is_some();
    for entry in vfs.list(dir).context("list", dir)? {
        if is_temporary_manifest(&entry.name) {
            orphans.push(dir.join(&entry.name));
        }
    }
    for entry in vfs.list(&directory).context("list", &directory)? {
        let path = directory.join(&entry.name);
        let Some(no) = segment_no_in(&entry.name) else {
            if entry.name.strip_suffix(".tmp").is_some_and(|n| segment_no_in(n).is_some()) {
                orphans.push(path);
            }
            continue;
        };
        highest = highest.max(no.0);
        let in_use = manifest.segments.iter().any(|s| s.no == no) || scanned.iter().any(|s| s.header.no == no);
        if in_use {
            continue;
        }
        if no > manifest.scan_from && !is_backup {
            let file = vfs.open(&path, OpenMode::Read).context("open", &path)?;
            let compact = read_header(&*file, &path).is_ok_and(|h| h.kind == SegmentKind::Compact);
            if !compact && holds_data(&*file, &path, SEGMENT_HEADER_LEN)? {
                let what = format!("{}, though segment {no}, which comes after it, holds data", last.scan.why);
                return Err(Error::corruption(&last.path, last.scan.stop, what));
            }
        }
        orphans.push(path);
    }
    Ok((orphans, highest))
}
