//! Every crash point of small workloads, with every fate (within bounds) of what was not synced, and a second crash
//! during the recovery. What is checked is always the same: [`check`].

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::io::sim::SimDisk;
use crate::io::sim::crash::{Enumeration, FaultSweep, History, Report, Seen};

/// Room for two groups and a SEAL behind the header.
pub(super) const TINY: u64 = 16 << 10;

fn dir() -> PathBuf {
    PathBuf::from("/db")
}

pub(super) fn vfs(disk: &SimDisk) -> Arc<dyn Vfs> {
    Arc::new(disk.clone())
}

/// A batch in as many frames as it has rows.
pub(super) fn spread(ids: impl IntoIterator<Item = u64>) -> Batch {
    let mut builder = FrameBuilder::with_limit(C, DIM, 128);
    ids.into_iter().for_each(|id| push_put(&mut builder, id));
    builder.finish()
}

pub(super) fn new_log(disk: &SimDisk) -> Log {
    create(&vfs(disk), &dir(), TINY)
}

/// What a program does after any crash: opens what is there, or makes it afresh if it never came to be.
pub(super) fn recover(disk: &SimDisk) -> Log {
    let vfs = vfs(disk);
    match inspect(&*vfs, &dir()).unwrap() {
        DirState::Empty => create(&vfs, &dir(), TINY),
        _ => Log::open(vfs, &dir(), options(TINY)).unwrap_or_else(|e| panic!("{e}")).0,
    }
}

/// The promises: all that was acknowledged is there; nothing is there that was not tried; batches are whole; LSNs are
/// dense; and the log goes on.
pub(super) fn check(mut log: Log, seen: &Seen<'_, Vec<u64>>) -> Vec<u64> {
    let rows = rows_of(&log.segments()).unwrap();
    let served: Vec<u64> = rows.iter().map(|r| r.1).collect();
    let ids: BTreeSet<u64> = served.iter().copied().collect();
    assert_eq!(ids.len(), served.len(), "a row twice: {served:?}");
    assert!(seen.acked().flatten().all(|id| ids.contains(id)), "an acknowledged row is lost: {served:?}");
    let possible: BTreeSet<u64> = seen.possible().flatten().copied().collect();
    assert!(ids.is_subset(&possible), "a row out of nowhere: {served:?}");
    for batch in seen.possible() {
        let there = batch.iter().filter(|id| ids.contains(id)).count();
        assert!(there == 0 || there == batch.len(), "a part of a batch: {batch:?} of {served:?}");
    }
    assert!(rows.windows(2).all(|w| w[0].0 + 1 == w[1].0), "LSNs have gaps: {rows:?}");
    let last_lsn = log.last_lsn().0;
    assert!(rows.last().is_none_or(|r| r.0 == last_lsn));
    let placed = log.append(&[puts([1_000_000])]).unwrap();
    assert_eq!(placed[0].first_lsn.0, last_lsn + 1);
    assert_eq!(ids_of(&log.segments()).len(), served.len() + 1);
    served
}

/// Appends the batches as one group, as `history` is told.
pub(super) fn attempt(log: &mut Log, history: &History<Vec<u64>>, group: &[Batch]) -> bool {
    let ids = |b: &Batch| {
        let frames = b.frames.iter();
        frames.flat_map(|f| f.payload()[0].chunks(40).map(|e| format::u64_at(e, 0)).collect::<Vec<_>>()).collect()
    };
    let started: Vec<usize> = group.iter().map(|b| history.start(ids(b))).collect();
    let result = log.append(group);
    match &result {
        Ok(_) => started.iter().for_each(|s| history.ack(*s)),
        // "Not committed" is a promise too, unless the words say that nobody knows.
        Err(e) if !e.message().contains("unknown") => started.iter().for_each(|s| history.refuse(*s)),
        Err(_) => {}
    }
    result.is_ok()
}

pub(super) fn quick() -> Enumeration {
    Enumeration { second_every: 8, ..Enumeration::quick() }
}

fn enumerate(workload: impl FnOnce(&SimDisk, &History<Vec<u64>>)) -> Report {
    let report = quick().run(workload, recover, check);
    assert!(!report.truncated && report.distinct > 20, "{report:?}");
    report
}

#[test]
fn a_creation_is_there_or_can_be_repeated() {
    enumerate(|disk, history| {
        let mut log = new_log(disk);
        attempt(&mut log, history, &[puts([0])]);
    });
}

#[test]
fn acknowledged_groups_survive_and_batches_are_whole() {
    enumerate(|disk, history| {
        let mut log = new_log(disk);
        history.skip_setup();
        attempt(&mut log, history, &[puts(0..2), spread(2..5)]);
        attempt(&mut log, history, &[spread(5..8), puts([8])]);
        log.watermark().unwrap();
        attempt(&mut log, history, &[puts([9])]);
    });
}

#[test]
fn a_full_segment_is_followed_by_another() {
    enumerate(|disk, history| {
        let mut log = new_log(disk);
        attempt(&mut log, history, &[puts([0])]);
        attempt(&mut log, history, &[puts([1])]);
        history.skip_setup();
        attempt(&mut log, history, &[puts([2])]);
        attempt(&mut log, history, &[puts(3..200)]);
        attempt(&mut log, history, &[puts([200])]);
    });
}

#[test]
fn footers_change_nothing_but_the_time_to_open() {
    enumerate(|disk, history| {
        let mut log = new_log(disk);
        for id in 0..6 {
            attempt(&mut log, history, &[puts([id])]);
        }
        history.skip_setup();
        log.without_footer().iter().for_each(|s| write_footer(s).unwrap());
        log.publish_footers(&|_| 0).unwrap();
        attempt(&mut log, history, &[puts([6])]);
    });
}

#[test]
fn a_clean_close_can_be_continued_from() {
    enumerate(|disk, history| {
        let mut log = new_log(disk);
        attempt(&mut log, history, &[puts([0])]);
        history.skip_setup();
        log.close_clean().unwrap();
        let mut log = recover(disk);
        attempt(&mut log, history, &[puts([1])]);
        log.close_clean().unwrap();
        let mut log = recover(disk);
        log.close_clean().unwrap();
        attempt(&mut log, history, &[puts([2])]);
    });
}

#[test]
fn an_interrupted_run_can_be_continued_from() {
    enumerate(|disk, history| {
        let mut log = new_log(disk);
        attempt(&mut log, history, &[puts([0]), spread(1..4)]);
        drop(log);
        history.skip_setup();
        let mut log = recover(disk);
        attempt(&mut log, history, &[puts([4])]);
        attempt(&mut log, history, &[puts([5])]);
    });
}

#[test]
fn a_second_crash_anywhere_in_the_recovery_loses_nothing() {
    let every = Enumeration { second_every: 1, ..Enumeration::quick() };
    let report = every.run(
        |disk, history| {
            let mut log = new_log(disk);
            attempt(&mut log, history, &[puts([0])]);
            attempt(&mut log, history, &[puts([1])]);
            history.skip_setup();
            attempt(&mut log, history, &[spread(2..4)]);
        },
        recover,
        check,
    );
    assert!(report.second > 300 && report.distinct > 300, "{report:?}");
}

/// A log's life of random steps, the same for a seed.
fn random_life(disk: &SimDisk, history: &History<Vec<u64>>, seed: u64, steps: usize) {
    let mut state = seed;
    let mut below = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let (mut log, mut id) = (new_log(disk), 0);
    for _ in 0..steps {
        match below(12) {
            0 => log.watermark().unwrap(),
            1 => {
                log.without_footer().iter().for_each(|s| write_footer(s).unwrap());
                log.publish_footers(&|_| 0).unwrap();
            }
            step @ 2..=4 => {
                if step == 2 {
                    log.close_clean().unwrap();
                }
                drop(log);
                log = recover(disk);
            }
            _ => {
                let mut batch = |_| {
                    let ids = id..id + 1 + below(5);
                    id = ids.end;
                    if below(3) == 0 { spread(ids) } else { puts(ids) }
                };
                let group: Vec<Batch> = (0..2).map(&mut batch).collect();
                attempt(&mut log, history, if id % 2 == 0 { &group } else { &group[..1] });
            }
        }
    }
}

/// NOPOKEDB_CRASH=long (`make crash`) tries half a million states, with every subset of up to ten unsynced parts.
#[test]
fn random_logs_lose_nothing() {
    let long = std::env::var("NOPOKEDB_CRASH").is_ok_and(|v| v == "long");
    let (wanted, steps) = if long { (500_000, 40) } else { (1, 12) };
    let plan = if long { Enumeration { second_every: 8, ..Enumeration::thorough() } } else { quick() };
    let (mut tried, mut second, mut seed) = (0, 0, 0);
    while tried < wanted {
        seed += 1;
        let report = plan.run(|disk, history| random_life(disk, history, seed, steps), recover, check);
        (tried, second) = (tried + report.new, second + report.second);
    }
    println!("crash-states: {} random logs, {seed} lives, {second} recoveries from a second loss of power", tried);
}

/// The workload goes on after an error as a program would: it tries the next thing, and opens again if it must.
fn stubborn(disk: &SimDisk, history: &History<Vec<u64>>) {
    let mut id = 0;
    for _ in 0..2 {
        let vfs = vfs(disk);
        let opened = match inspect(&*vfs, &dir()) {
            Ok(DirState::Empty) => Log::create(vfs, &dir(), options(TINY), &[collection()]),
            Ok(_) => Log::open(vfs, &dir(), options(TINY)).map(|o| o.0),
            Err(e) => Err(e),
        };
        let mut log = match opened {
            Ok(log) => log,
            // Names in a directory whose sync failed may never become durable: nobody should go on in it.
            Err(e) if e.message().contains("directory") => return,
            Err(_) => continue,
        };
        for _ in 0..3 {
            if !attempt(&mut log, history, &[puts([id]), spread(id + 1..id + 3)]) {
                // Refused and tried again in other words: ids are never used twice, so that each attempt is told apart.
                attempt(&mut log, history, &[puts([id + 3])]);
            }
            id += 4;
        }
        if log.poisoned().is_some_and(|why| why.contains("directory")) {
            return;
        }
        for segment in log.without_footer() {
            let _ = write_footer(&segment);
        }
        if log.publish_footers(&|_| 0).is_err_and(|e| e.message().contains("directory")) {
            return;
        }
        let _ = log.watermark();
        let _ = log.close_clean();
    }
}

#[test]
fn any_call_may_fail_once_with_any_error() {
    let runs = FaultSweep::default().run(stubborn, recover, check);
    assert!(runs > 500, "{runs}");
}
