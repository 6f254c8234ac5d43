//! One numbering of a collection's rows by slots, with everything that hangs on it.
//!
//! Invariants:
//! 1. Within a generation slots are never renumbered or reused; rows, ids, index and snapshot speak of the same slots.
//! 2. Only the holder of the commit lock appends to or kills in a generation; background work (absorbing, repairing) only
//!    touches the index.
//! 3. A rebuild makes a new generation beside the old one and swaps it in under the commit lock; readers finish on the
//!    generation they started with.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::index::{Image, Index, IndexParams};
use crate::log::Segment;
use crate::log::{FrameView, RowKind};
use crate::query::column_pool::ColumnPool;
use crate::query::matches::FilterCache;
use crate::query::target::Calibration;
use crate::text::TextCache;
use crate::types::{Id, Lsn, RecordId, Slot};
use crate::vectors::expiry::{Expiries, NEVER};
use crate::vectors::ids::{IdMap, IdWriter};
use crate::vectors::keys::places;
use crate::vectors::rows::{GONE, Loc, Rows, SegmentTable, SharedSegments};
use crate::vectors::view::{Snapshot, StoredVectors, View};
use crate::vectors::{VectorSource, Visibility};

/// What all generations of a database have in common. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    /// Where the rows lie.
    pub(crate) segments: SharedSegments,
    /// By which rows expire.
    pub(crate) clock: Clock,
    /// What filters asked about.
    pub(crate) columns: ColumnPool,
}

impl Common {
    /// Of a database whose rows lie in `segments`.
    pub(crate) fn new(segments: SegmentTable, clock: &Clock) -> Common {
        let segments = Arc::new(ArcSwap::from_pointee(segments));
        Common { segments, clock: clock.clone(), columns: ColumnPool::default() }
    }
}

/// Rows, ids, index and published snapshot of one slot numbering.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) rows: Arc<Rows>,
    pub(crate) ids: IdMap,
    pub(crate) index: Index,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// Which slots pass the filters used last.
    pub(crate) filters: FilterCache,
    /// What it takes to reach a recall.
    pub(crate) calibration: Calibration,
    /// Which slots' documents have the words asked for last.
    pub(crate) texts: TextCache,
    common: Common,
    expiries: Expiries,
    /// How many slots were dead at the last repair of the graph.
    repaired: AtomicU32,
}

impl Generation {
    /// An empty generation.
    pub(crate) fn new(params: &IndexParams, common: &Common) -> Generation {
        Self::make(params, common, |_| (), Index::new)
    }

    /// A generation whose index goes on from an image. `fill` restores the slots of the image first, for the index may
    /// read their vectors at once.
    pub(crate) fn with_image(
        params: &IndexParams,
        common: &Common,
        image: Image,
        fill: impl FnOnce(&mut Slots<'_, '_>),
    ) -> Generation {
        Self::make(params, common, fill, |params, source| Index::with_image(params, source, image))
    }

    fn make(
        params: &IndexParams,
        common: &Common,
        fill: impl FnOnce(&mut Slots<'_, '_>),
        index: impl FnOnce(IndexParams, Arc<dyn VectorSource>) -> Index,
    ) -> Generation {
        let rows = Arc::new(Rows::new(params.dim, common.segments.clone()));
        let (ids, expiries) = (IdMap::default(), Expiries::default());
        ids.update(|ids| fill(&mut Slots { rows: &rows, ids, expiries: &expiries }));
        let source = StoredVectors { rows: rows.clone(), segments: common.segments.clone() };
        Generation {
            index: index(*params, Arc::new(source)),
            rows,
            ids,
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            filters: FilterCache::new(&common.columns),
            calibration: Calibration::default(),
            texts: TextCache::default(),
            common: common.clone(),
            expiries,
            repaired: AtomicU32::new(0),
        }
    }

    /// What an answer may hold: the current snapshot without what has expired, and the means to read its rows.
    pub(crate) fn view(&self) -> View<'_> {
        loop {
            let mut view = self.stored();
            if !self.rows.any_expires() {
                return view;
            }
            view.now_ms = self.common.clock.now_ms();
            if view.snapshot.next_expiry_ms > view.now_ms {
                view.snapshot.live -= view.snapshot.expired;
                return view;
            }
            self.settle(view.now_ms);
        }
    }

    /// What upkeep works on: all stored rows, also those that have expired and are to be deleted yet.
    pub(crate) fn stored(&self) -> View<'_> {
        // The snapshot is loaded first: segments only move forward, so the table is never older than the snapshot.
        let snapshot = **self.snapshot.load();
        View { snapshot, rows: &self.rows, segments: self.common.segments.load(), now_ms: 0 }
    }

    /// Publishes what has expired by `now_ms`.
    fn settle(&self, now_ms: i64) {
        let mut queue = self.expiries.lock();
        let snapshot = **self.snapshot.load();
        let (expired, next_expiry_ms) = queue.settle(now_ms);
        self.snapshot.store(Arc::new(Snapshot { expired, next_expiry_ms, ..snapshot }));
    }

    /// Up to `most` of the rows that have expired and are stored still.
    pub(crate) fn expired(&self, most: usize) -> Vec<RecordId> {
        self.settle(self.common.clock.now_ms());
        self.expiries.lock().passed(most).into_iter().map(|slot| self.rows.id(slot)).collect()
    }

    /// From when on rows are to be deleted because they have expired, in Unix milliseconds.
    pub(crate) fn next_expiry_ms(&self) -> i64 {
        let snapshot = **self.snapshot.load();
        if snapshot.expired > 0 { 0 } else { snapshot.next_expiry_ms }
    }

    /// Whether the row stored as `id` has expired.
    pub(crate) fn has_expired(&self, id: RecordId) -> bool {
        self.rows.any_expires()
            && self.ids.get(id).is_some_and(|slot| self.rows.expired(slot, self.common.clock.now_ms()))
    }

    /// The live row of `id`, and the record number it has or would get.
    pub(crate) fn find(&self, id: &Id) -> Result<Found> {
        self.find_beside(id, |_| false)
    }

    /// [`Generation::find`] for a batch that has `taken` some numbers for other ids.
    pub(crate) fn find_beside(&self, id: &Id, taken: impl Fn(RecordId) -> bool) -> Result<Found> {
        let now_ms = if self.rows.any_expires() { self.common.clock.now_ms() } else { 0 };
        let lives = |slot: &Slot| now_ms == 0 || !self.rows.expired(*slot, now_ms);
        let text = match id {
            Id::Int(number) => {
                let record = RecordId(*number);
                return Ok(Found { record: Some(record), slot: self.ids.get(record).filter(lives) });
            }
            Id::Text(text) => text,
        };
        let mut free = None;
        for place in places(text) {
            match self.key_at(place, text)? {
                Some((slot, true)) => return Ok(Found { record: Some(place), slot: Some(slot).filter(lives) }),
                Some((_, false)) => {}
                None => free = free.or(Some(place).filter(|&place| !taken(place))),
            }
        }
        Ok(Found { record: free, slot: None })
    }

    /// The live row of record `place`, if there is one, and whether it has that key.
    fn key_at(&self, place: RecordId, key: &str) -> Result<Option<(Slot, bool)>> {
        while let Some(slot) = self.ids.get(place) {
            // `None` here: the row was replaced and compacted away between the two look-ups.
            if let Some(equal) = self.stored().has_key(slot, key)? {
                return Ok(Some((slot, equal)));
            }
        }
        Ok(None)
    }

    /// How many visible rows below `upto` are still to go into the graph; 0 for a collection too small to have one.
    pub(crate) fn lag(&self, upto: u32) -> u32 {
        if self.index.wants_graph(upto) { upto.saturating_sub(self.index.graph_len()) } else { 0 }
    }

    /// Moves visible tail rows into the graph until done or told to stop. What walks cannot get through is taken out of it
    /// first: a row would be linked to what is near on its own side of a wall, and stay hard to find.
    pub(crate) fn absorb(&self, threads: usize, stop: &AtomicBool) -> Result<usize> {
        if self.index.has_walls() {
            self.repair(threads, stop)?;
        }
        let view = self.stored();
        self.index.absorb(view.snapshot.len, threads, &view, stop)
    }

    /// Takes the rows that are dead now out of the graph. Returns the LSN at which they were dead, or 0 if told to stop
    /// before it was done.
    pub(crate) fn repair(&self, threads: usize, stop: &AtomicBool) -> Result<Lsn> {
        let losses = self.rows.losses();
        let view = self.stored();
        let dead = view.snapshot.len - view.snapshot.live;
        if dead != self.repaired.load(Relaxed) {
            self.index.repair(threads, &view, stop)?;
            if stop.load(Relaxed) {
                return Ok(Lsn(0));
            }
            self.repaired.store(dead, Relaxed);
        }
        self.rows.mend_losses(losses);
        Ok(view.snapshot.lsn)
    }

    /// Whether so many rows died since the last repair that walks waste time on them, or cannot get through them.
    pub(crate) fn wants_repair(&self) -> bool {
        if self.index.has_walls() {
            return true;
        }
        let snapshot = **self.snapshot.load();
        let (dead, covered) = (snapshot.len - snapshot.live, self.index.graph_len());
        covered > 0 && u64::from(dead.saturating_sub(self.repaired.load(Relaxed))) * 10 > u64::from(covered)
    }

    /// Marks a slot dead from `lsn` on, and counts its row among the dead of its segment. Writer only.
    fn bury(&self, slot: Slot, lsn: Lsn) {
        self.rows.kill(slot, lsn);
        self.count_dead(slot);
    }

    /// Counts a slot's row among the dead of its segment.
    fn count_dead(&self, slot: Slot) {
        let loc = self.rows.loc(slot);
        if let Some(segment) = self.common.segments.load().get(loc.segment()).filter(|_| loc != GONE) {
            segment.add_dead(1);
        }
    }

    /// Counts every live row among the dead of its segment: the collection is dropped.
    pub(crate) fn abandon(&self) {
        let view = self.stored();
        (0..view.snapshot.len).map(Slot).filter(|&s| view.is_live(s)).for_each(|slot| self.count_dead(slot));
    }

    /// The next slot to fill. Writer only: during an apply it runs ahead of the snapshot.
    pub(crate) fn applier(&self) -> Apply<'_> {
        let snapshot = **self.snapshot.load();
        Apply { generation: self, next: snapshot.len, lsn: snapshot.lsn, expiring: Vec::new(), dead: Vec::new() }
    }
}

/// What is known about an id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The number of its record, or the one it would get; `None` for a text whose numbers all belong to other texts.
    pub(crate) record: Option<RecordId>,
    /// The slot of its live row.
    pub(crate) slot: Option<Slot>,
}

impl Found {
    /// Whether it has a live row.
    pub(crate) fn exists(&self) -> bool {
        self.slot.is_some()
    }
}

/// The slots of a generation that is being put together.
#[derive(Debug)]
pub(crate) struct Slots<'a, 'b> {
    rows: &'a Rows,
    ids: &'a mut IdWriter<'b>,
    expiries: &'a Expiries,
}

/// A row of the log, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredRow {
    pub(crate) id: RecordId,
    pub(crate) lsn: Lsn,
    pub(crate) loc: Loc,
    /// When it died; 0 while it lives.
    pub(crate) died: Lsn,
    /// When it expires, in Unix milliseconds; 0 is never.
    pub(crate) expires_ms: i64,
}

impl Slots<'_, '_> {
    /// Makes room for `len` slots.
    pub(crate) fn reserve(&self, len: usize) {
        self.rows.reserve(len);
    }

    /// Fills a reserved slot with a row. Nobody reads the generation yet.
    pub(crate) fn restore(&mut self, slot: Slot, row: &StoredRow) {
        self.rows.set(slot, row.id, row.lsn, row.loc);
        if row.loc == GONE {
            self.rows.note_loss();
        }
        if row.expires_ms != 0 {
            self.rows.set_expiry(slot, row.expires_ms);
        }
        if row.died != Lsn(0) {
            self.rows.kill(slot, row.died);
            return;
        }
        self.ids.put(row.id, slot);
        if row.expires_ms != 0 {
            self.expiries.lock().insert(slot, row.expires_ms);
        }
    }
}

/// Applies committed frames to a generation and publishes the result as one snapshot.
#[derive(Debug)]
pub(crate) struct Apply<'a> {
    generation: &'a Generation,
    next: u32,
    lsn: Lsn,
    /// Rows that expire: those that came, and those that died.
    expiring: Vec<(Slot, i64)>,
    dead: Vec<(Slot, i64)>,
}

impl Apply<'_> {
    /// Applies one durable frame: fills slots, moves ids, kills what was replaced, hands the vectors to the index's tail.
    pub(crate) fn frame(&mut self, segment: &Segment, frame: &FrameView<'_>) -> Result<()> {
        let g = self.generation;
        let first = self.next;
        let last = first.checked_add(frame.len()).ok_or_else(too_many)?;
        g.rows.reserve(last as usize);
        g.ids.update(|ids| {
            for row in frame.rows() {
                let row = row?;
                let replaced = match (row.kind, row.vector_offset) {
                    (RowKind::Put, Some(offset)) => {
                        let slot = Slot(self.next);
                        self.next += 1;
                        g.rows.set(slot, row.id, row.lsn, Loc::new(segment.no(), offset));
                        if row.expires_ms != 0 {
                            g.rows.set_expiry(slot, row.expires_ms);
                            self.expiring.push((slot, row.expires_ms));
                        }
                        ids.put(row.id, slot)
                    }
                    _ => {
                        segment.add_dead(1);
                        ids.remove(row.id)
                    }
                };
                if let Some(dead) = replaced {
                    g.bury(dead, row.lsn);
                    self.dead.extend(Some((dead, g.rows.expires(dead))).filter(|(_, expires_ms)| *expires_ms != 0));
                }
                self.lsn = self.lsn.max(row.lsn);
            }
            Ok::<_, Error>(())
        })?;
        if self.next > first {
            let meta = frame.meta();
            let floats = meta.vectors as usize * usize::from(meta.dim);
            g.index.append(Slot(first), segment.vector(meta.vectors_at(), floats)?)?;
        }
        Ok(())
    }

    /// Puts one row that is known to be the latest of its id.
    pub(crate) fn row(&mut self, row: &StoredRow, vector: &[f32]) -> Result<()> {
        let g = self.generation;
        let slot = Slot(self.next);
        self.next = self.next.checked_add(1).ok_or_else(too_many)?;
        g.rows.reserve(slot.index() + 1);
        g.ids.update(|ids| Slots { rows: &g.rows, ids, expiries: &g.expiries }.restore(slot, row));
        self.lsn = self.lsn.max(row.lsn);
        g.index.append(slot, vector)
    }

    /// Goes on after `len` slots that were restored with an image.
    pub(crate) fn after(mut self, len: u32) -> Self {
        self.next = len;
        self
    }

    /// Deletes a row, as of `lsn`.
    pub(crate) fn delete(&mut self, id: RecordId, lsn: Lsn) {
        if let Some(slot) = self.generation.ids.update(|ids| ids.remove(id)) {
            self.generation.rows.kill(slot, lsn);
            self.dead.push((slot, self.generation.rows.expires(slot)));
        }
        self.lsn = self.lsn.max(lsn);
    }

    /// Publishes everything applied so far.
    pub(crate) fn publish(self, lsn: Lsn) {
        let g = self.generation;
        #[allow(clippy::cast_possible_truncation)] // ids map one to one to slots, which are u32
        let live = g.ids.len() as u32;
        let mut snapshot = Snapshot { len: self.next, lsn: lsn.max(self.lsn), live, expired: 0, next_expiry_ms: NEVER };
        if !g.rows.any_expires() {
            g.snapshot.store(Arc::new(snapshot));
            return;
        }
        let mut queue = g.expiries.lock();
        self.expiring.iter().for_each(|&(slot, expires_ms)| queue.insert(slot, expires_ms));
        self.dead.iter().for_each(|&(slot, expires_ms)| queue.remove(slot, expires_ms));
        (snapshot.expired, snapshot.next_expiry_ms) = queue.settle(g.common.clock.now_ms());
        g.snapshot.store(Arc::new(snapshot));
    }
}

fn too_many() -> Error {
    Error::argument(format!("a collection holds at most {} rows between two compactions", u32::MAX))
}
