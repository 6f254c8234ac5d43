//! x86-64: AVX2 + FMA and AVX-512.
#![allow(unsafe_code)]

mod avx2;
mod avx2_codes;
mod avx512;
mod avx512_codes;
mod avx512_gather;

use crate::table::{Kernels, Level};

static AVX2: Kernels = Kernels {
    level: Level::Avx2,
    dot: avx2::dot,
    l2_squared: avx2::l2_squared,
    norm_squared: avx2::norm_squared,
    dot_and_norm: avx2::dot_and_norm,
    dot4: avx2::dot4,
    l2_squared4: avx2::l2_squared4,
    nibble_dot: avx2_codes::nibble_dot,
    nibble_dot4: avx2_codes::nibble_dot4,
    nibble_gather: None,
    nibble_rows: avx2_codes::nibble_rows,
    nibble_blocks: avx2_codes::nibble_blocks,
    table_blocks: avx2_codes::table_blocks,
    select: avx2_codes::select,
    nibble_scan: None,
    table_scan: None,
    select_between: avx2_codes::select_between,
    hadamard: avx2_codes::hadamard,
    quantise: avx2_codes::quantise,
};

static AVX512: Kernels = Kernels {
    level: Level::Avx512,
    dot: avx512::dot,
    l2_squared: avx512::l2_squared,
    norm_squared: avx512::norm_squared,
    dot_and_norm: avx512::dot_and_norm,
    dot4: avx512::dot4,
    l2_squared4: avx512::l2_squared4,
    nibble_dot: avx512_codes::nibble_dot,
    nibble_dot4: avx512_codes::nibble_dot4,
    nibble_gather: Some(avx512_gather::nibble_gather),
    nibble_rows: avx512_codes::nibble_rows,
    nibble_blocks: avx512_codes::nibble_blocks,
    table_blocks: avx512_codes::table_blocks,
    select: avx512_codes::select,
    nibble_scan: Some(avx512_codes::nibble_scan),
    table_scan: Some(avx512_codes::table_scan),
    select_between: avx512_codes::select_between,
    hadamard: avx512_codes::hadamard,
    quantise: avx512_codes::quantise,
};

/// The tables whose features this CPU (and its operating system) has, worst first.
pub(crate) fn available() -> Vec<&'static Kernels> {
    let mut tables = Vec::new();
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        tables.push(&AVX2);
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
        {
            tables.push(&AVX512);
        }
    }
    tables
}
