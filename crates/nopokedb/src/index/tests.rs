//! The index's promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use proptest::prelude::*;

use super::space::{Space, Stored};
use super::testing::{Holes, Random, Rows, absorb_all, built, index, oracle, recall, truth};
use super::{Index, Scratch};
use crate::error::Result;
use crate::types::{Metric, Slot};
use crate::vectors::{VectorSource, Visibility};

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::Ip];

/// Answers must be exactly min(k, live) visible rows, in order, with right distances.
fn assert_answer(rows: &Rows, metric: Metric, query: &[f32], k: usize, view: &Holes, got: &[(f32, Slot)]) {
    assert_eq!(got.len(), k.min(view.live()), "{metric}: min(k, live) rows");
    assert!(got.windows(2).all(|w| (w[0].0, w[0].1) < (w[1].0, w[1].1)), "{metric}: ascending by distance, then slot");
    for &(distance, slot) in got {
        assert!(slot.0 < view.len() && view.is_live(slot), "{metric}: {slot:?} is not visible");
        let right = oracle(metric, query, rows.row(slot.index()));
        assert!(
            (f64::from(distance) - right).abs() <= 2e-5 * (1.0 + right.abs()),
            "{metric}: {distance} is not {right}"
        );
    }
}

#[test]
fn recall_holds_on_every_family_and_metric() {
    let families = [
        ("gaussian", Rows::gaussian(16, 2_100, 1), 0.97),
        ("clustered", Rows::clustered(32, 2_100, 40, 0.05, 2), 0.98),
        ("one dimension", Rows::gaussian(1, 1_100, 3), 0.99),
        (
            "spikes",
            Rows::new(24, 2_100, |i, j| {
                if (i * 7 + j * 13) % 24 == 0 { 10.0 + i as f32 / 100.0 } else { ((i * j) % 17) as f32 }
            }),
            0.97,
        ),
    ];
    for (name, rows, floor) in families {
        let (rows, queries) = rows.split(100);
        for metric in METRICS {
            let index = built(&rows, metric);
            let got = recall(&index, &rows, metric, &queries, 10, 100);
            assert!(got >= floor, "{name}, {metric}: recall {got} is below {floor}");
            let report = index.check(&Holes::all(rows.len()));
            assert!(report.is_sound(), "{name}, {metric}: {report:?}");
        }
    }
}

#[test]
fn exact_search_is_exact_under_every_metric() {
    let (rows, queries) = Rows::gaussian(33, 520, 4).split(20);
    for metric in METRICS {
        let index = index(&rows, metric);
        let view = Holes::all(rows.len());
        for q in 0..queries.len() {
            let got = index.search_exact(queries.row(q), 10, &view, &mut Scratch::new()).unwrap();
            assert_answer(&rows, metric, queries.row(q), 10, &view, &got);
            let expected: Vec<u32> = truth(&rows, metric, queries.row(q), 10, &view).iter().map(|t| t.1).collect();
            assert_eq!(got.iter().map(|g| g.1.0).collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn a_zero_vector_is_at_cosine_distance_one_from_everything() {
    let mut rows = Rows::gaussian(8, 400, 5);
    rows.data[..8].fill(0.0);
    rows.data[8 * 200..8 * 201].fill(0.0);
    let index = built(&rows, Metric::Cosine);
    let view = Holes::all(400);
    let got = index.search_graph(&[0.0; 8], 400, 400, &view, &mut Scratch::new()).unwrap();
    assert!(got.iter().all(|g| g.0 == 1.0));
    assert_eq!(got.iter().map(|g| g.1.0).collect::<Vec<_>>(), (0..400).collect::<Vec<_>>(), "ties go by slot");
    let hits = index.search_exact(rows.row(7), 400, &view, &mut Scratch::new()).unwrap();
    assert!(hits.iter().filter(|h| h.1.0 == 0 || h.1.0 == 200).all(|h| h.0 == 1.0));
}

#[test]
fn a_thousand_equal_rows_hide_nothing_and_are_all_found() {
    for metric in METRICS {
        let mut rows = Rows::gaussian(16, 2_000, 6);
        let copy = rows.row(3).to_vec();
        for i in (4..2_000).step_by(2) {
            rows.data[i * 16..(i + 1) * 16].copy_from_slice(&copy);
        }
        let index = built(&rows, metric);
        let view = Holes::all(2_000);
        let report = index.check(&view);
        assert!(report.is_sound(), "{metric}: {report:?}");
        let got = index.search_graph(&copy, 999, 50, &view, &mut Scratch::new()).unwrap();
        assert_answer(&rows, metric, &copy, 999, &view, &got);
        if metric != Metric::Ip {
            let copies = got.iter().filter(|g| rows.row(g.1.index()) == copy).count();
            assert_eq!(copies, 999, "{metric}: every copy is found");
        }
        // The rows between the copies are still met.
        let got = recall(&index, &rows, metric, &Rows::gaussian(16, 30, 7), 10, 100);
        assert!(got > 0.97, "{metric}: {got}");
    }
}

#[test]
fn the_graph_does_not_depend_on_threads_or_interruptions_between_batches() {
    let rows = Rows::clustered(24, 3_000, 30, 0.1, 8);
    let links = |index: &Index| -> Vec<Vec<u32>> { (0..3_000).map(|s| index.graph.links(s).collect()).collect() };
    let one = built(&rows, Metric::L2);
    let again = built(&rows, Metric::L2);
    assert!(links(&one) == links(&again), "one thread repeats itself");
    let three = index(&rows, Metric::L2);
    absorb_all(&three, 3);
    assert!(links(&one) == links(&three), "three threads build the same graph");
}

#[test]
fn absorbing_stops_when_told_and_goes_on_later() {
    let rows = Rows::gaussian(8, 1_000, 9);
    let index = index(&rows, Metric::L2);
    let view = Holes::all(1_000);
    assert_eq!(index.absorb(1_000, 1, &view, &AtomicBool::new(true)).unwrap(), 0);
    assert_eq!(index.absorb(300, 1, &view, &AtomicBool::new(false)).unwrap(), 300);
    assert_eq!(index.graph_len(), 300);
    let got = index.search_graph(rows.row(999), 10, 50, &view, &mut Scratch::new()).unwrap();
    assert_eq!(got[0].1, Slot(999), "the tail is searched too");
    assert_eq!(index.absorb(u32::MAX, 1, &view, &AtomicBool::new(false)).unwrap(), 700);
    assert!(index.check(&view).is_sound());
}

#[test]
fn a_small_collection_gets_no_graph() {
    let rows = Rows::gaussian(4, 50, 10);
    let params = super::IndexParams::new(4, Metric::L2, 16, 100);
    let index = Index::new(params, std::sync::Arc::new(rows.clone()));
    index.append(Slot(0), &rows.data).unwrap();
    assert_eq!(index.absorb(50, 1, &Holes::all(50), &AtomicBool::new(false)).unwrap(), 0);
    let got = index.search(rows.row(7), 5, 50, &Holes::all(50), &mut Scratch::new()).unwrap();
    assert_answer(&rows, Metric::L2, rows.row(7), 5, &Holes::all(50), &got);
}

#[test]
fn rows_dead_before_absorption_are_covered_but_never_met() {
    let rows = Rows::gaussian(8, 1_200, 11);
    let index = index(&rows, Metric::Cosine);
    let mut view = Holes::all(1_200);
    (0..1_200).step_by(3).for_each(|i| view.dead[i] = true);
    index.absorb(u32::MAX, 1, &view, &AtomicBool::new(false)).unwrap();
    assert_eq!(index.graph_len(), 1_200);
    let report = index.check(&view);
    assert!(report.is_sound() && report.nodes == 800, "{report:?}");
    let got = index.search_graph(rows.row(0), 800, 50, &view, &mut Scratch::new()).unwrap();
    assert_answer(&rows, Metric::Cosine, rows.row(0), 800, &view, &got);
}

/// Live nodes must not link to dead ones, and must all be reachable through live ones.
fn assert_repaired(index: &Index, view: &Holes) {
    let report = index.check(view);
    assert!(report.is_sound(), "{report:?}");
    // An entry point without a live node near it stays.
    let nodes = u32::try_from(view.live() + 3).unwrap();
    assert!(report.nodes <= nodes, "dead nodes can still be walked to: {report:?}, {} live", view.live());
}

#[test]
fn repair_takes_dead_rows_out_and_loses_no_live_one() {
    for (share, seed) in [(10, 1), (50, 2), (97, 3)] {
        let (rows, queries) = Rows::clustered(16, 2_050, 30, 0.2, seed).split(50);
        let index = built(&rows, Metric::L2);
        let mut view = Holes::all(2_000);
        let mut random = Random(seed);
        view.dead.iter_mut().for_each(|d| *d = random.below(100) < share);
        let fixed = index.repair(1, &view, &AtomicBool::new(false)).unwrap();
        assert!(fixed > 0);
        assert_repaired(&index, &view);
        assert_eq!(index.repair(1, &view, &AtomicBool::new(false)).unwrap(), 0, "nothing is left to repair");
        let mut scratch = Scratch::new();
        let mut found = 0;
        for q in 0..50 {
            let expected = truth(&rows, Metric::L2, queries.row(q), 10, &view);
            let got = index.search_graph(queries.row(q), 10, 50, &view, &mut scratch).unwrap();
            assert_answer(&rows, Metric::L2, queries.row(q), 10, &view, &got);
            found += got.iter().filter(|g| expected.iter().any(|e| e.1 == g.1.0)).count();
        }
        assert!(found >= 485, "{share} % dead: {found} of 500 found");
    }
}

#[test]
fn repair_does_not_depend_on_threads_and_can_be_interrupted() {
    let rows = Rows::gaussian(8, 2_000, 4);
    let mut view = Holes::all(2_000);
    (0..2_000).filter(|i| i % 5 < 2).for_each(|i| view.dead[i] = true);
    let repaired = |threads: usize| {
        let index = built(&rows, Metric::Cosine);
        assert_eq!(index.repair(threads, &view, &AtomicBool::new(true)).unwrap(), 0);
        assert!(index.check(&view).is_sound(), "an interrupted repair leaves a sound graph");
        index.repair(threads, &view, &AtomicBool::new(false)).unwrap();
        assert_repaired(&index, &view);
        (0..2_000).map(|s| index.graph.links(s).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert!(repaired(1) == repaired(3));
}

#[test]
fn churn_keeps_recall() {
    let rounds = 6;
    let (rows, queries) = Rows::clustered(12, 500 * (rounds + 2) + 60, 25, 0.3, 5).split(60);
    let fresh = |from: usize, to: usize| {
        let rows = Rows { dim: 12, data: rows.data[from * 12..to * 12].to_vec() };
        recall(&built(&rows, Metric::L2), &rows, Metric::L2, &queries, 10, 30)
    };
    let index = index(&rows, Metric::L2);
    let mut view = Holes::all(rows.len());
    let stop = AtomicBool::new(false);
    let mut scratch = Scratch::new();
    for round in 0..=rounds {
        let upto = 500 * (round + 2);
        view.len = u32::try_from(upto).unwrap();
        (0..500 * round).for_each(|i| view.dead[i] = true);
        index.absorb(view.len, 1, &view, &stop).unwrap();
        index.repair(1, &view, &stop).unwrap();
        assert_repaired(&index, &view);
        let mut found = 0;
        for q in 0..queries.len() {
            let expected = truth(&rows, Metric::L2, queries.row(q), 10, &view);
            let got = index.search_graph(queries.row(q), 10, 30, &view, &mut scratch).unwrap();
            found += got.iter().filter(|g| expected.iter().any(|e| e.1 == g.1.0)).count();
        }
        let (got, fresh) = (found as f64 / 600.0, fresh(500 * round, upto));
        assert!(got >= fresh - 0.02, "round {round}: recall {got}, a fresh graph has {fresh}");
    }
}

/// Rows of which some have lost their bytes.
struct Worn {
    rows: Rows,
    gone: Vec<bool>,
}

impl VectorSource for Worn {
    fn with_vector(&self, slot: Slot, f: &mut dyn FnMut(&[f32])) -> Result<()> {
        if self.gone[slot.index()] { Ok(()) } else { self.rows.with_vector(slot, f) }
    }

    fn dim(&self) -> usize {
        self.rows.dim
    }
}

#[test]
fn rows_without_bytes_are_no_walls_in_a_graph_without_codes() {
    // On a line each row's way to the next leads through its neighbours. Two rows of three are written again, so that they
    // hang on the chain of the one that dies; then the bytes of those that died go.
    let n = 1_000;
    let line = Rows::new(1, 2 * n, |i, _| (i % n * 37 % n) as f32);
    let mut index = built(&line, Metric::L2);
    let mut view = Holes::all(2 * n);
    for i in 0..n {
        view.dead[if i % 3 == 0 { n + i } else { i }] = true;
    }
    index.repair(1, &view, &AtomicBool::new(false)).unwrap();
    let gone = view.dead.clone();
    index.space = Space::new(Metric::L2, Arc::new(Worn { rows: line.clone(), gone }), Stored::new());
    for q in 0..n {
        let expected = truth(&line, Metric::L2, line.row(q), 10, &view);
        let got = index.search_graph(line.row(q), 10, 30, &view, &mut Scratch::new()).unwrap();
        assert!(got.iter().zip(&expected).all(|(g, e)| f64::from(g.0) == e.0), "{got:?} for {expected:?}");
    }
}

#[test]
fn churn_along_a_line_hides_nothing() {
    // On a line a repaired node has nothing but its two neighbours to be found through: behind a stretch of dead rows, the
    // next live one is several links away.
    let (live, rounds, each) = (2_000, 12, 700);
    let (rows, queries) = Rows::gaussian(1, live + rounds * each + 200, 9).split(200);
    let index = index(&rows, Metric::L2);
    let mut view = Holes::all(rows.len());
    let (stop, mut scratch, mut random) = (AtomicBool::new(false), Scratch::new(), Random(1));
    view.len = u32::try_from(live).unwrap();
    for round in 0..rounds {
        for _ in 0..each {
            let upto = view.len as usize;
            let dead = std::iter::repeat_with(|| random.below(upto)).find(|&i| !view.dead[i]).unwrap();
            view.dead[dead] = true;
            view.len += 1;
        }
        index.absorb(view.len, 1, &view, &stop).unwrap();
        index.repair(1, &view, &stop).unwrap();
        for q in 0..queries.len() {
            let query = queries.row(q);
            let expected = truth(&rows, Metric::L2, query, 10, &view);
            let got = index.search_graph(query, 10, 50, &view, &mut scratch).unwrap();
            assert!(got.iter().zip(&expected).all(|(g, e)| g.1.0 == e.1), "round {round}: {got:?} for {expected:?}");
        }
    }
}

#[test]
fn readers_see_no_wrong_row_while_the_graph_grows() {
    let rows = Rows::clustered(16, 3_000, 20, 0.3, 12);
    let index = index(&rows, Metric::L2);
    let view = Holes::all(3_000);
    let done = AtomicBool::new(false);
    let searches = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (index, rows, view, done, searches) = (&index, &rows, &view, &done, &searches);
            scope.spawn(move || {
                let mut random = Random(reader);
                let mut scratch = Scratch::new();
                while !done.load(Ordering::Relaxed) {
                    let query = rows.row(random.below(3_000));
                    let got = index.search_graph(query, 10, 40, view, &mut scratch).unwrap();
                    assert_answer(rows, Metric::L2, query, 10, view, &got);
                    assert_eq!(got[0].0, 0.0, "a row finds itself whether it is in the tail or in the graph");
                    searches.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        absorb_all(&index, 2);
        done.store(true, Ordering::Relaxed);
    });
    assert!(searches.into_inner() > 0);
    assert!(index.check(&view).is_sound());
}

#[test]
fn an_older_view_never_sees_younger_rows() {
    let rows = Rows::gaussian(8, 1_000, 13);
    let index = built(&rows, Metric::L2);
    let mut view = Holes::all(1_000);
    view.len = 137;
    let got = index.search_graph(rows.row(900), 200, 50, &view, &mut Scratch::new()).unwrap();
    assert_answer(&rows, Metric::L2, rows.row(900), 200, &view, &got);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn min_k_live_rows_come_back_whatever_is_deleted(
        seed in any::<u64>(),
        n in 1usize..400,
        absorbed in 0.0f64..=1.0,
        dead_share in prop_oneof![Just(0.0f32), Just(1.0), 0.0f32..1.0],
        k in prop_oneof![1usize..20, 1usize..500],
        metric in prop_oneof![Just(Metric::Cosine), Just(Metric::L2), Just(Metric::Ip)],
        copies in 1usize..50,
    ) {
        let mut random = Random(seed);
        let distinct = Rows::gaussian(6, n.div_ceil(copies), seed);
        let rows = Rows::new(6, n, |i, j| distinct.row(i / copies)[j]);
        let index = index(&rows, metric);
        let mut view = Holes::all(n);
        #[allow(clippy::cast_possible_truncation)] // n < 400
        let upto = (n as f64 * absorbed) as u32;
        // Half of the deletes happen before absorption, half after.
        for i in 0..n / 2 { view.dead[i] = random.unit() < dead_share; }
        index.absorb(upto, 1, &view, &AtomicBool::new(false)).unwrap();
        for i in n / 2..n { view.dead[i] = random.unit() < dead_share; }
        let query: Vec<f32> = (0..6).map(|_| random.normal()).collect();
        let mut scratch = Scratch::new();
        for got in [index.search_graph(&query, k, 20, &view, &mut scratch), index.search(&query, k, 1, &view, &mut scratch)] {
            assert_answer(&rows, metric, &query, k, &view, &got.unwrap());
        }
    }
}
