//! Collections are separate sets of rows in one directory.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests remove what they made

use nopokedb::{CollectionOptions, Database, ErrorKind, Id, Metric, NewRow, NewRows, Options, Query, Subject};

fn l2(dim: usize) -> CollectionOptions {
    CollectionOptions { metric: Metric::L2, ..CollectionOptions::new(dim) }
}

#[test]
fn collections_share_a_directory_but_not_rows_or_ids() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    let (a, b) = (db.open_collection("a", &l2(3)).unwrap(), db.open_collection("b", &l2(1)).unwrap());
    for x in [1.0f32, 2.0] {
        assert!(a.add(&[x, x, x], NewRow::default()).unwrap() < Id::Int(2));
    }
    assert_eq!(b.add(&[7.0], NewRow::default()).unwrap(), Id::Int(0));
    assert_eq!((a.len().unwrap(), b.len().unwrap(), db.collection().len().unwrap()), (2, 1, 0));
    drop((a, b, db));
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    assert_eq!(db.collections().unwrap(), ["a", "b", "default"]);
    assert_eq!(db.find_collection("b").unwrap().unwrap().stats().unwrap().rows, 1);
    assert!(db.find_collection("c").unwrap().is_none());
    let a = db.open_collection("a", &l2(3)).unwrap();
    assert_eq!(a.query(&[2.0, 2.0, 2.0], &Query::nearest(5)).unwrap().len(), 2);
    assert_eq!(a.query(&[2.0, 2.0, 2.0], &Query::nearest(1)).unwrap()[0].id, Id::Int(1));
}

#[test]
fn a_dropped_collection_is_gone_for_good_and_its_name_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    let old = db.open_collection("docs", &l2(1)).unwrap();
    old.add(&[1.0], NewRow::default()).unwrap();
    assert!(db.drop_collection("docs").unwrap());
    assert!(!db.drop_collection("docs").unwrap());
    assert_eq!(old.add(&[1.0], NewRow::default()).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(db.collections().unwrap(), ["default"]);
    let new = db.open_collection("docs", &l2(2)).unwrap();
    assert!(new.is_empty().unwrap());
    new.add(&[5.0, 5.0], NewRow::default()).unwrap();
    drop((old, new, db));
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    let docs = db.open_collection("docs", &l2(2)).unwrap();
    assert_eq!(docs.len().unwrap(), 1);
    assert!(db.drop_collection("default").is_err());
}

#[test]
fn an_existing_collection_refuses_other_options_naming_both() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    let model = |name: &str| CollectionOptions { model: Some(name.into()), ..l2(4) };
    db.open_collection("c", &model("minilm")).unwrap();
    let e = db.open_collection("c", &CollectionOptions { dim: 5, ..model("minilm") }).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Invalid(Subject::Dimension));
    assert!(e.message().contains('4') && e.message().contains('5') && e.message().contains("minilm"), "{e}");
    let e = db.open_collection("c", &CollectionOptions { metric: Metric::Ip, ..model("minilm") }).unwrap_err();
    assert!(e.message().contains("l2") && e.message().contains("ip"), "{e}");
    let e = db.open_collection("c", &model("nomic")).unwrap_err();
    assert!(e.message().contains("minilm") && e.message().contains("nomic"), "{e}");
    assert!(db.open_collection("c", &l2(4)).is_ok(), "not naming a model is fine");
    assert!(db.open_collection("", &l2(4)).is_err() && db.open_collection(&"x".repeat(256), &l2(4)).is_err());
}

#[test]
fn next_ids_of_a_collection_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    let c = db.open_collection("c", &l2(1)).unwrap();
    c.add_many(&[1.0, 2.0, 3.0], NewRows::default()).unwrap();
    assert!(c.delete(Id::Int(2)).unwrap());
    drop((c, db));
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    let c = db.open_collection("c", &l2(1)).unwrap();
    assert_eq!(c.add(&[4.0], NewRow::default()).unwrap(), Id::Int(3));
}
