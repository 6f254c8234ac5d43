//! The map from external ids to slots.
//!
//! Invariant: an id maps to the slot of its latest PUT, or is absent once deleted. One writer; readers take a short
//! shared lock (`get`, `in`, `delete`); searches do not come here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::PoisonError;

use crate::sync::RwLock;
use crate::types::{RecordId, Slot};

/// Mixes an integer id by one multiplication (Fibonacci hashing): ids are mostly consecutive, SipHash would be waste.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }

    fn write_u64(&mut self, id: u64) {
        let mixed = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

type Map = HashMap<u64, u32, BuildHasherDefault<IdHasher>>;

/// External id to slot.
#[derive(Debug, Default)]
pub(crate) struct IdMap {
    map: RwLock<Map>,
}

impl IdMap {
    /// The slot that holds `id` now.
    pub(crate) fn get(&self, id: RecordId) -> Option<Slot> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(&id.0).copied().map(Slot)
    }

    /// How many ids are live.
    pub(crate) fn len(&self) -> usize {
        self.map.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Runs `change` with the map locked for writing, so that a batch changes it as a whole.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut IdWriter<'_>) -> R) -> R {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut IdWriter { map: &mut map })
    }

    /// Bytes of the table, estimated from its capacity (12-byte entries padded to 16, one control byte each).
    pub(crate) fn bytes(&self) -> usize {
        self.map.read().unwrap_or_else(PoisonError::into_inner).capacity() * 17
    }
}

/// The map while a batch is applied.
#[derive(Debug)]
pub(crate) struct IdWriter<'a> {
    map: &'a mut Map,
}

impl IdWriter<'_> {
    /// Makes room for `n` more ids.
    pub(crate) fn reserve(&mut self, n: usize) {
        self.map.reserve(n);
    }

    /// Points `id` to `slot`; returns the slot it replaces.
    pub(crate) fn put(&mut self, id: RecordId, slot: Slot) -> Option<Slot> {
        self.map.insert(id.0, slot.0).map(Slot)
    }

    /// Forgets `id`; returns the slot it had.
    pub(crate) fn remove(&mut self, id: RecordId) -> Option<Slot> {
        self.map.remove(&id.0).map(Slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_put_wins_and_a_deleted_id_is_absent() {
        let ids = IdMap::default();
        ids.update(|w| {
            assert_eq!(w.put(RecordId(7), Slot(0)), None);
            assert_eq!(w.put(RecordId(7), Slot(1)), Some(Slot(0)));
            assert_eq!(w.remove(RecordId(8)), None);
        });
        assert_eq!((ids.get(RecordId(7)), ids.len()), (Some(Slot(1)), 1));
        assert_eq!(ids.update(|w| w.remove(RecordId(7))), Some(Slot(1)));
        assert_eq!((ids.get(RecordId(7)), ids.len()), (None, 0));
    }

    #[test]
    fn consecutive_and_spread_ids_hash_apart() {
        for stride in [1u64, 64, 1 << 20, 1 << 32] {
            let mut low: Vec<u64> = (0..1024)
                .map(|i| {
                    let mut h = IdHasher::default();
                    h.write_u64(i * stride);
                    h.finish() & 0xFFFF
                })
                .collect();
            low.sort_unstable();
            low.dedup();
            assert!(low.len() > 900, "stride {stride}: only {} distinct buckets", low.len());
        }
    }
}
