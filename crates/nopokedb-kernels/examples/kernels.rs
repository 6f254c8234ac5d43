//! Times each kernel on each level of this machine: `cargo run --release -p nopokedb-kernels --example kernels`.
//!
//! Prints nanoseconds a row (median of 15 runs), the bytes a second that the codes are read at, and their share of what a
//! plain read of the same memory reaches (the sum of its words, in the same run).

use std::hint::black_box;
use std::time::Instant;

use nopokedb_kernels::{Affine, Kernels, NibbleQuery, TABLE, sign_groups};

/// Median seconds of one call.
fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Bytes of no pattern.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[7]
    };
    (0..n).map(next).collect()
}

fn report(name: &str, k: &Kernels, rows: usize, bytes: usize, seconds: f64, read: f64) {
    let (ns, gigabytes) = (seconds * 1e9 / rows as f64, bytes as f64 / seconds / 1e9);
    let level = format!("{:?}", k.level());
    println!(
        "{name:<28} {level:<8} {ns:>8.3} ns/row {gigabytes:>7.1} GB/s {:>5.0} % of a plain read",
        100.0 * read / seconds
    );
}

/// Seconds that reading `data` takes when nothing else is done with it.
fn plain_read(k: &Kernels, data: &[f32]) -> f64 {
    // A norm is one load and one fused multiply-add a vector: it is bound by the loads.
    median(|| {
        black_box(k.norm_squared(black_box(data)));
    })
}

fn floats(rows: usize, dim: usize) {
    let data: Vec<f32> = noise(rows * dim).into_iter().map(|b| f32::from(b) - 128.0).collect();
    let q = data[..dim].to_vec();
    for k in Kernels::available() {
        let read = plain_read(k, &data);
        let bytes = data.len() * 4;
        let t = median(|| {
            data.chunks_exact(dim).for_each(|x| {
                black_box(k.dot(&q, x));
            });
        });
        report(&format!("f32 dot {dim}"), k, rows, bytes, t, read);
        let t = median(|| {
            data.chunks_exact(4 * dim).for_each(|x| {
                black_box(k.dot4(&q, [&x[..dim], &x[dim..2 * dim], &x[2 * dim..3 * dim], &x[3 * dim..]]));
            });
        });
        report(&format!("f32 dot4 {dim}"), k, rows, bytes, t, read);
    }
}

fn codes(rows: usize, dim: usize) {
    let bytes = dim / 2;
    let data = noise(rows * bytes);
    let (high, low): (Vec<i8>, Vec<i8>) =
        data[..bytes].iter().map(|b| (b.cast_signed(), (b ^ 0x5A).cast_signed())).unzip();
    let q = NibbleQuery { high: &high, low: &low };
    let as_floats = vec![1.0f32; rows * bytes / 4];
    let mut out = vec![0; rows];
    for k in Kernels::available() {
        let read = plain_read(k, &as_floats);
        let t = median(|| k.nibble_rows(q, black_box(&data), &mut out));
        report(&format!("u4 rows {dim}"), k, rows, data.len(), t, read);
        let t = median(|| k.nibble_blocks(q, black_box(&data), &mut out));
        report(&format!("u4 blocks {dim}"), k, rows, data.len(), t, read);
        let (norms, affine) = (vec![1.0f32; 1024], Affine { scale: 1.0, ..Affine::default() });
        let (mut estimates, mut hits) = (vec![0.0f32; 1024], vec![0u32; 1024]);
        let t = median(|| {
            for (out, data) in out.chunks_exact_mut(1024).zip(data.chunks_exact(1024 * bytes)) {
                k.nibble_blocks(q, data, out);
                black_box(k.select(out, &norms, &norms, &affine, f32::NEG_INFINITY, &mut estimates, &mut hits));
            }
        });
        report(&format!("u4 blocks + select {dim}"), k, rows, data.len(), t, read);
    }
}

fn signs(rows: usize, dim: usize) {
    let groups = sign_groups(dim);
    let data = noise(rows * 3 * groups);
    let tables: Vec<u8> = (0..groups * 4 * TABLE).map(|i| u8::try_from(i % 16 + i % 64 / 16).unwrap_or(0)).collect();
    let as_floats = vec![1.0f32; rows * 3 * groups / 4];
    let mut out = vec![0; rows];
    for k in Kernels::available() {
        let read = plain_read(k, &as_floats);
        let t = median(|| k.table_blocks(&tables, black_box(&data), &mut out));
        report(&format!("1-bit tables {dim}"), k, rows, data.len(), t, read);
    }
}

fn transform(dim: usize) {
    let mut x = vec![1.0f32; dim];
    for k in Kernels::available() {
        let t = median(|| (0..64).for_each(|_| k.hadamard(black_box(&mut x)))) / 64.0;
        println!("{:<28} {:<8} {:>8.1} ns", format!("hadamard {dim}"), format!("{:?}", k.level()), t * 1e9);
        x.fill(1.0);
    }
}

fn main() {
    floats(8_192, 128);
    floats(8_192, 384);
    codes(20_480, 128);
    codes(61_440, 384);
    codes(20_480, 768);
    signs(15_360, 384);
    signs(61_440, 384);
    signs(20_480, 768);
    [128, 256, 1024].into_iter().for_each(transform);
}
