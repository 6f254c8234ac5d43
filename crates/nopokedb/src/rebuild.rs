//! Compaction of a collection's memory: a new generation without the dead slots, built beside the one that serves.
//!
//! 1. Copy the rows that are live in a snapshot, in slot order, into a new generation. Searches and writes go on.
//! 2. Build its graph.
//! 3. Under the commit lock: kill the rows that died meanwhile, copy the ones written meanwhile, swap.
//!
//! Invariants: ids, LSNs and locations are those of the old generation; at the swap both generations answer alike. Only
//! the background worker rebuilds and compacts, one after the other, so locations do not move under step 1. (Where another process
//! compacts they may: then the copy is thrown away.)

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::engine::{CollectionCore, Engine};
use crate::error::Result;
use crate::generation::{Apply, Generation, StoredRow};
use crate::types::{Lsn, Slot};
use crate::vectors::rows::Loc;

/// Fewer dead slots than this are not worth a rebuild.
const MIN_DEAD: u32 = 4_096;

/// Whether `dead` of `len` slots are too many. Repair keeps the graph good without them; this is about memory.
fn due(dead: u32, len: u32) -> bool {
    dead >= MIN_DEAD && u64::from(dead) * 2 > u64::from(len)
}

impl Engine {
    /// Rebuilds those of these collections whose slots are more than half dead.
    pub(crate) fn rebuild_collections(&self, busy: &[Arc<CollectionCore>]) -> Result<()> {
        for collection in busy {
            let snapshot = **collection.generation().snapshot.load();
            if due(snapshot.len - snapshot.live, snapshot.len) && !self.rebuild(collection)? {
                // Something came in between.
                self.look_at(std::iter::once(collection.id));
            }
        }
        Ok(())
    }

    /// Rebuilds one collection; `false` if the worker was told to stop meanwhile.
    pub(crate) fn rebuild(&self, collection: &CollectionCore) -> Result<bool> {
        let old = collection.generation();
        let new = Arc::new(Generation::new(old.index.params(), &self.common));
        let start = **old.snapshot.load();
        let moved = || self.follower.as_ref().map_or(0, |f| f.relocations.load(Relaxed));
        let moved_before = moved();
        let mut copy = new.applier();
        copy_rows(&old, &mut copy, 0..start.len, start.lsn)?;
        copy.publish(start.lsn);
        let threads = self.build_threads();
        while new.lag(new.index.len()) > 0 {
            if self.background.stop.load(Relaxed) {
                return Ok(false);
            }
            new.absorb(threads, &self.background.stop)?;
        }
        let log = self.lock_log();
        if moved() != moved_before {
            // What follows another process may have to follow a compaction meanwhile: the copy has the old places.
            return Ok(false);
        }
        let end = **old.snapshot.load();
        let mut catch_up = new.applier();
        let died =
            (0..start.len).map(Slot).filter(|&s| old.rows.alive_at(s, start.lsn) && !old.rows.alive_at(s, end.lsn));
        for slot in died {
            catch_up.delete(old.rows.id(slot), old.rows.died(slot));
        }
        // After the deaths: an id that was replaced comes back with its new row.
        copy_rows(&old, &mut catch_up, start.len..end.len, end.lsn)?;
        catch_up.publish(end.lsn);
        collection.replace_generation(new);
        drop(log);
        Ok(true)
    }
}

/// Appends the slots of `range` that are live at `lsn` to another generation.
fn copy_rows(from: &Generation, to: &mut Apply<'_>, range: std::ops::Range<u32>, lsn: Lsn) -> Result<()> {
    let view = from.stored();
    for slot in range.map(Slot).filter(|&s| from.rows.alive_at(s, lsn)) {
        from.rows.with_segment(slot, &view.segments, |segment, offset| {
            let vector = segment.vector(offset, from.rows.dim())?;
            let row = StoredRow {
                id: from.rows.id(slot),
                lsn: from.rows.lsn(slot),
                loc: Loc::new(segment.no(), offset),
                died: Lsn(0),
                expires_ms: from.rows.expires(slot),
            };
            to.row(&row, vector)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_is_due_past_one_half_and_not_for_a_handful() {
        assert!(!due(MIN_DEAD - 1, MIN_DEAD));
        assert!(!due(5_000, 10_000));
        assert!(due(5_001, 10_000));
    }
}
