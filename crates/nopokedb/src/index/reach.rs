//! How far walks look: the beam that a query's `ef` stands for.
//!
//! Invariant: a beam is at least as wide as `ef` and as `k`. Except under ip it has room for two rows for each of those places, as
//! codes put some rows a few places too far back.

use super::hnsw::beam::Stop;
use crate::types::Metric;

/// How far a walk looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Rows in the beam at most for each place of `ef`: two at `ef` = `k`, and in the end as many as this.
    rows: usize,
    /// The row at this part of `ef` is [`Stop::anchor`].
    part: usize,
    /// See [`Stop::stretch`].
    stretch: f32,
}

/// Through all rows. Measured on embeddings, heavy tails, spikes, tight and loose clusters: with a beam so wide that mostly the
/// stretch ends the walk, up to a fifth fewer rows are compared for the same recall than where the width does.
pub(super) const FREE: Reach = Reach { rows: 4, part: 2, stretch: 1.07 };

/// Among the rows that pass a filter.
pub(super) const FILTERED: Reach = Reach { rows: 2, part: 3, stretch: 1.2 };

impl Reach {
    /// The beam's width and where it ends: wider where much lies almost as near as what is sought, and not used up where little
    /// does. Under ip distances have no natural zero to be stretched from. `noise` is [`Stop::noise`].
    pub(super) fn beam(self, metric: Metric, k: usize, ef: usize, noise: f32) -> (usize, Option<Stop>) {
        let places = ef.max(k);
        if metric == Metric::Ip {
            return (places, None);
        }
        let stop = Stop { anchor: k.max(ef / self.part), anchor_all: 0, stretch: self.stretch, noise };
        (2 * places + (self.rows - 2) * (places - k), Some(stop))
    }
}
