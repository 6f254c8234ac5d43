//! The entry points' codes once more, side by side: every walk begins by comparing all of them, and rows that lie together come
//! several times as fast as rows from all over the memory. So there can be many, and the way from one to the query is short.
//!
//! Invariant: an [`Entrance`] is made of one set of codes and of the entry points at one time; who finds that either has changed
//! since makes a new one. Walking from an older one does no harm: what was an entry point is a node.
//!
//! Threading: any thread may replace it; walks keep the one they began with.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use nopokedb_kernels::{AppendArena, NibbleQuery, kernels};

use super::graph::Graph;
use crate::vectors::code_query::CodeQuery;
use crate::vectors::codes::{Codes, Grid};

/// Entry points from which a walk starts: the nearest of as many equal parts of them.
const PARTS: usize = 16;

/// A copy of the entry points.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Whose codes these are, and how often the entry points had changed.
    grid: Arc<Grid>,
    changes: u32,
    slots: Vec<u32>,
    codes: AppendArena<u8>,
    norms: Vec<f32>,
    /// 0, 1, 2, ...: all rows of `codes`.
    all: Vec<u32>,
}

/// Where the present one is.
#[derive(Debug, Default)]
pub(crate) struct Entrances(ArcSwapOption<Entrance>);

impl Entrances {
    /// The entrance of `graph` in terms of `codes`; none where there are so few entry points that it would not pay.
    pub(crate) fn of(&self, graph: &Graph, codes: &Codes) -> Option<Arc<Entrance>> {
        let changes = graph.entry_changes();
        if let Some(known) = &*self.0.load()
            && known.changes == changes
            && Arc::ptr_eq(&known.grid, codes.shared_grid())
        {
            return Some(known.clone());
        }
        let made = Arc::new(Entrance::new(graph, codes, changes)?);
        self.0.store(Some(made.clone()));
        Some(made)
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.0.load().as_ref().map_or(0, |e| e.codes.bytes() + e.slots.len() * 3 * size_of::<u32>())
    }
}

impl Entrance {
    fn new(graph: &Graph, codes: &Codes, changes: u32) -> Option<Entrance> {
        // Entry points that were added after `codes` were replaced have none of these.
        let slots: Vec<u32> = graph.entries().filter(|&slot| (slot as usize) < codes.len()).collect();
        if slots.len() <= PARTS {
            return None;
        }
        let copy = AppendArena::new(codes.hi_row(slots[0]).len());
        for &slot in &slots {
            copy.append(codes.hi_row(slot));
        }
        Some(Entrance {
            grid: codes.shared_grid().clone(),
            changes,
            codes: copy,
            norms: slots.iter().map(|&slot| codes.norm(slot)).collect(),
            all: (0..).take(slots.len()).collect(),
            slots,
        })
    }

    /// Entry points there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Calls `start` with the nearest entry point of each part that lies below `limit`.
    pub(crate) fn nearest(
        &self,
        query: &mut CodeQuery,
        limit: u32,
        estimates: &mut Vec<f32>,
        mut start: impl FnMut(u32),
    ) {
        let sums = |q: NibbleQuery<'_>, sums: &mut [i32]| kernels().nibble_gather(q, &self.codes, &self.all, sums);
        query.near_all(self.slots.len(), sums, |i| self.norms[i], estimates);
        let part = self.slots.len().div_ceil(PARTS);
        for (slots, estimates) in self.slots.chunks(part).zip(estimates.chunks(part)) {
            let below = slots.iter().zip(estimates).filter(|(slot, _)| **slot < limit);
            if let Some((slot, _)) = below.min_by(|a, b| a.1.total_cmp(b.1)) {
                start(*slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::testing::Rows;
    use crate::types::Metric;

    const DIM: usize = 32;

    fn codes(rows: &Rows, seed: u64) -> Codes {
        let codes = Codes::new(Grid::new(Metric::L2, DIM, Vec::new(), seed));
        codes.append(&rows.data);
        codes
    }

    fn starts(graph: &Graph, codes: &Codes, query: &[f32], limit: u32) -> Vec<u32> {
        let (mut probe, mut estimates, mut starts) = (CodeQuery::default(), Vec::new(), Vec::new());
        probe.prepare_nibbles(codes.grid(), query);
        let entrance = graph.entrance(codes).expect("enough entry points");
        entrance.nearest(&mut probe, limit, &mut estimates, |slot| starts.push(slot));
        starts
    }

    #[test]
    fn walks_start_at_the_nearest_of_each_part_and_never_past_the_limit() {
        let rows = Rows::gaussian(DIM, 400, 3);
        let (graph, codes) = (Graph::new(8), codes(&rows, 1));
        (0..400).step_by(2).for_each(|slot| graph.add_entry(slot));
        for query in (0..400).step_by(2) {
            let found = starts(&graph, &codes, rows.row(query), 400);
            assert_eq!(found.len(), 200usize.div_ceil(200usize.div_ceil(PARTS)));
            assert!(
                found.contains(&u32::try_from(query).expect("small")),
                "a row is nearest to itself: {query}, {found:?}"
            );
        }
        let found = starts(&graph, &codes, rows.row(398), 100);
        assert!(!found.is_empty() && found.iter().all(|&slot| slot < 100 && slot % 2 == 0), "{found:?}");
    }

    #[test]
    fn an_entrance_is_made_anew_once_entry_points_or_codes_have_changed() {
        let rows = Rows::gaussian(DIM, 400, 4);
        let (graph, before) = (Graph::new(8), codes(&rows, 1));
        (0..16).for_each(|slot| graph.add_entry(slot));
        assert!(graph.entrance(&before).is_none(), "so few are as well compared where they are");
        (16..64).for_each(|slot| graph.add_entry(slot));
        let first = graph.entrance(&before).expect("enough entry points");
        assert!(Arc::ptr_eq(&first, &graph.entrance(&before).expect("the same")));
        graph.add_entry(300);
        assert!(starts(&graph, &before, rows.row(300), 400).contains(&300));
        graph.set_entry(7, 200);
        assert!(starts(&graph, &before, rows.row(200), 400).contains(&200));
        assert!(!starts(&graph, &before, rows.row(7), 400).contains(&7));
        let after = codes(&rows, 2);
        assert!(starts(&graph, &after, rows.row(300), 400).contains(&300), "in terms of other codes");
    }

    #[test]
    fn entry_points_that_a_set_of_codes_does_not_reach_are_left_out() {
        let rows = Rows::gaussian(DIM, 100, 5);
        let (graph, short) = (Graph::new(8), codes(&rows, 1));
        (0..200).step_by(2).for_each(|slot| graph.add_entry(slot));
        assert_eq!(graph.entrance(&short).expect("enough entry points").len(), 50);
    }
}
