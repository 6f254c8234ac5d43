//! Distances between a query (or a row) and rows, under the collection's metric.
//!
//! Invariants:
//! 1. [`Space::exact`] is what callers are given: computed from the full f32 row. Cosine is `1 - cos` (1 if either vector is
//!    zero), l2 is squared, ip is `1 - dot`. Never NaN.
//! 2. [`Space::near`] steers the graph; it ranks like `exact`, and may be coarser.
//! 3. A row without bytes (dead, compacted away) is infinitely far.
//!
//! Threading: one writer appends; any thread asks about slots whose length it has seen published.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::error::{Error, Result};
use crate::types::{Metric, Slot};
use crate::vectors::VectorSource;
use crate::vectors::chunked::ChunkedU32;

/// The rows' geometry.
pub(crate) struct Space {
    metric: Metric,
    dim: usize,
    source: Arc<dyn VectorSource>,
    /// `1 / |row|` as bits under cosine, 0 for a zero row; empty under the other metrics.
    inverse_norms: ChunkedU32,
}

/// A vector prepared to be compared with many rows. Reused between searches.
#[derive(Debug, Default, Clone)]
pub(crate) struct Probe {
    /// The vector; under cosine scaled to length 1 (or left zero).
    vector: Vec<f32>,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("metric", &self.metric).field("dim", &self.dim).finish_non_exhaustive()
    }
}

impl Space {
    pub(crate) fn new(metric: Metric, source: Arc<dyn VectorSource>) -> Space {
        Space { metric, dim: source.dim(), source, inverse_norms: ChunkedU32::new() }
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// Takes in the rows from slot `first` on. Single writer; the caller publishes the new length afterwards.
    pub(crate) fn append(&self, first: Slot, vectors: &[f32]) {
        if self.metric != Metric::Cosine {
            return;
        }
        self.inverse_norms.reserve(first.index() + vectors.len() / self.dim);
        for (i, row) in vectors.chunks_exact(self.dim).enumerate() {
            self.inverse_norms.at(first.index() + i).store(inverse_norm(row).to_bits(), Relaxed);
        }
    }

    /// Prepares a caller's vector.
    pub(crate) fn probe(&self, vector: &[f32], probe: &mut Probe) -> Result<()> {
        if vector.len() != self.dim {
            return Err(Error::dimension(self.dim, vector.len()));
        }
        let scale = if self.metric == Metric::Cosine { inverse_norm(vector) } else { 1.0 };
        probe.vector.clear();
        probe.vector.extend(vector.iter().map(|x| x * scale));
        Ok(())
    }

    /// Prepares a row; false if its bytes are gone.
    pub(crate) fn probe_row(&self, slot: u32, probe: &mut Probe) -> Result<bool> {
        let mut outcome = None;
        self.source.with_vector(Slot(slot), &mut |row| outcome = Some(self.probe(row, probe)))?;
        outcome.transpose().map(|found| found.is_some())
    }

    /// The distance handed to callers, or `None` if the row's bytes are gone.
    pub(crate) fn exact(&self, probe: &Probe, slot: u32) -> Result<Option<f32>> {
        let mut distance = None;
        self.source.with_vector(Slot(slot), &mut |row| distance = Some(self.between(&probe.vector, row, slot)))?;
        Ok(distance)
    }

    /// Distances for traversal: `out[i]` belongs to `slots[i]`.
    pub(crate) fn near(&self, probe: &Probe, slots: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        for &slot in slots {
            out.push(self.exact(probe, slot)?.unwrap_or(f32::INFINITY));
        }
        Ok(())
    }

    /// Whether traversal cannot tell two rows apart.
    pub(crate) fn same(&self, a: u32, b: u32) -> Result<bool> {
        let mut equal = false;
        self.source.with_vector(Slot(a), &mut |x| {
            // A second error would be the first one's twin: the outer call reports damage of `a`, the next search that of `b`.
            let _ = self
                .source
                .with_vector(Slot(b), &mut |y| equal = x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits()));
        })?;
        Ok(equal)
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.inverse_norms.bytes()
    }

    #[inline]
    fn between(&self, query: &[f32], row: &[f32], slot: u32) -> f32 {
        let distance = match self.metric {
            Metric::Cosine => {
                let inverse = f32::from_bits(self.inverse_norms.at(slot as usize).load(Relaxed));
                1.0 - (dot(query, row) * inverse).clamp(-1.0, 1.0)
            }
            Metric::L2 => squared_l2(query, row),
            Metric::Ip => 1.0 - dot(query, row),
        };
        // Overflowing sums can be NaN (inf - inf); such a row is as far as can be.
        if distance.is_nan() { f32::INFINITY } else { distance }
    }
}

/// `1 / |v|`, or 0 for a zero vector. In f64, so that no f32 component over- or underflows.
fn inverse_norm(v: &[f32]) -> f32 {
    let norm = v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    #[allow(clippy::cast_possible_truncation)] // narrowing to f32 is meant
    if norm > 0.0 { (1.0 / norm).min(f64::from(f32::MAX)) as f32 } else { 0.0 }
}

/// Independent accumulators, so that the compiler can use the machine's vector registers.
const LANES: usize = 16;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold(a, b, |x, y| x * y)
}

fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    fold(a, b, |x, y| (x - y) * (x - y))
}

#[inline]
fn fold(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(x, y)| term(*x, *y)).sum();
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += term(x[lane], y[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}
