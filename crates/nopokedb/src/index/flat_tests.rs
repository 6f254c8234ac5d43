//! What the scan over codes promises on data that codes have trouble with.

use super::Scratch;
use super::testing::{Holes, Random, Rows, index, truth};
use crate::types::{Metric, Slot};
use crate::vectors::Visibility;

/// Mean share of the true ten that scans return for the last `queries` of `rows`, which are not in the index.
fn recall_of(rows: Rows, queries: usize, metric: Metric) -> f64 {
    let (rows, queries) = rows.split(queries);
    recall_at(&rows, &queries, metric)
}

fn recall_at(rows: &Rows, queries: &Rows, metric: Metric) -> f64 {
    let (index, view) = (index(rows, metric), Holes::all(rows.len()));
    let (mut scratch, mut found) = (Scratch::new(), 0);
    for q in 0..queries.len() {
        let expected = truth(rows, metric, queries.row(q), 10, &view);
        let last = expected.last().expect("ten rows").0;
        let slack = 1e-5 * (1.0 + last.abs());
        let got = index.search_flat(queries.row(q), 10, &view, &mut scratch).expect("rows in memory");
        assert_eq!(got.len(), 10);
        assert!(got.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 != w[1].1), "in order, none twice");
        for (hit, want) in got.iter().zip(&expected) {
            assert!(f64::from(hit.0) >= want.0 - slack, "no distance is better than the best: {} {}", hit.0, want.0);
        }
        found += got.iter().filter(|hit| f64::from(hit.0) <= last + slack).count();
    }
    found as f64 / (10 * queries.len()) as f64
}

fn promise(name: &str, recall: f64) {
    assert!(recall >= 0.99, "{name}: recall {recall}");
}

#[test]
fn recall_holds_on_structureless_rows_in_every_metric_and_dimension() {
    for (metric, dim) in [
        (Metric::Cosine, 20),
        (Metric::L2, 63),
        (Metric::Ip, 64),
        (Metric::Cosine, 128),
        (Metric::L2, 192),
        (Metric::Ip, 260),
        (Metric::Cosine, 384),
        (Metric::L2, 768),
    ] {
        promise(&format!("{metric} {dim}"), recall_of(Rows::gaussian(dim, 2_540, 3), 40, metric));
    }
}

#[test]
fn recall_holds_in_tiny_dimensions() {
    for dim in [1, 2, 3, 4, 16, 17] {
        for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
            // In one dimension all rows have cosine 1 or -1.
            let rows = Rows::gaussian(dim, 1_540, 5);
            promise(&format!("{metric} {dim}"), recall_of(rows, 40, metric));
        }
    }
}

#[test]
fn recall_holds_in_the_largest_dimension() {
    promise("65535", recall_of(Rows::gaussian(65_535, 154, 1), 4, Metric::Cosine));
}

#[test]
fn recall_holds_on_clusters() {
    for (dim, spread) in [(64, 0.5), (128, 0.15), (384, 0.02)] {
        for metric in [Metric::Cosine, Metric::L2] {
            let rows = Rows::clustered(dim, 3_040, 30, spread, 11);
            promise(&format!("{metric} {dim} spread {spread}"), recall_of(rows, 40, metric));
        }
    }
}

#[test]
fn recall_holds_under_heavy_tails() {
    let mut r = Random(17);
    let mut student = |_, _| r.normal() / ((0..3).map(|_| r.normal().powi(2)).sum::<f32>() / 3.0).sqrt().max(1e-6);
    promise("student 128", recall_of(Rows::new(128, 2_540, &mut student), 40, Metric::Cosine));
    promise("student 300", recall_of(Rows::new(300, 2_540, &mut student), 40, Metric::L2));
    let mut lognormal = |_, _| r.normal().exp();
    promise("lognormal 128", recall_of(Rows::new(128, 2_540, &mut lognormal), 40, Metric::Cosine));
    promise("lognormal 384", recall_of(Rows::new(384, 2_540, &mut lognormal), 40, Metric::Cosine));
}

#[test]
fn recall_holds_where_a_few_axes_outweigh_the_rest() {
    let mut r = Random(19);
    let mut spikes = |_, axis: usize| r.normal() * if axis.is_multiple_of(20) { 50.0 } else { 1.0 };
    promise("spikes", recall_of(Rows::new(200, 2_540, &mut spikes), 40, Metric::L2));
    let mut spectrum = |_, axis: usize| r.normal() / (axis + 1) as f32;
    promise("spectrum", recall_of(Rows::new(300, 2_540, &mut spectrum), 40, Metric::Cosine));
}

#[test]
fn recall_holds_on_sparse_rows() {
    let mut r = Random(23);
    let mut sparse = |_, _| if r.below(20) == 0 { r.unit() + 0.1 } else { 0.0 };
    promise("sparse", recall_of(Rows::new(400, 2_540, &mut sparse), 40, Metric::Cosine));
}

#[test]
fn recall_holds_where_all_rows_share_a_large_mean() {
    let mut r = Random(29);
    let mut cone = |_, axis: usize| 3.0 + (axis % 7) as f32 * 0.3 + 0.7 * r.normal();
    promise("cosine", recall_of(Rows::new(384, 2_540, &mut cone), 40, Metric::Cosine));
    promise("l2", recall_of(Rows::new(128, 2_540, &mut cone), 40, Metric::L2));
    promise("ip", recall_of(Rows::new(128, 2_540, &mut cone), 40, Metric::Ip));
}

#[test]
fn recall_holds_where_norms_differ_by_orders_of_magnitude() {
    let (mut r, mut norm) = (Random(31), 1.0);
    let mut wild = |_, axis| {
        if axis == 0 {
            norm = (1.2 * r.normal()).exp();
        }
        norm * r.normal()
    };
    promise("ip 128", recall_of(Rows::new(128, 2_540, &mut wild), 40, Metric::Ip));
    promise("ip 384", recall_of(Rows::new(384, 2_540, &mut wild), 40, Metric::Ip));
    promise("l2 128", recall_of(Rows::new(128, 2_540, &mut wild), 40, Metric::L2));
}

#[test]
fn recall_holds_for_queries_unlike_the_rows() {
    let mut r = Random(37);
    for (metric, dim) in [(Metric::Cosine, 384), (Metric::L2, 128), (Metric::Ip, 256)] {
        let rows = Rows::clustered(dim, 2_500, 50, 0.4, 41);
        let queries = Rows::new(dim, 40, |_, axis| 2.0 * r.normal() + if axis % 3 == 0 { 2.0 } else { -1.0 });
        promise(&format!("{metric} {dim}"), recall_at(&rows, &queries, metric));
    }
}

#[test]
fn recall_holds_on_rows_of_extreme_magnitude() {
    for scale in [1e-30f32, 1e-12, 1e15] {
        let mut r = Random(43);
        let rows = Rows::new(96, 1_040, |_, _| r.normal() * scale);
        promise(&format!("cosine {scale}"), recall_of(rows, 40, Metric::Cosine));
    }
}

#[test]
fn rows_that_are_all_equal_are_as_many_as_asked_for() {
    for dim in [64, 300] {
        let rows = Rows::new(dim, 3_000, |_, axis| axis as f32);
        let (index, view, mut scratch) = (index(&rows, Metric::L2), Holes::all(rows.len()), Scratch::new());
        for k in [1, 10, 1_000, 3_000, 5_000] {
            let got = index.search_flat(rows.row(0), k, &view, &mut scratch).expect("rows in memory");
            assert_eq!(got.len(), k.min(3_000));
            assert!(got.iter().all(|hit| hit.0 == 0.0));
        }
    }
}

#[test]
fn a_scan_returns_min_k_live_whatever_is_deleted_and_wherever() {
    for dim in [32, 256] {
        let rows = Rows::gaussian(dim, 2_000, 47);
        let index = index(&rows, Metric::Cosine);
        let mut random = Random(53);
        for kept in [0, 1, 9, 10, 500] {
            let mut view = Holes { len: 2_000, dead: vec![true; 2_000] };
            (0..kept).for_each(|_| view.dead[random.below(2_000)] = false);
            for k in [1, 10, 100] {
                let got = index.search_flat(rows.row(7), k, &view, &mut Scratch::new()).expect("rows in memory");
                assert_eq!(got.len(), k.min(view.live()), "{kept} of 2,000, k {k}");
                assert!(got.iter().all(|hit| view.is_live(hit.1)));
            }
        }
    }
}

#[test]
fn rows_added_one_by_one_are_found_as_those_added_at_once() {
    for (metric, dim) in [(Metric::Cosine, 128), (Metric::L2, 320)] {
        // With a mean, so that the centre moves while they come.
        let mut r = Random(59);
        let rows = Rows::new(dim, 700, |_, _| 2.0 + r.normal());
        let params = super::IndexParams { graph_from: u32::MAX, ..super::IndexParams::new(dim, metric, 16, 100) };
        let index = super::Index::new(params, std::sync::Arc::new(rows.clone()));
        let mut scratch = Scratch::new();
        for i in 0..rows.len() {
            index.append(Slot(u32::try_from(i).expect("small")), rows.row(i)).expect("rows in memory");
            if i % 37 == 0 {
                let got = index.search_flat(rows.row(i), 1, &Holes::all(i + 1), &mut scratch).expect("rows in memory");
                assert!(got[0].0.abs() < 1e-4, "row {i} is its own nearest: {got:?}");
            }
        }
    }
}

#[test]
fn an_older_view_is_scanned_up_to_its_length_only() {
    let rows = Rows::gaussian(256, 1_000, 61);
    let index = index(&rows, Metric::Ip);
    for len in [100, 128, 191, 500, 999] {
        let got = index.search_flat(rows.row(999), 10, &Holes::all(len), &mut Scratch::new()).expect("rows in memory");
        assert_eq!(got.len(), 10);
        assert!(got.iter().all(|hit| hit.1.index() < len));
    }
}

#[test]
fn many_queries_at_once_get_the_answers_that_each_gets_alone() {
    for (metric, dim) in [(Metric::Cosine, 128), (Metric::L2, 300), (Metric::Ip, 8)] {
        let (rows, queries) = Rows::clustered(dim, 2_019, 20, 0.5, 67).split(19);
        let (index, view) = (index(&rows, metric), Holes::all(rows.len()));
        let (mut scratch, mut scratches) = (Scratch::new(), Vec::new());
        let together = index.search_many(&queries.data, 10, 1 << 16, &view, &mut scratches).expect("rows in memory");
        assert_eq!(together.len(), 19);
        for (q, got) in together.iter().enumerate() {
            let alone = index.search(queries.row(q), 10, 1 << 16, &view, &mut scratch).expect("rows in memory");
            assert_eq!(*got, alone, "{metric}, query {q}");
        }
    }
}
