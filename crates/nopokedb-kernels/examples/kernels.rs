//! Times each kernel on each level of this machine against what the machine can do at all, measured in the same run:
//! `make bench-kernels` writes what this prints to docs/KERNELS.md.
//!
//! A kernel's limit is the longer of two times: that of reading its bytes from where they lie (a plain sum of as many bytes, read
//! over and over), and that of its main instructions (a loop of nothing else). Its share is that limit by its own time.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts, as quotients
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::Instant;

use nopokedb_kernels::{Affine, AppendArena, Kernels, Level, NibbleQuery, Scoring, TABLE, kernels, sign_groups};

/// Estimates that are the sums.
const PLAIN: Affine = Affine { base: 0.0, square: 0.0, scale: 1.0, offset: 0.0 };

/// Seconds of one call: the median of 15 measurements, each of as many calls as take a while.
fn seconds(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    let calls = (1e-3 / start.elapsed().as_secs_f64().max(1e-9)).clamp(1.0, 1e5).round();
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            (0..calls as u32).for_each(|_| run());
            start.elapsed().as_secs_f64() / calls
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Numbers of no pattern.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(n: usize) -> Vec<u8> {
        let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
        (0..n).map(|_| noise.next().to_le_bytes()[7]).collect()
    }

    fn floats(n: usize) -> Vec<f32> {
        Self::bytes(n).into_iter().map(|b| f32::from(b) - 128.0).collect()
    }
}

/// Instructions a second, each on the level's widest vectors; 0 where that is not measured.
#[derive(Clone, Copy, Default)]
struct Rates {
    fma: f64,
    dot_bytes: f64,
    permute: f64,
}

#[cfg(target_arch = "x86_64")]
mod rates {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const ROUNDS: u32 = 1000;
    /// Enough of them on their way for two units of five cycles' latency.
    const CHAINS: usize = 12;

    #[target_feature(enable = "avx512f")]
    fn fma_512() {
        let (mut sums, x) = ([_mm512_set1_ps(1.0); CHAINS], black_box(_mm512_set1_ps(0.5)));
        (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(x, x, *sum)));
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dot_bytes_512() {
        let (mut sums, x) = ([_mm512_setzero_si512(); CHAINS], black_box(_mm512_set1_epi8(3)));
        (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, x, x)));
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vbmi")]
    fn permute_512() {
        let (mut sums, x) = ([_mm512_set1_epi8(5); CHAINS], black_box(_mm512_set1_epi8(3)));
        (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = _mm512_permutexvar_epi8(*sum, x)));
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256() {
        let (mut sums, x) = ([_mm256_set1_ps(1.0); CHAINS], black_box(_mm256_set1_ps(0.5)));
        (0..ROUNDS).for_each(|_| sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(x, x, *sum)));
        black_box(sums);
    }

    pub(super) fn of(level: super::Level) -> super::Rates {
        let a_second = |run: unsafe fn()| {
            // SAFETY: the level is available, so the CPU has its features.
            f64::from(ROUNDS) * CHAINS as f64 / super::seconds(|| unsafe { run() })
        };
        match level {
            super::Level::Avx512 => super::Rates {
                fma: a_second(fma_512),
                dot_bytes: a_second(dot_bytes_512),
                permute: a_second(permute_512),
            },
            super::Level::Avx2 => super::Rates { fma: a_second(fma_256), ..super::Rates::default() },
            _ => super::Rates::default(),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod rates {
    pub(super) fn of(_: super::Level) -> super::Rates {
        super::Rates::default()
    }
}

/// What the machine can do, and one level of it.
struct Bench {
    k: &'static Kernels,
    rates: Rates,
    /// Bytes a second of plain reads at which so many bytes are read.
    read: fn(usize) -> f64,
}

/// Plain reads of `bytes`, over and over. A norm is one load and one multiply-add a vector: the loads bound it.
fn plain_read(bytes: usize) -> f64 {
    let data = vec![1.0f32; bytes / 4];
    bytes as f64
        / seconds(|| {
            black_box(kernels().norm_squared(black_box(&data)));
        })
}

impl Bench {
    /// Prints a kernel's line. Each of `rows` rows takes `bytes` bytes and `instructions` of the given rate.
    fn line(&self, name: &str, rows: usize, bytes: usize, (instructions, rate): (f64, f64), run: impl FnMut()) {
        let (own, total) = (seconds(run), rows * bytes);
        let reading = total as f64 / (self.read)(total);
        let computing = if rate > 0.0 { rows as f64 * instructions / rate } else { 0.0 };
        let bound = if reading >= computing { "reading" } else { "instructions" };
        println!(
            "| {name} | {:?} | {} | {:.2} | {:.1} | {:.0} % | {bound} |",
            self.k.level(),
            size(total),
            own * 1e9 / rows as f64,
            total as f64 / own / 1e9,
            100.0 * reading.max(computing) / own
        );
    }

    fn floats(&self, dim: usize, bytes: usize) {
        let rows = bytes / (4 * dim) / 4 * 4;
        let (data, q) = (Noise::floats(rows * dim), Noise::floats(dim));
        let width = if self.k.level() == Level::Avx512 { 16.0 } else { 8.0 };
        let fma = (dim as f64 / width, self.rates.fma);
        self.line(&format!("f32 dot, {dim}"), rows, 4 * dim, fma, || {
            data.chunks_exact(dim).for_each(|x| {
                black_box(self.k.dot(&q, x));
            });
        });
        self.line(&format!("f32 dot, {dim}, four rows at a time"), rows, 4 * dim, fma, || {
            data.chunks_exact(4 * dim).for_each(|x| {
                black_box(self.k.dot4(&q, std::array::from_fn(|i| &x[i * dim..(i + 1) * dim])));
            });
        });
    }

    fn codes(&self, dim: usize, bytes: usize) {
        let code = dim / 2;
        let rows = bytes / code / 1024 * 1024;
        let data = Noise::bytes(rows * code);
        let (high, low): (Vec<i8>, Vec<i8>) =
            data[..code].iter().map(|b| (b.cast_signed(), (b ^ 0x5A).cast_signed())).unzip();
        let (q, mut out) = (NibbleQuery { high: &high, low: &low }, vec![0; rows]);
        // Two planes of the query with each 64 bytes.
        let dots = (2.0 * code as f64 / 64.0, self.rates.dot_bytes);
        self.line(&format!("4-bit, {dim}, row by row"), rows, code, dots, || {
            self.k.nibble_rows(q, black_box(&data), &mut out);
        });
        self.line(&format!("4-bit, {dim}, blocks"), rows, code, dots, || {
            self.k.nibble_blocks(q, black_box(&data), &mut out);
        });
        let (ones, mut estimates, mut hits) = (vec![1.0f32; 1024], vec![0.0f32; 1024], vec![0u32; 1024]);
        let scoring = Scoring { norms: &ones, factors: &ones, affine: PLAIN, limit: -1e30 };
        self.line(&format!("4-bit, {dim}, blocks, and selection"), rows, code, dots, || {
            data.chunks_exact(1024 * code).for_each(|data| {
                black_box(self.k.nibble_scan(q, data, &scoring, &mut estimates, &mut hits));
            });
        });
        let arena = AppendArena::<u8>::new(code);
        arena.append(&data);
        let mut noise = Noise(7);
        let ids: Vec<u32> = (0..rows).map(|_| u32::try_from(noise.next() % rows as u64).unwrap_or(0)).collect();
        self.line(&format!("4-bit, {dim}, gathered at random"), rows, code, dots, || {
            self.k.nibble_gather(q, &arena, black_box(&ids), &mut out);
        });
    }

    fn signs(&self, dim: usize, bytes: usize) {
        let groups = sign_groups(dim);
        let rows = bytes / (3 * groups) / 64 * 64;
        let data = Noise::bytes(rows * 3 * groups);
        let tables: Vec<u8> = (0..groups * 4 * TABLE).map(|i| u8::try_from(i % 32).unwrap_or(0)).collect();
        let mut out = vec![0; rows];
        // Four tables of six signs in a group, looked up for 64 rows at once.
        let look_ups = (4.0 * groups as f64 / 64.0, self.rates.permute);
        self.line(&format!("1-bit, {dim}, tables"), rows, 3 * groups, look_ups, || {
            self.k.table_blocks(&tables, black_box(&data), &mut out);
        });
        let (ones, mut estimates, mut hits) = (vec![1.0f32; rows], vec![0.0f32; rows], vec![0u32; rows]);
        let scoring = Scoring { norms: &ones, factors: &ones, affine: PLAIN, limit: -1e30 };
        self.line(&format!("1-bit, {dim}, tables, and selection"), rows, 3 * groups, look_ups, || {
            black_box(self.k.table_scan(&tables, black_box(&data), &scoring, &mut estimates, &mut hits));
        });
    }

    /// What makes a row's code: three rotations' worth of the transform, and the rounding.
    fn encoding(&self, dim: usize) {
        let (row, mut x) = (Noise::floats(dim), vec![0.0; dim]);
        let adds = dim as f64 * f64::from(dim.ilog2()) / 16.0;
        self.line(&format!("Hadamard, {dim}"), 1, 4 * dim, (adds, self.rates.fma), || {
            x.copy_from_slice(&row);
            self.k.hadamard(black_box(&mut x));
        });
        let z: Vec<f32> = row.iter().map(|x| x / 74.0).collect();
        let (mut middles, mut nibbles) = (vec![0.0; dim], vec![0; dim / 2]);
        self.line(&format!("rounding to nibbles, {dim}"), 1, 4 * dim, (0.0, 0.0), || {
            black_box(self.k.quantise(black_box(&z), &mut middles, &mut nibbles));
        });
    }
}

fn size(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib => format!("{mib} MiB"),
    }
}

/// In the second-level cache, in the last one, in memory.
const SIZES: [usize; 3] = [512 << 10, 8 << 20, 256 << 20];

/// Bytes a second of plain reads of as many bytes.
fn read_rate(bytes: usize) -> f64 {
    static RATES: std::sync::OnceLock<[f64; 3]> = std::sync::OnceLock::new();
    let rates = RATES.get_or_init(|| SIZES.map(plain_read));
    // Rows are whole, so sizes are a little below the round ones.
    rates[SIZES.iter().position(|&size| bytes <= size).unwrap_or(2)]
}

fn main() {
    println!("# Kernels against the machine\n");
    println!(
        "Written by `make bench-kernels`: `crates/nopokedb-kernels/examples/kernels.rs` says how each limit is measured.\n"
    );
    println!("| plain reads of | GB/s |\n|---|---|");
    SIZES.iter().for_each(|&bytes| println!("| {} | {:.1} |", size(bytes), read_rate(bytes) / 1e9));
    println!(
        "\n| level | multiply-adds, G/s | byte products (vpdpbusd), G/s | look-ups (vpermb), G/s |\n|---|---|---|---|"
    );
    let levels: Vec<Bench> =
        Kernels::available().into_iter().map(|k| Bench { k, rates: rates::of(k.level()), read: read_rate }).collect();
    for Bench { k, rates, .. } in &levels {
        let told = |rate: f64| if rate > 0.0 { format!("{:.1}", rate / 1e9) } else { "-".to_owned() };
        let Rates { fma, dot_bytes, permute } = *rates;
        println!("| {:?} | {} | {} | {} |", k.level(), told(fma), told(dot_bytes), told(permute));
    }
    println!("\n| kernel, dimensions | level | of | ns/row | GB/s | share of the limit | bound by |");
    println!("|---|---|---|---|---|---|---|");
    for bench in &levels {
        // The specification is not there for its speed: once is enough.
        for bytes in if bench.k.level() == Level::Scalar { &SIZES[..1] } else { &SIZES[..] } {
            [128, 384, 768].into_iter().for_each(|dim| bench.floats(dim, *bytes));
            [128, 384, 768].into_iter().for_each(|dim| bench.codes(dim, *bytes));
            [384, 768].into_iter().for_each(|dim| bench.signs(dim, *bytes));
        }
        [128, 256, 1024].into_iter().for_each(|dim| bench.encoding(dim));
    }
}
