//! What the integer kernels work on, and the checks in front of them.
//!
//! A row's 4-bit code has one nibble per dimension: byte `i` holds dimension `i` in its high nibble and dimension
//! `i + bytes` in its low one. A row's 1-bit code has eight signs per byte, in blocks of 64 rows; three bytes
//! are four indexes of six signs.
#![allow(unsafe_code)]

use crate::table::Kernels;

/// Rows in a block of interleaved nibbles.
pub const BLOCK_16: usize = 16;
/// Rows in a block of signs.
pub const BLOCK_64: usize = 64;
/// Entries of one look-up table: one per value of six signs.
pub const TABLE: usize = 64;
/// The largest entry of a look-up table: eight of them fit a byte.
pub const TABLE_MAX: u8 = 31;
/// Codes are a multiple of this many bytes (64 dimensions).
pub const CODE_BYTES: usize = 32;

/// Width of a nibble's cell, where coordinates have variance 1: near the best for 16 cells of a normal variable.
pub const CELL: f32 = 0.35;
/// A cell's middle is `(nibble - MIDDLE) * CELL`.
pub const MIDDLE: f32 = 7.5;

/// A query against nibble codes: two signed planes, each as long as a row's code.
///
/// `sum(byte * high) + 16 * sum(low_nibble * low)` is 16 times the product of the code with a query whose weight is `high`
/// on high nibbles and `low + high / 16` on low ones. So only one mask is needed per byte, and no shift.
#[derive(Clone, Copy, Debug)]
pub struct NibbleQuery<'a> {
    /// Weights of the whole byte.
    pub high: &'a [i8],
    /// Weights of the low nibble, less what `high` gives it.
    pub low: &'a [i8],
}

/// How a sum of products becomes an estimate of a distance; see [`Kernels::select`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Affine {
    /// Added to every row.
    pub base: f32,
    /// Times the square of the row's norm.
    pub square: f32,
    /// Times the sum, and then the row's factor.
    pub scale: f32,
    /// Times the row's factor.
    pub offset: f32,
}

/// How the sums of consecutive rows become estimates, and which of these are wanted; see [`Kernels::select`].
#[derive(Clone, Copy, Debug)]
pub struct Scoring<'a> {
    /// A norm for each row.
    pub norms: &'a [f32],
    /// A factor for each row.
    pub factors: &'a [f32],
    /// What is the same for all of them.
    pub affine: Affine,
    /// The largest estimate that is wanted.
    pub limit: f32,
}

impl Scoring<'_> {
    fn check(&self, n: usize, estimates: &[f32], hits: &[u32]) {
        let equal = self.norms.len() == n && self.factors.len() == n && estimates.len() == n;
        assert!(equal, "arrays of different length");
        assert!(hits.len() >= n, "room for every index");
    }
}

impl NibbleQuery<'_> {
    pub(crate) fn check(self) {
        assert_eq!(self.high.len(), self.low.len(), "the planes of a query differ in length");
        assert!(self.high.len().is_multiple_of(CODE_BYTES), "codes are a multiple of {CODE_BYTES} bytes");
    }
}

impl Kernels {
    /// 16 times the product of a query with a row's nibbles. Panics when the lengths differ.
    #[inline]
    pub fn nibble_dot(&self, q: NibbleQuery<'_>, row: &[u8]) -> i32 {
        q.check();
        assert_eq!(row.len(), q.high.len(), "a code of another length");
        // SAFETY: `table.rs` invariant 1: the CPU has the features; the lengths are equal, a multiple of 32.
        unsafe { (self.nibble_dot)(q, row) }
    }

    /// [`Kernels::nibble_dot`] of one query with four rows.
    #[inline]
    pub fn nibble_dot4(&self, q: NibbleQuery<'_>, rows: [&[u8]; 4]) -> [i32; 4] {
        q.check();
        assert!(rows.iter().all(|r| r.len() == q.high.len()), "a code of another length");
        // SAFETY: as in `nibble_dot`.
        unsafe { (self.nibble_dot4)(q, rows) }
    }

    /// [`Kernels::nibble_dot`] with rows that lie one behind the other, one sum each.
    pub fn nibble_rows(&self, q: NibbleQuery<'_>, rows: &[u8], out: &mut [i32]) {
        q.check();
        assert_eq!(rows.len(), q.high.len() * out.len(), "as many codes as sums");
        // SAFETY: as in `nibble_dot`; `rows` holds exactly `out.len()` codes.
        unsafe { (self.nibble_rows)(q, rows, out) }
    }

    /// [`Kernels::nibble_dot`] over whole blocks of 16 interleaved rows (see [`interleave_16`]), one sum a row.
    pub fn nibble_blocks(&self, q: NibbleQuery<'_>, blocks: &[u8], out: &mut [i32]) {
        q.check();
        assert!(out.len().is_multiple_of(BLOCK_16), "whole blocks");
        assert_eq!(blocks.len(), q.high.len() * out.len(), "as many codes as sums");
        // SAFETY: as in `nibble_dot`; `blocks` holds exactly `out.len() / 16` blocks.
        unsafe { (self.nibble_blocks)(q, blocks, out) }
    }

    /// Sums of table entries over whole blocks of 64 rows of signs (see [`pack_signs_64`]), one sum a row. `tables` holds
    /// 64 entries for each six dimensions, four times as many tables as [`sign_groups`]: additive ones, none above
    /// [`TABLE_MAX`] (see [`crate::scalar::table_blocks`]).
    pub fn table_blocks(&self, tables: &[u8], blocks: &[u8], out: &mut [i32]) {
        assert!(tables.len().is_multiple_of(4 * TABLE) && !tables.is_empty(), "whole groups of four tables");
        assert!(out.len().is_multiple_of(BLOCK_64), "whole blocks");
        assert_eq!(blocks.len(), tables.len() / (4 * TABLE) * 3 * out.len(), "as many codes as sums");
        // SAFETY: `table.rs` invariant 1; `tables` is whole groups of four, `blocks` exactly `out.len() / 64` blocks of as
        // many groups of three bytes.
        unsafe { (self.table_blocks)(tables, blocks, out) }
    }

    /// Turns sums into estimates, `base + square * norm^2 + (scale * sum + offset) * factor`, and collects the indexes
    /// of those not above `limit` (NaN is not above anything). Returns how many went to `hits`.
    pub fn select(&self, sums: &[i32], rows: &Scoring<'_>, estimates: &mut [f32], hits: &mut [u32]) -> usize {
        rows.check(sums.len(), estimates, hits);
        // SAFETY: `table.rs` invariant 1; the four arrays are equally long and `hits` has room for every index.
        unsafe { (self.select)(sums, rows, estimates, hits) }
    }

    /// [`Kernels::nibble_blocks`] and [`Kernels::select`] in one pass, over whole groups of 64 rows.
    pub fn nibble_scan(
        &self,
        q: NibbleQuery<'_>,
        blocks: &[u8],
        rows: &Scoring<'_>,
        estimates: &mut [f32],
        hits: &mut [u32],
    ) -> usize {
        q.check();
        rows.check(estimates.len(), estimates, hits);
        assert!(estimates.len().is_multiple_of(BLOCK_64), "whole groups");
        assert_eq!(blocks.len(), q.high.len() * estimates.len(), "as many codes as estimates");
        match self.nibble_scan {
            // SAFETY: as in `nibble_blocks` and `select`.
            Some(scan) => unsafe { scan(q, blocks, rows, estimates, hits) },
            None => {
                let sums = |at: usize, sums: &mut [i32]| {
                    self.nibble_blocks(q, &blocks[at * q.high.len()..][..sums.len() * q.high.len()], sums);
                };
                self.scan_by_chunks(sums, rows, estimates, hits)
            }
        }
    }

    /// [`Kernels::table_blocks`] and [`Kernels::select`] in one pass.
    pub fn table_scan(
        &self,
        tables: &[u8],
        blocks: &[u8],
        rows: &Scoring<'_>,
        estimates: &mut [f32],
        hits: &mut [u32],
    ) -> usize {
        rows.check(estimates.len(), estimates, hits);
        assert!(tables.len().is_multiple_of(4 * TABLE) && !tables.is_empty(), "whole groups of four tables");
        assert!(estimates.len().is_multiple_of(BLOCK_64), "whole blocks");
        let row = tables.len() / (4 * TABLE) * 3;
        assert_eq!(blocks.len(), row * estimates.len(), "as many codes as estimates");
        match self.table_scan {
            // SAFETY: as in `table_blocks` and `select`.
            Some(scan) => unsafe { scan(tables, blocks, rows, estimates, hits) },
            None => {
                let sums = |at: usize, sums: &mut [i32]| {
                    self.table_blocks(tables, &blocks[at * row..][..sums.len() * row], sums);
                };
                self.scan_by_chunks(sums, rows, estimates, hits)
            }
        }
    }

    /// Sums, then selection, over so many rows at a time that their sums stay in the first-level cache. `sums` is told
    /// from which row on it is to write how many.
    fn scan_by_chunks(
        &self,
        sums_of: impl Fn(usize, &mut [i32]),
        rows: &Scoring<'_>,
        estimates: &mut [f32],
        hits: &mut [u32],
    ) -> usize {
        const CHUNK: usize = 8 * BLOCK_64;
        let (mut sums, mut found) = ([0; CHUNK], 0);
        for (at, estimates) in (0..).step_by(CHUNK).zip(estimates.chunks_mut(CHUNK)) {
            let n = estimates.len();
            sums_of(at, &mut sums[..n]);
            let rows = Scoring { norms: &rows.norms[at..][..n], factors: &rows.factors[at..][..n], ..*rows };
            let hits = &mut hits[found..];
            let more = self.select(&sums[..n], &rows, estimates, hits);
            let skipped = u32::try_from(at).unwrap_or(u32::MAX);
            hits[..more].iter_mut().for_each(|hit| *hit += skipped);
            found += more;
        }
        found
    }

    /// Collects the indexes of estimates in `(low, high]`. Returns how many went to `hits`.
    pub fn select_between(&self, estimates: &[f32], low: f32, high: f32, hits: &mut [u32]) -> usize {
        assert!(hits.len() >= estimates.len(), "room for every index");
        // SAFETY: `table.rs` invariant 1; `hits` has room for every index.
        unsafe { (self.select_between)(estimates, low, high, hits) }
    }

    /// Rounds a row's coordinates (variance 1) to nibbles, then flips those nearest to a boundary, inwards or outwards, until
    /// the product of the cells' middles with the row is the row's own up to a thousandth of a cell (if that many can be
    /// flipped). `middles` is scratch. Returns the product of the cells' signs with the row. Every level does the same.
    pub fn quantise(&self, z: &[f32], middles: &mut [f32], nibbles: &mut [u8]) -> f32 {
        assert!(z.len() == 2 * nibbles.len() && middles.len() == z.len(), "two coordinates a byte");
        assert!(nibbles.len().is_multiple_of(CODE_BYTES), "codes are a multiple of {CODE_BYTES} bytes");
        // SAFETY: `table.rs` invariant 1; the function itself is safe code.
        unsafe { (self.quantise)(z, middles, nibbles) }
    }

    /// The Walsh-Hadamard transform in place, not normalised. Panics unless the length is a power of two, 64 or more.
    pub fn hadamard(&self, x: &mut [f32]) {
        assert!(x.len().is_power_of_two() && x.len() >= 64, "a power of two, at least 64");
        // SAFETY: `table.rs` invariant 1; the length is a power of two, 64 or more.
        unsafe { (self.hadamard)(x) }
    }
}

/// Interleaves 16 rows of nibble codes into the order that [`Kernels::nibble_blocks`] reads.
pub fn interleave_16(rows: [&[u8]; BLOCK_16], block: &mut [u8]) {
    for (r, row) in rows.into_iter().enumerate() {
        assert!(row.len() * BLOCK_16 == block.len() && row.len().is_multiple_of(CODE_BYTES), "16 codes a block");
        for (j, four) in row.chunks_exact(4).enumerate() {
            block[64 * j + 4 * r..][..4].copy_from_slice(four);
        }
    }
}

/// Groups of 24 signs (three bytes, four tables) of a code of `dims` dimensions.
pub const fn sign_groups(dims: usize) -> usize {
    dims.div_ceil(24)
}

/// The signs of twelve bytes of nibbles at most, in byte order, the high nibble's first.
fn signs_of(nibbles: &[u8]) -> u32 {
    // Two bits of each byte, brought together by twos.
    let squeezed = |word: u64| {
        let x = word >> 7 & 0x0101_0101_0101_0101 | word >> 2 & 0x0202_0202_0202_0202;
        let x = (x | x >> 6) & 0x000F_000F_000F_000F;
        let x = (x | x >> 12) & 0x0000_00FF_0000_00FF;
        (x | x >> 24) & 0xFFFF
    };
    let (low, high) = match (nibbles.first_chunk::<8>(), nibbles.last_chunk::<4>()) {
        (Some(low), Some(high)) if nibbles.len() == 12 => {
            (u64::from_le_bytes(*low), u64::from(u32::from_le_bytes(*high)))
        }
        _ => {
            let mut padded = [0; 16];
            padded[..nibbles.len()].copy_from_slice(nibbles);
            let padded = u128::from_le_bytes(padded);
            #[allow(clippy::cast_possible_truncation)] // its halves
            (padded as u64, (padded >> 64) as u64)
        }
    };
    #[allow(clippy::cast_possible_truncation)] // sixteen bits of each
    let (low, high) = (squeezed(low) as u32, squeezed(high) as u32);
    low | high << 16
}

/// Takes the signs (the nibbles' top bits) of 64 rows of nibble codes into the order that [`Kernels::table_blocks`] reads.
/// Signs are counted in byte order: sign `2 * i` is byte `i`'s high nibble, sign `2 * i + 1` its low one. Bit `b` of table
/// `t`'s index is sign `6 * t + b`; what is beyond the last dimension is zero.
pub fn pack_signs_64(rows: [&[u8]; BLOCK_64], block: &mut [u8]) {
    for (r, row) in rows.into_iter().enumerate() {
        assert_eq!(
            block.len(),
            sign_groups(2 * row.len()) * 3 * BLOCK_64,
            "a block of as many groups as the codes have"
        );
        for (twelve, bytes) in row.chunks(12).zip(block.chunks_exact_mut(3 * BLOCK_64)) {
            let bits = signs_of(twelve);
            let last = bits >> 18;
            for (i, at) in [0, 2, 4].into_iter().enumerate() {
                bytes[i * BLOCK_64 + r] = (bits >> (6 * i) & 63 | (last >> at & 3) << 6).to_le_bytes()[0];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_the_top_bits_of_nibbles_in_order() {
        let mut state = 7u64;
        for len in (1..=12).cycle().take(2_000) {
            let nibbles: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    state.to_le_bytes()[6]
                })
                .collect();
            let expected = nibbles.iter().rev().fold(0u32, |bits, b| bits << 2 | u32::from((b >> 3 & 1) << 1 | b >> 7));
            assert_eq!(signs_of(&nibbles), expected, "{nibbles:?}");
        }
    }
}
