//! Compaction: what it keeps, what it drops, and every point at which it may be cut short.

use std::collections::{BTreeMap, BTreeSet};

use super::crash::{TINY, new_log, quick, recover, vfs};
use super::*;
use crate::io::sim::crash::{FaultSweep, History, Seen};
use crate::io::sim::{Fate, Keep, SimDisk};
use crate::io::vfs::VfsFile;
use crate::types::SegmentNo;

/// The records that the rows amount to: id to the LSN of its PUT.
fn replay(rows: &[(u64, u64, bool)]) -> BTreeMap<u64, u64> {
    let mut records = BTreeMap::new();
    for (lsn, id, put) in rows {
        if *put {
            records.insert(*id, *lsn)
        } else {
            records.remove(id)
        };
    }
    records
}

fn records(log: &Log) -> BTreeMap<u64, u64> {
    replay(&rows_of(&log.segments()).unwrap())
}

/// How many rows of each segment a compaction would drop: PUTs that are no record any more.
fn dead_rows(log: &Log) -> BTreeMap<SegmentNo, u64> {
    let live = records(log);
    let count = |s: &Arc<Segment>| {
        let rows = rows_of(std::slice::from_ref(s)).unwrap();
        rows.iter().filter(|(lsn, id, put)| *put && live.get(id) != Some(lsn)).count() as u64
    };
    log.segments().iter().map(|s| (s.no(), count(s))).collect()
}

/// Compacts `old`, or what the log picks, as the engine's background worker does.
fn compact_now(log: &mut Log, vfs: &dyn Vfs, old: Option<Vec<SegmentNo>>) -> Result<Option<Compacted>> {
    for segment in log.without_footer() {
        write_footer(&segment)?;
    }
    let dead = dead_rows(log);
    log.publish_footers(&|no| dead[&no])?;
    let Some(old) = old.or_else(|| log.pick_compaction(&|no| dead[&no])) else { return Ok(None) };
    let live = records(log);
    let job = log.plan_compaction(&old, &|no| dead[&no])?;
    let done = compact(vfs, &job, &|row, _| live.get(&row.id.0) == Some(&row.lsn.0), &|_, _| true)?;
    log.replace_segments(&done.old, done.new.clone(), vec![collection()], &|_| 0)?;
    Ok(Some(done))
}

fn sealed(log: &Log) -> Vec<SegmentNo> {
    let all = log.segments();
    all[..all.len() - 1].iter().map(|s| s.no()).collect()
}

#[test]
fn a_compaction_keeps_the_records_and_gives_back_the_rest() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), 64 << 10);
    for id in 0..60 {
        log.append(&[puts([id])]).unwrap();
        if id % 3 == 0 {
            log.append(&[deletes([id])]).unwrap();
        }
    }
    let before = records(&log);
    let bytes: u64 = log.segments().iter().map(|s| s.len()).sum();
    let old = sealed(&log);
    let done = compact_now(&mut log, &*vfs, None).unwrap().unwrap();
    assert!(!done.old.is_empty() && done.dropped > 0);
    assert_eq!(records(&log), before);
    assert!(log.segments().iter().map(|s| s.len()).sum::<u64>() < bytes / 2);
    for moved in &done.moves {
        let segments = log.segments();
        let new = segments.iter().find(|s| s.no() == moved.to.0).unwrap();
        let row = new.row_at_vector(moved.to.1).unwrap();
        assert_eq!((row.id, row.lsn), (moved.id, moved.lsn));
        assert!(old.contains(&moved.from.0));
    }
    assert_eq!(done.new.unwrap().padding(), 0);
    for no in done.old {
        assert!(vfs.kind(&files::segment_path(dir.path(), no)).unwrap().is_none(), "the old file is gone");
    }
    log.append(&[puts([99])]).unwrap();
    let expected = records(&log);
    drop(log);
    let (mut log, _) = open(&vfs, dir.path()).unwrap();
    assert_eq!(records(&log), expected);
    // Compacting what was compacted changes nothing either.
    let old = sealed(&log);
    compact_now(&mut log, &*vfs, Some(old)).unwrap().unwrap();
    assert_eq!(records(&log), expected);
}

#[test]
fn a_delete_stays_as_long_as_an_older_segment_may_hold_its_put() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), TINY);
    log.append(&[puts([0])]).unwrap();
    log.seal_active().unwrap();
    log.append(&[deletes([0]), puts([1])]).unwrap();
    log.seal_active().unwrap();
    let old = sealed(&log);
    compact_now(&mut log, &*vfs, Some(vec![old[1]])).unwrap().unwrap();
    assert_eq!(records(&log).into_keys().collect::<Vec<_>>(), [1]);
    let old = sealed(&log);
    compact_now(&mut log, &*vfs, Some(old)).unwrap().unwrap();
    assert_eq!(rows_of(&log.segments()).unwrap(), [(3, 1, true)]);
}

#[test]
fn nothing_live_leaves_no_segment() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), TINY);
    log.append(&[puts(0..5), deletes(0..5)]).unwrap();
    log.seal_active().unwrap();
    assert!(compact_now(&mut log, &*vfs, None).unwrap().unwrap().new.is_none());
    assert_eq!(log.segments().len(), 1);
    log.append(&[puts([5])]).unwrap();
    drop(log);
    let (log, _) = open(&vfs, dir.path()).unwrap();
    assert_eq!(rows_of(&log.segments()).unwrap(), [(11, 5, true)]);
}

#[test]
fn segments_with_little_waste_are_left_alone() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), 64 << 10);
    for start in 0..4 {
        log.append(&[puts(start * 700..(start + 1) * 700)]).unwrap();
    }
    assert!(log.segments().len() > 2);
    assert!(compact_now(&mut log, &*vfs, None).unwrap().is_none());
}

#[test]
fn damage_in_an_input_stops_the_compaction() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    for id in 0..6 {
        log.append(&[puts([id])]).unwrap();
    }
    log.without_footer().iter().for_each(|s| write_footer(s).unwrap());
    log.publish_footers(&|_| 0).unwrap();
    drop(log);
    let disk = disk.kill();
    let mut log = recover(&disk);
    let old = sealed(&log);
    let path = log.segments()[0].path().to_owned();
    disk.flip_bit(&path, 4096 + 128 + 3, 1);
    let job = log.plan_compaction(&old, &|_| 0).unwrap();
    let error = compact(&*vfs(&disk), &job, &|_, _| true, &|_, _| true).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Corruption);
    assert!(error.message().contains(&path.display().to_string()), "{error}");
    assert_eq!(log.segments().len(), old.len() + 1);
}

type Op = (bool, Vec<u64>);

/// As in `crash`: what was acknowledged holds, nothing else is there.
fn check(mut log: Log, seen: &Seen<'_, Op>) -> BTreeSet<u64> {
    let live: BTreeSet<u64> = records(&log).into_keys().collect();
    let all = |ops: Vec<&Op>, put: bool| -> BTreeSet<u64> {
        ops.iter().filter(|op| op.0 == put).flat_map(|op| op.1.clone()).collect()
    };
    let (put, maybe_put) = (all(seen.acked().collect(), true), all(seen.possible().collect(), true));
    let (gone, maybe_gone) = (all(seen.acked().collect(), false), all(seen.possible().collect(), false));
    assert!(put.difference(&maybe_gone).all(|id| live.contains(id)), "an acknowledged row is lost: {live:?}");
    assert!(gone.is_disjoint(&live), "a deleted row is back: {live:?}");
    assert!(live.is_subset(&maybe_put), "a row out of nowhere: {live:?}");
    log.append(&[puts([1_000_000])]).unwrap();
    live
}

fn workload(disk: &SimDisk, history: &History<Op>) {
    let vfs = vfs(disk);
    let opened = match inspect(&*vfs, std::path::Path::new("/db")) {
        Ok(DirState::Empty) => {
            Log::create(Arc::clone(&vfs), std::path::Path::new("/db"), options(TINY), &[collection()])
        }
        _ => Log::open(Arc::clone(&vfs), std::path::Path::new("/db"), options(TINY)).map(|o| o.0),
    };
    let Ok(mut log) = opened else { return };
    let step = |log: &mut Log, put: bool, ids: Vec<u64>| {
        let batch = if put { puts(ids.clone()) } else { deletes(ids.clone()) };
        let _ = history.attempt((put, ids), || log.append(&[batch]));
    };
    for id in 0..4 {
        step(&mut log, true, vec![id * 2, id * 2 + 1]);
    }
    step(&mut log, false, vec![1, 2]);
    let _ = compact_now(&mut log, &*vfs, None);
    step(&mut log, true, vec![20]);
    step(&mut log, false, vec![3, 4]);
    step(&mut log, true, vec![21]);
    let old = sealed(&log);
    let _ = compact_now(&mut log, &*vfs, Some(old));
    step(&mut log, true, vec![22]);
}

#[test]
fn a_crash_anywhere_in_a_compaction_changes_no_record() {
    let report = quick().run(workload, recover, check);
    assert!(!report.truncated && report.distinct > 100, "{report:?}");
}

#[test]
fn any_call_may_fail_once_during_a_compaction() {
    FaultSweep::default().run(workload, recover, check);
}

#[test]
fn what_a_recovery_after_a_kill_served_survives_a_power_loss() {
    let disk = SimDisk::new();
    workload(&disk, &History::new(&disk));
    for point in disk.crash_points() {
        let killed = disk.kill_at(point);
        let served = records(&recover(&killed));
        let parts = killed.pending_at(killed.ops()).len();
        let some = (0..parts).flat_map(|i| [Keep::AllBut(i), Keep::Only(i)]).map(Fate::keeping);
        for fate in [Fate::NOTHING, Fate::EVERYTHING].into_iter().chain(some) {
            let after = killed.crash_now(fate);
            assert_eq!(records(&recover(&after)), served, "killed at {point}, then {fate:?}");
        }
    }
}

#[test]
fn no_file_goes_that_one_of_the_two_highest_manifests_names() {
    let disk = SimDisk::new();
    workload(&disk, &History::new(&disk));
    let lose_highest = |disk: &SimDisk| {
        let manifest = disk.names().into_iter().filter_map(|p| manifest::number_in(p.file_name()?.to_str()?)).max();
        if let Some(number) = manifest.filter(|n| *n > 2) {
            disk.flip_bit(&manifest::path_of(std::path::Path::new("/db"), number), 50, 0);
        }
    };
    for point in disk.crash_points() {
        let crashed = disk.crash(point, Fate::EVERYTHING);
        let served = records(&recover(&crashed));
        lose_highest(&crashed);
        assert_eq!(records(&recover(&crashed)), served, "at {point}");
    }
}

#[test]
fn readers_keep_the_old_segments_until_they_let_go() {
    let (vfs, dir) = (disk(), tempfile::tempdir().unwrap());
    let mut log = create(&vfs, dir.path(), TINY);
    log.append(&[puts(0..5), deletes(0..3)]).unwrap();
    log.seal_active().unwrap();
    let held = log.segments();
    let rows = rows_of(&held).unwrap();
    compact_now(&mut log, &*vfs, None).unwrap().unwrap();
    assert_eq!(rows_of(&held).unwrap(), rows);
    let _: &Arc<dyn VfsFile> = held[0].file();
}
