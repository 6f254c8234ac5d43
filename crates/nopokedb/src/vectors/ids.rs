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

/// What an id in `near` maps to if it is absent.
const ABSENT: u32 = u32::MAX;

/// Ids to numbers: an array for ids as small as automatic ones are, four bytes each, and a hash table for all others.
///
/// Invariant: an id below `near.len()` is in `near` if anywhere, any other one in `far`. `near` is at most about twice as
/// long as the largest number of ids there ever were, so ids that are spread out cost what a hash table costs.
#[derive(Debug, Default)]
pub(crate) struct IdTable {
    near: Vec<u32>,
    /// How many ids `near` holds.
    near_count: usize,
    far: Map,
}

impl IdTable {
    /// What `id` maps to.
    #[inline]
    pub(crate) fn get(&self, id: u64) -> Option<u32> {
        match self.near_place(id) {
            Some(place) => Some(self.near[place]).filter(|&value| value != ABSENT),
            None => self.far.get(&id).copied(),
        }
    }

    /// Maps `id` to `value`, which is not `u32::MAX`; returns what it mapped to before.
    pub(crate) fn put(&mut self, id: u64, value: u32) -> Option<u32> {
        debug_assert_ne!(value, ABSENT);
        self.come_near(id);
        let Some(place) = self.near_place(id) else { return self.far.insert(id, value) };
        let old = std::mem::replace(&mut self.near[place], value);
        self.near_count += usize::from(old == ABSENT);
        Some(old).filter(|&old| old != ABSENT)
    }

    /// Forgets `id`; returns what it mapped to.
    pub(crate) fn remove(&mut self, id: u64) -> Option<u32> {
        let Some(place) = self.near_place(id) else { return self.far.remove(&id) };
        let old = std::mem::replace(&mut self.near[place], ABSENT);
        self.near_count -= usize::from(old != ABSENT);
        Some(old).filter(|&old| old != ABSENT)
    }

    /// How many ids there are.
    pub(crate) fn len(&self) -> usize {
        self.near_count + self.far.len()
    }

    /// Bytes held in memory (entries of the hash table are 12 bytes, padded to 16, with a control byte each; the room behind
    /// the array was not written to).
    pub(crate) fn bytes(&self) -> usize {
        self.near.len() * 4 + self.far.capacity() * 17
    }

    #[inline]
    fn near_place(&self, id: u64) -> Option<usize> {
        usize::try_from(id).ok().filter(|&place| place < self.near.len())
    }

    /// Makes `near` long enough for `id` if that is no waste.
    fn come_near(&mut self, id: u64) {
        let from = self.near.len();
        let most = 2 * self.len() + 64;
        let Some(place) = usize::try_from(id).ok().filter(|&place| place >= from && place < most) else { return };
        self.near.resize(place + 1, ABSENT);
        if self.far.is_empty() {
            return;
        }
        for (id, value) in (from as u64..).zip(&mut self.near[from..]) {
            if let Some(moved) = self.far.remove(&id) {
                *value = moved;
                self.near_count += 1;
            }
        }
    }
}

/// External id to slot.
#[derive(Debug, Default)]
pub(crate) struct IdMap {
    table: RwLock<IdTable>,
}

impl IdMap {
    /// The slot that holds `id` now.
    pub(crate) fn get(&self, id: RecordId) -> Option<Slot> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(id.0).map(Slot)
    }

    /// How many ids are live.
    pub(crate) fn len(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Runs `change` with the map locked for writing, so that a batch changes it as a whole.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut IdWriter<'_>) -> R) -> R {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut IdWriter { table: &mut table })
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).bytes()
    }
}

/// The map while a batch is applied.
#[derive(Debug)]
pub(crate) struct IdWriter<'a> {
    table: &'a mut IdTable,
}

impl IdWriter<'_> {
    /// Points `id` to `slot`; returns the slot it replaces.
    pub(crate) fn put(&mut self, id: RecordId, slot: Slot) -> Option<Slot> {
        self.table.put(id.0, slot.0).map(Slot)
    }

    /// Forgets `id`; returns the slot it had.
    pub(crate) fn remove(&mut self, id: RecordId) -> Option<Slot> {
        self.table.remove(id.0).map(Slot)
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
    fn a_table_agrees_with_a_map_whatever_the_ids() {
        use std::collections::BTreeMap;
        for (seed, spread) in [(1, 200), (2, 5_000), (3, 1 << 40), (4, 0)] {
            let mut random = crate::index::testing::Random(seed);
            let (mut table, mut map) = (IdTable::default(), BTreeMap::new());
            for step in 0..20_000u32 {
                // No spread: ids come in order, now and then one from far ahead.
                let id = match spread {
                    0 if random.below(10) == 0 => random.next() % 40_000,
                    0 => u64::from(step) / 2,
                    n => random.next() % n,
                };
                if random.below(3) == 0 {
                    assert_eq!(table.remove(id), map.remove(&id));
                } else {
                    assert_eq!(table.put(id, step), map.insert(id, step));
                }
                let other = id ^ (random.next() % 8);
                assert_eq!((table.get(other), table.len()), (map.get(&other).copied(), map.len()));
            }
            assert!(map.iter().all(|(id, value)| table.get(*id) == Some(*value)));
        }
    }

    #[test]
    fn automatic_ids_take_little_and_spread_ones_no_more_than_a_hash_table() {
        let mut table = IdTable::default();
        (0..100_000).for_each(|id| _ = table.put(id, 1));
        assert!(table.bytes() <= 100_000 * 8, "{}", table.bytes());
        let mut table = IdTable::default();
        (0..10_000).for_each(|id| _ = table.put(id * 1_000, 1));
        assert!(table.near.len() < 20_100, "{}", table.near.len());
        // A window that slides: what came long ago is deleted.
        let mut table = IdTable::default();
        for id in 0..100_000u64 {
            table.put(id, 1);
            id.checked_sub(100).and_then(|old| table.remove(old));
        }
        assert_eq!(table.len(), 100);
        assert!(table.near.len() < 1_000, "{}", table.near.len());
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
