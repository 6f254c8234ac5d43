//! The write path: there is no other.
//!
//! 1. The caller's batch is checked, its ids reserved ([`reserve`]), and encoded, outside any lock.
//! 2. It queues ([`queue`]); the first waiter leads. The leader writes the whole group with one write and one fdatasync.
//! 3. The leader applies the group in LSN order to memory, publishes one snapshot per collection, hands the frames to the
//!    SQLite applier ([`feed`]), and wakes the others.
//!
//! Invariants:
//! 1. A caller is answered `Ok` only after the fdatasync of its frames and the publication of a snapshot that has them.
//! 2. After a failed fsync the log is poisoned: every later write is refused; reads go on at the last snapshot.
//! 3. SQLite is a cache and is not waited for. What needs it waits for `applied_lsn` (see docs/decisions/).

pub(crate) mod feed;
pub(crate) mod queue;
pub(crate) mod reserve;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::Engine;
use crate::error::Result;
use crate::generation::Generation;
use crate::log::Batch;
use crate::log::{Log, Placed};
use crate::types::{CollectionId, Lsn};

impl Engine {
    /// Makes `batch` durable and visible.
    pub(crate) fn commit(&self, batch: Batch) -> Result<()> {
        self.check_writable()?;
        self.queue.submit(batch, |group| self.commit_group(&group))
    }

    /// Leads one group: log, memory, snapshot, SQLite's queue. The group succeeds or fails as one.
    fn commit_group(&self, group: &[Batch]) -> Vec<Result<()>> {
        let mut log = self.lock_log();
        let outcome = log.append(group).and_then(|placed| {
            // Past this point the group is durable. Memory that cannot follow must not take further writes.
            self.apply(&log, &placed).map_err(|e| self.fail(&e))
        });
        drop(log);
        let answer = || outcome.as_ref().map_or_else(|e| Err(e.duplicate()), |()| Ok(()));
        std::iter::repeat_with(answer).take(group.len()).collect()
    }

    /// Applies durable frames. Holding the log is the commit lock of generation.rs, invariant 2.
    fn apply(&self, log: &Log, placed: &[Placed]) -> Result<()> {
        self.publish_segments(log);
        self.apply_rows(placed, log.last_lsn())?;
        for p in placed {
            self.applier.submit(feed::placed(p));
        }
        self.background.wake();
        Ok(())
    }

    /// Applies durable frames, which end at `last`, to memory, and publishes one snapshot per collection.
    pub(crate) fn apply_rows(&self, placed: &[Placed], last: Lsn) -> Result<()> {
        let mut touched: BTreeMap<CollectionId, Arc<Generation>> = BTreeMap::new();
        for p in placed {
            // A collection that was dropped while this group queued has no memory to follow: its rows are dead.
            if let Ok(collection) = self.collection(p.collection) {
                touched.entry(p.collection).or_insert_with(|| collection.generation());
            }
        }
        for (id, generation) in &touched {
            let mut apply = generation.applier();
            for p in placed.iter().filter(|p| p.collection == *id) {
                for frame in p.views() {
                    apply.frame(&p.segment, &frame?)?;
                }
            }
            apply.publish(last);
            self.expect(generation);
        }
        self.look_at(touched.into_keys());
        Ok(())
    }
}
