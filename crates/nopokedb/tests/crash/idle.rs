//! The power fails, or the process dies, while an idle log settles: it goes on to another segment, packs the one before, removes
//! what dropped collections left, and writes images anew that became too large. No row comes or goes by it.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use nopokedb::testing::SimDisk;
use nopokedb::testing::crash::{Enumeration, History};

use crate::support::Write::{self, Add, Batch, Create, Delete, Drop, Given, Mixed, Upsert};
use crate::support::{long, perform};
use crate::workload::*;
use crate::workloads::{steps, xs};

/// Writes that come one by one: each takes a page of its own, most of it of no use.
fn singles(from: u16, n: u16) -> Vec<Step> {
    (from..from + n).map(|x| Do(Add(0, f32::from(x)))).collect()
}

#[test]
fn w52_an_idle_log_is_packed_without_a_loss() {
    let first = vec![Do(Delete(0, 3)), Settle, Compacted, Do(Upsert(0, 4, 70.0))];
    let second = vec![Die, Do(Add(0, 80.0)), Settle, Do(Add(0, 81.0)), Quiet, Settle, Reopen, Do(Delete(0, 5)), Settle];
    prove("an idle log", &steps([singles(0, 8), first, singles(20, 7), second]));
}

#[test]
fn w53_what_dropped_collections_left_goes_and_nothing_else() {
    let before = [Create(1), Batch(1, xs(20)), Create(2), Batch(2, xs(12)), Batch(0, xs(12))].map(Do);
    let dropped = vec![Index, Save, Do(Drop(1)), Settle, Do(Add(0, 5.0)), Reopen];
    let again = [Create(1), Batch(1, xs(9)), Drop(2)].map(Do);
    let end = vec![Index, Save, Do(Drop(1)), Die, Settle, Do(Add(0, 6.0)), Settle];
    prove("leftovers of dropped collections", &steps([before.to_vec(), dropped, again.to_vec(), end]));
}

/// The images, and their bytes.
fn images(disk: &SimDisk) -> Vec<(PathBuf, usize)> {
    let names = disk.names().into_iter().filter(|name| name.extension().is_some_and(|e| e == "idx"));
    names.filter_map(|name| Some((name.clone(), disk.peek(&name)?.len()))).collect()
}

#[test]
fn w54_an_image_of_rows_that_are_gone_is_written_anew() {
    const ROWS: u64 = 5_000;
    let workload = |disk: &SimDisk, history: &History<Write>| {
        let db = open_on(Arc::new(disk.clone())).unwrap();
        let act = |write: Write| history.attempt(write.clone(), || perform(&db, &write)).unwrap();
        act(Given(0, (0..ROWS).map(|id| (id, id as f32)).collect()));
        assert!(db.wait_indexed(Some(Duration::from_secs(60))).unwrap());
        db.save().unwrap();
        let large = images(disk);
        act(Mixed(0, (20..ROWS).map(|id| Delete(0, id)).collect()));
        history.skip_setup();
        let give_up = Instant::now() + Duration::from_secs(60);
        while images(disk).iter().any(|image| large.contains(image)) {
            // Memory without the dead rows comes first.
            assert!(Instant::now() < give_up, "{:?} {:?}", images(disk), db.stats());
            db.settle().unwrap();
            park_timeout(Duration::from_millis(2));
        }
        let small = images(disk);
        assert!(small.len() == 1 && small[0].1 * 10 < large[0].1, "{large:?}, then {small:?}");
        act(Add(0, 3.5));
        db.settle().unwrap();
        std::mem::forget(db);
    };
    let plan = if long() { enumeration() } else { Enumeration { max_checks: 900, second_every: 200, ..enumeration() } };
    report("images of rows that are gone", plan.search(workload, recover, in_order));
}
