//! Compaction: the live rows of adjacent sealed segments, copied into one dense segment that takes their place.
//!
//! Invariants:
//! 1. The inputs are adjacent and have footers; every byte that is copied was checked against them first.
//! 2. The new segment holds exactly the rows that were asked to be kept, each with its LSN, in LSN order; so segments stay
//!    disjoint and ordered.
//! 3. A DELETE is dropped only if no older segment can still hold a PUT that it kills.
//! 4. The new file has its name only when it is complete and synced, and counts only once a manifest lists it
//!    ([`Log::replace_segments`]); until then a crash leaves the inputs as they are.
//!
//! Threading: [`compact`] needs no lock and runs in the background while rows are appended and read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use xxhash_rust::xxh3::Xxh3Default;

use super::encode::{EncodedFrame, FrameBuilder};
use super::files::segment_path;
use super::footer::{BLOCK, Footer};
use super::format::{Chain, FRAME_HEADER_LEN, FrameHeader, FrameKind, SEGMENT_HEADER_LEN, SegmentHeader, hash128};
use super::frame::{FrameMeta, NewRowRef, RowKind, RowView};
use super::pick::Compaction;
use super::segment::{FooterRef, Segment};
use crate::error::{Error, IoContext, Result};
use crate::io::atomic;
use crate::io::vfs::{OpenMode, Vfs, VfsFile};
use crate::types::{CollectionId, Lsn, RecordId, SegmentNo};

/// Frames are cut at this many payload bytes.
const FRAME_LIMIT: u64 = 4 << 20;
/// Where a row's vector was and where it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) collection: CollectionId,
    pub(crate) id: RecordId,
    pub(crate) lsn: Lsn,
    pub(crate) from: (SegmentNo, u64),
    pub(crate) to: (SegmentNo, u64),
}

/// A compaction that was written and synced, and waits to be published with [`Log::replace_segments`].
#[derive(Debug)]
pub(crate) struct Compacted {
    /// The segments to be replaced.
    pub(crate) old: Vec<SegmentNo>,
    /// The segment to take their place; `None` if no row of them is kept.
    pub(crate) new: Option<Arc<Segment>>,
    /// In LSN order.
    pub(crate) moves: Vec<Move>,
    /// Rows that were not kept.
    #[allow(dead_code)] // for the tests, and for whoever reports on compactions
    pub(crate) dropped: u64,
}

/// Copies the rows for which `is_live` says so (it is asked for PUT rows, with the collection they are in), and the
/// DELETE rows of ids for which `kills` says that an older segment still has a PUT of it.
pub(crate) fn compact(
    vfs: &dyn Vfs,
    job: &Compaction,
    is_live: &dyn Fn(&RowView<'_>, CollectionId) -> bool,
    kills: &dyn Fn(RecordId, CollectionId) -> bool,
) -> Result<Compacted> {
    let old = job.inputs.iter().map(|s| s.no()).collect();
    let keep = |row: &RowView<'_>, collection| match row.kind {
        RowKind::Put => is_live(row, collection),
        RowKind::Delete => !job.drop_deletes && kills(row.id, collection),
    };
    if !any_row(job, &keep)? {
        let dropped = job.inputs.iter().map(|s| s.rows()).sum();
        return Ok(Compacted { old, new: None, moves: Vec::new(), dropped });
    }
    let path = segment_path(&job.dir, job.header.no);
    let mut outcome = None;
    let written = atomic::replace(vfs, &super::files::log_dir(&job.dir), &file_name(&path), |file| {
        let mut copy = Copy::new(file, &job.header);
        let result = copy.copy(job, &keep).and_then(|()| copy.finish(job));
        let failed = result.is_err();
        outcome = Some(result.map(|end| (end, copy.moves, copy.dropped)));
        // The error itself is in `outcome`; this one only stops the replacement.
        if failed { Err(io::Error::other("the compaction stopped")) } else { Ok(()) }
    });
    let (footer, at, moves, dropped) = match (outcome, written) {
        (Some(Err(e)), _) => return Err(e),
        (Some(Ok(((footer, at), moves, dropped))), Ok(())) => (footer, at, moves, dropped),
        (_, Err(failed)) => {
            job.directory_failed.fetch_or(failed.unsure, Ordering::AcqRel);
            return Err(failed.error);
        }
        (None, Ok(())) => return Err(Error::argument("a file was replaced without being written")),
    };
    let file = vfs.open(&path, OpenMode::Write).context("open", &path)?;
    let new = Segment::open_sealed(path, file, job.header.clone(), footer, at)?;
    Ok(Compacted { old, new: Some(Arc::new(new)), moves, dropped })
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn any_row(job: &Compaction, keep: &dyn Fn(&RowView<'_>, CollectionId) -> bool) -> Result<bool> {
    for segment in &job.inputs {
        for frame in segment.frames() {
            let frame = frame?;
            for row in frame.rows() {
                if keep(&row?, frame.collection()) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// The new file while it is written.
struct Copy<'a> {
    file: &'a dyn VfsFile,
    header: &'a SegmentHeader,
    end: u64,
    chain: Chain,
    frames: Vec<FrameMeta>,
    blocks: Blocks,
    moves: Vec<Move>,
    dropped: u64,
    /// Of the frame being built: its first LSN, its last, and the rows that have vectors, in order.
    first: Lsn,
    last: Lsn,
    pending: Vec<Move>,
}

impl<'a> Copy<'a> {
    fn new(file: &'a dyn VfsFile, header: &'a SegmentHeader) -> Self {
        let (first, last) = (Lsn(0), Lsn(0));
        let (frames, moves, pending) = (Vec::new(), Vec::new(), Vec::new());
        let blocks = Blocks::default();
        Copy { file, header, end: 0, chain: header.prev_chain, frames, blocks, moves, dropped: 0, first, last, pending }
    }

    fn copy(&mut self, job: &Compaction, keep: &dyn Fn(&RowView<'_>, CollectionId) -> bool) -> Result<()> {
        self.write(job, &[&self.header.encode()])?;
        let mut builder: Option<FrameBuilder> = None;
        for segment in &job.inputs {
            for frame in segment.frames() {
                let frame = frame?;
                let (collection, dim) = (frame.collection(), frame.meta().dim);
                if builder.as_ref().is_some_and(|b| b.collection() != collection) {
                    self.drain(job, builder.take())?;
                }
                let builder = builder.get_or_insert_with(|| FrameBuilder::with_limit(collection, dim, FRAME_LIMIT));
                for row in frame.rows() {
                    let row = row?;
                    if keep(&row, collection) {
                        self.add(job, builder, &row, segment.no())?;
                    } else {
                        self.dropped += 1;
                    }
                }
            }
        }
        self.drain(job, builder)
    }

    fn add(&mut self, job: &Compaction, builder: &mut FrameBuilder, row: &RowView<'_>, no: SegmentNo) -> Result<()> {
        let gap = u32::try_from(row.lsn.0.saturating_sub(self.last.0)).ok();
        if gap.is_none() {
            builder.cut();
        }
        let RowView { kind, id, key, metadata, document, vector, expires_ms, .. } = *row;
        let new = NewRowRef { kind, id, key, metadata, document, vector, expires_ms };
        builder.push_spaced(&new, gap.unwrap_or(1))?;
        self.write_done(job, builder)?;
        if builder.rows() == 1 {
            self.first = row.lsn;
        }
        self.last = row.lsn;
        if let Some(offset) = row.vector_offset {
            let (collection, lsn) = (builder.collection(), row.lsn);
            self.pending.push(Move { collection, id, lsn, from: (no, offset), to: (self.header.no, 0) });
        }
        Ok(())
    }

    /// Ends the frame being built and writes it.
    fn drain(&mut self, job: &Compaction, builder: Option<FrameBuilder>) -> Result<()> {
        let Some(mut builder) = builder else { return Ok(()) };
        builder.cut();
        self.write_done(job, &mut builder)
    }

    /// Writes the frames that are complete: at most one, which started at `self.first`.
    fn write_done(&mut self, job: &Compaction, builder: &mut FrameBuilder) -> Result<()> {
        for frame in builder.take_done() {
            self.write_frame(job, builder, &frame)?;
        }
        Ok(())
    }

    fn write_frame(&mut self, job: &Compaction, builder: &FrameBuilder, frame: &EncodedFrame) -> Result<()> {
        let header = FrameHeader {
            kind: FrameKind::Rows,
            flags: 0,
            dim: builder.dim(),
            lsn_first: self.first,
            lsn_last: self.first.plus(u64::from(frame.lsn_span)),
            rows: frame.rows,
            collection: builder.collection(),
            payload_len: frame.payload_len,
            durable_lsn: job.last_lsn(),
            unix_ms: self.header.created_ms,
            prev_chain: self.chain,
            payload_hash: frame.payload_hash,
            arena_len: frame.arena_len,
            vectors: frame.vectors,
            next_segment: 0,
            group_page: 1,
        };
        let meta = FrameMeta::new(self.end, &header);
        let bytes = header.encode(&self.header.salt);
        let [table, arena, floats] = frame.payload();
        self.write(job, &[&bytes, table, arena, floats])?;
        debug_assert_eq!(self.end, meta.offset + FRAME_HEADER_LEN + meta.payload_len);
        self.chain = hash128(&bytes);
        self.frames.push(meta);
        let rows_with_vectors = self.pending.drain(..frame.vectors as usize);
        let mut at = meta.vectors_at();
        self.moves.extend(rows_with_vectors.map(|row| {
            let to = (row.to.0, at);
            at += meta.vector_len();
            Move { to, ..row }
        }));
        Ok(())
    }

    fn write(&mut self, job: &Compaction, pieces: &[&[u8]]) -> Result<()> {
        self.file.write_all_at(pieces, self.end).context("write", &job.path())?;
        for piece in pieces {
            self.blocks.add(piece);
            self.end += piece.len() as u64;
        }
        Ok(())
    }

    fn finish(&mut self, job: &Compaction) -> Result<(Footer, FooterRef)> {
        let blocks = std::mem::take(&mut self.blocks).finish();
        let frames = std::mem::take(&mut self.frames);
        let footer = Footer { covered: self.end, last_lsn: job.last_lsn(), last_chain: self.chain, frames, blocks };
        debug_assert!(footer.covered > SEGMENT_HEADER_LEN);
        let (bytes, hash) = footer.encode();
        self.file.write_all_at(&[&bytes], self.end).context("write", &job.path())?;
        let file_len = self.end + bytes.len() as u64;
        let at = FooterRef { offset: footer.covered, file_len, hash };
        Ok((footer, at))
    }
}

/// Hashes of 64 KiB blocks, as bytes come.
#[derive(Default)]
struct Blocks {
    done: Vec<u64>,
    hash: Xxh3Default,
    filled: u64,
}

impl Blocks {
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK - self.filled).expect("a block is 64 KiB").min(bytes.len());
            let (now, rest) = bytes.split_at(room);
            self.hash.update(now);
            self.filled += now.len() as u64;
            if self.filled == BLOCK {
                self.done.push(self.hash.digest());
                (self.hash, self.filled) = (Xxh3Default::new(), 0);
            }
            bytes = rest;
        }
    }

    fn finish(mut self) -> Vec<u64> {
        if self.filled > 0 {
            self.done.push(self.hash.digest());
        }
        self.done
    }
}
