//! Collections are separate sets of rows in one directory.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests remove what they made

use nopokedb::{CollectionOptions, Database, ErrorKind, Filter, Id, Metric, NewRow, NewRows, Options, Query, Subject};

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
fn many_collections_are_made_at_once_or_none_is() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    let old = db.open_collection("7", &CollectionOptions { m: Some(8), ..l2(3) }).unwrap();
    old.add(&[1.0; 3], NewRow::default()).unwrap();
    let names: Vec<String> = (0..3_000).map(|i| i.to_string()).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.extend(["3", "2"]);
    let changes = || {
        let names = dir.path().read_dir().unwrap().filter_map(|file| file.unwrap().file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix("MANIFEST-")?.parse::<u64>().ok()).max().unwrap()
    };
    let before = changes();
    let e = db.create_collections(&names, &l2(4)).unwrap_err();
    assert!(e.message().contains("\"7\"") && e.kind() == ErrorKind::Invalid(Subject::Dimension), "{e}");
    assert_eq!(db.create_collections(&["new", ""], &l2(4)).unwrap_err().kind(), ErrorKind::Invalid(Subject::Argument));
    assert_eq!(db.collections().unwrap(), ["7", "default"]);
    assert_eq!(changes(), before, "nothing was written");
    let made = db.create_collections(&names, &l2(3)).unwrap();
    assert_eq!((made.len(), &*made[0], &*made[7], &*made[2_998]), (2_999, "0", "8", "2999"));
    assert_eq!(changes(), before + 2, "one change, written twice");
    assert!(db.create_collections(&names, &l2(3)).unwrap().is_empty());
    let one = db.find_collection("2999").unwrap().unwrap();
    one.add(&[2.0; 3], NewRow::default()).unwrap();
    drop((old, one, db));
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    assert_eq!(db.collections().unwrap().len(), 3_001);
    let rows = |name: &str| db.find_collection(name).unwrap().unwrap().len().unwrap();
    assert_eq!((rows("7"), rows("2999"), rows("5")), (1, 1, 0));
}

#[test]
fn more_collections_than_can_be_listed_are_refused_and_nothing_is_harmed() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    let names: Vec<String> = (0..120_000).map(|i| format!("{i:0>250}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let e = db.create_collections(&names, &l2(3)).unwrap_err();
    assert!(e.message().contains("metadata field") && e.kind() == ErrorKind::Invalid(Subject::Argument), "{e}");
    assert_eq!(db.create_collections(&names[..10], &l2(3)).unwrap().len(), 10);
    db.collection().add(&[1.0, 2.0], NewRow::default()).unwrap();
    drop(db);
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    assert_eq!((db.collections().unwrap().len(), db.collection().len().unwrap()), (11, 1));
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

#[test]
fn a_small_collection_takes_little_memory_and_a_larger_one_has_its_codes() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(64)).unwrap();
    let small = db.open_collection("small", &l2(64)).unwrap();
    small.add_many(&[0.5; 64 * 10], NewRows::default()).unwrap();
    let bytes = |stats: nopokedb::Stats| {
        stats.graph_memory + stats.codes_memory + stats.rows_memory + stats.ids_memory + stats.filters_memory
    };
    for n in 0..50 {
        small.count(Some(&Filter::field("n").eq(n))).unwrap();
    }
    assert!(bytes(small.stats().unwrap()) <= 2048, "{:?}", small.stats().unwrap());
    // One by one over the number from which on scans read codes, then far beyond it at once.
    let large = db.open_collection("large", &l2(64)).unwrap();
    let row = |i: u16| (0..64u16).map(move |d| f32::from((i * 31 + d * 17) % 97) - 48.0);
    for i in 0..130 {
        large.add(&row(i).collect::<Vec<_>>(), NewRow::default()).unwrap();
        let nearest = large.query(&row(i).collect::<Vec<_>>(), &Query::nearest(1)).unwrap();
        assert_eq!(nearest[0].distance, 0.0, "row {i}");
    }
    let before = large.stats().unwrap().codes_memory;
    large.add_many(&(130..400).flat_map(row).collect::<Vec<_>>(), NewRows::default()).unwrap();
    assert!(before > 0 && large.stats().unwrap().codes_memory > before);
    for i in [0, 96, 97, 129, 130, 255, 256, 399] {
        let nearest = large.query(&row(i).collect::<Vec<_>>(), &Query::nearest(3)).unwrap();
        let exact = Query { exact: true, ..Query::nearest(3) };
        assert_eq!(nearest, large.query(&row(i).collect::<Vec<_>>(), &exact).unwrap(), "row {i}");
    }
}

#[test]
fn a_name_leads_to_the_collection_that_has_it_now() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), Options::new(2)).unwrap();
    for i in 0..50 {
        db.open_collection(&format!("c{i}"), &l2(1)).unwrap().add(&[1.0], NewRow::default()).unwrap();
    }
    for round in 0..3 {
        assert!(db.drop_collection("c7").unwrap() && db.find_collection("c7").unwrap().is_none());
        let again = db.open_collection("c7", &l2(1)).unwrap();
        again.add_many(&vec![0.0; round + 2], NewRows::default()).unwrap();
        assert_eq!(db.find_collection("c7").unwrap().unwrap().len().unwrap(), round + 2);
        assert_eq!(db.collections().unwrap().len(), 51);
    }
    drop(db);
    let reader = Database::open(dir.path(), Options { read_only: true, ..Options::new(2) }).unwrap();
    assert_eq!(reader.find_collection("c7").unwrap().unwrap().len().unwrap(), 4);
    assert_eq!(reader.find_collection("c49").unwrap().unwrap().len().unwrap(), 1);
}
