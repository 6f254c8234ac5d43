//! What can still be read of a log that is damaged, and what is lost: for `repair()`.
//!
//! Invariants:
//! 1. Only reads. Nothing is believed without a checksum: a row counts if its whole frame matches its hash, or if every byte
//!    of it lies in 64 KiB blocks that match the footer's hashes.
//! 2. What is lost is told: the file, the offset, the LSNs, and the ids where the row table can be read. A range of LSNs is
//!    an upper bound in a compact segment, where some are missing anyway.
//! 3. What a crash leaves behind the last whole group was never acknowledged, and is no loss.
//!
//! The salt of a segment whose header is damaged is tried as it stands: frames whose checksums match with it prove it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{log_dir, segment_no_in, segment_path};
use super::footer::{BLOCK, Footer, block_hash};
use super::format::{
    ALIGN, FRAME_HEADER_LEN, FRAME_HEADER_SIZE, FrameHeader, FrameKind, PAGE, ROW_LEN, SEGMENT_HEADER_LEN, Salt,
    hash128, take, u64_at,
};
use super::frame::{FrameMeta, FrameView, RowView};
use super::manifest::{self, CollectionEntry, Manifest, SegmentEntry};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::io::vfs::{OpenMode, Vfs, VfsFile, read_exact_at};
use crate::types::{CollectionId, Lsn, RecordId, SegmentNo};

/// Bytes searched at once for the next frame.
const WINDOW: usize = 1 << 20;

/// Something that cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
    /// The first and the last operation that may be lost; `None` where nothing tells how far it went.
    pub(crate) first: Lsn,
    pub(crate) last: Option<Lsn>,
    /// The rows that are known to have been there, and their operations.
    pub(crate) rows: Vec<(CollectionId, RecordId, Lsn)>,
    pub(crate) why: String,
}

/// What of a frame can be read.
#[derive(Debug)]
struct Readable {
    meta: FrameMeta,
    /// Which rows; `None` is all.
    rows: Option<Vec<u32>>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: Arc<dyn VfsFile>,
    frames: Vec<Readable>,
    /// Where the last frame that could be read ends.
    stop: u64,
}

/// What is left of a log.
#[derive(Debug)]
pub(crate) struct Salvage {
    /// From the highest intact manifest; `None` if there is none.
    pub(crate) collections: Option<Vec<CollectionEntry>>,
    pub(crate) losses: Vec<Loss>,
    parts: Vec<Part>,
}

impl Salvage {
    /// Looks through the log in `dir`.
    pub(crate) fn of(vfs: &dyn Vfs, dir: &Path) -> Result<Salvage> {
        let manifest = match manifest::load(vfs, dir) {
            Ok((manifest, _)) => Some(manifest),
            Err(e) if e.kind() == ErrorKind::Corruption => None,
            Err(e) => return Err(e),
        };
        let mut salvage = Salvage {
            collections: manifest.as_ref().map(|m| m.collections.to_vec()),
            losses: Vec::new(),
            parts: Vec::new(),
        };
        let listed = manifest.as_ref().map_or(&[][..], |m| &m.segments);
        for entry in listed {
            salvage.listed(vfs, dir, entry)?;
        }
        // Where the segment is missing that the scan starts in, so is what follows the listed ones. (Otherwise nothing does, even
        // if the LSNs have a gap: compactions drop operations.)
        let from = manifest.as_ref().map(|m| segment_path(dir, m.scan_from));
        let starts = from.map_or(Ok(true), |path| Ok::<_, Error>(open(vfs, &path)?.is_some()))?;
        let mut next = (!starts).then(|| listed.last().map_or(Lsn(1), |s| s.last_lsn.plus(1)));
        let others = others(vfs, dir, manifest.as_ref())?;
        for (i, &(first, no)) in others.iter().enumerate() {
            if let (Some(next), Some(first)) = (next, first)
                && next < first
            {
                let (path, stop) = match salvage.parts.last() {
                    Some(before) => (before.path.clone(), before.stop),
                    None => (segment_path(dir, no), 0),
                };
                salvage.gap(&path, stop, next, first);
            }
            next = salvage.scanned(vfs, dir, no, first.or(next), i + 1 == others.len())?.or(next);
        }
        if let Some(manifest) = &manifest
            && !starts
            && others.is_empty()
        {
            let (file, first) = (segment_path(dir, manifest.scan_from), next.unwrap_or(Lsn(1)));
            let why = "this part of the log is missing".to_owned();
            salvage.losses.push(Loss { file, offset: 0, first, last: None, rows: Vec::new(), why });
        }
        Ok(salvage)
    }

    /// Shows every row that can be read to `each`, those of the log's segments in LSN order.
    pub(crate) fn each_row(&self, each: &mut dyn FnMut(CollectionId, u16, &RowView<'_>) -> Result<()>) -> Result<()> {
        for part in &self.parts {
            for Readable { meta, rows } in &part.frames {
                let payload = Aligned::read(&*part.file, &part.path, meta)?;
                let view = FrameView::new(&part.path, *meta, payload.bytes())?;
                let all: Vec<u32> = (0..meta.rows).collect();
                for &i in rows.as_ref().unwrap_or(&all) {
                    each(meta.collection, meta.dim, &view.row(i)?)?;
                }
            }
        }
        Ok(())
    }

    fn gap(&mut self, path: &Path, offset: u64, first: Lsn, next: Lsn) {
        let why = "what follows here is missing".to_owned();
        let (file, last, rows) = (path.to_owned(), Some(Lsn(next.0 - 1)), Vec::new());
        self.losses.push(Loss { file, offset, first, last, rows, why });
    }

    /// A segment that the manifest lists: by its footer, or frame by frame if that is damaged.
    fn listed(&mut self, vfs: &dyn Vfs, dir: &Path, entry: &SegmentEntry) -> Result<()> {
        let path = segment_path(dir, entry.no);
        let Some(file) = open(vfs, &path)? else {
            let (first, last, rows) = (entry.first_lsn, Some(entry.last_lsn), Vec::new());
            let why = "this part of the log is missing".to_owned();
            self.losses.push(Loss { file: path, offset: 0, first, last, rows, why });
            return Ok(());
        };
        let at = entry.footer;
        let mut bytes = vec![0; usize::try_from(at.file_len.saturating_sub(at.offset)).unwrap_or(0)];
        let footer = read_exact_at(&*file, &mut bytes, at.offset).ok().and_then(|()| Footer::decode(&bytes).ok());
        let salt = salt_of(&*file);
        match footer.filter(|_| bytes[8..24] == at.hash) {
            Some(footer) => self.by_footer(path, file, &footer, &salt),
            None => {
                let end = at.offset;
                let (next, _) = self.by_frames(path.clone(), file, &salt, Some(entry.first_lsn), (Some(end), true))?;
                if next.is_none_or(|next| next <= entry.last_lsn) {
                    let first = next.unwrap_or(entry.first_lsn);
                    self.gap(&path, end, first, entry.last_lsn.plus(1));
                }
            }
        }
        Ok(())
    }

    fn by_footer(&mut self, path: PathBuf, file: Arc<dyn VfsFile>, footer: &Footer, salt: &Salt) {
        let good = good_blocks(&*file, footer);
        let is_good = |from: u64, len: u64| (from / BLOCK..(from + len).div_ceil(BLOCK)).all(|b| good.contains_key(&b));
        let mut part = Part { path, file, frames: Vec::new(), stop: footer.covered };
        for &meta in footer.frames.iter().filter(|f| f.kind == FrameKind::Rows) {
            if is_good(meta.offset, FRAME_HEADER_LEN + meta.payload_len) || matches_hash(&part, &meta, salt) {
                part.frames.push(Readable { meta, rows: None });
                continue;
            }
            let (rows, lost) = rows_in(&part, &meta, &is_good);
            let bad = (meta.offset / BLOCK..).find(|b| !good.contains_key(b)).unwrap_or(0) * BLOCK;
            self.losses.push(Loss {
                file: part.path.clone(),
                offset: bad.max(meta.offset),
                first: meta.lsn_first,
                last: Some(meta.lsn_last),
                rows: lost,
                why: "these blocks do not match their checksums".to_owned(),
            });
            part.frames.push(Readable { meta, rows: Some(rows) });
        }
        self.parts.push(part);
    }

    /// A segment without a footer. Returns the LSN after its last readable operation.
    fn scanned(
        &mut self,
        vfs: &dyn Vfs,
        dir: &Path,
        no: SegmentNo,
        first: Option<Lsn>,
        is_last: bool,
    ) -> Result<Option<Lsn>> {
        let path = segment_path(dir, no);
        let Some(file) = open(vfs, &path)? else { return Ok(None) };
        let salt = salt_of(&*file);
        let (next, open_batch) = self.by_frames(path, file, &salt, first, (None, !is_last))?;
        if let Some(part) = self.parts.last_mut().filter(|_| is_last) {
            // Invariant 3: a batch whose end is not there was never acknowledged.
            part.frames.truncate(part.frames.len() - open_batch);
        }
        Ok(next)
    }

    /// Reads a segment frame by frame up to `end`, going on behind what does not check. `sure` says that all of it had been
    /// acknowledged. Returns the LSN after its last frame, and how many frames at its end belong to a batch that is not whole.
    fn by_frames(
        &mut self,
        path: PathBuf,
        file: Arc<dyn VfsFile>,
        salt: &Salt,
        mut next: Option<Lsn>,
        (end, sure): (Option<u64>, bool),
    ) -> Result<(Option<Lsn>, usize)> {
        let len = file.len().context("read the length of", &path)?.min(end.unwrap_or(u64::MAX));
        let mut part = Part { path, file, frames: Vec::new(), stop: SEGMENT_HEADER_LEN };
        let (mut at, mut open_batch) = (SEGMENT_HEADER_LEN, 0);
        // Where something did not check, if nothing that did has come since.
        let mut bad: Option<(u64, &str)> = None;
        while let Some((offset, header)) = next_frame(&part, salt, at, len) {
            if offset > at && bad.is_none() {
                bad = Some((at, "no frame can be read here"));
            }
            if let (Some((from, why)), Some(expected)) = (bad.take(), next)
                && expected < header.lsn_first
                && (sure || header.durable_lsn >= expected || u64::from(header.group_page) * PAGE > from)
            {
                let (file, last, rows) = (part.path.clone(), Some(Lsn(header.lsn_first.0 - 1)), Vec::new());
                self.losses.push(Loss { file, offset: from, first: expected, last, rows, why: why.to_owned() });
            }
            let meta = FrameMeta::new(offset, &header);
            if meta.kind == FrameKind::Rows {
                if payload_hash(&part, &meta) == Some(header.payload_hash) {
                    part.frames.push(Readable { meta, rows: None });
                    open_batch = if header.more() { open_batch + 1 } else { 0 };
                } else if sure || proven(&part, salt, &header, offset, len) {
                    // The table is not proved by anything, but it is the best there is to name what is lost.
                    let (_, rows) = rows_in(&part, &meta, &|_, _| false);
                    let (file, why) = (part.path.clone(), "the frame does not match its checksum".to_owned());
                    let last = Some(header.lsn_last);
                    self.losses.push(Loss { file, offset, first: header.lsn_first, last, rows, why });
                }
            }
            next = Some(header.lsn_last.plus(1));
            at = header.end(offset);
            part.stop = at;
        }
        self.parts.push(part);
        Ok((next, open_batch))
    }
}

/// Whether a frame that cannot be read had been acknowledged: something behind it was written after it.
fn proven(part: &Part, salt: &Salt, header: &FrameHeader, offset: u64, len: u64) -> bool {
    next_frame(part, salt, header.end(offset), len).is_some_and(|(_, later)| later.durable_lsn >= header.lsn_last)
}

/// The segments that no manifest lists but that may be part of the log, with the first LSN that their headers tell, in order.
/// Without a manifest these are all there are.
fn others(vfs: &dyn Vfs, dir: &Path, manifest: Option<&Manifest>) -> Result<Vec<(Option<Lsn>, SegmentNo)>> {
    let folder = log_dir(dir);
    let mut found = Vec::new();
    for entry in vfs.list(&folder).context("list", &folder)? {
        let Some(no) = segment_no_in(&entry.name) else { continue };
        let Some(file) = open(vfs, &segment_path(dir, no))? else { continue };
        let mut page = [0; 64];
        let header = read_exact_at(&*file, &mut page, 0).is_ok();
        let compact = header && page[36] == 2;
        if manifest.is_some_and(|m| no < m.scan_from || compact || m.segments.iter().any(|s| s.no == no)) {
            continue;
        }
        // A first LSN that is not below the first frame's would be damage of the header; the frame is believed.
        let salt = salt_of(&*file);
        let part = Part { path: segment_path(dir, no), file, frames: Vec::new(), stop: 0 };
        let first = next_frame(&part, &salt, SEGMENT_HEADER_LEN, entry.len).map(|(_, frame)| frame.lsn_first);
        if first.is_none() && entry.len <= SEGMENT_HEADER_LEN {
            // Nothing was ever written to it, and perhaps no SEAL leads to it.
            continue;
        }
        let told = header.then(|| Lsn(u64_at(&page, 40))).filter(|told| first.is_none_or(|first| *told <= first));
        found.push((if compact { first } else { told.or(first) }, no));
    }
    found.sort_by_key(|(first, no)| (first.unwrap_or(Lsn(u64::MAX)), *no));
    Ok(found)
}

fn open(vfs: &dyn Vfs, path: &Path) -> Result<Option<Arc<dyn VfsFile>>> {
    match vfs.open(path, OpenMode::Read) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.context("open", path).map(Some),
    }
}

fn salt_of(file: &dyn VfsFile) -> Salt {
    let mut page = [0; 64];
    read_exact_at(file, &mut page, 0).map_or([0; 16], |()| take(&page, 48))
}

/// The blocks that match the footer's hashes.
fn good_blocks(file: &dyn VfsFile, footer: &Footer) -> BTreeMap<u64, ()> {
    let mut buf = vec![0; usize::try_from(BLOCK).expect("64 KiB fits in memory")];
    let matches = |(block, expected): (u64, &u64)| {
        let start = block * BLOCK;
        let want = usize::try_from(BLOCK.min(footer.covered - start)).expect("at most a block");
        let read = read_exact_at(file, &mut buf[..want], start).is_ok();
        (read && block_hash(&buf[..want]) == *expected).then_some((block, ()))
    };
    (0..).zip(&footer.blocks).filter_map(matches).collect()
}

/// The first frame header at or behind `at` that checks.
fn next_frame(part: &Part, salt: &Salt, at: u64, len: u64) -> Option<(u64, FrameHeader)> {
    let mut at = at.next_multiple_of(ALIGN);
    let mut buf = vec![0; WINDOW];
    while at + FRAME_HEADER_LEN <= len {
        let want = usize::try_from(len - at).unwrap_or(WINDOW).min(WINDOW);
        // What cannot be read is passed over, a block at a time.
        let n = match part.file.read_at(&mut buf[..want], at) {
            Ok(n) if n >= FRAME_HEADER_SIZE => n,
            Ok(_) => return None,
            Err(_) => match part.file.read_at(&mut buf[..FRAME_HEADER_SIZE], at) {
                Ok(n) if n == FRAME_HEADER_SIZE => n,
                _ => {
                    at += ALIGN;
                    continue;
                }
            },
        };
        let step = usize::try_from(ALIGN).expect("64");
        for from in (0..=n - FRAME_HEADER_SIZE).step_by(step) {
            if let Ok(header) = FrameHeader::decode(&buf[from..from + FRAME_HEADER_SIZE], salt) {
                return Some((at + from as u64, header));
            }
        }
        at += ((n - FRAME_HEADER_SIZE) / step + 1) as u64 * ALIGN;
    }
    None
}

/// Whether the frame's own header and its payload check, whatever its blocks are like.
fn matches_hash(part: &Part, meta: &FrameMeta, salt: &Salt) -> bool {
    let mut bytes = [0; FRAME_HEADER_SIZE];
    let header =
        read_exact_at(&*part.file, &mut bytes, meta.offset).ok().and_then(|()| FrameHeader::decode(&bytes, salt).ok());
    header.is_some_and(|h| FrameMeta::new(meta.offset, &h) == *meta && payload_hash(part, meta) == Some(h.payload_hash))
}

fn payload_hash(part: &Part, meta: &FrameMeta) -> Option<[u8; 16]> {
    Some(hash128(Aligned::read(&*part.file, &part.path, meta).ok()?.bytes()))
}

/// The rows of a damaged frame all of whose bytes are good, and the others as far as their entries make sense.
fn rows_in(
    part: &Part,
    meta: &FrameMeta,
    is_good: &dyn Fn(u64, u64) -> bool,
) -> (Vec<u32>, Vec<(CollectionId, RecordId, Lsn)>) {
    let (mut rows, mut lost) = (Vec::new(), Vec::new());
    let Ok(payload) = Aligned::read_what_can_be(&*part.file, meta) else { return (rows, lost) };
    let Ok(view) = FrameView::new(&part.path, *meta, payload.bytes()) else { return (rows, lost) };
    for i in 0..meta.rows {
        let table_is_good = is_good(meta.payload_at() + u64::from(i) * ROW_LEN, ROW_LEN);
        let Ok(entry) = view.entry(i) else { continue };
        let text = (meta.arena_at() + u64::from(entry.arena_off), entry.text_len());
        let vector = view.vector_offset(&entry).ok().flatten().map_or((meta.offset, 0), |at| (at, meta.vector_len()));
        let whole = table_is_good && is_good(text.0, text.1) && is_good(vector.0, vector.1);
        if whole && view.resolve(i, &entry).is_ok() {
            rows.push(i);
        } else if view.lsn(&entry) <= meta.lsn_last {
            lost.push((meta.collection, RecordId(entry.id), view.lsn(&entry)));
        }
    }
    (rows, lost)
}

/// A payload in memory, where floats may be read from it.
struct Aligned {
    buf: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    fn with(len: u64) -> Aligned {
        let len = usize::try_from(len).expect("a payload is below MAX_PAYLOAD");
        let buf = vec![0; len + align_of::<f32>()];
        let from = buf.as_ptr().align_offset(align_of::<f32>());
        Aligned { buf, from, len }
    }

    fn read(file: &dyn VfsFile, path: &Path, meta: &FrameMeta) -> Result<Aligned> {
        let mut payload = Aligned::with(meta.payload_len);
        let range = payload.from..payload.from + payload.len;
        read_exact_at(file, &mut payload.buf[range], meta.payload_at()).context("read", path)?;
        Ok(payload)
    }

    /// With zeros for what cannot be read.
    fn read_what_can_be(file: &dyn VfsFile, meta: &FrameMeta) -> std::io::Result<Aligned> {
        let mut payload = Aligned::with(meta.payload_len);
        let (from, len) = (payload.from, payload.len);
        for start in (0..len).step_by(4096) {
            let end = (start + 4096).min(len);
            let _ = file.read_at(&mut payload.buf[from + start..from + end], meta.payload_at() + start as u64);
        }
        Ok(payload)
    }

    fn bytes(&self) -> &[u8] {
        &self.buf[self.from..self.from + self.len]
    }
}
