//! Opening a log: what is in the directory, what of it is the log, and what a crash left behind.
//!
//! Invariants:
//! 1. [`survey`] only reads. Whatever it refuses, it refuses before a byte was changed.
//! 2. A bad frame is dropped only if nothing proves that it was durable: no later frame, no later segment, no manifest.
//!    Otherwise it is damage, reported with file and offset.
//! 3. After a stop that was not clean nothing is served from bytes that only the page cache may hold: the last segment is
//!    written to a new file and synced first.
//! 4. What a crash left behind is removed last, and only what no manifest in use names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{log_dir, read_header, remove_if_there, rewrite, segment_no_in, segment_path};
use super::footer::Footer;
use super::format::{
    DbUuid, FLAG_GROUP_END, FRAME_HEADER_LEN, FrameHeader, FrameKind, PAGE, SEGMENT_HEADER_LEN, SegmentHeader,
    SegmentKind, align_up, hash128,
};
use super::frame::FrameMeta;
use super::manifest::{self, CollectionEntry, Manifest, SegmentEntry};
use super::scan::{Scan, holds_data, scan};
use super::segment::Segment;
use super::writer::{Log, LogOptions, Tail, group_page};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::io::vfs::{EntryKind, OpenMode, Vfs, VfsFile, read_exact_at};
use crate::types::{CollectionId, Lsn, SegmentNo};

/// What a directory is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DirState {
    /// Missing, empty, or a creation that a crash interrupted before it was of any use.
    Empty,
    /// A database of ours.
    Ours,
    /// A directory that holds other things; their names.
    Foreign(Vec<String>),
    /// A database of version 0.5.1, to be imported.
    OldNoPokeDB,
}

/// Reads the log in `dir` and changes no byte of it. What it finds behind the last group that is whole is left where it is
/// and not served. A writer may be at work meanwhile: then this is the log as of some moment since the call, or an error
/// because a file went away (try again).
pub(crate) fn open_read_only(vfs: &dyn Vfs, dir: &Path) -> Result<Recovered> {
    let Survey { manifest, listed, scanned, .. } = survey(vfs, dir, OpenMode::Read)?;
    let last = scanned.last().expect("a survey holds at least the active segment");
    let (clean, dropped_tail) = (last.scan.clean, dropped(last)?);
    let mut segments = listed;
    for s in scanned {
        segments.push(Arc::new(s.into_segment(SEGMENT_HEADER_LEN)?));
    }
    Ok(Recovered { segments, collections: manifest.collections, clean, dropped_tail })
}

/// What was found when the log was opened.
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

/// A raw segment that was read frame by frame.
#[derive(Debug)]
struct Scanned {
    path: PathBuf,
    file: Arc<dyn VfsFile>,
    header: SegmentHeader,
    scan: Scan,
}

/// What is on disk, before anything is changed. A read-only opening will serve from this.
#[derive(Debug)]
pub(crate) struct Survey {
    manifest: Manifest,
    highest_manifest: u64,
    listed: Vec<Arc<Segment>>,
    /// The raw segments from the manifest's `scan_from` on; each but the last is sealed and names the next.
    scanned: Vec<Scanned>,
    orphans: Vec<PathBuf>,
    highest_segment: u32,
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
    if entries.iter().any(|e| ["hnsw_index.bin", "metadata.db", "oplog.jsonl"].contains(&&*e.name)) {
        return Ok(DirState::OldNoPokeDB);
    }
    let ours = |name: &str| ["LOCK", "LOCK.info", "log"].contains(&name) || is_temporary_manifest(name);
    let foreign: Vec<String> = entries.iter().filter(|e| !ours(&e.name)).map(|e| e.name.clone()).collect();
    if !foreign.is_empty() {
        return Ok(DirState::Foreign(foreign));
    }
    if !entries.iter().any(|e| e.name == "log") {
        return Ok(DirState::Empty);
    }
    // Without a manifest, a log with data is a database whose manifests are lost; one without is an interrupted creation.
    let dir = log_dir(dir);
    let used = vfs.list(&dir).context("list", &dir)?.iter().any(|e| e.len > SEGMENT_HEADER_LEN);
    Ok(if used { DirState::Ours } else { DirState::Empty })
}

fn is_temporary_manifest(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|n| manifest::number_in(n).is_some())
}

/// Clears what a crash during a creation left, so that the creation can start afresh.
pub(super) fn remove_unfinished_creation(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if inspect(vfs, dir)? != DirState::Empty {
        return Err(Error::path(dir, "is not empty; choose another path, or open the database that is there"));
    }
    for entry in vfs.list(dir).context("list", dir)? {
        if is_temporary_manifest(&entry.name) {
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

/// Reads the whole state of the log in `dir` and changes nothing.
pub(super) fn survey(vfs: &dyn Vfs, dir: &Path, mode: OpenMode) -> Result<Survey> {
    let (manifest, highest_manifest) = manifest::load(vfs, dir)?;
    let listed: Vec<_> =
        manifest.segments.iter().map(|entry| open_listed(vfs, dir, mode, &manifest, entry)).collect::<Result<_>>()?;
    for pair in listed.windows(2) {
        if pair[0].last_lsn() >= pair[1].first_lsn() {
            return Err(pair[1].damaged(40, "its rows overlap those of the segment before it"));
        }
    }
    let scanned = follow_seals(vfs, dir, mode, &manifest, listed.last())?;
    let (orphans, highest_segment) = find_orphans(vfs, dir, &manifest, &scanned)?;
    Ok(Survey { manifest, highest_manifest, listed, scanned, orphans, highest_segment })
}

/// Opens a segment that the manifest lists: header, length and footer are checked, the rest when it is touched.
fn open_listed(
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
    let footer = Footer::decode(&bytes).map_err(|what| bad(at.offset, what))?;
    if bytes[8..24] != at.hash || footer.covered != at.offset || footer.last_lsn != entry.last_lsn {
        return Err(bad(at.offset, "the footer is not the one that the manifest lists"));
    }
    Ok(Arc::new(Segment::open_sealed(path.clone(), file, header, footer, at)?))
}

/// Opens segment `no` and checks that its header says so.
fn open_segment(
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

/// Reads the raw segments from `scan_from` on, going from each SEAL to the segment it names.
fn follow_seals(
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
            None => before
                .filter(|s| s.kind() == SegmentKind::Raw)
                .and_then(|s| Some((s.footer_chain()?, s.last_lsn().plus(1)))),
        };
        let follows = expected.is_none_or(|(chain, lsn)| header.prev_chain == chain && header.first_lsn == lsn);
        let behind = before.is_none_or(|s| s.last_lsn() < header.first_lsn);
        if header.kind != SegmentKind::Raw || !follows || !behind || header.first_lsn < Lsn(1) {
            return Err(bad(36, "it does not follow the segment before it"));
        }
        let scan = scan(&*file, &path, &header)?;
        if let Some(proof) = scan.proven {
            return Err(bad(scan.stop, &format!("{}, though {proof}", scan.why)));
        }
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
fn find_orphans(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest, scanned: &[Scanned]) -> Result<(Vec<PathBuf>, u32)> {
    let last = scanned.last().expect("following the seals gives at least the segment it starts from");
    let directory = log_dir(dir);
    let (mut orphans, mut highest) = (Vec::new(), last.header.no.0);
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
        if no > manifest.scan_from {
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

impl Log {
    /// Opens the log in `dir` for writing. The caller holds the directory's lock.
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
    /// Invariant 4. The manifest before the one in use may name a segment that is an orphan now; it is pushed out first, so
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
    if !clean {
        // Names that we rely on may be in the page cache only: a manifest renamed just before its writer was killed, say.
        for directory in [dir, &log_dir(dir)] {
            vfs.sync_dir(directory).context("sync the directory", directory)?;
        }
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
        directory_failed: Arc::default(),
    };
    if fell_back {
        log.publish_manifest(2)?;
    }
    log.remove_orphans(&orphans, fell_back);
    let recovered = Recovered { segments: log.segments(), collections: log.collections.clone(), clean, dropped_tail };
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
    /// Invariant 3: the kept frames and `more` in a fresh, synced file under the same name.
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
        let last_lsn = Lsn(self.scan.next_lsn.0 - 1);
        let header = FrameHeader {
            kind: FrameKind::Watermark,
            flags: FLAG_GROUP_END,
            dim: 0,
            lsn_first: self.scan.next_lsn,
            lsn_last: last_lsn,
            rows: 0,
            collection: CollectionId(0),
            payload_len: 0,
            durable_lsn: last_lsn,
            unix_ms,
            prev_chain: self.scan.chain,
            payload_hash: hash128(&[]),
            arena_len: 0,
            vectors: 0,
            next_segment: 0,
            group_page: group_page(at),
        };
        let mut bytes = header.encode(&self.header.salt).to_vec();
        let chain = hash128(&bytes);
        let end = align_up(at + FRAME_HEADER_LEN, PAGE);
        bytes.resize(usize::try_from(end - at).expect("a watermark and its padding are at most two pages"), 0);
        self.rewrite(vfs, &bytes)?;
        self.scan.frames.push(FrameMeta::new(at, &header));
        (self.scan.end, self.scan.chain) = (end, chain);
        Ok(())
    }

    fn into_segment(self, capacity: u64) -> Result<Segment> {
        let capacity = capacity.max(self.scan.end);
        let region = self.file.map(capacity).context("map", &self.path)?;
        Ok(Segment::new(self.path, self.file, region, self.header, &self.scan.frames, self.scan.end))
    }
}
