//! `check()` finds nothing in a healthy database and names what is damaged in another.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests damage files

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nopokedb::{Change, Database, Id, Metadata, NewRow, NewRows, Options};

const DIM: usize = 32;

fn options() -> Options {
    Options { graph_from: Some(100), segment_bytes: 64 << 10, ..Options::new(DIM) }
}

fn build(dir: &Path) -> Database {
    let db = Database::open(dir, options()).unwrap();
    let c = db.collection();
    for batch in 0..4u64 {
        let vectors: Vec<f32> = (0..300 * DIM as u64).map(|i| (((batch * 77 + i) * 31 % 1_009) as f32).sin()).collect();
        let metadatas = (0..300).map(|i| Some(Metadata::from_json(&format!(r#"{{"i":{i}}}"#)).unwrap())).collect();
        c.add_many(&vectors, NewRows { metadatas: Some(metadatas), ..NewRows::default() }).unwrap();
    }
    for id in 0..150 {
        c.delete(Id::Int(id * 7)).unwrap();
    }
    db.wait_indexed(None).unwrap();
    db
}

#[test]
fn a_healthy_database_has_no_problems() {
    let dir = tempfile::tempdir().unwrap();
    let db = build(dir.path());
    let report = db.check().unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.rows, 1_050);
    assert!(report.graph_rows > 400 && report.segments > 2, "{report}");
    assert_eq!((report.sqlite_rows, report.collections), (1_050, 1), "{report}");
    db.save().unwrap();
    let report = db.check().unwrap();
    assert!(report.is_ok() && report.images == 1, "{report}");
}

#[test]
fn writes_during_a_check_are_no_problems() {
    let dir = tempfile::tempdir().unwrap();
    let db = build(dir.path());
    let (c, done) = (db.collection(), AtomicBool::new(false));
    std::thread::scope(|s| {
        for t in 0..2u64 {
            let (c, done) = (&c, &done);
            s.spawn(move || {
                for i in 0.. {
                    if done.load(Relaxed) {
                        break;
                    }
                    let id = c.add(&[i as f32; DIM], NewRow::default()).unwrap();
                    let change = Change { vector: Some(vec![t as f32; DIM]), ..Change::default() };
                    c.upsert(Id::Int(t * 300 + i % 300), change).unwrap();
                    assert!(c.delete(id).unwrap());
                }
            });
        }
        for _ in 0..8 {
            let report = db.check().unwrap();
            assert!(report.is_ok() && report.rebuilt.is_empty(), "{report}");
        }
        done.store(true, Relaxed);
    });
}

#[test]
fn damage_of_the_log_is_named_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let db = build(dir.path());
    db.close().unwrap();
    drop(db);
    let oldest = &files(dir.path(), "log")[0];
    flip(oldest);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let name = oldest.file_name().unwrap().to_str().unwrap();
    match Database::open(dir.path(), Options::new(DIM)) {
        Err(e) => assert!(e.message().contains(name), "{e}"),
        Ok(db) => {
            let report = db.check().unwrap();
            assert!(report.problems.iter().any(|p| p.contains(name)), "{report}");
        }
    }
}

fn files(dir: &Path, folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// Flips a bit in the middle of a file, in place.
fn flip(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn damage_that_comes_after_the_first_look_is_found_in_every_kind_of_file() {
    for kind in ["seg", "MANIFEST", "idx"] {
        let dir = tempfile::tempdir().unwrap();
        let db = build(dir.path());
        db.save().unwrap();
        assert!(db.check().unwrap().is_ok());
        rest(&db, dir.path());
        let of_kind = |p: &PathBuf| p.extension().is_some_and(|e| e == kind) || name(p).starts_with(kind);
        let mut folders = ["log", "index", "."].into_iter().flat_map(|folder| files(dir.path(), folder));
        let file = folders.find(of_kind).unwrap();
        flip(&file);
        let report = db.check().unwrap();
        assert!(report.problems.iter().any(|p| p.contains(name(&file))), "{kind}: {} in {report}", file.display());
    }
}

/// Waits until the background has nothing left to do that would replace a file: all that it does for an idle log is done now.
fn rest(db: &Database, dir: &Path) {
    let lengths = || -> Vec<_> {
        let all = ["log", "index", "."].into_iter().flat_map(|folder| files(dir, folder));
        all.filter(|f| f.is_file()).map(|f| (std::fs::metadata(&f).unwrap().len(), f)).collect()
    };
    let mut before = lengths();
    for _ in 0..20 {
        db.settle().unwrap();
        let now = lengths();
        if std::mem::replace(&mut before, now.clone()) == now {
            return;
        }
    }
    panic!("an idle database comes to no rest: {before:?}");
}

#[test]
fn damage_of_a_row_in_sqlite_is_told_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path()).close().unwrap();
    let path = dir.path().join("meta.sqlite");
    let mut bytes = std::fs::read(&path).unwrap();
    let found: Vec<usize> = (0..bytes.len() - 9).filter(|&at| &bytes[at..at + 9] == br#"{"i":211}"#).collect();
    found.iter().for_each(|at| bytes[at + 5] = b'3');
    std::fs::write(&path, &bytes).unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let report = db.check().unwrap();
    assert!(report.is_ok() && report.rebuilt.len() == 1, "{report}");
    let report = db.check().unwrap();
    assert!(report.is_ok() && report.rebuilt.is_empty(), "{report}");
}

#[test]
fn a_sqlite_file_that_is_sound_but_of_another_history_is_noticed() {
    let (dir, twin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build(dir.path()).close().unwrap();
    copy(dir.path(), twin.path());
    for (dir, text) in [(&dir, r#"{"side":1}"#), (&twin, r#"{"side":2}"#)] {
        let db = Database::open(dir.path(), options()).unwrap();
        let change = Change { metadata: Some(Metadata::from_json(text).unwrap()), ..Change::default() };
        db.collection().upsert(Id::Int(211), change).unwrap();
        db.close().unwrap();
    }
    std::fs::copy(twin.path().join("meta.sqlite"), dir.path().join("meta.sqlite")).unwrap();
    let report = Database::open(dir.path(), options()).unwrap().check().unwrap();
    assert!(report.problems.iter().any(|p| p.contains("row 211 is not what the log has")), "{report}");
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
