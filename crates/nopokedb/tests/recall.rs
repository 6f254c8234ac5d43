//! A query may ask for a share of the nearest rows instead of a beam width, and for an account of what was done.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "numbers of a test are small")]

mod support;

use nopokedb::{
    Collection, Database, Diversity, Filter, Grouping, Metadata, Metric, NewRows, Options, Plan, Query, Scalar,
};

use support::Rng;

const DIM: usize = 32;

impl Rng {
    /// About normal.
    fn normal(&mut self) -> f32 {
        (0..6).map(|_| (self.next() % 20_001) as f32 / 10_000.0 - 1.0).sum::<f32>() / 1.41
    }
}

/// Rows in `clusters` clusters, and as many queries like them as asked for.
fn clustered(n: usize, clusters: usize, queries: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut rng = Rng(7);
    let centres: Vec<f32> = (0..clusters * DIM).map(|_| rng.normal()).collect();
    let mut row = || {
        let centre = (rng.next() as usize % clusters) * DIM;
        (0..DIM).map(|i| centres[centre + i] + 0.7 * rng.normal()).collect::<Vec<f32>>()
    };
    let rows = (0..n).flat_map(|_| row()).collect();
    (rows, (0..queries).map(|_| row()).collect())
}

/// `n` clustered rows, a graph over them, a field `half` of 0 or 1 and a field `part` of 0 to 999.
fn filled(n: usize, metric: Metric) -> (tempfile::TempDir, Database, Vec<Vec<f32>>) {
    let (rows, queries) = clustered(n, n / 500, 150);
    let dir = tempfile::tempdir().unwrap();
    let options = Options { metric, graph_from: Some(1_000), ef: 12, ..Options::new(DIM) };
    let db = Database::open(dir.path(), options).unwrap();
    let metadata = |i| Metadata::from_json(&format!(r#"{{"half":{},"part":{}}}"#, i % 2, i % 1000)).unwrap();
    let metadatas = Some((0..n).map(|i| Some(metadata(i))).collect());
    db.collection().add_many(&rows, NewRows { metadatas, ..NewRows::default() }).unwrap();
    db.wait_indexed(None).unwrap();
    (dir, db, queries)
}

/// The share of the truly nearest that `query` finds.
fn recall(c: &Collection, queries: &[Vec<f32>], query: &Query) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    let exact = Query { exact: true, ef: None, recall: None, ..query.clone() };
    for vector in queries {
        let truth = c.query(vector, &exact).unwrap();
        let last = truth.last().unwrap().distance;
        let hits = c.query(vector, query).unwrap();
        found += hits.iter().filter(|hit| hit.distance <= last).count();
        wanted += truth.len();
    }
    found as f64 / wanted as f64
}

#[test]
fn a_recall_that_is_asked_for_is_reached() {
    for metric in [Metric::L2, Metric::Cosine] {
        let (_dir, db, queries) = filled(20_000, metric);
        let c = db.collection();
        let narrow = recall(&c, &queries, &Query { ef: Some(10), ..Query::nearest(10) });
        for k in [1, 10] {
            for target in [0.8, 0.95, 0.99, 0.9995, 1.0] {
                let query = Query { recall: Some(target), ..Query::nearest(k) };
                let reached = recall(&c, &queries, &query);
                println!("{metric} k={k} target {target}: {reached:.4}; a beam of 10 finds {narrow:.4} of 10");
                assert!(reached >= f64::from(target), "{metric} k={k}: asked for {target}, got {reached}");
                let half = Query { filter: Some(Filter::field("half").eq(0)), ..query };
                let reached = recall(&c, &queries[..40], &half);
                assert!(reached >= f64::from(target), "{metric} k={k}, half: asked for {target}, got {reached}");
            }
        }
        assert!(c.recall(50, &Query { recall: Some(0.95), ..Query::nearest(10) }).unwrap() >= 0.95);
        for (recall, ef) in [(0.0, None), (1.1, None), (f32::NAN, None), (0.9, Some(50))] {
            assert!(c.query(&queries[0], &Query { recall: Some(recall), ef, ..Query::default() }).is_err());
        }
    }
}

#[test]
fn a_small_collection_reaches_any_recall() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(DIM)).unwrap();
    let (rows, queries) = clustered(40, 3, 5);
    let c = db.collection();
    for n in [1, 2, 5, 40] {
        c.delete_where(&Filter::everything()).unwrap();
        c.add_many(&rows[..n * DIM], NewRows::default()).unwrap();
        for target in [0.5, 0.99, 1.0] {
            assert_eq!(recall(&c, &queries, &Query { recall: Some(target), ..Query::nearest(7) }), 1.0);
        }
    }
}

#[test]
fn an_explanation_says_what_was_done() {
    let (_dir, db, queries) = filled(20_000, Metric::L2);
    let (c, vector) = (db.collection(), &queries[0]);
    let told = |query: &Query| {
        let (hits, told) = c.explain(vector, query).unwrap();
        assert_eq!(hits, c.query(vector, query).unwrap(), "explaining changes nothing");
        assert_eq!(told.rows, 20_000);
        assert!(told.total >= told.stages.iter().map(|(_, took)| *took).sum());
        told
    };
    let names = |told: &nopokedb::Explanation| told.stages.iter().map(|(name, _)| *name).collect::<Vec<_>>();

    let exact = told(&Query { exact: true, ..Query::nearest(5) });
    assert_eq!((exact.plan, exact.exact_distances, exact.code_distances), (Plan::Exact, 20_000, 0));
    assert_eq!((exact.candidates, exact.matches, names(&exact)), (5, None, vec!["plan", "search", "rows"]));

    let usual = told(&Query::nearest(5));
    match usual.plan {
        Plan::Graph => assert!(usual.ef == Some(12) && (1..20_000).contains(&usual.code_distances)),
        plan => assert!(plan == Plan::Scan && usual.rows_scanned == 20_000 && usual.code_distances >= 20_000),
    }
    assert!((5..5_000).contains(&usual.exact_distances), "{usual:?}");

    let few = told(&Query::nearest(5).only(Filter::field("part").eq(3)));
    assert_eq!((few.plan, few.matches, few.exact_distances), (Plan::Gather, Some(20), 20));
    assert_eq!(names(&few), ["plan", "filter", "search", "rows"]);
    let none = told(&Query::nearest(5).only(Filter::field("part").eq(-1)));
    assert_eq!((none.matches, none.exact_distances, none.candidates), (Some(0), 0, 0));

    let mmr = Some(Diversity { lambda: 0.5, fetch: Some(50) });
    let diverse = told(&Query { diversity: mmr, ..Query::nearest(5) });
    assert_eq!((diverse.candidates, names(&diverse)), (50, vec!["plan", "search", "mmr", "rows"]));
    let group = Some(Grouping { field: "half".into(), size: 1 });
    let grouped = told(&Query { group, ..Query::nearest(5) });
    assert!(grouped.searches > 1, "two groups are all there are, which takes all rows to know");
    assert!(names(&grouped).contains(&"group"));
}

#[test]
fn facets_count_values_as_filters_see_them() {
    let (_dir, db, _) = filled(2_000, Metric::L2);
    let c = db.collection();
    let counts = |filter: Option<&str>, field: &str, limit| -> Vec<(Scalar, usize)> {
        let filter = filter.map(|text| Filter::parse_str(text).unwrap());
        c.facets(field, filter.as_ref(), limit).unwrap().into_iter().map(|f| (f.value, f.count)).collect()
    };
    assert_eq!(counts(None, "half", 9), [(Scalar::from(0), 1_000), (Scalar::from(1), 1_000)]);
    assert_eq!(counts(None, "half", 1).len(), 1);
    assert_eq!(counts(None, "part", 2_000).len(), 1_000);
    assert_eq!(counts(None, "missing", 9), []);
    for (value, count) in counts(Some("part < 30"), "half", 9) {
        let filter = Filter::field("half").eq(value) & Filter::field("part").lt(30);
        assert_eq!(c.count(Some(&filter)).unwrap(), count);
    }
    let tagged =
        |json: &str| nopokedb::NewRow { metadata: Some(Metadata::from_json(json).unwrap()), ..Default::default() };
    for json in [r#"{"t":["a","b","a"]}"#, r#"{"t":"b"}"#, r#"{"t":null}"#, r#"{"t":[]}"#] {
        c.add(&[0.0; DIM], tagged(json)).unwrap();
    }
    let text = |t: &str| Scalar::from(t);
    assert_eq!(counts(None, "t", 9), [(text("b"), 2), (Scalar::Null, 1), (text("a"), 1)]);
    assert!(c.facets("a..b", None, 9).is_err() && c.facets("t", None, 0).is_err());
    c.delete_where(&Filter::everything()).unwrap();
    assert_eq!(counts(None, "half", 9), []);
}
