//! A backup made while others write is the database as of one moment, and opening it is the restore.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests look at directories
#![allow(clippy::cast_possible_truncation)] // a handful of writers is counted

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use nopokedb::{
    CollectionOptions, Database, Error, ErrorKind, Filter, Id, Metadata, NewRow, NewRows, Options, Query, Subject,
};

const DIM: usize = 16;
const BATCH: u64 = 20;

fn options() -> Options {
    Options { segment_bytes: 128 << 10, graph_from: Some(200), ..Options::new(DIM) }
}

fn vector(seed: u64) -> Vec<f32> {
    (0..DIM as u64).map(|d| (((seed + 1) * (d + 3)) as f32 * 0.7371).sin()).collect()
}

/// Rows `ids`, each with its id as metadata, in one batch.
fn add(db: &Database, ids: std::ops::Range<u64>) {
    let vectors: Vec<f32> = ids.clone().flat_map(vector).collect();
    let metadatas = ids.clone().map(|i| Some(Metadata::from_json(&format!(r#"{{"i":{i}}}"#)).unwrap())).collect();
    let rows = NewRows { ids: Some(ids.map(Id::Int).collect()), metadatas: Some(metadatas), ..NewRows::default() };
    db.collection().add_many(&vectors, rows).unwrap();
}

/// The ids that a database has, each compared with what was written.
fn ids(db: &Database) -> BTreeSet<u64> {
    let c = db.collection();
    let rows = c.scroll(None, 1_000_000, None).unwrap();
    for row in &rows {
        let text = format!(r#"{{"i":{}}}"#, row.id);
        assert_eq!((&row.vector, row.metadata.as_ref().unwrap().as_json()), (&vector(row.id.int().unwrap()), &*text));
    }
    assert_eq!(rows.len(), c.len().unwrap());
    rows.into_iter().map(|row| row.id.int().unwrap()).collect()
}

fn restored(path: &Path) -> Database {
    let db = Database::open(path, options()).unwrap();
    let report = db.check().unwrap();
    assert!(report.is_ok(), "{report}");
    db
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn a_backup_under_load_is_the_state_of_one_moment_in_whole_batches() {
    const WRITERS: u64 = 3;
    let room = tempfile::tempdir().unwrap();
    let db = Database::open(room.path().join("db"), options()).unwrap();
    // Writer w adds batches under ids of its own, and deletes its batch before the last: counts of what began and what ended.
    let (begun, ended) = ([const { AtomicU64::new(0) }; 3], [const { AtomicU64::new(0) }; 3]);
    let stop = AtomicBool::new(false);
    let first = |w: u64, n: u64| (w * 1_000_000) + n * BATCH;
    std::thread::scope(|s| {
        for w in 0..WRITERS {
            let (db, begun, ended, stop) = (&db, &begun[w as usize], &ended[w as usize], &stop);
            s.spawn(move || {
                for n in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    begun.store(n + 1, SeqCst);
                    add(db, first(w, n)..first(w, n + 1));
                    ended.store(n + 1, SeqCst);
                }
            });
        }
        let mut kept = 0;
        for round in 0..6 {
            let target = room.path().join("copy");
            let before: Vec<u64> = ended.iter().map(|n| n.load(SeqCst)).collect();
            let backup = db.backup(&target).unwrap();
            let after: Vec<u64> = begun.iter().map(|n| n.load(SeqCst)).collect();
            kept += backup.files_kept;
            // Opened elsewhere, so that the next round goes on with this one's files.
            let opened = room.path().join(format!("restored-{round}"));
            copy(&target, &opened);
            let restore = restored(&opened);
            let found = ids(&restore);
            for w in 0..WRITERS {
                let of_writer = found.range(first(w, 0)..first(w + 1, 0)).count() as u64;
                assert_eq!(of_writer % BATCH, 0, "a batch is there in part");
                let batches = of_writer / BATCH;
                let (least, most) = (before[w as usize], after[w as usize]);
                assert!((least..=most).contains(&batches), "{batches} batches, not {least} to {most}");
                assert!(
                    (0..of_writer).all(|i| found.contains(&(first(w, 0) + i))),
                    "a later row without an earlier one"
                );
            }
            restore.close().unwrap();
        }
        assert!(kept > 0, "nothing was there already");
        stop.store(true, SeqCst);
    });
}

#[test]
fn a_second_backup_copies_only_what_is_new() {
    let room = tempfile::tempdir().unwrap();
    let (path, target) = (room.path().join("db"), room.path().join("copy"));
    let db = Database::open(&path, options()).unwrap();
    (0..20).for_each(|n| add(&db, n * 500..(n + 1) * 500));
    db.wait_indexed(None).unwrap();
    db.save().unwrap();
    let first = db.backup(&target).unwrap();
    assert!(first.files_copied > 4 && first.files_kept == 0 && first.lsn == 10_000, "{first:?}");
    let rest = db.backup(&target).unwrap();
    assert!(rest.bytes_copied < first.bytes_copied / 4 && rest.files_kept >= 4, "{rest:?} after {first:?}");
    add(&db, 50_000..50_010);
    let more = db.backup(&target).unwrap();
    assert!(more.lsn == 10_010 && more.bytes_copied < first.bytes_copied / 4, "{more:?} after {first:?}");
    assert!(target.join("index").read_dir().unwrap().count() == 1, "the index image goes along");
    // What was deleted in the source goes from the backup too, files and all.
    assert_eq!(db.collection().delete_where(&Filter::field("i").lt(9_900)).unwrap(), 9_900);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while db.stats().unwrap().log_bytes > 600 << 10 {
        assert!(std::time::Instant::now() < deadline, "no compaction: {:?}", db.stats());
        std::thread::yield_now();
    }
    db.backup(&target).unwrap();
    let restore = restored(&target);
    assert_eq!(ids(&restore), ids(&db));
    let segments = |path: &Path| std::fs::read_dir(path.join("log")).unwrap().count();
    assert!(segments(&target) <= segments(&path) + 2, "files that no manifest names stay in the backup");
}

#[test]
fn a_restored_backup_serves_all_collections_and_goes_on() {
    let room = tempfile::tempdir().unwrap();
    let target = room.path().join("copy");
    let db = Database::open(room.path().join("db"), options()).unwrap();
    let named = db.open_collection("images", &CollectionOptions::new(3)).unwrap();
    named.add(&[1.0, 2.0, 3.0], NewRow { document: Some("text".into()), ..NewRow::default() }).unwrap();
    add(&db, 0..300);
    db.collection().delete(Id::Int(299)).unwrap();
    db.backup(&target).unwrap();
    add(&db, 300..400);
    drop((db, named));
    let restore = restored(&target);
    assert_eq!(ids(&restore), (0..299).collect());
    let named = restore.find_collection("images").unwrap().unwrap();
    assert_eq!(named.get(Id::Int(0)).unwrap().unwrap().document.as_deref(), Some("text"));
    let id = restore.collection().add(&vector(300), NewRow::default()).unwrap();
    assert_eq!(id, Id::Int(300), "an id never comes again, not even one whose row was deleted");
    assert_eq!(restore.collection().query(&vector(300), &Query::nearest(1)).unwrap()[0].id, id);
    // It may be backed up itself.
    let again = room.path().join("again");
    restore.backup(&again).unwrap();
    assert_eq!(restored(&again).collection().len().unwrap(), 300);
}

fn is_path(e: &Error) -> bool {
    e.kind() == ErrorKind::Invalid(Subject::Path)
}

#[test]
fn a_target_that_is_not_an_earlier_backup_of_this_database_is_refused_and_untouched() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let db = Database::open(at("db"), options()).unwrap();
    add(&db, 0..10);
    let refused = |target: PathBuf, words: &str| {
        let e = db.backup(&target).unwrap_err();
        assert!(is_path(&e) && e.message().contains(words), "{}: {e}", target.display());
    };
    refused(at("db"), "the database itself");
    refused(at("db/inside"), "inside the other");
    refused(room.path().to_path_buf(), "inside the other");
    std::fs::create_dir(at("photos")).unwrap();
    std::fs::write(at("photos/cat.jpg"), "cat").unwrap();
    refused(at("photos"), "other files");
    std::fs::write(at("file"), "text").unwrap();
    refused(at("file"), "not a directory");
    let other = Database::open(at("other"), options()).unwrap();
    other.close().unwrap();
    refused(at("other"), "another database");
    let open = Database::open(at("open"), options()).unwrap();
    assert_eq!(db.backup(at("open")).unwrap_err().kind(), ErrorKind::Locked);
    drop(open);

    // A backup that was opened is a database of its own.
    db.backup(at("copy")).unwrap();
    restored(&at("copy")).close().unwrap();
    refused(at("copy"), "opened since");
    // A later state is not overwritten by an earlier one, and histories do not mix.
    db.backup(at("early")).unwrap();
    copy(&at("early"), &at("fork"));
    add(&db, 10..2_000);
    db.backup(at("late")).unwrap();
    let fork = Database::open(at("fork"), options()).unwrap();
    let e = fork.backup(at("late")).unwrap_err();
    assert!(is_path(&e) && e.message().contains("later state"), "{e}");
    (0..40).for_each(|n| add(&fork, 5_000 + n * 100..5_000 + (n + 1) * 100));
    let e = fork.backup(at("late")).unwrap_err();
    assert!(is_path(&e) && e.message().contains("another history"), "{e}");
    assert_eq!(ids(&restored(&at("late"))), (0..2_000).collect());
}

#[test]
fn damage_of_the_source_does_not_get_into_a_backup() {
    use std::os::unix::fs::FileExt;
    let room = tempfile::tempdir().unwrap();
    let (path, target) = (room.path().join("db"), room.path().join("copy"));
    let db = Database::open(&path, options()).unwrap();
    add(&db, 0..500);
    db.backup(&target).unwrap();
    (1..8).for_each(|n| add(&db, n * 500..(n + 1) * 500));
    let mut files: Vec<_> = std::fs::read_dir(path.join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let damaged = &files[files.len() - 3];
    let file = std::fs::File::options().write(true).open(damaged).unwrap();
    file.write_all_at(&[0xAB; 64], 70_000).unwrap();
    let e = db.backup(&target).unwrap_err();
    assert!(e.kind() == ErrorKind::Corruption && e.message().contains(damaged.to_str().unwrap()), "{e}");
    assert_eq!(ids(&restored(&target)), (0..500).collect(), "the earlier backup is still there");
}
