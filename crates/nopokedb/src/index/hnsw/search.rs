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
use crate::index::near::{Near, Probe};
use crate::index::topk::Scored;

/// Candidates expanded per round.
const ROUND: usize = 4;
/// Rows this near to the next one to expand will be expanded next, if nothing nearer is met.
const SOON: usize = 2 * ROUND;
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

    /// Takes a row in. True if it is likely to be expanded soon.
    #[inline]
    fn insert(&mut self, distance: f32, slot: u32, is_live: &impl Fn(u32) -> bool) -> bool {
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
        place < self.cursor + SOON
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

    /// The rows that will be expanded next if nothing nearer is met.
    fn peek(&self) -> impl Iterator<Item = u32> {
        self.keys[self.cursor..].iter().filter(|&key| key & 1 == 0).take(ROUND).map(|&key| slot_in(key))
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
    /// The slots met, in order.
    met: Vec<u32>,
}

impl Visited {
    /// Makes room for slots below `limit`.
    fn cover(&mut self, limit: u32) {
        let words = (limit as usize).div_ceil(64);
        if self.bits.len() < words {
            self.bits.resize(words.next_multiple_of(1024), 0);
        }
    }

    /// Notes a slot, the first time.
    #[inline]
    fn first(&mut self, slot: u32) {
        let word = &mut self.bits[(slot / 64) as usize];
        let bit = 1u64 << (slot % 64);
        if *word & bit == 0 {
            *word |= bit;
            self.met.push(slot);
        }
    }

    fn clear(&mut self) {
        for slot in self.met.drain(..) {
            self.bits[(slot / 64) as usize] = 0;
        }
    }
}

/// Working memory of a graph search.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    pub(crate) beam: Beam,
    visited: Visited,
    distances: Vec<f32>,
    /// Distances computed by the last search.
    pub(crate) evaluations: usize,
}

/// Where a search takes place.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) rows: &'a Near<'a>,
    /// Slots from here on are left alone.
    pub(crate) limit: u32,
}

impl Walker {
    /// Fills the beam with the `ef` rows nearest to `probe` that the search meets.
    pub(crate) fn walk(
        &mut self,
        field: Field<'_>,
        probe: &mut Probe,
        ef: usize,
        is_live: &impl Fn(u32) -> bool,
    ) -> Result<()> {
        self.visited.cover(field.limit);
        self.beam.reset(ef);
        let outcome = self.walk_rounds(field, probe, is_live);
        self.evaluations = self.visited.met.len();
        self.visited.clear();
        outcome
    }

    fn walk_rounds(&mut self, field: Field<'_>, probe: &mut Probe, is_live: &impl Fn(u32) -> bool) -> Result<()> {
        let Field { graph, rows, limit } = field;
        for entry in graph.entries() {
            if entry < limit {
                self.visited.first(entry);
            }
        }
        let mut done = 0;
        while done < self.visited.met.len() {
            let fresh = &self.visited.met[done..];
            rows.distances(probe, fresh, &mut self.distances)?;
            for (&slot, &distance) in fresh.iter().zip(&self.distances) {
                if self.beam.wants(distance) {
                    if self.beam.insert(distance, slot, is_live) {
                        graph.prefetch(slot);
                    }
                }
            }
            done = self.visited.met.len();
            // A round may find nothing new while the beam still holds rows to expand.
            while self.visited.met.len() == done && self.expand(field) {}
        }
        Ok(())
    }

    /// Meets the neighbours of the nearest rows not expanded yet; false if there are none.
    fn expand(&mut self, field: Field<'_>) -> bool {
        let mut round = [0; ROUND];
        let mut n = 0;
        while n < ROUND
            && let Some(slot) = self.beam.next()
        {
            field.graph.prefetch(slot);
            round[n] = slot;
            n += 1;
        }
        let visited = &mut self.visited;
        for &slot in &round[..n] {
            field.graph.visit(slot, |neighbour| {
                if neighbour < field.limit {
                    visited.first(neighbour);
                }
            });
        }
        // The lists of the next round, as far as it can be told.
        self.beam.peek().for_each(|slot| field.graph.prefetch(slot));
        n > 0
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
