//! Search among the rows that pass a filter, by two hops.
//!
//! Only rows that pass are compared and walked to. Where too few of a node's neighbours pass, the neighbours of those that
//! do not are looked at in their place, so that the passing rows form a graph of their own, about as dense as the whole
//! (ACORN-1: Patel et al., arXiv 2403.04871, section 5). Lists are read until as many rows that pass were seen as a list can
//! hold: where most pass that is one list, and where one in ten does, about ten.
//!
//! Invariants: as in `search.rs`; a row that does not pass is looked through at most once.

use super::beam::Stop;
use super::search::{Field, ROUND, Walker};
use crate::error::Result;
use crate::index::near::Probe;

impl Walker {
    /// Fills the beam, that ends at `stop`, with the `ef` passing rows nearest to `probe` that the search meets from `seeds` on, nodes that pass.
    /// `passes` holds for nodes that pass or share their place with a row that does.
    pub(crate) fn walk_among(
        &mut self,
        field: Field<'_>,
        probe: &mut Probe,
        (ef, stop): (usize, Option<Stop>),
        seeds: impl Iterator<Item = u32>,
        passes: &impl Fn(u32) -> bool,
    ) -> Result<()> {
        self.visited.begin(field.limit);
        self.beam.reset(ef, stop);
        self.looked_through.clear();
        let outcome = self.hop_rounds(field, probe, seeds, passes);
        self.evaluations = self.visited.count;
        for &slot in &self.looked_through {
            self.visited.forget(slot);
        }
        self.visited.end();
        outcome
    }

    fn hop_rounds(
        &mut self,
        field: Field<'_>,
        probe: &mut Probe,
        seeds: impl Iterator<Item = u32>,
        passes: &impl Fn(u32) -> bool,
    ) -> Result<()> {
        for slot in seeds {
            self.visited.reserve(1);
            self.visited.meet(slot);
        }
        let mut done = 0;
        while done < self.visited.count {
            let fresh = &self.visited.met[done..self.visited.count];
            field.rows.distances(probe, fresh, &mut self.distances)?;
            self.beam.take(fresh, &self.distances, &|_| false);
            done = self.visited.count;
            while self.visited.count == done && self.hop(field, passes) {}
        }
        Ok(())
    }

    /// Meets the passing neighbours, near and at one remove, of the nearest rows not expanded yet; false if there are none.
    fn hop(&mut self, field: Field<'_>, passes: &impl Fn(u32) -> bool) -> bool {
        let mut round = [0; ROUND];
        let mut n = 0;
        while n < ROUND
            && let Some(slot) = self.beam.next()
        {
            field.graph.prefetch(slot);
            round[n] = slot;
            n += 1;
        }
        self.visited.reserve(ROUND * field.graph.room());
        self.blocked.clear();
        let mut passed = 0;
        for &slot in &round[..n] {
            let (visited, blocked, through) = (&mut self.visited, &mut self.blocked, &mut self.looked_through);
            field.graph.visit(slot, |neighbour| {
                if neighbour >= field.limit {
                    return;
                }
                if passes(neighbour) {
                    passed += 1;
                    visited.meet(neighbour);
                } else if !visited.knows(neighbour) {
                    field.graph.prefetch(neighbour);
                    visited.mark(neighbour);
                    through.push(neighbour);
                    blocked.push(neighbour);
                }
            });
        }
        let wanted = n * field.graph.capacity();
        self.look_through(field, passes, wanted.saturating_sub(passed));
        self.beam.peek(ROUND).for_each(|slot| field.graph.prefetch(slot));
        n > 0
    }

    /// Meets the passing neighbours of rows that do not pass, until `wanted` were seen. Those left over may be looked through
    /// another time.
    fn look_through(&mut self, field: Field<'_>, passes: &impl Fn(u32) -> bool, wanted: usize) {
        let (mut seen, mut used) = (0, 0);
        while used < self.blocked.len() && seen < wanted {
            self.visited.reserve(field.graph.room());
            let visited = &mut self.visited;
            field.graph.visit(self.blocked[used], |neighbour| {
                if neighbour < field.limit && passes(neighbour) {
                    seen += 1;
                    visited.meet(neighbour);
                }
            });
            used += 1;
        }
        let left = self.blocked.len() - used;
        for &slot in &self.blocked[used..] {
            self.visited.forget_one(slot);
        }
        self.looked_through.truncate(self.looked_through.len() - left);
    }
}
