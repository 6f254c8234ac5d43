//! When the log is sealed and compacted, and how memory follows; `log/compact.rs` knows how the files change.
//!
//! Invariants:
//! 1. Runs on the background worker only, except that a backup seals segments itself. The long parts (hashing, copying) hold no lock; publishing holds the commit lock.
//! 2. Locations move in three steps: the new segment is published to readers beside the old ones, the slots are pointed to
//!    it, the old ones are retired (`vectors/rows.rs`, invariant 3).
//! 3. Rows are dropped only once SQLite's file durably reflects everything up to them: a DELETE that SQLite has not seen
//!    must stay in the log, or a power loss could leave its row in the cache for good.
//! 4. A row's bytes go only after its slot was taken out of the graph; a row that died after that stays for the next time.
//! 5. A DELETE goes once no dead PUT of its id is left in an older segment.
//! 6. A row that died while it was copied is dead in the new segment too; it goes with the next compaction.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, PoisonError};

use crate::engine::{CollectionCore, Engine};
use crate::error::Result;
use crate::generation::Generation;
use crate::log::{Compacted, Move, compact};
use crate::log::{Log, RowKind, Segment, write_footer};
use crate::types::{CollectionId, Lsn, RecordId, SegmentNo, Slot};
use crate::vectors::rows::{GONE, Loc, SegmentTable};

impl Engine {
    /// Gives full segments their footers, so that the next opening need not read them through.
    pub(crate) fn seal_segments(&self) -> Result<()> {
        let _sealing = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.lock_log().without_footer();
        if open.is_empty() {
            return Ok(());
        }
        for segment in &open {
            write_footer(segment)?;
        }
        let mut log = self.lock_log();
        let dead = dead_rows(&log);
        log.publish_footers(&|no| count(&dead, no))
    }

    /// Compacts segments as long as there are any worth it.
    pub(crate) fn compact_log(&self) -> Result<()> {
        while let Some(segments) = self.pick_compaction().filter(|_| !self.background.stop.load(SeqCst)) {
            if !self.compact_run(&segments)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Compacts adjacent segments into one; `false` if the worker was told to stop.
    pub(crate) fn compact_run(&self, segments: &[SegmentNo]) -> Result<bool> {
        // Anew each time: what died since the last repair would be kept, and the same segments be picked for ever.
        let Some(views) = self.repair_graphs()? else { return Ok(false) };
        let keep = |lsn: Lsn, collection: CollectionId| views.get(&collection).is_some_and(|kept| kept.holds(lsn));
        let (job, older) = {
            let mut log = self.lock_log();
            log.check_in_place()?;
            let dead = dead_rows(&log);
            let job = log.plan_compaction(segments, &|no| count(&dead, no))?;
            let older: Vec<_> = log.segments().into_iter().take_while(|s| Some(&s.no()) != segments.first()).collect();
            (job, older)
        };
        let killed = killed_in(&older, &keep)?;
        let needed = |id: RecordId, collection: CollectionId| killed.contains(&(collection, id));
        let done = compact(&*self.vfs, &job, &|row, collection| keep(row.lsn, collection), &needed)?;
        self.applier.checkpoint()?;
        self.publish_compaction(&done)?;
        Ok(true)
    }

    fn pick_compaction(&self) -> Option<Vec<SegmentNo>> {
        let log = self.lock_log();
        let dead = dead_rows(&log);
        log.pick_compaction(&|no| count(&dead, no))
    }

    /// Takes the rows that are dead now out of the graphs, so that no walk needs their vectors any more. `None` if the
    /// worker was told to stop.
    fn repair_graphs(&self) -> Result<Option<HashMap<CollectionId, Kept>>> {
        let mut views = HashMap::new();
        for collection in self.all_collections() {
            let kept = Kept { generation: collection.generation(), lsn: collection.generation().view().snapshot.lsn };
            if kept.generation.repair(self.build_threads(), &self.background.stop)? < kept.lsn {
                return Ok(None);
            }
            views.insert(collection.id, kept);
        }
        Ok(Some(views))
    }

    /// Puts the new segment in the place of the old ones, on disk and then for readers.
    fn publish_compaction(&self, done: &Compacted) -> Result<()> {
        let mut log = self.lock_log();
        let entries = self.current_entries(log.collections());
        let dead = dead_rows(&log);
        log.replace_segments(&done.old, done.new.clone(), entries, &|no| count(&dead, no))?;
        let mut both: Vec<Arc<Segment>> = self.segments.load().iter().cloned().collect();
        both.extend(done.new.clone());
        self.segments.store(Arc::new(SegmentTable::new(both)));
        let mut moves: HashMap<CollectionId, HashMap<Loc, Loc>> = HashMap::new();
        for Move { collection, from, to, .. } in &done.moves {
            moves.entry(*collection).or_default().insert(Loc::new(from.0, from.1), Loc::new(to.0, to.1));
        }
        for collection in self.all_collections() {
            let none = HashMap::new();
            relocate(&collection, &done.old, moves.get(&collection.id).unwrap_or(&none), done.new.as_deref());
        }
        self.publish_segments(&log);
        Ok(())
    }
}

/// A collection as of the repair of its graph: what was dead then may go.
struct Kept {
    generation: Arc<Generation>,
    lsn: Lsn,
}

impl Kept {
    /// Whether the row written at `lsn` is to be kept.
    fn holds(&self, lsn: Lsn) -> bool {
        let rows = &self.generation.rows;
        rows.slot_of(lsn, self.generation.view().snapshot.len).is_some_and(|slot| rows.alive_at(slot, self.lsn))
    }
}

/// The ids of dead PUT rows that stay in `older` segments: only a DELETE of one of these has something left to kill.
fn killed_in(
    older: &[Arc<Segment>],
    is_live: &dyn Fn(Lsn, CollectionId) -> bool,
) -> Result<HashSet<(CollectionId, RecordId)>> {
    let mut killed = HashSet::new();
    for segment in older.iter().filter(|s| s.dead_rows() > 0) {
        for table in segment.tables() {
            let table = table?;
            for i in 0..table.len() {
                let entry = table.entry(i)?;
                if entry.kind == RowKind::Put && !is_live(table.lsn(&entry), table.collection()) {
                    killed.insert((table.collection(), RecordId(entry.id)));
                }
            }
        }
    }
    Ok(killed)
}

/// Points the slots that lay in `old` segments to their new places; those that were not kept are gone.
fn relocate(collection: &CollectionCore, old: &[SegmentNo], moves: &HashMap<Loc, Loc>, new: Option<&Segment>) {
    let generation = collection.generation();
    let rows = &generation.rows;
    for slot in (0..generation.view().snapshot.len).map(Slot) {
        let loc = rows.loc(slot);
        if loc == GONE || !old.contains(&loc.segment()) {
            continue;
        }
        let to = moves.get(&loc).copied().unwrap_or(GONE);
        rows.relocate(slot, to);
        if let Some(new) = new.filter(|_| to != GONE && rows.died(slot).0 != 0) {
            new.add_dead(1);
        }
    }
}

/// How many rows of each segment would go. Taken once per decision: readers of the counters must agree with each other.
fn dead_rows(log: &Log) -> HashMap<SegmentNo, u64> {
    log.segments().iter().map(|s| (s.no(), s.dead_rows())).collect()
}

fn count(dead: &HashMap<SegmentNo, u64>, no: SegmentNo) -> u64 {
    dead.get(&no).copied().unwrap_or(0)
}
