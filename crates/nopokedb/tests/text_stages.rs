//! Searches for words that ask for more: groups, diversity, examples, how they were answered; and those through readers.
#![allow(clippy::disallowed_methods, reason = "looks at a real directory")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nopokedb::{
    Collection, CollectionOptions, Database, Diversity, ErrorKind, Filter, Grouping, Hit, Id, Metadata, Metric, NewRow,
    Options, Plan, Query, Scalar, Subject, Text, Tokenizer,
};
use tempfile::TempDir;

/// Rows 0 to 399: row `i` is of group `i % 7`, has the word "common" `1 + i % 5` times, and lies at `(i, i % 3)`.
fn rows(dir: &TempDir, metric: Metric) -> (Database, Collection) {
    let db = Database::open(dir.path(), Options { metric, ..Options::new(2) }).unwrap();
    let rows = db.collection();
    for i in 0..400u16 {
        let metadata = Some(Metadata::from_json(&format!(r#"{{"g": {}, "i": {i}}}"#, i % 7)).unwrap());
        let document = Some(format!("{} padding{i}", "common ".repeat(1 + usize::from(i % 5))));
        let row = NewRow { id: Some(u64::from(i).into()), metadata, document, ..NewRow::default() };
        rows.add(&[f32::from(i), f32::from(i % 3)], row).unwrap();
    }
    (db, rows)
}

fn asked(words: &str, k: usize) -> Query {
    Query { text: Some(Text::new(words)), ..Query::nearest(k) }
}

fn ids(hits: &[Hit]) -> Vec<u64> {
    hits.iter().map(|hit| hit.id.int().unwrap()).collect()
}

/// The first `k` groups of `hits`, which are all there are, `size` hits each, in the order of their best.
fn grouped(hits: &[Hit], k: usize, size: usize) -> Vec<u64> {
    let mut order: Vec<u64> = Vec::new();
    let mut groups: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for id in ids(hits) {
        let group = groups.entry(id % 7).or_default();
        if group.is_empty() {
            order.push(id % 7);
        }
        group.push(id);
    }
    order.into_iter().take(k).flat_map(|g| groups[&g].iter().copied().take(size).collect::<Vec<_>>()).collect()
}

#[test]
fn groups_hold_the_best_of_each_value_by_words_and_by_both() {
    let dir = TempDir::new().unwrap();
    let (_db, rows) = rows(&dir, Metric::L2);
    let only = Filter::parse_str("g != 3").unwrap();
    for (k, size, offset, filter) in [(3, 2, 0, None), (7, 1, 0, None), (9, 60, 0, None), (2, 3, 4, Some(only))] {
        let query = Query { filter, offset: 0, ..asked("common", 400) };
        let grouping = Some(Grouping { field: "g".into(), size });
        let by_words = rows.search_text(&query).unwrap();
        let first = Query { k, offset, group: grouping, ..query.clone() };
        let want = grouped(&by_words, k + offset, size);
        let skipped = grouped(&by_words, offset, size).len();
        let got = rows.search_text(&first).unwrap();
        assert_eq!(ids(&got), want[skipped..], "{k} {size} {offset}");
        assert!(got.iter().all(|hit| hit.group == hit.id.int().map(|id| Scalar::Integer(i128::from(id % 7)))));
        // Beside a vector, as many groups as there are, none twice.
        let both = rows.query(&[200.0, 1.0], &first).unwrap();
        let mut groups: Vec<u64> = ids(&both).iter().map(|id| id % 7).collect();
        groups.dedup();
        assert_eq!(groups.len(), k.min(if query.filter.is_some() { 6 } else { 7 }).min(7 - offset), "{groups:?}");
        assert!(both.iter().all(|hit| hit.distance.is_finite()));
    }
}

#[test]
fn diverse_hits_are_the_best_that_are_unlike_each_other() {
    for metric in [Metric::L2, Metric::Cosine, Metric::Ip] {
        let dir = TempDir::new().unwrap();
        let db = Database::open(dir.path(), Options { metric, ..Options::new(2) }).unwrap();
        let rows = db.collection();
        // Two bundles of rows that are alike; the words rank one bundle before the other.
        for i in 0..20u64 {
            let (vector, words) =
                if i < 10 { ([3.0, 0.0], "word word word") } else { ([0.0, 3.0], "word other thing") };
            let row = NewRow { id: Some(i.into()), document: Some(words.into()), ..NewRow::default() };
            rows.add(&vector, row).unwrap();
        }
        let plain = rows.search_text(&asked("word", 4)).unwrap();
        assert!(ids(&plain).iter().all(|id| *id < 10));
        let diverse = |lambda| Query { diversity: Some(Diversity { lambda, fetch: Some(20) }), ..asked("word", 4) };
        assert_eq!(ids(&rows.search_text(&diverse(1.0)).unwrap()), ids(&plain));
        let hits = ids(&rows.search_text(&diverse(0.4)).unwrap());
        assert!(hits[0] < 10 && hits[1] >= 10, "{metric:?} {hits:?}");
        let both = ids(&rows.query(&[3.0, 0.1], &diverse(0.3)).unwrap());
        assert!(both[0] < 10 && both[1] >= 10, "{metric:?} {both:?}");
        // Pages do not overlap.
        let second = Query { offset: 2, k: 2, ..diverse(0.4) };
        assert_eq!(ids(&rows.search_text(&second).unwrap()), hits[2..]);
    }
}

#[test]
fn examples_say_where_to_look_beside_words_and_are_left_out() {
    let dir = TempDir::new().unwrap();
    let (_db, rows) = rows(&dir, Metric::L2);
    let query = Query { positive: vec![Id::Int(100)], ..asked("padding104", 5) };
    let hits = rows.search_text(&query).unwrap();
    assert_eq!(ids(&hits)[0], 104, "found by the words, and near");
    assert!(ids(&hits).iter().all(|id| *id != 100 && id.abs_diff(100) < 10), "{hits:?}");
    assert_eq!(ids(&hits), ids(&rows.query(&[], &query).unwrap()));
    let beside = rows.query(&[140.0, 1.0], &query).unwrap();
    assert!(ids(&beside)[1..].iter().all(|id| id.abs_diff(120) < 10), "half-way between: {beside:?}");
    let away = Query { positive: Vec::new(), negative: vec![Id::Int(1)], ..asked("common", 5) };
    assert!(rows.search_text(&away).unwrap_err().message().contains("positive"));
    let unknown = Query { positive: vec![Id::Int(9_999)], ..asked("common", 5) };
    assert!(rows.search_text(&unknown).unwrap_err().message().contains("9999"));
}

#[test]
fn an_explanation_tells_of_words_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (_db, rows) = rows(&dir, Metric::Cosine);
    let query = Query { filter: Some(Filter::parse_str("g < 2").unwrap()), ..asked("common padding7", 10) };
    let (hits, told) = rows.explain(&[], &query).unwrap();
    assert_eq!(ids(&hits), ids(&rows.search_text(&query).unwrap()));
    assert_eq!((told.plan, told.rows, told.text_candidates), (Plan::Words, 400, Some(10)));
    let stages: Vec<_> = told.stages.iter().map(|(name, _)| *name).collect();
    assert_eq!(stages, ["wait", "text", "rows"]);
    let (hits, told) = rows.explain(&[1.0, 0.0], &query).unwrap();
    assert_eq!(ids(&hits), ids(&rows.query(&[1.0, 0.0], &query).unwrap()));
    assert!(told.plan != Plan::Words && told.candidates > 0 && told.text_candidates.unwrap() > 10, "{told:?}");
    assert_eq!(told.matches, Some(115));
    assert!(told.stages.iter().map(|(_, took)| *took).sum::<std::time::Duration>() <= told.total);
    assert!(rows.explain(&[], &Query::nearest(3)).is_err(), "nothing to look for");
}

/// Every file below `dir` and its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| {
        if path.is_dir() { files(&path) } else { [(path.clone(), std::fs::read(path).unwrap())].into() }
    };
    entries.flat_map(of).collect()
}

fn reader(dir: &Path) -> Database {
    Database::open(dir, Options { metric: Metric::L2, ..Options::reading() }).unwrap()
}

fn document(rows: &Collection, id: u64, text: &str) {
    let row = NewRow { id: Some(id.into()), document: Some(text.into()), ..NewRow::default() };
    rows.add(&[0.5, 0.25], row).unwrap();
}

#[test]
fn a_reader_finds_the_words_that_the_writer_acknowledged() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path(), Options { metric: Metric::L2, ..Options::new(2) }).unwrap();
    let (rows, reading) = (db.collection(), reader(dir.path()));
    document(&rows, 1_000, "always here");
    for id in 0..60u64 {
        document(&rows, id, &format!("word{id} common"));
        if id % 3 == 0 {
            rows.delete(id).unwrap();
        }
        reading.refresh().unwrap();
        let find = |words: &str| ids(&reading.collection().search_text(&asked(words, 100)).unwrap());
        assert_eq!(find(&format!("word{id}")), if id % 3 == 0 { vec![] } else { vec![id] });
        assert_eq!(find("common"), ids(&rows.search_text(&asked("common", 100)).unwrap()));
    }
    let both = reading.collection().query(&[0.5, 0.25], &asked("word7", 3)).unwrap();
    assert_eq!(ids(&both)[0], 7);
    // In a collection that the reader did not know, cut in its own way.
    let options = CollectionOptions { tokenizer: Some(Tokenizer::Porter), ..CollectionOptions::new(2) };
    let other = db.open_collection("other", &options).unwrap();
    document(&other, 1, "he was running");
    reading.refresh().unwrap();
    let other = reading.find_collection("other").unwrap().unwrap();
    assert_eq!(ids(&other.search_text(&asked("runs", 3)).unwrap()), [1]);
}

#[test]
fn a_reader_of_a_closed_database_searches_words_and_changes_no_file() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path(), Options { metric: Metric::L2, ..Options::new(2) }).unwrap();
    for id in 0..100u64 {
        document(&db.collection(), id, &format!("word{id} common"));
    }
    db.close().unwrap();
    let before = files(dir.path());
    assert!(before.keys().all(|path| !path.to_string_lossy().contains("-wal")), "{:?}", before.keys());
    let reading = reader(dir.path());
    assert_eq!(reading.collection().search_text(&asked("common", 200)).unwrap().len(), 100);
    assert_eq!(ids(&reading.collection().search_text(&asked("word42", 5)).unwrap()), [42]);
    assert!(before == files(dir.path()), "a file was changed or made");
    // A writer comes and goes meanwhile.
    let db = Database::open(dir.path(), Options { metric: Metric::L2, ..Options::new(2) }).unwrap();
    document(&db.collection(), 200, "later common");
    reading.refresh().unwrap();
    assert_eq!(reading.collection().search_text(&asked("common", 200)).unwrap().len(), 101);
    db.close().unwrap();
    reading.refresh().unwrap();
    assert_eq!(ids(&reading.collection().search_text(&asked("later", 5)).unwrap()), [200]);
}

#[test]
fn a_reader_whose_words_nobody_keeps_says_what_to_do() {
    let dir = TempDir::new().unwrap();
    let open = || Database::open(dir.path(), Options { metric: Metric::L2, ..Options::new(2) }).unwrap();
    let db = open();
    document(&db.collection(), 1, "one word");
    db.close().unwrap();
    let sqlite = dir.path().join("meta.sqlite");
    let old = std::fs::read(&sqlite).unwrap();
    let db = open();
    document(&db.collection(), 2, "another word");
    db.close().unwrap();
    let search = |words| reader(dir.path()).collection().search_text(&asked(words, 5));
    assert_eq!(search("word").unwrap().len(), 2);
    let refused = |why: &str| {
        let error = search("word").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid(Subject::ReadOnly), "{error}");
        assert!(error.message().contains(why) && error.message().contains("without read_only"), "{error}");
    };
    std::fs::write(&sqlite, &old).unwrap();
    refused("operation 2");
    std::fs::remove_file(&sqlite).unwrap();
    refused("not there");
    std::fs::write(&sqlite, vec![7; 8192]).unwrap();
    assert!(search("word").unwrap_err().message().contains("without read_only"));
    open().close().unwrap();
    assert_eq!(search("word").unwrap().len(), 2);
}
