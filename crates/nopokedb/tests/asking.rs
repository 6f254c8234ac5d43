//! Queries that ask for more than the nearest rows: groups, diversity, examples.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "numbers of a test are small")]

mod support;

use std::collections::BTreeMap;

use nopokedb::{
    Collection, Database, Diversity, ErrorKind, Filter, Grouping, Hit, Id, Metadata, Metric, NewRow, NewRows, Options,
    Query, Scalar, Subject,
};

use support::Rng;

const DIM: usize = 20;
const METRICS: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::Ip];

impl Rng {
    fn vector(&mut self) -> Vec<f32> {
        (0..DIM).map(|_| self.below(20_001) as f32 / 10_000.0 - 1.0).collect()
    }
}

/// `n` random rows with a field `g` of one of `groups` values; every tenth row has none.
fn filled(metric: Metric, n: u64, groups: u64, graph_from: Option<u32>) -> (tempfile::TempDir, Database, Rng) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { metric, graph_from, build_threads: 1, ..Options::new(DIM) };
    let db = Database::open(dir.path(), options).unwrap();
    let mut rng = Rng(n ^ groups);
    let (mut vectors, mut metadatas) = (Vec::new(), Vec::new());
    for i in 0..n {
        vectors.extend(rng.vector());
        let text = if i % 10 == 9 { "{}".into() } else { format!(r#"{{"g":{},"i":{i}}}"#, rng.below(groups as usize)) };
        metadatas.push(Some(Metadata::from_json(&text).unwrap()));
    }
    db.collection().add_many(&vectors, NewRows { metadatas: Some(metadatas), ..NewRows::default() }).unwrap();
    db.wait_indexed(None).unwrap();
    (dir, db, rng)
}

fn ids(hits: &[Hit]) -> Vec<Id> {
    hits.iter().map(|hit| hit.id.clone()).collect()
}

fn by(field: &str, size: usize) -> Option<Grouping> {
    Some(Grouping { field: field.into(), size })
}

fn value(hit: &Hit) -> Scalar {
    let map = hit.metadata.as_ref().unwrap().to_map();
    map.get("g").and_then(|g| g.as_i64()).map_or(Scalar::Null, Scalar::from)
}

/// Groups of all rows, in order, by looking at every row.
fn naive_groups(c: &Collection, vector: &[f32], filter: Option<Filter>, size: usize) -> Vec<Vec<Id>> {
    let all = c.query(vector, &Query { exact: true, filter, ..Query::nearest(1_000_000) }).unwrap();
    let (mut places, mut groups) = (BTreeMap::new(), Vec::new());
    for hit in &all {
        let place = *places.entry(value(hit)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        if groups[place].len() < size {
            groups[place].push(hit.id.clone());
        }
    }
    groups
}

#[test]
fn grouping_gives_the_best_hits_of_each_value_and_always_min_k_groups() {
    for (graph_from, groups) in [(None, 7), (None, 300), (Some(100), 7), (Some(100), 300)] {
        let (_dir, db, mut rng) = filled(Metric::L2, 3_000, groups, graph_from);
        let c = db.collection();
        c.delete_where(&Filter::field("i").gte(2_500)).unwrap();
        for (k, offset, size) in [(1, 0, 1), (5, 0, 1), (5, 3, 1), (400, 0, 1), (4, 1, 3), (20, 0, 1_000)] {
            for filter in [None, Some(Filter::field("g").lt(5)), Some(Filter::field("i").gte(1_000_000))] {
                let vector = rng.vector();
                let truth = naive_groups(&c, &vector, filter.clone(), size);
                let query = Query { k, offset, group: by("g", size), filter, exact: true, ..Query::default() };
                let hits = c.query(&vector, &query).unwrap();
                let page: Vec<Id> = truth.iter().skip(offset).take(k).flatten().cloned().collect();
                assert_eq!(ids(&hits), page, "{groups} groups, {query:?}");
                assert!(hits.iter().all(|hit| hit.group.as_ref() == Some(&value(hit))));
                let fast = c.query(&vector, &Query { exact: false, ..query }).unwrap();
                assert_eq!(fast.len(), page.len(), "as many hits from the index");
                let counted: std::collections::BTreeSet<_> = fast.iter().map(value).collect();
                assert_eq!(counted.len(), truth.len().saturating_sub(offset).min(k));
            }
        }
    }
}

/// The definition, straight from its formula, over the true ranking.
fn naive_mmr(c: &Collection, metric: Metric, vector: &[f32], fetch: usize, k: usize, lambda: f32) -> Vec<Id> {
    let include = nopokedb::Include { metadata: false, document: false, vector: true, ..nopokedb::Include::NONE };
    let rows = c.query(vector, &Query { exact: true, include, ..Query::nearest(fetch) }).unwrap();
    let similarity = |a: &Hit, b: &Hit| {
        let (a, b) = (a.vector.as_ref().unwrap(), b.vector.as_ref().unwrap());
        let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
        match metric {
            Metric::Cosine => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
            Metric::L2 => -a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f32>(),
            Metric::Ip => dot(a, b) - 1.0,
        }
    };
    let mut left: Vec<&Hit> = rows.iter().collect();
    let mut chosen: Vec<&Hit> = Vec::new();
    while chosen.len() < k && !left.is_empty() {
        let value = |hit: &Hit| {
            let most = chosen.iter().map(|c| similarity(hit, c)).fold(f32::NEG_INFINITY, f32::max);
            if chosen.is_empty() { hit.score } else { lambda * hit.score - (1.0 - lambda) * most }
        };
        let best = (0..left.len()).max_by(|a, b| value(left[*a]).total_cmp(&value(left[*b])).then(b.cmp(a))).unwrap();
        chosen.push(left.remove(best));
    }
    chosen.into_iter().map(|hit| hit.id.clone()).collect()
}

#[test]
fn diversity_is_maximal_marginal_relevance_with_exact_distances() {
    for metric in METRICS {
        for graph_from in [None, Some(100)] {
            let (_dir, db, mut rng) = filled(metric, 1_500, 3, graph_from);
            let c = db.collection();
            for lambda in [0.0, 0.3, 0.5, 0.9, 1.0] {
                let vector = rng.vector();
                let diversity = Some(Diversity { lambda, fetch: Some(40) });
                let query = Query { exact: true, diversity, ..Query::nearest(8) };
                let hits = c.query(&vector, &query).unwrap();
                assert_eq!(ids(&hits), naive_mmr(&c, metric, &vector, 40, 8, lambda), "{metric} {lambda}");
                let nearest = c.query(&vector, &Query::nearest(1)).unwrap();
                assert_eq!(hits[0].distance, nearest[0].distance, "the nearest row comes first");
                // A page is a part of the whole.
                let page = c.query(&vector, &Query { k: 3, offset: 2, ..query }).unwrap();
                assert_eq!(page, hits[2..5], "{metric} {lambda}");
            }
        }
    }
}

#[test]
fn diversity_and_groups_answer_in_full_and_work_together() {
    let (_dir, db, mut rng) = filled(Metric::Cosine, 500, 40, None);
    let c = db.collection();
    let diversity = Some(Diversity { lambda: 0.5, fetch: None });
    let everything = c.query(&rng.vector(), &Query { diversity, ..Query::nearest(600) }).unwrap();
    assert_eq!(everything.len(), 500);
    let grouped = Query { diversity, group: by("g", 1), ..Query::nearest(15) };
    let hits = c.query(&rng.vector(), &grouped).unwrap();
    let values: std::collections::BTreeSet<_> = hits.iter().map(value).collect();
    assert_eq!((hits.len(), values.len()), (15, 15));
    let near = c.query(&rng.vector(), &Query { min_score: Some(0.4), ..grouped }).unwrap();
    assert!(near.iter().all(|hit| hit.score >= 0.4));
}

#[test]
fn examples_make_a_query_and_are_left_out_of_its_answer() {
    for metric in METRICS {
        let (_dir, db, mut rng) = filled(metric, 400, 3, None);
        let c = db.collection();
        let row = |id: u64| c.get(Id::Int(id)).unwrap().unwrap().vector;
        let unit = |v: Vec<f32>| {
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            if metric == Metric::Cosine { v.iter().map(|x| x / norm).collect() } else { v }
        };
        let mean = |rows: &[Vec<f32>]| -> Vec<f32> {
            (0..DIM).map(|i| rows.iter().map(|r| r[i]).sum::<f32>() / rows.len() as f32).collect()
        };
        let vector = rng.vector();
        let (p, n) = (mean(&[unit(row(3)), unit(row(5)), unit(vector.clone())]), mean(&[unit(row(7))]));
        let blended: Vec<f32> = p.iter().zip(&n).map(|(p, n)| 2.0 * p - n).collect();
        let examples =
            Query { positive: vec![Id::Int(3), Id::Int(5)], negative: vec![Id::Int(7)], ..Query::nearest(10) };
        let hits = c.query(&vector, &examples).unwrap();
        let plain = c.query(&blended, &Query::nearest(13)).unwrap();
        let mut expected: Vec<Id> = ids(&plain);
        expected.retain(|id| ![3, 5, 7].contains(&id.int().unwrap()));
        expected.truncate(10);
        assert_eq!(ids(&hits), expected, "{metric}");
        // Without a vector, and everything else: all rows but the examples.
        let all = c.query(&[], &Query { k: 1_000, ..examples.clone() }).unwrap();
        assert_eq!(all.len(), 397);
        let alone = c.query(&[], &Query { positive: vec![Id::Int(3)], ..Query::nearest(5) }).unwrap();
        let same = c.query(&row(3), &Query::nearest(6)).unwrap();
        let mut same = ids(&same);
        same.retain(|id| *id != Id::Int(3));
        assert_eq!(ids(&alone), same[..5], "{metric}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (_dir, db, mut rng) = filled(Metric::L2, 50, 3, None);
    let (c, vector) = (db.collection(), rng.vector());
    let argument = ErrorKind::Invalid(Subject::Argument);
    let mmr = |lambda, fetch| Query { diversity: Some(Diversity { lambda, fetch }), ..Query::nearest(5) };
    let three = |positive: &[u64], negative: &[u64]| Query {
        positive: positive.iter().map(|&id| Id::Int(id)).collect(),
        negative: negative.iter().map(|&id| Id::Int(id)).collect(),
        ..Query::default()
    };
    for (query, vector, says) in [
        (mmr(1.5, None), &vector[..], "between 0 and 1, got 1.5"),
        (mmr(f32::NAN, None), &vector, "between 0 and 1"),
        (mmr(0.5, Some(4)), &vector, "between 5 and"),
        (Query { group: by("g", 0), ..Query::default() }, &vector, "group_size must be between 1"),
        (Query { group: by("g", 2), ..mmr(0.5, None) }, &vector, "group_size must be 1"),
        (three(&[99], &[]), &vector, "there is no row 99"),
        (three(&[], &[0]), &[], "positive ones as well"),
    ] {
        let error = c.query(vector, &query).unwrap_err();
        assert!(error.kind() == argument && error.to_string().contains(says), "{error:?}");
    }
    let field = c.query(&vector, &Query { group: by("a..b", 1), ..Query::default() }).unwrap_err();
    assert!(field.to_string().contains("empty key"), "{field}");
    let dimension = ErrorKind::Invalid(Subject::Dimension);
    assert_eq!(c.query(&[], &Query::default()).unwrap_err().kind(), dimension);
    assert!(c.query_many(&vector, &three(&[1], &[])).unwrap_err().to_string().contains("one by one"));
}

#[test]
fn a_row_may_be_an_example_while_it_is_being_replaced() {
    let (_dir, db, _) = filled(Metric::L2, 50, 3, None);
    let c = db.collection();
    let writer = c.clone();
    let writes = std::thread::spawn(move || {
        for i in 0..300u16 {
            let change = nopokedb::Change { vector: Some(vec![f32::from(i); DIM]), ..Default::default() };
            writer.upsert(Id::Int(0), change).unwrap();
        }
    });
    while !writes.is_finished() {
        let hits = c.query(&[], &Query { positive: vec![Id::Int(0)], ..Query::nearest(100) }).unwrap();
        assert_eq!(hits.len(), 49);
        assert!(hits.iter().all(|hit| hit.id.int().unwrap() != 0), "the example itself is never an answer");
    }
    writes.join().unwrap();
    c.add(&[0.5; DIM], NewRow::default()).unwrap();
    assert_eq!(c.len().unwrap(), 51);
}
