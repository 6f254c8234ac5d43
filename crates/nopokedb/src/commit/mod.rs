//! The write path: there is no other.
//!
//! 1. The caller's batch is checked, its ids reserved ([`reserve`]), and encoded, outside any lock.
//! 2. It queues ([`queue`]); the first waiter leads. The leader writes the whole group with one write and one fdatasync.
//! 3. The leader applies the group in LSN order to memory, publishes one snapshot per collection, hands the frames to the
//!    SQLite applier, and wakes the others.
//!
//! Invariants:
//! 1. A caller is answered `Ok` only after the fdatasync of its frames and the publication of a snapshot that has them.
//! 2. After a failed fsync the log is poisoned: every later write is refused; reads go on at the last snapshot.
//! 3. SQLite is a cache and is not waited for. What needs it waits for `applied_lsn` (see docs/decisions/).

pub(crate) mod queue;
pub(crate) mod reserve;

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use crate::engine::{CollectionCore, Engine};
use crate::error::Result;
use crate::generation::Generation;
use crate::log::frame::Batch;
use crate::log::writer::{Log, Placed};
use crate::meta::applier::LogBatch;
use crate::types::{CollectionId, Lsn};

impl Engine {
    /// Makes `batch` durable and visible.
    pub(crate) fn commit(&self, batch: Batch) -> Result<()> {
        self.queue.submit(batch, |group| self.commit_group(group))
    }

    /// Leads one group: log, memory, snapshot, SQLite's queue.
    fn commit_group(&self, group: Vec<Batch>) -> Vec<Result<()>> {
        let n = group.len();
        let mut log = self.lock_log();
        let outcome = log.append(group).and_then(|placed| self.apply(&log, &placed));
        drop(log);
        match outcome {
            Ok(()) => std::iter::repeat_with(|| Ok(())).take(n).collect(),
            Err(e) => std::iter::repeat_with(|| Err(e.duplicate())).take(n).collect(),
        }
    }

    /// Applies durable frames. The log's lock is held: this is the commit lock of invariant 2 in generation.rs.
    fn apply(&self, log: &MutexGuard<'_, Log>, placed: &[Placed]) -> Result<()> {
        self.publish_segments(log);
        let mut touched: BTreeMap<CollectionId, (Arc<CollectionCore>, Arc<Generation>)> = BTreeMap::new();
        for p in placed {
            let id = p.collection();
            if !touched.contains_key(&id) {
                let collection = self.collection(id)?;
                let generation = collection.generation();
                touched.insert(id, (collection, generation));
            }
        }
        for (id, (collection, generation)) in &touched {
            let mut apply = generation.applier();
            let mut last = Lsn(0);
            for p in placed.iter().filter(|p| p.collection() == *id) {
                p.for_each_frame(|segment, frame| apply.frame(segment, frame))?;
                last = last.max(p.last_lsn());
            }
            apply.publish(last);
            collection.wrote();
        }
        for p in placed {
            self.applier.submit(LogBatch::new(p.clone()))?;
        }
        self.background.wake();
        Ok(())
    }
}
