//! What steers the graph: distances between rows, from codes where there are any, else from the rows themselves.
//!
//! Invariants:
//! 1. Distances of one probe rank rows about as the exact ones do; those of a caller's vector and those of a row are on the
//!    same scale, so they can be compared with each other.
//! 2. With codes every row below the length has a distance, even when its bytes are gone. Without them a node whose bytes are
//!    gone is as far as the rows of its chain, which equal it; one without a chain is infinitely far, a wall to walks, and
//!    has to be taken out of the graph (`Generation::wants_repair`).
//!
//! Threading: as the arrays behind it.

use super::hnsw::graph::Graph;
use super::space::{self, Space};
use crate::error::Result;
use crate::vectors::code_query::CodeQuery;
use crate::vectors::codes::Codes;

/// The rows as the graph sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Near<'a> {
    pub(crate) space: &'a Space,
    /// `None` where rows are so short that codes would not pay.
    pub(crate) codes: Option<&'a Codes>,
    pub(crate) graph: &'a Graph,
}

/// A vector prepared to be compared with rows. Reused between searches.
#[derive(Debug, Default, Clone)]
pub(crate) struct Probe {
    pub(crate) exact: space::Probe,
    pub(crate) code: CodeQuery,
}

impl Near<'_> {
    /// Prepares a row; false if nothing is known of it any more.
    pub(crate) fn probe_row(&self, slot: u32, probe: &mut Probe) -> Result<bool> {
        match self.codes {
            Some(codes) => {
                probe.code.prepare_row(codes, slot);
                Ok(true)
            }
            None => {
                for row in self.chain(slot) {
                    if self.space.probe_row(row, &mut probe.exact)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Distances of `slots`, in order.
    pub(crate) fn distances(&self, probe: &mut Probe, slots: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        let Some(codes) = self.codes else {
            for &slot in slots {
                let distance = match self.space.exact(&probe.exact, slot)? {
                    Some(distance) => distance,
                    None => self.distance_of_chain(probe, slot)?,
                };
                out.push(distance);
            }
            return Ok(());
        };
        probe.code.near_many(codes, slots, out);
        Ok(())
    }

    /// Asks for what [`Near::distances`] will read of `slots`. A hint.
    #[inline]
    pub(crate) fn prefetch(&self, slots: &[u32]) {
        if let Some(codes) = self.codes {
            slots.iter().for_each(|&slot| codes.prefetch(slot));
        }
    }

    /// A node and the rows that equal it.
    fn chain(&self, node: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(node), |&row| self.graph.twin(row))
    }

    /// The distance of a node whose bytes are gone.
    #[cold]
    fn distance_of_chain(&self, probe: &Probe, node: u32) -> Result<f32> {
        for row in self.chain(node).skip(1) {
            if let Some(distance) = self.space.exact(&probe.exact, row)? {
                return Ok(distance);
            }
        }
        Ok(f32::INFINITY)
    }

    /// How far estimates stray, per root of a distance; see [`super::hnsw::beam::Stop`].
    pub(crate) fn noise(&self, probe: &Probe) -> f32 {
        self.codes.map_or(0.0, |codes| probe.code.noise(codes))
    }

    /// Whether the graph cannot tell two rows apart.
    pub(crate) fn same(&self, a: u32, b: u32) -> Result<bool> {
        match self.codes {
            Some(codes) => Ok(codes.hi_row(a) == codes.hi_row(b) && codes.norm(a) == codes.norm(b)),
            None => self.space.same(a, b),
        }
    }
}
