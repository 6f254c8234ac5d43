//! The directory of an idle database is not much larger than what its live rows would take in a new one: at most one and a half
//! times as large, and 64 MiB. `make crash` sets NOPOKEDB_CRASH=long for a hundred cycles of ten thousand rows; `make test` does
//! the same with everything small.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests measure the directory

#[path = "support/mod.rs"]
mod support;

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use nopokedb::{Collection, CollectionOptions, Database, Id, Metadata, NewRows, Options};

use support::long;

const DIM: usize = 32;
/// Rows that stay.
const KEPT: u64 = 1_000;

/// How often so many rows are added and deleted, and the bytes beyond one and a half times the live ones that may be left.
fn scale() -> (u64, u64, u64) {
    if long() { (100, 10_000, 64 << 20) } else { (12, 600, 3 << 20) }
}

fn options() -> Options {
    let plain = Options { graph_from: Some(200), ..Options::new(DIM) };
    if long() { plain } else { Options { segment_bytes: 256 << 10, ..plain } }
}

fn add(c: &Collection, ids: Range<u64>) {
    for start in ids.clone().step_by(1_000) {
        let ids = start..(start + 1_000).min(ids.end);
        let vectors: Vec<f32> = ids
            .clone()
            .flat_map(|id| (0..DIM as u64).map(move |d| (((id + 1) * (d + 3)) as f32 * 0.7371).sin()))
            .collect();
        let metadatas =
            Some(ids.clone().map(|i| Some(Metadata::from_json(&format!(r#"{{"i":{i}}}"#)).unwrap())).collect());
        let documents =
            Some(ids.clone().map(|i| Some(format!("row {i} has words like w{} and w{}", i % 97, i % 89))).collect());
        let ids = Some(ids.map(|i| if i % 2 == 0 { Id::Int(i) } else { Id::from(format!("t{i}")) }).collect());
        c.add_many(&vectors, NewRows { ids, metadatas, documents, ..NewRows::default() }).unwrap();
    }
}

fn delete(c: &Collection, ids: Range<u64>) {
    let range = nopokedb::Filter::field("i").between(ids.start as i64, ids.end as i64 - 1);
    assert_eq!(c.delete_where(&range).unwrap() as u64, ids.end - ids.start);
}

/// Bytes of the files under `dir`. The background worker may remove some while they are counted.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let of =
        |e: std::fs::DirEntry| if e.path().is_dir() { size(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) };
    entries.map(of).sum()
}

fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(format!("{} {}", path.display(), path.metadata().map_or(0, |m| m.len()))),
        }
    }
    found
}

/// Waits, not longer than promised, for a directory of at most `most` bytes.
fn shrinks_to(db: &Database, dir: &Path, most: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while size(dir) > most {
        assert!(Instant::now() < deadline, "{} bytes, not {most}: {:?} {:?}", size(dir), files(dir), db.stats());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// What `fill` takes in a directory of its own, and how much of that is SQLite's file.
fn fresh_with_sqlite(fill: impl Fn(&Database)) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    fill(&db);
    db.wait_indexed(None).unwrap();
    db.save().unwrap();
    db.close().unwrap();
    (size(dir.path()), sqlite(dir.path()))
}

fn fresh(fill: impl Fn(&Database)) -> u64 {
    fresh_with_sqlite(fill).0
}

fn sqlite(dir: &Path) -> u64 {
    dir.join("meta.sqlite").metadata().unwrap().len()
}

/// Waits, not longer than promised, until `done`.
fn within_a_minute(db: &Database, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{:?}", db.stats());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn adding_and_deleting_again_and_again_leaves_a_directory_of_the_live_rows() {
    let (cycles, rows, spare) = scale();
    let live = fresh(|db| add(&db.collection(), 0..KEPT));
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    add(&c, 0..KEPT);
    for n in 1..=cycles {
        let ids = n * rows + KEPT..(n + 1) * rows + KEPT;
        add(&c, ids.clone());
        delete(&c, ids);
    }
    shrinks_to(&db, dir.path(), live * 3 / 2 + spare);
    println!("disk-cycles: {cycles} of {rows} rows, {} bytes, {live} of a new directory", size(dir.path()));
    assert!(db.check().unwrap().is_ok(), "{}", db.check().unwrap());
    assert_eq!(c.len().unwrap() as u64, KEPT);
    assert_eq!(db.stats().unwrap().background_error, None);
}

#[test]
fn single_writes_are_packed_once_the_log_is_idle() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options { segment_bytes: 8 << 20, ..options() }).unwrap();
    let c = db.collection();
    (0..1_200).for_each(|id| add(&c, id..id + 1));
    assert!(db.stats().unwrap().log_bytes > 4 << 20, "each write has a page of its own");
    let live = fresh(|db| add(&db.collection(), 0..1_200));
    shrinks_to(&db, dir.path(), live * 3 / 2 + (3 << 20));
    assert!(db.stats().unwrap().log_bytes < 1 << 20, "{:?}", db.stats());
    assert_eq!(c.len().unwrap(), 1_200);
    assert!(db.check().unwrap().is_ok());
}

#[test]
fn a_dropped_collection_leaves_nothing_in_any_file() {
    let (live, live_sqlite) = fresh_with_sqlite(|db| add(&db.collection(), 0..KEPT));
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    add(&db.collection(), 0..KEPT);
    let doomed = db.open_collection("doomed", &CollectionOptions::new(DIM)).unwrap();
    add(&doomed, 0..14_000);
    db.wait_indexed(None).unwrap();
    db.save().unwrap();
    assert!(size(dir.path()) > 4 * live && sqlite(dir.path()) > 4 * live_sqlite);
    db.drop_collection("doomed").unwrap();
    shrinks_to(&db, dir.path(), live * 3 / 2 + (3 << 20));
    let left = || {
        let images = std::fs::read_dir(dir.path().join("index")).unwrap().map(|e| e.unwrap().file_name());
        images.filter(|name| !name.to_str().unwrap().starts_with("00000000-")).collect::<Vec<_>>()
    };
    within_a_minute(&db, || left().is_empty());
    // Less than a quarter of its pages is free, or less than a MiB.
    within_a_minute(&db, || sqlite(dir.path()) <= live_sqlite * 5 / 4 + (1 << 20));
    assert!(db.check().unwrap().is_ok(), "{}", db.check().unwrap());
}

#[test]
fn what_a_crash_left_of_images_goes_with_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Database::open(dir.path(), options()).unwrap();
    let db = open();
    add(&db.collection(), 0..KEPT);
    db.wait_indexed(None).unwrap();
    db.close().unwrap();
    let index = dir.path().join("index");
    let images = || {
        let names = std::fs::read_dir(&index).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = images();
    for left in ["00000000-0000000000000fff.idx.tmp", "00000063-0000000000000001.idx"] {
        std::fs::write(index.join(left), b"half an image").unwrap();
    }
    drop(open());
    assert_eq!(images(), before);
}
