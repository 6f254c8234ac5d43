//! Hybrid search: one order from two, that of the vectors and that of the words.
//!
//! Candidates are the best of either side. Invariants: a candidate appears once; better places on either side never lower a
//! score; ties go to the nearer, then to the older row.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::types::{Metric, Slot};

/// How the order by vectors and the order by words become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fusion {
    /// Reciprocal rank fusion: the score is the sum of `1 / (k + place)` over the sides that found the row, places counted
    /// from 1. It needs no scale, and is what to use without a reason for something else. (Cormack, Clarke, Büttcher 2009)
    Rrf {
        /// How little the first places stand out. 60 is usual.
        k: f32,
    },
    /// `vector * v + text * t`: `v` is 1 for the nearest candidate and 0 for the farthest of those that the vector side
    /// found, in between by its score; `t` is the row's text score divided by the best one, 0 if it does not match.
    Weights {
        /// What a near vector counts.
        vector: f32,
        /// What matching words count.
        text: f32,
    },
}

impl Default for Fusion {
    fn default() -> Self {
        Fusion::Rrf { k: 60.0 }
    }
}

impl Fusion {
    pub(crate) fn validate(&self) -> Result<()> {
        let good = |x: f32| x.is_finite() && x >= 0.0;
        match *self {
            Fusion::Rrf { k } if good(k) => Ok(()),
            Fusion::Weights { vector, text } if good(vector) && good(text) && vector + text > 0.0 => Ok(()),
            Fusion::Rrf { k } => Err(Error::argument(format!("fusion's k must be a number of 0 or more, got {k}"))),
            Fusion::Weights { vector, text } => Err(Error::argument(format!(
                "fusion's weights must be numbers of 0 or more, not both 0; got vector {vector} and text {text}"
            ))),
        }
    }
}

/// A row that either side found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fused {
    pub(crate) slot: Slot,
    pub(crate) score: f32,
    /// NaN without a vector.
    pub(crate) distance: f32,
    /// 0 if the words do not match.
    pub(crate) text_score: f32,
}

/// What the two sides found.
pub(crate) struct Sides<'a> {
    /// By vector: distances and slots, nearest first.
    pub(crate) near: &'a [(f32, Slot)],
    /// The text scores of `near`, 0 for those that do not match.
    pub(crate) near_text: &'a [f32],
    /// By words: scores and slots, best first.
    pub(crate) text: &'a [(f32, Slot)],
    /// The distances of `text`'s slots.
    pub(crate) text_distances: &'a BTreeMap<Slot, f32>,
}

/// Every candidate of either side, best first.
pub(crate) fn fuse(sides: &Sides<'_>, fusion: Fusion, metric: Metric) -> Vec<Fused> {
    let mut fused: BTreeMap<Slot, Fused> = BTreeMap::new();
    let near = sides.near.iter().zip(sides.near_text);
    fused.extend(near.map(|(&(distance, slot), &text_score)| (slot, Fused { slot, score: 0.0, distance, text_score })));
    for &(text_score, slot) in sides.text {
        let distance = sides.text_distances.get(&slot).copied().unwrap_or(f32::NAN);
        fused.entry(slot).or_insert(Fused { slot, score: 0.0, distance, text_score });
    }
    match fusion {
        Fusion::Rrf { k } => {
            let slots = |side: &[(f32, Slot)]| side.iter().map(|(_, slot)| *slot).collect::<Vec<_>>();
            for side in [slots(sides.near), slots(sides.text)] {
                for (place, slot) in (1u32..).zip(side) {
                    if let Some(row) = fused.get_mut(&slot) {
                        row.score += 1.0 / (k + place as f32);
                    }
                }
            }
        }
        Fusion::Weights { vector, text } => {
            let best = sides.text.first().map_or(0.0, |(score, _)| *score);
            let ends = (sides.near.first(), sides.near.last());
            let ends = ends.0.zip(ends.1).map(|(a, b)| (metric.score(a.0), metric.score(b.0)));
            for row in fused.values_mut() {
                let v = ends.map_or(0.0, |(high, low)| part(metric.score(row.distance), low, high));
                let t = if best > 0.0 { row.text_score / best } else { 0.0 };
                row.score = vector * v + text * t;
            }
        }
    }
    let mut fused: Vec<Fused> = fused.into_values().collect();
    fused.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.distance.total_cmp(&b.distance)).then(a.slot.cmp(&b.slot)));
    fused
}

/// Where `x` lies between `low` (0) and `high` (1). Where these are equal there is one best, and it is 1. Vectors of huge numbers
/// have infinite scores, which count as the largest number; a quarter of that leaves room for the difference.
fn part(x: f32, low: f32, high: f32) -> f32 {
    let [x, low, high] = [x, low, high].map(|score| score.clamp(f32::MIN, f32::MAX) / 4.0);
    if high > low { ((x - low) / (high - low)).clamp(0.0, 1.0) } else { f32::from(u8::from(x >= high)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(near: &[(f32, u32)], text: &[(f32, u32)], fusion: Fusion) -> Vec<(u32, f32)> {
        let slots = |side: &[(f32, u32)]| side.iter().map(|&(x, slot)| (x, Slot(slot))).collect::<Vec<_>>();
        let (near, text) = (slots(near), slots(text));
        let score_of = |slot: &Slot| text.iter().find(|t| t.1 == *slot).map_or(0.0, |t| t.0);
        let near_text: Vec<f32> = near.iter().map(|(_, slot)| score_of(slot)).collect();
        let text_distances = text.iter().map(|&(_, slot)| (slot, 0.9)).collect();
        let sides = Sides { near: &near, near_text: &near_text, text: &text, text_distances: &text_distances };
        fuse(&sides, fusion, Metric::Cosine).iter().map(|f| (f.slot.0, f.score)).collect()
    }

    #[test]
    fn reciprocal_ranks_add_up_and_both_sides_beat_one() {
        let got = order(&[(0.1, 7), (0.2, 8), (0.3, 9)], &[(5.0, 9), (4.0, 5)], Fusion::default());
        assert_eq!(got.iter().map(|g| g.0).collect::<Vec<_>>(), [9, 7, 8, 5]);
        assert!((got[0].1 - (1.0 / 63.0 + 1.0 / 61.0)).abs() < 1e-6 && (got[1].1 - 1.0 / 61.0).abs() < 1e-6);
    }

    #[test]
    fn weights_scale_each_side_to_one_and_a_weight_of_zero_takes_a_side_out() {
        let (near, text) = ([(0.1, 1), (0.2, 2), (0.5, 3)], [(8.0, 3), (1.0, 2)]);
        let got = order(&near, &text, Fusion::Weights { vector: 0.5, text: 0.5 });
        assert_eq!(got.iter().map(|g| g.0).collect::<Vec<_>>(), [1, 3, 2]);
        assert!((got[2].1 - (0.5 * 0.75 + 0.5 * 0.125)).abs() < 1e-6, "{got:?}");
        let by_vector = order(&near, &text, Fusion::Weights { vector: 1.0, text: 0.0 });
        assert_eq!(by_vector.iter().map(|g| g.0).collect::<Vec<_>>(), [1, 2, 3]);
        let by_text = order(&near, &text, Fusion::Weights { vector: 0.0, text: 1.0 });
        assert_eq!(by_text.iter().map(|g| g.0).collect::<Vec<_>>(), [3, 2, 1]);
    }

    #[test]
    fn one_candidate_counts_fully_and_weights_out_of_range_are_refused() {
        assert_eq!(order(&[(0.4, 1)], &[], Fusion::Weights { vector: 0.7, text: 0.3 }), [(1, 0.7)]);
        for (vector, text) in [(0.0, 0.0), (-1.0, 2.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0)] {
            assert!(Fusion::Weights { vector, text }.validate().is_err());
        }
        assert!(Fusion::Rrf { k: -1.0 }.validate().is_err() && Fusion::default().validate().is_ok());
    }
}
