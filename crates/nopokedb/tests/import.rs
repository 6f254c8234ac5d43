//! Directories that the real nopokedb 0.5.1 wrote (tests/fixtures/v0.5.1, with the script that made them and what the old
//! program says of them) open as databases with the same rows, and their files stay as they were.
#![allow(clippy::disallowed_methods, reason = "copies directories and patches files")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nopokedb::testing::crash::{Enumeration, FaultSweep};
use nopokedb::testing::{OpenMode, SimDisk, Vfs};
use nopokedb::{Database, Error, ErrorKind, Id, Metadata, Metric, NewRow, Options, Query, Subject};
use serde_json::Value;
use support::long;

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v0.5.1");
const DIR: &str = "/db";
const OLD_FILES: [&str; 4] = ["hnsw_index.bin", "metadata.db", "metadata.db-journal", "oplog.jsonl"];

type Files = BTreeMap<String, Vec<u8>>;
/// Ids with their vectors (as bits, so that equal is equal) and metadata.
type Rows = BTreeMap<u64, (Vec<u32>, Option<String>)>;

fn cases() -> Vec<(String, Value)> {
    let text = fs::read_to_string(Path::new(KEPT).join("expected.json")).unwrap();
    let Value::Object(cases) = serde_json::from_str(&text).unwrap() else { panic!("an object") };
    assert_eq!(cases.len(), 12);
    cases.into_iter().collect()
}

fn case(name: &str) -> Value {
    cases().into_iter().find(|(n, _)| n == name).unwrap().1
}

fn old(name: &str) -> Files {
    let found = OLD_FILES.map(|f| (f.to_owned(), fs::read(Path::new(KEPT).join(name).join(f))));
    found.into_iter().filter_map(|(name, bytes)| Some((name, bytes.ok()?))).collect()
}

fn options(space: &str) -> Options {
    let metric = Metric::from_name(space).unwrap();
    Options { metric, build_threads: 1, frame_bytes: Some(300), segment_bytes: 64 << 10, ..Options::new(4) }
}

/// A disk that holds nothing but the old files, durably.
fn disk_with(files: &Files) -> SimDisk {
    let disk = SimDisk::new();
    put(&disk, files).unwrap();
    disk
}

fn put(disk: &SimDisk, files: &Files) -> std::io::Result<()> {
    disk.create_dir_all(Path::new(DIR))?;
    for (name, bytes) in files {
        let file = disk.open(&Path::new(DIR).join(name), OpenMode::CreateNew)?;
        file.write_all_at(&[bytes], 0)?;
        file.sync_all()?;
    }
    disk.sync_dir(Path::new(DIR))?;
    disk.sync_dir(Path::new("/"))
}

fn open_on(disk: &SimDisk, space: &str) -> nopokedb::Result<Database> {
    Database::open_on(Arc::new(disk.clone()), Path::new(DIR), options(space))
}

fn assert_untouched(disk: &SimDisk, files: &Files) {
    for name in OLD_FILES {
        assert_eq!(disk.peek(&Path::new(DIR).join(name)).as_ref(), files.get(name), "{name} has changed");
    }
}

fn rows_of(db: &Database, ids: impl Iterator<Item = u64>) -> Rows {
    let rows = db.collection();
    let found = ids.filter_map(|id| {
        let row = rows.get(Id::Int(id)).unwrap()?;
        let bits = row.vector.iter().map(|x| x.to_bits()).collect();
        Some((id, (bits, row.metadata.map(|m| m.as_json().to_owned()))))
    });
    let found: Rows = found.collect();
    assert_eq!(found.len(), rows.len().unwrap(), "rows of other ids");
    found
}

#[allow(clippy::cast_possible_truncation)] // an f32 that was written in full
fn vector_of(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Metadata as this version keeps what 0.5.1 stored as `text`.
fn kept_metadata(text: &Value) -> Option<String> {
    let text = text.as_str().filter(|text| *text != "null")?;
    let kept = Metadata::from_json(text).map(|m| m.as_json().to_owned());
    Some(kept.unwrap_or_else(|_| serde_json::json!({ "json": text }).to_string()))
}

fn expected_rows(case: &Value) -> Rows {
    let rows = case["rows"].as_object().unwrap().iter();
    let row = |row: &Value| {
        (vector_of(&row["vector"]).iter().map(|x| x.to_bits()).collect(), kept_metadata(&row["metadata"]))
    };
    rows.map(|(id, value)| (id.parse().unwrap(), row(value))).collect()
}

fn ids_of(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// Divides by the length.
fn direction(bits: &[u32]) -> Vec<f32> {
    let vector: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

#[test]
fn what_0_5_1_served_is_served_after_opening() {
    for (name, case) in cases() {
        let (space, files) = (case["space"].as_str().unwrap(), old(&name));
        let disk = disk_with(&files);
        let db = open_on(&disk, space).unwrap();
        let highest = case["highest"].as_i64().unwrap();
        let next = u64::try_from(highest + 1).unwrap();
        let (mut found, mut expected) = (rows_of(&db, 0..next), expected_rows(&case));
        if name == "pending" {
            // The old log has vectors as they were given; the old index would have divided them by their lengths.
            for id in 4..7 {
                let (given, stored) = (found.remove(&id).unwrap(), expected.remove(&id).unwrap());
                assert_eq!(given.1, stored.1, "{name}: metadata of {id}");
                assert_ne!(given.0, stored.0, "{name}: the length of {id} is its own");
                let stored: Vec<f32> = stored.0.iter().map(|b| f32::from_bits(*b)).collect();
                let near = direction(&given.0).iter().zip(&stored).all(|(a, b)| (a - b).abs() < 1e-6);
                assert!(near, "{name}: direction of {id}");
            }
        }
        assert_eq!(found, expected, "{name}");
        for query in case["queries"].as_array().unwrap() {
            let hits = query["hits"].as_array().unwrap();
            if hits.is_empty() {
                continue;
            }
            let nearest = db.collection().query(&vector_of(&query["vector"]), &Query::nearest(hits.len())).unwrap();
            assert_eq!(nearest.len(), hits.len(), "{name}");
            for (hit, old) in nearest.iter().zip(hits) {
                // Equal vectors may come in any order.
                let near = |found: f32, old: &Value| (f64::from(found) - old.as_f64().unwrap()).abs() < 1e-5;
                assert!(
                    name == "odd_metadata" || Some(hit.id.int().unwrap()) == old["id"].as_u64(),
                    "{name}: {hit:?} {old}"
                );
                assert!(
                    near(hit.distance, &old["distance"]) && near(hit.score, &old["score"]),
                    "{name}: {hit:?} {old}"
                );
            }
        }
        let imported = db.imported().unwrap();
        assert_eq!(imported.rows, db.collection().len().unwrap() as u64, "{name}");
        assert_eq!(imported.without_vector.iter().collect::<Vec<_>>(), ids_of(&case["without_vector"]), "{name}");
        assert_eq!(imported.deleted, ids_of(&case["deleted"]).len() as u64, "{name}");
        let note = String::from_utf8(disk.peek(&Path::new(DIR).join("IMPORT.txt")).unwrap()).unwrap();
        assert!(note.contains(&format!("rows imported: {}", imported.rows)), "{note}");
        let id = db.collection().add(&[1.0, 2.0, 3.0, 4.0], NewRow::default()).unwrap();
        assert_eq!(id.int().unwrap(), next, "{name}: the next id is above all that ever were");
        assert_untouched(&disk, &files);
        db.close().unwrap();
        let again = open_on(&disk, space).unwrap();
        assert_eq!(again.imported(), None, "{name}: once");
        assert_eq!(again.collection().len().unwrap(), expected_rows(&case).len() + 1, "{name}");
        assert!(again.check().unwrap().problems.is_empty());
        assert_untouched(&disk, &files);
    }
}

#[test]
fn the_build_parameters_come_along_unless_others_are_given() {
    let db = open_on(&disk_with(&old("ip")), "ip").unwrap();
    assert_eq!((db.collection().m(), db.collection().ef_construction()), (48, 300));
    let given = Options { m: Some(20), ..options("ip") };
    let db = Database::open_on(Arc::new(disk_with(&old("ip"))), Path::new(DIR), given).unwrap();
    assert_eq!((db.collection().m(), db.collection().ef_construction()), (20, 300));
}

#[test]
fn it_works_on_the_real_disk_with_sqlite_as_a_file() {
    let tmp = tempfile::tempdir().unwrap();
    for (name, case) in cases() {
        let dir = tmp.path().join(&name);
        fs::create_dir(&dir).unwrap();
        let files = old(&name);
        files.iter().for_each(|(file, bytes)| fs::write(dir.join(file), bytes).unwrap());
        let db = Database::open(&dir, options(case["space"].as_str().unwrap())).unwrap();
        assert_eq!(db.collection().len().unwrap(), expected_rows(&case).len(), "{name}");
        db.close().unwrap();
        files.iter().for_each(|(file, bytes)| assert_eq!(&fs::read(dir.join(file)).unwrap(), bytes, "{name}/{file}"));
    }
}

fn refused(files: &Files, options: Options) -> Error {
    let disk = disk_with(files);
    let before = disk.names();
    let error = Database::open_on(Arc::new(disk.clone()), Path::new(DIR), options).unwrap_err();
    assert_untouched(&disk, files);
    let new: Vec<PathBuf> = disk.names().into_iter().filter(|n| !before.contains(n)).collect();
    let harmless = |n: &PathBuf| ["LOCK", "LOCK.info", "IMPORTING", "log"].iter().any(|h| n.ends_with(h));
    assert!(new.iter().all(harmless), "{error}: leaves {new:?}");
    error
}

#[test]
fn options_that_contradict_the_old_files_are_refused_and_nothing_is_changed() {
    let error = refused(&old("l2"), Options { dim: 8, ..options("l2") });
    assert_eq!(error.kind(), ErrorKind::Invalid(Subject::Dimension));
    assert!(error.message().contains('4') && error.message().contains('8'), "{error}");
    // There is no index to tell the dimension; the log has rows.
    let mut files = old("pending");
    files.remove("hnsw_index.bin");
    let error = refused(&files, Options { dim: 8, ..options("cosine") });
    assert_eq!(error.kind(), ErrorKind::Invalid(Subject::Dimension), "{error}");
    for name in ["l2", "ip"] {
        let error = refused(&old(name), options("cosine"));
        assert_eq!(error.kind(), ErrorKind::Invalid(Subject::Argument));
        assert!(error.message().contains("length 1"), "{error}");
    }
    let disk = disk_with(&old("l2"));
    open_on(&disk, "cosine").unwrap_err();
    assert_eq!(open_on(&disk, "l2").unwrap().collection().len().unwrap(), 13, "a refusal is not the end");
}

#[test]
fn a_write_ahead_log_of_sqlite_is_refused_with_what_to_do() {
    let mut files = old("l2");
    files.insert("metadata.db-wal".into(), vec![1; 100]);
    let error = refused(&files, options("l2"));
    assert!(error.message().contains("journal_mode"), "{error}");
}

#[test]
fn a_vector_that_is_not_finite_is_left_out_and_named() {
    let mut files = old("l2");
    let (element, vector) = (4 + 8 * 5 + 16 + 8, 4 + 8 * 5);
    let at = 96 + 2 * element + vector;
    files.get_mut("hnsw_index.bin").unwrap()[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let db = open_on(&disk_with(&files), "l2").unwrap();
    assert_eq!(db.imported().unwrap().not_finite.to_string(), "2");
    assert_eq!(db.collection().len().unwrap(), 12);
}

/// Opens the damaged files. Damage is named, or what is served is what was before.
fn damaged(files: &Files, space: &str, file: &str, what: &str, unharmed: &Rows) -> bool {
    let disk = disk_with(files);
    let outcome = match open_on(&disk, space) {
        Ok(db) => {
            let found = rows_of(&db, 0..100);
            assert!(&found == unharmed, "{file} {what}: served as if nothing was wrong");
            false
        }
        Err(e) => {
            let typed = matches!(e.kind(), ErrorKind::Corruption | ErrorKind::Invalid(Subject::Dimension));
            assert!(
                typed && (e.message().contains(file.trim_end_matches("-journal")) || e.kind() != ErrorKind::Corruption),
                "{file} {what}: {e:?}"
            );
            true
        }
    };
    assert_untouched(&disk, files);
    outcome
}

/// Flips bits of one byte after another of `range`.
fn flip(name: &str, file: &str, range: std::ops::Range<usize>, bits: &[u8]) -> (usize, usize) {
    let (files, space) = (old(name), case(name)["space"].as_str().unwrap().to_owned());
    let unharmed = rows_of(&open_on(&disk_with(&files), &space).unwrap(), 0..100);
    let (mut cases, mut named) = (0, 0);
    for at in range {
        for bit in bits {
            let mut files = files.clone();
            files.get_mut(file).unwrap()[at] ^= bit;
            cases += 1;
            named += usize::from(damaged(&files, &space, file, &format!("byte {at} ^ {bit}"), &unharmed));
        }
    }
    println!("damage-cases: {cases}");
    (cases, named)
}

#[test]
fn a_flipped_byte_in_the_index_header_is_named_or_harmless() {
    let bits: &[u8] = if long() { &[1, 2, 4, 8, 16, 32, 64, 128, 255] } else { &[1, 128] };
    let (cases, named) = flip("l2", "hnsw_index.bin", 0..96, bits);
    assert!(named * 10 > cases * 7, "{named} of {cases}");
}

#[test]
fn a_flipped_byte_in_links_or_lists_of_the_index_is_named_or_harmless() {
    // The header of an element's links (a mark of deletion is one bit, and nothing vouches for it), and the lists behind.
    for byte in [0, 1, 3] {
        let element = 4 + 8 * 5 + 16 + 8;
        for no in [0, 7, 14] {
            flip("l2", "hnsw_index.bin", 96 + no * element + byte..97 + no * element + byte, &[64, 128]);
        }
    }
    let len = old("l2")["hnsw_index.bin"].len();
    flip("l2", "hnsw_index.bin", len - 60..len, if long() { &[1, 4, 128] } else { &[4] });
}

#[test]
fn an_index_that_was_cut_is_damage() {
    let (files, space) = (old("ip"), "ip");
    let len = files["hnsw_index.bin"].len();
    let unharmed = rows_of(&open_on(&disk_with(&files), space).unwrap(), 0..100);
    for keep in (0..len).step_by(if long() { 1 } else { 37 }).chain([len - 1]) {
        let mut files = files.clone();
        files.get_mut("hnsw_index.bin").unwrap().truncate(keep);
        assert!(damaged(&files, space, "hnsw_index.bin", &format!("cut to {keep}"), &unharmed), "cut to {keep}");
    }
    let mut files = files.clone();
    files.get_mut("hnsw_index.bin").unwrap().push(0);
    assert!(damaged(&files, space, "hnsw_index.bin", "grown", &unharmed));
}

#[test]
fn a_flipped_byte_in_the_header_of_the_old_sqlite_file_is_named_or_harmless() {
    flip("ip", "metadata.db", 0..108, if long() { &[1, 4, 16, 64, 128] } else { &[4, 128] });
}

#[test]
fn a_damaged_header_or_checksum_in_the_journal_of_sqlite_is_named() {
    for range in [0..8, 16..28, 512..515, 4612..4616] {
        flip("hot_journal", "metadata.db-journal", range, &[1, 64]);
    }
}

#[test]
fn a_damaged_log_never_harms_the_rows_that_were_acknowledged() {
    let files = old("pending");
    let len = files["oplog.jsonl"].len();
    for at in (0..len).step_by(if long() { 1 } else { 5 }) {
        for bit in [1, 64] {
            let mut files = files.clone();
            files.get_mut("oplog.jsonl").unwrap()[at] ^= bit;
            match open_on(&disk_with(&files), "cosine") {
                Ok(db) => {
                    let rows = db.collection();
                    let firm = (0..4).filter(|id| rows.get(Id::Int(*id)).unwrap().is_some()).count();
                    assert!(firm == 4 && rows.len().unwrap() <= 7, "byte {at} ^ {bit}");
                }
                Err(e) => assert!(
                    e.kind() == ErrorKind::Corruption && e.message().contains("oplog.jsonl"),
                    "byte {at} ^ {bit}: {e:?}"
                ),
            }
        }
    }
}

#[test]
fn a_crash_in_the_middle_of_an_import_leaves_a_directory_that_is_imported_again() {
    let (files, case) = (old("cosine"), case("cosine"));
    let expected = expected_rows(&case);
    let plan = if long() { Enumeration::thorough() } else { Enumeration { second_every: 64, ..Enumeration::quick() } };
    let report = plan.run(
        |disk, history| {
            put(disk, &files).unwrap();
            history.skip_setup();
            let db = history.attempt((), || open_on(disk, "cosine")).unwrap();
            db.close().unwrap();
        },
        |disk| (open_on(disk, "cosine").unwrap(), disk.clone()),
        |(db, disk), _| {
            let found = rows_of(&db, 0..100);
            assert_eq!(found, expected);
            drop(db);
            assert_untouched(&disk, &files);
            assert_eq!(disk.peek(&Path::new(DIR).join("IMPORTING")), None);
            found
        },
    );
    println!("crash-states: {}", report.checks);
    assert!(report.points > 20, "{report:?}");
}

/// An index of `count` elements without links: element `i` has the label `2 i` and the vector (i, 0, 0, 1).
fn synthetic(count: u16) -> Files {
    let mut bytes = Vec::new();
    let (m, element) = (16u64, 4 + 8 * 16 + 16 + 8u64);
    for word in [0, 1 << 20, u64::from(count), element, element - 8, 4 + 8 * m] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&[0; 8]); // the highest level, the entry point
    for word in [m, 2 * m, m, (1.0 / 16f64.ln()).to_bits(), 200] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for i in 0..count {
        bytes.extend_from_slice(&[0; 4 + 8 * 16]);
        [f32::from(i), 0.0, 0.0, 1.0].iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        bytes.extend_from_slice(&(2 * u64::from(i)).to_le_bytes());
    }
    bytes.extend_from_slice(&vec![0; 4 * usize::from(count)]);
    Files::from([("hnsw_index.bin".to_owned(), bytes)])
}

#[test]
fn a_crash_in_the_middle_of_an_import_of_several_segments_leaves_all_or_nothing() {
    let files = synthetic(1_500);
    let plan =
        Enumeration { second_every: 0, max_checks: if long() { usize::MAX } else { 150 }, ..Enumeration::quick() };
    let report = plan.run(
        |disk, history| {
            put(disk, &files).unwrap();
            history.skip_setup();
            let db = history.attempt((), || open_on(disk, "l2")).unwrap();
            assert!(db.stats().unwrap().segments > 2);
        },
        |disk| open_on(disk, "l2").unwrap(),
        |db, _| {
            let found = rows_of(&db, 0..3_000);
            let right = (0..1_500u16).all(|i| found[&(2 * u64::from(i))].0[0] == f32::from(i).to_bits());
            assert!(right && found.len() == 1_500);
        },
    );
    println!("crash-states: {}", report.checks);
}

#[test]
fn a_call_that_fails_in_the_middle_of_an_import_leaves_a_directory_that_is_imported_again() {
    let files = old("l2");
    let expected = expected_rows(&case("l2"));
    let runs = FaultSweep::default().run(
        |disk, history| {
            if put(disk, &files).is_err() {
                return; // the old files were never there
            }
            if let Ok(db) = history.attempt((), || open_on(disk, "l2")) {
                let _ = db.close();
            }
        },
        |disk| open_on(disk, "l2"),
        |db, seen| {
            if seen.possible().count() > 0 {
                assert_eq!(rows_of(&db.unwrap(), 0..100), expected);
            }
        },
    );
    println!("fault-runs: {runs}");
}

#[test]
fn a_database_that_lost_its_manifests_is_not_imported_over() {
    let disk = disk_with(&old("l2"));
    let db = open_on(&disk, "l2").unwrap();
    db.collection().add(&[1.0, 2.0, 3.0, 4.0], NewRow::default()).unwrap();
    db.close().unwrap();
    for name in disk.names().iter().filter(|n| n.to_str().unwrap().contains("MANIFEST")) {
        disk.remove_file(name).unwrap();
    }
    assert_eq!(open_on(&disk, "l2").unwrap_err().kind(), ErrorKind::Corruption);
}
