//! The SIMD kernels of NoPokeDB, and with `io/mmap.rs` of the engine the only `unsafe` code of the project.
//!
//! | file | what |
//! |---|---|
//! | [`scalar`] | the specification: every kernel in plain Rust |
//! | `x86/` | AVX2 + FMA, and AVX-512 (F, BW, VL, DQ, VBMI, VNNI) |
//! | `aarch64*` | NEON, with and without the dot-product instruction |
//! | `codes` | what the kernels over 4-bit and 1-bit codes work on |
//! | [`table`](Kernels) | which of them this machine runs, chosen once |
//! | [`cast`] | `f32` rows as bytes and back |
//! | `zeroed` | [`Zeroed`]: reserved ahead of need, there once it is written to |
//! | `arena` | [`AppendArena`]: rows that never move, read without locks while one writer appends |
//!
//! ```
//! let k = nopokedb_kernels::kernels();
//! assert_eq!(k.dot(&[1.0, 2.0], &[3.0, 4.0]), 11.0);
//! ```
//!
//! Invariants:
//! 1. A [`Kernels`] table can only be had for a level that the running CPU supports.
//! 2. Every entry has a scalar twin; a property test holds each level to it: integer kernels equal it exactly, float
//!    kernels within the bound stated in [`scalar`].
//! 3. The functions here check the lengths of their slices; the kernels behind them may then trust them.
#![warn(missing_docs)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
mod aarch64_codes;
mod arena;
pub mod cast;
mod codes;
mod gather;
mod pages;
mod prefetch;
pub mod scalar;
mod table;
#[cfg(target_arch = "x86_64")]
mod x86;
mod zeroed;

pub use arena::AppendArena;
pub use codes::{
    Affine, BLOCK_16, BLOCK_64, CELL, CODE_BYTES, MIDDLE, NibbleQuery, Scoring, TABLE, TABLE_MAX, interleave_16,
    pack_signs_64, sign_groups,
};
pub use pages::{prefer_huge_pages, touched};
pub use prefetch::prefetch;
pub use table::{Kernels, Level, kernels};
pub use zeroed::{Zero, Zeroed};
