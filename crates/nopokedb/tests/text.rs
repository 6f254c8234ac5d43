//! Full-text search: what matches, in which order, and that it is never behind or ahead of what was acknowledged.
#![allow(clippy::disallowed_methods, reason = "looks at a real directory")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use nopokedb::{
    Change, Collection, CollectionOptions, Database, ErrorKind, Filter, Fusion, Hit, Include, Metadata, Metric, NewRow,
    NewRows, Options, Query, Text, TextMode, TextSyntax, Tokenizer,
};
use proptest::prelude::*;
use tempfile::TempDir;

fn open(dir: &TempDir, tokenizer: Option<Tokenizer>) -> Database {
    Database::open(dir.path(), Options { metric: Metric::L2, tokenizer, ..Options::new(2) }).unwrap()
}

fn add(rows: &Collection, id: u64, document: &str) {
    let row = NewRow { id: Some(id.into()), document: Some(document.into()), ..NewRow::default() };
    #[allow(clippy::cast_precision_loss)]
    rows.add(&[id as f32, 0.0], row).unwrap();
}

fn text(words: &str, k: usize) -> Query {
    Query { text: Some(Text::new(words)), ..Query::nearest(k) }
}

fn ids(hits: &[Hit]) -> Vec<u64> {
    hits.iter().map(|hit| hit.id.int().unwrap()).collect()
}

/// What can be compared: a distance that is not there is not equal to itself.
fn scores(hits: &[Hit]) -> Vec<(u64, f32)> {
    hits.iter().map(|hit| (hit.id.int().unwrap(), hit.score)).collect()
}

fn found(rows: &Collection, words: &str) -> Vec<u64> {
    ids(&rows.search_text(&text(words, 1_000)).unwrap())
}

#[test]
fn what_was_acknowledged_is_found_and_what_was_deleted_is_not() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, None);
    let rows = db.collection();
    add(&rows, 1_000, "there is always one");
    for id in 0..200 {
        add(&rows, id, &format!("word{id} common"));
        assert_eq!(found(&rows, &format!("word{id}")), [id]);
        if id % 3 == 0 {
            rows.upsert(id, Change { document: Some(format!("other{id} common")), ..Change::default() }).unwrap();
            assert_eq!(found(&rows, &format!("word{id}")), [0; 0]);
            assert_eq!(found(&rows, &format!("OTHER{id}")), [id]);
        }
        if id % 5 == 0 {
            assert!(rows.delete(id).unwrap());
            assert_eq!(found(&rows, &format!("word{id} other{id}")), [0; 0]);
        }
    }
    assert_eq!(found(&rows, "common").len(), 160);
    assert_eq!(rows.search_text(&text("common", 7)).unwrap().len(), 7);
}

#[test]
fn the_text_index_is_a_cache() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, Some(Tokenizer::Porter));
    let vector = [0.5; 2];
    let documents = (0..500).map(|i| (i % 2 == 0).then(|| format!("he was running {}", i % 7))).collect();
    db.collection()
        .add_many(&vector.repeat(500), NewRows { documents: Some(documents), ..NewRows::default() })
        .unwrap();
    let before = found(&db.collection(), "runs 3");
    assert_eq!(before.len(), 250);
    db.close().unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("meta.sqlite{suffix}")));
    }
    let db = open(&dir, None);
    assert_eq!(db.collection().tokenizer(), Tokenizer::Porter, "the choice is in the log's manifest, not in the cache");
    assert_eq!(found(&db.collection(), "runs 3"), before);
}

#[test]
fn a_text_index_that_lacks_a_document_or_a_word_or_has_one_too_many_is_found_by_a_check_and_built_again() {
    let delete = "DELETE FROM text_0 WHERE rowid = (SELECT lsn FROM records WHERE id = 7)";
    let other = |words: &str| {
        format!("{delete}; INSERT INTO text_0(rowid, document) SELECT lsn, '{words}' FROM records WHERE id = 7")
    };
    for (tokenizer, change) in [
        (Tokenizer::Unicode61, delete.to_string()),
        (Tokenizer::Unicode61, "INSERT INTO text_0(rowid, document) VALUES (1000000, 'one too many')".to_string()),
        (Tokenizer::Unicode61, other("word7")),
        (Tokenizer::Unicode61, other("word7 common common")),
        (Tokenizer::Porter, other("common word7")),
        (Tokenizer::Trigram, other("word7 common")),
    ] {
        let dir = TempDir::new().unwrap();
        let db = open(&dir, Some(tokenizer));
        (0..20).for_each(|id| add(&db.collection(), id, &format!("word{id} common")));
        let report = db.check().unwrap();
        assert!(report.is_ok() && report.rebuilt.is_empty(), "{report}");
        db.close().unwrap();
        let sqlite = rusqlite::Connection::open(dir.path().join("meta.sqlite")).unwrap();
        sqlite.execute_batch(&change).unwrap();
        assert_eq!(sqlite.changes(), 1);
        sqlite.close().unwrap();
        let db = open(&dir, None);
        let report = db.check().unwrap();
        assert!(report.is_ok() && report.rebuilt.len() == 1, "{change}: {report}");
        assert!(report.rebuilt[0].contains("the text index of collection 0"), "{report}");
        assert_eq!(found(&db.collection(), "word7"), [7]);
        assert!(db.check().unwrap().rebuilt.is_empty());
    }
}

#[test]
fn another_tokenizer_has_the_index_built_again_and_leaves_no_damaged_file() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, None);
    add(&db.collection(), 1, "Crème brûlée, flambéed");
    assert_eq!((found(&db.collection(), "creme"), found(&db.collection(), "flam").len()), (vec![1], 0));
    let notes = |tokenizer| db.open_collection("notes", &CollectionOptions { tokenizer, ..CollectionOptions::new(2) });
    add(&notes(None).unwrap(), 1, "running");
    assert_eq!(found(&notes(None).unwrap(), "run").len(), 0);
    assert_eq!(found(&notes(Some(Tokenizer::Porter)).unwrap(), "run"), [1]);
    assert_eq!(found(&notes(None).unwrap(), "runs"), [1]);
    let other = Options { metric: Metric::L2, tokenizer: Some(Tokenizer::Trigram), ..Options::new(2) };
    let e = Database::open(dir.path(), other).unwrap_err();
    assert!(e.message().contains("unicode61") && e.message().contains("trigram"), "{e}");
    db.close().unwrap();
    let db = open(&dir, Some(Tokenizer::Trigram));
    assert_eq!(found(&db.collection(), "flam"), [1]);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| !n.to_str().unwrap().contains("damaged")), "{names:?}");
}

#[test]
fn collections_do_not_see_or_weigh_each_others_words() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, None);
    let (a, b) = (db.collection(), db.open_collection("b", &CollectionOptions::new(2)).unwrap());
    for id in 0..50 {
        add(&a, id, if id < 3 { "apple pear" } else { "pear" });
    }
    let alone = a.search_text(&text("apple", 5)).unwrap();
    for id in 0..50 {
        add(&b, id, "apple");
    }
    assert_eq!(scores(&a.search_text(&text("apple", 5)).unwrap()), scores(&alone));
    assert_eq!((ids(&alone), found(&b, "pear").len()), (vec![0, 1, 2], 0));
    assert!(db.drop_collection("b").unwrap());
    assert_eq!(scores(&a.search_text(&text("apple", 5)).unwrap()), scores(&alone));
}

#[test]
fn no_text_is_an_operator_unless_it_is_said_to_be() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, None);
    let rows = db.collection();
    add(&rows, 1, "alpha beta");
    add(&rows, 2, "beta gamma");
    add(&rows, 3, "NOT alpha OR \"quoted\" C++ 'it''s' 🦀 crab");
    for (words, want) in [
        ("alpha NOT beta", vec![1, 2, 3]),
        ("\"quoted", vec![3]),
        ("it's; DROP TABLE records; --", vec![3]),
        ("document:beta* (NEAR", vec![1, 2]),
        ("🦀", vec![3]),
        ("!!! ... \"\" ()", vec![]),
        ("nothing", vec![]),
    ] {
        let mut got = found(&rows, words);
        got.sort_unstable();
        assert_eq!(got, want, "{words}");
    }
    let expression = |words: &str| {
        let text = Text { syntax: TextSyntax::Fts5, ..Text::new(words) };
        rows.search_text(&Query { text: Some(text), ..Query::nearest(10) })
    };
    assert_eq!(ids(&expression("alpha NOT beta").unwrap()), [3]);
    assert_eq!(ids(&expression("\"beta gamma\" OR gam*").unwrap()), [2]);
    for wrong in ["alpha AND", "\"open", "nocolumn:alpha", "NEAR("] {
        let e = expression(wrong).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Invalid(_)) && e.message().contains("FTS5"), "{wrong}: {e}");
    }
    for empty in ["", " \n"] {
        assert!(matches!(rows.search_text(&text(empty, 3)).unwrap_err().kind(), ErrorKind::Invalid(_)));
    }
    assert!(rows.search_text(&Query::nearest(3)).is_err());
    assert!(rows.search_text(&Query { max_distance: Some(1.0), ..text("beta", 3) }).is_err());
}

#[test]
fn trigrams_find_substrings_and_words_without_spaces_also_short_ones() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, Some(Tokenizer::Trigram));
    let rows = db.collection();
    add(&rows, 1, "向量数据库");
    add(&rows, 2, "数据");
    add(&rows, 3, "Straßenbahn");
    assert_eq!(found(&rows, "数据库"), [1]);
    let mut short = found(&rows, "数据");
    short.sort_unstable();
    assert_eq!(short, [1, 2]);
    assert_eq!((found(&rows, "库"), found(&rows, "量数")), (vec![1], vec![1]));
    assert_eq!((found(&rows, "ENBAH"), found(&rows, "hn")), (vec![3], vec![3]));
    assert_eq!(found(&rows, "据数").len(), 0);
}

#[test]
fn filters_limits_and_pages_apply_to_words_too() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, None);
    let rows = db.collection();
    for id in 0..300u16 {
        let metadata = Some(Metadata::from_json(&format!(r#"{{"n":{id}}}"#)).unwrap());
        let document = Some(format!("{} filler{}", "word ".repeat(usize::from(id % 10)), id));
        rows.add(&[f32::from(id), 0.0], NewRow { metadata, document, ..NewRow::default() }).unwrap();
    }
    let odd = Query { filter: Some(Filter::field("n").lt(100)), ..text("word", 1_000) };
    let hits = rows.search_text(&odd).unwrap();
    assert_eq!(hits.len(), 90);
    assert!(hits.iter().all(|h| h.id.int().unwrap() < 100 && h.distance.is_nan() && h.text_score == Some(h.score)));
    assert!(hits.windows(2).all(|w| w[0].score >= w[1].score));
    let page = rows.search_text(&Query { offset: 20, k: 10, ..odd.clone() }).unwrap();
    assert_eq!(scores(&page), scores(&hits[20..30]));
    let least = hits[30].score;
    let limited = rows.search_text(&Query { min_score: Some(least), ..odd.clone() }).unwrap();
    let want: Vec<_> = scores(&hits).into_iter().filter(|(_, score)| *score >= least).collect();
    assert_eq!(scores(&limited), want);
    let hybrid = rows.query(&[250.0, 0.0], &Query { k: 5, ..odd }).unwrap();
    assert!(hybrid.iter().all(|h| h.id.int().unwrap() < 100), "{hybrid:?}");
}

#[test]
fn a_hybrid_hit_has_both_scores_an_exact_distance_and_a_snippet() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, None);
    let rows = db.collection();
    for id in 0..400 {
        add(&rows, id, if id == 399 { "the needle in the haystack" } else { "just the hay" });
    }
    let include = Include { snippet: true, ..Include::default() };
    let query = Query { include, ..text("needle", 3) };
    let hits = rows.query(&[0.0, 0.0], &query).unwrap();
    assert_eq!(hits.len(), 3);
    let needle = hits.iter().find(|h| h.id.int().unwrap() == 399).expect("the words found it, far as it is");
    assert_eq!(
        (needle.distance.to_bits(), needle.snippet.as_deref()),
        ((399.0f32 * 399.0).to_bits(), Some("the **needle** in the haystack"))
    );
    assert!(needle.text_score.is_some_and(|s| s > 3.0));
    let near = hits.iter().find(|h| h.id.int().unwrap() == 0).unwrap();
    assert_eq!((near.distance.to_bits(), near.text_score, near.snippet.as_deref()), (0f32.to_bits(), None, None));
    assert!((near.score - 1.0 / 61.0).abs() < 1e-6);
    let words_only = Query { fusion: Fusion::Weights { vector: 0.0, text: 1.0 }, ..query.clone() };
    assert_eq!(rows.query(&[0.0, 0.0], &words_only).unwrap()[0].id.int().unwrap(), 399);
    let many = rows.query_many(&[0.0, 0.0, 5.0, 0.0], &query).unwrap();
    assert_eq!((many.len(), &many[0]), (2, &hits));
    let no_word = rows.query(&[7.0, 0.0], &text("!!!", 1)).unwrap();
    assert_eq!(ids(&no_word), [7], "without any word the vector alone decides");
}

#[test]
fn a_row_that_is_rewritten_all_the_time_is_found_all_the_time() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, None);
    let rows = db.collection();
    for id in 0..50 {
        add(&rows, id, "steady");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            for round in 0..400 {
                let document = Some(format!("steady round{round}"));
                rows.upsert(round % 50, Change { document, ..Change::default() }).unwrap();
            }
            stop.store(true, SeqCst);
        });
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    let hits = rows.search_text(&text("steady", 100)).unwrap();
                    let different: BTreeSet<_> = hits.iter().map(|h| &h.id).collect();
                    assert_eq!((hits.len(), different.len()), (50, 50));
                }
            });
        }
    });
}

#[test]
fn a_document_of_a_megabyte_is_found_and_quoted() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir, None);
    let rows = db.collection();
    add(&rows, 1, &format!("{} unusual {}", "lorem ipsum dolor ".repeat(30_000), "sit amet ".repeat(60_000)));
    add(&rows, 2, "short unusual");
    let include = Include { snippet: true, ..Include::NONE };
    let hits = rows.search_text(&Query { include, ..text("unusual", 5) }).unwrap();
    assert_eq!(ids(&hits), [2, 1]);
    assert!(
        hits[1].snippet.as_ref().is_some_and(|s| s.contains("**unusual**") && s.len() < 300),
        "{:?}",
        hits[1].snippet
    );
}

/// BM25 as the formula has it, over words cut at everything that is no letter.
fn naive(documents: &BTreeMap<u64, String>, query: &str, all: bool) -> BTreeMap<u64, f64> {
    let cut = |s: &str| -> Vec<String> {
        // Characters younger than FTS5's tables, as most emoji, count as letters there.
        s.split(|c: char| !c.is_alphanumeric() && c != '🦀').filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
    };
    let documents: BTreeMap<u64, Vec<String>> =
        documents.iter().map(|(id, d)| (*id, cut(d))).filter(|(_, words)| !words.is_empty()).collect();
    let n = documents.len() as f64;
    let average = documents.values().map(Vec::len).sum::<usize>() as f64 / n.max(1.0);
    let terms: BTreeSet<String> = cut(query).into_iter().collect();
    let count = |words: &[String], term: &String| words.iter().filter(|w| *w == term).count() as f64;
    let score = |words: &[String]| -> f64 {
        terms
            .iter()
            .map(|term| {
                let with = documents.values().filter(|d| d.contains(term)).count() as f64;
                let idf = (1.0 + (n - with + 0.5) / (with + 0.5)).ln();
                let tf = count(words, term);
                idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * words.len() as f64 / average.max(1.0)))
            })
            .sum()
    };
    let matches = |words: &[String]| match all {
        true => !terms.is_empty() && terms.iter().all(|t| words.contains(t)),
        false => terms.iter().any(|t| words.contains(t)),
    };
    documents.iter().filter(|(_, words)| matches(words)).map(|(id, words)| (*id, score(words))).collect()
}

fn sentence() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        6 => "[a-e]{1,2}".prop_map(String::from),
        1 => prop::sample::select(vec!["Öl", "über", "日本", "NOT", "OR", "42", "naïve", "🦀", "\"", "*", "(", "'"]).prop_map(String::from),
    ];
    prop::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
}

#[derive(Clone, Debug)]
enum Op {
    Put(u64, Option<String>),
    Delete(u64),
    Ask(String, bool, usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..40u64, prop::option::weighted(0.9, sentence())).prop_map(|(id, d)| Op::Put(id, d)),
        1 => (0..40u64).prop_map(Op::Delete),
        2 => (sentence(), any::<bool>(), 1..30usize).prop_map(|(q, all, k)| Op::Ask(q, all, k)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn matches_and_their_order_are_those_of_the_formula(ops in prop::collection::vec(op(), 1..80)) {
        let dir = TempDir::new().unwrap();
        let db = open(&dir, None);
        let rows = db.collection();
        let mut documents: BTreeMap<u64, Option<String>> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put(id, document) => {
                    rows.delete(id).unwrap();
                    let row = NewRow { id: Some(id.into()), document: document.clone(), ..NewRow::default() };
                    rows.add(&[1.0, 2.0], row).unwrap();
                    documents.insert(id, document);
                }
                Op::Delete(id) => {
                    prop_assert_eq!(rows.delete(id).unwrap(), documents.remove(&id).is_some());
                }
                Op::Ask(words, all, k) => {
                    if words.trim().is_empty() || documents.is_empty() {
                        continue;
                    }
                    let with_text = documents.iter().filter_map(|(id, d)| Some((*id, d.clone()?))).collect();
                    let want = naive(&with_text, &words, all);
                    let mode = if all { TextMode::All } else { TextMode::Any };
                    let text = Some(Text { mode, ..Text::new(words.as_str()) });
                    let hits = rows.search_text(&Query { text, ..Query::nearest(k) }).unwrap();
                    prop_assert_eq!(hits.len(), k.min(want.len()), "{:?}: {:?} of {:?}", words, hits, want);
                    let mut best: Vec<f64> = want.values().copied().collect();
                    best.sort_by(|a, b| b.total_cmp(a));
                    for (hit, best) in hits.iter().zip(best) {
                        let own = want.get(&hit.id.int().unwrap()).copied();
                        prop_assert!(own.is_some_and(|own| (own - f64::from(hit.score)).abs() < 1e-4), "{:?} {:?}", own, hit);
                        prop_assert!((best - f64::from(hit.score)).abs() < 1e-4, "{} {:?}", best, hit);
                    }
                }
            }
        }
    }
}
