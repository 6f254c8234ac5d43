//! Codes on AVX2. Callers guarantee the lengths (`codes.rs`).
//!
//! `maddubs` adds two products in 16 bits and saturates, so bytes are split into nibbles first: 2 * 15 * 128 fits.

use std::arch::x86_64::*;

use super::avx512_codes::rest_of_select;
use crate::codes::{BLOCK_16, BLOCK_64, NibbleQuery, Scoring, TABLE};
use crate::scalar;

/// 32 bytes from `x[i..]`.
///
/// # Safety
/// `i + 32 <= x.len()`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load<T: Copy>(x: &[T], i: usize) -> __m256i {
    const { assert!(size_of::<T>() == 1) };
    debug_assert!(i + 32 <= x.len());
    // SAFETY: the caller keeps `i + 32` within the slice.
    unsafe { _mm256_loadu_si256(x.as_ptr().add(i).cast()) }
}

/// `acc` and what 32 bytes of code contribute to each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn step(acc: __m256i, code: __m256i, high: __m256i, low: __m256i) -> __m256i {
    let nibble = _mm256_set1_epi8(15);
    let (upper, lower) = (_mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble), _mm256_and_si256(code, nibble));
    // byte * high = 16 * upper * high + lower * high.
    let sixteens = _mm256_add_epi16(_mm256_maddubs_epi16(upper, high), _mm256_maddubs_epi16(lower, low));
    let ones = _mm256_maddubs_epi16(lower, high);
    let sum = _mm256_madd_epi16(sixteens, _mm256_set1_epi16(16));
    _mm256_add_epi32(acc, _mm256_add_epi32(sum, _mm256_madd_epi16(ones, _mm256_set1_epi16(1))))
}

/// Sum of the eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(v: __m256i) -> i32 {
    let halves = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let pairs = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b01_00_11_10>(halves));
    _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs)))
}

#[target_feature(enable = "avx2")]
pub(super) fn nibble_dot(q: NibbleQuery<'_>, row: &[u8]) -> i32 {
    let mut acc = _mm256_setzero_si256();
    let mut i = 0;
    while i < row.len() {
        // SAFETY: all three are equally long, a multiple of 32.
        acc = unsafe { step(acc, load(row, i), load(q.high, i), load(q.low, i)) };
        i += 32;
    }
    sum(acc)
}

#[target_feature(enable = "avx2")]
pub(super) fn nibble_dot4(q: NibbleQuery<'_>, rows: [&[u8]; 4]) -> [i32; 4] {
    let mut acc = [_mm256_setzero_si256(); 4];
    let bytes = q.high.len();
    let mut i = 0;
    while i < bytes {
        // SAFETY: all are `bytes` long, a multiple of 32.
        let (high, low) = unsafe { (load(q.high, i), load(q.low, i)) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            *acc = step(*acc, unsafe { load(row, i) }, high, low);
        }
        i += 32;
    }
    let mut out = [0; 4];
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = sum(acc);
    }
    out
}

#[target_feature(enable = "avx2")]
pub(super) fn nibble_rows(q: NibbleQuery<'_>, rows: &[u8], out: &mut [i32]) {
    let bytes = q.high.len();
    let whole = out.len() - out.len() % 4;
    for (out, four) in out.chunks_exact_mut(4).zip(rows.chunks_exact(4 * bytes)) {
        let row = |i: usize| &four[i * bytes..][..bytes];
        out.copy_from_slice(&nibble_dot4(q, [row(0), row(1), row(2), row(3)]));
    }
    for (out, row) in out[whole..].iter_mut().zip(rows[whole * bytes..].chunks_exact(bytes)) {
        *out = nibble_dot(q, row);
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn nibble_blocks(q: NibbleQuery<'_>, blocks: &[u8], out: &mut [i32]) {
    let bytes = q.high.len();
    for (out, block) in out.chunks_exact_mut(BLOCK_16).zip(blocks.chunks_exact(BLOCK_16 * bytes)) {
        let mut acc = [_mm256_setzero_si256(); 2];
        for j in 0..bytes / 4 {
            // SAFETY: `4 * j + 4 <= bytes`; both planes are `bytes` long.
            let (high, low) = unsafe {
                (
                    q.high.as_ptr().add(4 * j).cast::<i32>().read_unaligned(),
                    q.low.as_ptr().add(4 * j).cast::<i32>().read_unaligned(),
                )
            };
            let (high, low) = (_mm256_set1_epi32(high), _mm256_set1_epi32(low));
            // SAFETY: `64 * j + 64 <= 16 * bytes`, the block's length.
            let (first, second) = unsafe { (load(block, 64 * j), load(block, 64 * j + 32)) };
            acc[0] = step(acc[0], first, high, low);
            acc[1] = step(acc[1], second, high, low);
        }
        // SAFETY: `out` is sixteen sums.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), acc[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), acc[1]);
        }
    }
}

/// A table as two of sixteen entries, in both halves of a register: four signs look up the first, the other two what the
/// table's quarters add to that. Tables are additive.
#[derive(Clone, Copy)]
struct Split {
    four: __m256i,
    two: __m256i,
}

#[inline]
#[target_feature(enable = "avx2")]
fn split(table: &[u8]) -> Split {
    let mut quarters = [0u8; 16];
    for (h, quarter) in quarters.iter_mut().take(4).enumerate() {
        *quarter = table[16 * h].wrapping_sub(table[0]);
    }
    let low = &table[..16];
    // SAFETY: 16 bytes each.
    let (low, quarters) = unsafe { (_mm_loadu_si128(low.as_ptr().cast()), _mm_loadu_si128(quarters.as_ptr().cast())) };
    Split { four: _mm256_broadcastsi128_si256(low), two: _mm256_broadcastsi128_si256(quarters) }
}

/// The entries at 32 indexes of six bits, whatever stands above those.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up(table: Split, index: __m256i) -> __m256i {
    let four = _mm256_shuffle_epi8(table.four, _mm256_and_si256(index, _mm256_set1_epi8(15)));
    let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(index), _mm256_set1_epi8(3));
    _mm256_add_epi8(four, _mm256_shuffle_epi8(table.two, upper))
}

#[target_feature(enable = "avx2")]
pub(super) fn table_blocks(tables: &[u8], blocks: &[u8], out: &mut [i32]) {
    out.fill(0);
    let block_bytes = tables.len() / 4 * 3;
    // Two groups of four entries, each at most 31, are added in a byte.
    for (p, panel) in tables.chunks(8 * TABLE).enumerate() {
        let mut splits = [Split { four: _mm256_setzero_si256(), two: _mm256_setzero_si256() }; 8];
        for (split_table, table) in splits.iter_mut().zip(panel.chunks_exact(TABLE)) {
            *split_table = split(table);
        }
        let groups = panel.len() / (4 * TABLE);
        for (out, block) in out.chunks_exact_mut(BLOCK_64).zip(blocks.chunks_exact(block_bytes)) {
            for half in 0..2 {
                let mut sum = _mm256_setzero_si256();
                for g in 0..groups {
                    let at = 3 * BLOCK_64 * (2 * p + g) + 32 * half;
                    // SAFETY: group `2 * p + g` exists, so its 192 bytes are inside the block.
                    let [a, b, c] =
                        unsafe { [load(block, at), load(block, at + BLOCK_64), load(block, at + 2 * BLOCK_64)] };
                    let last = [
                        _mm256_and_si256(_mm256_srli_epi16::<6>(a), _mm256_set1_epi8(0b11)),
                        _mm256_and_si256(_mm256_srli_epi16::<4>(b), _mm256_set1_epi8(0b1100)),
                        _mm256_and_si256(_mm256_srli_epi16::<2>(c), _mm256_set1_epi8(0b11_0000)),
                    ];
                    let last = _mm256_or_si256(_mm256_or_si256(last[0], last[1]), last[2]);
                    for (split, index) in splits[4 * g..4 * g + 4].iter().zip([a, b, c, last]) {
                        sum = _mm256_add_epi8(sum, look_up(*split, index));
                    }
                }
                add_bytes(sum, &mut out[32 * half..][..32]);
            }
        }
    }
}

/// Adds 32 bytes to 32 sums.
#[inline]
#[target_feature(enable = "avx2")]
fn add_bytes(bytes: __m256i, out: &mut [i32]) {
    let mut wide = [0u8; 32];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(wide.as_mut_ptr().cast(), bytes) };
    for (out, byte) in out.iter_mut().zip(wide) {
        *out += i32::from(byte);
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn select(sums: &[i32], rows: &Scoring<'_>, estimates: &mut [f32], hits: &mut [u32]) -> usize {
    let Scoring { norms, factors, affine: a, limit } = *rows;
    let (base, square) = (_mm256_set1_ps(a.base), _mm256_set1_ps(a.square));
    let (scale, offset, bound) = (_mm256_set1_ps(a.scale), _mm256_set1_ps(a.offset), _mm256_set1_ps(limit));
    let (mut n, mut i) = (0, 0);
    while i + 8 <= sums.len() {
        // SAFETY: the four arrays are equally long and `i + 8` is within them.
        let (sum, norm, factor) = unsafe {
            (
                _mm256_loadu_si256(sums.as_ptr().add(i).cast()),
                _mm256_loadu_ps(norms.as_ptr().add(i)),
                _mm256_loadu_ps(factors.as_ptr().add(i)),
            )
        };
        let product = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum), offset);
        let constant = _mm256_fmadd_ps(_mm256_mul_ps(square, norm), norm, base);
        let estimate = _mm256_fmadd_ps(product, factor, constant);
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(estimates.as_mut_ptr().add(i), estimate) };
        let mask = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NGT_UQ>(estimate, bound));
        n += push_lanes(mask, i, &mut hits[n..]);
        i += 8;
    }
    n + rest_of_select(i, sums, rows, estimates, &mut hits[n..])
}

/// Writes the indexes of the lanes set in `mask`, counted from `first`.
#[inline(always)]
fn push_lanes(mut mask: i32, first: usize, hits: &mut [u32]) -> usize {
    let mut n = 0;
    while mask != 0 {
        hits[n] = u32::try_from(first).unwrap_or(u32::MAX) + mask.trailing_zeros();
        mask &= mask - 1;
        n += 1;
    }
    n
}

#[target_feature(enable = "avx2")]
pub(super) fn select_between(estimates: &[f32], low: f32, high: f32, hits: &mut [u32]) -> usize {
    let (lowest, highest) = (_mm256_set1_ps(low), _mm256_set1_ps(high));
    let (mut n, mut i) = (0, 0);
    while i + 8 <= estimates.len() {
        // SAFETY: `i + 8` is within the array.
        let estimate = unsafe { _mm256_loadu_ps(estimates.as_ptr().add(i)) };
        let above = _mm256_cmp_ps::<_CMP_GT_OQ>(estimate, lowest);
        let mask = _mm256_movemask_ps(_mm256_and_ps(above, _mm256_cmp_ps::<_CMP_LE_OQ>(estimate, highest)));
        n += push_lanes(mask, i, &mut hits[n..]);
        i += 8;
    }
    let rest = scalar::select_between(&estimates[i..], low, high, &mut hits[n..]);
    let skipped = u32::try_from(i).unwrap_or(u32::MAX);
    hits[n..n + rest].iter_mut().for_each(|hit| *hit += skipped);
    n + rest
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn hadamard(x: &mut [f32]) {
    let signs = [
        _mm256_setr_ps(1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0),
        _mm256_setr_ps(1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0),
        _mm256_setr_ps(1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0),
    ];
    for lanes in x.chunks_exact_mut(8) {
        // SAFETY: eight floats.
        let mut v = unsafe { _mm256_loadu_ps(lanes.as_ptr()) };
        v = _mm256_fmadd_ps(v, signs[0], _mm256_permute_ps::<0b10_11_00_01>(v));
        v = _mm256_fmadd_ps(v, signs[1], _mm256_permute_ps::<0b01_00_11_10>(v));
        v = _mm256_fmadd_ps(v, signs[2], _mm256_permute2f128_ps::<1>(v, v));
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), v) };
    }
    let mut half = 8;
    while half < x.len() {
        // Compiled here for AVX: plain sums and differences of slices, which need no help.
        scalar::hadamard_stage(x, half);
        half *= 2;
    }
}

/// The specification itself, compiled for these registers.
#[target_feature(enable = "avx2")]
pub(super) fn quantise(z: &[f32], middles: &mut [f32], nibbles: &mut [u8]) -> f32 {
    scalar::quantise_body(z, middles, nibbles)
}
