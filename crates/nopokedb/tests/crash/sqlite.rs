//! Power is lost under the whole directory: our files as the simulated disk gives them, and SQLite's as they may be then.
//!
//! SQLite does its own I/O, which the simulated disk does not see, so its real files are copied after every step, and each
//! crash state gets a mixture of copies that are no newer than the crash: all of one moment; the write-ahead log cut or
//! with sectors zeroed, as unsynced frames are; the shared memory gone or garbage; a file missing (a name that was not
//! synced); and, beyond what SQLite's own syncs allow, the database file of one moment with the log of another, and sectors of
//! two moments. Whatever it is, nothing is lost and nothing wrong is answered: they are a cache. And but for the latter kinds
//! `check()` finds the cache as the log has it, also where the copies are older than what SQLite had synced by then.
#![allow(clippy::disallowed_methods, reason = "puts SQLite's files where a crash may have left them")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use nopokedb::testing::SimDisk;
use nopokedb::testing::crash::{Enumeration, History, Seen};
use nopokedb::{Database, Query, Report, Result, Text};
use tempfile::TempDir;

use crate::support::Write::{self, Add, Batch, Create, Delete, Document, Drop, Mixed, Note, Retag, Upsert};
use crate::support::{Model, Rng, Row, TEXT, collection, document, long, number, options, perform, served};

const FILES: [&str; 3] = ["meta.sqlite", "meta.sqlite-wal", "meta.sqlite-shm"];

type Copy = BTreeMap<&'static str, Vec<u8>>;

fn room() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap()
}

fn open(disk: &SimDisk, sqlite: &Path) -> Result<Database> {
    let location = sqlite.join(FILES[0]);
    Database::open_on_with_sqlite(Arc::new(disk.clone()), Path::new("/db"), &location, options())
}

fn copy(sqlite: &Path) -> Copy {
    FILES.into_iter().filter_map(|name| Some((name, fs::read(sqlite.join(name)).ok()?))).collect()
}

/// What a crash may have left of SQLite's files, and whether SQLite's own syncs allow it.
fn mixture(copies: &[Copy], rng: &mut Rng) -> (Copy, bool) {
    let Some(last) = copies.len().checked_sub(1) else { return (Copy::new(), true) };
    let older = rng.below(copies.len());
    let mut files = copies[if rng.chance(60) { last } else { older }].clone();
    let wal = files.get_mut(FILES[1]);
    match rng.below(9) {
        0 => (Copy::new(), true),
        1 => (files, true),
        2 => {
            if let Some(wal) = wal {
                wal.truncate(rng.below(wal.len() + 1));
            }
            (files, true)
        }
        3 => {
            if let Some(wal) = wal.filter(|w| !w.is_empty()) {
                let from = rng.below(wal.len()) / 512 * 512;
                wal[from..].chunks_mut(512).filter(|_| rng.chance(50)).for_each(|sector| sector.fill(0));
            }
            (files, true)
        }
        4 => {
            files.insert(FILES[2], vec![0xA5; 32 << 10]);
            (files, true)
        }
        5 => {
            files.remove(FILES[rng.below(3)]);
            (files, false)
        }
        6 => {
            files.extend(copies[older].get(FILES[1]).map(|wal| (FILES[1], wal.clone())));
            (files, false)
        }
        7 => {
            let name = FILES[rng.below(2)];
            if let (Some(file), Some(other)) = (files.get_mut(name), copies[older].get(name)) {
                for (ours, theirs) in file.chunks_mut(512).zip(other.chunks(512)).filter(|_| rng.chance(30)) {
                    let n = ours.len().min(theirs.len());
                    ours[..n].copy_from_slice(&theirs[..n]);
                }
            }
            (files, false)
        }
        _ => {
            let name = FILES[rng.below(2)];
            files.entry(name).and_modify(|file| file.truncate(rng.below(file.len() + 1)));
            (files, false)
        }
    }
}

/// Opens one crash state with one mixture, and looks. Returns what `check()` found.
fn look(disk: &SimDisk, files: &Copy, seen: &Seen<'_, Write>) -> Report {
    let sqlite = room();
    files.iter().for_each(|(name, bytes)| fs::write(sqlite.path().join(name), bytes).unwrap());
    let db = open(disk, sqlite.path()).expect("a crashed directory opens");
    let rows = served(&db);
    let (least, most) = (Model::of(seen.acked()).rows(), Model::of(seen.possible()).rows());
    assert!(rows == least || rows == most, "served {rows:?}, acknowledged {least:?}, tried {most:?}");
    db.wait_applied().unwrap();
    assert_eq!(db.stats().unwrap().sqlite_error, None);
    perform(&db, &Add(0, 1e6)).unwrap();
    db.wait_applied().unwrap();
    let report = db.check().unwrap();
    // Words are searched for in SQLite: after the check, which has a text index built again that lost some.
    for (c, row) in rows.iter().flat_map(|(c, rows)| rows.iter().map(|row| (*c, row))) {
        assert!(found_by_words(&db, c, row), "{row:?} of collection {c} is not found by its words");
    }
    report
}

/// Whether a row with a document, which is one long word, is among those found by it.
fn found_by_words(db: &Database, c: u8, (id, row): (&u64, &Row)) -> bool {
    if row.document == 0 {
        return true;
    }
    let query = Query { text: Some(Text::new(document(row.document))), ..Query::nearest(100) };
    collection(db, c).unwrap().search_text(&query).unwrap().iter().any(|hit| number(&hit.id) == *id)
}

fn writes() -> Vec<Write> {
    let mut writes = vec![Batch(0, (0..20u8).map(f32::from).collect()), Create(1), Batch(1, vec![1.0; 5])];
    for round in 0..3u32 {
        writes.extend([Upsert(0, 3, 9.0), Document(0, 4, 9_000), Retag(1, 2, round), Delete(0, u64::from(round))]);
        writes.extend([Document(1, 3, 20_000), Batch(0, vec![2.0; 30]), Upsert(0, 5, 7.0), Note(0, 5, round)]);
        writes.push(Mixed(
            0,
            vec![Upsert(0, TEXT, 1.0), Add(0, 2.0), Delete(0, 10 + u64::from(round)), Note(0, TEXT, 3)],
        ));
    }
    writes.extend([Drop(1), Add(0, 5.0)]);
    writes
}

/// Files of SQLite as of a moment, and of the one after it if it was under way: what a checkpoint copies, in any part, with the
/// write-ahead log that has all of it; or a part of that log.
fn on_the_way(before: &Copy, after: Option<&Copy>, rng: &mut Rng) -> Copy {
    let mut files = before.clone();
    let (Some(after), Some(file)) = (after, files.get_mut(FILES[0])) else { return files };
    let (old, new) = (file.len(), after[FILES[0]].len());
    if before.get(FILES[1]).is_none_or(Vec::is_empty) {
        // The log was written, and perhaps not synced.
        let mut log = after.get(FILES[1]).cloned().unwrap_or_default();
        log.truncate(rng.below(log.len() + 1));
        files.insert(FILES[1], log);
        return files;
    }
    for (ours, theirs) in file.chunks_mut(4096).zip(after[FILES[0]].chunks(4096)).filter(|_| rng.chance(50)) {
        if ours.len() == theirs.len() {
            ours.copy_from_slice(theirs);
        }
    }
    file.truncate(if rng.chance(50) { new.min(old) } else { old });
    files
}

/// Deletes and drops so much that a settling log has SQLite give pages back. A reader keeps its checkpoint off at first, so that
/// there is a moment at which all of it is in the write-ahead log.
fn give_back(disk: &SimDisk, history: &History<Write>, sqlite: &Path, copied: &dyn Fn()) {
    let db = open(disk, sqlite).unwrap();
    let act = |write: Write| history.attempt(write.clone(), || perform(&db, &write)).unwrap();
    act(Create(1));
    for c in [0, 1] {
        act(Batch(c, vec![1.0; 40]));
        (0..40).for_each(|id| act(Document(c, id, 20_000)));
    }
    db.save().unwrap();
    copied();
    let reader = rusqlite::Connection::open(sqlite.join(FILES[0])).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;").unwrap();
    act(Drop(1));
    act(Mixed(0, (0..36).map(|id| Delete(0, id)).collect()));
    db.wait_applied().unwrap();
    let e = db.settle().unwrap_err();
    assert!(e.message().contains("another program is reading it"), "{e}");
    copied();
    history.skip_setup();
    drop(reader);
    db.settle().unwrap();
    copied();
    act(Add(0, 3.0));
    std::mem::forget(db);
}

#[test]
fn a_crash_while_sqlite_gives_pages_back_changes_nothing() {
    let (sqlite, copies) = (room(), Mutex::new(Vec::<(usize, Copy)>::new()));
    let (states, per_state) = (AtomicUsize::new(0), if long() { 50 } else { 2 });
    let plan = Enumeration { second_every: 0, max_checks: if long() { 2_000 } else { 30 }, ..Enumeration::quick() };
    let workload = |disk: &SimDisk, history: &History<Write>| {
        give_back(disk, history, sqlite.path(), &|| copies.lock().unwrap().push((disk.ops(), copy(sqlite.path()))));
        let copies = copies.lock().unwrap();
        let len = |i: usize, file: usize| copies[i].1.get(FILES[file]).map_or(0, Vec::len);
        assert!(len(1, 1) > 0 && len(2, 0) * 2 < len(0, 0), "{} bytes, then {}", len(0, 0), len(2, 0));
    };
    plan.run(workload, SimDisk::clone, |disk: SimDisk, seen| {
        let copies = copies.lock().unwrap();
        let last = copies.iter().rposition(|c| c.0 <= seen.point()).expect("the setup made one");
        for _ in 0..per_state {
            let number = states.fetch_add(1, Relaxed);
            let rng = &mut Rng(number as u64);
            let from = rng.below(last + 1);
            let files = on_the_way(&copies[from].1, copies.get(from + 1).filter(|_| from < last).map(|c| &c.1), rng);
            let report = look(&disk.kill_at(disk.ops()), &files, seen);
            assert!(report.is_ok() && report.rebuilt.is_empty(), "state {number}, from copy {from}: {report}");
        }
    });
    let states = states.into_inner();
    println!("sqlite-states: {states} of SQLite's files while it gives pages back");
    assert!(states > 20, "{states}");
}

#[test]
fn sqlites_files_may_be_left_in_any_state_by_a_crash() {
    let (sqlite, copies) = (room(), Mutex::new(Vec::<(usize, Copy)>::new()));
    let (states, strange, told) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let per_state = if long() { 6 } else { 1 };
    let plan = Enumeration { second_every: 0, max_checks: if long() { 4_000 } else { 150 }, ..Enumeration::quick() };
    let plan = if long() { plan } else { Enumeration { bounds: Enumeration::quick().second_bounds, ..plan } };
    let workload = |disk: &SimDisk, history: &History<Write>| {
        let mut db = open(disk, sqlite.path()).unwrap();
        for (i, write) in writes().into_iter().enumerate() {
            history.attempt(write.clone(), || perform(&db, &write)).unwrap();
            db.wait_applied().unwrap();
            copies.lock().unwrap().push((disk.ops(), copy(sqlite.path())));
            if i == 9 {
                db.close().unwrap();
                copies.lock().unwrap().push((disk.ops(), copy(sqlite.path())));
                db = open(disk, sqlite.path()).unwrap();
            }
        }
    };
    plan.run(workload, SimDisk::clone, |disk: SimDisk, seen| {
        let copies = copies.lock().unwrap();
        let until: Vec<Copy> = copies.iter().filter(|c| c.0 <= seen.point()).map(|c| c.1.clone()).collect();
        for _ in 0..per_state {
            let number = states.fetch_add(1, Relaxed);
            let (files, allowed) = mixture(&until, &mut Rng(number as u64));
            strange.fetch_add(usize::from(!allowed), Relaxed);
            let report = look(&disk.kill_at(disk.ops()), &files, seen);
            assert!(report.is_ok() || !allowed, "mixture {number}: {report}");
            told.fetch_add(usize::from(!report.is_ok()), Relaxed);
        }
    });
    let (states, strange, told) = (states.into_inner(), strange.into_inner(), told.into_inner());
    println!(
        "sqlite-states: {states} mixtures of SQLite's files, {strange} of them worse than a crash can leave; check() found \
         the cache at odds with the log in {told}"
    );
    assert!(states > 100, "{states}");
}
