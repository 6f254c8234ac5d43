//! Codes: four bits a dimension, from which distances are estimated before any `f32` row is read.
//!
//! A row becomes `x - c` (cosine: of length 1 first), its length `n`, and the direction `y = R(x - c) / n`, rotated
//! ([`Rotation`]) so that its coordinates are about normal with variance `1 / D`. Each coordinate is a nibble on one grid
//! for all rows. *Balanced rounding* then flips the few nibbles nearest to a boundary until the code's product with the row
//! equals the row's own: a correction factor at no storage, without which near neighbours are ranked wrong.
//!
//! | kept | bytes a row | for |
//! |---|---|---|
//! | `hi` | D / 2 | row-major nibbles: the graph, refinement |
//! | `blocks` | D / 2 below 256 dimensions, none of many rows; else D / 8 | the scan: nibbles in blocks of 16, or signs in blocks of 64 |
//! | `norms` | 4, none where all are 1 | `n` |
//! | `factors` | 4 from 256 dimensions on | `n` times what makes the product with the signs unbiased |
//!
//! Invariants:
//! 1. Every array holds the rows below [`Codes::len`]; blocks hold the whole groups of 64 among them.
//! 2. A code depends on the row, the metric, the centre and the seed alone: the same on every machine.
//! 3. Estimates steer; distances handed out are computed from `f32` rows elsewhere.
//!
//! Threading: one appender; any thread reads rows whose length it has seen published.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nopokedb_kernels::{
    AppendArena, BLOCK_16, BLOCK_64, NibbleQuery, interleave_16, kernels, pack_signs_64, sign_groups,
};

use super::rotate::{Rotation, padded};
use crate::types::Metric;

/// From this many dimensions on the scan's first stage reads signs.
const SIGNS_FROM: usize = 256;
/// Most rows for which interleaved nibbles are kept: of more, a scan is not what answers queries, and memory counts more.
const INTERLEAVED_ROWS: usize = 1 << 18;

/// How rows become codes.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) metric: Metric,
    pub(crate) dim: usize,
    pub(crate) width: usize,
    /// Subtracted from rows; empty for the origin.
    pub(crate) centre: Vec<f32>,
    pub(crate) rotation: Rotation,
}

/// The codes of one collection's rows.
pub(crate) struct Codes {
    grid: Arc<Grid>,
    hi: Arc<AppendArena<u8>>,
    norms: Arc<AppendArena<f32>>,
    factors: Arc<AppendArena<f32>>,
    blocks: AppendArena<u8>,
    /// Whether nibbles are in blocks too, of the first [`INTERLEAVED_ROWS`].
    interleaves: bool,
    /// The largest norm, as bits (which order like the floats they are).
    longest: Arc<AtomicU32>,
}

/// Scratch for encoding rows.
#[derive(Debug, Default)]
pub(crate) struct Work {
    row: Vec<f32>,
    middles: Vec<f32>,
}

/// A row's code beside its nibbles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Encoded {
    /// The row's distance from the centre.
    pub(crate) norm: f32,
    /// `norm` times what makes the product with the signs unbiased.
    pub(crate) factor: f32,
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codes").field("grid", &self.grid.metric).field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Grid {
    /// The grid for vectors of `dim` dimensions around `centre` (empty: the origin).
    pub(crate) fn new(metric: Metric, dim: usize, centre: Vec<f32>, seed: u64) -> Grid {
        debug_assert!(centre.is_empty() || centre.len() == dim);
        Grid { metric, dim, width: padded(dim), centre, rotation: Rotation::new(dim, seed) }
    }

    /// Whether every row's norm is 1, so that none is kept.
    pub(crate) fn uniform(&self) -> bool {
        self.metric == Metric::Cosine && self.centre.is_empty()
    }

    /// Whether the scan's first stage reads signs instead of nibbles.
    pub(crate) fn has_signs(&self) -> bool {
        self.width >= SIGNS_FROM
    }

    /// `x - c`, of length 1 before that under cosine; a zero vector stays zero there.
    pub(crate) fn centred(&self, x: &[f32], out: &mut Vec<f32>) {
        let scale = if self.metric == Metric::Cosine { inverse_length(x) } else { 1.0 };
        out.clear();
        if self.centre.is_empty() {
            out.extend(x.iter().map(|x| x * scale));
        } else {
            out.extend(x.iter().zip(&self.centre).map(|(x, c)| x * scale - c));
        }
    }

    /// Writes the nibbles of `x`.
    pub(crate) fn encode(&self, x: &[f32], nibbles: &mut [u8], work: &mut Work) -> Encoded {
        let Work { row: work, middles } = work;
        self.centred(x, work);
        let norm = length(work);
        // Coordinates of variance 1. In f64 where a float would lose the factor.
        let scale =
            if norm > 0.0 && norm.is_finite() { f64::from(self.width_f32()).sqrt() / f64::from(norm) } else { 0.0 };
        #[allow(clippy::cast_possible_truncation)] // narrowing to f32 is meant
        if (1e-30..1e30).contains(&scale) {
            let scale = scale as f32;
            work.iter_mut().for_each(|x| *x *= scale);
        } else {
            work.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
        }
        self.rotation.apply(work);
        middles.resize(work.len(), 0.0);
        let sum = kernels().quantise(work, middles, nibbles);
        let norm = if norm.is_finite() { norm } else { f32::MAX };
        let factor = if sum > 0.0 { norm * self.width_f32() / sum } else { 0.0 };
        Encoded { norm, factor }
    }

    #[allow(clippy::cast_precision_loss)] // at most 2^16
    pub(crate) fn width_f32(&self) -> f32 {
        self.width as f32
    }
}

/// Bytes of a row's code in an index image: see [`Codes::put`].
pub(crate) fn encoded_bytes(metric: Metric, dim: usize, centred: bool) -> usize {
    let uniform = metric == Metric::Cosine && !centred;
    let width = padded(dim);
    width / 2 + if uniform { 0 } else { 4 } + if width >= SIGNS_FROM { 4 } else { 0 }
}

/// `|x|`, from a sum in f64 where one in f32 might over- or underflow.
fn length(x: &[f32]) -> f32 {
    // The specification's sum, whose order no kernel level changes (invariant 2).
    let squared = nopokedb_kernels::scalar::norm_squared(x);
    if (1e-30..1e30).contains(&squared) {
        return squared.sqrt();
    }
    #[allow(clippy::cast_possible_truncation)] // narrowing to f32 is meant
    {
        x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32
    }
}

/// `1 / |x|`, or 0 for a zero vector.
pub(crate) fn inverse_length(x: &[f32]) -> f32 {
    let length = length(x);
    if length > 0.0 && length.is_finite() { (1.0 / length).min(f32::MAX) } else { 0.0 }
}

impl Codes {
    /// No rows yet.
    pub(crate) fn new(grid: Grid) -> Codes {
        Codes {
            hi: Arc::new(AppendArena::new(grid.width / 2)),
            norms: Arc::new(AppendArena::new(1)),
            factors: Arc::new(AppendArena::new(1)),
            blocks: Self::no_blocks(&grid),
            interleaves: !grid.has_signs(),
            longest: Arc::default(),
            grid: Arc::new(grid),
        }
    }

    /// No rows yet, of which there will be so many soon.
    pub(crate) fn of(grid: Grid, rows: usize) -> Codes {
        let codes = Codes::new(grid);
        if codes.outgrows_blocks(rows) { codes.without_blocks() } else { codes }
    }

    fn no_blocks(grid: &Grid) -> AppendArena<u8> {
        let bytes = if grid.has_signs() { sign_groups(grid.width) * 3 } else { grid.width / 2 };
        AppendArena::new(bytes * BLOCK_64)
    }

    /// Whether so many rows are too many for nibbles in blocks.
    pub(crate) fn outgrows_blocks(&self, rows: usize) -> bool {
        self.interleaves && rows > INTERLEAVED_ROWS
    }

    /// The same codes, now and later, without nibbles in blocks.
    pub(crate) fn without_blocks(&self) -> Codes {
        debug_assert!(self.interleaves, "signs stay in blocks");
        Codes {
            grid: self.grid.clone(),
            hi: self.hi.clone(),
            norms: self.norms.clone(),
            factors: self.factors.clone(),
            blocks: Self::no_blocks(&self.grid),
            interleaves: false,
            longest: self.longest.clone(),
        }
    }

    /// How rows become codes.
    pub(crate) fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The same, to be kept.
    pub(crate) fn shared_grid(&self) -> &Arc<Grid> {
        &self.grid
    }

    /// Rows appended so far.
    pub(crate) fn len(&self) -> usize {
        self.hi.len()
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.hi.bytes() + self.norms.bytes() + self.factors.bytes() + self.blocks.bytes()
    }

    /// Appends the codes of `vectors` (row-major).
    pub(crate) fn append(&self, vectors: &[f32]) {
        let mut work = Work::default();
        let mut nibbles = vec![0; self.grid.width / 2];
        for row in vectors.chunks_exact(self.grid.dim) {
            let encoded = self.grid.encode(row, &mut nibbles, &mut work);
            self.append_encoded(&nibbles, encoded);
        }
    }

    /// Appends one row's code as [`Grid::encode`] made it.
    pub(crate) fn append_encoded(&self, nibbles: &[u8], encoded: Encoded) {
        if !self.grid.uniform() {
            self.norms.append(&[encoded.norm]);
            self.longest.fetch_max(encoded.norm.to_bits(), Relaxed);
        }
        if self.grid.has_signs() {
            self.factors.append(&[encoded.factor]);
        }
        let row = self.hi.append(nibbles);
        self.append_blocks(row);
    }

    /// Appends rows' codes as [`Codes::put`] made them. False if one makes no sense.
    pub(crate) fn append_run(&self, bytes: &[u8]) -> bool {
        let (nibbles, stride) = (self.grid.width / 2, self.encoded_bytes());
        let floats = |at: usize| {
            let float = move |row: &[u8]| f32::from_le_bytes(row[at..at + 4].try_into().expect("four bytes"));
            bytes.chunks_exact(stride).map(float).collect::<Vec<f32>>()
        };
        let mut fine = true;
        if !self.grid.uniform() {
            let norms = floats(nibbles);
            fine &= norms.iter().all(|norm| norm.is_finite() && *norm >= 0.0);
            let longest = norms.iter().fold(0f32, |longest, norm| longest.max(*norm));
            self.norms.append(&norms);
            self.longest.fetch_max(longest.to_bits(), Relaxed);
        }
        if self.grid.has_signs() {
            let factors = floats(stride - 4);
            fine &= factors.iter().all(|factor| factor.is_finite());
            self.factors.append(&factors);
        }
        let mut rows = bytes.chunks_exact(stride);
        let first = self.hi.append_with(bytes.len() / stride, |_, row| {
            row.copy_from_slice(&rows.next().expect("as many as were counted")[..nibbles]);
        });
        self.append_blocks(first);
        fine
    }

    /// Bytes of a row's code in an index image.
    pub(crate) fn encoded_bytes(&self) -> usize {
        encoded_bytes(self.grid.metric, self.grid.dim, !self.grid.centre.is_empty())
    }

    /// Adds a row's code as an index image holds it: nibbles, then the norm and the factor where they are kept.
    pub(crate) fn put(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.hi_row(slot));
        if !self.grid.uniform() {
            out.extend_from_slice(&self.norm(slot).to_le_bytes());
        }
        if self.grid.has_signs() {
            out.extend_from_slice(&self.factors.row(slot as usize)[0].to_le_bytes());
        }
    }

    /// Lays out the blocks that the rows from `first` on completed.
    fn append_blocks(&self, first: usize) {
        let upto = match (self.grid.has_signs(), self.interleaves) {
            (true, _) => self.len(),
            (false, true) => self.len().min(INTERLEAVED_ROWS),
            (false, false) => return,
        };
        for block in first / BLOCK_64..upto / BLOCK_64 {
            self.append_block(block * BLOCK_64);
        }
    }

    /// Lays out rows `first ..+ 64` for the scan.
    fn append_block(&self, first: usize) {
        self.blocks.append_with(1, |_, block| {
            if self.grid.has_signs() {
                pack_signs_64(std::array::from_fn(|r| self.hi.row(first + r)), block);
            } else {
                for (b, block) in block.chunks_exact_mut(self.grid.width / 2 * BLOCK_16).enumerate() {
                    interleave_16(std::array::from_fn(|r| self.hi.row(first + BLOCK_16 * b + r)), block);
                }
            }
        });
    }

    /// A row's nibbles.
    #[inline]
    pub(crate) fn hi_row(&self, slot: u32) -> &[u8] {
        self.hi.row(slot as usize)
    }

    /// A row's distance from the centre.
    #[inline]
    pub(crate) fn norm(&self, slot: u32) -> f32 {
        if self.grid.uniform() { 1.0 } else { self.norms.row(slot as usize)[0] }
    }

    /// The sums of a query with the nibbles of `slots`.
    pub(crate) fn gather(&self, q: NibbleQuery<'_>, slots: &[u32], sums: &mut [i32]) {
        kernels().nibble_gather(q, &self.hi, slots, sums);
    }

    /// Asks for a row's nibbles, and its norm.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        self.hi.prefetch(slot as usize);
        if !self.grid.uniform() {
            self.norms.prefetch(slot as usize);
        }
    }

    /// The largest norm among the rows.
    pub(crate) fn longest(&self) -> f32 {
        if self.grid.uniform() { 1.0 } else { f32::from_bits(self.longest.load(Relaxed)) }
    }

    /// The longest run of row-major nibbles that begins at row `from`, of at most `n` rows.
    pub(crate) fn hi_run(&self, from: usize, n: usize) -> &[u8] {
        self.hi.run(from, from + n)
    }

    /// Whole blocks for the scan from row `from` (a multiple of 64) on, of at most `n` rows; empty where there are none.
    pub(crate) fn block_run(&self, from: usize, n: usize) -> &[u8] {
        let (first, end) = (from / BLOCK_64, ((from + n) / BLOCK_64).min(self.blocks.len()));
        if from.is_multiple_of(BLOCK_64) && first < end { self.blocks.run(first, end) } else { &[] }
    }

    /// Bytes of a block of 64 rows.
    pub(crate) fn block_bytes(&self) -> usize {
        self.blocks.stride()
    }

    /// The norms from row `from` on, `n` at most and at least one; `None` where all are 1.
    pub(crate) fn norm_run(&self, from: usize, n: usize) -> Option<&[f32]> {
        (!self.grid.uniform()).then(|| self.norms.run(from, from + n))
    }

    /// The factors of the signs from row `from` on, `n` at most and at least one.
    pub(crate) fn factor_run(&self, from: usize, n: usize) -> &[f32] {
        self.factors.run(from, from + n)
    }
}
