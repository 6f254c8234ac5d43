//! Deleted and replaced rows give their space back by themselves, and nothing else is lost by it.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests measure the directory

use std::path::Path;
use std::time::{Duration, Instant};

use nopokedb::{Change, Collection, Database, Id, Metadata, NewRows, Options, Query};

const DIM: usize = 16;

fn options() -> Options {
    Options { segment_bytes: 128 << 10, graph_from: Some(200), ..Options::new(DIM) }
}

fn vector(seed: u64) -> Vec<f32> {
    (0..DIM as u64).map(|d| (((seed + 1) * (d + 3)) as f32 * 0.7371).sin()).collect()
}

fn add(c: &Collection, ids: std::ops::Range<u64>) {
    let vectors: Vec<f32> = ids.clone().flat_map(vector).collect();
    let metadatas = ids.clone().map(|i| Some(Metadata::from_json(&format!(r#"{{"i":{i}}}"#)).unwrap())).collect();
    let rows = NewRows { ids: Some(ids.map(Id::Int).collect()), metadatas: Some(metadatas), ..NewRows::default() };
    c.add_many(&vectors, rows).unwrap();
}

/// Bytes of the files under `dir`. The background worker may remove some while they are counted.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|e| if e.file_type().unwrap().is_dir() { size(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
        .sum()
}

/// Waits until `done`, which the background worker brings about; fails after a time no machine needs.
fn eventually(db: &Database, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come about: {:?}", db.stats());
        std::thread::yield_now();
    }
}

/// The rows of the default collection are `ids`, each as it was written, and each in the graph, where links lead to it: nothing
/// but the width of a beam keeps a walk from it.
fn check(db: &Database, ids: impl Iterator<Item = u64>) {
    let c = db.collection();
    assert!(db.wait_indexed(Some(Duration::from_secs(60))).unwrap());
    let (mut n, mut found) = (0, 0u64);
    for i in ids {
        n += 1;
        let row = c.get(Id::Int(i)).unwrap().unwrap_or_else(|| panic!("row {i} is lost"));
        assert_eq!((row.vector, row.metadata.unwrap().as_json().to_owned()), (vector(i), format!(r#"{{"i":{i}}}"#)));
        found += u64::from(finds(&c, i));
    }
    assert_eq!(c.len().unwrap() as u64, n);
    assert!(found * 100 >= n * 99, "the graph finds {found} of {n}");
    let (report, stats) = (db.check().unwrap(), c.stats().unwrap());
    assert!(report.is_ok(), "{report}");
    assert!(stats.tail_rows == 0 || n < 200, "{stats:?}");
}

/// A scan finds row `i` for certain; the answer is whether the graph, which promises less, does too.
fn finds(c: &Collection, i: u64) -> bool {
    let exact = Query { exact: true, ..Query::nearest(1) };
    assert_eq!(c.query(&vector(i), &exact).unwrap()[0].id, Id::Int(i));
    c.query(&vector(i), &Query::nearest(1)).unwrap()[0].id == Id::Int(i)
}

#[test]
fn the_log_shrinks_after_deletes_and_every_live_row_stays() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    for start in (0..3_000).step_by(500) {
        add(&c, start..start + 500);
    }
    for i in (0..3_000).filter(|i| i % 4 != 0) {
        assert!(c.delete(Id::Int(i)).unwrap());
    }
    // Each delete took a page of its own, 9 MB in all; what is left is the live rows, the active segment and one to come.
    let live = 750 * (DIM as u64 * 4 + 40 + 12);
    eventually(&db, "a log of the live rows and two segments", || {
        db.stats().unwrap().log_bytes < live * 3 / 2 + 2 * (128 << 10)
    });
    check(&db, (0..3_000).step_by(4));
    db.close().unwrap();
    drop((c, db));
    let db = Database::open(dir.path(), options()).unwrap();
    check(&db, (0..3_000).step_by(4));
}

#[test]
fn the_log_shrinks_after_upserts_and_searches_during_it_stay_right() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    add(&c, 0..600);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let found = (300..600).filter(|&i| finds(&c, i)).count();
                assert!(found >= 297, "the graph finds {found} of 300");
            }
        });
        for round in 0..3u64 {
            for i in 0..300 {
                let change = Change { vector: Some(vector(10_000 + round)), ..Change::default() };
                c.upsert(Id::Int(i), change).unwrap();
            }
        }
        for i in 0..300 {
            c.upsert(Id::Int(i), Change { vector: Some(vector(i)), ..Change::default() }).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    eventually(&db, "a log of few segments", || db.stats().unwrap().segments <= 8);
    check(&db, 0..600);
}

#[test]
fn a_sqlite_file_from_before_a_compaction_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (sqlite, old) = (dir.path().join("meta.sqlite"), dir.path().with_extension("old"));
    let open = || Database::open(dir.path(), options()).unwrap();
    let db = open();
    add(&db.collection(), 0..3_000);
    db.close().unwrap();
    std::fs::copy(&sqlite, &old).unwrap();
    let db = open();
    let full = db.stats().unwrap().log_bytes;
    let mut deletes = db.collection().batch();
    (0..3_000u64).filter(|i| i % 4 != 0).for_each(|i| deletes.delete(i));
    deletes.commit().unwrap();
    eventually(&db, "a log without the dead rows", || db.stats().unwrap().log_bytes < full * 3 / 4);
    db.close().unwrap();
    // A copy that was put back, or a device that forgot what it synced: the log can no longer tell it what was deleted.
    std::fs::rename(&old, &sqlite).unwrap();
    let db = open();
    db.wait_applied().unwrap();
    let report = db.check().unwrap();
    assert!(report.is_ok() && report.rebuilt.is_empty(), "{report}");
    check(&db, (0..3_000).step_by(4));
}

#[test]
fn a_full_segment_of_dead_rows_alone_goes_and_the_database_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let (c, mut next) = (db.collection(), 0);
    // The first id of the second segment, and of the third.
    let [second, third] = [2, 3].map(|segments| {
        while db.stats().unwrap().segments < segments {
            add(&c, next..next + 350);
            next += 350;
        }
        next - 350
    });
    let mut deletes = c.batch();
    (second..third).for_each(|i| deletes.delete(i));
    deletes.commit().unwrap();
    eventually(&db, "a log without the second segment", || db.stats().unwrap().segments == 2);
    db.close().unwrap();
    drop((c, db));
    let db = Database::open(dir.path(), options()).unwrap();
    check(&db, (0..second).chain(third..next));
}

#[test]
fn adding_and_deleting_for_ever_does_not_grow_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    add(&c, 0..100);
    let mut after_four = 0;
    for round in 1..=12u64 {
        add(&c, round * 1_000..round * 1_000 + 150);
        for i in round * 1_000..round * 1_000 + 150 {
            c.delete(Id::Int(i)).unwrap();
        }
        if round == 4 {
            eventually(&db, "compaction", || db.stats().unwrap().log_bytes < 1 << 20);
            after_four = size(dir.path());
        }
    }
    eventually(&db, "a directory no larger than after four rounds", || size(dir.path()) <= after_four + (384 << 10));
    check(&db, 0..100);
    assert_eq!(db.stats().unwrap().background_error, None);
}

#[test]
fn a_log_of_which_a_compaction_left_a_part_out_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    // Full of rows that live: these stay as they were written.
    for start in (0..1_000).step_by(250) {
        add(&c, start..start + 250);
    }
    // Behind them, states of one row that fill segments and die: of those segments nothing is left.
    for n in 0..12 {
        let change = Change { document: Some(format!("{n} ").repeat(20_000)), ..Change::default() };
        c.upsert(Id::Int(7), change).unwrap();
    }
    eventually(&db, "a log without the dead states", || db.stats().unwrap().log_bytes < 400 << 10);
    db.close().unwrap();
    drop((c, db));
    let db = Database::open(dir.path(), options()).unwrap();
    check(&db, 0..1_000);
}

#[test]
fn waiting_for_the_graph_ends_where_its_memory_is_built_anew_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    for round in 0..6u64 {
        let ids = round * 6_000..(round + 1) * 6_000;
        add(&c, ids.clone());
        let mut deletes = c.batch();
        ids.clone().skip(150).for_each(|id| deletes.delete(id));
        deletes.commit().unwrap();
        // Slots of the dead rows go while somebody waits who counts them.
        for n in 0..40 {
            add(&c, 1_000_000 + round * 40 + n..1_000_001 + round * 40 + n);
            assert!(db.wait_indexed(Some(Duration::from_secs(20))).unwrap(), "{:?}", db.stats());
        }
    }
    assert!(db.stats().unwrap().dead_rows < 6 * 5_000, "{:?}", db.stats());
}

#[test]
fn a_dropped_collection_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    add(&db.collection(), 0..100);
    let doomed = db.open_collection("doomed", &nopokedb::CollectionOptions::new(DIM)).unwrap();
    for start in (0..4_000).step_by(500) {
        add(&doomed, start..start + 500);
    }
    let full = db.stats().unwrap().log_bytes;
    db.drop_collection("doomed").unwrap();
    eventually(&db, "a log of a quarter of the size", || db.stats().unwrap().log_bytes < full / 4);
    check(&db, 0..100);
}
