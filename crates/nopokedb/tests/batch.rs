//! Batches of mixed writes: all or none, each write sees those before it; and updates of single members of metadata.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;

use nopokedb::testing::{Fate, Keep, SimDisk};
use nopokedb::{
    Change, Collection, Database, ErrorKind, Id, Metadata, Metric, NewRow, OnConflict, Options, Query, Subject,
};
use tempfile::TempDir;

fn options() -> Options {
    // Frames so small that a batch takes several.
    Options { metric: Metric::L2, frame_bytes: Some(400), ..Options::new(2) }
}

fn small() -> (TempDir, Database, Collection) {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    (dir, db, c)
}

fn json(text: &str) -> Metadata {
    Metadata::from_json(text).unwrap()
}

fn row(id: impl Into<Id>, text: &str) -> NewRow {
    NewRow { id: Some(id.into()), metadata: Some(json(text)), ..NewRow::default() }
}

fn text(c: &Collection, id: impl Into<Id>) -> Option<String> {
    c.get(id).unwrap().map(|row| row.metadata.map_or("none".into(), |m| m.as_json().into()))
}

#[test]
fn later_writes_of_a_batch_see_the_earlier_ones_and_nobody_sees_it_before_its_end() {
    let (dir, db, c) = small();
    c.add(&[0.0, 0.0], row("old", r#"{"n":1}"#)).unwrap();
    c.add(&[0.0, 0.0], row(5, r#"{"n":5}"#)).unwrap();
    let mut batch = c.batch();
    let new = batch.add(&[1.0, 0.0], NewRow::default()).unwrap();
    batch.update(&new, json(r#"{"a":1}"#), &[]).unwrap();
    batch.update(&new, json(r#"{"b":2}"#), &["a"]).unwrap();
    batch.delete("old");
    batch.delete("old");
    batch.add(&[2.0, 0.0], row("old", r#"{"again":true}"#)).unwrap();
    batch.add(&[3.0, 0.0], row("short", "{}")).unwrap();
    batch.delete("short");
    batch.upsert(5, Change { vector: Some(vec![4.0, 0.0]), ..Change::default() }).unwrap();
    batch.add(&[9.0, 9.0], NewRow { on_conflict: OnConflict::Skip, ..row(5, "{}") }).unwrap();
    batch.delete(1 << 40);
    assert_eq!((new.clone(), batch.len()), (Id::Int(6), 11));
    assert_eq!((c.len().unwrap(), text(&c, "old")), (2, Some(r#"{"n":1}"#.into())));
    let changed = batch.commit().unwrap();
    assert_eq!(changed, [true, true, true, true, false, true, true, true, true, false, false]);
    db.close().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    assert_eq!(c.len().unwrap(), 3);
    assert_eq!(text(&c, &new), Some(r#"{"b":2}"#.into()));
    assert_eq!(text(&c, "old"), Some(r#"{"again":true}"#.into()));
    assert_eq!((text(&c, 5), c.get(5).unwrap().unwrap().vector), (Some(r#"{"n":5}"#.into()), vec![4.0, 0.0]));
    assert!(!c.contains("short").unwrap());
    assert_eq!(c.query(&[2.0, 0.0], &Query::nearest(9)).unwrap().len(), 3);
    assert_eq!(c.add(&[0.0, 0.0], NewRow::default()).unwrap(), Id::Int(7), "a delete moves the count nowhere");
    assert!(db.check().unwrap().is_ok());
}

#[test]
fn one_refused_write_refuses_the_batch_and_a_dropped_one_changes_nothing() {
    let (_dir, _db, c) = small();
    c.add(&[0.0, 0.0], row("a", "{}")).unwrap();
    let refused = |fill: &dyn Fn(&mut nopokedb::WriteBatch)| {
        let mut batch = c.batch();
        batch.delete("a");
        batch.add(&[1.0, 0.0], row("b", "{}")).unwrap();
        fill(&mut batch);
        let e = batch.commit().unwrap_err();
        assert_eq!((c.len().unwrap(), c.contains("a").unwrap()), (1, true));
        e
    };
    let twice = refused(&|batch| drop(batch.add(&[1.0, 0.0], row("b", "{}"))));
    assert_eq!(twice.kind(), ErrorKind::Invalid(Subject::DuplicateId));
    let gone = refused(&|batch| batch.update("a", json("{}"), &[]).unwrap());
    assert!(gone.message().contains("no row \"a\" to update"), "{gone}");
    refused(&|batch| batch.upsert("none", Change::default()).unwrap());
    refused(&|batch| drop(batch.add(&[1.0, 0.0], row("", "{}"))));
    let mut batch = c.batch();
    assert!(batch.add(&[1.0], NewRow::default()).is_err() && batch.add(&[f32::NAN, 1.0], NewRow::default()).is_err());
    assert!(batch.update("a", json(r#"{"x":1}"#), &["x"]).is_err());
    assert!(batch.is_empty());
    batch.delete("a");
    drop(batch);
    assert_eq!(c.len().unwrap(), 1);
    assert!(c.batch().commit().unwrap().is_empty());
}

#[test]
fn an_update_changes_the_members_it_names_and_no_others() {
    let (_dir, _db, c) = small();
    let all = r#"{"n":12345678901234567890,"x":1.50,"deep":{"a":[1,{"b":null}]},"k\"ey":"v,:}"}"#;
    c.add(&[0.5, 0.25], NewRow { document: Some("text".into()), ..row(0, all) }).unwrap();
    c.update(0, json(r#"{"x":null,"new":[1.0]}"#), &["deep", "not there"]).unwrap();
    assert_eq!(text(&c, 0).unwrap(), r#"{"n":12345678901234567890,"x":null,"k\"ey":"v,:}","new":[1.0]}"#);
    c.update(0, json(r#"{"k\"ey":2}"#), &["n", "x", "new"]).unwrap();
    assert_eq!(text(&c, 0).unwrap(), r#"{"k\"ey":2}"#);
    c.update(0, json("{}"), &["k\"ey"]).unwrap();
    let row = c.get(0).unwrap().unwrap();
    assert_eq!(
        (row.metadata.unwrap().as_json(), row.document.as_deref(), row.vector),
        ("{}", Some("text"), vec![0.5, 0.25])
    );
    let bare = c.add(&[0.0, 0.0], NewRow::default()).unwrap();
    c.update(&bare, json(r#"{"a":1}"#), &[]).unwrap();
    assert_eq!(text(&c, &bare).unwrap(), r#"{"a":1}"#);
    assert!(c.update(99, json("{}"), &[]).is_err());
}

#[test]
fn updates_of_one_row_by_many_threads_lose_nothing() {
    let (_dir, _db, c) = small();
    c.add(&[0.0, 0.0], row("shared", "{}")).unwrap();
    std::thread::scope(|s| {
        for t in 0..4 {
            let c = &c;
            s.spawn(move || {
                for i in 0..10 {
                    c.update("shared", json(&format!(r#"{{"t{t}_{i}":{i}}}"#)), &[]).unwrap();
                }
            });
        }
    });
    assert_eq!(c.get("shared").unwrap().unwrap().metadata.unwrap().to_map().len(), 40);
}

/// A loss of power at any operation, while batches are written, leaves each of them whole or not there.
#[test]
fn a_loss_of_power_leaves_no_part_of_a_batch() {
    let disk = SimDisk::new();
    let db = Database::open_on(Arc::new(disk.clone()), Path::new("/db"), options()).unwrap();
    let first = disk.ops();
    // Each batch moves five text ids one number up; after batch n they are n-0 to n-4, and "n" says so.
    let mut acknowledged_at = Vec::new();
    for n in 0..12 {
        let tag = || format!(r#"{{"n":{n}}}"#);
        let mut batch = db.collection().batch();
        for i in 0..5 {
            batch.delete(format!("{}-{i}", n - 1));
            batch.add(&[0.0, 1.0], row(format!("{n}-{i}"), &tag())).unwrap();
        }
        let change = Change { vector: Some(vec![0.0, 0.0]), metadata: Some(json(&tag())), ..Change::default() };
        batch.upsert("n", change).unwrap();
        batch.commit().unwrap();
        acknowledged_at.push(disk.ops());
    }
    let last = disk.ops();
    for (point, seed) in (first..=last).flat_map(|point| (0..4).map(move |seed| (point, seed))) {
        let acknowledged = i64::try_from(acknowledged_at.iter().filter(|at| **at <= point).count()).unwrap() - 1;
        let crashed = disk.crash(point, Fate::keeping(Keep::Random(seed)));
        let db = Database::open_on(Arc::new(crashed), Path::new("/db"), options()).unwrap();
        let c = db.collection();
        let Some(now) = text(&c, "n") else {
            assert!(c.is_empty().unwrap(), "{point}, {seed}: a part of the first batch");
            assert_eq!(acknowledged, -1, "{point}, {seed}: acknowledged batches are gone");
            continue;
        };
        let n = json(&now).to_map()["n"].as_i64().unwrap();
        assert!(n >= acknowledged, "{point}, {seed}: batch {acknowledged} was acknowledged, {n} is the last there is");
        assert_eq!(c.len().unwrap(), 6, "{point}, {seed}: parts of a batch");
        assert!(
            (0..5).all(|i| text(&c, format!("{n}-{i}")).as_ref() == Some(&now)),
            "{point}, {seed}: parts of a batch"
        );
    }
}
