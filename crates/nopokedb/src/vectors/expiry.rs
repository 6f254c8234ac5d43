//! Which rows of a generation expire, and when.
//!
//! Invariants:
//! 1. A stored row with an expiry is in exactly one of `due` and `passed`; a row that was deleted or replaced is in neither.
//! 2. A published [`Snapshot`](crate::vectors::view::Snapshot) counts as expired exactly the stored rows that had expired before its
//!    `next_expiry_ms`: both change together, under this lock. So a reader that finds `next_expiry_ms` ahead of the clock knows
//!    how many rows it sees, without the lock.
//!
//! Threading: one short lock, for writers of rows that expire and for whoever first meets an instant that has passed.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard};
use crate::types::Slot;

/// No row expires.
pub(crate) const NEVER: i64 = i64::MAX;

/// The stored rows of a generation that expire.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    queue: Mutex<Queue>,
}

/// What is to come, and what has passed and is not deleted yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    due: BTreeSet<(i64, u32)>,
    passed: BTreeSet<u32>,
}

impl Expiries {
    /// The queue, locked.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// A row that expires was stored.
    pub(crate) fn insert(&mut self, slot: Slot, expires_ms: i64) {
        self.due.insert((expires_ms, slot.0));
    }

    /// A row that expires was deleted or replaced.
    pub(crate) fn remove(&mut self, slot: Slot, expires_ms: i64) {
        if !self.due.remove(&(expires_ms, slot.0)) {
            self.passed.remove(&slot.0);
        }
    }

    /// Moves what has expired by `now_ms`. Answers how many rows have expired and are stored still, and when the next one will.
    pub(crate) fn settle(&mut self, now_ms: i64) -> (u32, i64) {
        while let Some(&(expires_ms, slot)) = self.due.first().filter(|(expires_ms, _)| *expires_ms <= now_ms) {
            self.due.remove(&(expires_ms, slot));
            self.passed.insert(slot);
        }
        let next = self.due.first().map_or(NEVER, |&(expires_ms, _)| expires_ms);
        (u32::try_from(self.passed.len()).unwrap_or(u32::MAX), next)
    }

    /// Up to `most` of the rows that have expired and are stored still.
    pub(crate) fn passed(&self, most: usize) -> Vec<Slot> {
        self.passed.iter().take(most).copied().map(Slot).collect()
    }
}
