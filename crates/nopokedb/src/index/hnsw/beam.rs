//! The beam of a walk: the nearest rows met so far, sorted, each expanded or not.
//!
//! Invariants:
//! 1. Sorted by distance, then slot; no slot twice.
//! 2. It ends with its last live row that is wanted ([`Width`]), so dead rows do not use it up: they are walked through. Only a
//!    beam that is nearly all dead is cut off sooner; the caller's exact fall-back takes over then.
//!
//! A round's finds are sorted, their places looked up, and what is farther moved in one piece for each of them: choosing place by
//! place, each choice waiting for the one before, costs twice as much.

use nopokedb_kernels::kernels;

use crate::index::topk::Scored;

/// A row packed into an integer that sorts by distance, then slot: distance, slot, dead, expanded.
type Key = u64;
const EXPANDED: Key = 1;
const DEAD: Key = 2;
const SLOT_SHIFT: u32 = 2;
/// A beam holds at most this many times the live rows that it is to hold, dead ones included.
const MAX_DEAD_FACTOR: usize = 16;

/// A walk among few live rows asks a first time whether it is among them at this part of what it will expand at least.
const EARLY: usize = 4;

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
    /// Which rows of the present round are near enough, what they are packed into, and where in the beam they belong.
    near: Vec<u32>,
    found: Vec<Key>,
    places: Vec<usize>,
    width: Width,
    live: usize,
    /// All keys before this one are expanded.
    cursor: usize,
    expanded: usize,
    /// How many rows are expanded when `least` is looked at next.
    judged_at: usize,
    /// Where the stop's anchor was last; nothing nearer came since.
    anchored: usize,
    /// What is not nearer than this is of no use.
    bound: f32,
    stop: Option<Stop>,
}

/// How many rows a beam keeps: the nearest, until there are as many as both of the first two say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Width {
    /// Live ones.
    pub(crate) live: usize,
    /// Rows, live or not.
    pub(crate) all: usize,
    /// It never holds more than this, however few of them are live.
    pub(crate) most: usize,
    /// Live rows that must be among the first `all` once so many were expanded: see [`Beam::gives_up`].
    pub(crate) least: usize,
}

impl From<usize> for Width {
    fn from(live: usize) -> Width {
        Width { live, all: 0, most: live * MAX_DEAD_FACTOR, least: 0 }
    }
}

/// When a walk is over before its beam is used up: adaptive beam search (Al-Jazzazi et al., arXiv 2505.15636), whose
/// bound here also keeps rows out of the beam.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// The live row, counted from 0, whose distance is the measure.
    pub(crate) anchor: usize,
    /// The row, live or not, that is the measure if it is farther.
    pub(crate) anchor_all: usize,
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
    pub(crate) fn reset(&mut self, width: impl Into<Width>, stop: Option<Stop>) {
        self.width = width.into();
        self.stop = stop;
        self.keys.clear();
        self.found.clear();
        self.live = 0;
        self.cursor = 0;
        self.expanded = 0;
        self.judged_at = if self.width.least == 0 { usize::MAX } else { self.width.all / EARLY };
        self.anchored = usize::MAX;
        self.bound = f32::INFINITY;
    }

    /// Takes in what a round found: `distances[i]` belongs to `slots[i]`. None of them is in the beam yet.
    pub(crate) fn take(&mut self, slots: &[u32], distances: &[f32], is_dead: &impl Fn(u32) -> bool) {
        let near = &mut self.near;
        if near.len() < slots.len() {
            near.resize(slots.len().next_multiple_of(256), 0);
        }
        let n = if self.bound == f32::INFINITY {
            near.iter_mut().zip(0..).take(slots.len()).for_each(|(place, i)| *place = i);
            slots.len()
        } else {
            kernels().select_between(distances, f32::NEG_INFINITY, self.bound.next_down(), near)
        };
        self.found.extend(near[..n].iter().map(|&i| {
            let (slot, distance) = (slots[i as usize], distances[i as usize]);
            let dead = if is_dead(slot) { DEAD } else { 0 };
            // Adding zero turns -0.0 into 0.0.
            u64::from(sortable(distance + 0.0)) << 32 | u64::from(slot) << SLOT_SHIFT | dead
        }));
        self.merge();
    }

    /// Merges `found` into the beam.
    fn merge(&mut self) {
        let Beam { keys, found, places, .. } = self;
        if found.is_empty() {
            return;
        }
        found.sort_unstable();
        self.live += found.iter().filter(|&&key| key & DEAD == 0).count();
        let mut old = keys.len();
        places.clear();
        places.extend(found.iter().map(|&key| keys.partition_point(|&k| k < key)));
        keys.resize(old + found.len(), 0);
        // From the back, into the room that was just made.
        for ((new, &key), &place) in found.iter().enumerate().zip(&*places).rev() {
            keys.copy_within(place..old, place + new + 1);
            keys[place + new] = key;
            old = place;
        }
        self.cursor = self.cursor.min(old);
        found.clear();
        self.cut(old);
    }

    /// Drops what the width leaves out, after rows were taken in from place `first` on.
    fn cut(&mut self, first: usize) {
        let Width { live, all, most, .. } = self.width;
        while let Some(&last) = self.keys.last() {
            let is_live = last & DEAD == 0;
            let surplus = self.live > live || (self.live == live && !is_live);
            if !(surplus && self.keys.len() > all || self.keys.len() > most) {
                break;
            }
            self.live -= usize::from(is_live);
            self.keys.pop();
        }
        if (self.live >= live && self.keys.len() >= all || self.keys.len() == most)
            && let Some(&last) = self.keys.last()
        {
            self.bound = distance_in(last);
        }
        if first <= self.anchored {
            self.stop_at_anchor();
        }
        self.cursor = self.cursor.min(self.keys.len());
    }

    /// Drops what is much farther than the anchor.
    fn stop_at_anchor(&mut self) {
        self.anchored = usize::MAX;
        if let Some(stop) = self.stop
            && let Some(anchor) = self.live_place(stop.anchor)
            && let anchor = anchor.max(stop.anchor_all)
            && anchor < self.keys.len()
        {
            self.anchored = anchor;
            let bound = stop.bound(distance_in(self.keys[anchor]));
            if bound < self.bound {
                self.bound = bound;
                let keep = self.keys.partition_point(|&key| distance_in(key) < bound).max(anchor + 1);
                self.live -= self.keys[keep..].iter().filter(|&&key| key & DEAD == 0).count();
                self.keys.truncate(keep);
            }
        }
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
                self.expanded += 1;
                return Some(slot_in(*key));
            }
        }
        None
    }

    /// Whether live rows are so rare around the probe that the walk should not go on. Asked after each round; looked at twice: early,
    /// for what is given up then costs little, and when the walk has been everywhere that one among all rows goes.
    pub(crate) fn gives_up(&mut self) -> bool {
        if self.expanded < self.judged_at {
            return false;
        }
        let early = self.expanded < self.width.all;
        if early && self.keys.len() < self.width.all {
            return false;
        }
        self.judged_at = if early { self.width.all } else { usize::MAX };
        let near = &self.keys[..self.width.all.min(self.keys.len())];
        near.iter().filter(|&&key| key & DEAD == 0).count() < self.width.least
    }

    /// Whether the walk took all that the beam may hold without finding the live rows that it was to hold.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.keys.len() >= self.width.most && self.live < self.width.live
    }

    /// The first `n` rows that will be expanded next if nothing nearer is met.
    pub(crate) fn peek(&self, n: usize) -> impl Iterator<Item = u32> {
        self.keys[self.cursor..].iter().filter(|&key| key & EXPANDED == 0).take(n).map(|&key| slot_in(key))
    }

    /// The rows, nearest first, dead ones included.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Scored> {
        self.keys.iter().map(|&k| (distance_in(k), slot_in(k)))
    }

    /// The same, and whether each is live.
    pub(crate) fn marked(&self) -> impl Iterator<Item = (Scored, bool)> {
        self.keys.iter().map(|&k| ((distance_in(k), slot_in(k)), k & DEAD == 0))
    }

    /// The live ones, nearest first.
    pub(crate) fn live(&self) -> impl Iterator<Item = Scored> + Clone {
        self.keys.iter().filter(|&&k| k & DEAD == 0).map(|&k| (distance_in(k), slot_in(k)))
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
    fn a_beam_is_wide_enough_for_all_rows_and_for_live_ones_but_not_endless() {
        let slots: Vec<u32> = (0..10).collect();
        let distances: Vec<f32> = (0..10u8).map(f32::from).collect();
        let width = Width { live: 2, all: 4, most: 100, least: 0 };
        let mut beam = Beam::default();
        for (width, every, kept) in [(width, 1, 4), (width, 4, 8), (Width { most: 6, ..width }, 4, 6)] {
            beam.reset(width, None);
            beam.take(&slots, &distances, &|slot| slot % every != every - 1);
            assert_eq!(beam.rows().count(), kept);
            assert_eq!(beam.live().count(), if every == 1 { 4 } else { kept / 4 });
            assert_eq!(beam.bound(), distances[kept - 1]);
            assert_eq!(beam.is_cut_short(), kept == 6);
        }
    }

    #[test]
    fn a_walk_gives_up_once_it_has_expanded_enough_rows_and_too_few_of_the_nearest_are_live() {
        let distances: Vec<f32> = (0..10u8).map(f32::from).collect();
        for live in [3, 4] {
            let mut beam = Beam::default();
            beam.reset(Width { live: 2, all: 4, most: 100, least: 1 }, None);
            beam.take(&(0..10).collect::<Vec<u32>>(), &distances, &|slot| slot != live);
            let gave_up: Vec<bool> = (0..6).map(|_| beam.next().is_some() && beam.gives_up()).collect();
            let gives_up = live == 4;
            assert_eq!(gave_up, [gives_up, false, false, gives_up, false, false], "asked early and late, {live}");
        }
    }

    #[test]
    fn rows_far_beyond_the_anchor_are_dropped_and_never_expanded() {
        let mut beam = Beam::default();
        beam.reset(8, Some(Stop { anchor: 1, anchor_all: 0, stretch: 2.0, noise: 0.0 }));
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
        beam.reset(8, Some(Stop { anchor: 1, anchor_all: 0, stretch: 2.0, noise: 0.0 }));
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
