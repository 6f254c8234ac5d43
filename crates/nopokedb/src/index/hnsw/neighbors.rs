//! Which of many near rows a node links to.
//!
//! The rule is the diversity heuristic of HNSW (Malkov and Yashunin, arXiv 1603.09320, algorithm 4), which is the relative
//! neighbourhood rule of Toussaint (1980): of the candidates in order of distance, take one unless an already taken one is
//! nearer to it than the node is. With `alpha` > 1 a candidate is dropped only if a taken one is `alpha` times nearer
//! (Vamana: Subramanya et al., NeurIPS 2019), which keeps more long links.
//!
//! Two additions of our own: *kept* candidates (links of the tree, see [`super::graph`]) are always taken, and what is
//! equally far counts as nearer, so that a swarm of equal rows takes one place in a list and not all of them.

use super::graph::KEPT;
use crate::error::Result;
use crate::index::near::{Near, Probe};
use crate::index::topk::Scored;

/// Working memory of [`select`].
#[derive(Debug, Default)]
pub(crate) struct Selector {
    probe: Probe,
    open: Vec<Scored>,
    slots: Vec<u32>,
    distances: Vec<f32>,
}

impl Selector {
    /// Picks at most `limit` of `candidates` (sorted by distance; words may carry [`KEPT`], and at most `limit` do) into
    /// `taken`, nearest first.
    ///
    /// One taken candidate at a time is compared with all that are still open: the pairs are those of the textbook loop, in
    /// an order that lets distances be computed in batches.
    pub(crate) fn select(
        &mut self,
        rows: &Near<'_>,
        candidates: &[Scored],
        limit: usize,
        alpha: f32,
        taken: &mut Vec<Scored>,
    ) -> Result<()> {
        taken.clear();
        self.open.clear();
        self.open.extend_from_slice(candidates);
        let mut kept_ahead = candidates.iter().filter(|c| c.1 & KEPT != 0).count();
        debug_assert!(kept_ahead <= limit);
        while !self.open.is_empty() && taken.len() < limit {
            let next = self.open.remove(0);
            if next.1 & KEPT != 0 {
                kept_ahead -= 1;
            } else if taken.len() + kept_ahead >= limit {
                continue;
            }
            taken.push(next);
            if taken.len() == limit || self.open.is_empty() {
                break;
            }
            self.slots.clear();
            self.slots.extend(self.open.iter().map(|c| c.1 & !KEPT));
            if !rows.probe_row(next.1 & !KEPT, &mut self.probe)? {
                continue;
            }
            rows.distances(&mut self.probe, &self.slots, &mut self.distances)?;
            let mut between = self.distances.iter();
            self.open.retain(|c| {
                let d = *between.next().expect("one distance a candidate");
                c.1 & KEPT != 0 || alpha * d > c.0
            });
        }
        Ok(())
    }
}
