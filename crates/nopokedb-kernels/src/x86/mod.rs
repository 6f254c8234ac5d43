//! x86-64: AVX2 + FMA and AVX-512.
#![allow(unsafe_code)]

mod avx2;
mod avx512;

use crate::table::{Kernels, Level};

static AVX2: Kernels = Kernels {
    level: Level::Avx2,
    dot: avx2::dot,
    l2_squared: avx2::l2_squared,
    norm_squared: avx2::norm_squared,
    dot_and_norm: avx2::dot_and_norm,
    dot4: avx2::dot4,
    l2_squared4: avx2::l2_squared4,
};

static AVX512: Kernels = Kernels {
    level: Level::Avx512,
    dot: avx512::dot,
    l2_squared: avx512::l2_squared,
    norm_squared: avx512::norm_squared,
    dot_and_norm: avx512::dot_and_norm,
    dot4: avx512::dot4,
    l2_squared4: avx512::l2_squared4,
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
        {
            tables.push(&AVX512);
        }
    }
    tables
}
