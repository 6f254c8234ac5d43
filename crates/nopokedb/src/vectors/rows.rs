//! What is known about every slot of a collection: its id, its LSN, where its vector lies, and when it died.
//!
//! Invariants:
//! 1. Slots are dense and in LSN order; a slot's id and LSN never change.
//! 2. A slot is visible in a snapshot `(len, lsn)` iff `slot < len` and it had not died at `lsn`. So a reader with an older
//!    snapshot still sees the row that a newer upsert replaced: a batch appears as a whole or not at all.
//! 3. A location names a segment that is in the current [`SegmentTable`], or is [`GONE`] (dead, and compacted away).
//!    Compaction publishes the new segments first, then moves locations, then retires the old segments; so a reader whose
//!    table lacks a location's segment finds it in the current table.
//!
//! Threading: one writer (the commit leader, or compaction under the same lock); any number of readers, no locks.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use arc_swap::ArcSwap;

use super::chunked::ChunkedU64;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Segment;
use crate::types::{Lsn, RecordId, SegmentNo, Slot};

/// A row's place: segment number in the upper 24 bits, byte offset of its vector in the lower 40.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Loc(pub(crate) u64);

/// The location of a dead row whose bytes compaction has dropped.
pub(crate) const GONE: Loc = Loc(u64::MAX);

const OFFSET_BITS: u32 = 40;

impl Loc {
    /// The place `offset` bytes into segment `no`.
    pub(crate) fn new(no: SegmentNo, offset: u64) -> Loc {
        debug_assert!(offset < 1 << OFFSET_BITS && no.0 < 1 << 24);
        Loc(u64::from(no.0) << OFFSET_BITS | offset)
    }

    /// The segment.
    pub(crate) fn segment(self) -> SegmentNo {
        #[allow(clippy::cast_possible_truncation)] // 64 - 40 = 24 bits are left
        SegmentNo((self.0 >> OFFSET_BITS) as u32)
    }

    /// The byte offset of the vector in the segment's file.
    pub(crate) fn offset(self) -> u64 {
        self.0 & ((1 << OFFSET_BITS) - 1)
    }
}

/// The segments that locations may name, sorted by number.
#[derive(Debug, Default)]
pub(crate) struct SegmentTable {
    segments: Vec<Arc<Segment>>,
}

impl SegmentTable {
    /// A table of these segments.
    pub(crate) fn new(mut segments: Vec<Arc<Segment>>) -> Self {
        segments.sort_by_key(|s| s.no());
        segments.dedup_by_key(|s| s.no());
        SegmentTable { segments }
    }

    /// The segment numbered `no`, if it is in use.
    pub(crate) fn get(&self, no: SegmentNo) -> Option<&Arc<Segment>> {
        self.segments.binary_search_by_key(&no, |s| s.no()).ok().map(|i| &self.segments[i])
    }

    /// All segments, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter()
    }
}

/// The current table of a database, shared by its collections.
pub(crate) type SharedSegments = Arc<ArcSwap<SegmentTable>>;

/// Per-slot facts of one collection.
#[derive(Debug)]
pub(crate) struct Rows {
    dim: usize,
    ids: ChunkedU64,
    lsns: ChunkedU64,
    locs: ChunkedU64,
    /// LSN at which the slot died; 0 while it lives.
    died: ChunkedU64,
    /// When the slot's row expires, in Unix milliseconds; 0 is never. Nothing is reserved before the first row that expires.
    expires: ChunkedU64,
    /// Whether a row expires.
    expiring: AtomicBool,
    /// How often slots lost their bytes while the graph may still lead to them, and how many of these times nothing leads to
    /// them any more. A repair of the graph that overlaps with a loss does not make up for it.
    losses: AtomicU64,
    losses_mended: AtomicU64,
    /// The slots there is room for.
    reserved: AtomicUsize,
    segments: SharedSegments,
}

impl Rows {
    /// No rows yet.
    pub(crate) fn new(dim: usize, segments: SharedSegments) -> Self {
        Rows {
            dim,
            ids: ChunkedU64::new(),
            lsns: ChunkedU64::new(),
            locs: ChunkedU64::new(),
            died: ChunkedU64::new(),
            expires: ChunkedU64::new(),
            expiring: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            losses_mended: AtomicU64::new(0),
            reserved: AtomicUsize::new(0),
            segments,
        }
    }

    /// Asks the CPU for where a slot's row is and whether it lives. A hint.
    pub(crate) fn prefetch(&self, slot: Slot) {
        self.locs.prefetch(slot.index());
        self.died.prefetch(slot.index());
    }

    /// The vectors' dimension.
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// Makes room for `len` slots. Writer only.
    pub(crate) fn reserve(&self, len: usize) {
        for column in [&self.ids, &self.lsns, &self.locs, &self.died] {
            column.reserve(len);
        }
        self.reserved.fetch_max(len, Relaxed);
        if self.any_expires() {
            self.expires.reserve(len);
        }
    }

    /// Fills a reserved, not yet published slot. Writer only.
    pub(crate) fn set(&self, slot: Slot, id: RecordId, lsn: Lsn, loc: Loc) {
        let i = slot.index();
        self.ids.at(i).store(id.0, Relaxed);
        self.lsns.at(i).store(lsn.0, Relaxed);
        self.relocate(slot, loc);
    }

    /// Marks a slot dead from `lsn` on. Writer only.
    pub(crate) fn kill(&self, slot: Slot, lsn: Lsn) {
        debug_assert_eq!(self.died.at(slot.index()).load(Relaxed), 0, "a slot dies once");
        self.died.at(slot.index()).store(lsn.0, Release);
    }

    /// Says when a reserved, not yet published slot's row expires. Writer only.
    pub(crate) fn set_expiry(&self, slot: Slot, expires_ms: i64) {
        self.expires.reserve(self.reserved.load(Relaxed));
        self.expires.at(slot.index()).store(expires_ms.cast_unsigned(), Relaxed);
        // After the room for all: whoever sees it may look at any slot that is published.
        self.expiring.store(true, Release);
    }

    /// Whether any row expires, or once did.
    #[inline]
    pub(crate) fn any_expires(&self) -> bool {
        self.expiring.load(Acquire)
    }

    /// When the slot's row expires, in Unix milliseconds; 0 is never.
    pub(crate) fn expires(&self, slot: Slot) -> i64 {
        if self.any_expires() { self.expires.at(slot.index()).load(Relaxed).cast_signed() } else { 0 }
    }

    /// Whether the slot's row has expired at `now_ms`.
    pub(crate) fn expired(&self, slot: Slot, now_ms: i64) -> bool {
        let expires_ms = self.expires(slot);
        expires_ms != 0 && expires_ms <= now_ms
    }

    /// Points a slot to where compaction put its row (or to [`GONE`]). Under the commit lock only.
    pub(crate) fn relocate(&self, slot: Slot, loc: Loc) {
        self.locs.at(slot.index()).store(loc.0, Release);
    }

    /// Notes that slots of dead rows are about to lose their bytes, to which the graph may still lead. (Compaction drops only what
    /// it does not lead to.)
    pub(crate) fn note_loss(&self) {
        self.losses.fetch_add(1, SeqCst);
    }

    /// Whether the graph may lead to slots without bytes.
    pub(crate) fn lost_any(&self) -> bool {
        self.losses.load(SeqCst) != self.losses_mended.load(SeqCst)
    }

    /// The losses so far, for whoever looks which rows are dead after that and takes them out of the graph.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(SeqCst)
    }

    /// Notes that nothing leads to the slots of the first so many losses any more.
    pub(crate) fn mend_losses(&self, losses: u64) {
        self.losses_mended.fetch_max(losses, SeqCst);
    }

    /// The slot's external id.
    pub(crate) fn id(&self, slot: Slot) -> RecordId {
        RecordId(self.ids.at(slot.index()).load(Relaxed))
    }

    /// The LSN that wrote the slot.
    pub(crate) fn lsn(&self, slot: Slot) -> Lsn {
        Lsn(self.lsns.at(slot.index()).load(Relaxed))
    }

    /// The slot below `len` that `lsn` wrote, if there is one.
    pub(crate) fn slot_of(&self, lsn: Lsn, len: u32) -> Option<Slot> {
        let (mut low, mut high) = (0, len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.lsn(Slot(middle)) < lsn { low = middle + 1 } else { high = middle }
        }
        (low < len && self.lsn(Slot(low)) == lsn).then_some(Slot(low))
    }

    /// Where the slot's vector is now.
    pub(crate) fn loc(&self, slot: Slot) -> Loc {
        Loc(self.locs.at(slot.index()).load(Acquire))
    }

    /// The LSN at which the slot died; 0 while it lives.
    pub(crate) fn died(&self, slot: Slot) -> Lsn {
        Lsn(self.died.at(slot.index()).load(Acquire))
    }

    /// Whether the slot had not died at `lsn`.
    #[inline]
    pub(crate) fn alive_at(&self, slot: Slot, lsn: Lsn) -> bool {
        let died = self.died.at(slot.index()).load(Acquire);
        died == 0 || died > lsn.0
    }

    /// The segment of a location: in `table`, or in the current one if compaction moved the row meanwhile.
    pub(crate) fn with_segment<R>(
        &self,
        slot: Slot,
        table: &SegmentTable,
        read: impl FnOnce(&Arc<Segment>, u64) -> Result<R>,
    ) -> Result<Option<R>> {
        let loc = self.loc(slot);
        if loc == GONE {
            return Ok(None);
        }
        if let Some(segment) = table.get(loc.segment()) {
            return read(segment, loc.offset()).map(Some);
        }
        let current = self.segments.load();
        let loc = self.loc(slot);
        match current.get(loc.segment()) {
            Some(segment) => read(segment, loc.offset()).map(Some),
            None if loc == GONE => Ok(None),
            // An open database has at least the segment it writes to.
            None if current.iter().next().is_none() => Err(Error::closed()),
            None => Err(Error::new(
                ErrorKind::Corruption,
                format!(
                    "row {} points into log segment {}, which is not open; please report this",
                    self.id(slot),
                    loc.segment()
                ),
            )),
        }
    }

    /// Bytes held in memory for the slots.
    pub(crate) fn bytes(&self) -> usize {
        [&self.ids, &self.lsns, &self.locs, &self.died, &self.expires].iter().map(|c| c.bytes()).sum()
    }
}
