//! Recall and speed of the ways to search among rows that pass a filter, on raw f32 files.
//!
//! `cargo run --release -p nopokedb --features testing --example filter_bench -- NAME METRIC DIM [EF] [QUERIES] [SHARES]`
//! reads `NAME.base` and `NAME.queries` (row-major f32). Filters pass a share of the rows: at random, those nearest to the
//! query, or those farthest from it.
#![allow(clippy::disallowed_methods)] // A bench reads its own input files; nothing here touches a database.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // shares of counts

use nopokedb::Metric;
use nopokedb::testing::{IndexBench, Way};

fn read(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The rows in the order of their distance from the query.
fn ranked(base: &[f32], query: &[f32]) -> Vec<u32> {
    let dot = |row: &[f32]| row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let mut all: Vec<(f32, u32)> = base.chunks_exact(query.len()).map(|row| -dot(row)).zip(0..).collect();
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().map(|(_, slot)| slot).collect()
}

fn hashed(slot: u32, seed: usize) -> f64 {
    let mut x = (u64::from(slot) << 32) + seed as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x >> 11) as f64 / (1u64 << 53) as f64
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, metric, dim, ..] = &args[..] else { panic!("NAME METRIC DIM [EF] [QUERIES] [SHARES]") };
    let metric = Metric::from_name(metric).expect("cosine, l2 or ip");
    let dim: usize = dim.parse().expect("a dimension");
    let ef: usize = args.get(3).map_or(50, |a| a.parse().expect("a beam width"));
    let n: usize = args.get(4).map_or(200, |a| a.parse().expect("a number"));
    let shares = args.get(5).map_or("0.9,0.5,0.2,0.1,0.05,0.02,0.01,0.001", |s| s);
    let base = read(&format!("{name}.base"));
    let queries = read(&format!("{name}.queries"));
    let rows = u32::try_from(base.len() / dim).expect("rows");
    let mut index = IndexBench::new(dim, metric, 16, 200, base.clone()).expect("rows in memory");
    index.absorb(2).expect("rows in memory");
    let all: Vec<u32> = (0..rows).collect();
    let ways = [Way::Gather, Way::Scan, Way::Hops, Way::Walk, Way::Planned];
    println!("{rows} rows, ef {ef}; recall@10 and median microseconds\n                  {ways:?}");
    let filters =
        ["random", "near", "far"].into_iter().flat_map(|kind| shares.split(',').map(move |share| (kind, share)));
    for (kind, share) in [("all", "1")].into_iter().chain(filters) {
        let share: f64 = share.parse().expect("a share");
        let mut outcome = ways.map(|_| (0, Vec::new()));
        let mut wanted = 0;
        for (q, query) in queries.chunks_exact(dim).take(n).enumerate() {
            let count = (f64::from(rows) * share) as usize;
            let mut slots: Vec<u32> = match kind {
                "all" => all.clone(),
                "random" => all.iter().copied().filter(|slot| hashed(*slot, q) < share).collect(),
                "near" => ranked(&base, query)[..count].to_vec(),
                _ => ranked(&base, query)[all.len() - count..].to_vec(),
            };
            slots.sort_unstable();
            let (truth, _) = index.search_among(query, 10, ef, &slots, Way::Exact).expect("rows in memory");
            wanted += truth.len();
            let last = truth.last().map_or(0.0, |hit| hit.0);
            for (way, (found, times)) in ways.iter().zip(&mut outcome) {
                let (hits, seconds) = index.search_among(query, 10, ef, &slots, *way).expect("rows in memory");
                *found += hits.iter().filter(|hit| hit.0 <= last).count();
                times.push(seconds);
            }
        }
        print!("{kind:7} {share:7}  ");
        for (found, times) in &mut outcome {
            times.sort_by(f64::total_cmp);
            print!("  {:.4} {:7.1}", *found as f64 / wanted.max(1) as f64, times[times.len() / 2] * 1e6);
        }
        println!();
    }
}
