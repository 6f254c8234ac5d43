//! Recall and speed of the scan over codes on families of data that behave differently.
//!
//! `cargo run --release -p nopokedb --features testing --example flat_bench [-- FAMILY | NAME METRIC DIM]`: all families,
//! those whose name contains FAMILY, or the raw f32 files `NAME.base` and `NAME.queries`. One thread.
#![allow(clippy::disallowed_methods)] // A bench reads its own input files; nothing here touches a database.

use std::time::Instant;

use nopokedb::Metric;
use nopokedb::testing::IndexBench;

/// SplitMix64 and what is made of it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        (-2.0 * self.unit().max(1e-9).ln()).sqrt() * (std::f32::consts::TAU * self.unit()).cos()
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below n")
    }
}

struct Family {
    name: &'static str,
    metric: Metric,
    dim: usize,
    rows: usize,
    row: fn(&mut Random, usize, &mut Vec<f32>),
    query: fn(&mut Random, usize, &mut Vec<f32>),
}

fn gaussian(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    out.extend((0..dim).map(|_| r.normal()));
}

/// Around one of 200 centres, tightly.
fn clustered(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    let mut centre = Random(r.below(200) as u64 * 7919 + 1);
    out.extend((0..dim).map(|_| centre.normal() + 0.15 * r.normal()));
}

/// Sixteen hidden dimensions, 256 centres.
fn latent(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    let mut centre = Random(r.below(256) as u64 * 104_729 + 3);
    let hidden: Vec<f32> = (0..16).map(|_| centre.normal() + 0.5 * r.normal()).collect();
    let mut map = Random(99);
    out.extend((0..dim).map(|_| hidden.iter().map(|h| h * map.normal()).sum::<f32>() + 0.05 * r.normal()));
}

fn student(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    out.extend((0..dim).map(|_| {
        let chi: f32 = (0..3).map(|_| r.normal().powi(2)).sum();
        r.normal() / (chi / 3.0).sqrt().max(1e-6)
    }));
}

fn lognormal(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    out.extend((0..dim).map(|_| r.normal().exp()));
}

/// One coordinate in twenty is fifty times as large.
fn spikes(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    out.extend((0..dim).map(|i| r.normal() * if i % 20 == 0 { 50.0 } else { 1.0 }));
}

fn spectrum(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    out.extend((0..dim).map(|i| r.normal() / (i + 1) as f32));
}

fn sparse(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    let start = out.len();
    out.resize(start + dim, 0.0);
    (0..dim.div_ceil(20)).for_each(|_| out[start + r.below(dim)] = r.unit() + 0.1);
}

/// All in a narrow cone, as some embeddings are.
fn cone(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    out.extend((0..dim).map(|i| 3.0 + (i % 7) as f32 * 0.3 + 0.7 * r.normal()));
}

/// Norms over two orders of magnitude.
fn wild_norms(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    let norm = (1.2 * r.normal()).exp();
    out.extend((0..dim).map(|_| norm * r.normal()));
}

/// From somewhere else than the rows.
fn elsewhere(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    out.extend((0..dim).map(|i| 2.0 * r.normal() + if i % 3 == 0 { 2.0 } else { -1.0 }));
}

/// A hundred different rows, again and again.
fn equal(r: &mut Random, dim: usize, out: &mut Vec<f32>) {
    let mut row = Random(r.below(100) as u64 + 1);
    out.extend((0..dim).map(|_| row.normal()));
}

fn families() -> Vec<Family> {
    use Metric::{Cosine, Ip, L2};
    let of = |name, metric, dim, rows, row| Family { name, metric, dim, rows, row, query: row };
    let mut all = vec![
        of("gaussian", Cosine, 128, 20_000, gaussian as fn(&mut Random, usize, &mut Vec<f32>)),
        of("gaussian", L2, 128, 20_000, gaussian),
        of("gaussian", Ip, 128, 20_000, gaussian),
        of("gaussian", Cosine, 768, 20_000, gaussian),
        of("clustered", Cosine, 128, 40_000, clustered),
        of("clustered", L2, 384, 20_000, clustered),
        of("latent", Cosine, 128, 40_000, latent),
        of("latent", Cosine, 768, 20_000, latent),
        of("latent", L2, 96, 20_000, latent),
        of("student", Cosine, 128, 20_000, student),
        of("student", L2, 300, 20_000, student),
        of("lognormal", Cosine, 128, 20_000, lognormal),
        of("lognormal", Cosine, 384, 20_000, lognormal),
        of("spikes", Cosine, 200, 20_000, spikes),
        of("spikes", L2, 384, 20_000, spikes),
        of("spectrum", Cosine, 128, 20_000, spectrum),
        of("spectrum", L2, 512, 20_000, spectrum),
        of("sparse", Cosine, 1000, 10_000, sparse),
        of("cone", Cosine, 384, 20_000, cone),
        of("cone", Ip, 128, 20_000, cone),
        of("wild norms", Ip, 128, 20_000, wild_norms),
        of("wild norms", Ip, 384, 20_000, wild_norms),
        of("wild norms", L2, 128, 20_000, wild_norms),
        of("equal", Cosine, 64, 20_000, equal),
        of("equal", L2, 256, 20_000, equal),
        of("tiny", L2, 1, 20_000, gaussian),
        of("tiny", L2, 3, 20_000, gaussian),
        of("small", L2, 17, 20_000, gaussian),
        of("small", Cosine, 24, 20_000, gaussian),
        of("wide", Cosine, 3072, 5_000, latent),
    ];
    all.push(Family { query: elsewhere, ..of("foreign queries", Cosine, 384, 20_000, latent) });
    all.push(Family { query: elsewhere, ..of("foreign queries", L2, 128, 20_000, latent) });
    all.push(Family { query: elsewhere, ..of("foreign queries", Ip, 256, 20_000, latent) });
    all
}

fn read(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn run(name: &str, metric: Metric, dim: usize, base: Vec<f32>, queries: &[f32]) {
    let rows = base.len() / dim;
    let mut index = IndexBench::new(dim, metric, 16, 200, base).expect("rows in memory");
    let per_row = index.append_us;
    for k in [10, 100] {
        let truth: Vec<f32> = queries
            .chunks_exact(dim)
            .map(|q| index.search_exact(q, k).expect("rows").last().map_or(f32::INFINITY, |hit| hit.0))
            .collect();
        let n = truth.len();
        let (mut times, mut found, mut exact, mut refined, mut worst) = (Vec::new(), 0, 0, 0, k);
        for round in 0..3 {
            (found, exact, refined, worst) = (0, 0, 0, k);
            for (q, last) in queries.chunks_exact(dim).zip(&truth) {
                let start = Instant::now();
                let hits = index.search_flat(q, k).expect("rows");
                times.push(start.elapsed().as_secs_f64() * 1e6);
                let right = hits.iter().filter(|h| h.0 <= *last).count();
                found += right;
                worst = worst.min(right);
                exact += index.scanned().0;
                refined += index.scanned().1;
            }
            if round == 0 {
                times.clear();
            }
        }
        times.sort_by(f64::total_cmp);
        let mut eights = Vec::new();
        for eight in queries.chunks(8 * dim).cycle().take(100) {
            let start = Instant::now();
            index.search_many(eight, k, 1 << 16).expect("rows");
            eights.push(start.elapsed().as_secs_f64() * 1e6 / (eight.len() / dim) as f64);
        }
        eights.sort_by(f64::total_cmp);
        let together = eights[eights.len() / 2];
        println!(
            "{name:<16} {:<6} {rows:>6} x {dim:<5} k {k:<4} recall {:.4} worst {:.2}  p10 {:>7.1} p50 {:>7.1} p95 {:>7.1} many {together:>6.1} us  \
             {:>6.0} refined {:>6.0} exact  append {per_row:>5.2} us",
            metric.name(),
            found as f64 / (k * n) as f64,
            worst as f64 / k as f64,
            times[times.len() / 10],
            times[times.len() / 2],
            times[times.len() * 95 / 100],
            refined as f64 / n as f64,
            exact as f64 / n as f64,
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [name, metric, dim] = &args[..] {
        let (metric, dim) = (Metric::from_name(metric).expect("cosine, l2 or ip"), dim.parse().expect("a dimension"));
        return run(name, metric, dim, read(&format!("{name}.base")), &read(&format!("{name}.queries")));
    }
    let wanted = args.first().map_or("", |a| a);
    for family in families().iter().filter(|f| f.name.contains(wanted)) {
        let mut random = Random(family.dim as u64);
        let (mut base, mut queries) = (Vec::new(), Vec::new());
        (0..family.rows).for_each(|_| (family.row)(&mut random, family.dim, &mut base));
        (0..200).for_each(|_| (family.query)(&mut random, family.dim, &mut queries));
        run(family.name, family.metric, family.dim, base, &queries);
    }
}
