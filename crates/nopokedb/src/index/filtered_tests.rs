//! Every way among the rows that pass finds nearly what an exact search finds, however few pass and wherever they lie.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // shares of counts, and orders

use super::filtered::Among;
use super::testing::{Holes, Random, Rows, built, oracle, truth};
use super::{Index, Scratch};
use crate::types::{Metric, Slot};

const K: usize = 10;
const EF: usize = 50;

/// What passes: a row's number is in the order of its distance from the query, or in none.
#[derive(Clone, Copy, Debug)]
enum Filter {
    Random,
    Near,
    Far,
    /// The half of the space that the query is not in.
    Side,
}

fn passing(filter: Filter, share: f64, rows: &Rows, query: &[f32], random: &mut Random) -> Holes {
    let mut view = Holes::all(rows.len());
    let count = ((rows.len() as f64 * share) as usize).max(1);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    match filter {
        Filter::Random => order.sort_by_cached_key(|_| random.next()),
        Filter::Near | Filter::Far => order.sort_by_cached_key(|&slot| {
            let distance = (oracle(Metric::L2, query, rows.row(slot)) * 1e6) as i64;
            if matches!(filter, Filter::Near) { distance } else { -distance }
        }),
        Filter::Side => {
            let key = |x: f32| (f64::from(x) * 1e6) as i64;
            let sign = if query[0] < 0.0 { -1 } else { 1 };
            order.sort_by_cached_key(|&slot| sign * key(rows.row(slot)[0]));
        }
    }
    order[count..].iter().for_each(|&slot| view.dead[slot] = true);
    view
}

/// How many of the true neighbours each way finds, and how many there are.
fn compare(
    index: &Index,
    rows: &Rows,
    queries: &Rows,
    filter: Filter,
    share: f64,
    dead: &[bool],
) -> ([usize; 5], usize) {
    let (mut found, mut wanted, mut random, mut scratch) = ([0; 5], 0, Random(9), Scratch::new());
    for q in 0..queries.len() {
        let query = queries.row(q);
        let mut view = passing(filter, share, rows, query, &mut random);
        view.dead.iter_mut().zip(dead).for_each(|(hole, dead)| *hole |= dead);
        let slots: Vec<u32> = (0..view.len).filter(|&slot| !view.dead[slot as usize]).collect();
        let sample: Vec<u32> = slots.iter().copied().step_by((slots.len() / 64).max(1)).take(64).collect();
        let expected = truth(rows, Metric::L2, query, K.min(slots.len()), &view);
        let last = expected.last().map_or(0.0, |row| row.0) * (1.0 + 1e-5) + 1e-5;
        let few = slots.len() * 8 <= rows.len();
        let among = Among { count: slots.len(), slots: few.then_some(&slots), sample: &sample, all_live: true };
        let k = K.min(slots.len());
        if k == 0 {
            // The only row that passed is among the dead.
            continue;
        }
        let answers = [
            index.search_few(query, k, &slots, true, &view, &mut scratch).unwrap(),
            index.search_flat(query, k, &view, &mut scratch).unwrap(),
            index.search_hops(query, k, EF, among, &view, &mut scratch).unwrap(),
            index.search_rare(query, k, EF, among, &view, &mut scratch).unwrap(),
            index.search_among(query, k, EF, among, &view, &mut scratch).unwrap(),
        ];
        wanted += k;
        for (answer, found) in answers.iter().zip(&mut found) {
            assert_eq!(answer.len(), k, "{filter:?} {share}: never short");
            assert!(answer.iter().all(|hit| !view.dead[hit.1.index()]), "{filter:?} {share}: only rows that pass");
            assert!(answer.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)), "{filter:?} {share}: in order, none twice");
            *found += answer.iter().filter(|hit| f64::from(hit.0) <= last).count();
        }
    }
    (found, wanted)
}

fn check(index: &Index, rows: &Rows, queries: &Rows, dead: &[bool]) {
    for filter in [Filter::Random, Filter::Near, Filter::Far, Filter::Side] {
        for share in [1.0, 0.5, 0.1, 0.02, 0.005, 0.0001] {
            let ([gather, scan, hops, walk, planned], wanted) = compare(index, rows, queries, filter, share, dead);
            println!("{filter:?} {share}: {gather} {scan} {hops} {walk} {planned} of {wanted}");
            assert!(gather * 1000 >= wanted * 995, "gather: {gather} of {wanted} at {filter:?} {share}");
            assert!(scan * 100 >= wanted * 98, "scan: {scan} of {wanted} at {filter:?} {share}");
            assert!(planned * 100 >= wanted * 98, "planned: {planned} of {wanted} at {filter:?} {share}");
            // Where the planner takes them.
            assert!(share < 0.1 || hops * 100 >= wanted * 98, "hops: {hops} of {wanted} at {filter:?} {share}");
            assert!(share < 0.1 || walk * 100 >= wanted * 98, "walk: {walk} of {wanted} at {filter:?} {share}");
        }
    }
}

#[test]
fn filtered_recall_holds_at_every_share_wherever_the_rows_lie_and_after_deletes() {
    let (rows, queries) = Rows::clustered(32, 10_016, 40, 0.5, 5).split(16);
    let index = built(&rows, Metric::L2);
    check(&index, &rows, &queries, &vec![false; rows.len()]);
    // A third dies: one whole side, and some everywhere.
    let mut random = Random(3);
    let dead: Vec<bool> = (0..rows.len()).map(|slot| rows.row(slot)[1] > 1.0 || random.below(5) == 0).collect();
    check(&index, &rows, &queries, &dead);
}

#[test]
fn rows_that_share_a_node_are_found_by_hops_if_only_one_of_them_passes() {
    let mut random = Random(4);
    let (dim, copies) = (20, 5);
    let originals: Vec<Vec<f32>> = (0..400).map(|_| (0..dim).map(|_| random.normal()).collect()).collect();
    let data: Vec<f32> = (0..copies).flat_map(|_| originals.iter().flatten().copied()).collect();
    let rows = Rows { dim, data };
    let index = built(&rows, Metric::L2);
    let mut view = Holes::all(rows.len());
    // Of each original one copy passes, mostly not the one that stands for it in the graph.
    (0..rows.len()).for_each(|slot| view.dead[slot] = slot / 400 != slot % copies);
    let mut scratch = Scratch::new();
    for (i, original) in originals.iter().enumerate().step_by(7) {
        let among = Among { count: 400, slots: None, sample: &[], all_live: true };
        let got = index.search_hops(original, 3, EF, among, &view, &mut scratch).unwrap();
        let slot = u32::try_from(i + 400 * (0..copies).find(|c| !view.dead[i + 400 * c]).unwrap()).unwrap();
        assert_eq!(got[0], (0.0, Slot(slot)), "{i}");
    }
}

#[test]
fn hops_that_end_short_are_followed_by_a_scan() {
    let (rows, queries) = Rows::clustered(8, 2_001, 8, 0.2, 5).split(1);
    let index = built(&rows, Metric::L2);
    let view = passing(Filter::Far, 0.01, &rows, queries.row(0), &mut Random(1));
    // Nothing that passes is near, and nobody names a place to start from.
    let among = Among { count: 0, slots: None, sample: &[], all_live: true };
    let got = index.search_hops(queries.row(0), K, EF, among, &view, &mut Scratch::new()).unwrap();
    assert_eq!(got.len(), K);
    assert!(got.iter().all(|hit| !view.dead[hit.1.index()]));
}

#[test]
fn ways_are_measured_on_a_handful_of_rows_too() {
    for n in [1, 2, 9, 10, 11] {
        let rows = Rows::gaussian(32, n, 6);
        let index = built(&rows, Metric::Cosine);
        let view = Holes::all(n);
        let among = Among { count: n, slots: None, sample: &[], all_live: true };
        let got = index.search_among(rows.row(0), n, EF, among, &view, &mut Scratch::new()).unwrap();
        assert_eq!((got.len(), got[0].1), (n, Slot(0)));
    }
}
