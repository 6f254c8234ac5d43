//! Codes on NEON, with the dot-product instruction where there is one. Callers guarantee the lengths (`codes.rs`).
//!
//! `sdot` is not yet a stable intrinsic, so it is written as assembly; [`widening_dot`] is its twin for older cores.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use crate::codes::{BLOCK_16, BLOCK_64, NibbleQuery, Scoring, TABLE};
use crate::scalar;

/// A function that adds to each lane of `acc` the products of four signed bytes.
macro_rules! dot_step {
    ($acc:expr, $a:expr, $b:expr, dotprod) => {{
        let mut acc: int32x4_t = $acc;
        let (a, b): (int8x16_t, int8x16_t) = ($a, $b);
        // SAFETY: `sdot` reads and writes the named registers only; the enclosing function enables `dotprod`.
        unsafe {
            std::arch::asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }};
    ($acc:expr, $a:expr, $b:expr, plain) => {
        widening_dot($acc, $a, $b)
    };
}

/// What `sdot` does, with multiplications that widen. Lane `i` gets the products of bytes `4 i ..+ 4`.
#[inline]
#[target_feature(enable = "neon")]
fn widening_dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    let high = vmull_high_s8(a, b);
    vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
}

/// 16 bytes from `x[i..]`.
///
/// # Safety
/// `i + 16 <= x.len()`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(x: &[u8], i: usize) -> uint8x16_t {
    debug_assert!(i + 16 <= x.len());
    // SAFETY: the caller keeps `i + 16` within the slice.
    unsafe { vld1q_u8(x.as_ptr().add(i)) }
}

/// 16 signed bytes from `x[i..]`.
///
/// # Safety
/// `i + 16 <= x.len()`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_signed(x: &[i8], i: usize) -> int8x16_t {
    debug_assert!(i + 16 <= x.len());
    // SAFETY: the caller keeps `i + 16` within the slice.
    unsafe { vld1q_s8(x.as_ptr().add(i)) }
}

/// The nibble kernels, once for cores with `sdot` and once for those without.
macro_rules! nibble_kernels {
    ($name:ident, $features:literal, $kind:tt) => {
        pub(super) mod $name {
            use super::*;

            /// Adds what 16 bytes of code contribute: sums that count 16 times, and sums that count once.
            #[inline]
            #[target_feature(enable = $features)]
            fn step(acc: &mut [int32x4_t; 2], code: uint8x16_t, high: int8x16_t, low: int8x16_t) {
                let upper = vreinterpretq_s8_u8(vshrq_n_u8::<4>(code));
                let lower = vreinterpretq_s8_u8(vandq_u8(code, vdupq_n_u8(15)));
                acc[0] = dot_step!(acc[0], upper, high, $kind);
                acc[0] = dot_step!(acc[0], lower, low, $kind);
                acc[1] = dot_step!(acc[1], lower, high, $kind);
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn join(acc: [int32x4_t; 2]) -> int32x4_t {
                vaddq_s32(vshlq_n_s32::<4>(acc[0]), acc[1])
            }

            #[target_feature(enable = $features)]
            pub(crate) fn nibble_dot(q: NibbleQuery<'_>, row: &[u8]) -> i32 {
                let mut acc = [vdupq_n_s32(0); 2];
                let mut i = 0;
                while i < row.len() {
                    // SAFETY: all three are equally long, a multiple of 32.
                    unsafe { step(&mut acc, load(row, i), load_signed(q.high, i), load_signed(q.low, i)) };
                    i += 16;
                }
                vaddvq_s32(join(acc))
            }

            #[target_feature(enable = $features)]
            pub(crate) fn nibble_dot4(q: NibbleQuery<'_>, rows: [&[u8]; 4]) -> [i32; 4] {
                let mut acc = [[vdupq_n_s32(0); 2]; 4];
                let mut i = 0;
                while i < q.high.len() {
                    // SAFETY: all are equally long, a multiple of 32.
                    let (high, low) = unsafe { (load_signed(q.high, i), load_signed(q.low, i)) };
                    for (acc, row) in acc.iter_mut().zip(rows) {
                        // SAFETY: as above.
                        step(acc, unsafe { load(row, i) }, high, low);
                    }
                    i += 16;
                }
                let mut out = [0; 4];
                for (out, acc) in out.iter_mut().zip(acc) {
                    *out = vaddvq_s32(join(acc));
                }
                out
            }

            #[target_feature(enable = $features)]
            pub(crate) fn nibble_rows(q: NibbleQuery<'_>, rows: &[u8], out: &mut [i32]) {
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

            #[target_feature(enable = $features)]
            pub(crate) fn nibble_blocks(q: NibbleQuery<'_>, blocks: &[u8], out: &mut [i32]) {
                let bytes = q.high.len();
                for (out, block) in out.chunks_exact_mut(BLOCK_16).zip(blocks.chunks_exact(BLOCK_16 * bytes)) {
                    let mut acc = [[vdupq_n_s32(0); 2]; 4];
                    for j in 0..bytes / 4 {
                        // SAFETY: `4 * j + 4 <= bytes`; both planes are `bytes` long.
                        let (high, low) = unsafe {
                            (
                                q.high.as_ptr().add(4 * j).cast::<i32>().read_unaligned(),
                                q.low.as_ptr().add(4 * j).cast::<i32>().read_unaligned(),
                            )
                        };
                        let (high, low) =
                            (vreinterpretq_s8_s32(vdupq_n_s32(high)), vreinterpretq_s8_s32(vdupq_n_s32(low)));
                        for (n, acc) in acc.iter_mut().enumerate() {
                            // SAFETY: `64 * j + 16 * n + 16 <= 16 * bytes`, the block's length.
                            step(acc, unsafe { load(block, 64 * j + 16 * n) }, high, low);
                        }
                    }
                    for (n, acc) in acc.into_iter().enumerate() {
                        // SAFETY: `out` is sixteen sums.
                        unsafe { vst1q_s32(out.as_mut_ptr().add(4 * n), join(acc)) };
                    }
                }
            }
        }
    };
}

nibble_kernels!(dotprod, "neon,dotprod", dotprod);
nibble_kernels!(plain, "neon", plain);

/// The entries at 16 indexes of six bits, whatever stands above those.
#[inline]
#[target_feature(enable = "neon")]
fn look_up(table: &[u8], index: uint8x16_t) -> uint8x16_t {
    let table = &table[..TABLE];
    // SAFETY: a table is 64 bytes.
    let table = unsafe { vld1q_u8_x4(table.as_ptr()) };
    vqtbl4q_u8(table, vandq_u8(index, vdupq_n_u8(63)))
}

#[target_feature(enable = "neon")]
pub(super) fn table_blocks(tables: &[u8], blocks: &[u8], out: &mut [i32]) {
    let block_bytes = tables.len() / 4 * 3;
    for (out, block) in out.chunks_exact_mut(BLOCK_64).zip(blocks.chunks_exact(block_bytes)) {
        out.fill(0);
        // Two groups of four entries, each at most 31, are added in a byte.
        for (tables, block) in tables.chunks(8 * TABLE).zip(block.chunks(6 * BLOCK_64)) {
            let mut sums = [vdupq_n_u8(0); 4];
            for (tables, group) in tables.chunks_exact(4 * TABLE).zip(block.chunks_exact(3 * BLOCK_64)) {
                for (n, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a group is three times 64 bytes.
                    let [a, b, c] = unsafe {
                        [load(group, 16 * n), load(group, BLOCK_64 + 16 * n), load(group, 2 * BLOCK_64 + 16 * n)]
                    };
                    let last = vorrq_u8(
                        vshrq_n_u8::<6>(a),
                        vorrq_u8(vshlq_n_u8::<2>(vshrq_n_u8::<6>(b)), vshlq_n_u8::<4>(vshrq_n_u8::<6>(c))),
                    );
                    for (table, index) in tables.chunks_exact(TABLE).zip([a, b, c, last]) {
                        *sum = vaddq_u8(*sum, look_up(table, index));
                    }
                }
            }
            let mut bytes = [0u8; BLOCK_64];
            for (n, sum) in sums.into_iter().enumerate() {
                // SAFETY: 64 bytes.
                unsafe { vst1q_u8(bytes.as_mut_ptr().add(16 * n), sum) };
            }
            for (out, byte) in out.iter_mut().zip(bytes) {
                *out += i32::from(byte);
            }
        }
    }
}

#[target_feature(enable = "neon")]
pub(super) fn select(sums: &[i32], rows: &Scoring<'_>, estimates: &mut [f32], hits: &mut [u32]) -> usize {
    let Scoring { norms, factors, affine: a, limit } = *rows;
    let (base, square, scale) = (vdupq_n_f32(a.base), vdupq_n_f32(a.square), vdupq_n_f32(a.scale));
    let (offset, bound) = (vdupq_n_f32(a.offset), vdupq_n_f32(limit));
    let (mut n, mut i) = (0, 0);
    while i + 4 <= sums.len() {
        // SAFETY: the four arrays are equally long and `i + 4` is within them.
        let (sum, norm, factor) = unsafe {
            (vld1q_s32(sums.as_ptr().add(i)), vld1q_f32(norms.as_ptr().add(i)), vld1q_f32(factors.as_ptr().add(i)))
        };
        let product = vfmaq_f32(offset, scale, vcvtq_f32_s32(sum));
        let constant = vfmaq_f32(base, vmulq_f32(square, norm), norm);
        let estimate = vfmaq_f32(constant, product, factor);
        // SAFETY: as above.
        unsafe { vst1q_f32(estimates.as_mut_ptr().add(i), estimate) };
        // All ones where not above the limit, NaN included.
        let chosen = vmvnq_u32(vcgtq_f32(estimate, bound));
        if vmaxvq_u32(chosen) != 0 {
            n += push_lanes(chosen, i, &mut hits[n..]);
        }
        i += 4;
    }
    let rest = Scoring { norms: &norms[i..], factors: &factors[i..], ..*rows };
    let rest = scalar::select(&sums[i..], &rest, &mut estimates[i..], &mut hits[n..]);
    shift(&mut hits[n..n + rest], i);
    n + rest
}

/// Writes the indexes of the lanes that are set, counted from `first`.
#[inline]
#[target_feature(enable = "neon")]
fn push_lanes(chosen: uint32x4_t, first: usize, hits: &mut [u32]) -> usize {
    let mut lanes = [0u32; 4];
    // SAFETY: sixteen bytes.
    unsafe { vst1q_u32(lanes.as_mut_ptr(), chosen) };
    let mut n = 0;
    for (lane, chosen) in (first..).zip(lanes) {
        if chosen != 0 {
            hits[n] = u32::try_from(lane).unwrap_or(u32::MAX);
            n += 1;
        }
    }
    n
}

/// Counts indexes from `first` instead of from zero.
fn shift(hits: &mut [u32], first: usize) {
    let first = u32::try_from(first).unwrap_or(u32::MAX);
    hits.iter_mut().for_each(|hit| *hit += first);
}

#[target_feature(enable = "neon")]
pub(super) fn select_between(estimates: &[f32], low: f32, high: f32, hits: &mut [u32]) -> usize {
    let (lowest, highest) = (vdupq_n_f32(low), vdupq_n_f32(high));
    let (mut n, mut i) = (0, 0);
    while i + 4 <= estimates.len() {
        // SAFETY: `i + 4` is within the array.
        let estimate = unsafe { vld1q_f32(estimates.as_ptr().add(i)) };
        let chosen = vandq_u32(vcgtq_f32(estimate, lowest), vcleq_f32(estimate, highest));
        if vmaxvq_u32(chosen) != 0 {
            n += push_lanes(chosen, i, &mut hits[n..]);
        }
        i += 4;
    }
    let rest = scalar::select_between(&estimates[i..], low, high, &mut hits[n..]);
    shift(&mut hits[n..n + rest], i);
    n + rest
}

#[target_feature(enable = "neon")]
pub(super) fn hadamard(x: &mut [f32]) {
    // NEON is part of the target, so the compiler vectorises the specification by itself.
    scalar::hadamard(x);
}

#[target_feature(enable = "neon")]
pub(super) fn quantise(z: &[f32], middles: &mut [f32], nibbles: &mut [u8]) -> f32 {
    // As with the transform.
    scalar::quantise_body(z, middles, nibbles)
}
