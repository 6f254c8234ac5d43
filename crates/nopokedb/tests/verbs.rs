//! The verbs of a collection keep their words: what is added is found, what is replaced or deleted is not.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests look at and meddle with the directory

use nopokedb::{
    Change, Collection, Database, Error, ErrorKind, Id, Metadata, Metric, NewRow, NewRows, Options, Query, Subject,
};

fn open(dir: &tempfile::TempDir, options: Options) -> Database {
    Database::open(dir.path(), options).unwrap()
}

fn small() -> (tempfile::TempDir, Database, Collection) {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir, Options { metric: Metric::L2, ..Options::new(2) });
    let collection = db.collection();
    (dir, db, collection)
}

fn object(json: &str) -> Option<Metadata> {
    Some(Metadata::from_json(json).unwrap())
}

fn ids(hits: &[nopokedb::Hit]) -> Vec<u64> {
    hits.iter().map(|h| h.id.int().unwrap()).collect()
}

#[test]
fn a_row_is_found_as_soon_as_add_returns() {
    let (_dir, _db, c) = small();
    for i in 0..50u16 {
        let id = c.add(&[f32::from(i), 0.0], NewRow::default()).unwrap();
        let hits = c.query(&[f32::from(i), 0.0], &Query::nearest(1)).unwrap();
        assert_eq!((&hits[0].id, hits[0].distance), (&id, 0.0));
    }
    assert_eq!(c.len().unwrap(), 50);
}

#[test]
fn ids_count_from_zero_and_never_come_again() {
    let (dir, db, c) = small();
    assert_eq!(c.add(&[0.0, 0.0], NewRow::default()).unwrap(), Id::Int(0));
    assert_eq!(c.add_many(&[1.0, 0.0, 2.0, 0.0], NewRows::default()).unwrap(), [Id::Int(1), Id::Int(2)]);
    for id in 0..3 {
        assert!(c.delete(Id::Int(id)).unwrap());
        assert!(!c.delete(Id::Int(id)).unwrap());
    }
    drop((c, db));
    let db = open(&dir, Options { metric: Metric::L2, ..Options::new(2) });
    assert_eq!(db.collection().add(&[0.0, 0.0], NewRow::default()).unwrap(), Id::Int(3));
}

#[test]
fn an_upsert_replaces_what_it_gives_and_keeps_the_rest() {
    let (_dir, _db, c) = small();
    let id = c
        .add(
            &[1.0, 1.0],
            NewRow { metadata: object(r#"{"a":1}"#), document: Some("first".into()), ..NewRow::default() },
        )
        .unwrap();
    c.upsert(&id, Change { metadata: object(r#"{"b":2}"#), ..Change::default() }).unwrap();
    let row = c.get(&id).unwrap().unwrap();
    assert_eq!((row.vector.as_slice(), row.document.as_deref()), ([1.0, 1.0].as_slice(), Some("first")));
    assert_eq!(row.metadata.unwrap().as_json(), r#"{"b":2}"#);
    c.upsert(&id, Change { vector: Some(vec![5.0, 5.0]), ..Change::default() }).unwrap();
    let row = c.get(id).unwrap().unwrap();
    assert_eq!((row.vector.as_slice(), row.metadata.unwrap().as_json()), ([5.0, 5.0].as_slice(), r#"{"b":2}"#));
    assert_eq!(c.len().unwrap(), 1);
    assert_eq!(c.query(&[1.0, 1.0], &Query::nearest(5)).unwrap().len(), 1);
}

#[test]
fn an_upsert_inserts_an_id_that_does_not_exist() {
    let (_dir, _db, c) = small();
    let refused = c.upsert(Id::Int(7), Change::default()).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Invalid(Subject::Argument)), "{refused:?}");
    c.upsert(Id::Int(7), Change { vector: Some(vec![1.0, 2.0]), ..Change::default() }).unwrap();
    assert!(c.contains(Id::Int(7)).unwrap());
    assert_eq!(c.add(&[0.0, 0.0], NewRow::default()).unwrap(), Id::Int(8));
}

#[test]
fn a_given_id_that_exists_or_comes_twice_is_refused_and_nothing_is_written() {
    let (_dir, _db, c) = small();
    c.add(&[0.0, 0.0], NewRow { id: Some(Id::Int(4)), ..NewRow::default() }).unwrap();
    let rows = |ids: &[u64]| NewRows { ids: Some(ids.iter().copied().map(Id::Int).collect()), ..NewRows::default() };
    for (given, named) in [([3, 4], "4"), ([9, 9], "9")] {
        let e: Error = c.add_many(&[0.0; 4], rows(&given)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid(Subject::DuplicateId));
        assert!(e.message().contains(named), "{e}");
    }
    assert_eq!(c.len().unwrap(), 1);
}

#[test]
fn a_refused_id_does_not_move_the_automatic_ones() {
    let (_dir, _db, c) = small();
    let rows = |ids: &[u64]| NewRows { ids: Some(ids.iter().copied().map(Id::Int).collect()), ..NewRows::default() };
    c.add(&[0.0, 0.0], NewRow::default()).unwrap();
    let last = Id::MAX_INT - 1;
    c.upsert(Id::Int(last), Change::default()).unwrap_err();
    c.add_many(&[0.0; 4], rows(&[0, last])).unwrap_err();
    assert_eq!(c.add(&[0.0, 0.0], NewRow::default()).unwrap(), Id::Int(1));
}

#[test]
fn bad_vectors_are_refused_naming_what_is_wrong() {
    let (_dir, _db, c) = small();
    let e = c.add(&[1.0, 2.0, 3.0], NewRow::default()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Invalid(Subject::Dimension));
    assert!(e.message().contains('2') && e.message().contains('3'), "{e}");
    let e = c.add_many(&[0.0, 0.0, 1.0, f32::NAN], NewRows::default()).unwrap_err();
    assert!(e.message().contains("row 1"), "{e}");
    let e = c.query(&[f32::INFINITY, 0.0], &Query::default()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Invalid(Subject::Argument));
    let e = c.add_many(&[0.0; 4], NewRows { metadatas: Some(vec![None]), ..NewRows::default() }).unwrap_err();
    assert!(e.message().contains("metadatas"), "{e}");
    assert_eq!(c.len().unwrap(), 0);
}

#[test]
fn an_empty_database_says_so() {
    let (_dir, _db, c) = small();
    assert_eq!(c.query(&[0.0, 0.0], &Query::default()).unwrap_err().kind(), ErrorKind::Empty);
    let id = c.add(&[0.0, 0.0], NewRow::default()).unwrap();
    c.delete(id).unwrap();
    assert_eq!(c.query(&[0.0, 0.0], &Query::default()).unwrap_err().kind(), ErrorKind::Empty);
}

#[test]
fn a_query_returns_min_k_live_rows_nearest_first() {
    let (_dir, _db, c) = small();
    let vectors: Vec<f32> = (0..300u16).flat_map(|i| [f32::from(i), 0.0]).collect();
    c.add_many(&vectors, NewRows::default()).unwrap();
    for id in (0..300).step_by(3) {
        c.delete(Id::Int(id)).unwrap();
    }
    for k in [1, 10, 199, 200, 1_000] {
        let hits = c.query(&[0.0, 0.0], &Query::nearest(k)).unwrap();
        let expected: Vec<u64> = (0..300).filter(|i| i % 3 != 0).take(k).collect();
        assert_eq!(ids(&hits), expected, "k = {k}");
    }
}

#[test]
fn distances_and_scores_are_those_of_the_metric() {
    for (metric, distance, score) in [(Metric::Cosine, 0.2, 0.8), (Metric::L2, 10.0, -10.0), (Metric::Ip, -7.0, 7.0)] {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir, Options { metric, ..Options::new(2) });
        let c = db.collection();
        c.add(&[4.0, 0.0], NewRow::default()).unwrap();
        // cos = 4*2/(4*sqrt(4+...)): chosen per metric below.
        let query = match metric {
            Metric::Cosine => [4.0, 3.0],
            Metric::L2 => [3.0, 3.0],
            Metric::Ip => [2.0, 9.0],
        };
        let hit = &c.query(&query, &Query::nearest(1)).unwrap()[0];
        assert!((hit.distance - distance).abs() < 1e-5, "{metric}: {hit:?}");
        assert!((hit.score - score).abs() < 1e-5, "{metric}: {hit:?}");
    }
}

#[test]
fn a_zero_vector_under_cosine_has_distance_one_to_everything() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir, Options::new(2));
    let c = db.collection();
    c.add_many(&[0.0, 0.0, 1.0, 0.0], NewRows::default()).unwrap();
    let hits = c.query(&[1.0, 0.0], &Query::nearest(2)).unwrap();
    assert_eq!((ids(&hits), hits[1].distance), (vec![1, 0], 1.0));
    assert!(c.query(&[0.0, 0.0], &Query::nearest(2)).unwrap().iter().all(|h| h.distance == 1.0));
}

#[test]
fn a_closed_database_refuses_everything_and_closes_twice() {
    let (_dir, db, c) = small();
    db.close().unwrap();
    db.close().unwrap();
    assert_eq!(c.add(&[0.0, 0.0], NewRow::default()).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(c.query(&[0.0, 0.0], &Query::default()).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(db.save().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_second_opening_in_the_same_process_shares_the_rows() {
    let (dir, db, c) = small();
    let again = open(&dir, Options { metric: Metric::L2, ..Options::new(2) });
    let id = c.add(&[1.0, 1.0], NewRow::default()).unwrap();
    db.close().unwrap();
    assert!(again.collection().contains(id).unwrap());
    again.close().unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert!(open(&dir, Options::new(3)).collection().is_empty().unwrap());
}

#[test]
fn another_dimension_or_metric_than_stored_is_refused_naming_both() {
    let (dir, db, _c) = small();
    db.close().unwrap();
    let e = Database::open(dir.path(), Options { metric: Metric::L2, ..Options::new(3) }).unwrap_err();
    assert!(e.message().contains('2') && e.message().contains('3'), "{e}");
    let e = Database::open(dir.path(), Options::new(2)).unwrap_err();
    assert!(e.message().contains("l2") && e.message().contains("cosine"), "{e}");
}

#[test]
fn a_path_that_is_a_file_or_holds_other_files_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "mine").unwrap();
    for path in [file.as_path(), dir.path()] {
        let e = Database::open(path, Options::new(2)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid(Subject::Path), "{e}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn options_out_of_range_are_refused_naming_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    for (options, limit) in [
        (Options::new(0), "65535"),
        (Options::new(65_536), "65535"),
        (Options { ef: 0, ..Options::new(2) }, "65536"),
        (Options { m: Some(1), ..Options::new(2) }, "256"),
    ] {
        let e = Database::open(dir.path(), options).unwrap_err();
        assert!(e.message().contains(limit), "{e}");
    }
}

#[test]
fn threads_share_a_handle() {
    let (_dir, _db, c) = small();
    std::thread::scope(|s| {
        for t in 0..8u16 {
            let c = &c;
            s.spawn(move || {
                for i in 0..25u16 {
                    let vector = [f32::from(t * 100 + i), 1.0];
                    let id = c.add(&vector, NewRow::default()).unwrap();
                    assert_eq!(c.query(&vector, &Query::nearest(1)).unwrap()[0].id, id);
                }
            });
        }
    });
    assert_eq!(c.len().unwrap(), 200);
    let mut all: Vec<u64> = ids(&c.query(&[0.0, 0.0], &Query::nearest(200)).unwrap());
    all.sort_unstable();
    assert_eq!(all, (0..200).collect::<Vec<_>>());
}

#[test]
fn concurrent_upserts_of_one_id_never_lose_each_others_part() {
    let (_dir, _db, c) = small();
    let id = c.add(&[0.0, 0.0], NewRow { metadata: object(r#"{"n":0}"#), ..NewRow::default() }).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            (1..=30u8).for_each(|i| {
                c.upsert(&id, Change { vector: Some(vec![f32::from(i), 0.0]), ..Change::default() }).unwrap();
            });
        });
        s.spawn(|| {
            for i in 1..=30 {
                c.upsert(&id, Change { metadata: object(&format!(r#"{{"n":{i}}}"#)), ..Change::default() }).unwrap();
            }
        });
    });
    let row = c.get(id).unwrap().unwrap();
    assert_eq!((row.vector[0], row.metadata.unwrap().as_json()), (30.0, r#"{"n":30}"#));
}

#[test]
fn build_parameters_are_kept_until_others_are_given() {
    let dir = tempfile::tempdir().unwrap();
    let with = |m, ef_construction| Options { m, ef_construction, ..Options::new(2) };
    for (given, kept) in [
        (with(None, None), (16, 200)),
        (with(Some(24), None), (24, 200)),
        (with(None, Some(64)), (24, 64)),
        (with(None, None), (24, 64)),
    ] {
        let db = open(&dir, given);
        assert_eq!((db.collection().m(), db.collection().ef_construction()), kept);
        db.close().unwrap();
    }
}

#[test]
fn a_second_opening_with_other_build_parameters_is_refused_naming_both() {
    let (dir, _db, _c) = small();
    let other = Options { metric: Metric::L2, m: Some(32), ..Options::new(2) };
    let e = Database::open(dir.path(), other).unwrap_err();
    assert!(e.message().contains("M=16") && e.message().contains("M=32"), "{e}");
}

#[test]
fn a_row_that_is_being_replaced_is_never_missing_and_never_there_twice() {
    let (_dir, _db, c) = small();
    c.add_many(&[0.0; 20], NewRows::default()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                s.spawn(|| {
                    let mut looks = 0;
                    while !done.load(std::sync::atomic::Ordering::Acquire) || looks == 0 {
                        let mut found = ids(&c.query(&[0.0, 0.0], &Query::nearest(100)).unwrap());
                        found.sort_unstable();
                        assert_eq!(found, (0..10).collect::<Vec<_>>());
                        looks += 1;
                    }
                })
            })
            .collect();
        for i in 0..300u16 {
            let change = Change { vector: Some(vec![f32::from(i), 1.0]), ..Change::default() };
            c.upsert(Id::Int(u64::from(i % 10)), change).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        readers.into_iter().for_each(|r| r.join().unwrap());
    });
}
