//! Encoding a batch of rows into frames. Bytes: `docs/FORMAT.md`.
//!
//! Invariants:
//! 1. An encoded batch knows no LSN: row `i` carries its offset from the frame's first LSN, so that batches are encoded
//!    and hashed outside every lock.
//! 2. A payload is at most [`MAX_PAYLOAD`] long; a longer batch is several frames, all but the last flagged MORE.
//!
//! Threading: a builder belongs to one thread.

use nopokedb_kernels::cast::bytes_of;
use xxhash_rust::xxh3::Xxh3Default;

use super::format::{
    ALIGN, ALIGN_SIZE, FRAME_HEADER_LEN, MAX_PAYLOAD, MAX_PAYLOAD_SIZE, ROW_LEN, ROW_SIZE as ROW, payload_len,
    vectors_at,
};
use super::frame::{HAS_DOCUMENT, HAS_KEY, HAS_METADATA, NewRowRef, RowEntry};
use crate::error::{Error, Result};
use crate::types::CollectionId;

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

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
