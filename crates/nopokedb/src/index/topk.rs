//! The best k of a stream of scored rows, for any k.
//!
//! Invariants:
//! 1. Order is (distance, slot), total: equal distances are told apart by slot, so answers repeat.
//! 2. `bound` is never below the k-th best distance seen so far: what is worse than it cannot be in the answer.
//! 3. At most 2k entries are held (k at most once the answer is taken); the cost of an offer is amortised constant.

use std::cmp::Ordering;

use crate::types::Slot;

/// A scored row.
pub(crate) type Scored = (f32, u32);

/// The order of answers: nearer first, then the older row.
#[inline]
pub(crate) fn by_distance(a: &Scored, b: &Scored) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// Collects the k smallest offers.
#[derive(Debug, Default)]
pub(crate) struct TopK {
    k: usize,
    bound: f32,
    entries: Vec<Scored>,
    offers: usize,
}

impl TopK {
    /// Forgets everything and collects the best `k` from now on.
    pub(crate) fn reset(&mut self, k: usize) {
        self.k = k;
        self.bound = if k == 0 { f32::NEG_INFINITY } else { f32::INFINITY };
        self.entries.clear();
        self.offers = 0;
    }

    /// How many rows were offered.
    pub(crate) fn offers(&self) -> usize {
        self.offers
    }

    /// Takes a row into account.
    #[inline]
    pub(crate) fn offer(&mut self, distance: f32, slot: u32) {
        self.offers += 1;
        if distance > self.bound {
            return;
        }
        // Adding zero turns -0.0 into 0.0, which the total order would tell apart.
        self.entries.push((distance + 0.0, slot));
        if self.entries.len() >= 2 * self.k {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.k == 0 {
            self.entries.clear();
        } else if self.entries.len() > self.k {
            self.entries.select_nth_unstable_by(self.k - 1, by_distance);
            self.entries.truncate(self.k);
            self.bound = self.entries[self.k - 1].0;
        }
    }

    /// The best k (or all, if fewer were offered), in order.
    pub(crate) fn sorted(&mut self) -> &[Scored] {
        self.shrink();
        self.entries.sort_unstable_by(by_distance);
        &self.entries
    }
}

/// The best that were offered, as an answer.
pub(super) fn answer(top: &mut TopK) -> Vec<(f32, Slot)> {
    top.sorted().iter().map(|&(distance, slot)| (distance, Slot(slot))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_k_best_come_out_in_order_whatever_the_order_they_came_in() {
        for k in [1, 2, 7, 100, 1_000, 2_000] {
            let mut all: Vec<Scored> =
                (0..1_000u32).map(|i| ((i.wrapping_mul(2_654_435_761) % 97) as f32, i)).collect();
            let mut top = TopK::default();
            top.reset(k);
            all.iter().rev().for_each(|&(d, s)| top.offer(d, s));
            all.sort_by(by_distance);
            all.truncate(k);
            assert_eq!(top.sorted(), all, "k = {k}");
        }
    }

    #[test]
    fn negative_zero_ties_with_zero() {
        let mut top = TopK::default();
        top.reset(2);
        top.offer(-0.0, 9);
        top.offer(0.0, 3);
        assert_eq!(top.sorted().iter().map(|e| e.1).collect::<Vec<_>>(), [3, 9]);
    }
}
