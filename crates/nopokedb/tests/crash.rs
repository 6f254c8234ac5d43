//! Power losses and process deaths at every operation of the disk, for the whole engine: what was acknowledged is there,
//! what was not is there whole or not at all, and nothing else is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nopokedb::testing::{SimDisk, crash};
use nopokedb::{Change, Database, Metadata, NewRow, NewRows, Options, Query, RecordId};

const DIR: &str = "/db";

/// One write of a workload.
#[derive(Clone, Debug)]
enum Write {
    Add(f32),
    Batch(Vec<f32>),
    Upsert(u64, f32),
    Retag(u64, u32),
    Delete(u64),
}

/// Rows by id: the first number of the vector, and the tag in the metadata.
type Model = BTreeMap<u64, (u32, u32)>;

fn options() -> Options {
    Options { segment_bytes: 64 << 10, graph_from: Some(8), build_threads: 1, ..Options::new(2) }
}

fn open(disk: &SimDisk) -> Database {
    Database::open_on(Arc::new(disk.clone()), Path::new(DIR), options()).expect("a crashed directory opens")
}

fn tag(n: u32) -> Option<Metadata> {
    Some(Metadata::from_json(&format!(r#"{{"tag":{n}}}"#)).unwrap())
}

fn vector(x: f32) -> [f32; 2] {
    [x, 1.0]
}

fn perform(db: &Database, write: &Write) -> nopokedb::Result<()> {
    let c = db.collection();
    match write {
        Write::Add(x) => c.add(&vector(*x), NewRow { metadata: tag(0), ..NewRow::default() }).map(drop),
        Write::Batch(xs) => {
            let vectors: Vec<f32> = xs.iter().flat_map(|x| vector(*x)).collect();
            let metadatas = xs.iter().map(|_| tag(0)).collect();
            c.add_many(&vectors, NewRows { metadatas: Some(metadatas), ..NewRows::default() }).map(drop)
        }
        Write::Upsert(id, x) => {
            c.upsert(RecordId(*id), Change { vector: Some(vector(*x).to_vec()), metadata: tag(1), document: None })
        }
        Write::Retag(id, n) => c.upsert(RecordId(*id), Change { metadata: tag(*n), ..Change::default() }),
        Write::Delete(id) => c.delete(RecordId(*id)).map(drop),
    }
}

fn model<'a>(writes: impl Iterator<Item = &'a Write>) -> Model {
    let (mut rows, mut next) = (Model::new(), 0);
    for write in writes {
        match write {
            Write::Add(x) => drop(rows.insert(next, (x.to_bits(), 0))),
            Write::Batch(xs) => (0..).zip(xs).for_each(|(i, x)| drop(rows.insert(next + i, (x.to_bits(), 0)))),
            Write::Upsert(id, x) => drop(rows.insert(*id, (x.to_bits(), 1))),
            Write::Retag(id, n) => rows.entry(*id).and_modify(|r| r.1 = *n).or_insert_with(|| unreachable!()).1 = *n,
            Write::Delete(id) => drop(rows.remove(id)),
        }
        next += match write {
            Write::Add(_) => 1,
            Write::Batch(xs) => xs.len() as u64,
            _ => 0,
        };
    }
    rows
}

/// What a reopened database serves, read in every way there is.
fn served(db: &Database) -> Model {
    let c = db.collection();
    let mut rows = Model::new();
    if c.is_empty().unwrap() {
        return rows;
    }
    for hit in c.query(&vector(0.0), &Query::nearest(1_000)).unwrap() {
        let row = c.get(hit.id).unwrap().expect("a hit can be got");
        let tag = row.metadata.as_ref().unwrap().to_map()["tag"].as_u64().unwrap();
        assert_eq!(hit.metadata, row.metadata);
        assert!(
            rows.insert(hit.id.0, (row.vector[0].to_bits(), u32::try_from(tag).unwrap())).is_none(),
            "a hit came twice"
        );
    }
    assert_eq!(rows.len(), c.len().unwrap());
    rows
}

fn enumerate(writes: &[Write], close: bool) {
    crash::Enumeration::quick().run(
        |disk, history| {
            let db = open(disk);
            for write in writes {
                history.attempt(write.clone(), || perform(&db, write)).unwrap();
            }
            if close {
                db.close().unwrap();
            } else {
                std::mem::forget(db);
            }
        },
        |disk| open(disk),
        |db, seen| {
            let rows = served(&db);
            let (least, most) = (model(seen.acked()), model(seen.possible()));
            assert!(rows == least || rows == most, "served {rows:?}, acknowledged {least:?}, attempted {most:?}");
            rows
        },
    );
}

#[test]
fn acknowledged_adds_survive_power_loss() {
    enumerate(&[Write::Add(1.0), Write::Add(2.0), Write::Add(3.0)], false);
}

#[test]
fn a_batch_survives_power_loss_whole_or_not_at_all() {
    enumerate(&[Write::Add(1.0), Write::Batch((0..20u8).map(f32::from).collect()), Write::Add(2.0)], false);
}

#[test]
fn upserts_and_deletes_survive_power_loss() {
    let writes = [
        Write::Batch(vec![1.0, 2.0, 3.0]),
        Write::Upsert(1, 9.0),
        Write::Retag(0, 7),
        Write::Delete(2),
        Write::Upsert(2, 5.0),
    ];
    enumerate(&writes, false);
}

#[test]
fn a_clean_close_survives_power_loss() {
    enumerate(&[Write::Batch(vec![1.0, 2.0]), Write::Delete(0)], true);
}
