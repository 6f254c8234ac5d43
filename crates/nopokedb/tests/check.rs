//! `check()` finds nothing in a healthy database and names what is damaged in another.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests damage files

use nopokedb::{Database, Metadata, NewRows, Options, RecordId};

const DIM: usize = 32;

fn build(dir: &std::path::Path) -> Database {
    let options = Options { graph_from: Some(100), segment_bytes: 64 << 10, ..Options::new(DIM) };
    let db = Database::open(dir, options).unwrap();
    let c = db.collection();
    for batch in 0..4u64 {
        let vectors: Vec<f32> = (0..300 * DIM as u64).map(|i| (((batch * 77 + i) * 31 % 1_009) as f32).sin()).collect();
        let metadatas = (0..300).map(|i| Some(Metadata::from_json(&format!(r#"{{"i":{i}}}"#)).unwrap())).collect();
        c.add_many(&vectors, NewRows { metadatas: Some(metadatas), ..NewRows::default() }).unwrap();
    }
    for id in 0..150 {
        c.delete(RecordId(id * 7)).unwrap();
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
}

#[test]
fn damage_of_the_log_is_named_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let db = build(dir.path());
    db.close().unwrap();
    drop(db);
    let log = dir.path().join("log");
    let mut segments: Vec<_> = std::fs::read_dir(&log).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    let oldest = &segments[0];
    let mut bytes = std::fs::read(oldest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(oldest, &bytes).unwrap();
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
