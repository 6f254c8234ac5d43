//! AVX2 + FMA. Callers guarantee equal lengths (`table.rs`, invariant 2).

use std::arch::x86_64::*;

use crate::scalar;

/// Eight floats from `x[i..]`.
///
/// # Safety
/// `i + 8 <= x.len()`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load(x: &[f32], i: usize) -> __m256 {
    debug_assert!(i + 8 <= x.len());
    // SAFETY: the caller keeps `i + 8` within the slice; the load has no alignment requirement.
    unsafe { _mm256_loadu_ps(x.as_ptr().add(i)) }
}

/// Sum of the eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum(v: __m256) -> f32 {
    let halves = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let mut acc = [_mm256_setzero_ps(); 4];
    let mut i = 0;
    while i + 32 <= n {
        for (l, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `i + 8 * l + 8 <= i + 32 <= n`, which is no more than either length.
            *acc = unsafe { _mm256_fmadd_ps(load(a, i + 8 * l), load(b, i + 8 * l), *acc) };
        }
        i += 32;
    }
    while i + 8 <= n {
        // SAFETY: `i + 8 <= n`.
        acc[0] = unsafe { _mm256_fmadd_ps(load(a, i), load(b, i), acc[0]) };
        i += 8;
    }
    sum(_mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3]))) + scalar::dot(&a[i..n], &b[i..n])
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let mut acc = [_mm256_setzero_ps(); 4];
    let mut i = 0;
    while i + 32 <= n {
        for (l, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `i + 8 * l + 8 <= i + 32 <= n`, which is no more than either length.
            let d = unsafe { _mm256_sub_ps(load(a, i + 8 * l), load(b, i + 8 * l)) };
            *acc = _mm256_fmadd_ps(d, d, *acc);
        }
        i += 32;
    }
    while i + 8 <= n {
        // SAFETY: `i + 8 <= n`.
        let d = unsafe { _mm256_sub_ps(load(a, i), load(b, i)) };
        acc[0] = _mm256_fmadd_ps(d, d, acc[0]);
        i += 8;
    }
    let head = sum(_mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3])));
    head + scalar::l2_squared(&a[i..n], &b[i..n])
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn norm_squared(x: &[f32]) -> f32 {
    dot(x, x)
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_and_norm(q: &[f32], x: &[f32]) -> (f32, f32) {
    let n = q.len().min(x.len());
    let (mut dots, mut norms) = ([_mm256_setzero_ps(); 4], [_mm256_setzero_ps(); 4]);
    let mut i = 0;
    while i + 32 <= n {
        for l in 0..4 {
            // SAFETY: `i + 8 * l + 8 <= i + 32 <= n`, which is no more than either length.
            let (qv, xv) = unsafe { (load(q, i + 8 * l), load(x, i + 8 * l)) };
            dots[l] = _mm256_fmadd_ps(qv, xv, dots[l]);
            norms[l] = _mm256_fmadd_ps(xv, xv, norms[l]);
        }
        i += 32;
    }
    while i + 8 <= n {
        // SAFETY: `i + 8 <= n`.
        let (qv, xv) = unsafe { (load(q, i), load(x, i)) };
        dots[0] = _mm256_fmadd_ps(qv, xv, dots[0]);
        norms[0] = _mm256_fmadd_ps(xv, xv, norms[0]);
        i += 8;
    }
    let (dot, norm) = scalar::dot_and_norm(&q[i..n], &x[i..n]);
    let total = |a: [__m256; 4]| sum(_mm256_add_ps(_mm256_add_ps(a[0], a[1]), _mm256_add_ps(a[2], a[3])));
    (total(dots) + dot, total(norms) + norm)
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot4(q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let n = rows.iter().fold(q.len(), |n, r| n.min(r.len()));
    let mut acc = [[_mm256_setzero_ps(); 2]; 4];
    let mut i = 0;
    while i + 16 <= n {
        // SAFETY: `i + 16 <= n`, which is no more than any length.
        let (q0, q1) = unsafe { (load(q, i), load(q, i + 8)) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            let (x0, x1) = unsafe { (load(row, i), load(row, i + 8)) };
            acc[0] = _mm256_fmadd_ps(q0, x0, acc[0]);
            acc[1] = _mm256_fmadd_ps(q1, x1, acc[1]);
        }
        i += 16;
    }
    let mut out = [0.0; 4];
    for ((out, acc), row) in out.iter_mut().zip(acc).zip(rows) {
        *out = sum(_mm256_add_ps(acc[0], acc[1])) + scalar::dot(&q[i..n], &row[i..n]);
    }
    out
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn l2_squared4(q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let n = rows.iter().fold(q.len(), |n, r| n.min(r.len()));
    let mut acc = [[_mm256_setzero_ps(); 2]; 4];
    let mut i = 0;
    while i + 16 <= n {
        // SAFETY: `i + 16 <= n`, which is no more than any length.
        let (q0, q1) = unsafe { (load(q, i), load(q, i + 8)) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            let (d0, d1) = unsafe { (_mm256_sub_ps(q0, load(row, i)), _mm256_sub_ps(q1, load(row, i + 8))) };
            acc[0] = _mm256_fmadd_ps(d0, d0, acc[0]);
            acc[1] = _mm256_fmadd_ps(d1, d1, acc[1]);
        }
        i += 16;
    }
    let mut out = [0.0; 4];
    for ((out, acc), row) in out.iter_mut().zip(acc).zip(rows) {
        *out = sum(_mm256_add_ps(acc[0], acc[1])) + scalar::l2_squared(&q[i..n], &row[i..n]);
    }
    out
}
