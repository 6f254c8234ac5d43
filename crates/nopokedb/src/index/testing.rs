//! Rows in memory, views with holes, and data families, for the index's tests.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Index, IndexParams};
use crate::error::Result;
use crate::types::{Metric, Slot};
use crate::vectors::{VectorSource, Visibility};

/// A small generator of repeatable numbers (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below n")
    }

    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Standard normal (Box and Muller).
    pub(crate) fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.unit().max(1e-9).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.unit()).cos()
    }
}

/// Row-major rows.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) dim: usize,
    pub(crate) data: Vec<f32>,
}

impl Rows {
    pub(crate) fn new(dim: usize, n: usize, mut value: impl FnMut(usize, usize) -> f32) -> Rows {
        Rows { dim, data: (0..n * dim).map(|i| value(i / dim, i % dim)).collect() }
    }

    pub(crate) fn gaussian(dim: usize, n: usize, seed: u64) -> Rows {
        let mut random = Random(seed);
        Rows::new(dim, n, |_, _| random.normal())
    }

    /// `clusters` tight Gaussian balls, rows in random order.
    pub(crate) fn clustered(dim: usize, n: usize, clusters: usize, spread: f32, seed: u64) -> Rows {
        let centres = Rows::gaussian(dim, clusters, seed);
        let mut random = Random(seed ^ 0xABCD);
        let mut rows = Vec::with_capacity(n * dim);
        for _ in 0..n {
            let centre = centres.row(random.below(clusters));
            rows.extend(centre.iter().map(|c| c + spread * random.normal()));
        }
        Rows { dim, data: rows }
    }

    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len() / self.dim
    }

    /// Splits off the last `n` rows, as queries.
    pub(crate) fn split(mut self, n: usize) -> (Rows, Rows) {
        let queries = self.data.split_off((self.len() - n) * self.dim);
        let dim = self.dim;
        (self, Rows { dim, data: queries })
    }
}

impl VectorSource for Rows {
    fn with_vector(&self, slot: Slot, f: &mut dyn FnMut(&[f32])) -> Result<()> {
        f(self.row(slot.index()));
        Ok(())
    }

    fn dim(&self) -> usize {
        self.dim
    }
}

/// A view of the first `len` slots but those in `dead`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holes {
    pub(crate) len: u32,
    pub(crate) dead: Vec<bool>,
}

impl Holes {
    pub(crate) fn all(len: usize) -> Holes {
        Holes { len: u32::try_from(len).expect("a test's rows"), dead: vec![false; len] }
    }

    pub(crate) fn live(&self) -> usize {
        self.dead[..self.len as usize].iter().filter(|d| !**d).count()
    }
}

impl Visibility for Holes {
    fn len(&self) -> u32 {
        self.len
    }

    fn is_live(&self, slot: Slot) -> bool {
        !self.dead[slot.index()]
    }
}

/// An index that builds a graph whatever the size, with every row appended and none absorbed.
pub(crate) fn index(rows: &Rows, metric: Metric) -> Index {
    let params = IndexParams { graph_from: 0, ..IndexParams::new(rows.dim, metric, 16, 100) };
    let index = Index::new(params, Arc::new(rows.clone()));
    index.append(Slot(0), &rows.data).expect("rows in memory");
    index
}

/// An index whose graph covers every row.
pub(crate) fn built(rows: &Rows, metric: Metric) -> Index {
    let index = index(rows, metric);
    absorb_all(&index, 1);
    index
}

/// Absorbs every row.
pub(crate) fn absorb_all(index: &Index, threads: usize) {
    let view = Holes::all(index.len() as usize);
    index.absorb(u32::MAX, threads, &view, &AtomicBool::new(false)).expect("rows in memory");
    assert_eq!(index.graph_len(), index.len());
}

/// The distance as documented, in f64.
pub(crate) fn oracle(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    match metric {
        Metric::Cosine => {
            let norms = (dot(a, a) * dot(b, b)).sqrt();
            if norms == 0.0 { 1.0 } else { 1.0 - dot(a, b) / norms }
        }
        Metric::L2 => a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum(),
        Metric::Ip => 1.0 - dot(a, b),
    }
}

/// The `k` nearest live rows by the oracle, as (distance, slot).
pub(crate) fn truth(rows: &Rows, metric: Metric, query: &[f32], k: usize, view: &Holes) -> Vec<(f64, u32)> {
    let mut all: Vec<(f64, u32)> = (0..view.len)
        .filter(|&s| !view.dead[s as usize])
        .map(|s| (oracle(metric, query, rows.row(s as usize)), s))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.truncate(k);
    all
}

/// Mean share of the true `k` that graph searches with beam `ef` return.
pub(crate) fn recall(index: &Index, rows: &Rows, metric: Metric, queries: &Rows, k: usize, ef: usize) -> f64 {
    let view = Holes::all(rows.len());
    let mut scratch = super::Scratch::new();
    let mut found = 0;
    for q in 0..queries.len() {
        let query = queries.row(q);
        let expected = truth(rows, metric, query, k, &view);
        let last = expected.last().expect("rows").0;
        let slack = 1e-5 * (1.0 + last.abs());
        let got = index.search_graph(query, k, ef, &view, &mut scratch).expect("rows in memory");
        found += got.iter().filter(|hit| f64::from(hit.0) <= last + slack).count();
    }
    found as f64 / (k * queries.len()) as f64
}
