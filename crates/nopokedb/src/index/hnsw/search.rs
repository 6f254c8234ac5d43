//! Best-first search in the graph.
//!
//! The algorithm is HNSW's search of the ground layer (Malkov and Yashunin, arXiv 1603.09320, algorithm 2), except that
//! several candidates are expanded per round: their unvisited neighbours are collected first and compared together, so that
//! memory is fetched for many rows at once instead of for one.
//!
//! Invariants:
//! 1. Each row is compared at most once per search (`visited`), and only slots below `limit` are touched.
//! 2. After a search `visited` is all zero again.

use super::beam::{Beam, Stop, Width};
use super::graph::Graph;
use crate::error::Result;
use crate::index::near::{Near, Probe};

/// Candidates expanded per round.
pub(super) const ROUND: usize = 4;

/// Which slots a search has met: one bit each, cleared by undoing.
#[derive(Debug, Default)]
pub(super) struct Visited {
    bits: Vec<u64>,
    /// The slots met, in order, and room for more.
    pub(super) met: Vec<u32>,
    pub(super) count: usize,
    limit: u32,
}

impl Visited {
    /// Starts a search among the slots below `limit`.
    pub(super) fn begin(&mut self, limit: u32) {
        // One bit more than there are slots: it is set, so that whatever is past the limit counts as met.
        let words = limit as usize / 64 + 1;
        if self.bits.len() < words {
            self.bits.resize(words.next_multiple_of(1024), 0);
        }
        self.limit = limit;
        self.count = 0;
        self.mark(limit);
    }

    pub(super) fn mark(&mut self, slot: u32) {
        self.bits[(slot / 64) as usize] |= 1 << (slot % 64);
    }

    /// Room for `n` slots more.
    pub(super) fn reserve(&mut self, n: usize) {
        if self.met.len() < self.count + n {
            self.met.resize((self.count + n).next_multiple_of(4096), 0);
        }
    }

    /// Notes a slot, the first time. Room was reserved.
    pub(super) fn meet(&mut self, slot: u32) {
        self.meeting(|meeting| meeting.meet(slot));
    }

    /// Lets `visit` note many slots. Room was reserved for them.
    #[inline(always)]
    pub(super) fn meeting(&mut self, visit: impl FnOnce(&mut Meeting<'_>)) {
        let mut meeting = Meeting { bits: &mut self.bits, met: &mut self.met, count: self.count, limit: self.limit };
        visit(&mut meeting);
        self.count = meeting.count;
    }

    /// Whether a slot below the limit is marked.
    #[inline(always)]
    pub(super) fn knows(&self, slot: u32) -> bool {
        self.bits[(slot / 64) as usize] >> (slot % 64) & 1 == 1
    }

    /// Takes a mark back that was made without meeting the slot.
    pub(super) fn forget_one(&mut self, slot: u32) {
        self.bits[(slot / 64) as usize] &= !(1 << (slot % 64));
    }

    /// Takes back all marks of a slot's word: when a search ends.
    pub(super) fn forget(&mut self, slot: u32) {
        self.bits[(slot / 64) as usize] = 0;
    }

    pub(super) fn end(&mut self) {
        for i in 0..self.count {
            self.forget(self.met[i]);
        }
        self.bits[(self.limit / 64) as usize] = 0;
    }
}

/// Slots being noted in a [`Visited`]: its parts side by side, so that they stay in registers.
pub(super) struct Meeting<'a> {
    bits: &'a mut [u64],
    met: &'a mut [u32],
    count: usize,
    limit: u32,
}

impl Meeting<'_> {
    /// Notes a slot, the first time. No branch depends on the slot.
    #[inline(always)]
    pub(super) fn meet(&mut self, slot: u32) {
        let slot = slot.min(self.limit);
        let word = &mut self.bits[(slot / 64) as usize];
        let fresh = (*word >> (slot % 64) & 1) ^ 1;
        *word |= 1 << (slot % 64);
        self.met[self.count] = slot;
        self.count += usize::from(fresh == 1);
    }
}

/// Working memory of a graph search.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    pub(crate) beam: Beam,
    pub(super) visited: Visited,
    pub(super) distances: Vec<f32>,
    /// Rows that do not pass: about to be looked through, and looked through already.
    pub(super) blocked: Vec<u32>,
    pub(super) looked_through: Vec<u32>,
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
    /// Fills the beam with the live rows nearest to `probe` that the search meets, and the dead ones between them. False if the
    /// beam gave up, because so few are live around the probe.
    pub(crate) fn walk(
        &mut self,
        field: Field<'_>,
        probe: &mut Probe,
        width: impl Into<Width>,
        stop: Option<Stop>,
        is_dead: &impl Fn(u32) -> bool,
    ) -> Result<bool> {
        self.visited.begin(field.limit);
        self.beam.reset(width, stop);
        self.evaluations = 0;
        let outcome = self.walk_rounds(field, probe, is_dead);
        self.evaluations += self.visited.count;
        self.visited.end();
        outcome
    }

    /// Meets the rows from which the walk starts.
    fn enter(&mut self, field: Field<'_>, probe: &mut Probe) {
        self.visited.reserve(field.graph.entry_count() as usize + 1);
        match field.rows.codes.and_then(|codes| field.graph.entrance(codes)) {
            Some(entrance) => {
                self.evaluations += entrance.len();
                let Walker { visited, distances, .. } = self;
                entrance.nearest(&mut probe.code, field.limit, distances, |entry| visited.meet(entry));
            }
            None => {
                field.graph.entries().take(self.visited.met.len() - 1).for_each(|entry| self.visited.meet(entry));
            }
        }
    }

    fn walk_rounds(&mut self, field: Field<'_>, probe: &mut Probe, is_dead: &impl Fn(u32) -> bool) -> Result<bool> {
        self.enter(field, probe);
        let mut done = 0;
        while done < self.visited.count {
            let fresh = &self.visited.met[done..self.visited.count];
            field.rows.distances(probe, fresh, &mut self.distances)?;
            self.beam.take(fresh, &self.distances, is_dead);
            // The lists of this round and, as far as it can be told, of the one after.
            self.beam.peek(2 * ROUND).for_each(|slot| field.graph.prefetch(slot));
            done = self.visited.count;
            if self.beam.gives_up() {
                return Ok(false);
            }
            // A round may find nothing new while the beam still holds rows to expand.
            while self.visited.count == done && self.expand(field) {}
        }
        Ok(!self.beam.is_cut_short())
    }

    /// Meets the neighbours of the nearest rows not expanded yet; false if there are none.
    fn expand(&mut self, field: Field<'_>) -> bool {
        let mut round = [0; ROUND];
        let mut n = 0;
        while n < ROUND
            && let Some(slot) = self.beam.next()
        {
            round[n] = slot;
            n += 1;
        }
        self.visited.reserve(ROUND * field.graph.room());
        self.visited.meeting(|meeting| {
            for &slot in &round[..n] {
                let met = meeting.count;
                field.graph.visit(slot, |neighbour| meeting.meet(neighbour));
                // On their way while the other lists are read.
                field.rows.prefetch(&meeting.met[met..meeting.count]);
            }
        });
        n > 0
    }
}
