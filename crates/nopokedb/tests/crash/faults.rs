//! Every call of a life of the engine fails once with every error: the program is told, goes on as far as it is let, and
//! whatever it then meets (a kill, a loss of power), what was acknowledged is there and what was refused is not.

use std::collections::BTreeSet;
use std::sync::Arc;

use nopokedb::testing::crash::{FaultSweep, History, Seen};
use nopokedb::testing::{Fault, SimDisk, Vfs};
use nopokedb::{Database, Error, ErrorKind};

use crate::support::Write::{self, Add, Batch, Create, Delete, Document, Drop, Given, Mixed, Note, Retag, Upsert};
use crate::support::{Model, TEXT, long, perform, served};
use crate::workload::{open_on, reopen};

/// A write and its number, which tells equal writes apart.
type Numbered = (usize, Write);

/// Whether an error says that nothing was written. The others say that nobody knows.
fn is_refusal(e: &Error) -> bool {
    !["unknown", "writes have stopped", "unexpectedly"].iter().any(|words| e.message().contains(words))
}

/// Names in a directory whose sync failed may never become durable: nobody should go on in it.
fn is_about_a_directory(e: &Error) -> bool {
    e.message().contains("directory")
}

fn lives() -> Vec<Vec<Write>> {
    vec![
        vec![
            Given(0, vec![(0, 1.0), (1, 2.0)]),
            Create(1),
            Given(1, vec![(0, 3.0)]),
            Document(0, 0, 30_000),
            Upsert(0, 2, 4.0),
            Document(0, 1, 30_000),
            Delete(0, 0),
        ],
        vec![
            Given(0, (10..22).map(|id| (id, 1.0)).collect()),
            Retag(0, 1, 5),
            Mixed(0, vec![Upsert(0, TEXT, 6.0), Note(0, TEXT, 4), Delete(0, 10), Upsert(0, 11, 2.0)]),
            Drop(1),
            Create(2),
            Given(2, vec![(7, 3.0)]),
        ],
        vec![Delete(0, 11), Document(0, 12, 40_000), Upsert(2, 7, 9.0)],
    ]
}

/// Lives as a stubborn program does: it tries the next thing after an error, and opens again if it must.
fn stubborn(vfs: &Arc<dyn Vfs>, history: &History<Numbered>) {
    let mut number = 0;
    for writes in lives() {
        let db = match open_on(vfs.clone()) {
            Ok(db) => db,
            Err(e) if is_about_a_directory(&e) => return,
            Err(_) => continue,
        };
        for write in writes {
            let started = history.start((number, write.clone()));
            number += 1;
            match perform(&db, &write) {
                Ok(()) => history.ack(started),
                Err(e) if is_about_a_directory(&e) => return,
                Err(e) if is_refusal(&e) => history.refuse(started),
                Err(_) => break,
            }
        }
        let indexed = db.wait_indexed(Some(std::time::Duration::from_secs(5)));
        let saved = db.save();
        let stats = db.stats().unwrap();
        let ends = [indexed.map(drop), saved, db.close()];
        let stopped = [stats.writes_stopped, stats.background_error];
        if stopped.iter().flatten().any(|why| why.contains("directory"))
            || ends.iter().flat_map(|end| end.as_ref().err()).any(is_about_a_directory)
        {
            return;
        }
    }
}

/// What is served is the model with each write of unknown outcome done or not done.
fn one_of_the_possible(db: Database, seen: &Seen<'_, Numbered>) {
    let rows = served(&db);
    let acked: BTreeSet<usize> = seen.acked().map(|w| w.0).collect();
    let possible: Vec<&Numbered> = seen.possible().collect();
    let open: Vec<usize> = possible.iter().map(|w| w.0).filter(|n| !acked.contains(n)).collect();
    assert!(open.len() <= 8, "too many writes without an answer: {open:?}");
    let with = |bits: usize| {
        let done =
            |n: &usize| acked.contains(n) || open.iter().position(|o| o == n).is_some_and(|i| bits >> i & 1 == 1);
        Model::of(possible.iter().filter(|w| done(&w.0)).map(|w| &w.1)).rows()
    };
    let fits = (0..1 << open.len()).any(|bits| with(bits) == rows);
    assert!(fits, "served {rows:?}\nacknowledged {:?}\nwithout an answer {open:?}", with(0));
    let given = possible.iter().map(|w| &w.1);
    let next = Model::of(given.filter(|w| !matches!(w, Drop(_)))).0[&0].next;
    perform(&db, &Add(0, 77.0)).unwrap();
    let now = served(&db);
    let new: Vec<_> = now[&0].keys().filter(|id| !rows[&0].contains_key(id)).collect();
    assert!(new.len() == 1 && *new[0] >= acked_next(seen).min(next), "{new:?}");
}

fn acked_next(seen: &Seen<'_, Numbered>) -> u64 {
    Model::of(seen.acked().map(|w| &w.1)).0[&0].next
}

pub fn sweep(sweep: &FaultSweep, through: impl Fn(&SimDisk) -> Arc<dyn Vfs>) -> usize {
    sweep.run(|disk, history| stubborn(&through(disk), history), reopen, one_of_the_possible)
}

#[test]
fn any_call_may_fail_once_with_any_error() {
    let plan = FaultSweep { every: if long() { 1 } else { 6 }, ..FaultSweep::default() };
    let runs = sweep(&plan, |disk| Arc::new(disk.clone()));
    println!("fault-runs: {runs}");
    assert!(runs > 150, "{runs}");
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_goes_on_when_there_is_room() {
    let disk = SimDisk::new();
    let db = open_on(Arc::new(disk.clone())).unwrap();
    perform(&db, &Batch(0, vec![1.0; 20])).unwrap();
    let before = served(&db);
    disk.set_quota(Some(disk.used()));
    let refused = perform(&db, &Document(0, 3, 90_000)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    assert_eq!(served(&db), before);
    perform(&db, &Delete(0, 5)).expect("a delete fits what was zeroed ahead");
    disk.set_quota(None);
    perform(&db, &Document(0, 3, 90_000)).expect("there is room again, and the handle is the same");
    let after = served(&db);
    drop(db);
    assert_eq!(served(&reopen(&disk)), after);
}

#[test]
fn after_a_failed_sync_writes_are_refused_and_the_reason_is_told() {
    let disk = SimDisk::new();
    let db = open_on(Arc::new(disk.clone())).unwrap();
    perform(&db, &Add(0, 1.0)).unwrap();
    let calls = disk.calls();
    disk.fail_if(move |c| {
        let sync = c.kind == nopokedb::testing::CallKind::Sync && c.number >= calls;
        sync.then_some(Fault::EIO)
    });
    let first = perform(&db, &Add(0, 2.0)).unwrap_err();
    assert!(first.message().contains("unknown"), "{first}");
    disk.clear_faults();
    let second = perform(&db, &Add(0, 3.0)).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Closed, "a sync is never tried again: {second}");
    assert!(db.stats().unwrap().writes_stopped.is_some(), "stats() says why writes are refused");
    assert_eq!(served(&db)[&0].len(), 1, "reads go on");
}
