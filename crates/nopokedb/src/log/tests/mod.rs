//! Promises of the log as a whole. Those of one file's code are in that file.

mod broken;
mod compaction;
mod crash;
mod damage;
mod lifecycle;

use std::path::Path;
use std::sync::Arc;

use super::recover::Recovered;
use super::*;
use crate::error::Result;
use crate::io::disk::Disk;
use crate::io::vfs::Vfs;
use crate::types::{CollectionId, Metric, RecordId, Tokenizer};

pub(super) const DIM: u16 = 4;
pub(super) const C: CollectionId = CollectionId::DEFAULT;

/// Options that repeat byte for byte.
pub(super) fn options(segment_bytes: u64) -> LogOptions {
    LogOptions { segment_bytes, seed: 1, now_ms: || 1_700_000_000_000 }
}

pub(super) fn collection() -> CollectionEntry {
    let (name, metric) = ("default".to_owned(), Metric::Cosine);
    let (m, ef_construction, tokenizer) = (16, 200, Tokenizer::Unicode61);
    CollectionEntry { id: C, name, dim: DIM, metric, m, ef_construction, next_id: 0, model: None, tokenizer }
}

/// A batch of PUT rows with these ids; everything in a row follows from its id.
pub(super) fn puts(ids: impl IntoIterator<Item = u64>) -> Batch {
    let mut builder = FrameBuilder::new(C, DIM);
    for id in ids {
        push_put(&mut builder, id);
    }
    builder.finish()
}

pub(super) fn push_put(builder: &mut FrameBuilder, id: u64) {
    let vector = [id as f32, -(id as f32), 0.5, 1.0];
    let metadata = format!(r#"{{"n":{id}}}"#);
    let row = NewRowRef {
        kind: RowKind::Put,
        id: RecordId(id),
        key: None,
        metadata: Some(&metadata),
        document: None,
        vector: Some(&vector),
        expires_ms: 0,
    };
    builder.push(&row).unwrap();
}

pub(super) fn deletes(ids: impl IntoIterator<Item = u64>) -> Batch {
    let mut builder = FrameBuilder::new(C, DIM);
    for id in ids {
        let (kind, id) = (RowKind::Delete, RecordId(id));
        let row = NewRowRef { kind, id, key: None, metadata: None, document: None, vector: None, expires_ms: 0 };
        builder.push(&row).unwrap();
    }
    builder.finish()
}

/// Every row of the segments in order, as (lsn, id, is a put), each checked against what its id says it must hold.
pub(super) fn rows_of(segments: &[Arc<Segment>]) -> Result<Vec<(u64, u64, bool)>> {
    let mut out = Vec::new();
    for segment in segments {
        for frame in segment.frames() {
            for row in frame?.rows() {
                let row = row?;
                if row.kind == RowKind::Put {
                    let id = row.id.0;
                    assert_eq!(row.vector, Some(&[id as f32, -(id as f32), 0.5, 1.0][..]));
                    assert_eq!(row.metadata, Some(&*format!(r#"{{"n":{id}}}"#)));
                    let offset = row.vector_offset.unwrap();
                    assert_eq!(segment.vector(offset, DIM.into())?, row.vector.unwrap());
                    assert_eq!(segment.row_at_vector(offset)?, row);
                }
                out.push((row.lsn.0, row.id.0, row.kind == RowKind::Put));
            }
        }
    }
    Ok(out)
}

pub(super) fn ids_of(segments: &[Arc<Segment>]) -> Vec<u64> {
    rows_of(segments).unwrap().into_iter().map(|r| r.1).collect()
}

pub(super) fn disk() -> Arc<dyn Vfs> {
    Arc::new(Disk)
}

pub(super) fn create(vfs: &Arc<dyn Vfs>, dir: &Path, segment_bytes: u64) -> Log {
    Log::create(Arc::clone(vfs), dir, options(segment_bytes), &[collection()]).unwrap()
}

pub(super) fn open(vfs: &Arc<dyn Vfs>, dir: &Path) -> Result<(Log, Recovered)> {
    Log::open(Arc::clone(vfs), dir, options(64 << 10))
}
