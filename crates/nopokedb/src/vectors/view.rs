//! What a reader sees: a fixed prefix of the log, published whole.
//!
//! Invariants:
//! 1. A snapshot is published only after the log's fdatasync of everything in it: no read returns a row that a crash
//!    could take back.
//! 2. A batch is in a snapshot entirely or not at all (rows carry the LSN they died at; see `rows.rs`).
//! 3. Snapshots only grow: `len` and `lsn` never go back.
//! 4. A view is of one instant: a row that has expired by then is not in it, and not among its live ones.
//!
//! Threading: readers load one pointer; they never lock and never wait for a writer.

use crate::error::Result;
use crate::log::RowView;
use crate::log::Segment;
use crate::types::{Lsn, Slot};
use crate::vectors::expiry::NEVER;
use crate::vectors::rows::{Rows, SegmentTable, SharedSegments};
use crate::vectors::{VectorSource, Visibility};
use std::sync::Arc;

/// One published state of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Slots below this exist.
    pub(crate) len: u32,
    /// The last LSN applied.
    pub(crate) lsn: Lsn,
    /// How many rows are live. In a published snapshot those that have expired and are not deleted yet count; in a view they
    /// do not.
    pub(crate) live: u32,
    /// How many of the stored rows expire before `next_expiry_ms`.
    pub(crate) expired: u32,
    /// When the next one does, in Unix milliseconds.
    pub(crate) next_expiry_ms: i64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot { len: 0, lsn: Lsn(0), live: 0, expired: 0, next_expiry_ms: NEVER }
    }
}

/// A snapshot together with the means to read its rows.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) snapshot: Snapshot,
    pub(crate) rows: &'a Rows,
    pub(crate) segments: arc_swap::Guard<Arc<SegmentTable>>,
    /// The instant it is of, in Unix milliseconds; 0 where no row expires, and where expired ones are to be seen.
    pub(crate) now_ms: i64,
}

impl View<'_> {
    /// This as it was at `lsn`, if it has gone on since.
    pub(crate) fn back_at(mut self, lsn: Lsn) -> Self {
        let Snapshot { len, lsn: now, .. } = self.snapshot;
        if lsn < now {
            let (mut low, mut high) = (0, len);
            while low < high {
                let middle = low + (high - low) / 2;
                if self.rows.lsn(Slot(middle)) <= lsn { low = middle + 1 } else { high = middle }
            }
            self.snapshot = Snapshot { len: low, lsn, ..self.snapshot };
            let live = (0..low).filter(|&slot| self.is_live(Slot(slot))).count();
            self.snapshot.live = u32::try_from(live).unwrap_or(low);
        }
        self
    }

    /// Calls `read` with the row of a live slot as it stands in the log.
    pub(crate) fn with_row<R>(&self, slot: Slot, read: impl FnOnce(RowView<'_>) -> Result<R>) -> Result<Option<R>> {
        self.rows.with_segment(slot, &self.segments, |segment, offset| read(segment.row_at_vector(offset)?))
    }

    /// Asks the CPU for what [`View::with_row`] will read of these rows beside their vectors: of all before any is read, so
    /// that their memory comes at the same time.
    pub(crate) fn prefetch_rows(&self, rows: &[(f32, Slot)]) {
        for ask in [Segment::prefetch_entry, Segment::prefetch_text] {
            for loc in rows.iter().map(|row| self.rows.loc(row.1)) {
                if let Some(segment) = self.segments.get(loc.segment()) {
                    ask(segment, loc.offset());
                }
            }
        }
    }

    /// Whether the key of a slot's record is `key`; `None` if compaction has dropped the row.
    pub(crate) fn has_key(&self, slot: Slot, key: &str) -> Result<Option<bool>> {
        let read = |segment: &Arc<Segment>, offset| Ok(segment.text_at_vector(offset)?.key == Some(key));
        self.rows.with_segment(slot, &self.segments, read)
    }

    /// Calls `read` with the metadata of a slot; `None` if compaction has dropped the row.
    pub(crate) fn with_metadata<R>(&self, slot: Slot, read: impl FnOnce(Option<&str>) -> R) -> Result<Option<R>> {
        let read = |segment: &Arc<Segment>, offset| Ok(read(segment.text_at_vector(offset)?.metadata));
        self.rows.with_segment(slot, &self.segments, read)
    }
}

impl Visibility for View<'_> {
    #[inline]
    fn len(&self) -> u32 {
        self.snapshot.len
    }

    #[inline]
    fn is_live(&self, slot: Slot) -> bool {
        self.rows.alive_at(slot, self.snapshot.lsn) && (self.now_ms == 0 || !self.rows.expired(slot, self.now_ms))
    }

    fn all_live(&self) -> bool {
        self.snapshot.live == self.snapshot.len && self.now_ms == 0
    }
}

/// The rows of a collection as the index reads them: always through the current segment table.
#[derive(Debug)]
pub(crate) struct StoredVectors {
    pub(crate) rows: Arc<Rows>,
    pub(crate) segments: SharedSegments,
}

impl VectorSource for StoredVectors {
    fn with_vector(&self, slot: Slot, f: &mut dyn FnMut(&[f32])) -> Result<()> {
        let table = self.segments.load();
        self.rows.with_segment(slot, &table, |segment, offset| {
            f(segment.vector(offset, self.rows.dim())?);
            Ok(())
        })?;
        Ok(())
    }

    fn prefetch_place(&self, slot: u32) {
        self.rows.prefetch(Slot(slot));
    }

    fn prefetch(&self, slots: &[u32]) {
        let table = self.segments.load();
        for &slot in slots {
            let loc = self.rows.loc(Slot(slot));
            if let Some(segment) = table.get(loc.segment()) {
                segment.prefetch_vector(loc.offset(), self.rows.dim());
            }
        }
    }

    fn lost_any(&self) -> bool {
        self.rows.lost_any()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }
}
