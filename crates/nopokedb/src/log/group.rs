//! A group: the frames that are written and synced together, from encoded batches to the slices of one write.
//!
//! Invariants:
//! 1. It starts and ends on a 4 KiB boundary of the file, and its last frame says so (GROUP_END).
//! 2. Each frame is linked to the one before it, and carries that everything before the group is durable.
//!
//! Threading: a value.

use super::encode::Batch;
use super::format::{
    Chain, FLAG_GROUP_END, FLAG_MORE, FRAME_HEADER_LEN, FRAME_HEADER_SIZE, FrameHeader, FrameKind, PAGE, Salt,
    align_up, hash128,
};
use super::frame::FrameMeta;
use crate::types::Lsn;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Where and as what a group begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) offset: u64,
    pub(super) chain: Chain,
    pub(super) next_lsn: Lsn,
    pub(super) salt: Salt,
    pub(super) unix_ms: i64,
}

/// A frame ready to be written.
#[derive(Debug)]
struct Stamped<'a> {
    header: [u8; FRAME_HEADER_SIZE],
    payload: [&'a [u8]; 3],
    meta: FrameMeta,
}

/// Frames that are written and synced together, and what follows them.
#[derive(Debug)]
pub(super) struct Group<'a> {
    start: Start,
    frames: Vec<Stamped<'a>>,
    /// Bytes, the padding at the end included.
    pub(super) len: u64,
    /// Chain value after the last frame.
    pub(super) chain: Chain,
    /// The LSN after the last row.
    pub(super) next_lsn: Lsn,
}

impl<'a> Group<'a> {
    fn new(start: Start) -> Self {
        Group { start, frames: Vec::new(), len: 0, chain: start.chain, next_lsn: start.next_lsn }
    }

    /// The batches one after the other. Without any rows the group is empty.
    pub(super) fn of_batches(start: Start, batches: &'a [Batch]) -> Self {
        let mut group = Group::new(start);
        let last = batches.iter().rposition(|b| !b.frames.is_empty());
        for (b, batch) in batches.iter().enumerate() {
            for (f, frame) in batch.frames.iter().enumerate() {
                let more = f + 1 < batch.frames.len();
                let flags = match (more, Some(b) == last) {
                    (true, _) => FLAG_MORE,
                    (false, true) => FLAG_GROUP_END,
                    (false, false) => 0,
                };
                let header = FrameHeader {
                    flags,
                    dim: batch.dim,
                    lsn_last: group.next_lsn.plus(u64::from(frame.lsn_span)),
                    rows: frame.rows,
                    collection: batch.collection,
                    payload_len: frame.payload_len,
                    payload_hash: frame.payload_hash,
                    arena_len: frame.arena_len,
                    vectors: frame.vectors,
                    ..group.header(FrameKind::Rows)
                };
                group.push(header, frame.payload());
            }
        }
        group.len = align_up(group.len, PAGE);
        group
    }

    /// A single frame without rows; a SEAL names its `successor`.
    pub(super) fn without_rows(start: Start, kind: FrameKind, successor: u32) -> Self {
        let mut group = Group::new(start);
        let header = FrameHeader { next_segment: successor, ..group.header(kind) };
        group.push(header, [&[]; 3]);
        group.len = align_up(group.len, PAGE);
        group
    }

    /// The header of a frame without rows that goes next.
    fn header(&self, kind: FrameKind) -> FrameHeader {
        let Start { offset, next_lsn, unix_ms, .. } = self.start;
        let durable_lsn = Lsn(next_lsn.0 - 1);
        FrameHeader { durable_lsn, ..FrameHeader::without_rows(kind, self.next_lsn, self.chain, offset, unix_ms) }
    }

    fn push(&mut self, header: FrameHeader, payload: [&'a [u8]; 3]) {
        let meta = FrameMeta::new(self.start.offset + self.len, &header);
        let bytes = header.encode(&self.start.salt);
        self.chain = hash128(&bytes);
        self.next_lsn = header.lsn_last.plus(1);
        self.len += FRAME_HEADER_LEN + header.payload_len;
        self.frames.push(Stamped { header: bytes, payload, meta });
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Where its frames will be and what they count.
    pub(super) fn frames(&self) -> impl Iterator<Item = FrameMeta> {
        self.frames.iter().map(|f| f.meta)
    }

    /// The slices of the frames, of the padding, and of `ahead` zeros more.
    pub(super) fn pieces(&self, ahead: u64) -> Vec<&[u8]> {
        let mut out: Vec<&[u8]> = Vec::with_capacity(self.frames.len() * 4 + 20);
        let mut len = 0;
        for frame in &self.frames {
            out.push(&frame.header);
            out.extend(frame.payload.iter().filter(|p| !p.is_empty()));
            len += FRAME_HEADER_LEN + frame.meta.payload_len;
        }
        let mut zeros = usize::try_from(self.len - len + ahead).expect("a group and the zeros behind it fit in memory");
        while zeros > 0 {
            let n = zeros.min(ZEROS.len());
            out.push(&ZEROS[..n]);
            zeros -= n;
        }
        out
    }
}
