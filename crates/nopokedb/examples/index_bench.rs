//! Recall and speed of the index alone, on raw f32 files.
//!
//! `cargo run --release -p nopokedb --features testing --example index_bench -- NAME METRIC DIM [EF,EF,..] [M] [EF_CONSTRUCTION]`
//! reads `NAME.base` and `NAME.queries` (row-major f32) and `NAME.gt` (ten u32 per query: the true nearest slots).
#![allow(clippy::disallowed_methods)] // A bench reads its own input files; nothing here touches a database.

use std::time::Instant;

use nopokedb::Metric;
use nopokedb::testing::IndexBench;

fn read<T>(path: &str, value: impl Fn([u8; 4]) -> T) -> Vec<T> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    bytes.as_chunks::<4>().0.iter().map(|b| value(*b)).collect()
}

/// Seconds this process (all threads) has spent on a CPU, so that a busy machine does not blur the figures. Linux only;
/// elsewhere the wall clock.
fn cpu_seconds(start: Instant) -> f64 {
    let ticks = |stat: String| -> Option<f64> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    let stat = std::fs::read_to_string("/proc/self/stat").ok().and_then(ticks);
    stat.map_or_else(|| start.elapsed().as_secs_f64(), |t| t / 100.0)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, metric, dim, ..] = &args[..] else { panic!("NAME METRIC DIM [EF,EF,..] [M] [EF_CONSTRUCTION]") };
    let metric = Metric::from_name(metric).expect("cosine, l2 or ip");
    let dim: usize = dim.parse().expect("a dimension");
    let number = |i: usize, default: usize| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let efs = args.get(3).map_or("10,20,50,100,200,400", |s| s);
    let base = read(&format!("{name}.base"), f32::from_le_bytes);
    let queries = read(&format!("{name}.queries"), f32::from_le_bytes);
    let truth = read(&format!("{name}.gt"), u32::from_le_bytes);
    let rows = base.len() / dim;

    let mut index = IndexBench::new(dim, metric, number(4, 16), number(5, 200), base).expect("rows in memory");
    let (start, cpu) = (Instant::now(), cpu_seconds(Instant::now()));
    index.absorb(number(6, 2)).expect("rows in memory");
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds(start) - cpu);
    let rows = rows as f64;
    println!(
        "{name}: {:.0} rows/s absorbed, {:.0} a CPU second ({:.1} us each)",
        rows / wall,
        rows / cpu,
        cpu / rows * 1e6
    );
    println!("  {}", index.report());
    let (mut best, mut exact, mut refined) = (f64::INFINITY, 0, 0);
    let mut found = 0;
    for _ in 0..5 {
        (found, exact, refined) = (0, 0, 0);
        let start = Instant::now();
        for (query, truth) in queries.chunks_exact(dim).zip(truth.chunks_exact(10)) {
            let hits = index.search_flat(query, 10).expect("rows in memory");
            found += hits.iter().filter(|h| truth.contains(&h.1.0)).count();
            let scanned = index.scanned();
            exact += scanned.0;
            refined += scanned.1;
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    let n = (queries.len() / dim) as f64;
    println!(
        "  scan     recall {:.4}  {:7.1} us  {:6.0} refined, {:.0} exact",
        found as f64 / truth.len() as f64,
        best / n * 1e6,
        refined as f64 / n,
        exact as f64 / n
    );
    for ef in efs.split(',').map(|e| e.parse::<usize>().expect("a beam width")) {
        let mut best = f64::INFINITY;
        let (mut found, mut evaluations) = (0, 0);
        for _ in 0..10 {
            (found, evaluations) = (0, 0);
            let start = Instant::now();
            for (query, truth) in queries.chunks_exact(dim).zip(truth.chunks_exact(10)) {
                let hits = index.search_graph(query, 10, ef).expect("rows in memory");
                found += hits.iter().filter(|h| truth.contains(&h.1.0)).count();
                evaluations += index.evaluations();
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let n = (queries.len() / dim) as f64;
        println!(
            "  ef {ef:4}  recall {:.4}  {:7.1} us  {:6.0} evaluations",
            found as f64 / truth.len() as f64,
            best / n * 1e6,
            evaluations as f64 / n
        );
    }
}
