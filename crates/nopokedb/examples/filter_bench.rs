//! Recall and speed of the ways to search among rows that pass a filter, on raw f32 files.
//!
//! `cargo run --release -p nopokedb --features testing --example filter_bench -- NAME METRIC DIM [EF] [QUERIES] [SHARES] [WAYS]`
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

/// The rows farthest along the first axis, away from the query.
fn sided(base: &[f32], query: &[f32], count: usize) -> Vec<u32> {
    let sign = if query[0] < 0.0 { -1.0 } else { 1.0 };
    let mut all: Vec<(f32, u32)> = base.chunks_exact(query.len()).map(|row| sign * row[0]).zip(0..).collect();
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    all[..count].iter().map(|row| row.1).collect()
}

fn hashed(slot: u32, seed: usize) -> f64 {
    let mut x = (u64::from(slot) << 32) + seed as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x >> 11) as f64 / (1u64 << 53) as f64
}

/// The rows that pass, in any order.
fn passing(kind: &str, share: f64, base: &[f32], query: &[f32], seed: usize) -> Vec<u32> {
    let rows = (base.len() / query.len()) as u32;
    let count = (f64::from(rows) * share) as usize;
    match kind {
        "all" => (0..rows).collect(),
        "random" => (0..rows).filter(|slot| hashed(*slot, seed) < share).collect(),
        "near" => ranked(base, query)[..count].to_vec(),
        "side" => sided(base, query, count),
        _ => ranked(base, query)[rows as usize - count..].to_vec(),
    }
}

/// Queries that one way is asked before the next has its turn, and how many of them are not timed.
const TURN: usize = 25;
const WARM: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, metric, dim, ..] = &args[..] else { panic!("NAME METRIC DIM [EF] [QUERIES] [SHARES] [WAYS]") };
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
    let ways = [Way::Gather, Way::Scan, Way::Hops, Way::Walk, Way::Planned, Way::Usual];
    let wanted = args.get(6).map_or("gather,scan,hops,walk,planned,usual", |w| w);
    let ways: Vec<Way> = ways.into_iter().filter(|way| wanted.contains(&format!("{way:?}").to_lowercase())).collect();
    println!("{rows} rows, ef {ef}; recall@10 and median microseconds\n                  {ways:?}");
    let filters = ["random", "near", "side", "far"]
        .into_iter()
        .flat_map(|kind| shares.split(',').map(move |share| (kind, share)));
    for (kind, share) in [("all", "1")].into_iter().chain(filters) {
        let share: f64 = share.parse().expect("a share");
        let mut outcome: Vec<(usize, Vec<f64>)> = vec![(0, Vec::new()); ways.len()];
        let mut wanted = 0;
        let questions: Vec<_> = queries.chunks_exact(dim).take(n).enumerate().collect();
        // One way after the other, so that each has the caches to itself, but for its first queries; by turns, so that they
        // share the machine's moods.
        for questions in questions.chunks(TURN) {
            let mut asked = Vec::new();
            for &(q, query) in questions {
                let mut slots = passing(kind, share, &base, query, q);
                slots.sort_unstable();
                let (truth, _) = index.search_among(query, 10, ef, &slots, Way::Exact).expect("rows in memory");
                wanted += truth.len();
                asked.push((query, slots, truth.last().map_or(0.0, |hit| hit.0)));
            }
            for (way, (found, times)) in ways.iter().zip(&mut outcome) {
                for (i, (query, slots, last)) in asked.iter().enumerate() {
                    let (hits, seconds) = index.search_among(query, 10, ef, slots, *way).expect("rows in memory");
                    *found += hits.iter().filter(|hit| hit.0 <= *last).count();
                    times.extend((i >= WARM).then_some(seconds));
                }
            }
        }
        print!("{kind:7} {share:7}  ");
        for (found, times) in &mut outcome {
            times.sort_by(f64::total_cmp);
            print!("  {:.4} {:7.1}", *found as f64 / wanted.max(1) as f64, times[times.len() / 4] * 1e6);
        }
        println!();
    }
}
