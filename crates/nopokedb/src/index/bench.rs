//! A door to the index alone, for `examples/index_bench.rs`: no log, no files, rows in memory.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::{Among, Index, IndexParams, Scratch};
use crate::error::Result;
use crate::types::{Metric, Slot};
use crate::vectors::{VectorSource, Visibility};

/// Rows appended at a time.
const APPENDED: usize = 500;

struct InMemory {
    dim: usize,
    data: Vec<f32>,
}

impl VectorSource for InMemory {
    fn with_vector(&self, slot: Slot, f: &mut dyn FnMut(&[f32])) -> Result<()> {
        f(&self.data[slot.index() * self.dim..][..self.dim]);
        Ok(())
    }

    fn prefetch(&self, slots: &[u32]) {
        for &slot in slots {
            nopokedb_kernels::prefetch(&self.data[slot as usize * self.dim..][..self.dim]);
        }
    }

    fn dim(&self) -> usize {
        self.dim
    }
}

struct Everything(u32);

impl Visibility for Everything {
    fn len(&self) -> u32 {
        self.0
    }

    fn is_live(&self, _slot: Slot) -> bool {
        true
    }

    fn all_live(&self) -> bool {
        true
    }
}

/// Rows that pass a filter, as bits.
struct Passing(Vec<u64>, u32);

impl Visibility for Passing {
    fn len(&self) -> u32 {
        self.1
    }

    #[inline]
    fn is_live(&self, slot: Slot) -> bool {
        self.0[slot.index() / 64] >> (slot.0 % 64) & 1 == 1
    }
}

/// The ways to answer a query among the rows that pass a filter.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// Every row that passes, in full precision: what the others are compared with.
    Exact,
    /// The codes of the rows that pass.
    Gather,
    /// The codes of all rows.
    Scan,
    /// From passing row to passing row.
    Hops,
    /// Through all rows.
    Walk,
    /// The planner's choice.
    Planned,
    /// The usual walk, without the filter.
    Usual,
}

/// An index over rows in memory.
pub struct IndexBench {
    index: Index,
    view: Everything,
    scratch: Scratch,
    scratches: Vec<Scratch>,
    /// Median microseconds that a row took to append, in blocks of rows.
    pub append_us: f64,
}

impl std::fmt::Debug for IndexBench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.index.fmt(f)
    }
}

impl IndexBench {
    /// All of `data` (row-major) in the tail.
    pub fn new(dim: usize, metric: Metric, m: usize, ef_construction: usize, data: Vec<f32>) -> Result<Self> {
        let params = IndexParams { graph_from: 0, ..IndexParams::new(dim, metric, m, ef_construction) };
        let source = Arc::new(InMemory { dim, data });
        let index = Index::new(params, source.clone());
        let mut times = Vec::new();
        for (i, rows) in source.data.chunks(APPENDED * dim).enumerate() {
            let start = Instant::now();
            index.append(Slot(u32::try_from(i * APPENDED).unwrap_or(u32::MAX)), rows)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let append_us = times[times.len() / 2].as_secs_f64() / APPENDED as f64 * 1e6;
        let view = Everything(index.len());
        Ok(IndexBench { index, view, scratch: Scratch::new(), scratches: Vec::new(), append_us })
    }

    /// Moves every row into the graph.
    pub fn absorb(&self, threads: usize) -> Result<usize> {
        self.index.absorb(u32::MAX, threads, &self.view, &AtomicBool::new(false))
    }

    /// Walks the graph; distances and slots.
    pub fn search_graph(&mut self, query: &[f32], k: usize, ef: usize) -> Result<Vec<(f32, Slot)>> {
        self.index.search_graph(query, k, ef, &self.view, &mut self.scratch)
    }

    /// Searches among `slots`, in one of the ways. The second is how long that took, in seconds.
    pub fn search_among(
        &mut self,
        query: &[f32],
        k: usize,
        ef: usize,
        slots: &[u32],
        way: Way,
    ) -> Result<(Vec<(f32, Slot)>, f64)> {
        let mut passing = Passing(vec![0; self.view.0.div_ceil(64) as usize], self.view.0);
        slots.iter().for_each(|slot| passing.0[*slot as usize / 64] |= 1 << (slot % 64));
        let sample: Vec<u32> = slots.iter().copied().step_by((slots.len() / 64).max(1)).take(64).collect();
        let few = slots.len() <= self.view.0 as usize / 8;
        let (index, scratch) = (&self.index, &mut self.scratch);
        let among = Among { count: slots.len(), slots: few.then_some(slots), sample: &sample, all_live: true };
        let start = Instant::now();
        let hits = match way {
            Way::Exact => index.search_slots(query, k, slots.iter().map(|slot| Slot(*slot)), &passing, scratch),
            Way::Gather => index.search_few(query, k, slots, true, &passing, scratch),
            Way::Scan => index.search_flat(query, k, &passing, scratch),
            Way::Hops => index.search_hops(query, k, ef, among, &passing, scratch),
            Way::Walk => index.search_rare(query, k, ef, among, &passing, scratch),
            Way::Usual => index.search_graph(query, k, ef, &self.view, scratch),
            Way::Planned => index.search_among(query, k, ef, among, &passing, scratch),
        };
        Ok((hits?, start.elapsed().as_secs_f64()))
    }

    /// Compares every `f32` row.
    pub fn search_exact(&mut self, query: &[f32], k: usize) -> Result<Vec<(f32, Slot)>> {
        self.index.search_exact(query, k, &self.view, &mut self.scratch)
    }

    /// Scans the codes.
    pub fn search_flat(&mut self, query: &[f32], k: usize) -> Result<Vec<(f32, Slot)>> {
        self.index.search_flat(query, k, &self.view, &mut self.scratch)
    }

    /// What the planner chooses, for many queries (row-major) at once.
    pub fn search_many(&mut self, queries: &[f32], k: usize, ef: usize) -> Result<Vec<Vec<(f32, Slot)>>> {
        self.index.search_many(queries, k, ef, &self.view, &mut self.scratches)
    }

    /// Exact distances that the last scan of codes computed, and rows whose nibbles it compared one by one.
    pub fn scanned(&self) -> (usize, usize) {
        (self.scratch.flat.exact, self.scratch.flat.refined)
    }

    /// What the planner chooses.
    pub fn search(&mut self, query: &[f32], k: usize, ef: usize) -> Result<Vec<(f32, Slot)>> {
        self.index.search(query, k, ef, &self.view, &mut self.scratch)
    }

    /// Distances the last graph walk computed.
    pub fn evaluations(&self) -> usize {
        self.scratch.walker.evaluations
    }

    /// The checker's report and the memory by part, as text.
    pub fn report(&self) -> String {
        format!("{:?} {:?}", self.index.check(&self.view), self.index.memory())
    }
}
