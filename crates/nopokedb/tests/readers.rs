//! Readers on the real disk: beside a writer, after it, without it; and directories that are moved or deleted under a handle.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // files are moved and removed here as other programs do it

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nopokedb::{Database, ErrorKind, NewRow, NewRows, Options, Query, Subject};

use support::Write::{Add, Batch, Create, Delete, Document, Drop, Upsert};
use support::{DIM, Write, options, perform, served, vector};

fn writer(path: &Path) -> Database {
    Database::open(path, options()).unwrap()
}

fn reader(path: &Path) -> Database {
    Database::open(path, Options { read_only: true, ..options() }).unwrap()
}

fn write(db: &Database, writes: &[Write]) {
    writes.iter().for_each(|w| perform(db, w).unwrap());
}

/// Every file below `path` with its bytes, except SQLite's.
fn bytes(path: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            files.extend(bytes(&entry.path()));
        } else {
            files.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    files.sort();
    files
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
fn a_reader_in_the_process_of_the_writer_sees_commits_at_once_when_it_asks_and_within_a_second_when_not() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("db");
    let db = writer(&path);
    write(&db, &[Batch(0, vec![1.0, 2.0, 3.0])]);
    let (eager, lazy) = (reader(&path), reader(&path));
    assert_eq!(served(&eager), served(&db));
    for i in 0..200u16 {
        let write = match i % 4 {
            0 => Add(0, f32::from(i)),
            1 => Upsert(0, u64::from(i) / 2, 0.5),
            2 => Batch(0, vec![f32::from(i); 20]),
            _ => Delete(0, u64::from(i)),
        };
        perform(&db, &write).unwrap();
        eager.refresh().unwrap();
        assert_eq!(eager.collection().len().unwrap(), db.collection().len().unwrap());
    }
    assert_eq!(served(&eager), served(&db));
    write(&db, &[Create(1), Add(1, 4.0)]);
    let (answered, expected) = (Instant::now(), served(&db));
    loop {
        let age = answered.elapsed();
        if served(&lazy) == expected {
            break;
        }
        assert!(age < Duration::from_secs(1), "a look that began a second later does not see it");
    }
}

#[test]
fn writing_through_a_reader_is_refused_and_nothing_is_changed() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("db");
    let db = writer(&path);
    write(&db, &[Batch(0, vec![1.0, 2.0, 3.0]), Create(1)]);
    db.close().unwrap();
    let before = bytes(&path);
    let db = reader(&path);
    let refused = |e: nopokedb::Error| assert_eq!(e.kind(), ErrorKind::Invalid(Subject::ReadOnly), "{e}");
    for write in [Add(0, 1.0), Batch(0, vec![1.0]), Upsert(0, 0, 1.0), Delete(0, 0), Delete(0, 99), Create(2), Drop(1)]
    {
        refused(perform(&db, &write).unwrap_err());
    }
    refused(db.collection().add_many(&[], NewRows::default()).map(drop).unwrap_err());
    refused(db.save().unwrap_err());
    refused(db.wait_applied().unwrap_err());
    assert!(db.check().unwrap().is_ok());
    assert_eq!(db.stats().unwrap().rows, 3);
    assert!(db.wait_indexed(Some(Duration::from_secs(10))).unwrap());
    db.close().unwrap();
    assert!(bytes(&path) == before, "a reader changed a byte");
}

#[test]
fn what_is_no_database_is_refused_and_stays_as_it_was() {
    let tmp = tempfile::tempdir().unwrap();
    let refused = |path: &Path, word: &str| {
        let e = Database::open(path, Options::reading()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid(Subject::Path), "{e}");
        assert!(e.message().contains(word), "{e}");
    };
    refused(&tmp.path().join("missing"), "no such directory");
    assert!(!tmp.path().join("missing").exists(), "it was made");
    refused(tmp.path(), "holds no NoPokeDB database");
    fs::write(tmp.path().join("file"), "x").unwrap();
    refused(&tmp.path().join("file"), "is a file");
    let path = tmp.path().join("db");
    writer(&path).close().unwrap();
    let wrong = |options: Options| Database::open(&path, Options { read_only: true, ..options }).unwrap_err().kind();
    assert_eq!(wrong(Options { dim: 3, ..options() }), ErrorKind::Invalid(Subject::Dimension));
    assert_eq!(wrong(Options::new(DIM)), ErrorKind::Invalid(Subject::Argument), "another metric");
    let db = Database::open(&path, Options::reading()).unwrap();
    assert_eq!((db.collection().dim(), db.collection().metric()), (DIM, nopokedb::Metric::L2));
}

#[test]
fn readers_outlive_their_writers_and_follow_the_next_one() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("db");
    let db = writer(&path);
    write(&db, &[Batch(0, vec![1.0, 2.0, 3.0])]);
    let follower = reader(&path);
    for life in 0..6u8 {
        let db = writer(&path);
        // Over several segments, compactions and index images.
        let document = |i: u64| Document(0, i % 3, 20_000 + usize::from(life));
        let mut writes: Vec<Write> = (0..8).map(document).collect();
        writes.extend([Batch(0, vec![f32::from(life); 30]), Create(life % 2 + 1), Batch(life % 2 + 1, vec![5.0; 3])]);
        write(&db, &writes);
        follower.refresh().unwrap();
        assert_eq!(served(&follower), served(&db), "life {life}");
        if life % 3 == 1 {
            write(&db, &[Drop(1)]);
        }
        db.wait_indexed(None).unwrap();
        db.close().unwrap();
    }
    db.close().unwrap();
    follower.refresh().unwrap();
    let shown = served(&follower);
    assert_eq!(shown, served(&reader(&path)));
    assert_eq!(shown, served(&writer(&path)));
}

#[test]
fn a_database_on_a_medium_that_cannot_be_written_is_read() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("db");
    let db = writer(&path);
    write(&db, &[Batch(0, vec![1.0, 2.0, 3.0]), Delete(0, 1)]);
    let expected = served(&db);
    db.close().unwrap();
    // Root may write what has no write permission, so the bytes are compared too.
    let all = |mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        for (file, _) in bytes(&path) {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o111)).unwrap();
    };
    all(0o444);
    let before = bytes(&path);
    assert_eq!(served(&reader(&path)), expected);
    assert!(bytes(&path) == before);
    all(0o644);
}

#[test]
fn a_reader_of_a_directory_that_is_gone_says_so_and_comes_back_with_it() {
    let tmp = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (tmp.path().join("db"), tmp.path().join("elsewhere"));
    let db = writer(&path);
    write(&db, &[Batch(0, vec![1.0, 2.0, 3.0])]);
    let follower = reader(&path);
    fs::rename(&path, &elsewhere).unwrap();
    let e = follower.refresh().unwrap_err();
    assert!(e.kind() == ErrorKind::Closed && e.message().contains("moved or deleted"), "{e}");
    // A search that comes later than the bound is refused too: nobody reads an old state without knowing.
    let begun = Instant::now();
    loop {
        let age = begun.elapsed();
        if follower.collection().len().is_err() {
            break;
        }
        assert!(age < Duration::from_secs(1), "it goes on answering");
    }
    fs::rename(&elsewhere, &path).unwrap();
    write(&db, &[Add(0, 4.0)]);
    follower.refresh().unwrap();
    assert_eq!(served(&follower), served(&db));
    // SQLite's cache may not have noticed yet that the directory is back.
    let _ = db.close();
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(follower.refresh().unwrap_err().kind(), ErrorKind::Closed);
    // Another database in its place is not taken for it; opening anew gives that one.
    let other = writer(&path);
    write(&other, &[Add(0, 9.0)]);
    let e = follower.refresh().unwrap_err();
    assert!(e.kind() == ErrorKind::Closed && e.message().contains("another database"), "{e}");
    assert_eq!(served(&reader(&path)), served(&other));
}

#[test]
fn a_writer_whose_directory_is_deleted_acknowledges_nothing_more() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("db");
    let db = writer(&path);
    write(&db, &[Batch(0, vec![1.0, 2.0, 3.0])]);
    fs::remove_dir_all(&path).unwrap();
    for _ in 0..2 {
        let e = perform(&db, &Add(0, 4.0)).unwrap_err();
        assert!(e.kind() == ErrorKind::Closed && e.message().contains("deleted"), "{e}");
    }
    assert_eq!(db.collection().len().unwrap(), 3, "reads go on");
    // The same path opens as a new database, in the same process, while the old handle is open.
    let new = writer(&path);
    write(&new, &[Add(0, 7.0)]);
    assert_eq!(new.collection().len().unwrap(), 1);
    // At rest, so that whatever changes was not its own work.
    new.close().unwrap();
    let before = bytes(&path);
    db.close().unwrap();
    assert!(bytes(&path) == before, "the old handle wrote into the new database");
    assert_eq!(writer(&path).collection().len().unwrap(), 1);
}

#[test]
fn a_writer_whose_directory_is_moved_keeps_what_it_acknowledged_and_touches_no_other_database() {
    let tmp = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (tmp.path().join("db"), tmp.path().join("elsewhere"));
    let db = writer(&path);
    write(&db, &[Batch(0, vec![1.0, 2.0, 3.0])]);
    fs::rename(&path, &elsewhere).unwrap();
    let other = writer(&path);
    write(&other, &[Add(0, 9.0)]);
    let rows = served(&other);
    other.close().unwrap();
    let before = bytes(&path);
    // Small writes go to the file that is open; the first that needs a new one is refused.
    let mut acknowledged = 3;
    let refused = (0..400).find_map(|_| match perform(&db, &Batch(0, vec![1.0; 40])) {
        Ok(()) => {
            acknowledged += 40;
            None
        }
        Err(e) => Some(e),
    });
    let e = refused.expect("a segment of 64 KiB is full by now");
    assert!(e.kind() == ErrorKind::Closed && e.message().contains("moved or deleted"), "{e}");
    assert!(db.save().is_err());
    assert_eq!(db.collection().len().unwrap(), acknowledged);
    db.close().unwrap();
    assert!(bytes(&path) == before, "it wrote into another database");
    assert_eq!(served(&writer(&path)), rows);
    assert_eq!(writer(&elsewhere).collection().len().unwrap(), acknowledged, "an acknowledged row is lost");
}

#[test]
fn closing_lets_go_of_every_descriptor_even_while_the_handle_lives_on() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("db");
    let mut kept = Vec::new();
    let mut before = 0;
    for round in 0..30 {
        let db = writer(&path);
        let documents = (0..6u64).map(|i| Document(0, i % 3, 20_000));
        write(&db, &[Batch(0, vec![1.0, 2.0, 3.0])]);
        documents.for_each(|w| perform(&db, &w).unwrap());
        let follower = reader(&path);
        assert_eq!(follower.collection().query(&vector(1.0), &Query::nearest(3)).unwrap().len(), 3);
        let collection = db.collection();
        db.close().unwrap();
        follower.close().unwrap();
        assert_eq!(collection.get(0u64).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(collection.add(&vector(0.0), NewRow::default()).unwrap_err().kind(), ErrorKind::Closed);
        kept.push((db, follower, collection));
        fs::remove_dir_all(&path).unwrap();
        // The first round opens what stays for good.
        if round == 0 {
            before = descriptors();
        }
    }
    // Other tests of this process have their own, if they run in it.
    assert!(descriptors() < before + 30, "{before} descriptors became {}", descriptors());
}
