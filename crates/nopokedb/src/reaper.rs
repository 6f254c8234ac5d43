//! Rows that have expired are deleted, in the background: their DELETEs go into the log like anybody's, and compaction gives the
//! space back.
//!
//! Invariants:
//! 1. Nothing waits for it: a row is hidden from the instant it expires (`vectors/view.rs`), deleted or not.
//! 2. A row is deleted only if it has expired while its id is held: what was put in its place meanwhile stays.
//! 3. `next_expiry_ms` of the engine is never later than the first instant at which there is something to delete. It is set to
//!    "never" before the collections are looked through, and lowered by whoever finds or writes a row that expires.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::engine::{CollectionCore, Engine};
use crate::error::Result;
use crate::generation::Generation;
use crate::log::{FrameBuilder, NewRowRef};
use crate::options::MAX_DIM;
use crate::types::RecordId;
use crate::vectors::expiry::NEVER;

/// Rows deleted with one fsync.
const MOST: usize = 10_000;
/// The clock may be set: it is looked at so often at least.
const LOOK: Duration = Duration::from_secs(60);

impl Engine {
    /// Takes into account that rows of `generation` may expire.
    pub(crate) fn expect(&self, generation: &Generation) {
        if generation.rows.any_expires() {
            self.next_expiry_ms.fetch_min(generation.next_expiry_ms(), SeqCst);
        }
    }

    /// How long until there may be something to delete, a minute at most; `None` if nothing expires, or that is another
    /// process's concern.
    pub(crate) fn reap_in(&self) -> Option<Duration> {
        let next = self.next_expiry_ms.load(SeqCst);
        if next == NEVER || self.follower.is_some() {
            return None;
        }
        let left = u64::try_from(next.saturating_sub(self.options.clock.now_ms())).unwrap_or(0);
        Some(Duration::from_millis(left).min(LOOK))
    }

    /// Deletes the rows that have expired, and says how many they were.
    pub(crate) fn reap(&self) -> Result<usize> {
        if self.next_expiry_ms.load(SeqCst) > self.options.clock.now_ms() {
            return Ok(0);
        }
        self.next_expiry_ms.store(NEVER, SeqCst);
        let mut deleted = 0;
        for collection in self.all_collections() {
            let outcome = self.reap_collection(&collection);
            // Also after a failure: what could not be deleted is due still.
            self.expect(&collection.generation());
            match outcome {
                Ok(of_it) => deleted += of_it,
                Err(error) => {
                    self.next_expiry_ms.store(0, SeqCst);
                    return Err(error);
                }
            }
        }
        Ok(deleted)
    }

    fn reap_collection(&self, collection: &CollectionCore) -> Result<usize> {
        let mut deleted = 0;
        while collection.generation().rows.any_expires() && !self.background.stop.load(SeqCst) {
            let ids = collection.generation().expired(MOST);
            let _held = collection.reservations.given(&ids);
            // Nobody changes these rows now; some may have changed before they were held.
            let generation = collection.generation();
            let ids: Vec<RecordId> = ids.into_iter().filter(|&id| generation.has_expired(id)).collect();
            if ids.is_empty() {
                break;
            }
            #[allow(clippy::cast_possible_truncation)] // Options::validate holds dim at or below 65,535
            let mut frame = FrameBuilder::new(collection.id, collection.dim.min(MAX_DIM) as u16);
            for &id in &ids {
                frame.push(&NewRowRef::delete(id))?;
            }
            self.commit(frame.finish())?;
            deleted += ids.len();
        }
        Ok(deleted)
    }
}
