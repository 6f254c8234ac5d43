//! SQLite and the index image are caches: deleting or damaging them loses nothing.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests play the person who meddles with the directory

use std::fs;
use std::path::{Path, PathBuf};

use nopokedb::{Database, Id, Metadata, NewRow, NewRows, Options, Query};

const DIM: usize = 24;
const ROWS: u16 = 400;

fn options() -> Options {
    Options { graph_from: Some(100), ..Options::new(DIM) }
}

fn vector(i: u16) -> Vec<f32> {
    (0..DIM).map(|d| ((f32::from(i) + 1.0) * (d as f32 + 1.0) * 0.7371).sin()).collect()
}

/// A closed database with metadata, deleted rows and an index image.
fn build(dir: &Path) {
    let db = Database::open(dir, options()).unwrap();
    let c = db.collection();
    let vectors: Vec<f32> = (0..ROWS).flat_map(vector).collect();
    let metadatas = (0..ROWS).map(|i| Some(Metadata::from_json(&format!(r#"{{"i":{i}}}"#)).unwrap())).collect();
    c.add_many(&vectors, NewRows { metadatas: Some(metadatas), ..NewRows::default() }).unwrap();
    for i in (0..ROWS).step_by(5) {
        assert!(c.delete(Id::Int(u64::from(i))).unwrap());
    }
    db.wait_indexed(None).unwrap();
    db.close().unwrap();
}

/// Every row that should be there is, with its metadata, and is its own nearest neighbour; no deleted one is.
fn check(dir: &Path) {
    let db = Database::open(dir, options()).unwrap();
    let c = db.collection();
    assert_eq!(c.len().unwrap(), usize::from(ROWS - ROWS / 5));
    for i in 0..ROWS {
        let row = c.get(Id::Int(u64::from(i))).unwrap();
        assert_eq!(row.is_some(), i % 5 != 0, "row {i}");
        if let Some(row) = row {
            assert_eq!(
                (row.vector, row.metadata.unwrap().as_json().to_owned()),
                (vector(i), format!(r#"{{"i":{i}}}"#))
            );
            let hits = c.query(&vector(i), &Query::nearest(1)).unwrap();
            assert_eq!(hits[0].id, Id::Int(u64::from(i)));
        }
    }
    assert_eq!(c.query(&vector(0), &Query::nearest(1_000)).unwrap().len(), c.len().unwrap());
    db.wait_applied().unwrap();
    assert_eq!(db.stats().unwrap().sqlite_error, None);
    db.close().unwrap();
}

fn sqlite_files(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("meta.sqlite")).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn deleting_sqlite_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let doomed = sqlite_files(dir.path());
    assert!(!doomed.is_empty());
    doomed.iter().for_each(|p| fs::remove_file(p).unwrap());
    check(dir.path());
    assert!(!sqlite_files(dir.path()).is_empty(), "it is made again");
}

#[test]
fn deleting_the_index_image_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let images = files(&dir.path().join("index"));
    assert!(!images.is_empty(), "a clean close leaves an image");
    images.iter().for_each(|p| fs::remove_file(p).unwrap());
    check(dir.path());
}

#[test]
fn deleting_both_caches_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    sqlite_files(dir.path()).iter().for_each(|p| fs::remove_file(p).unwrap());
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    check(dir.path());
}

#[test]
fn a_damaged_cache_is_rebuilt_and_never_answers() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let golden: Vec<(PathBuf, Vec<u8>)> = sqlite_files(dir.path())
        .into_iter()
        .chain(files(&dir.path().join("index")))
        .map(|p| (p.clone(), fs::read(p).unwrap()))
        .collect();
    for (path, bytes) in &golden {
        for at in [0, 100, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xFF;
            fs::write(path, &damaged).unwrap();
            check(dir.path());
        }
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        check(dir.path());
    }
}

#[test]
fn rows_added_after_the_image_are_found_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let db = Database::open(dir.path(), options()).unwrap();
    let id = db.collection().add(&[9.0; DIM], NewRow::default()).unwrap();
    assert_eq!(id, Id::Int(u64::from(ROWS)));
    std::mem::forget(db.clone()); // as after a kill: nobody closes
    drop(db);
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let db = Database::open(copy.path(), options()).unwrap();
    let hits = db.collection().query(&[9.0; DIM], &Query::nearest(1)).unwrap();
    assert_eq!(hits[0].id, id);
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
