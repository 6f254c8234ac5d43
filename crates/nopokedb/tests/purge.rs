//! After a purge, no file of the directory has a byte of what was purged; nothing else is lost.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests read the directory's files

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use nopokedb::{Change, Clock, Collection, Database, Expiry, Filter, Id, Metadata, NewRow, NewRows, Options, Query};

const DIM: usize = 24;

fn options() -> Options {
    Options { segment_bytes: 64 << 10, graph_from: Some(100), ..Options::new(DIM) }
}

/// A vector whose bytes appear nowhere by chance.
fn vector(seed: u64) -> Vec<f32> {
    (0..DIM as u64).map(|d| (((seed + 1) * (d + 3)) as f32 * 0.7371).sin()).collect()
}

fn document(id: u64, state: u64) -> String {
    format!("zqsecretx{id:05}x{state} was here and is to be forgotten")
}

fn build(dir: &Path) -> Database {
    let db = Database::open(dir, options()).unwrap();
    let c = db.collection();
    for n in 0..10u64 {
        let ids = n * 40..(n + 1) * 40;
        let vectors: Vec<f32> = ids.clone().flat_map(vector).collect();
        let json = |id| Some(Metadata::from_json(&format!(r#"{{"name":"zqnamex{id:05}","n":{id}}}"#)).unwrap());
        let metadatas = Some(ids.clone().map(json).collect());
        let documents = Some(ids.map(|id| Some(document(id, 0))).collect());
        c.add_many(&vectors, NewRows { metadatas, documents, ..NewRows::default() }).unwrap();
    }
    // Earlier states of a row, in segments of their own.
    for state in 1..4 {
        let change = Change { document: Some(document(77, state) + &"x".repeat(3_000)), ..Change::default() };
        c.upsert(Id::Int(77), change).unwrap();
    }
    db.wait_indexed(None).unwrap();
    db.save().unwrap();
    db
}

/// The files under `dir` that hold `bytes`.
fn holding(dir: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(holding(&entry.path(), bytes));
        } else if let Ok(contents) = fs::read(entry.path())
            && contents.windows(bytes.len()).any(|w| w.eq_ignore_ascii_case(bytes))
        {
            found.push(entry.path().to_str().unwrap().to_owned());
        }
    }
    found
}

fn traces(dir: &Path, id: u64) -> Vec<String> {
    let vector: Vec<u8> = vector(id).iter().flat_map(|x| x.to_le_bytes()).collect();
    let texts = [format!("zqsecretx{id:05}"), format!("zqnamex{id:05}")];
    let needles = texts.iter().map(|t| t.as_bytes().to_vec()).chain([vector[..16].to_vec()]);
    needles.flat_map(|needle| holding(dir, &needle)).collect()
}

fn check(c: &Collection, gone: impl Fn(u64) -> bool) {
    for id in 0..400 {
        let row = c.get(Id::Int(id)).unwrap();
        assert_eq!(row.is_none(), gone(id), "row {id}");
        if let Some(row) = row {
            assert_eq!(row.vector, vector(id));
            assert_eq!(c.query(&vector(id), &Query::nearest(1)).unwrap()[0].id, Id::Int(id));
        }
    }
}

#[test]
fn no_file_has_a_byte_of_a_purged_row_or_of_its_earlier_states() {
    let room = tempfile::tempdir().unwrap();
    let db = build(room.path());
    let c = db.collection();
    assert!(traces(room.path(), 77).len() > 4, "the search finds what is there");
    assert_eq!(c.purge(&[Id::Int(77)]).unwrap(), 1);
    assert_eq!(traces(room.path(), 77), [""; 0]);
    assert!(!traces(room.path(), 78).is_empty());
    check(&c, |id| id == 77);
    let secret = NewRow { id: Some("zqkeyx".into()), document: Some("of a text id".into()), ..NewRow::default() };
    c.add(&vector(500), secret).unwrap();
    db.save().unwrap();
    assert!(!holding(room.path(), b"zqkeyx").is_empty());
    assert_eq!(c.purge(&["zqkeyx".into(), "zqnever".into(), Id::Int(77)]).unwrap(), 1);
    assert_eq!(holding(room.path(), b"zqkeyx"), [""; 0]);
    assert_eq!(c.purge_where(&Filter::field("n").between(100, 140)).unwrap(), 41);
    (100..=140).step_by(8).for_each(|id| assert_eq!(traces(room.path(), id), [""; 0]));
    let report = db.check().unwrap();
    assert!(report.is_ok(), "{report}");
    db.close().unwrap();
    drop((c, db));
    (100..=140).chain([77]).step_by(8).for_each(|id| assert_eq!(traces(room.path(), id), [""; 0]));
    let db = Database::open(room.path(), options()).unwrap();
    check(&db.collection(), |id| id == 77 || (100..=140).contains(&id));
    assert!(db.check().unwrap().is_ok());
}

#[test]
fn a_purge_by_filter_reaches_rows_that_have_expired_deleted_since_or_not() {
    for reaped in [false, true] {
        let (room, clock) = (tempfile::tempdir().unwrap(), Clock::stopped(UNIX_EPOCH + Duration::from_secs(1_000)));
        drop(build(room.path()));
        let db = Database::open(room.path(), Options { clock: clock.clone(), ..options() }).unwrap();
        let c = db.collection();
        let change =
            |seconds| Change { expires: Some(Expiry::After(Duration::from_secs(seconds))), ..Change::default() };
        // Among so many that stay that nothing but a purge takes them out of their segment.
        let mut batch = c.batch();
        (100..120).for_each(|id| batch.upsert(Id::Int(id), change(5)).unwrap());
        (120..330).for_each(|id| batch.upsert(Id::Int(id), change(500)).unwrap());
        batch.commit().unwrap();
        // Its earlier state has expired and passes the filter; it does not.
        let other = Some(Metadata::from_json(r#"{"n":-1}"#).unwrap());
        let back = Change { metadata: other, expires: Some(Expiry::Never), ..Change::default() };
        c.upsert(Id::Int(119), back).unwrap();
        db.save().unwrap();
        // The background is not woken by a clock that stands.
        clock.advance(Duration::from_secs(5));
        if reaped {
            assert_eq!(db.reap().unwrap(), 19);
        }
        // The DELETEs to come go to another segment.
        let (vectors, documents) =
            ((1_000..1_400).flat_map(vector).collect::<Vec<f32>>(), (0..400).map(|_| Some("x".repeat(90))));
        c.add_many(&vectors, NewRows { documents: Some(documents.collect()), ..NewRows::default() }).unwrap();
        assert_eq!(c.len().unwrap(), 781);
        assert!(!traces(room.path(), 105).is_empty());
        assert_eq!(c.purge_where(&Filter::field("n").between(98, 119)).unwrap(), 2, "what is seen counts");
        (98..119).step_by(6).for_each(|id| assert_eq!(traces(room.path(), id), [""; 0], "{id}"));
        assert!(!traces(room.path(), 120).is_empty());
        assert_eq!(c.purge_where(&Filter::field("n").eq(120)).unwrap(), 1);
        assert_eq!(traces(room.path(), 120), [""; 0]);
        assert_eq!(c.get(Id::Int(119)).unwrap().unwrap().document, Some(document(119, 0)));
        assert_eq!(c.len().unwrap(), 778);
        let report = db.check().unwrap();
        assert!(report.is_ok(), "{report}");
    }
}

#[test]
fn a_purge_that_was_cut_off_is_finished_by_doing_it_again() {
    let room = tempfile::tempdir().unwrap();
    let db = build(room.path());
    // Among rows that live: nothing else would remove its bytes.
    assert!(db.collection().delete(Id::Int(300)).unwrap());
    db.close().unwrap();
    drop(db);
    let db = Database::open(room.path(), options()).unwrap();
    assert!(!traces(room.path(), 300).is_empty(), "there is something to purge");
    assert_eq!(db.collection().purge(&[Id::Int(300)]).unwrap(), 0);
    assert_eq!(traces(room.path(), 300), [""; 0]);
    check(&db.collection(), |id| id == 300);
}

#[test]
fn a_log_whose_last_operations_are_gone_is_whole() {
    let room = tempfile::tempdir().unwrap();
    let db = build(room.path());
    assert_eq!(db.collection().purge_where(&Filter::field("n").exists()).unwrap(), 400);
    let report = db.check().unwrap();
    assert!(report.is_ok(), "{report}");
    db.close().unwrap();
    drop(db);
    for file in fs::read_dir(room.path()).unwrap().map(|e| e.unwrap().path()) {
        if file.to_str().unwrap().contains("meta.sqlite") {
            fs::remove_file(file).unwrap();
        }
    }
    let db = Database::open(room.path(), options()).unwrap();
    assert_eq!(db.collection().len().unwrap(), 0);
    let report = db.check().unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(db.collection().add(&vector(1), NewRow::default()).unwrap(), Id::Int(400));
}

#[test]
fn a_row_that_is_added_again_under_a_purged_id_stays() {
    let room = tempfile::tempdir().unwrap();
    let db = build(room.path());
    let c = db.collection();
    std::thread::scope(|s| {
        s.spawn(|| (1_000..1_200).for_each(|n| drop(c.add(&vector(n), NewRow::default()).unwrap())));
        for round in 0..3 {
            let row = NewRow { id: Some(Id::Int(7_000)), document: Some(document(7_000, round)), ..NewRow::default() };
            c.add(&vector(7_000), row).unwrap();
            assert_eq!(c.purge(&[Id::Int(7_000)]).unwrap(), 1);
            assert_eq!(traces(room.path(), 7_000), [""; 0]);
        }
    });
    let row = NewRow { id: Some(Id::Int(7_000)), document: Some(document(7_000, 9)), ..NewRow::default() };
    c.add(&vector(7_000), row).unwrap();
    assert_eq!(c.get(Id::Int(7_000)).unwrap().unwrap().document, Some(document(7_000, 9)));
    assert_eq!(c.len().unwrap(), 601);
}

#[test]
fn a_purge_by_filter_reaches_what_a_text_left_under_another_number() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let c = db.collection();
    let add = |text: &str, id: u64| {
        let metadata = Some(Metadata::from_json(&format!(r#"{{"name":"zqnamex{id:05}","text":"{text}"}}"#)).unwrap());
        c.add(&vector(id), NewRow { id: Some(text.into()), metadata, ..NewRow::default() }).unwrap();
    };
    // So much beside them that no segment is compacted for them, and that each state lies in one of its own.
    let fill = || {
        for _ in 0..40 {
            c.add(&vector(9), NewRow { document: Some("x".repeat(3_000)), ..NewRow::default() }).unwrap();
        }
    };
    fill();
    // Texts of one hash: the second takes the next number, until the first has gone.
    let (first, second) = ("aSQtF7gl", "vlmT>g@g");
    add(first, 1);
    fill();
    add(second, 2);
    fill();
    assert!(c.delete(second).unwrap() && c.delete(first).unwrap());
    fill();
    add(second, 3);
    assert_ne!(traces(dir.path(), 2), [""; 0], "nothing is gone before");
    assert_eq!(c.purge_where(&Filter::parse_str(&format!("text = '{second}'")).unwrap()).unwrap(), 1);
    for id in [2, 3] {
        assert_eq!(traces(dir.path(), id), [""; 0], "row {id}");
    }
    add(second, 4);
    assert_eq!(c.get(second).unwrap().unwrap().vector, vector(4));
}
