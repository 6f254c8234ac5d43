//! AVX-512. Callers guarantee equal lengths (`table.rs`, invariant 2). Tails are read with masked loads, which touch
//! no byte outside the slice.

use std::arch::x86_64::*;

/// Sixteen floats from `x[i..]`, zeros beyond `n`.
///
/// # Safety
/// `i < n <= x.len()`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_tail(x: &[f32], i: usize, n: usize) -> __m512 {
    debug_assert!(i < n && n <= x.len());
    let mask = if n - i >= 16 { u16::MAX } else { (1u16 << (n - i)) - 1 };
    // SAFETY: only lanes below `n - i` are read, and `n` is within the slice.
    unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(i)) }
}

/// Sixteen floats from `x[i..]`.
///
/// # Safety
/// `i + 16 <= x.len()`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(x: &[f32], i: usize) -> __m512 {
    debug_assert!(i + 16 <= x.len());
    // SAFETY: the caller keeps `i + 16` within the slice; the load has no alignment requirement.
    unsafe { _mm512_loadu_ps(x.as_ptr().add(i)) }
}

/// Sum of four accumulators.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum4(a: [__m512; 4]) -> f32 {
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a[0], a[1]), _mm512_add_ps(a[2], a[3])))
}

#[target_feature(enable = "avx512f")]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let mut acc = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    while i + 64 <= n {
        for (l, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `i + 16 * l + 16 <= i + 64 <= n`, which is no more than either length.
            *acc = unsafe { _mm512_fmadd_ps(load(a, i + 16 * l), load(b, i + 16 * l), *acc) };
        }
        i += 64;
    }
    while i < n {
        // SAFETY: `i < n`, which is no more than either length.
        acc[0] = unsafe { _mm512_fmadd_ps(load_tail(a, i, n), load_tail(b, i, n), acc[0]) };
        i += 16;
    }
    sum4(acc)
}

#[target_feature(enable = "avx512f")]
pub(super) fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let mut acc = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    while i + 64 <= n {
        for (l, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `i + 16 * l + 16 <= i + 64 <= n`, which is no more than either length.
            let d = unsafe { _mm512_sub_ps(load(a, i + 16 * l), load(b, i + 16 * l)) };
            *acc = _mm512_fmadd_ps(d, d, *acc);
        }
        i += 64;
    }
    while i < n {
        // SAFETY: `i < n`, which is no more than either length.
        let d = unsafe { _mm512_sub_ps(load_tail(a, i, n), load_tail(b, i, n)) };
        acc[0] = _mm512_fmadd_ps(d, d, acc[0]);
        i += 16;
    }
    sum4(acc)
}

#[target_feature(enable = "avx512f")]
pub(super) fn norm_squared(x: &[f32]) -> f32 {
    dot(x, x)
}

#[target_feature(enable = "avx512f")]
pub(super) fn dot_and_norm(q: &[f32], x: &[f32]) -> (f32, f32) {
    let n = q.len().min(x.len());
    let (mut dots, mut norms) = ([_mm512_setzero_ps(); 4], [_mm512_setzero_ps(); 4]);
    let mut i = 0;
    while i + 64 <= n {
        for l in 0..4 {
            // SAFETY: `i + 16 * l + 16 <= i + 64 <= n`, which is no more than either length.
            let (qv, xv) = unsafe { (load(q, i + 16 * l), load(x, i + 16 * l)) };
            dots[l] = _mm512_fmadd_ps(qv, xv, dots[l]);
            norms[l] = _mm512_fmadd_ps(xv, xv, norms[l]);
        }
        i += 64;
    }
    while i < n {
        // SAFETY: `i < n`, which is no more than either length.
        let (qv, xv) = unsafe { (load_tail(q, i, n), load_tail(x, i, n)) };
        dots[0] = _mm512_fmadd_ps(qv, xv, dots[0]);
        norms[0] = _mm512_fmadd_ps(xv, xv, norms[0]);
        i += 16;
    }
    (sum4(dots), sum4(norms))
}

#[target_feature(enable = "avx512f")]
pub(super) fn dot4(q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let n = rows.iter().fold(q.len(), |n, r| n.min(r.len()));
    let mut acc = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    while i + 16 <= n {
        // SAFETY: `i + 16 <= n`, which is no more than any length.
        let qv = unsafe { load(q, i) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            *acc = unsafe { _mm512_fmadd_ps(qv, load(row, i), *acc) };
        }
        i += 16;
    }
    if i < n {
        // SAFETY: `i < n`, which is no more than any length.
        let qv = unsafe { load_tail(q, i, n) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            *acc = unsafe { _mm512_fmadd_ps(qv, load_tail(row, i, n), *acc) };
        }
    }
    let mut out = [0.0; 4];
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = _mm512_reduce_add_ps(acc);
    }
    out
}

#[target_feature(enable = "avx512f")]
pub(super) fn l2_squared4(q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let n = rows.iter().fold(q.len(), |n, r| n.min(r.len()));
    let mut acc = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    while i < n {
        // SAFETY: `i < n`, which is no more than any length.
        let qv = unsafe { load_tail(q, i, n) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            let d = unsafe { _mm512_sub_ps(qv, load_tail(row, i, n)) };
            *acc = _mm512_fmadd_ps(d, d, *acc);
        }
        i += 16;
    }
    let mut out = [0.0; 4];
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = _mm512_reduce_add_ps(acc);
    }
    out
}
