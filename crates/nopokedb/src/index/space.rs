//! Distances between a query (or a row) and rows, under the collection's metric.
//!
//! Invariants:
//! 1. [`Space::exact`] is what callers are given: computed from the full f32 row. Cosine is `1 - cos` (1 if either vector is
//!    zero), l2 is squared, ip is `1 - dot`. Never NaN.
//! 2. A row without bytes (dead, compacted away) has no distance.
//!
//! Threading: one writer appends; any thread asks about slots whose length it has seen published.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nopokedb_kernels::{Kernels, kernels};

use crate::error::{Error, Result};
use crate::types::{Metric, Slot};
use crate::vectors::VectorSource;
use crate::vectors::chunked::ChunkedU32;

/// The rows' geometry.
pub(crate) struct Space {
    metric: Metric,
    dim: usize,
    kernels: &'static Kernels,
    source: Arc<dyn VectorSource>,
    stored: Stored,
}

/// What is kept in memory for each slot, and in the index image.
#[derive(Debug)]
pub(crate) struct Stored {
    /// `1 / |row|` as bits under cosine, 0 for a zero row; unused under the other metrics.
    inverse_norms: ChunkedU32,
}

impl Stored {
    /// No slots yet.
    pub(crate) fn new() -> Stored {
        Stored { inverse_norms: ChunkedU32::new() }
    }

    /// Bytes of a slot in the image.
    pub(crate) fn stride(&self) -> usize {
        4
    }

    /// Makes room for `len` slots.
    pub(crate) fn reserve(&self, len: u32) {
        self.inverse_norms.reserve(len as usize);
    }

    /// Appends a slot's bytes to `out`.
    pub(crate) fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.inverse_norms.at(slot as usize).load(Relaxed).to_le_bytes());
    }

    /// Takes a reserved slot's bytes; false if they make no sense. Slots come in order.
    pub(crate) fn decode(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let Ok(bytes) = bytes.try_into() else { return false };
        let norm = f32::from_le_bytes(bytes);
        self.inverse_norms.at(slot as usize).store(norm.to_bits(), Relaxed);
        norm.is_finite() && norm >= 0.0
    }
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
    pub(crate) fn new(metric: Metric, source: Arc<dyn VectorSource>, stored: Stored) -> Space {
        Space { metric, dim: source.dim(), kernels: kernels(), source, stored }
    }

    /// What is kept for each slot.
    pub(crate) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Takes in the rows from slot `first` on. Single writer; the caller publishes the new length afterwards.
    pub(crate) fn append(&self, first: Slot, vectors: &[f32]) {
        #[allow(clippy::cast_possible_truncation)] // slots are u32: the caller has counted them
        self.stored.reserve(first.0 + (vectors.len() / self.dim) as u32);
        if self.metric != Metric::Cosine {
            return;
        }
        for (i, row) in vectors.chunks_exact(self.dim).enumerate() {
            self.stored.inverse_norms.at(first.index() + i).store(inverse_norm(row).to_bits(), Relaxed);
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

    /// Copies a row; false if its bytes are gone.
    pub(crate) fn copy_row(&self, slot: u32, out: &mut Vec<f32>) -> Result<bool> {
        let mut found = false;
        self.source.with_vector(Slot(slot), &mut |row| {
            out.clear();
            out.extend_from_slice(row);
            found = true;
        })?;
        Ok(found)
    }

    /// The distance handed to callers, or `None` if the row's bytes are gone.
    pub(crate) fn exact(&self, probe: &Probe, slot: u32) -> Result<Option<f32>> {
        let mut distance = None;
        self.source.with_vector(Slot(slot), &mut |row| distance = Some(self.between(&probe.vector, row, slot)))?;
        Ok(distance)
    }

    /// Whether rows lost their bytes since that was last forgotten.
    pub(crate) fn lost_any(&self) -> bool {
        self.source.lost_any()
    }

    /// Asks the CPU for what [`Space::prefetch`] and [`Space::exact`] will read of `slot` beside the row.
    pub(crate) fn prefetch_place(&self, slot: u32) {
        self.source.prefetch_place(slot);
        if self.metric == Metric::Cosine {
            self.stored.inverse_norms.prefetch(slot as usize);
        }
    }

    /// Asks the CPU for rows that will be compared next.
    pub(crate) fn prefetch(&self, slots: &[u32]) {
        self.source.prefetch(slots);
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
        self.stored.inverse_norms.bytes()
    }

    #[inline]
    fn between(&self, query: &[f32], row: &[f32], slot: u32) -> f32 {
        let distance = match self.metric {
            Metric::Cosine => {
                let inverse = f32::from_bits(self.stored.inverse_norms.at(slot as usize).load(Relaxed));
                1.0 - (self.kernels.dot(query, row) * inverse).clamp(-1.0, 1.0)
            }
            Metric::L2 => self.kernels.l2_squared(query, row),
            Metric::Ip => 1.0 - self.kernels.dot(query, row),
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
