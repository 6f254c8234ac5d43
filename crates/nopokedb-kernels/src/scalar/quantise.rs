//! Rounding a rotated row to nibbles. One body for all levels: it is compiled for each, and its sums run in a fixed order of
//! [`LANES`] partial sums without fused operations, so that every level writes the same code.

use crate::codes::{CELL, MIDDLE};

const LANES: usize = 16;
/// Shares of the expected width of the band that is flipped at once.
const BANDS: [f32; 8] = [0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0];
/// Single nibbles flipped at most to settle the rest.
const SINGLES: usize = 6;
/// More than this is worth another band.
const MANY: f32 = 2.0 * CELL;
/// What may be left: a thousandth of a cell.
const SETTLED: f32 = CELL * 1e-3;

/// Sum of 16 partial sums, pairwise.
#[inline(always)]
fn total(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// -1 below zero, else 1.
#[inline(always)]
fn sign(x: f32) -> f32 {
    if x < 0.0 { -1.0 } else { 1.0 }
}

/// See [`crate::Kernels::quantise`]. `z` and `middles` are twice as long as `nibbles`, whose length is a multiple of 32.
pub fn quantise(z: &[f32], middles: &mut [f32], nibbles: &mut [u8]) -> f32 {
    body(z, middles, nibbles)
}

#[inline(always)]
pub(crate) fn body(z: &[f32], middles: &mut [f32], nibbles: &mut [u8]) -> f32 {
    let missing = nearest(z, middles);
    // Outwards cells gain, inwards they lose.
    let outwards = if missing < 0.0 { -1.0 } else { 1.0 };
    let (mut left, mut edge) = (missing.abs(), 0.5 * CELL);
    for _ in 0..2 {
        if left > MANY {
            (left, edge) = flip_band(z, middles, left, edge, outwards);
        }
    }
    for _ in 0..SINGLES {
        if left.abs() <= SETTLED || !flip_best(z, middles, &mut left, outwards) {
            break;
        }
    }
    pack(z, middles, nibbles)
}

/// Writes the middle of each coordinate's cell; returns by how much the product with the row falls short of the row's own.
#[inline(always)]
fn nearest(z: &[f32], middles: &mut [f32]) -> f32 {
    let mut missing = [0.0f32; LANES];
    for (z, middles) in z.as_chunks::<LANES>().0.iter().zip(middles.as_chunks_mut::<LANES>().0) {
        for l in 0..LANES {
            #[allow(clippy::cast_possible_truncation)] // clamped
            let cell = (z[l] * (1.0 / CELL) + 8.0).clamp(0.0, 15.5) as i32;
            #[allow(clippy::cast_precision_loss)] // below 16
            let middle = (cell as f32 - MIDDLE) * CELL;
            middles[l] = middle;
            missing[l] += z[l] * (z[l] - middle);
        }
    }
    total(missing)
}

/// How far a coordinate lies from its cell's middle in the direction of the flip; nothing beyond the last cell.
#[inline(always)]
fn lean(z: f32, middle: f32, outwards: f32) -> f32 {
    let lean = outwards * (z - middle) * sign(z);
    let full = outwards > 0.0 && middle.abs() > (MIDDLE - 0.5) * CELL;
    if full { -CELL } else { lean }
}

/// Flips the coordinates nearest to their cell's boundary, as wide a band below `edge` as does not give more than `wanted`.
/// Returns what is still wanted, and the band's lower edge.
#[inline(always)]
fn flip_band(z: &[f32], middles: &mut [f32], wanted: f32, edge: f32, outwards: f32) -> (f32, f32) {
    // About one in `CELL / width` coordinates lies in a band, and gains a cell times 0.8 on average.
    #[allow(clippy::cast_precision_loss)] // at most 2^16
    let width = wanted / (0.8 * z.len() as f32);
    let bounds = BANDS.map(|share| (edge - share * width).max(0.0));
    let mut gains = [[0.0f32; LANES]; BANDS.len()];
    for (z, middles) in z.as_chunks::<LANES>().0.iter().zip(middles.as_chunks::<LANES>().0) {
        for (gains, bound) in gains.iter_mut().zip(bounds) {
            for l in 0..LANES {
                let lean = lean(z[l], middles[l], outwards);
                gains[l] += if lean > bound { z[l].abs() } else { 0.0 };
            }
        }
    }
    let mut best = None;
    for (gains, bound) in gains.into_iter().zip(bounds) {
        let gain = CELL * total(gains);
        if gain <= wanted {
            best = Some((gain, bound));
        }
    }
    let Some((gain, bound)) = best else { return (wanted, edge) };
    for (z, middles) in z.as_chunks::<LANES>().0.iter().zip(middles.as_chunks_mut::<LANES>().0) {
        for l in 0..LANES {
            let step = if lean(z[l], middles[l], outwards) > bound { outwards * CELL } else { 0.0 };
            middles[l] += step * sign(z[l]);
        }
    }
    (wanted - gain, bound)
}

/// Flips the one coordinate, of those on the right side of their cell's middle, whose gain is nearest to what is `left`.
/// False if none comes nearer.
#[inline(always)]
fn flip_best(z: &[f32], middles: &mut [f32], left: &mut f32, outwards: f32) -> bool {
    let miss = |z: f32, middle: f32| {
        let off = (*left - CELL * z.abs()).abs();
        if lean(z, middle, outwards) > 0.0 { off } else { f32::INFINITY }
    };
    let mut least = [f32::INFINITY; LANES];
    for (z, middles) in z.as_chunks::<LANES>().0.iter().zip(middles.as_chunks::<LANES>().0) {
        for l in 0..LANES {
            let miss = miss(z[l], middles[l]);
            least[l] = if miss < least[l] { miss } else { least[l] };
        }
    }
    let least = least.into_iter().fold(f32::INFINITY, f32::min);
    if least >= left.abs() {
        return false;
    }
    // Sixteen at a time: where it is not, that is seen without a branch for each.
    for (z, middles) in z.as_chunks::<LANES>().0.iter().zip(middles.as_chunks_mut::<LANES>().0) {
        let mut here = false;
        for l in 0..LANES {
            here |= miss(z[l], middles[l]) == least;
        }
        if here && let Some(l) = (0..LANES).find(|&l| miss(z[l], middles[l]) == least) {
            middles[l] += outwards * CELL * sign(z[l]);
            *left -= CELL * z[l].abs();
            return true;
        }
    }
    false
}

/// Writes the cells as nibbles; returns the product of their signs with the row.
#[inline(always)]
fn pack(z: &[f32], middles: &[f32], nibbles: &mut [u8]) -> f32 {
    let (upper, lower) = middles.split_at(nibbles.len());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 15
    let cell = |middle: f32| (middle * (1.0 / CELL) + (MIDDLE + 0.5)) as i32 as u8;
    for ((out, upper), lower) in nibbles.iter_mut().zip(upper).zip(lower) {
        *out = cell(*upper) << 4 | cell(*lower);
    }
    let mut signed = [0.0f32; LANES];
    for (z, middles) in z.as_chunks::<LANES>().0.iter().zip(middles.as_chunks::<LANES>().0) {
        for l in 0..LANES {
            signed[l] += z[l] * sign(middles[l]);
        }
    }
    total(signed)
}
