//! The power fails, or the process dies, at every operation of backups into the same directory, and of the recoveries after
//! it: the directory holds the earlier backup or the later one, whole, or says that the first was not finished; and the next
//! backup into it works.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nopokedb::testing::SimDisk;
use nopokedb::testing::crash::{Enumeration, History, Seen};
use nopokedb::{Database, ErrorKind};

use crate::support::Write::{self, Batch, Create, Delete, Document, Drop, Given, Mixed, Note, Upsert};
use crate::support::{Model, Row, TEXT, long, options, perform, served};
use crate::workload::{enumeration, open_on, quiet, reopen, report};

const COPY: &str = "/copies/db";

type Rows = BTreeMap<u8, BTreeMap<u64, Row>>;

#[derive(Clone, Debug)]
enum Act {
    Write(Write),
    Backup,
}

/// Three backups: of one segment, of several that a roll made, and of what a compaction made of them.
fn acts() -> Vec<Act> {
    let first = [Given(0, (0..6).map(|id| (id, 1.5)).collect()), Create(1), Batch(1, vec![1.0, 2.0])];
    let second = [Document(0, 0, 25_000), Document(0, 0, 26_000), Document(0, 0, 27_000), Delete(0, 3)];
    let third = [Document(0, 1, 25_000), Document(0, 1, 26_000), Drop(1), Batch(0, vec![9.0])];
    let named = Mixed(0, vec![Upsert(0, TEXT, 4.0), Note(0, TEXT, 2), Delete(0, 2)]);
    let parts = [first.to_vec(), [&[named], &second[..]].concat(), third.to_vec()];
    parts.into_iter().flat_map(|part| part.into_iter().map(Act::Write).chain([Act::Backup])).collect()
}

/// Lives up to backup number `last`; crashes begin there.
fn live(disk: &SimDisk, history: &History<Act>, last: usize) {
    let db = open_on(Arc::new(disk.clone())).unwrap();
    let mut backups = 0;
    for act in acts() {
        match &act {
            Act::Write(write) => history.attempt(act.clone(), || perform(&db, write)).unwrap(),
            Act::Backup => {
                quiet(disk);
                backups += 1;
                if backups == last {
                    history.skip_setup();
                }
                let backup = history.attempt(act.clone(), || db.backup(COPY)).unwrap();
                assert_eq!(backup.lsn, db.stats().unwrap().visible_lsn);
                if backups == last {
                    break;
                }
            }
        }
    }
    std::mem::forget(db);
}

/// What each backup holds, in order, and how many of them are certain.
fn backups(seen: &Seen<'_, Act>) -> (Vec<Rows>, usize) {
    let (mut model, mut held) = (Model::default(), Vec::new());
    for act in seen.possible() {
        match act {
            Act::Write(write) => model.apply(write),
            Act::Backup => held.push(model.rows()),
        }
    }
    (held, seen.acked().filter(|act| matches!(act, Act::Backup)).count())
}

fn writes<'a>(acts: impl Iterator<Item = &'a Act>) -> Rows {
    Model::of(acts.filter_map(|act| if let Act::Write(write) = act { Some(write) } else { None })).rows()
}

fn check_source(db: &Database, seen: &Seen<'_, Act>) -> Rows {
    let rows = served(db);
    assert!(rows == writes(seen.acked()) || rows == writes(seen.possible()), "the database serves {rows:?}");
    rows
}

fn plan() -> Enumeration {
    if long() { enumeration() } else { Enumeration { max_checks: 1_500, second_every: 64, ..enumeration() } }
}

#[test]
fn a_crash_during_a_backup_leaves_the_earlier_one_or_the_later_one() {
    let recover = |disk: &SimDisk| {
        let copy = Database::open_on(Arc::new(disk.clone()), Path::new(COPY), options());
        (reopen(disk), copy)
    };
    let check = |(db, copy): (Database, nopokedb::Result<Database>), seen: &Seen<'_, Act>| {
        let rows = check_source(&db, seen);
        let (held, certain) = backups(seen);
        let copy = match copy {
            Ok(copy) => Some(served(&copy)),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::Invalid(_)) && e.message().contains("not finished"), "{e}");
                None
            }
        };
        match &copy {
            // Before the first one there is an empty directory, or the beginnings of one.
            _ if certain == 0 && copy.as_ref().is_none_or(|copy| copy.values().all(BTreeMap::is_empty)) => {}
            Some(copy) => assert!(held[certain.saturating_sub(1)..].contains(copy), "the backup holds {copy:?}"),
            None => panic!("a finished backup cannot be opened"),
        }
        // A first backup whose beginnings a kill left in the cache alone may be gone after a loss of power: nobody was told of it.
        let told = |copy: &Rows| certain > 0 || !copy.values().all(BTreeMap::is_empty);
        (rows, copy.filter(told))
    };
    for last in 1..=3 {
        report("backups", plan().search(|d, h| live(d, h, last), recover, check));
    }
}

#[test]
fn after_a_crash_during_a_backup_the_next_one_works() {
    let recover = |disk: &SimDisk| {
        let db = reopen(disk);
        db.backup(COPY).unwrap();
        (db, disk.clone())
    };
    let check = |(db, disk): (Database, SimDisk), seen: &Seen<'_, Act>| {
        let rows = check_source(&db, seen);
        let copy = Database::open_on(Arc::new(disk.clone()), Path::new(COPY), options()).unwrap();
        assert_eq!(served(&copy), rows);
        let refused = db.backup(COPY).unwrap_err();
        assert!(refused.kind() == ErrorKind::Locked, "{refused}");
        drop(copy);
        let refused = db.backup(COPY).unwrap_err();
        assert!(refused.message().contains("opened since"), "{refused}");
        let names = disk.names();
        let left = |n: &&std::path::PathBuf| n.starts_with(COPY) && n.extension().is_some_and(|e| e == "tmp");
        assert_eq!(names.iter().filter(left).count(), 0, "{names:?}");
        rows
    };
    for last in 1..=3 {
        report("backups-again", plan().search(|d, h| live(d, h, last), recover, check));
    }
}
