//! Which kernels this machine runs: one table of functions per level, chosen once.
//!
//! Invariants:
//! 1. [`Kernels::available`] lists a table only after the CPU was asked for every feature its functions are compiled
//!    with; there is no other way to a table of that level. That is what makes the calls below sound.
//! 2. The methods check lengths before they call.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::OnceLock;

use crate::arena::AppendArena;
use crate::codes::{NibbleQuery, Scoring};
use crate::scalar;

/// A set of CPU features that kernels are written for, in ascending order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust.
    Scalar,
    /// aarch64 with NEON.
    Neon,
    /// aarch64 with NEON and the dot-product instruction.
    NeonDot,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ, VBMI and VNNI, LZCNT and BMI (Intel since Ice Lake, AMD since Zen 4).
    Avx512,
}

/// The kernels of one [`Level`]. Get one from [`kernels`].
pub struct Kernels {
    pub(crate) level: Level,
    pub(crate) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) l2_squared: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) norm_squared: unsafe fn(&[f32]) -> f32,
    pub(crate) dot_and_norm: unsafe fn(&[f32], &[f32]) -> (f32, f32),
    pub(crate) dot4: unsafe fn(&[f32], [&[f32]; 4]) -> [f32; 4],
    pub(crate) l2_squared4: unsafe fn(&[f32], [&[f32]; 4]) -> [f32; 4],
    pub(crate) nibble_dot: unsafe fn(NibbleQuery<'_>, &[u8]) -> i32,
    pub(crate) nibble_dot4: unsafe fn(NibbleQuery<'_>, [&[u8]; 4]) -> [i32; 4],
    /// Where a level has one of its own.
    pub(crate) nibble_gather: Option<Gather>,
    pub(crate) nibble_rows: unsafe fn(NibbleQuery<'_>, &[u8], &mut [i32]),
    pub(crate) nibble_blocks: unsafe fn(NibbleQuery<'_>, &[u8], &mut [i32]),
    pub(crate) table_blocks: unsafe fn(&[u8], &[u8], &mut [i32]),
    pub(crate) select: Select,
    /// Where a level has ones of its own.
    pub(crate) nibble_scan: Option<NibbleScan>,
    pub(crate) table_scan: Option<TableScan>,
    pub(crate) select_between: unsafe fn(&[f32], f32, f32, &mut [u32]) -> usize,
    pub(crate) hadamard: unsafe fn(&mut [f32]),
    pub(crate) quantise: unsafe fn(&[f32], &mut [f32], &mut [u8]) -> f32,
}

/// See [`Kernels::nibble_gather`].
pub(crate) type Gather = unsafe fn(NibbleQuery<'_>, &AppendArena<u8>, &[u32], &mut [i32]);

/// See [`Kernels::select`].
type Select = unsafe fn(&[i32], &Scoring<'_>, &mut [f32], &mut [u32]) -> usize;

/// See [`Kernels::nibble_scan`].
type NibbleScan = unsafe fn(NibbleQuery<'_>, &[u8], &Scoring<'_>, &mut [f32], &mut [u32]) -> usize;

/// See [`Kernels::table_scan`].
type TableScan = unsafe fn(&[u8], &[u8], &Scoring<'_>, &mut [f32], &mut [u32]) -> usize;

static SCALAR: Kernels = Kernels {
    level: Level::Scalar,
    dot: scalar::dot,
    l2_squared: scalar::l2_squared,
    norm_squared: scalar::norm_squared,
    dot_and_norm: scalar::dot_and_norm,
    dot4: scalar::dot4,
    l2_squared4: scalar::l2_squared4,
    nibble_dot: scalar::nibble_dot,
    nibble_dot4: scalar::nibble_dot4,
    nibble_gather: None,
    nibble_rows: scalar::nibble_rows,
    nibble_blocks: scalar::nibble_blocks,
    table_blocks: scalar::table_blocks,
    select: scalar::select,
    nibble_scan: None,
    table_scan: None,
    select_between: scalar::select_between,
    hadamard: scalar::hadamard,
    quantise: scalar::quantise,
};

/// The best kernels of this machine. Looked up once; afterwards a load.
#[inline]
pub fn kernels() -> &'static Kernels {
    static BEST: OnceLock<&'static Kernels> = OnceLock::new();
    BEST.get_or_init(|| Kernels::available().pop().unwrap_or(&SCALAR))
}

impl Kernels {
    /// Every level this machine supports, worst first. Tests and benchmarks run them all; others want [`kernels`].
    pub fn available() -> Vec<&'static Kernels> {
        let mut tables = vec![&SCALAR];
        #[cfg(target_arch = "x86_64")]
        tables.extend(crate::x86::available());
        #[cfg(target_arch = "aarch64")]
        tables.extend(crate::aarch64::available());
        tables
    }

    /// The features these kernels use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// `sum(a[i] * b[i])`. Panics when the lengths differ.
    #[inline]
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "dot of vectors of different length");
        // SAFETY: invariant 1: the CPU has the features; the lengths are equal.
        unsafe { (self.dot)(a, b) }
    }

    /// `sum((a[i] - b[i])^2)`. Panics when the lengths differ.
    #[inline]
    pub fn l2_squared(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "distance of vectors of different length");
        // SAFETY: invariant 1: the CPU has the features; the lengths are equal.
        unsafe { (self.l2_squared)(a, b) }
    }

    /// `sum(x[i]^2)`.
    #[inline]
    pub fn norm_squared(&self, x: &[f32]) -> f32 {
        // SAFETY: invariant 1: the CPU has the features.
        unsafe { (self.norm_squared)(x) }
    }

    /// `(sum(q[i] * x[i]), sum(x[i]^2))` in one pass: all that an exact cosine needs of a row.
    #[inline]
    pub fn dot_and_norm(&self, q: &[f32], x: &[f32]) -> (f32, f32) {
        assert_eq!(q.len(), x.len(), "dot of vectors of different length");
        // SAFETY: invariant 1: the CPU has the features; the lengths are equal.
        unsafe { (self.dot_and_norm)(q, x) }
    }

    /// [`Kernels::dot`] of one query with four rows: the query is loaded once. Rounds differently from `dot`.
    #[inline]
    pub fn dot4(&self, q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
        assert!(rows.iter().all(|r| r.len() == q.len()), "dot of vectors of different length");
        // SAFETY: invariant 1: the CPU has the features; the lengths are equal.
        unsafe { (self.dot4)(q, rows) }
    }

    /// [`Kernels::l2_squared`] of one query with four rows: the query is loaded once. Rounds differently.
    #[inline]
    pub fn l2_squared4(&self, q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
        assert!(rows.iter().all(|r| r.len() == q.len()), "distance of vectors of different length");
        // SAFETY: invariant 1: the CPU has the features; the lengths are equal.
        unsafe { (self.l2_squared4)(q, rows) }
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels").field("level", &self.level).finish()
    }
}
