//! Filtered queries answer as a naive evaluation of every row does, however few or many rows pass.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "numbers of a test are small")]

mod support;

use std::collections::HashSet;

use nopokedb::{
    Change, Collection, Database, ErrorKind, Filter, Hit, Id, Include, Metadata, Metric, NewRow, NewRows, Options,
    Query, Subject,
};

use support::Rng;

const DIM: usize = 24;
const K: usize = 10;

impl Rng {
    fn unit(&mut self) -> f32 {
        self.below(20_001) as f32 / 10_000.0 - 1.0
    }

    /// A vector of three hidden dimensions; the first component is the first of them.
    fn vector(&mut self) -> Vec<f32> {
        let hidden = [self.unit(), self.unit(), self.unit()];
        (0..DIM).map(|i| hidden[i % 3] * (1.0 + (i / 3) as f32 * 0.1) + self.unit() * 0.02 * (i / 3) as f32).collect()
    }

    /// `side` goes with the vector, `u` with nothing.
    fn metadata(&mut self, vector: &[f32]) -> Metadata {
        let side = if vector[0] > 0.0 { "right" } else { "left" };
        Metadata::from_json(&format!(r#"{{"u":{},"side":"{side}","tags":["t{}"]}}"#, self.below(10_000), self.below(5)))
            .unwrap()
    }
}

fn filter(text: &str) -> Filter {
    Filter::parse_str(text).unwrap()
}

fn object(json: &str) -> Option<Metadata> {
    Some(Metadata::from_json(json).unwrap())
}

fn ids(hits: &[Hit]) -> Vec<u64> {
    hits.iter().map(|hit| hit.id.int().unwrap()).collect()
}

fn small() -> (tempfile::TempDir, Collection) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { metric: Metric::L2, ..Options::new(2) };
    let collection = Database::open(dir.path(), options).unwrap().collection();
    for i in 0..10u8 {
        let metadata = object(&format!(r#"{{"n":{i}}}"#));
        let row = NewRow { metadata, document: Some(format!("row {i}")), ..NewRow::default() };
        collection.add(&[f32::from(i), 0.0], row).unwrap();
    }
    (dir, collection)
}

/// What passes, by looking at every row.
fn naive(c: &Collection, vector: &[f32], filter: &Filter) -> Vec<u64> {
    let all = c.query(vector, &Query { exact: true, ..Query::nearest(1_000_000) }).unwrap();
    let passes = |hit: &&Hit| filter.matches(hit.metadata.as_ref().unwrap());
    all.iter().filter(passes).map(|hit| hit.id.int().unwrap()).collect()
}

/// Compares answers at every selectivity with the naive ones.
fn compare(c: &Collection, rng: &mut Rng, when: &str) {
    let filters = [
        "u < 1",
        "u < 10",
        "u < 100",
        "u < 1000",
        "u < 5000",
        "u < 9000",
        "u >= 0",
        "side = 'left'",
        "side = 'right'",
        "side = 'left' and u < 300",
        "not tags contains 't3'",
        "u > 10000",
        "missing = 1",
    ];
    let (mut found, mut wanted) = (0, 0);
    for text in filters {
        let filter = filter(text);
        for shift in [-1.0, 0.0, 1.0] {
            let mut vector = rng.vector();
            vector.iter_mut().step_by(3).for_each(|x| *x += shift);
            let truth = naive(c, &vector, &filter);
            for exact in [false, true] {
                let query = Query { exact, ..Query::nearest(K).only(filter.clone()) };
                let hits = c.query(&vector, &query).unwrap();
                assert_eq!(hits.len(), K.min(truth.len()), "{when}: {text}");
                assert!(hits.iter().all(|hit| filter.matches(hit.metadata.as_ref().unwrap())), "{when}: {text}");
                assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance), "{when}: {text}");
                let best: HashSet<u64> = truth.iter().copied().take(K).collect();
                let hit = hits.iter().filter(|hit| best.contains(&hit.id.int().unwrap())).count();
                assert!(!exact || hit == best.len(), "{when}: exact {text}");
                (found, wanted) = (found + hit, wanted + best.len());
            }
        }
        assert_eq!(c.count(Some(&filter)).unwrap(), naive(c, &[0.0; DIM], &filter).len(), "{when}: {text}");
    }
    assert!(found * 100 >= wanted * 98, "{when}: found {found} of {wanted}");
}

fn random_life(graph_from: u32, rows: usize) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { metric: Metric::L2, graph_from: Some(graph_from), ..Options::new(DIM) };
    let db = Database::open(dir.path(), options).unwrap();
    let c = db.collection();
    let mut rng = Rng(u64::from(graph_from));
    for _ in 0..2 {
        let vectors: Vec<Vec<f32>> = (0..rows / 2).map(|_| rng.vector()).collect();
        let metadatas = vectors.iter().map(|vector| Some(rng.metadata(vector))).collect();
        c.add_many(&vectors.concat(), NewRows { metadatas: Some(metadatas), ..NewRows::default() }).unwrap();
        compare(&c, &mut rng, "while rows are new");
    }
    db.wait_indexed(None).unwrap();
    compare(&c, &mut rng, "once indexed");
    let recall = |query: Query| c.recall(50, &query).unwrap();
    assert!(recall(Query::nearest(K)) >= 0.95 && recall(Query::nearest(K).only(filter("u < 3000"))) >= 0.95);
    assert!(recall(Query { max_distance: Some(0.0), ..Query::nearest(K) }) >= 1.0, "nothing to be found");
    let gone = filter("side = 'left' and u < 4000");
    let expected = c.count(Some(&gone)).unwrap();
    assert_eq!(c.delete_where(&gone).unwrap(), expected);
    assert_eq!(c.count(Some(&gone)).unwrap(), 0);
    for _ in 0..300 {
        let vector = rng.vector();
        let change = Change { metadata: Some(rng.metadata(&vector)), vector: Some(vector), ..Change::default() };
        c.upsert(Id::Int(rng.below(rows) as u64), change).unwrap();
    }
    compare(&c, &mut rng, "after deletes and upserts");
}

#[test]
fn filtered_answers_are_the_naive_ones_without_a_graph() {
    random_life(u32::MAX, 3_000);
}

#[test]
fn filtered_answers_are_the_naive_ones_with_a_graph() {
    random_life(1_000, 20_000);
}

#[test]
fn a_changed_row_passes_by_its_new_metadata_only() {
    let (_dir, c) = small();
    let three = filter("n = 3");
    assert_eq!(ids(&c.query(&[0.0, 0.0], &Query::nearest(5).only(three.clone())).unwrap()), [3]);
    c.upsert(Id::Int(3), Change { metadata: object(r#"{"n":30}"#), ..Change::default() }).unwrap();
    c.upsert(Id::Int(9), Change { metadata: object(r#"{"n":3}"#), ..Change::default() }).unwrap();
    assert_eq!(ids(&c.query(&[0.0, 0.0], &Query::nearest(5).only(three.clone())).unwrap()), [9]);
    c.delete(Id::Int(9)).unwrap();
    assert_eq!(c.query(&[0.0, 0.0], &Query::nearest(5).only(three.clone())).unwrap(), []);
    assert_eq!(c.count(Some(&three)).unwrap(), 0);
}

#[test]
fn nothing_that_passes_is_an_empty_answer_and_no_rows_at_all_an_error() {
    let (_dir, c) = small();
    let query = Query::nearest(3).only(filter("n > 100"));
    assert_eq!(c.query(&[0.0, 0.0], &query).unwrap(), []);
    assert_eq!(c.query_many(&[0.0; 4], &query).unwrap(), [[], []]);
    assert_eq!(c.delete_where(&filter("n >= 0")).unwrap(), 10);
    assert_eq!(c.query(&[0.0, 0.0], &query).unwrap_err().kind(), ErrorKind::Empty);
    assert_eq!(c.delete_where(&filter("n >= 0")).unwrap(), 0);
}

#[test]
fn a_row_without_metadata_is_like_one_with_an_empty_object() {
    let (_dir, c) = small();
    let id = c.add(&[50.0, 0.0], NewRow::default()).unwrap();
    assert_eq!(c.count(Some(&filter("n is null"))).unwrap(), 1);
    assert_eq!(c.count(Some(&filter("n != 3"))).unwrap(), 10);
    assert_eq!(ids(&c.query(&[0.0, 0.0], &Query::nearest(1).only(filter("n is null"))).unwrap()), [id.int().unwrap()]);
}

#[test]
fn deletes_by_filter_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Database::open(dir.path(), Options { metric: Metric::L2, ..Options::new(1) }).unwrap();
    let db = open();
    for i in 0..6u8 {
        let metadata = object(&format!(r#"{{"n":{i}}}"#));
        db.collection().add(&[f32::from(i)], NewRow { metadata, ..NewRow::default() }).unwrap();
    }
    assert_eq!(db.collection().delete_where(&filter("n between 1 and 3")).unwrap(), 3);
    db.close().unwrap();
    let c = open().collection();
    assert_eq!(ids(&c.query(&[0.0], &Query::nearest(10)).unwrap()), [0, 4, 5]);
}

#[test]
fn limits_of_score_and_distance_and_an_offset_cut_the_answer() {
    let (_dir, c) = small();
    let ask = |query: Query| ids(&c.query(&[0.0, 0.0], &query).unwrap());
    assert_eq!(ask(Query { max_distance: Some(9.0), ..Query::nearest(10) }), [0, 1, 2, 3]);
    assert_eq!(ask(Query { min_score: Some(-4.0), ..Query::nearest(10) }), [0, 1, 2]);
    assert_eq!(ask(Query { offset: 2, ..Query::nearest(3) }), [2, 3, 4]);
    assert_eq!(ask(Query { offset: 2, max_distance: Some(9.0), ..Query::nearest(3) }), [2, 3]);
    assert_eq!(ask(Query { offset: 8, ..Query::nearest(5) }), [8, 9]);
    assert_eq!(ask(Query { offset: 10, ..Query::nearest(5) }), [0u64; 0]);
    assert_eq!(ask(Query { offset: 1, ..Query::nearest(2).only(filter("n in (2, 4, 6, 8)")) }), [4, 6]);
    let refused = c.query(&[0.0, 0.0], &Query { min_score: Some(f32::NAN), ..Query::default() }).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid(Subject::Argument));
}

#[test]
fn hits_carry_what_is_asked_for() {
    let (_dir, c) = small();
    let hit = |include| c.query(&[4.1, 0.0], &Query { include, ..Query::nearest(1) }).unwrap().remove(0);
    let usual = hit(Include::default());
    assert_eq!((usual.metadata, usual.document, usual.vector), (object(r#"{"n":4}"#), None, None));
    let all = hit(Include { metadata: true, document: true, vector: true, ..Include::NONE });
    assert_eq!((all.document.as_deref(), all.vector), (Some("row 4"), Some(vec![4.0, 0.0])));
    let none = hit(Include::NONE);
    assert_eq!((none.metadata, none.document, none.vector), (None, None, None));
}

#[test]
fn many_are_got_in_the_order_asked_for() {
    let (_dir, c) = small();
    let rows = c.get_many(&[Id::Int(7), Id::Int(99), Id::Int(2), Id::Int(7)]).unwrap();
    let found: Vec<Option<u64>> = rows.iter().map(|row| row.as_ref().map(|r| r.id.int().unwrap())).collect();
    assert_eq!(found, [Some(7), None, Some(2), Some(7)]);
}

#[test]
fn a_scroll_meets_every_row_that_stays_exactly_once_whatever_is_written() {
    let (_dir, c) = small();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = c.scroll(after.as_ref(), 3, None).unwrap();
        seen.extend(page.iter().map(|row| row.id.int().unwrap()));
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        // Rows change, go and come while the cursor is on its way.
        c.upsert(Id::Int(0), Change { metadata: object(r#"{"n":0}"#), ..Change::default() }).unwrap();
        c.upsert(Id::Int(8), Change { metadata: object(r#"{"n":8}"#), ..Change::default() }).unwrap();
        c.delete(Id::Int(1)).unwrap();
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let even: Vec<u64> = c
        .scroll(Some(&Id::Int(3)), 2, Some(&filter("n in (2, 4, 6, 8)")))
        .unwrap()
        .iter()
        .map(|r| r.id.int().unwrap())
        .collect();
    assert_eq!(even, [4, 6]);
    assert!(c.scroll(None, 0, None).is_err());
}

#[test]
fn a_filter_beyond_the_limits_is_refused_by_every_verb() {
    let (_dir, c) = small();
    let mut deep = Filter::field("n").eq(1);
    for _ in 0..40 {
        deep = !(deep & Filter::field("n").eq(2));
    }
    let kinds = [
        c.query(&[0.0, 0.0], &Query::nearest(1).only(deep.clone())).unwrap_err(),
        c.count(Some(&deep)).unwrap_err(),
        c.delete_where(&deep).unwrap_err(),
        c.scroll(None, 1, Some(&deep)).unwrap_err(),
    ];
    assert!(kinds.iter().all(|e| e.kind() == ErrorKind::Invalid(Subject::Filter)), "{kinds:?}");
    assert_eq!(c.len().unwrap(), 10);
}

#[test]
fn more_filters_than_are_kept_are_all_answered() {
    let (_dir, c) = small();
    for round in 0..2 {
        for n in 0..100 {
            let hits = c.query(&[0.0, 0.0], &Query::nearest(20).only(filter(&format!("n < {n}")))).unwrap();
            // The second time there is a row of -1 as well.
            assert_eq!(hits.len(), n.min(10) + round);
        }
        c.add(&[0.0, 0.0], NewRow { metadata: object(r#"{"n":-1}"#), ..NewRow::default() }).unwrap();
        c.delete_where(&filter("n = 0")).unwrap();
        c.add(&[0.0, 0.0], NewRow { metadata: object(r#"{"n":0}"#), ..NewRow::default() }).unwrap();
    }
}

#[test]
fn each_query_of_a_call_may_have_a_filter_of_its_own() {
    let (_dir, c) = small();
    let filters = [Some(filter("n >= 5")), None, Some(filter("n > 100")), Some(filter("n < 3"))];
    let vectors = [0.0, 0.0].repeat(4);
    let query = Query::nearest(2).only(filter("n = 9"));
    let found: Vec<Vec<u64>> = c.query_each(&vectors, &filters, &query).unwrap().iter().map(|h| ids(h)).collect();
    assert_eq!(found, [vec![5, 6], vec![0, 1], vec![], vec![0, 1]]);
    let short = c.query_each(&vectors, &filters[1..], &query).unwrap_err();
    assert_eq!(short.kind(), ErrorKind::Invalid(Subject::Filter));
}
