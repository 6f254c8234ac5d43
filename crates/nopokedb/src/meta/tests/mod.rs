//! The promises of the metadata cache. SQLite's files are real here, so these tests touch the real disk.
#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation)]

mod applier;
mod damage;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::connection::Outcome;
use super::readers::{Reader, Readers};
use super::*;

const UUID: [u8; 16] = *b"0123456789abcdef";

/// An operation that owns its text.
#[derive(Clone, Debug, PartialEq)]
struct Op {
    lsn: u64,
    collection: u32,
    id: u64,
    kind: RowKind,
    key: Option<String>,
    metadata: Option<String>,
    document: Option<String>,
    expires_ms: i64,
}

impl Op {
    fn row(&self) -> MetaRow<'_> {
        MetaRow {
            lsn: Lsn(self.lsn),
            collection: CollectionId(self.collection),
            id: RecordId(self.id),
            kind: self.kind,
            key: self.key.as_deref(),
            metadata: self.metadata.as_deref(),
            document: self.document.as_deref(),
            expires_ms: self.expires_ms,
        }
    }
}

fn put(lsn: u64, id: u64, metadata: &str) -> Op {
    let metadata = Some(metadata.to_owned());
    Op { lsn, collection: 0, id, kind: RowKind::Put, key: None, metadata, document: None, expires_ms: 0 }
}

/// A log of `n` operations over fewer ids: mostly puts, some deletes, everything a row can have.
fn log(n: u64) -> Vec<Op> {
    (1..=n)
        .map(|lsn| {
            let mixed = lsn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let id = if mixed % 3 == 0 { mixed % 97 } else { lsn };
            let kind = if mixed % 7 == 0 { RowKind::Delete } else { RowKind::Put };
            Op {
                kind,
                collection: u32::from(mixed % 5 == 0),
                key: (mixed % 4 == 0).then(|| format!("key-{id}")),
                document: (mixed % 6 == 0).then(|| format!("dokument № {lsn} ").repeat(1 + lsn as usize % 90)),
                expires_ms: if mixed % 11 == 0 { 1_900_000_000_123 } else { 0 },
                ..put(lsn, id, &format!("{{\"lsn\":{lsn},\"text\":\"größe {mixed}\"}}"))
            }
        })
        .collect()
}

type Model = BTreeMap<(u32, u64), Op>;

/// What the records are after the operations up to `lsn`.
fn model(ops: &[Op], lsn: u64) -> Model {
    let mut model = Model::new();
    for op in ops.iter().take_while(|op| op.lsn <= lsn) {
        match op.kind {
            RowKind::Put => drop(model.insert((op.collection, op.id), op.clone())),
            RowKind::Delete => drop(model.remove(&(op.collection, op.id))),
        }
    }
    model
}

fn everything(reader: &Reader<'_>) -> Outcome<Model> {
    let mut model = Model::new();
    for collection in 0..3 {
        reader.scan(CollectionId(collection), &mut |row| {
            let op = Op {
                lsn: row.lsn.0,
                collection,
                id: row.id.0,
                kind: row.kind,
                key: row.key.map(Into::into),
                metadata: row.metadata.map(Into::into),
                document: row.document.map(Into::into),
                expires_ms: row.expires_ms,
            };
            assert!(model.insert((collection, row.id.0), op).is_none());
        })?;
    }
    Ok(model)
}

fn contents(store: &MetaStore) -> Outcome<Model> {
    Readers::new(store.place().clone()).with(|reader| {
        reader.verify()?;
        assert_eq!(reader.applied_lsn()?, store.applied_lsn());
        everything(reader)
    })
}

fn apply(store: &mut MetaStore, ops: &[Op]) -> Result<()> {
    let upto = ops.last().map_or(Lsn(0), |op| Lsn(op.lsn));
    store.apply(ops.iter().map(Op::row), upto)
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Dir(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("meta.sqlite")
    }

    fn open(&self, log_last: u64) -> Result<(MetaStore, Opened)> {
        MetaStore::open(MetaLocation::File(self.file()), UUID, Lsn(log_last), Tokenizers::default())
    }

    /// Names and bytes of all files.
    fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
            .collect()
    }

    /// A cache of `ops`, closed as at a clean shutdown.
    fn filled(ops: &[Op]) -> Dir {
        let dir = Dir::new();
        let (mut store, _) = dir.open(u64::MAX).unwrap();
        apply(&mut store, ops).unwrap();
        store.close().unwrap();
        dir
    }
}

/// A batch on its way into the cache.
struct Batch(Vec<Op>);

impl AppliedBatch for Batch {
    fn last_lsn(&self) -> Lsn {
        Lsn(self.0.last().unwrap().lsn)
    }
    fn chain(&self) -> [u8; 16] {
        u128::from(self.last_lsn().0).to_be_bytes()
    }
    fn row_count(&self) -> usize {
        self.0.len()
    }
    fn byte_count(&self) -> usize {
        self.0.iter().map(|op| op.metadata.as_ref().map_or(0, String::len)).sum()
    }
    fn rows<'a>(&'a self) -> Box<dyn Iterator<Item = Result<MetaRow<'a>>> + 'a> {
        Box::new(self.0.iter().map(|op| Ok(op.row())))
    }
}
