//! The power fails, or the process dies, at every operation of a repair, and of the openings after it: the damaged database
//! is as it was, and the new directory is complete, or says that it is not, and the next repair into it is whole. What a
//! crash alone leaves is never taken for damage.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nopokedb::testing::crash::{Enumeration, History, Seen};
use nopokedb::testing::{SimDisk, Vfs};
use nopokedb::{Database, ErrorKind, Repair, Repaired};

use crate::support::Write::{self, Batch, Create, Delete, Document, Given};
use crate::support::{Model, Row, long, options, perform, served};
use crate::workload::{DIR, Die, Do, Index, Quiet, Reopen, Save, Step};
use crate::workload::{enumeration, in_order, open_on, quiet, recover, reopen, report, run};
use crate::workloads::large;

const NEW: &str = "/new/db";

type Rows = BTreeMap<u8, BTreeMap<u64, Row>>;

/// Several segments, one of them with a footer, and two collections.
fn writes() -> Vec<Write> {
    let given = (0..6).map(|id| (id, 1.5)).collect();
    let more =
        [Document(0, 0, 25_000), Document(0, 0, 26_000), Document(0, 0, 27_000), Delete(0, 3), Batch(1, vec![9.0])];
    [Given(0, given), Create(1), Batch(1, vec![1.0, 2.0])].into_iter().chain(more).collect()
}

/// A closed database, and what it holds.
fn build(disk: &SimDisk) -> Rows {
    let db = open_on(Arc::new(disk.clone())).unwrap();
    for write in writes() {
        perform(&db, &write).unwrap();
    }
    quiet(disk);
    db.save().unwrap();
    db.close().unwrap();
    Model::of(&writes()).rows()
}

fn repair(disk: &SimDisk, into: Option<&str>) -> nopokedb::Result<Repaired> {
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    Database::repair_on(&vfs, Path::new(DIR), &Repair { into: into.map(PathBuf::from), ..Repair::default() })
}

/// The log and the manifests.
fn truth(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_truth =
        |n: &PathBuf| n.starts_with(Path::new(DIR).join("log")) || n.to_string_lossy().contains("/db/MANIFEST-");
    let names = disk.names().into_iter().filter(|n| n.starts_with(DIR) && is_truth(n));
    names.filter_map(|n| Some((n.clone(), disk.peek(&n)?))).collect()
}

/// A segment with a footer, and where its last vector of the first batch is.
fn vector_to_damage(disk: &SimDisk) -> (PathBuf, u64) {
    let wanted = [1.5f32.to_le_bytes(), 1f32.to_le_bytes()].concat();
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).rposition(|w| w == what);
    let sealed = truth(disk).into_iter().filter(|(_, bytes)| find(bytes, b"NPKDBFTR").is_some());
    let mut places = sealed.filter_map(|(path, bytes)| Some((path, find(&bytes, &wanted)? as u64)));
    places.next().unwrap()
}

fn plan() -> Enumeration {
    if long() { enumeration() } else { Enumeration { max_checks: 1_500, second_every: 64, ..enumeration() } }
}

/// The damaged database's files are as `before`, but for zeros at their ends that a close may have cut off.
fn is_untouched(disk: &SimDisk, before: &BTreeMap<PathBuf, Vec<u8>>) {
    for (name, bytes) in before {
        let trimmed = |bytes: &[u8]| bytes[..bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)].to_vec();
        let now = disk.peek(name).unwrap_or_default();
        assert!(trimmed(&now) == trimmed(bytes), "{} was touched", name.display());
    }
}

#[test]
fn a_crash_during_a_salvage_leaves_the_old_directory_and_a_new_one_that_is_whole_or_says_that_it_is_not() {
    let before = RefCell::new(BTreeMap::new());
    let model = Model::of(&writes()).rows();
    let workload = |disk: &SimDisk, history: &History<()>| {
        assert_eq!(build(disk), model);
        let (path, at) = vector_to_damage(disk);
        disk.flip_bit(&path, at, 3);
        *before.borrow_mut() = truth(disk);
        history.skip_setup();
        let repaired = history.attempt((), || repair(disk, Some(NEW))).unwrap();
        assert!(!repaired.lost.is_empty() && repaired.rows > 0, "{repaired:?}");
    };
    let recovered = |disk: &SimDisk| {
        let new = Database::open_on(Arc::new(disk.clone()), Path::new(NEW), options());
        (new.map(|db| served(&db)), disk.clone())
    };
    // All but what is lost: rows of the damaged block.
    let is_whole = |rows: &Rows| {
        let right = rows[&0].iter().all(|(id, row)| model[&0].get(id) == Some(row));
        assert!(right && !rows[&0].is_empty() && rows.get(&1) == model.get(&1), "{rows:?}");
    };
    let check = |(new, disk): (nopokedb::Result<Rows>, SimDisk), seen: &Seen<'_, ()>| {
        is_untouched(&disk, &before.borrow());
        let finished = seen.acked().count() == 1;
        match &new {
            // Before it had begun there was no directory; the opening made a new database.
            Ok(rows) if rows.values().all(BTreeMap::is_empty) => assert!(!finished, "a finished repair is gone"),
            Ok(rows) => is_whole(rows),
            Err(e) => {
                let says = matches!(e.kind(), ErrorKind::Invalid(_)) && e.message().contains("not finished");
                assert!(says && !finished, "{e}");
                let repaired = repair(&disk, Some(NEW)).unwrap();
                assert!(!repaired.lost.is_empty(), "{repaired:?}");
                is_untouched(&disk, &before.borrow());
                let again = Database::open_on(Arc::new(disk.clone()), Path::new(NEW), options()).unwrap();
                is_whole(&served(&again));
            }
        }
        new.ok()
    };
    report("salvages", plan().search(workload, recovered, check));
}

#[test]
fn a_crash_during_a_repair_in_place_loses_nothing() {
    let model = Model::of(&writes()).rows();
    let workload = |disk: &SimDisk, history: &History<()>| {
        build(disk);
        // The older manifest, and the image.
        for part in ["/MANIFEST-", "/index/"] {
            let part = |n: &PathBuf| n.starts_with(DIR) && n.to_string_lossy().contains(part);
            disk.flip_bit(&disk.names().into_iter().find(part).unwrap(), 100, 2);
        }
        history.skip_setup();
        let repaired = history.attempt((), || repair(disk, None)).unwrap();
        assert!(repaired.lost.is_empty() && repaired.cause.is_none(), "{repaired:?}");
    };
    let check = |(db, _): (Database, SimDisk), _: &Seen<'_, ()>| {
        let rows = served(&db);
        assert_eq!(rows, model);
        rows
    };
    report("repairs", plan().search(workload, recover, check));
}

#[test]
fn what_a_crash_leaves_is_repaired_in_place_and_is_no_damage() {
    let parts: [&[Step]; 4] = [
        &large(0..3),
        &[Do(Batch(0, vec![1.0, 2.0, 3.0])), Die, Do(Write::Upsert(0, 1, 7.0)), Do(Delete(0, 2)), Reopen],
        &[Quiet, Do(Batch(0, (0..60u8).map(f32::from).collect())), Index, Save, Die],
        &large(66..68),
    ];
    let repaired = |disk: &SimDisk| {
        match repair(disk, None) {
            Ok(repaired) => assert!(repaired.lost.is_empty() && repaired.cause.is_none(), "{repaired:?}"),
            // There was no database yet.
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Invalid(_)) || e.kind() == ErrorKind::Io, "{e}"),
        }
        (reopen(disk), disk.clone())
    };
    let workload = |disk: &SimDisk, history: &History<Write>| {
        let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
        run(disk, &vfs, history, &parts.concat());
    };
    report("repairs of crashes", plan().search(workload, repaired, in_order));
}
