//! Rows in a frame: encoding a batch, and reading rows out of a payload. Bytes: `docs/FORMAT.md`.
//!
//! Invariants:
//! 1. An encoded batch knows no LSN: row `i` carries its offset from the frame's first LSN, so that batches are encoded
//!    and hashed outside every lock.
//! 2. A payload is at most [`MAX_PAYLOAD`] long; a longer batch is several frames, all but the last flagged MORE.
//! 3. Reading never panics, whatever the bytes: each length is checked against what is there before it is used.
//!
//! Threading: a builder belongs to one thread; a view is a borrow of immutable bytes.

use std::path::Path;

use nopokedb_kernels::cast::{bytes_of, floats_of};
use xxhash_rust::xxh3::Xxh3Default;

use super::format::{
    ALIGN, ALIGN_SIZE, FRAME_HEADER_LEN, FrameHeader, FrameKind, MAX_PAYLOAD, MAX_PAYLOAD_SIZE, ROW_LEN, ROW_SIZE,
    payload_len, take, u16_at, u32_at, u64_at, vectors_at,
};
use crate::error::{Error, Result};
use crate::types::{CollectionId, Lsn, RecordId};

/// What a row does to its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    /// The whole record from now on.
    Put,
    /// The record is gone.
    Delete,
}

impl RowKind {
    fn code(self) -> u8 {
        match self {
            RowKind::Put => 1,
            RowKind::Delete => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [RowKind::Put, RowKind::Delete].into_iter().find(|k| k.code() == code)
    }
}

const HAS_METADATA: u8 = 1;
const HAS_DOCUMENT: u8 = 2;
const HAS_KEY: u8 = 4;
/// Row table entry of a row without a vector.
const NO_VECTOR: u32 = u32::MAX;
const ROW: usize = ROW_SIZE;

/// A row to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NewRowRef<'a> {
    pub(crate) kind: RowKind,
    pub(crate) id: RecordId,
    pub(crate) key: Option<&'a str>,
    pub(crate) metadata: Option<&'a str>,
    pub(crate) document: Option<&'a str>,
    pub(crate) vector: Option<&'a [f32]>,
    /// When the record expires, in Unix milliseconds; 0 is never.
    pub(crate) expires_ms: i64,
}

/// A row as it stands in a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RowView<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) id: RecordId,
    pub(crate) kind: RowKind,
    pub(crate) key: Option<&'a str>,
    pub(crate) metadata: Option<&'a str>,
    pub(crate) document: Option<&'a str>,
    /// Where the vector's bytes start in the segment's file.
    pub(crate) vector_offset: Option<u64>,
    pub(crate) vector: Option<&'a [f32]>,
    pub(crate) expires_ms: i64,
}

/// One entry of the row table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowEntry {
    pub(crate) id: u64,
    pub(crate) lsn_offset: u32,
    pub(crate) kind: RowKind,
    flags: u8,
    key_len: u16,
    pub(crate) arena_off: u32,
    meta_len: u32,
    doc_len: u32,
    pub(crate) vector: Option<u32>,
    expires_ms: i64,
}

impl RowEntry {
    fn encode(&self) -> [u8; ROW] {
        let mut out = [0; ROW];
        out[0..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..12].copy_from_slice(&self.lsn_offset.to_le_bytes());
        out[12] = self.kind.code();
        out[13] = self.flags;
        out[14..16].copy_from_slice(&self.key_len.to_le_bytes());
        out[16..20].copy_from_slice(&self.arena_off.to_le_bytes());
        out[20..24].copy_from_slice(&self.meta_len.to_le_bytes());
        out[24..28].copy_from_slice(&self.doc_len.to_le_bytes());
        out[28..32].copy_from_slice(&self.vector.unwrap_or(NO_VECTOR).to_le_bytes());
        out[32..40].copy_from_slice(&self.expires_ms.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<RowEntry> {
        let vector = u32_at(bytes, 28);
        Some(RowEntry {
            id: u64_at(bytes, 0),
            lsn_offset: u32_at(bytes, 8),
            kind: RowKind::from_code(bytes[12])?,
            flags: bytes[13],
            key_len: u16_at(bytes, 14),
            arena_off: u32_at(bytes, 16),
            meta_len: u32_at(bytes, 20),
            doc_len: u32_at(bytes, 24),
            vector: (vector != NO_VECTOR).then_some(vector),
            expires_ms: i64::from_le_bytes(take(bytes, 32)),
        })
    }

    /// Bytes of key, metadata and document together.
    pub(crate) fn text_len(&self) -> u64 {
        u64::from(self.key_len) + u64::from(self.meta_len) + u64::from(self.doc_len)
    }
}

/// One encoded payload, and the header fields that follow from it.
#[derive(Debug)]
pub(crate) struct EncodedFrame {
    pub(crate) rows: u32,
    pub(crate) vectors: u32,
    pub(crate) arena_len: u32,
    pub(crate) payload_len: u64,
    pub(crate) payload_hash: [u8; 16],
    /// Offset of the last row's LSN from the first row's.
    pub(crate) lsn_span: u32,
    table: Vec<u8>,
    arena: Vec<u8>,
    floats: Vec<f32>,
}

impl EncodedFrame {
    /// The payload, in the pieces it was built in.
    pub(crate) fn payload(&self) -> [&[u8]; 3] {
        [&self.table, &self.arena, bytes_of(&self.floats)]
    }
}

/// Encoded rows that become durable together or not at all.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) collection: CollectionId,
    pub(crate) dim: u16,
    pub(crate) frames: Vec<EncodedFrame>,
}

impl Batch {
    /// Rows in all frames.
    pub(crate) fn rows(&self) -> u64 {
        self.frames.iter().map(|f| u64::from(f.rows)).sum()
    }

    /// Bytes of all frames with their headers.
    pub(crate) fn len(&self) -> u64 {
        self.frames.iter().map(|f| FRAME_HEADER_LEN + f.payload_len).sum()
    }
}

/// Encodes rows into a [`Batch`].
#[derive(Debug)]
pub(crate) struct FrameBuilder {
    collection: CollectionId,
    dim: u16,
    limit: u64,
    done: Vec<EncodedFrame>,
    rows: u32,
    vectors: u32,
    lsn_span: u32,
    table: Vec<u8>,
    arena: Vec<u8>,
    floats: Vec<f32>,
}

impl FrameBuilder {
    /// A builder of rows of one collection.
    pub(crate) fn new(collection: CollectionId, dim: u16) -> Self {
        Self::with_limit(collection, dim, MAX_PAYLOAD)
    }

    /// A builder whose frames are cut at `limit` payload bytes (a longer single row still fits, up to [`MAX_PAYLOAD`]).
    pub(crate) fn with_limit(collection: CollectionId, dim: u16, limit: u64) -> Self {
        let empty = (Vec::new(), Vec::new(), Vec::new());
        let (done, (table, arena, floats)) = (Vec::new(), empty);
        FrameBuilder { collection, dim, limit, done, rows: 0, vectors: 0, lsn_span: 0, table, arena, floats }
    }

    /// Makes room for `rows` rows with `arena_bytes` of keys, metadata and documents.
    pub(crate) fn reserve(&mut self, rows: usize, arena_bytes: usize) {
        let per_row = ROW + usize::from(self.dim) * 4;
        let rows = rows.min(MAX_PAYLOAD_SIZE / per_row + 1);
        self.table.reserve(rows * ROW);
        self.arena.reserve(arena_bytes.min(MAX_PAYLOAD_SIZE) + ALIGN_SIZE);
        self.floats.reserve(rows * usize::from(self.dim) + ALIGN_SIZE / 4);
    }

    /// Adds a row. Refuses what no frame can hold; the builder stays as it was then.
    pub(crate) fn push(&mut self, row: &NewRowRef<'_>) -> Result<()> {
        self.push_spaced(row, 1)
    }

    /// Adds a row whose LSN is `gap` after the previous row's (ignored for the first row of a frame).
    /// `gap` is 1 except in a compaction, which must call [`FrameBuilder::cut`] where a gap exceeds 32 bits.
    pub(crate) fn push_spaced(&mut self, row: &NewRowRef<'_>, gap: u32) -> Result<()> {
        let fields = [row.key, row.metadata, row.document].map(|f| f.unwrap_or(""));
        let text: u64 = fields.iter().map(|f| f.len() as u64).sum();
        let vector = row.vector.unwrap_or(&[]);
        if row.vector.is_some() && vector.len() != usize::from(self.dim) {
            return Err(Error::dimension(usize::from(self.dim), vector.len()));
        }
        let alone = ROW_LEN + text + vector.len() as u64 * 4 + 2 * ALIGN;
        if alone > MAX_PAYLOAD {
            let message = format!("a record must take at most {MAX_PAYLOAD} bytes, this one takes {alone}");
            return Err(Error::argument(message));
        }
        let key_len = u16::try_from(fields[0].len())
            .map_err(|_| Error::argument(format!("a key must take at most 65535 bytes, got {}", fields[0].len())))?;
        let used = self.table.len() as u64 + self.arena.len() as u64 + self.floats.len() as u64 * 4;
        if self.rows > 0 && (used + alone > self.limit || self.lsn_span.checked_add(gap).is_none()) {
            self.cut();
        }
        if self.rows > 0 {
            self.lsn_span += gap;
        }
        let flag = |field: Option<&str>, bit| if field.is_some() { bit } else { 0 };
        let entry = RowEntry {
            id: row.id.0,
            lsn_offset: self.lsn_span,
            kind: row.kind,
            flags: flag(row.metadata, HAS_METADATA) | flag(row.document, HAS_DOCUMENT) | flag(row.key, HAS_KEY),
            key_len,
            arena_off: bounded(self.arena.len()),
            meta_len: bounded(fields[1].len()),
            doc_len: bounded(fields[2].len()),
            vector: row.vector.map(|_| self.vectors),
            expires_ms: row.expires_ms,
        };
        self.table.extend_from_slice(&entry.encode());
        fields.iter().for_each(|f| self.arena.extend_from_slice(f.as_bytes()));
        self.floats.extend_from_slice(vector);
        self.vectors += u32::from(row.vector.is_some());
        self.rows += 1;
        Ok(())
    }

    /// Ends the current frame, if it has rows.
    pub(crate) fn cut(&mut self) {
        if self.rows == 0 {
            return;
        }
        let arena_len = bounded(self.arena.len());
        let head = self.table.len() as u64 + self.arena.len() as u64;
        let pad = vectors_at(self.rows, arena_len) - head;
        self.arena.resize(self.arena.len() + bounded(pad) as usize, 0);
        self.floats.resize(self.floats.len().next_multiple_of(ALIGN_SIZE / 4), 0.0);
        let (table, arena, floats) =
            (std::mem::take(&mut self.table), std::mem::take(&mut self.arena), std::mem::take(&mut self.floats));
        let mut hash = Xxh3Default::new();
        for piece in [&table[..], &arena, bytes_of(&floats)] {
            hash.update(piece);
        }
        let payload_len = payload_len(self.rows, arena_len, self.vectors, self.dim);
        debug_assert_eq!(payload_len, (table.len() + arena.len() + floats.len() * 4) as u64);
        self.done.push(EncodedFrame {
            rows: self.rows,
            vectors: self.vectors,
            arena_len,
            payload_len,
            payload_hash: hash.digest128().to_le_bytes(),
            lsn_span: self.lsn_span,
            table,
            arena,
            floats,
        });
        (self.rows, self.vectors, self.lsn_span) = (0, 0, 0);
    }

    /// The collection of its rows.
    pub(crate) fn collection(&self) -> CollectionId {
        self.collection
    }

    /// The dimension of its rows.
    pub(crate) fn dim(&self) -> u16 {
        self.dim
    }

    /// Rows of the frame being built.
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// Frames that are complete, for a writer that drains them as it goes.
    pub(crate) fn take_done(&mut self) -> Vec<EncodedFrame> {
        std::mem::take(&mut self.done)
    }

    /// The batch. One without rows has no frames.
    pub(crate) fn finish(mut self) -> Batch {
        self.cut();
        Batch { collection: self.collection, dim: self.dim, frames: self.done }
    }
}

/// A length inside a payload, which [`MAX_PAYLOAD`] keeps below 2^32.
fn bounded<N: TryInto<u32>>(n: N) -> u32 {
    n.try_into().ok().expect("lengths inside a payload are below MAX_PAYLOAD")
}

/// Where a frame is and what its header counted; enough to read its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameMeta {
    /// Where its header starts in the segment's file.
    pub(crate) offset: u64,
    pub(crate) lsn_first: Lsn,
    pub(crate) lsn_last: Lsn,
    pub(crate) payload_len: u64,
    pub(crate) rows: u32,
    pub(crate) vectors: u32,
    pub(crate) arena_len: u32,
    pub(crate) collection: CollectionId,
    pub(crate) dim: u16,
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
}

impl FrameMeta {
    /// What a header at `offset` says.
    pub(crate) fn new(offset: u64, header: &FrameHeader) -> Self {
        FrameMeta {
            offset,
            lsn_first: header.lsn_first,
            lsn_last: header.lsn_last,
            payload_len: header.payload_len,
            rows: header.rows,
            vectors: header.vectors,
            arena_len: header.arena_len,
            collection: header.collection,
            dim: header.dim,
            kind: header.kind,
            flags: header.flags,
        }
    }

    /// Where the payload starts in the file.
    pub(crate) fn payload_at(&self) -> u64 {
        self.offset + FRAME_HEADER_LEN
    }

    /// Where the arena starts in the file.
    pub(crate) fn arena_at(&self) -> u64 {
        self.payload_at() + u64::from(self.rows) * ROW_LEN
    }

    /// Where the vectors start in the file.
    pub(crate) fn vectors_at(&self) -> u64 {
        self.payload_at() + vectors_at(self.rows, self.arena_len)
    }

    /// Bytes of one vector.
    pub(crate) fn vector_len(&self) -> u64 {
        u64::from(self.dim) * 4
    }

    /// Where the payload ends in the file.
    pub(crate) fn payload_end(&self) -> u64 {
        self.payload_at() + self.payload_len
    }
}

/// A frame's rows, read in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameView<'a> {
    file: &'a Path,
    meta: FrameMeta,
    payload: &'a [u8],
}

impl<'a> FrameView<'a> {
    /// A view of `payload`, which `meta` describes; `file` is for the words of errors.
    pub(crate) fn new(file: &'a Path, meta: FrameMeta, payload: &'a [u8]) -> Result<Self> {
        let counted = payload_len(meta.rows, meta.arena_len, meta.vectors, meta.dim);
        if meta.payload_len != counted || payload.len() as u64 != counted {
            return Err(Error::corruption(file, meta.offset, "the frame's counts do not add up to its length"));
        }
        if payload.as_ptr().align_offset(align_of::<f32>()) != 0 {
            return Err(Error::corruption(file, meta.offset, "the frame is not aligned"));
        }
        Ok(FrameView { file, meta, payload })
    }

    /// Where the frame is and what it counts.
    pub(crate) fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    /// The collection of all its rows.
    pub(crate) fn collection(&self) -> CollectionId {
        self.meta.collection
    }

    /// How many rows it has.
    pub(crate) fn len(&self) -> u32 {
        self.meta.rows
    }

    /// All rows, in LSN order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<RowView<'a>>> + use<'a> {
        let view = *self;
        (0..self.meta.rows).map(move |i| view.row(i))
    }

    /// Row `i`.
    pub(crate) fn row(&self, i: u32) -> Result<RowView<'a>> {
        let entry = self.entry(i)?;
        self.resolve(i, &entry)
    }

    /// The table entry of row `i`.
    pub(crate) fn entry(&self, i: u32) -> Result<RowEntry> {
        if i >= self.meta.rows {
            return Err(self.damaged(i, "the row is beyond the frame's last"));
        }
        let at = i as usize * ROW;
        RowEntry::decode(&self.payload[at..at + ROW]).ok_or_else(|| self.damaged(i, "the row's kind is unknown"))
    }

    /// The LSN of an entry's row.
    pub(crate) fn lsn(&self, entry: &RowEntry) -> Lsn {
        self.meta.lsn_first.plus(u64::from(entry.lsn_offset))
    }

    /// Where an entry's vector is in the segment, if it has one.
    pub(crate) fn vector_offset(&self, entry: &RowEntry) -> Result<Option<u64>> {
        match entry.vector {
            None => Ok(None),
            Some(v) if v < self.meta.vectors => {
                Ok(Some(self.meta.vectors_at() + u64::from(v) * self.meta.vector_len()))
            }
            Some(_) => Err(self.damaged(0, "a row's vector is beyond the frame's last")),
        }
    }

    /// The row that entry `i` describes.
    pub(crate) fn resolve(&self, i: u32, entry: &RowEntry) -> Result<RowView<'a>> {
        let arena = self.meta.rows as usize * ROW;
        let start = arena + entry.arena_off as usize;
        if u64::from(entry.arena_off) + entry.text_len() > u64::from(self.meta.arena_len) {
            return Err(self.damaged(i, "the row's text reaches beyond its frame"));
        }
        let mut rest = &self.payload[start..];
        let mut text = |len: usize, bit: u8| {
            let (bytes, tail) = rest.split_at(len);
            rest = tail;
            match entry.flags & bit {
                0 => Ok(None),
                _ => std::str::from_utf8(bytes).map(Some).map_err(|_| self.damaged(i, "the row's text is not UTF-8")),
            }
        };
        let key = text(usize::from(entry.key_len), HAS_KEY)?;
        let metadata = text(entry.meta_len as usize, HAS_METADATA)?;
        let document = text(entry.doc_len as usize, HAS_DOCUMENT)?;
        let (vector_offset, vector) = match entry.vector {
            Some(v) if v < self.meta.vectors => {
                let at = self.meta.vectors_at() + u64::from(v) * self.meta.vector_len();
                let from = bounded(at - self.meta.payload_at()) as usize;
                let bytes = &self.payload[from..from + usize::from(self.meta.dim) * 4];
                (Some(at), floats_of(bytes))
            }
            Some(_) => return Err(self.damaged(i, "the row's vector is beyond the frame's last")),
            None => (None, None),
        };
        Ok(RowView {
            lsn: self.meta.lsn_first.plus(u64::from(entry.lsn_offset)),
            id: RecordId(entry.id),
            kind: entry.kind,
            key,
            metadata,
            document,
            vector_offset,
            vector,
            expires_ms: entry.expires_ms,
        })
    }

    fn damaged(&self, row: u32, what: &str) -> Error {
        Error::corruption(self.file, self.meta.payload_at() + u64::from(row) * ROW_LEN, what)
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
