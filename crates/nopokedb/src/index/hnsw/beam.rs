//! The beam of a walk: the nearest rows met so far, sorted, each expanded or not.
//!
//! Invariants:
//! 1. Sorted by distance, then slot; no slot twice.
//! 2. It ends with its `ef`-th live row, so dead rows do not use it up: they are walked through. Only a beam that is nearly
//!    all dead is cut off sooner; the caller's exact fall-back takes over then.
//!
//! A round's finds are sorted and merged in one pass from the back, which costs less than inserting them one by one.

use crate::index::topk::Scored;

/// A row packed into an integer that sorts by distance, then slot: distance, slot, dead, expanded.
type Key = u64;
const EXPANDED: Key = 1;
const DEAD: Key = 2;
const SLOT_SHIFT: u32 = 2;
/// A beam holds at most this many times `ef` rows, dead ones included.
const MAX_DEAD_FACTOR: usize = 16;

/// Maps a float to an integer of the same order.
#[inline(always)]
fn sortable(distance: f32) -> u32 {
    let bits = distance.to_bits();
    #[allow(clippy::cast_possible_wrap, clippy::cast_sign_loss)] // the sign bit, smeared
    let negative = ((bits as i32) >> 31) as u32;
    bits ^ (negative | 1 << 31)
}

#[inline(always)]
fn unsortable(bits: u32) -> f32 {
    f32::from_bits(bits ^ if bits >> 31 == 1 { 1 << 31 } else { u32::MAX })
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // the lower half
fn slot_in(key: Key) -> u32 {
    (key as u32) >> SLOT_SHIFT
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // the upper half
fn distance_in(key: Key) -> f32 {
    unsortable((key >> 32) as u32)
}

/// The rows nearest to a probe that a walk has met.
#[derive(Debug, Default)]
pub(crate) struct Beam {
    keys: Vec<Key>,
    /// What the present round found.
    found: Vec<Key>,
    ef: usize,
    live: usize,
    /// All keys before this one are expanded.
    cursor: usize,
    /// What is not nearer than this is of no use.
    bound: f32,
    stop: Option<Stop>,
}

/// When a walk is over before its beam is used up: adaptive beam search (Al-Jazzazi et al., arXiv 2505.15636), whose
/// bound here also keeps rows out of the beam.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// The live row, counted from 0, whose distance is the measure.
    pub(crate) anchor: usize,
    /// Rows this many times as far as it are of no use. Distances must not be negative, but for rounding.
    pub(crate) stretch: f32,
    /// What is added to that, times the root of the distance: distances are estimates, whose error grows so.
    pub(crate) noise: f32,
}

impl Stop {
    fn bound(self, anchor: f32) -> f32 {
        anchor * self.stretch + self.noise * anchor.max(0.0).sqrt()
    }
}

impl Beam {
    /// Forgets everything; from now on keeps the `ef` nearest live rows.
    pub(crate) fn reset(&mut self, ef: usize, stop: Option<Stop>) {
        self.stop = stop;
        self.keys.clear();
        self.found.clear();
        self.ef = ef;
        self.live = 0;
        self.cursor = 0;
        self.bound = f32::INFINITY;
    }

    /// Takes in what a round found: `distances[i]` belongs to `slots[i]`. None of them is in the beam yet.
    pub(crate) fn take(&mut self, slots: &[u32], distances: &[f32], is_dead: &impl Fn(u32) -> bool) {
        let (bound, full) = (self.bound, self.bound != f32::INFINITY);
        for (&slot, &distance) in slots.iter().zip(distances) {
            if distance < bound || !full {
                let dead = if is_dead(slot) { DEAD } else { 0 };
                // Adding zero turns -0.0 into 0.0.
                self.found.push(u64::from(sortable(distance + 0.0)) << 32 | u64::from(slot) << SLOT_SHIFT | dead);
            }
        }
        self.merge();
    }

    /// Merges `found` into the beam.
    fn merge(&mut self) {
        let Beam { keys, found, .. } = self;
        if found.is_empty() {
            return;
        }
        found.sort_unstable();
        self.live += found.iter().filter(|&&key| key & DEAD == 0).count();
        let (mut old, mut new) = (keys.len(), found.len());
        keys.resize(old + new, 0);
        // From the back, into the room that was just made. The old keys are in their places once no new one is left.
        while new > 0 {
            let candidate = found[new - 1];
            // One that does not exist is smaller than any.
            let last = if old > 0 { keys[old - 1] } else { 0 };
            let take_old = old > 0 && last > candidate;
            keys[old + new - 1] = if take_old { last } else { candidate };
            old -= usize::from(take_old);
            new -= usize::from(!take_old);
        }
        self.cursor = self.cursor.min(old);
        found.clear();
        self.cut();
    }

    /// Drops what is behind the `ef`-th live row.
    fn cut(&mut self) {
        let most = self.ef * MAX_DEAD_FACTOR;
        while let Some(&last) = self.keys.last() {
            let is_live = last & DEAD == 0;
            let surplus = self.live > self.ef || (self.live == self.ef && !is_live) || self.keys.len() > most;
            if !surplus {
                break;
            }
            self.live -= usize::from(is_live);
            self.keys.pop();
        }
        if (self.live == self.ef || self.keys.len() == most)
            && let Some(&last) = self.keys.last()
        {
            self.bound = distance_in(last);
        }
        if let Some(stop) = self.stop
            && let Some(anchor) = self.live_place(stop.anchor)
            && stop.bound(distance_in(self.keys[anchor])) < self.bound
        {
            self.bound = stop.bound(distance_in(self.keys[anchor]));
            let keep = self.keys.partition_point(|&key| distance_in(key) < self.bound).max(anchor + 1);
            self.live -= self.keys[keep..].iter().filter(|&&key| key & DEAD == 0).count();
            self.keys.truncate(keep);
        }
        self.cursor = self.cursor.min(self.keys.len());
    }

    /// Where the `n`-th live row is, counted from 0.
    fn live_place(&self, n: usize) -> Option<usize> {
        if self.live == self.keys.len() {
            return (n < self.live).then_some(n);
        }
        self.keys.iter().enumerate().filter(|(_, key)| *key & DEAD == 0).nth(n).map(|(place, _)| place)
    }

    /// Marks the nearest row that is not expanded yet as expanded and returns it.
    pub(crate) fn next(&mut self) -> Option<u32> {
        while let Some(key) = self.keys.get_mut(self.cursor) {
            self.cursor += 1;
            if *key & EXPANDED == 0 {
                *key |= EXPANDED;
                return Some(slot_in(*key));
            }
        }
        None
    }

    /// The first `n` rows that will be expanded next if nothing nearer is met.
    pub(crate) fn peek(&self, n: usize) -> impl Iterator<Item = u32> {
        self.keys[self.cursor..].iter().filter(|&key| key & EXPANDED == 0).take(n).map(|&key| slot_in(key))
    }

    /// The rows, nearest first, dead ones included.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Scored> {
        self.keys.iter().map(|&k| (distance_in(k), slot_in(k)))
    }

    /// The farthest row's distance once the beam is full; infinite before.
    pub(crate) fn bound(&self) -> f32 {
        self.bound
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
        beam.reset(2, None);
        let slots: Vec<u32> = (0..10).collect();
        let distances: Vec<f32> = (0..10u8).map(f32::from).collect();
        beam.take(&slots, &distances, &|s| s % 4 != 3);
        assert_eq!(beam.rows().map(|r| r.1).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(beam.bound(), 7.0);
    }

    #[test]
    fn rows_far_beyond_the_anchor_are_dropped_and_never_expanded() {
        let mut beam = Beam::default();
        beam.reset(8, Some(Stop { anchor: 1, stretch: 2.0, noise: 0.0 }));
        beam.take(&[5, 6, 7, 8], &[4.0, 5.0, 9.9, 11.0], &|_| false);
        assert_eq!(beam.rows().map(|r| r.1).collect::<Vec<_>>(), [5, 6, 7], "twice 5.0 is the end");
        while beam.next().is_some() {}
        beam.take(&[1, 2, 3], &[1.0, 1.5, 3.5], &|_| false);
        assert_eq!(beam.rows().map(|r| r.1).collect::<Vec<_>>(), [1, 2], "the end moves nearer");
        assert_eq!((beam.next(), beam.next(), beam.next()), (Some(1), Some(2), None));
        assert_eq!(beam.peek(3).count(), 0);
    }

    #[test]
    fn the_anchor_is_counted_among_live_rows() {
        let mut beam = Beam::default();
        beam.reset(8, Some(Stop { anchor: 1, stretch: 2.0, noise: 0.0 }));
        beam.take(&[4, 5, 6, 7, 8, 9], &[1.0, 4.0, 4.5, 5.0, 9.9, 11.0], &|slot| slot % 2 == 0);
        assert_eq!(beam.rows().map(|r| r.1).collect::<Vec<_>>(), [4, 5, 6, 7, 8], "twice 5.0 is the end");
        beam.take(&[11, 13], &[1.5, 2.0], &|_| false);
        assert_eq!(beam.rows().map(|r| r.1).collect::<Vec<_>>(), [4, 11, 13], "and moves nearer");
        beam.take(&[15], &[3.5], &|_| false);
        assert_eq!(beam.rows().map(|r| r.1).collect::<Vec<_>>(), [4, 11, 13, 15]);
    }

    #[test]
    fn rounds_merge_to_what_sorting_everything_gives() {
        let mut random = crate::index::testing::Random(1);
        for ef in [1, 2, 10, 60] {
            let mut beam = Beam::default();
            beam.reset(ef, None);
            let mut all: Vec<(f32, u32)> = Vec::new();
            let mut expanded = Vec::new();
            for round in 0..40u32 {
                let slots: Vec<u32> = (0..7).map(|i| round * 7 + i).collect();
                let distances: Vec<f32> = slots.iter().map(|_| (random.below(40) as f32) / 8.0 - 1.0).collect();
                beam.take(&slots, &distances, &|_| false);
                all.extend(distances.iter().copied().zip(slots.iter().copied()));
                expanded.extend(beam.next());
            }
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            all.truncate(ef);
            assert!(beam.rows().map(|r| r.0).eq(all.iter().map(|a| a.0)), "ef {ef}");
            let mut rest: Vec<u32> = std::iter::from_fn(|| beam.next()).collect();
            rest.extend(&expanded);
            let n = rest.len();
            rest.sort_unstable();
            rest.dedup();
            assert_eq!(rest.len(), n, "no row is expanded twice");
            assert!(beam.rows().all(|r| rest.contains(&r.1)), "every row of the beam is expanded once");
        }
    }
}
