//! aarch64: NEON, which every 64-bit ARM has. Callers guarantee equal lengths (`table.rs`, invariant 2).
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use crate::aarch64_codes as codes;
use crate::scalar;
use crate::table::{Kernels, Level};

static NEON: Kernels = Kernels {
    level: Level::Neon,
    dot,
    l2_squared,
    norm_squared,
    dot_and_norm,
    dot4,
    l2_squared4,
    nibble_dot: codes::plain::nibble_dot,
    nibble_dot4: codes::plain::nibble_dot4,
    nibble_gather: None,
    nibble_rows: codes::plain::nibble_rows,
    nibble_blocks: codes::plain::nibble_blocks,
    table_blocks: codes::table_blocks,
    select: codes::select,
    nibble_scan: None,
    table_scan: None,
    select_between: codes::select_between,
    hadamard: codes::hadamard,
    quantise: codes::quantise,
};

static NEON_DOT: Kernels = Kernels {
    level: Level::NeonDot,
    dot,
    l2_squared,
    norm_squared,
    dot_and_norm,
    dot4,
    l2_squared4,
    nibble_dot: codes::dotprod::nibble_dot,
    nibble_dot4: codes::dotprod::nibble_dot4,
    nibble_gather: None,
    nibble_rows: codes::dotprod::nibble_rows,
    nibble_blocks: codes::dotprod::nibble_blocks,
    table_blocks: codes::table_blocks,
    select: codes::select,
    nibble_scan: None,
    table_scan: None,
    select_between: codes::select_between,
    hadamard: codes::hadamard,
    quantise: codes::quantise,
};

/// The tables whose features this CPU has, worst first.
pub(crate) fn available() -> Vec<&'static Kernels> {
    let mut tables = Vec::new();
    if std::arch::is_aarch64_feature_detected!("neon") {
        tables.push(&NEON);
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            tables.push(&NEON_DOT);
        }
    }
    tables
}

/// Four floats from `x[i..]`.
///
/// # Safety
/// `i + 4 <= x.len()`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(x: &[f32], i: usize) -> float32x4_t {
    debug_assert!(i + 4 <= x.len());
    // SAFETY: the caller keeps `i + 4` within the slice; the load has no alignment requirement beyond the element's.
    unsafe { vld1q_f32(x.as_ptr().add(i)) }
}

/// Sum of four accumulators.
#[inline]
#[target_feature(enable = "neon")]
fn sum4(a: [float32x4_t; 4]) -> f32 {
    vaddvq_f32(vaddq_f32(vaddq_f32(a[0], a[1]), vaddq_f32(a[2], a[3])))
}

#[target_feature(enable = "neon")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let mut acc = [vdupq_n_f32(0.0); 4];
    let mut i = 0;
    while i + 16 <= n {
        for (l, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `i + 4 * l + 4 <= i + 16 <= n`, which is no more than either length.
            *acc = unsafe { vfmaq_f32(*acc, load(a, i + 4 * l), load(b, i + 4 * l)) };
        }
        i += 16;
    }
    sum4(acc) + scalar::dot(&a[i..n], &b[i..n])
}

#[target_feature(enable = "neon")]
fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let mut acc = [vdupq_n_f32(0.0); 4];
    let mut i = 0;
    while i + 16 <= n {
        for (l, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `i + 4 * l + 4 <= i + 16 <= n`, which is no more than either length.
            let d = unsafe { vsubq_f32(load(a, i + 4 * l), load(b, i + 4 * l)) };
            *acc = vfmaq_f32(*acc, d, d);
        }
        i += 16;
    }
    sum4(acc) + scalar::l2_squared(&a[i..n], &b[i..n])
}

#[target_feature(enable = "neon")]
fn norm_squared(x: &[f32]) -> f32 {
    dot(x, x)
}

#[target_feature(enable = "neon")]
fn dot_and_norm(q: &[f32], x: &[f32]) -> (f32, f32) {
    let n = q.len().min(x.len());
    let (mut dots, mut norms) = ([vdupq_n_f32(0.0); 4], [vdupq_n_f32(0.0); 4]);
    let mut i = 0;
    while i + 16 <= n {
        for l in 0..4 {
            // SAFETY: `i + 4 * l + 4 <= i + 16 <= n`, which is no more than either length.
            let (qv, xv) = unsafe { (load(q, i + 4 * l), load(x, i + 4 * l)) };
            dots[l] = vfmaq_f32(dots[l], qv, xv);
            norms[l] = vfmaq_f32(norms[l], xv, xv);
        }
        i += 16;
    }
    let (dot, norm) = scalar::dot_and_norm(&q[i..n], &x[i..n]);
    (sum4(dots) + dot, sum4(norms) + norm)
}

#[target_feature(enable = "neon")]
fn dot4(q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let n = rows.iter().fold(q.len(), |n, r| n.min(r.len()));
    let mut acc = [[vdupq_n_f32(0.0); 2]; 4];
    let mut i = 0;
    while i + 8 <= n {
        // SAFETY: `i + 8 <= n`, which is no more than any length.
        let (q0, q1) = unsafe { (load(q, i), load(q, i + 4)) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            let (x0, x1) = unsafe { (load(row, i), load(row, i + 4)) };
            acc[0] = vfmaq_f32(acc[0], q0, x0);
            acc[1] = vfmaq_f32(acc[1], q1, x1);
        }
        i += 8;
    }
    let mut out = [0.0; 4];
    for ((out, acc), row) in out.iter_mut().zip(acc).zip(rows) {
        *out = vaddvq_f32(vaddq_f32(acc[0], acc[1])) + scalar::dot(&q[i..n], &row[i..n]);
    }
    out
}

#[target_feature(enable = "neon")]
fn l2_squared4(q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let n = rows.iter().fold(q.len(), |n, r| n.min(r.len()));
    let mut acc = [[vdupq_n_f32(0.0); 2]; 4];
    let mut i = 0;
    while i + 8 <= n {
        // SAFETY: `i + 8 <= n`, which is no more than any length.
        let (q0, q1) = unsafe { (load(q, i), load(q, i + 4)) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            let (d0, d1) = unsafe { (vsubq_f32(q0, load(row, i)), vsubq_f32(q1, load(row, i + 4))) };
            acc[0] = vfmaq_f32(acc[0], d0, d0);
            acc[1] = vfmaq_f32(acc[1], d1, d1);
        }
        i += 8;
    }
    let mut out = [0.0; 4];
    for ((out, acc), row) in out.iter_mut().zip(acc).zip(rows) {
        *out = vaddvq_f32(vaddq_f32(acc[0], acc[1])) + scalar::l2_squared(&q[i..n], &row[i..n]);
    }
    out
}
