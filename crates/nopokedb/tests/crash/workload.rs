//! A workload as a list of steps, run once against a disk that keeps a journal, and the check of every disk that a crash
//! could have left.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use nopokedb::testing::crash::{Enumeration, Failure, History, Report, Seen};
use nopokedb::testing::{Call, CallKind, Fault, SimDisk, Vfs};
use nopokedb::{Database, NewRow, Query};

use crate::support::{Model, Row, Write, long, options, perform, served, tag, vector};

pub const DIR: &str = "/db";

/// One thing a program does.
#[derive(Clone, Debug)]
pub enum Step {
    Do(Write),
    /// Several threads at once, each its own writes.
    Together(Vec<Vec<Write>>),
    /// The graph takes in all rows.
    Index,
    /// A checkpoint: index images.
    Save,
    /// Until the background worker has nothing left to do: footers, compactions, the idle watermark.
    Quiet,
    /// Until the first segment was compacted away; fails if it is not.
    Compacted,
    /// What the background worker does once nothing was written for a while, now.
    Settle,
    /// An orderly close, and another opening.
    Reopen,
    /// The end of the process without a close, and another opening.
    Die,
    /// An orderly close at the very end.
    Close,
}

pub use Step::{Close, Compacted, Die, Do, Index, Quiet, Reopen, Save, Settle, Together};

pub fn open_on(vfs: Arc<dyn Vfs>) -> nopokedb::Result<Database> {
    Database::open_on(vfs, Path::new(DIR), options())
}

/// A recovered database, and its disk.
pub type Recovered = (Database, SimDisk);

pub fn recover(disk: &SimDisk) -> Recovered {
    (reopen(disk), disk.clone())
}

pub fn reopen(disk: &SimDisk) -> Database {
    open_on(Arc::new(disk.clone())).expect("a crashed directory opens")
}

/// Calls that change the disk.
fn changes(call: &Call<'_>) -> bool {
    use CallKind::{Create, CreateDir, Remove, Rename, SetLen, Sync, SyncDir, Write};
    matches!(call.kind, Create | CreateDir | Remove | Rename | SetLen | Sync | SyncDir | Write)
}

/// Ends a process without a close, as far as the disk can tell: its locks are free, and nothing more was done.
fn die(db: Database, disk: &SimDisk) {
    disk.fail_if(|call| changes(call).then_some(Fault::EIO));
    let before = disk.hash();
    drop(db);
    assert_eq!(disk.hash(), before, "the dead write nothing");
    disk.clear_faults();
}

/// Waits until the disk has rested longer than an idle database waits with its watermark.
pub fn quiet(disk: &SimDisk) {
    let give_up = Instant::now() + Duration::from_secs(5);
    let (mut seen, mut since) = (disk.ops(), Instant::now());
    while since.elapsed() < Duration::from_millis(90) && Instant::now() < give_up {
        park_timeout(Duration::from_millis(5));
        if disk.ops() != seen {
            (seen, since) = (disk.ops(), Instant::now());
        }
    }
}

/// Runs the steps on `disk` through `vfs`; every write must succeed.
pub fn run(disk: &SimDisk, vfs: &Arc<dyn Vfs>, history: &History<Write>, steps: &[Step]) {
    let open = || open_on(vfs.clone()).expect("opens");
    let mut db = open();
    for step in steps {
        match step {
            Do(write) => history.attempt(write.clone(), || perform(&db, write)).expect("an unharmed disk takes writes"),
            Together(threads) => std::thread::scope(|s| {
                for writes in threads {
                    let db = &db;
                    s.spawn(move || {
                        writes
                            .iter()
                            .for_each(|w| history.attempt(w.clone(), || perform(db, w)).expect("takes writes"));
                    });
                }
            }),
            Index => assert!(db.wait_indexed(Some(Duration::from_secs(20))).unwrap(), "the graph takes in all rows"),
            Save => db.save().unwrap(),
            Quiet => quiet(disk),
            Settle => db.settle().unwrap(),
            Compacted => {
                let first = Path::new(DIR).join("log/00000001.seg");
                let give_up = Instant::now() + Duration::from_secs(20);
                while disk.peek(&first).is_some() {
                    assert!(Instant::now() < give_up, "no compaction: {:?}", db.stats());
                    park_timeout(Duration::from_millis(2));
                }
                quiet(disk);
            }
            Reopen => {
                db.close().unwrap();
                db = open();
            }
            Die => {
                die(db, disk);
                db = open();
            }
            Close => db.close().unwrap(),
        }
    }
    std::mem::forget(db);
}

/// What is served must be the model after all acknowledged writes, or with the one that was under way as well.
pub fn in_order((db, disk): Recovered, seen: &Seen<'_, Write>) -> impl PartialEq + std::fmt::Debug + use<> {
    let rows = served(&db);
    let (least, most) = (Model::of(seen.acked()), Model::of(seen.possible()));
    let (least_rows, most_rows) = (least.rows(), most.rows());
    assert!(
        rows == least_rows || rows == most_rows,
        "served {rows:?}, acknowledged {least_rows:?}, tried {most_rows:?}"
    );
    goes_on(db, &disk, &least);
    rows
}

/// After threads wrote at once: no order between them, but each write whole, and the acknowledged ones there. Ids are
/// written once each.
pub fn in_any_order((db, disk): Recovered, seen: &Seen<'_, Write>) -> impl PartialEq + std::fmt::Debug + use<> {
    let rows = served(&db);
    let (least, most) = (Model::of(seen.acked()).rows(), Model::of(seen.possible()).rows());
    let has = |id: &u64, row: &Row| rows[&0].get(id) == Some(row);
    assert!(least[&0].iter().all(|(id, row)| has(id, row)), "served {rows:?}, acknowledged {least:?}");
    assert!(rows[&0].iter().all(|(id, row)| most[&0].get(id) == Some(row)), "served {rows:?}, tried {most:?}");
    for write in seen.possible() {
        if let Write::Given(_, batch) = write {
            let there = batch.iter().filter(|(id, _)| rows[&0].contains_key(id)).count();
            assert!(there == 0 || there == batch.len(), "a part of {batch:?}: {rows:?}");
        }
    }
    goes_on(db, &disk, &Model::of(seen.acked()));
    rows
}

/// The recovered database takes a write under an id that was never given, finds it, and keeps it.
fn goes_on(db: Database, disk: &SimDisk, least: &Model) {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let id = db.collection().add(&vector(1e6), NewRow { metadata: tag(0), ..NewRow::default() }).unwrap();
    assert!(id.int().unwrap() >= least.0[&0].next, "the id {id} was given before");
    let hit = &db.collection().query(&vector(1e6), &Query::nearest(1)).unwrap()[0];
    assert_eq!((&hit.id, hit.distance), (&id, 0.0));
    // Now and then through a close and one more opening.
    if CALLS.fetch_add(1, Relaxed).is_multiple_of(16) {
        let before = served(&db);
        db.wait_applied().unwrap();
        assert_eq!(db.stats().unwrap().sqlite_error, None);
        db.close().unwrap();
        assert_eq!(served(&reopen(disk)), before);
    }
}

pub fn enumeration() -> Enumeration {
    if long() {
        let second_bounds = Enumeration::quick().second_bounds;
        return Enumeration { second_every: 2, second_bounds, max_checks: 60_000, ..Enumeration::thorough() };
    }
    Enumeration { max_checks: 2_500, second_every: 24, ..Enumeration::quick() }
}

/// Crashes `steps` everywhere. Returns how many states were tried.
pub fn prove(name: &str, steps: &[Step]) -> usize {
    report(name, search(&enumeration(), |disk| Arc::new(disk.clone()), steps))
}

/// As [`prove`], with a second loss of power at every point of every recovery.
pub fn prove_twice(name: &str, steps: &[Step]) -> usize {
    let plan = Enumeration { second_every: 1, ..enumeration() };
    report(name, search(&plan, |disk| Arc::new(disk.clone()), steps))
}

/// As [`prove`], for steps of several threads.
pub fn prove_together(name: &str, steps: &[Step]) -> usize {
    let workload = |disk: &SimDisk, history: &History<Write>| run(disk, &vfs(disk), history, steps);
    report(name, enumeration().search(workload, recover, in_any_order))
}

fn vfs(disk: &SimDisk) -> Arc<dyn Vfs> {
    Arc::new(disk.clone())
}

/// Crashes `steps`, done through the disk that `through` gives, and recovers on an honest disk.
pub fn search(
    plan: &Enumeration,
    through: impl Fn(&SimDisk) -> Arc<dyn Vfs>,
    steps: &[Step],
) -> Result<Report, Failure> {
    plan.search(|disk, history| run(disk, &through(disk), history, steps), recover, in_order)
}

pub fn report(name: &str, outcome: Result<Report, Failure>) -> usize {
    match outcome {
        Err(failure) => panic!("{name}: {failure}"),
        Ok(r) => {
            assert!(r.distinct > 5 && r.second > 0, "{name}: hardly anything was tried: {r:?}");
            println!("crash-states: {} {name} {r:?}", r.new);
            r.new
        }
    }
}
