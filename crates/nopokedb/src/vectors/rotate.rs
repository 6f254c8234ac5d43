//! The random rotation that makes every data set look alike to the codes: after it each coordinate of a unit vector is
//! about normal, whatever the axes meant before.
//!
//! Invariants:
//! 1. It is orthogonal: lengths and products are kept up to rounding.
//! 2. The same (dim, seed) gives the same bits on every machine and kernel level.
//! 3. The output has [`padded`] dimensions: a multiple of 64, the unit of the codes' kernels.

use nopokedb_kernels::kernels;

/// Dimensions of a code for vectors of `dim` dimensions.
pub(crate) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(64)
}

/// Rounds of random signs and a Hadamard transform. After three, no axis shows through.
const ROUNDS: usize = 3;

/// One transform: signs, scaled so that it keeps lengths, for the block that starts at `start`.
#[derive(Debug)]
struct Pass {
    start: usize,
    signs: Box<[f32]>,
}

/// A fixed random rotation.
#[derive(Debug)]
pub(crate) struct Rotation {
    dim: usize,
    passes: Vec<Pass>,
}

impl Rotation {
    /// The rotation of `dim` dimensions that `seed` names.
    pub(crate) fn new(dim: usize, seed: u64) -> Rotation {
        let width = padded(dim);
        // The largest power of two that fits, at both ends: the two blocks overlap unless one is everything.
        let block = 1 << width.ilog2();
        let starts: &[usize] = if block == width { &[0] } else { &[0, width - block] };
        let mut bits = SplitMix(seed);
        #[allow(clippy::cast_precision_loss)] // at most 2^16
        let scale = 1.0 / (block as f32).sqrt();
        let mut pass = |&start: &usize| {
            let signs = (0..block).map(|_| if bits.next() >> 63 == 0 { scale } else { -scale }).collect();
            Pass { start, signs }
        };
        let passes = (0..ROUNDS).flat_map(|_| starts.iter().map(&mut pass).collect::<Vec<_>>()).collect();
        Rotation { dim, passes }
    }

    /// Rotates `x` in place. It holds a vector of the rotation's dimension, and is padded with zeros first.
    pub(crate) fn apply(&self, x: &mut Vec<f32>) {
        debug_assert_eq!(x.len(), self.dim);
        x.resize(padded(self.dim), 0.0);
        for pass in &self.passes {
            let block = &mut x[pass.start..][..pass.signs.len()];
            block.iter_mut().zip(&pass.signs).for_each(|(x, sign)| *x *= sign);
            kernels().hadamard(block);
        }
    }
}

/// A small generator whose sequence is fixed for ever: images depend on it.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotate(dim: usize, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        Rotation::new(dim, 7).apply(&mut y);
        y
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    }

    #[test]
    fn lengths_and_products_are_kept_in_every_dimension() {
        for dim in [1, 2, 63, 64, 65, 100, 128, 192, 200, 320, 384, 768, 1000, 3072, 65_535] {
            let x: Vec<f32> = (0..dim).map(|i| ((i * 37 + 11) % 101) as f32 - 50.0).collect();
            let y: Vec<f32> = (0..dim).map(|i| ((i * 53 + 29) % 97) as f32 - 45.0).collect();
            let (rx, ry) = (rotate(dim, &x), rotate(dim, &y));
            assert_eq!(rx.len(), padded(dim));
            let tolerance = 1e-5 * (dot(&x, &x) * dot(&y, &y)).sqrt();
            assert!((dot(&rx, &ry) - dot(&x, &y)).abs() <= tolerance, "{dim}");
            assert!((dot(&rx, &rx) - dot(&x, &x)).abs() <= 1e-5 * dot(&x, &x), "{dim}");
        }
    }

    #[test]
    fn one_axis_is_spread_over_all_coordinates() {
        for dim in [64, 100, 384, 768] {
            for axis in [0, dim / 2, dim - 1] {
                let mut x = vec![0.0; dim];
                x[axis] = 1.0;
                let y = rotate(dim, &x);
                let largest = y.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                assert!(largest * (y.len() as f32).sqrt() < 6.0, "{dim}, axis {axis}: {largest}");
            }
        }
    }

    #[test]
    fn the_rotation_of_a_seed_never_changes() {
        // Codes in images were made with it. Powers of two rotate exactly, so these are the same bits everywhere.
        let y = rotate(64, &[8.0; 64]);
        let hash = y.iter().fold(0u64, |h, v| h.wrapping_mul(31).wrapping_add(u64::from(v.to_bits())));
        assert_eq!(hash, 0x4b92_6ee1_23bf_0000);
    }
}
