//! The power fails, or the process dies, at every operation of purges: the row is there or it is deleted, nothing else changes,
//! and once the call has returned no file has a byte of it, whatever the crash. Cut off before, doing it again ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nopokedb::testing::SimDisk;
use nopokedb::testing::crash::{Enumeration, History, Seen};

use crate::support::Write::{self, Batch, Delete, Document, Given, Purge};
use crate::support::{document, long, perform};
use crate::workload::{DIR, Recovered, enumeration, in_order, open_on, quiet, recover, report};

/// Rows with states in several segments and in an image; then one is purged, and one that was deleted before.
fn live(disk: &SimDisk, history: &History<Write>) {
    let db = open_on(Arc::new(disk.clone())).unwrap();
    let act = |write: Write| history.attempt(write.clone(), || perform(&db, &write)).unwrap();
    act(Given(0, (0..20u8).map(|id| (id.into(), 1.5)).collect()));
    [Document(0, 7, 20_000), Document(0, 8, 21_000)].into_iter().for_each(act);
    assert!(db.wait_indexed(Some(Duration::from_secs(20))).unwrap());
    db.save().unwrap();
    [Document(0, 7, 30_011), Document(0, 7, 30_013), Delete(0, 8), Batch(0, vec![7.0; 4])].into_iter().for_each(act);
    quiet(disk);
    history.skip_setup();
    [Purge(0, 7), Purge(0, 8)].into_iter().for_each(act);
    std::mem::forget(db);
}

/// The files that have the end of the document of this length (shorter ones begin alike).
fn holding(disk: &SimDisk, len: usize) -> Vec<PathBuf> {
    let text = document(len).into_bytes();
    let needle = &text[text.len() - 2_000..];
    let mut names = disk.names().into_iter().filter(|n| n.starts_with(DIR)).collect::<Vec<_>>();
    names.retain(|n| disk.peek(n).is_some_and(|bytes| bytes.windows(needle.len()).any(|w| w == needle)));
    names
}

const OF_7: [usize; 3] = [20_000, 30_011, 30_013];
const OF_8: [usize; 1] = [21_000];

#[test]
fn a_crash_during_a_purge_loses_nothing_else_and_after_it_brings_nothing_back() {
    let workload = |disk: &SimDisk, history: &History<Write>| {
        live(disk, history);
        assert!(OF_7.iter().chain(&OF_8).all(|&len| holding(disk, len).is_empty()));
    };
    let check = |(db, disk): Recovered, seen: &Seen<'_, Write>| {
        let purged = seen.acked().filter(|write| matches!(write, Purge(..))).count();
        for (n, texts) in [&OF_7[..], &OF_8].into_iter().enumerate() {
            if purged > n {
                texts.iter().for_each(|&len| assert!(holding(&disk, len).is_empty(), "{:?}", holding(&disk, len)));
            }
        }
        let started = seen.possible().any(|write| matches!(write, Purge(..)));
        if started && purged == 0 {
            // Somebody does it again; the model does not mind, for the row may be gone or not.
            perform(&db, &Purge(0, 7)).unwrap();
            OF_7.iter().for_each(|&len| assert!(holding(&disk, len).is_empty(), "{:?}", holding(&disk, len)));
        }
        in_order((db, disk), seen)
    };
    let plan =
        if long() { enumeration() } else { Enumeration { max_checks: 1_200, second_every: 64, ..enumeration() } };
    report("purges", plan.search(workload, recover, check));
}
