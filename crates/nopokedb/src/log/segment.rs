//! A segment as readers see it: mapped bytes and the directory of the frames in them.
//!
//! Invariants:
//! 1. Every published frame lies below `end`, was synced before it was published, and never changes.
//! 2. The bytes of a segment that was opened sealed are handed out only after the 64 KiB blocks they lie in matched the
//!    footer's hashes once; those of an unsealed one were hashed frame by frame when the log was opened, or were
//!    written by this process.
//! 3. An offset from outside is checked against `end` before it is used: damage is an error, never a panic.
//!
//! Threading: the log's writer publishes frames and seals; any thread reads, without locks.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::directory::Directory;
use super::footer::{BLOCK, Footer, block_count, block_hash};
use super::format::{
    Chain, FLAG_GROUP_END, FRAME_HEADER_LEN, FrameKind, PAGE, ROW_LEN, SEGMENT_HEADER_LEN, SegmentHeader, SegmentKind,
    align_up,
};
use super::frame::{FrameMeta, FrameView, RowView};
use crate::error::{Error, IoContext, Result};
use crate::io::mmap::Region;
use crate::io::vfs::{Closed, VfsFile};
use crate::types::{Lsn, SegmentNo};

/// Bytes of a row's text that are asked for ahead.
const PREFETCHED_TEXT: u64 = 256;

/// Where a sealed segment's footer is, as the manifest repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FooterRef {
    pub(crate) offset: u64,
    /// Length of the file, which ends with the footer.
    pub(crate) file_len: u64,
    pub(crate) hash: [u8; 16],
}

/// What is known of a segment with a footer.
#[derive(Debug)]
struct Sealed {
    footer: FooterRef,
    last_chain: Chain,
    blocks: Vec<u64>,
    /// One bit per block: it matched its hash.
    verified: Vec<AtomicU64>,
}

impl Sealed {
    fn new(footer: FooterRef, last_chain: Chain, blocks: Vec<u64>, verified: bool) -> Self {
        let words = if verified { u64::MAX } else { 0 };
        let verified = (0..blocks.len().div_ceil(64)).map(|_| AtomicU64::new(words)).collect();
        Sealed { footer, last_chain, blocks, verified }
    }
}

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    file: Arc<dyn VfsFile>,
    region: Region,
    header: SegmentHeader,
    frames: Directory,
    /// Where the frames end.
    end: AtomicU64,
    rows: AtomicU64,
    /// Bytes of frame headers and payloads.
    used: AtomicU64,
    last_lsn: AtomicU64,
    /// Rows that a compaction would drop, as far as the engine has counted: a hint, kept in memory only.
    dead: AtomicU64,
    sealed: OnceLock<Sealed>,
}

impl Segment {
    /// An open segment whose `frames` were verified and end at `end`.
    pub(super) fn new(
        path: PathBuf,
        file: Arc<dyn VfsFile>,
        region: Region,
        header: SegmentHeader,
        frames: &[FrameMeta],
        end: u64,
    ) -> Self {
        let last_lsn = AtomicU64::new(header.first_lsn.0.saturating_sub(1));
        let counts = (AtomicU64::new(SEGMENT_HEADER_LEN), AtomicU64::new(0), AtomicU64::new(0));
        let (end_of_frames, rows, used) = counts;
        let frames_of = Directory::new(&[]);
        let sealed = OnceLock::new();
        let segment = Segment {
            path,
            file,
            region,
            header,
            frames: frames_of,
            end: end_of_frames,
            rows,
            used,
            last_lsn,
            dead: AtomicU64::new(0),
            sealed,
        };
        frames.iter().for_each(|f| segment.publish(*f));
        segment.end.store(end, Ordering::Release);
        segment
    }

    /// The same segment in another file that begins with the same frames.
    pub(super) fn in_file(&self, file: Arc<dyn VfsFile>, region: Region) -> Segment {
        let frames: Vec<FrameMeta> = (0..self.frame_count()).filter_map(|i| self.frames.get(i)).copied().collect();
        let again = Segment::new(self.path.clone(), file, region, self.header.clone(), &frames, self.end());
        again.add_dead(self.dead_rows());
        again
    }

    /// What is left of it when its file is let go: where it was, and nothing in it.
    pub(super) fn without_file(&self) -> Segment {
        Segment::new(
            self.path.clone(),
            Arc::new(Closed),
            Region::nothing(),
            self.header.clone(),
            &[],
            SEGMENT_HEADER_LEN,
        )
    }

    /// How far the file is mapped.
    pub(super) fn mapped(&self) -> u64 {
        self.region.len()
    }

    /// A segment opened by its footer alone; its blocks are verified when they are touched.
    pub(super) fn open_sealed(
        path: PathBuf,
        file: Arc<dyn VfsFile>,
        header: SegmentHeader,
        footer: Footer,
        at: FooterRef,
    ) -> Result<Self> {
        let region = file.map(footer.covered).context("map", &path)?;
        let segment = Segment::new(path, file, region, header, &footer.frames, footer.covered);
        segment.last_lsn.store(footer.last_lsn.0, Ordering::Release);
        let fresh = segment.sealed.set(Sealed::new(at, footer.last_chain, footer.blocks, false)).is_ok();
        debug_assert!(fresh);
        Ok(segment)
    }

    /// Makes a synced frame visible to readers. Only the log's writer calls this.
    pub(super) fn publish(&self, frame: FrameMeta) {
        self.rows.fetch_add(u64::from(frame.rows), Ordering::Relaxed);
        self.used.fetch_add(FRAME_HEADER_LEN + frame.payload_len, Ordering::Relaxed);
        if frame.rows > 0 {
            self.last_lsn.fetch_max(frame.lsn_last.0, Ordering::Release);
        }
        let end = frame.payload_end();
        let end = if frame.flags & FLAG_GROUP_END != 0 { align_up(end, PAGE) } else { end };
        self.end.store(end, Ordering::Release);
        self.frames.push(frame);
    }

    /// Attaches the footer that was just written and synced; its hashes were computed from the bytes themselves.
    pub(super) fn attach_footer(&self, footer: Footer, at: FooterRef) {
        // A second seal of the same segment has the same bytes, so the first one stands.
        let _ = self.sealed.set(Sealed::new(at, footer.last_chain, footer.blocks, true));
    }

    pub(crate) fn no(&self) -> SegmentNo {
        self.header.no
    }

    pub(crate) fn kind(&self) -> SegmentKind {
        self.header.kind
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub(super) fn file(&self) -> &Arc<dyn VfsFile> {
        &self.file
    }

    /// The first LSN that it may hold.
    pub(crate) fn first_lsn(&self) -> Lsn {
        self.header.first_lsn
    }

    /// The last LSN that it covers; `first_lsn - 1` while it has no rows.
    pub(crate) fn last_lsn(&self) -> Lsn {
        Lsn(self.last_lsn.load(Ordering::Acquire))
    }

    /// Row operations in it, dead ones included.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Acquire)
    }

    /// Bytes up to the end of the frames, plus the footer if there is one.
    pub(crate) fn len(&self) -> u64 {
        self.sealed.get().map_or_else(|| self.end(), |s| s.footer.file_len)
    }

    /// Where the frames end.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Bytes of frames, headers included.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that only keep commits out of each other's sectors; a compaction gives them back.
    #[allow(dead_code)] // for the tests and the statistics
    pub(crate) fn padding(&self) -> u64 {
        (self.end() - SEGMENT_HEADER_LEN).saturating_sub(self.payload_bytes())
    }

    /// The footer, if it is written.
    pub(crate) fn footer(&self) -> Option<FooterRef> {
        self.sealed.get().map(|s| s.footer)
    }

    /// Chain value after the last frame, where the footer says it.
    pub(super) fn footer_chain(&self) -> Option<Chain> {
        self.sealed.get().map(|s| s.last_chain)
    }

    /// How many frames are published, those without rows included.
    pub(crate) fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// Where frame `index` is and what it counts.
    pub(crate) fn frame_meta(&self, index: usize) -> Option<&FrameMeta> {
        self.frames.get(index)
    }

    /// The published frames that hold rows, verified, in the order of their offsets.
    pub(crate) fn frames(&self) -> impl Iterator<Item = Result<FrameView<'_>>> {
        (0..self.frame_count()).filter_map(|i| match self.frames.get(i) {
            Some(meta) if meta.kind == FrameKind::Rows => Some(self.view(meta)),
            _ => None,
        })
    }

    /// The published frames that hold rows, with only their row tables verified: for reading ids and places, not text or
    /// vectors. An opening reads these of every segment, so they must not cost the vectors' bytes.
    pub(crate) fn tables(&self) -> impl Iterator<Item = Result<FrameView<'_>>> {
        (0..self.frame_count()).filter_map(|i| match self.frames.get(i) {
            Some(meta) if meta.kind == FrameKind::Rows => Some(
                self.verify(meta.offset, FRAME_HEADER_LEN + u64::from(meta.rows) * ROW_LEN)
                    .and_then(|()| self.unverified(meta)),
            ),
            _ => None,
        })
    }

    /// Frame `index`, verified.
    pub(crate) fn frame(&self, index: usize) -> Result<FrameView<'_>> {
        let meta = self.frames.get(index).ok_or_else(|| self.damaged(self.end(), "there is no such frame"))?;
        self.view(meta)
    }

    fn view(&self, meta: &FrameMeta) -> Result<FrameView<'_>> {
        self.verify(meta.offset, FRAME_HEADER_LEN + meta.payload_len)?;
        self.unverified(meta)
    }

    /// A view of a frame whose bytes are verified one by one as they are used.
    fn unverified(&self, meta: &FrameMeta) -> Result<FrameView<'_>> {
        FrameView::new(&self.path, *meta, self.bytes(meta.payload_at(), meta.payload_len)?)
    }

    /// The vector at `offset`, verified.
    #[inline]
    pub(crate) fn vector(&self, offset: u64, dim: usize) -> Result<&[f32]> {
        let len = dim as u64 * 4;
        if offset.checked_add(len).is_none_or(|end| end > self.end()) {
            return Err(self.damaged(offset, "a vector is said to be where no row is"));
        }
        self.verify(offset, len)?;
        self.region
            .get_f32s(offset, dim)
            .ok_or_else(|| self.damaged(offset, "a vector is not where the file has bytes"))
    }

    /// Asks the CPU for the vector at `offset`. A hint: nothing is verified, and a wrong place does no harm.
    #[inline]
    pub(crate) fn prefetch_vector(&self, offset: u64, dim: usize) {
        if offset.checked_add(dim as u64 * 4).is_some_and(|end| end <= self.end())
            && let Some(vector) = self.region.get_f32s(offset, dim)
        {
            nopokedb_kernels::prefetch(vector);
        }
    }

    /// The row whose vector is at `offset`, verified.
    pub(crate) fn row_at_vector(&self, offset: u64) -> Result<RowView<'_>> {
        let row = self.text_at_vector(offset)?;
        self.verify(offset, row.vector.map_or(0, |vector| size_of_val(vector) as u64))?;
        Ok(row)
    }

    /// The row whose vector is at `offset`, verified except for the vector itself: whoever wants only the text of many rows
    /// need not have their vectors read.
    pub(crate) fn text_at_vector(&self, offset: u64) -> Result<RowView<'_>> {
        let no_row = || self.damaged(offset, "no row's vector starts here");
        let (meta, index) = self.vector_at(offset).ok_or_else(no_row)?;
        let view = self.unverified(meta)?;
        // Rows without a vector only push a row further back in the table than its vector is in the block.
        for row in index..meta.rows {
            self.verify(meta.payload_at() + u64::from(row) * ROW_LEN, ROW_LEN)?;
            let entry = view.entry(row)?;
            if entry.vector == Some(index) {
                self.verify(meta.arena_at() + u64::from(entry.arena_off), entry.text_len())?;
                return view.resolve(row, &entry);
            }
        }
        Err(no_row())
    }

    /// The frame of the vector at `offset`, and how many vectors lie before it there.
    fn vector_at(&self, offset: u64) -> Option<(&FrameMeta, u32)> {
        let (_, meta) = self.frames.at_or_before(offset)?;
        let (inside, len) = (offset.checked_sub(meta.vectors_at())?, meta.vector_len().max(1));
        let index = u32::try_from(inside / len).ok()?;
        (index < meta.vectors && inside % len == 0).then_some((meta, index))
    }

    /// Asks the CPU for the table entry of the row whose vector is at `offset`. A hint, like all prefetches: nothing is
    /// verified, and a wrong place does no harm.
    pub(crate) fn prefetch_entry(&self, offset: u64) {
        if let Some(entry) = self.vector_at(offset).and_then(|(meta, index)| self.entry_bytes(meta, index)) {
            nopokedb_kernels::prefetch(entry);
        }
    }

    /// Asks the CPU for the text of the row whose vector is at `offset`; its entry was asked for before.
    pub(crate) fn prefetch_text(&self, offset: u64) {
        if let Some((meta, index)) = self.vector_at(offset)
            && let Ok(view) = self.unverified(meta)
            && let Ok(entry) = view.entry(index)
            && let Some(start) = meta.arena_at().checked_add(u64::from(entry.arena_off))
            && let Ok(len) = usize::try_from(entry.text_len().min(PREFETCHED_TEXT))
            && let Some(text) = self.region.get(start, len)
        {
            nopokedb_kernels::prefetch(text);
        }
    }

    fn entry_bytes(&self, meta: &FrameMeta, index: u32) -> Option<&[u8]> {
        self.region.get(meta.payload_at() + u64::from(index) * ROW_LEN, usize::try_from(ROW_LEN).ok()?)
    }

    /// Counts `n` more rows that a compaction would drop.
    pub(crate) fn add_dead(&self, n: u64) {
        self.dead.fetch_add(n, Ordering::Relaxed);
    }

    /// Rows that a compaction would drop.
    pub(crate) fn dead_rows(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// Published bytes, not verified.
    fn bytes(&self, offset: u64, len: u64) -> Result<&[u8]> {
        let len = usize::try_from(len).map_err(|_| self.damaged(offset, "a length does not fit in memory"))?;
        self.region.get(offset, len).ok_or_else(|| self.damaged(offset, "the file ends before the data it should hold"))
    }

    /// Invariant 2 for `[offset, offset + len)`; what lies past the covered bytes is the caller's bound check to refuse.
    #[inline]
    fn verify(&self, offset: u64, len: u64) -> Result<()> {
        let Some(sealed) = self.sealed.get() else { return Ok(()) };
        if len == 0 {
            return Ok(());
        }
        let last = (offset.saturating_add(len - 1) / BLOCK).min(block_count(sealed.footer.offset).saturating_sub(1));
        for block in offset / BLOCK..=last {
            let bit = 1u64 << (block % 64);
            #[allow(clippy::cast_possible_truncation)] // bounded by `last`, an index into a Vec
            let word = &sealed.verified[(block / 64) as usize];
            if word.load(Ordering::Acquire) & bit == 0 {
                self.verify_block(sealed, block)?;
                word.fetch_or(bit, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    #[cold]
    fn verify_block(&self, sealed: &Sealed, block: u64) -> Result<()> {
        let start = block * BLOCK;
        let bytes = self.bytes(start, BLOCK.min(sealed.footer.offset - start))?;
        #[allow(clippy::cast_possible_truncation)] // an index into `blocks`
        let expected = sealed.blocks[block as usize];
        if block_hash(bytes) == expected {
            return Ok(());
        }
        Err(self.damaged(start, "this block of 64 KiB does not match its checksum"))
    }

    pub(super) fn damaged(&self, offset: u64, what: &str) -> Error {
        Error::corruption(&self.path, offset, what)
    }
}
