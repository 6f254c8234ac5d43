//! Queries leave nothing behind in memory. `make crash` sets NOPOKEDB_CRASH=long for a million of them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // what the process takes is read from /proc

#[path = "support/mod.rs"]
mod support;

use nopokedb::{Database, Filter, Id, Include, Metadata, NewRows, Options, Query, Text};

use support::{Rng, long};

const DIM: usize = 8;
const ROWS: u64 = 4_000;

/// Anonymous memory of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

fn vector(rng: &mut Rng) -> Vec<f32> {
    (0..DIM).map(|_| rng.below(2_000) as f32 / 1_000.0 - 1.0).collect()
}

fn build(db: &Database) {
    let rng = &mut Rng(1);
    let vectors: Vec<f32> = (0..ROWS).flat_map(|_| vector(rng)).collect();
    let json = |i| Some(Metadata::from_json(&format!(r#"{{"n":{i},"kind":"k{}"}}"#, i % 7)).unwrap());
    let metadatas = Some((0..ROWS).map(json).collect());
    let documents = Some((0..ROWS).map(|i| Some(format!("word{} and word{}", i % 97, i % 89))).collect());
    db.collection().add_many(&vectors, NewRows { metadatas, documents, ..NewRows::default() }).unwrap();
    db.wait_indexed(None).unwrap();
}

/// One read of those that programs do, most of them plain.
fn one(db: &Database, rng: &mut Rng) {
    let c = db.collection();
    let found = match rng.below(100) {
        0..70 => c.query(&vector(rng), &Query::nearest(10)).unwrap().len(),
        70..80 => {
            // More filters than are kept.
            let filter = Filter::field("n").lt(i64::try_from(500 + rng.below(2_000)).unwrap());
            c.query(&vector(rng), &Query { filter: Some(filter), ..Query::nearest(10) }).unwrap().len()
        }
        80..85 => {
            let include = Include { document: true, vector: true, ..Include::default() };
            c.query(&vector(rng), &Query { exact: true, include, ..Query::nearest(10) }).unwrap().len()
        }
        85..90 => {
            let many: Vec<f32> = (0..10).flat_map(|_| vector(rng)).collect();
            c.query_many(&many, &Query::nearest(10)).unwrap().iter().map(Vec::len).sum::<usize>() / 10
        }
        90..95 => c.get(Id::Int(rng.next() % ROWS)).unwrap().map_or(0, |_| 10),
        _ => {
            let text = Some(Text::new(format!("word{}", rng.below(89))));
            c.query(&vector(rng), &Query { text, ..Query::nearest(10) }).unwrap().len()
        }
    };
    assert_eq!(found, 10);
}

#[test]
fn memory_stays_flat_over_any_number_of_queries() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options { graph_from: Some(1_000), ..Options::new(DIM) }).unwrap();
    build(&db);
    let tenth = if long() { 100_000 } else { 3_000 };
    // Two threads, for memory that belongs to threads.
    let taken: Vec<u64> = (0..10)
        .map(|round| {
            std::thread::scope(|s| {
                let db = &db;
                for t in 0..2 {
                    s.spawn(move || {
                        let mut rng = Rng(round * 2 + t);
                        (0..tenth / 2).for_each(|_| one(db, &mut rng));
                    });
                }
            });
            resident() >> 10
        })
        .collect();
    println!("queries: {} and {taken:?} KiB of anonymous memory after each tenth of them", tenth * 10);
    let (early, late) = (taken[2], taken[9]);
    assert!(late <= early + (3 << 10), "memory grows from query to query: {taken:?} KiB");
    let stats = db.stats().unwrap();
    let named = stats.graph_memory
        + stats.codes_memory
        + stats.rows_memory
        + stats.ids_memory
        + stats.columns_memory
        + stats.filters_memory
        + stats.texts_memory;
    // The formula of docs/guide/operations.md.
    assert!(late << 10 <= named + (64 << 20), "{late} KiB, {named} bytes of it are named");
}
