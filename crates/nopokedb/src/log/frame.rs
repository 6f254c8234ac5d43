//! Rows in a frame, read in place. Bytes: `docs/FORMAT.md`.
//!
//! Invariants:
//! 1. Reading never panics, whatever the bytes: each length is checked against what is there before it is used.
//! 2. What is handed out borrows the segment's bytes; nothing is copied.
//!
//! Threading: a view is a borrow of immutable bytes.

use std::path::Path;

use nopokedb_kernels::cast::floats_of;

use super::format::{
    FRAME_HEADER_LEN, FrameHeader, FrameKind, ROW_LEN, ROW_SIZE as ROW, payload_len, take, u16_at, u32_at, u64_at,
    vectors_at,
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

pub(super) const HAS_METADATA: u8 = 1;
pub(super) const HAS_DOCUMENT: u8 = 2;
pub(super) const HAS_KEY: u8 = 4;
/// Row table entry of a row without a vector.
const NO_VECTOR: u32 = u32::MAX;

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

impl NewRowRef<'static> {
    /// The row that deletes a record. It has no key: what is deleted leaves nothing of itself.
    pub(crate) fn delete(id: RecordId) -> Self {
        let (kind, key, metadata, document, vector) = (RowKind::Delete, None, None, None, None);
        NewRowRef { kind, id, key, metadata, document, vector, expires_ms: 0 }
    }
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
    pub(super) flags: u8,
    pub(super) key_len: u16,
    pub(crate) arena_off: u32,
    pub(super) meta_len: u32,
    pub(super) doc_len: u32,
    pub(crate) vector: Option<u32>,
    pub(crate) expires_ms: i64,
}

impl RowEntry {
    pub(super) fn encode(&self) -> [u8; ROW] {
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
        let entry = RowEntry::decode(&self.payload[at..at + ROW]);
        let entry = entry.ok_or_else(|| self.damaged(i, "the row's kind is unknown"))?;
        match self.meta.lsn_first.0.checked_add(u64::from(entry.lsn_offset)) {
            Some(lsn) if lsn <= self.meta.lsn_last.0 => Ok(entry),
            _ => Err(self.damaged(i, "the row's number is not among those of its frame")),
        }
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
                let from = usize::try_from(at - self.meta.payload_at()).expect("a payload is below MAX_PAYLOAD");
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
