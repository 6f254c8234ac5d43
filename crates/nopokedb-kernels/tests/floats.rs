//! Every level's float kernels against sums in f64, within the bound that `scalar` states.

use nopokedb_kernels::{Kernels, kernels};
use proptest::prelude::*;

/// The bound of `scalar`'s head for `n` terms of total magnitude `magnitude`.
fn bound(n: usize, magnitude: f64) -> f64 {
    (n as f64 / 8.0 + 16.0) * f64::from(f32::EPSILON) * magnitude + n as f64 * f64::from(f32::MIN_POSITIVE)
}

fn dot64(a: &[f32], b: &[f32]) -> (f64, f64) {
    let terms = a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y));
    terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()))
}

fn l2_64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum()
}

fn close(what: &str, k: &Kernels, n: usize, got: f32, want: f64, magnitude: f64) {
    let limit = bound(n, magnitude);
    assert!(
        (f64::from(got) - want).abs() <= limit,
        "{what} at {:?}, n={n}: {got} against {want} (+-{limit})",
        k.level()
    );
}

/// Holds every kernel of every level to its bound on these rows (all of one length).
fn check(q: &[f32], rows: [&[f32]; 4]) {
    let n = q.len();
    for k in Kernels::available() {
        let (d4, l4) = (k.dot4(q, rows), k.l2_squared4(q, rows));
        for (i, x) in rows.into_iter().enumerate() {
            let ((dot, dot_magnitude), (norm, _), l2) = (dot64(q, x), dot64(x, x), l2_64(q, x));
            // The difference is rounded before it is squared: twice its relative error.
            let l2_magnitude = 2.0 * l2;
            close("dot", k, n, k.dot(q, x), dot, dot_magnitude);
            close("dot4", k, n, d4[i], dot, dot_magnitude);
            close("l2_squared", k, n, k.l2_squared(q, x), l2, l2_magnitude);
            close("l2_squared4", k, n, l4[i], l2, l2_magnitude);
            close("norm_squared", k, n, k.norm_squared(x), norm, norm);
            let (d, m) = k.dot_and_norm(q, x);
            close("dot_and_norm.0", k, n, d, dot, dot_magnitude);
            close("dot_and_norm.1", k, n, m, norm, norm);
        }
    }
}

/// Five rows of `n` pseudo-random floats at odd addresses. Each ends where its allocation does, so that valgrind and
/// AddressSanitizer see a read past it.
fn check_at(n: usize, misalign: usize, mut next: impl FnMut() -> f32) {
    let data: [Box<[f32]>; 5] = std::array::from_fn(|_| (0..misalign + n).map(|_| next()).collect());
    let [q, rows @ ..] = data.each_ref().map(|row| &row[misalign..]);
    check(q, rows);
}

fn xorshift(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn uniform(seed: u64) -> impl FnMut() -> f32 {
    let mut bits = xorshift(seed | 1);
    move || (bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

#[test]
fn every_length_up_to_300_agrees_with_f64() {
    for n in 0..=300 {
        check_at(n, n % 7, uniform(n as u64 + 99));
    }
}

#[test]
fn long_odd_lengths_agree_with_f64() {
    for n in [384, 511, 513, 768, 1023, 1537, 3072, 4097, 32_767, 65_535] {
        check_at(n, n % 5, uniform(n as u64));
    }
}

#[test]
fn subnormal_and_large_values_agree_with_f64() {
    for n in [1, 7, 16, 33, 129] {
        for scale in [1e-42f32, 1e-30, 1e15, 4e17] {
            let mut next = uniform(n as u64 + 5);
            check_at(n, 1, || next() * scale);
        }
    }
}

#[test]
fn one_infinite_or_nan_element_is_not_hidden() {
    for k in Kernels::available() {
        for n in [1usize, 8, 17, 64, 200] {
            for at in [0, n / 2, n - 1] {
                let (a, mut b) = (vec![1.0f32; n], vec![1.0f32; n]);
                b[at] = f32::INFINITY;
                assert_eq!(k.dot(&a, &b), f32::INFINITY);
                b[at] = f32::NAN;
                assert!(k.dot(&a, &b).is_nan() && k.l2_squared(&a, &b).is_nan() && k.norm_squared(&b).is_nan());
            }
        }
    }
}

#[test]
#[should_panic(expected = "different length")]
fn lengths_that_differ_are_refused() {
    kernels().dot(&[1.0, 2.0], &[1.0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mixed_magnitudes_agree_with_f64(n in 0usize..2000, misalign in 0usize..8, seed: u64, spread in 0i32..12) {
        let (mut value, mut bits) = (uniform(seed), xorshift(seed | 3));
        check_at(n, misalign, || {
            let exponent = i32::try_from(bits() % (2 * spread as u64 + 1)).unwrap() - spread;
            value() * 10f32.powi(exponent)
        });
    }
}
