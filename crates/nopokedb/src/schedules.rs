//! The code that runs without a lock around it, in schedules of shuttle's choice: at every atomic operation, lock and park it
//! may go on with any other thread. Group commit, ids in flight, publication of snapshots, and the graph's lists under
//! searches; the real modules, compiled in the workspace `schedules/` (see `sync.rs`).
//!
//! NOPOKEDB_SCHEDULES=<n> tries so many schedules of each test; `make schedules` a hundred thousand. A failing schedule is
//! printed and can be repeated with `shuttle::replay`. What shuttle does not show: reordering of relaxed operations (its
//! atomics are sequentially consistent).
//!
//! Threading: shuttle's, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

use crate::clock::Clock;
use crate::commit::queue::GroupCommit;
use crate::commit::reserve::Reservations;
use crate::error::ErrorKind;
use crate::generation::{Common, Generation, StoredRow};
use crate::index::testing::{Holes, Rows, truth};
use crate::index::{Index, IndexParams, Scratch};
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use crate::sync::{Mutex, thread};
use crate::types::{Lsn, Metric, RecordId, SegmentNo, Slot};
use crate::vectors::Visibility;
use crate::vectors::rows::{Loc, SegmentTable};

/// Runs `test` in schedules drawn evenly, and in schedules with few, well-placed switches.
fn in_many_schedules(what: &str, share: usize, test: fn()) {
    let asked = std::env::var("NOPOKEDB_SCHEDULES").ok().and_then(|n| n.parse::<usize>().ok());
    let times = (asked.unwrap_or(2_000) / share).max(10);
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    Runner::new(RandomScheduler::new(times / 2), config.clone()).run(test);
    Runner::new(PctScheduler::new(4, times - times / 2), config).run(test);
    println!("schedules: {times} {what}");
}

#[test]
fn each_write_is_in_one_group_and_gets_its_own_answer_in_any_schedule() {
    in_many_schedules("group commit", 1, || {
        let queue = Arc::new(GroupCommit::<u32, u32>::new());
        let (inside, order) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::<u32>::new())));
        let writers: Vec<_> = (0..3u32)
            .map(|t| {
                let (queue, inside, order) = (queue.clone(), inside.clone(), order.clone());
                thread::spawn(move || {
                    for i in 0..2 {
                        let item = t * 10 + i;
                        let answer = queue.submit(item, |items| {
                            assert_eq!(inside.fetch_add(1, SeqCst), 0, "two leaders at once");
                            order.lock().unwrap().extend(&items);
                            assert_eq!(inside.fetch_sub(1, SeqCst), 1);
                            items.iter().map(|x| Ok(x + 100)).collect()
                        });
                        assert_eq!(answer.unwrap(), item + 100);
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        let mut done = order.lock().unwrap().clone();
        assert!((0..3u32).all(|t| done.iter().filter(|x| **x / 10 == t).is_sorted()), "{done:?}");
        done.sort_unstable();
        assert_eq!(done, [0, 1, 10, 11, 20, 21], "each item in exactly one group");
    });
}

#[test]
fn a_leader_that_dies_leaves_nobody_waiting_in_any_schedule() {
    in_many_schedules("group commit, a dying leader", 4, || {
        let queue = Arc::new(GroupCommit::<u32, u32>::new());
        let writers: Vec<_> = (0..3u32)
            .map(|t| {
                let queue = queue.clone();
                thread::spawn(move || {
                    let submit = || {
                        queue.submit(t, |items| {
                            // resume_unwind: a panic without the words on standard error.
                            if items.contains(&1) {
                                std::panic::resume_unwind(Box::new("the leader dies"));
                            }
                            items.iter().map(|x| Ok(*x)).collect()
                        })
                    };
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(submit)) {
                        Ok(Ok(answer)) => assert_eq!(answer, t),
                        Ok(Err(e)) => assert_eq!(e.kind(), ErrorKind::Closed),
                        Err(_) => {}
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        assert!(queue.submit(9, |items| items.iter().map(|x| Ok(*x)).collect()).is_err(), "the queue stays broken");
    });
}

#[test]
fn ids_in_flight_are_nobody_elses_in_any_schedule() {
    in_many_schedules("ids in flight", 1, || {
        let ids = Arc::new(Reservations::new(0));
        let held = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = (0..3u64)
            .map(|t| {
                let (ids, held) = (ids.clone(), held.clone());
                let hold = move |taken: Vec<u64>| {
                    let mut all = held.lock().unwrap();
                    assert!(taken.iter().all(|id| !all.contains(id)), "{taken:?} while {all:?} are in flight");
                    all.extend(&taken);
                    drop(all);
                    thread::yield_now();
                    held.lock().unwrap().retain(|id| !taken.contains(id));
                };
                thread::spawn(move || {
                    for _ in 0..2 {
                        if t == 0 {
                            let (range, reservation) = ids.automatic(2).unwrap();
                            hold(range.collect());
                            drop(reservation);
                        } else {
                            let wanted = [RecordId(1), RecordId(t + 1)];
                            let reservation = ids.given(&wanted);
                            reservation.insert();
                            hold(wanted.iter().map(|id| id.0).collect());
                            drop(reservation);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(ids.next_id() > 3, "automatic ids start above every id that was given");
    });
}

/// The version of each live row that a view shows.
fn shown(generation: &Generation) -> BTreeMap<u64, u64> {
    let view = generation.view();
    let live = (0..view.len()).map(Slot).filter(|slot| view.is_live(*slot));
    let rows: Vec<_> = live.map(|slot| (generation.rows.id(slot).0, generation.rows.loc(slot).offset())).collect();
    assert_eq!(rows.len(), view.snapshot.live as usize, "{rows:?} in {:?}", view.snapshot);
    let map: BTreeMap<u64, u64> = rows.iter().copied().collect();
    assert_eq!(map.len(), rows.len(), "an id twice: {rows:?}");
    map
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all_in_any_schedule() {
    in_many_schedules("snapshots", 2, || {
        let params = IndexParams { graph_from: 0, ..IndexParams::new(1, Metric::L2, 2, 4) };
        let common = Common::new(SegmentTable::default(), &Clock::system());
        let generation = Arc::new(Generation::new(&params, &common));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let g = generation.clone();
                thread::spawn(move || {
                    let mut last = 0;
                    for _ in 0..3 {
                        let rows = shown(&g);
                        let versions: Vec<u64> = rows.values().copied().collect();
                        assert!(versions.is_empty() || versions.len() == 2, "a part of a batch: {rows:?}");
                        assert!(versions.windows(2).all(|v| v[0] == v[1]), "rows of two batches: {rows:?}");
                        let version = versions.first().copied().unwrap_or(0);
                        assert!(version >= last, "a snapshot went back");
                        last = version;
                    }
                })
            })
            .collect();
        // Each batch replaces both rows; the location stands for the version.
        for version in 1..=3u64 {
            let mut apply = generation.applier();
            for id in [7, 8] {
                let lsn = Lsn(version * 10 + id);
                apply.delete(RecordId(id), lsn);
                let loc = Loc::new(SegmentNo(1), version);
                let row = StoredRow { id: RecordId(id), lsn, loc, died: Lsn(0), expires_ms: 0 };
                apply.row(&row, &[0.5]).unwrap();
            }
            apply.publish(Lsn(version * 10 + 9));
        }
        readers.into_iter().for_each(|r| r.join().unwrap());
        assert_eq!(shown(&generation), BTreeMap::from([(7, 3), (8, 3)]));
    });
}

#[test]
fn rows_that_expire_take_no_other_with_them_in_any_schedule() {
    in_many_schedules("expiry", 2, || {
        let clock = Clock::stopped(UNIX_EPOCH + Duration::from_secs(1));
        let params = IndexParams { graph_from: 0, ..IndexParams::new(1, Metric::L2, 2, 4) };
        let generation = Arc::new(Generation::new(&params, &Common::new(SegmentTable::default(), &clock)));
        // What expires is there before anybody looks: a row alone is for generations that nobody reads yet.
        let write = |lsn: u64, gone: &[u64], rows: &[(u64, i64)]| {
            let mut apply = generation.applier();
            gone.iter().for_each(|&id| apply.delete(RecordId(id), Lsn(lsn)));
            for &(id, expires_ms) in rows {
                let (id, lsn, loc) = (RecordId(id), Lsn(lsn), Loc::new(SegmentNo(1), lsn));
                apply.row(&StoredRow { id, lsn, loc, died: Lsn(0), expires_ms }, &[0.5]).unwrap();
            }
            apply.publish(Lsn(lsn));
        };
        write(1, &[], &[(1, 0), (2, 2_500), (3, 3_500)]);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (g, clock) = (generation.clone(), clock.clone());
                thread::spawn(move || {
                    let mut last = Lsn(1);
                    for _ in 0..2 {
                        clock.advance(Duration::from_secs(1));
                        let lsn = g.view().snapshot.lsn;
                        assert!(lsn >= last, "a snapshot went back");
                        last = lsn;
                        let rows = shown(&g);
                        assert!(rows.contains_key(&1) && rows.contains_key(&4) >= (lsn >= Lsn(2)), "{rows:?} at {lsn}");
                    }
                })
            })
            .collect();
        write(2, &[3], &[(4, 0)]);
        write(3, &[2], &[(5, 0)]);
        readers.into_iter().for_each(|r| r.join().unwrap());
        assert_eq!(shown(&generation), BTreeMap::from([(1, 1), (4, 2), (5, 3)]));
    });
}

const ROWS: usize = 10;

/// Rows on a line, so that each has few near neighbours and lists are full and pruned; two of them are equal.
fn line() -> Rows {
    Rows::new(2, ROWS, |i, d| if d == 0 { [0.0, 5.0, 1.0, 6.0, 2.0, 5.0, 3.0, 8.0, 4.0, 9.0][i] } else { 1.0 })
}

/// Searches answer with min(k, live) live rows, each once, nearest first, at their exact distances, whatever the graph covers
/// and whatever list is being changed; with the very nearest ones once all is `settled`.
fn answers(index: &Index, rows: &Rows, view: &Holes, settled: bool) {
    let query = [4.2, 1.0];
    let all = truth(rows, Metric::L2, &query, view.live(), view);
    let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-4;
    let mut scratch = Scratch::new();
    for k in [3, view.live()] {
        for hits in [
            index.search(&query, k, ROWS, view, &mut scratch).unwrap(),
            index.search_graph(&query, k, ROWS, view, &mut scratch).unwrap(),
        ] {
            let slots: BTreeSet<u32> = hits.iter().map(|h| h.1.0).collect();
            assert_eq!((hits.len(), slots.len()), (k, k), "{hits:?}");
            assert!(hits.is_sorted_by(|a, b| a.0 <= b.0), "{hits:?}");
            let exact = |h: &(f32, Slot)| all.iter().any(|e| e.1 == h.1.0 && near(h.0, e.0));
            assert!(hits.iter().all(exact), "{hits:?} of {all:?}");
            assert!(!settled || hits.iter().zip(&all).all(|(h, e)| near(h.0, e.0)), "{hits:?} of {all:?}");
        }
    }
}

#[test]
fn searches_see_every_row_while_lists_change_in_any_schedule() {
    in_many_schedules("graph under searches", 8, || {
        let rows = line();
        let params = IndexParams { graph_from: 0, ..IndexParams::new(2, Metric::L2, 2, 8) };
        let index = Arc::new(Index::new(params, Arc::new(rows.clone())));
        let published = Arc::new(AtomicU32::new(0));
        index.append(Slot(0), &rows.data[..2 * 4]).unwrap();
        published.store(4, SeqCst);
        let never = std::sync::atomic::AtomicBool::new(false);
        let absorber = {
            let (index, published) = (index.clone(), published.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    let view = Holes::all(published.load(SeqCst) as usize);
                    index.absorb(view.len, 1, &view, &never).unwrap();
                }
            })
        };
        let reader = {
            let (index, published, rows) = (index.clone(), published.clone(), rows.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    answers(&index, &rows, &Holes::all(published.load(SeqCst) as usize), false);
                }
            })
        };
        for (from, to) in [(4, 7), (7, ROWS)] {
            index.append(Slot(u32::try_from(from).unwrap()), &rows.data[2 * from..2 * to]).unwrap();
            published.store(u32::try_from(to).unwrap(), SeqCst);
        }
        absorber.join().unwrap();
        reader.join().unwrap();
        answers(&index, &rows, &Holes::all(ROWS), true);
        assert!(index.check(&Holes::all(ROWS)).is_sound(), "{:?}", index.check(&Holes::all(ROWS)));
    });
}

#[test]
fn a_row_that_joins_a_chain_during_a_search_is_found_once_in_any_schedule() {
    // Few rows, so that many schedules have the search between the chain's new link and the graph's new length.
    in_many_schedules("chains under searches", 4, || {
        let rows = Rows::new(2, 4, |i, d| if d == 0 { [5.0, 9.0, 5.0, 5.0][i] } else { 1.0 });
        let params = IndexParams { graph_from: 0, ..IndexParams::new(2, Metric::L2, 2, 8) };
        let index = Arc::new(Index::new(params, Arc::new(rows.clone())));
        let never = std::sync::atomic::AtomicBool::new(false);
        index.append(Slot(0), &rows.data).unwrap();
        index.absorb(2, 1, &Holes::all(2), &never).unwrap();
        let reader = {
            let (index, rows) = (index.clone(), rows.clone());
            // No list changes: whatever the graph covers, the very nearest are found.
            thread::spawn(move || (0..2).for_each(|_| answers(&index, &rows, &Holes::all(4), true)))
        };
        index.absorb(4, 1, &Holes::all(4), &never).unwrap();
        reader.join().unwrap();
        answers(&index, &rows, &Holes::all(4), true);
    });
}

#[test]
fn searches_see_every_live_row_while_dead_ones_are_taken_out_in_any_schedule() {
    in_many_schedules("graph under repair", 8, || {
        let rows = line();
        let params = IndexParams { graph_from: 0, ..IndexParams::new(2, Metric::L2, 2, 8) };
        let index = Arc::new(Index::new(params, Arc::new(rows.clone())));
        let never = std::sync::atomic::AtomicBool::new(false);
        index.append(Slot(0), &rows.data).unwrap();
        index.absorb(u32::MAX, 1, &Holes::all(ROWS), &never).unwrap();
        let mut view = Holes::all(ROWS);
        [1, 4, 6, 8].into_iter().for_each(|dead| view.dead[dead] = true);
        let reader = {
            let (index, rows, view) = (index.clone(), rows.clone(), view.clone());
            thread::spawn(move || (0..2).for_each(|_| answers(&index, &rows, &view, false)))
        };
        index.repair(1, &view, &never).unwrap();
        reader.join().unwrap();
        answers(&index, &rows, &view, true);
        assert!(index.check(&view).is_sound(), "{:?}", index.check(&view));
    });
}
