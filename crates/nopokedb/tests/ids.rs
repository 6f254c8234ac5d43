//! Ids of both kinds: integers and text, mixed; and what an add does about an id that exists.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use nopokedb::{
    Change, Collection, Database, Error, ErrorKind, Filter, Id, Metadata, Metric, NewRow, NewRows, OnConflict, Options,
    Query, Subject,
};
use std::collections::BTreeMap;
use tempfile::TempDir;

fn open(dir: &TempDir) -> Database {
    Database::open(dir.path(), Options { metric: Metric::L2, ..Options::new(2) }).unwrap()
}

fn at(x: f32) -> [f32; 2] {
    [x, 1.0]
}

fn n(n: i32) -> Option<Metadata> {
    Some(Metadata::from_json(&format!(r#"{{"n":{n}}}"#)).unwrap())
}

fn given(id: impl Into<Id>, number: i32) -> NewRow {
    NewRow { id: Some(id.into()), metadata: n(number), ..NewRow::default() }
}

fn number(c: &Collection, id: impl Into<Id>) -> Option<i64> {
    c.get(id).unwrap().map(|row| row.metadata.unwrap().to_map()["n"].as_i64().unwrap())
}

fn is_duplicate(e: &Error, names: &str) {
    assert_eq!(e.kind(), ErrorKind::Invalid(Subject::DuplicateId));
    assert!(e.message().contains(names), "{e}");
}

#[test]
fn text_and_integer_ids_live_side_by_side_through_every_verb_and_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let c = db.collection();
    assert_eq!(c.add(&at(0.0), given("doc-1", 1)).unwrap(), Id::from("doc-1"));
    assert_eq!(c.add(&at(1.0), NewRow { metadata: n(2), ..NewRow::default() }).unwrap(), Id::Int(0));
    let ids = vec![Id::from("0"), Id::Int(7), Id::from("ключ"), Id::from("x".repeat(Id::MAX_TEXT))];
    let many = NewRows { ids: Some(ids.clone()), metadatas: Some((3..7).map(n).collect()), ..NewRows::default() };
    assert_eq!(c.add_many(&[2.0, 1.0, 3.0, 1.0, 4.0, 1.0, 5.0, 1.0], many).unwrap(), ids);
    c.upsert("doc-1", Change { metadata: n(10), ..Change::default() }).unwrap();
    c.upsert("new", Change { vector: Some(at(6.0).to_vec()), metadata: n(11), ..Change::default() }).unwrap();
    assert!(c.delete("ключ").unwrap() && !c.delete("ключ").unwrap() && !c.delete("doc").unwrap());
    db.close().unwrap();

    let db = open(&dir);
    let c = db.collection();
    assert_eq!(c.len().unwrap(), 6);
    assert_eq!(
        (number(&c, "doc-1"), number(&c, "0"), number(&c, 0), number(&c, "new")),
        (Some(10), Some(3), Some(2), Some(11))
    );
    assert!(c.contains("doc-1").unwrap() && !c.contains("ключ").unwrap() && c.contains(7).unwrap());
    let hits = c.query(&at(0.0), &Query::nearest(2)).unwrap();
    assert_eq!(hits.iter().map(|h| h.id.clone()).collect::<Vec<_>>(), [Id::from("doc-1"), Id::Int(0)]);
    let found = c.get_many(&[Id::from("new"), Id::from("none"), Id::Int(7)]).unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    // Counting goes on above the integers, whatever numbers the texts stand for.
    assert_eq!(c.add(&at(9.0), NewRow::default()).unwrap(), Id::Int(8));
    assert_eq!(c.delete_where(&Filter::field("n").gte(10)).unwrap(), 2);
    assert!(!c.contains("doc-1").unwrap() && c.contains("0").unwrap());
    assert!(db.check().unwrap().is_ok());
}

#[test]
fn a_scroll_gives_integers_in_order_and_then_every_text_once_whatever_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let c = db.collection();
    for i in 0..40 {
        c.add(&at(0.0), if i % 2 == 0 { given(format!("t{i}"), i) } else { NewRow::default() }).unwrap();
    }
    let (mut seen, mut after): (Vec<Id>, Option<Id>) = (Vec::new(), None);
    loop {
        let page = c.scroll(after.as_ref(), 3, None).unwrap();
        seen.extend(page.iter().map(|row| row.id.clone()));
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        // The cursor's own row goes, and another changes its slot.
        c.delete(&last.id).unwrap();
        c.upsert(&seen[0], Change { vector: Some(at(1.0).to_vec()), ..Change::default() }).unwrap();
        c.upsert("t38", Change { vector: Some(at(1.0).to_vec()), ..Change::default() }).unwrap();
    }
    let (ints, texts) = seen.split_at(20);
    assert_eq!(ints, (0..20).map(Id::Int).collect::<Vec<_>>());
    let mut texts = texts.to_vec();
    texts.sort();
    let mut expected: Vec<Id> = (0..20).map(|i| Id::from(format!("t{}", 2 * i))).collect();
    expected.sort();
    assert_eq!(texts, expected);
}

#[test]
fn an_id_that_exists_is_refused_skipped_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let c = db.collection();
    c.add(&at(0.0), given("a", 1)).unwrap();
    c.add(&at(0.0), NewRow { document: Some("old".into()), ..given(5, 2) }).unwrap();
    is_duplicate(&c.add(&at(1.0), given("a", 9)).unwrap_err(), r#""a""#);
    let ids = |ids: [Id; 4], on_conflict| NewRows {
        ids: Some(ids.to_vec()),
        metadatas: Some((100..104).map(n).collect()),
        on_conflict,
        ..NewRows::default()
    };
    let vectors = [1.0f32; 8];
    let mixed = [Id::Int(5), Id::from("b"), Id::from("a"), Id::from("c")];
    is_duplicate(&c.add_many(&vectors, ids(mixed.clone(), OnConflict::Error)).unwrap_err(), r#"5, "a" exist"#);
    let twice = [Id::Int(1), Id::from("b"), Id::from("b"), Id::Int(1)];
    is_duplicate(&c.add_many(&vectors, ids(twice.clone(), OnConflict::Error)).unwrap_err(), r#""b", 1 appear twice"#);
    assert_eq!(c.len().unwrap(), 2);

    let skip = NewRow { on_conflict: OnConflict::Skip, ..given("a", 9) };
    assert_eq!(c.add(&at(1.0), skip).unwrap(), Id::from("a"));
    assert_eq!(number(&c, "a"), Some(1));
    assert_eq!(c.add_many(&vectors, ids(mixed.clone(), OnConflict::Skip)).unwrap(), mixed);
    assert_eq!(
        [number(&c, 5), number(&c, "a"), number(&c, "b"), number(&c, "c")],
        [Some(2), Some(1), Some(101), Some(103)]
    );
    assert_eq!(c.add_many(&vectors, ids(mixed.clone(), OnConflict::Replace)).unwrap(), mixed);
    assert_eq!([number(&c, 5), number(&c, "a"), number(&c, "b")], [Some(100), Some(102), Some(101)]);
    assert_eq!(c.get(5).unwrap().unwrap().document, None, "a replaced row keeps nothing");
    // Within a batch the first counts when skipping, the last when replacing.
    c.add_many(&vectors, ids([Id::Int(9), Id::from("d"), Id::from("d"), Id::Int(9)], OnConflict::Skip)).unwrap();
    assert_eq!([number(&c, 9), number(&c, "d")], [Some(100), Some(101)]);
    c.add_many(&vectors, ids([Id::Int(9), Id::from("d"), Id::from("d"), Id::Int(9)], OnConflict::Replace)).unwrap();
    assert_eq!([number(&c, 9), number(&c, "d")], [Some(103), Some(102)]);
    assert_eq!(c.len().unwrap(), 6);
}

#[test]
fn an_empty_or_overlong_text_id_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let c = open(&dir).collection();
    for bad in [String::new(), "x".repeat(Id::MAX_TEXT + 1)] {
        let e = c.add(&at(0.0), given(bad.as_str(), 0)).unwrap_err();
        assert!(e.message().contains("1 to 65535 bytes"), "{e}");
        assert!(!c.contains(bad.as_str()).unwrap() && !c.delete(bad).unwrap());
    }
    assert!(c.is_empty().unwrap());
}

#[test]
fn threads_that_fight_over_text_ids_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let c = db.collection();
    let added: BTreeMap<Id, usize> = std::thread::scope(|s| {
        let workers: Vec<_> = (0..4)
            .map(|t| {
                let c = c.clone();
                s.spawn(move || {
                    (0..50).filter(|i| c.add(&at(0.0), given(format!("k{i}"), t)).is_ok()).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut added = BTreeMap::new();
        for i in workers.into_iter().flat_map(|w| w.join().unwrap()) {
            *added.entry(Id::from(format!("k{i}"))).or_default() += 1;
        }
        added
    });
    assert_eq!(added.len(), 50);
    assert!(added.values().all(|&times| times == 1), "an id was added twice: {added:?}");
    assert_eq!(c.len().unwrap(), 50);
}

/// Texts whose XXH3-64 differ in bit 63 alone, so that they want the same number: found by running the hash backwards.
const ALIKE: [[&str; 2]; 3] = [["aSQtF7gl", "vlmT>g@g"], ["WU8PqGjY", ">R.^UKX="], ["XSwLvM2Q", "]VsC)Am6"]];

#[test]
fn texts_of_equal_hashes_are_different_ids() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(1)).unwrap();
    let rows = db.collection();
    for [a, b] in ALIKE {
        for text in [a, b] {
            rows.add(&[1.0], NewRow { id: Some(text.into()), document: Some(text.into()), ..NewRow::default() })
                .unwrap();
        }
        assert!(rows.delete(a).unwrap() && !rows.contains(a).unwrap());
        assert_eq!(rows.get(b).unwrap().unwrap().document.as_deref(), Some(b));
        rows.upsert(a, Change { vector: Some(vec![2.0]), ..Change::default() }).unwrap();
        assert_eq!(
            (rows.get(a).unwrap().unwrap().vector, rows.get(b).unwrap().unwrap().vector),
            (vec![2.0], vec![1.0])
        );
    }
    assert_eq!(rows.len().unwrap(), 6);
}

#[test]
fn a_scroll_from_a_deleted_text_repeats_and_misses_nothing_beside_one_of_equal_hash() {
    // In both orders of coming, which decides the numbers, and of being deleted.
    for turn in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path(), Options::new(1)).unwrap();
        let rows = db.collection();
        let mut ids: Vec<Id> = (0..5u64).map(Id::Int).collect();
        for [a, b] in ALIKE {
            let (first, second) = if turn % 2 == 0 { (a, b) } else { (b, a) };
            ids.extend([first.into(), second.into()]);
        }
        for id in &ids {
            rows.add(&[1.0], NewRow { id: Some(id.clone()), ..NewRow::default() }).unwrap();
        }
        let (mut met, mut after): (Vec<Id>, Option<Id>) = (Vec::new(), None);
        loop {
            let page = rows.scroll(after.as_ref(), 1, None).unwrap();
            let Some(row) = page.first() else { break };
            met.push(row.id.clone());
            // The cursor stands on what is gone; sometimes it comes back.
            assert!(rows.delete(row.id.clone()).unwrap());
            if turn >= 2 {
                rows.add(&[1.0], NewRow { id: Some(row.id.clone()), ..NewRow::default() }).unwrap();
            }
            after = Some(row.id.clone());
        }
        assert_eq!(met.len(), ids.len(), "{met:?}");
        assert!(ids.iter().all(|id| met.contains(id)), "{met:?}");
    }
}
