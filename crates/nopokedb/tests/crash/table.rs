//! The table of failing calls (docs/DURABILITY.md, section 8) as a test: each call of a life fails once with each error, and
//! what the caller then sees, whether the handle goes on writing, and what the next opening finds, is what the table says of
//! that call.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nopokedb::testing::crash::FaultSweep;
use nopokedb::testing::{Call, CallKind, Fault, SimDisk};
use nopokedb::{Database, ErrorKind};

use crate::support::Write::{self, Add, Create, Delete, Document, Drop, Given, Mixed, Note, Upsert};
use crate::support::{Model, TEXT, long, perform, served};
use crate::workload::open_on;

/// What the table says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    /// Not committed, or tried again without the zeros ahead; the handle goes on.
    WriteToLog,
    /// Whether it is durable is unknown; the handle writes no more.
    SyncOfLog,
    /// The old segment goes on.
    NewSegment,
    /// The handle writes no more.
    SyncOfDirectory,
    /// The old manifest stands; the handle goes on.
    Manifest,
    /// The background worker's or `save`'s error; the handle goes on.
    Cache,
    /// Nothing.
    Removal,
    /// The opening fails and can be tried again, or the call fails; nothing is skipped.
    Reading,
}

impl Row {
    fn poisons(self) -> bool {
        matches!(self, Row::SyncOfLog | Row::SyncOfDirectory)
    }
}

/// Which row of the table a call belongs to. `fresh` are the segments made in this life and not synced yet.
fn row_of(call: &Call<'_>, fresh: &BTreeSet<PathBuf>) -> Row {
    use CallKind::{Create as Make, CreateDir, Remove, Rename, SetLen, Sync, SyncDir, Write};
    let path = call.path.to_str().unwrap();
    match call.kind {
        Remove => Row::Removal,
        SyncDir | CreateDir if path.contains("index") => Row::Cache,
        SyncDir => Row::SyncOfDirectory,
        _ if path.contains("index") => Row::Cache,
        Make | Write | SetLen | Sync | Rename | CallKind::Map if path.contains("MANIFEST") => Row::Manifest,
        Sync if fresh.contains(call.path) || path.ends_with(".tmp") => Row::NewSegment,
        Sync => Row::SyncOfLog,
        Write | SetLen if !fresh.contains(call.path) && !path.ends_with(".tmp") => Row::WriteToLog,
        Make | Write | SetLen | Rename | CallKind::Map => Row::NewSegment,
        _ => Row::Reading,
    }
}

/// Makes one call fail, and says which it was.
fn arm(disk: &SimDisk, number: usize, fault: Fault) -> Arc<Mutex<Option<(Row, String)>>> {
    let hit = Arc::new(Mutex::new(None));
    let (told, mut fresh) = (hit.clone(), BTreeSet::new());
    disk.fail_if(move |call| {
        if call.kind == CallKind::Create && call.path.extension().is_some_and(|e| e == "seg") {
            fresh.insert(call.path.to_path_buf());
        }
        let row = row_of(call, &fresh);
        if call.kind == CallKind::Sync {
            fresh.remove(call.path);
        }
        (call.number == number).then(|| {
            *told.lock().unwrap() = Some((row, format!("{:?} {}", call.kind, call.path.display())));
            fault
        })
    });
    hit
}

fn is_full(fault: Fault) -> bool {
    matches!(fault.error().kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// A life with every kind of write and of file, under ids of its own choice: a refused write may use up automatic ones. It begins in a directory that holds a log that was not closed.
fn writes() -> Vec<Write> {
    vec![
        Given(0, (0..10).map(|id| (10 + id, id as f32)).collect()),
        Create(1),
        Given(1, (0..9).map(|id| (id, 1.0)).collect()),
        Document(0, 0, 30_000),
        Document(0, 1, 30_000),
        Upsert(0, 2, 4.0),
        Document(0, 2, 30_000),
        Mixed(0, vec![Delete(0, 0), Upsert(0, TEXT, 3.0), Note(0, TEXT, 2)]),
        Drop(1),
        Given(0, vec![(30, 5.0)]),
    ]
}

fn begun() -> (SimDisk, Model) {
    let (disk, first) = (SimDisk::new(), [Given(0, vec![(0, 50.0), (1, 51.0), (2, 52.0)]), Document(0, 1, 40_000)]);
    let db = open_on(Arc::new(disk.clone())).unwrap();
    first.iter().for_each(|w| perform(&db, w).unwrap());
    let left = disk.kill();
    std::mem::drop(db);
    (left, Model::of(&first))
}

/// Lives once with one failing call. Returns the row it belongs to, if the call was made at all.
fn live(number: usize, fault: Fault) -> Option<Row> {
    let (disk, mut model) = begun();
    let hit = arm(&disk, number + disk.calls(), fault);
    let told = || hit.lock().unwrap().clone();
    let db = match open_on(Arc::new(disk.clone())) {
        Ok(db) => db,
        Err(e) => {
            let (row, what) = told().expect("an opening fails only because of the fault");
            let kind = if is_full(fault) { ErrorKind::Full } else { ErrorKind::Io };
            assert_eq!(e.kind(), kind, "{what} {fault:?} while opening: {e}");
            let again = open_on(Arc::new(disk.clone())).unwrap_or_else(|e| panic!("{what} {fault:?}, again: {e}"));
            assert_eq!(served(&again), model.rows(), "{what} {fault:?}");
            return Some(row);
        }
    };
    let (mut failed, mut doubtful) = (None, None);
    let mut attempt = |write: Write, model: &mut Model| {
        if failed.is_none() {
            failed = perform(&db, &write).inspect(|()| model.apply(&write)).err();
            doubtful = failed.as_ref().map(|_| write);
        }
    };
    writes().into_iter().for_each(|write| attempt(write, &mut model));
    // Where it hits the background worker or the making of an image, the next write meets what became of it.
    let _ = db.wait_indexed(Some(Duration::from_secs(20)));
    let _ = db.save();
    attempt(Given(0, vec![(98, 77.0)]), &mut model);
    let (row, what) = told()?;
    let probe = Given(0, vec![(99, 77.0)]);
    let outcome = perform(&db, &probe);
    let what = format!("{what} {fault:?} ({row:?}), first error {failed:?}, then {outcome:?}");
    let poisoned = db.stats().unwrap().writes_stopped;
    if let Some(e) = &failed {
        let of_fault = if is_full(fault) { ErrorKind::Full } else { ErrorKind::Io };
        let kinds = if row.poisons() { [ErrorKind::Io, ErrorKind::Closed] } else { [of_fault; 2] };
        assert!(kinds.contains(&e.kind()), "{what}");
        assert!(row != Row::Removal && row != Row::Cache, "{what}: nobody should have noticed");
        assert_eq!(e.message().contains("unknown") || e.kind() == ErrorKind::Closed, row.poisons(), "{what}");
    }
    match &outcome {
        Ok(()) => model.apply(&probe),
        Err(e) => assert!(row.poisons() && e.kind() == ErrorKind::Closed, "{what}"),
    }
    assert_eq!(poisoned.is_some(), outcome.is_err(), "{what}: {poisoned:?}");
    // A directory whose sync failed may lose names, and a database that goes on in it may lose more: section 1.
    assert!(failed.is_none() || !row.poisons() || outcome.is_err(), "{what}: a poisoned handle writes");
    ends(&db, &disk, &model, doubtful.filter(|_| row.poisons()), &what);
    Some(row)
}

/// Reads go on, and after the end of the process the directory holds the model, perhaps with the one write in doubt.
fn ends(db: &Database, disk: &SimDisk, model: &Model, doubtful: Option<Write>, what: &str) {
    let now = served(db);
    let mut with = model.clone();
    doubtful.iter().for_each(|w| with.apply(w));
    assert!(now == model.rows() || now == with.rows(), "{what}: reads go on");
    let left = disk.kill_at(disk.ops());
    let again = open_on(Arc::new(left)).unwrap_or_else(|e| panic!("{what}: then it does not open: {e}"));
    let rows = served(&again);
    assert!(rows == model.rows() || rows == with.rows(), "{what}: {rows:?} is not {:?}", model.rows());
}

#[test]
fn each_failing_call_has_the_outcome_that_the_table_says() {
    let calls = {
        let (disk, _) = begun();
        let before = disk.calls();
        let db = open_on(Arc::new(disk.clone())).unwrap();
        writes().iter().for_each(|w| perform(&db, w).unwrap());
        db.wait_indexed(Some(Duration::from_secs(20))).unwrap();
        db.save().unwrap();
        disk.calls() - before
    };
    let (mut met, mut runs) = (BTreeMap::new(), 0);
    for number in (0..calls + 10).step_by(if long() { 1 } else { 4 }) {
        for fault in FaultSweep::default().faults {
            if let Some(row) = live(number, fault) {
                *met.entry(row).or_insert(0) += 1;
                runs += 1;
            }
        }
    }
    println!("fault-runs: {runs} against the table, {met:?}");
    assert!(met.len() >= 7 && runs > 300, "{met:?}");
}

#[test]
fn a_change_that_is_published_is_not_refused_because_old_manifests_cannot_be_listed() {
    let disk = SimDisk::new();
    let db = open_on(Arc::new(disk.clone())).unwrap();
    let calls = disk.calls();
    disk.fail_if(move |c| (c.number >= calls && c.kind == CallKind::List).then_some(Fault::EIO));
    perform(&db, &Create(1)).expect("the manifest is there");
    disk.clear_faults();
    assert!(served(&db).contains_key(&1));
    let left = disk.kill_at(disk.ops());
    assert!(served(&open_on(Arc::new(left)).unwrap()).contains_key(&1));
}

#[test]
fn a_failed_write_that_cannot_be_cut_back_stops_all_writing() {
    for cut in [CallKind::SetLen, CallKind::Sync] {
        let disk = SimDisk::new();
        let db = open_on(Arc::new(disk.clone())).unwrap();
        perform(&db, &Add(0, 1.0)).unwrap();
        let calls = disk.calls();
        let log = |path: &Path| path.extension().is_some_and(|e| e == "seg");
        let mut written = false;
        disk.fail_if(move |c| {
            let fails = c.number >= calls && log(c.path) && (c.kind == CallKind::Write || written && c.kind == cut);
            written |= fails;
            fails.then_some(Fault::EIO)
        });
        let first = perform(&db, &Add(0, 2.0)).unwrap_err();
        assert!(first.kind() == ErrorKind::Io && first.message().contains("unknown"), "{cut:?}: {first}");
        disk.clear_faults();
        let second = perform(&db, &Add(0, 3.0)).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::Closed, "{second}");
        assert_eq!(served(&db)[&0].len(), 1, "reads go on");
    }
}
