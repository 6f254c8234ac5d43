//! Best-first search in the graph.
//!
//! The algorithm is HNSW's search of the ground layer (Malkov and Yashunin, arXiv 1603.09320, algorithm 2), except that
//! several candidates are expanded per round: their unvisited neighbours are collected first and compared together, so that
//! memory is fetched for many rows at once instead of for one.
//!
//! Invariants:
//! 1. The beam is sorted and holds the `ef` nearest *live* rows met, and every dead row met that is nearer than the last of
//!    them: dead rows are walked through but do not use up the beam.
//! 2. Each row is compared at most once per search (`visited`), and only slots below `limit` are touched.
//! 3. After a search `visited` is all zero again.

use super::graph::{Graph, slot_of};
use crate::error::Result;
use crate::index::space::{Probe, Space};
use crate::index::topk::Scored;

/// Candidates expanded per round.
const ROUND: usize = 4;
/// A beam full of dead rows stops growing here (times `ef`); the caller's exact fall-back takes over.
const MAX_DEAD_FACTOR: usize = 16;

/// A sorted beam of `(distance, slot)` packed into integers: distance in the upper half, then slot, then "expanded".
#[derive(Debug, Default)]
pub(crate) struct Beam {
    keys: Vec<u64>,
    ef: usize,
    live: usize,
    /// All entries before this one are expanded.
    cursor: usize,
}

/// Maps a float to an integer of the same order.
#[inline]
fn sortable(distance: f32) -> u32 {
    let bits = distance.to_bits();
    bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
}

#[inline]
fn unsortable(bits: u32) -> f32 {
    f32::from_bits(bits ^ if bits >> 31 == 1 { 1 << 31 } else { u32::MAX })
}

#[inline]
fn slot_in(key: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation)] // the lower half
    let low = key as u32;
    low >> 1
}

#[inline]
fn distance_in(key: u64) -> f32 {
    #[allow(clippy::cast_possible_truncation)] // the upper half
    unsortable((key >> 32) as u32)
}

impl Beam {
    fn reset(&mut self, ef: usize) {
        self.keys.clear();
        self.ef = ef;
        self.live = 0;
        self.cursor = 0;
    }

    /// Whether a row at `distance` would enter the beam.
    #[inline]
    fn wants(&self, distance: f32) -> bool {
        if self.live < self.ef && self.keys.len() < self.ef * MAX_DEAD_FACTOR {
            return true;
        }
        self.keys.last().is_none_or(|&k| distance < distance_in(k))
    }

    fn insert(&mut self, distance: f32, slot: u32, is_live: &impl Fn(u32) -> bool) {
        let key = u64::from(sortable(distance + 0.0)) << 32 | u64::from(slot) << 1;
        let place = self.keys.partition_point(|&k| k < key);
        self.keys.insert(place, key);
        self.cursor = self.cursor.min(place);
        self.live += usize::from(is_live(slot));
        while let Some(&last) = self.keys.last() {
            let last_is_live = is_live(slot_in(last));
            let surplus = self.live > self.ef || (self.live == self.ef && !last_is_live);
            if !surplus && self.keys.len() <= self.ef * MAX_DEAD_FACTOR {
                break;
            }
            self.live -= usize::from(last_is_live);
            self.keys.pop();
        }
    }

    /// Marks the nearest entry that is not expanded yet as expanded and returns it.
    fn next(&mut self) -> Option<u32> {
        while let Some(key) = self.keys.get_mut(self.cursor) {
            self.cursor += 1;
            if *key & 1 == 0 {
                *key |= 1;
                return Some(slot_in(*key));
            }
        }
        None
    }

    /// The rows of the beam, nearest first, dead ones included.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Scored> {
        self.keys.iter().map(|&k| (distance_in(k), slot_in(k)))
    }
}

/// Which slots a search has met: one bit each, cleared by undoing.
#[derive(Debug, Default)]
struct Visited {
    bits: Vec<u64>,
    touched: Vec<u32>,
}

impl Visited {
    /// Makes room for slots below `limit`.
    fn cover(&mut self, limit: u32) {
        let words = (limit as usize).div_ceil(64);
        if self.bits.len() < words {
            self.bits.resize(words.next_multiple_of(1024), 0);
        }
    }

    /// True the first time it is asked about a slot.
    #[inline]
    fn first(&mut self, slot: u32) -> bool {
        let (word, bit) = ((slot / 64) as usize, 1u64 << (slot % 64));
        if self.bits[word] & bit != 0 {
            return false;
        }
        self.bits[word] |= bit;
        self.touched.push(slot);
        true
    }

    fn clear(&mut self) {
        for slot in self.touched.drain(..) {
            self.bits[(slot / 64) as usize] = 0;
        }
    }
}

/// Working memory of a graph search.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    pub(crate) beam: Beam,
    visited: Visited,
    fresh: Vec<u32>,
    distances: Vec<f32>,
    /// Distances computed by the last search.
    pub(crate) evaluations: usize,
}

impl Walker {
    /// Fills the beam with the `ef` rows nearest to `probe` that the search meets among the slots below `limit`.
    pub(crate) fn walk(
        &mut self,
        graph: &Graph,
        space: &Space,
        probe: &Probe,
        ef: usize,
        limit: u32,
        is_live: &impl Fn(u32) -> bool,
    ) -> Result<()> {
        self.visited.cover(limit);
        self.beam.reset(ef);
        self.evaluations = 0;
        let outcome = self.walk_rounds(graph, space, probe, limit, is_live);
        self.visited.clear();
        outcome
    }

    fn walk_rounds(
        &mut self,
        graph: &Graph,
        space: &Space,
        probe: &Probe,
        limit: u32,
        is_live: &impl Fn(u32) -> bool,
    ) -> Result<()> {
        self.fresh.clear();
        for entry in graph.entries() {
            if entry < limit && self.visited.first(entry) {
                self.fresh.push(entry);
            }
        }
        while !self.fresh.is_empty() {
            space.near(probe, &self.fresh, &mut self.distances)?;
            self.evaluations += self.fresh.len();
            for (&slot, &distance) in self.fresh.iter().zip(&self.distances) {
                if self.beam.wants(distance) {
                    self.beam.insert(distance, slot, is_live);
                }
            }
            self.fresh.clear();
            // A round may find nothing new while the beam still holds rows to expand.
            while self.fresh.is_empty() {
                let mut expanded = 0;
                while expanded < ROUND
                    && let Some(slot) = self.beam.next()
                {
                    expanded += 1;
                    for word in graph.links(slot) {
                        let neighbour = slot_of(word);
                        if neighbour < limit && self.visited.first(neighbour) {
                            self.fresh.push(neighbour);
                        }
                    }
                }
                if expanded == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_distances_keep_their_order() {
        let mut all = [f32::NEG_INFINITY, -2.5, -1e-30, 0.0, 1e-30, 0.5, 3.0, f32::INFINITY];
        assert!(all.windows(2).all(|w| sortable(w[0]) < sortable(w[1])));
        all.iter_mut().for_each(|d| assert_eq!(unsortable(sortable(*d)), *d));
    }

    #[test]
    fn dead_rows_do_not_use_up_the_beam() {
        let mut beam = Beam::default();
        beam.reset(2);
        for slot in 0..10 {
            beam.insert(slot as f32, slot, &|s| s % 4 == 3);
        }
        assert_eq!(beam.rows().map(|r| r.1).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(beam.wants(6.5) && !beam.wants(7.0));
    }
}
