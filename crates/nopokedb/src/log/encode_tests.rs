use std::path::Path;

use proptest::prelude::*;

use super::super::format::FrameKind;
use super::super::frame::{FrameMeta, FrameView, RowKind};
use super::*;
use crate::types::{Lsn, RecordId};

/// A payload in one piece, aligned as in a segment.
fn joined(frame: &EncodedFrame) -> Vec<f32> {
    let bytes = frame.payload().concat();
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn meta(batch: &Batch, frame: &EncodedFrame) -> FrameMeta {
    FrameMeta {
        offset: 4096,
        lsn_first: Lsn(10),
        lsn_last: Lsn(10 + u64::from(frame.lsn_span)),
        payload_len: frame.payload_len,
        rows: frame.rows,
        vectors: frame.vectors,
        arena_len: frame.arena_len,
        collection: batch.collection,
        dim: batch.dim,
        kind: FrameKind::Rows,
        flags: 0,
    }
}

fn put<'a>(id: u64, vector: &'a [f32]) -> NewRowRef<'a> {
    let id = RecordId(id);
    NewRowRef { kind: RowKind::Put, id, key: None, metadata: None, document: None, vector: Some(vector), expires_ms: 0 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The batch of the worked example in docs/FORMAT.md.
fn example() -> Batch {
    let mut builder = FrameBuilder::new(CollectionId(1), 3);
    builder.push(&NewRowRef { metadata: Some(r#"{"n":1}"#), ..put(5, &[1.0, 2.0, -0.5]) }).unwrap();
    let delete = NewRowRef { kind: RowKind::Delete, vector: None, key: Some("k2"), ..put(6, &[]) };
    builder.push(&delete).unwrap();
    builder.finish()
}

#[test]
fn a_payload_has_the_documented_bytes() {
    let batch = example();
    assert_eq!(
        hex(&batch.frames[0].payload().concat()),
        concat!(
            "05000000000000000000000001010000000000000700000000000000000000000000000000000000", // row 0
            "06000000000000000100000002040200070000000000000000000000ffffffff0000000000000000", // row 1
            "7b226e223a317d",                                                                   // metadata of row 0
            "6b32",                                                                             // key of row 1
            "000000000000000000000000000000000000000000000000000000000000000000000000000000",   // to 128
            "0000803f00000040000000bf",                                                         // the vector
            "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000", // to 192
        )
    );
    assert_eq!(hex(&batch.frames[0].payload_hash), "8720d61c3951417a41b200554f8e9555");
}

#[test]
fn a_row_that_no_frame_can_hold_is_refused_and_the_rest_goes_on() {
    let mut builder = FrameBuilder::new(CollectionId(0), 2);
    let huge = "x".repeat(MAX_PAYLOAD_SIZE);
    let key = "k".repeat(65_536);
    builder.push(&put(0, &[0.0, 1.0])).unwrap();
    assert!(builder.push(&NewRowRef { document: Some(&huge), ..put(1, &[0.0, 1.0]) }).is_err());
    assert!(builder.push(&NewRowRef { key: Some(&key), ..put(1, &[0.0, 1.0]) }).is_err());
    assert!(builder.push(&put(1, &[0.0])).is_err());
    builder.push(&put(2, &[2.0, 3.0])).unwrap();
    let batch = builder.finish();
    let floats = joined(&batch.frames[0]);
    let view = FrameView::new(Path::new("x"), meta(&batch, &batch.frames[0]), bytes_of(&floats)).unwrap();
    let ids: Vec<u64> = view.rows().map(|r| r.unwrap().id.0).collect();
    assert_eq!(ids, [0, 2]);
}

#[test]
fn a_batch_longer_than_a_payload_is_cut_into_frames() {
    let mut builder = FrameBuilder::with_limit(CollectionId(0), 16, 1024);
    for id in 0..100 {
        builder.push(&put(id, &[id as f32; 16])).unwrap();
    }
    let batch = builder.finish();
    assert!(batch.frames.len() > 5 && batch.frames.iter().all(|f| f.payload_len <= 1024));
    assert_eq!(batch.rows(), 100);
}

#[test]
fn an_empty_batch_has_no_frames() {
    assert!(FrameBuilder::new(CollectionId(0), 4).finish().frames.is_empty());
}

prop_compose! {
    fn any_row()(id in any::<u64>(), put in any::<bool>(), key in proptest::option::of(".{0,9}"),
                 metadata in proptest::option::of(".{0,40}"), document in proptest::option::of(".{0,99}"),
                 vector in proptest::option::of(prop::collection::vec(-1e9f32..1e9, 5)), expires_ms in any::<i64>())
        -> (u64, bool, Option<String>, Option<String>, Option<String>, Option<Vec<f32>>, i64) {
        (id, put, key, metadata, document, vector, expires_ms)
    }
}

proptest! {
    #[test]
    fn rows_read_back_as_written(rows in prop::collection::vec(any_row(), 0..60), limit in 200u64..4000) {
        let mut builder = FrameBuilder::with_limit(CollectionId(3), 5, limit);
        for (id, put, key, metadata, document, vector, expires_ms) in &rows {
            let kind = if *put { RowKind::Put } else { RowKind::Delete };
            builder.push(&NewRowRef {
                kind, id: RecordId(*id), key: key.as_deref(), metadata: metadata.as_deref(),
                document: document.as_deref(), vector: vector.as_deref(), expires_ms: *expires_ms,
            }).unwrap();
        }
        let batch = builder.finish();
        let mut expected = rows.iter();
        for frame in &batch.frames {
            let floats = joined(frame);
            let view = FrameView::new(Path::new("x"), meta(&batch, frame), bytes_of(&floats)).unwrap();
            for (i, row) in view.rows().enumerate() {
                let row = row.unwrap();
                let (id, put, key, metadata, document, vector, expires_ms) = expected.next().unwrap();
                prop_assert_eq!(row.lsn, Lsn(10 + i as u64));
                prop_assert_eq!((row.id.0, row.kind == RowKind::Put, row.expires_ms), (*id, *put, *expires_ms));
                prop_assert_eq!((row.key, row.metadata, row.document), (key.as_deref(), metadata.as_deref(), document.as_deref()));
                prop_assert_eq!(row.vector, vector.as_deref());
            }
        }
        prop_assert!(expected.next().is_none());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(words in prop::collection::vec(any::<u32>(), 0..200),
                                      rows in 0u32..12, vectors in 0u32..12, arena_len in 0u32..300, dim in 1u16..9) {
        let floats: Vec<f32> = words.iter().map(|w| f32::from_bits(*w)).collect();
        let payload_len = payload_len(rows, arena_len, vectors, dim);
        let batch = FrameBuilder::new(CollectionId(0), dim).finish();
        let meta = FrameMeta { payload_len, rows, vectors, arena_len, dim, offset: 0, lsn_first: Lsn(1), lsn_last: Lsn(2),
                               collection: batch.collection, kind: FrameKind::Rows, flags: 0 };
        let mut padded = floats.clone();
        padded.resize(usize::try_from(payload_len / 4).unwrap(), 0.0);
        prop_assert!(FrameView::new(Path::new("x"), meta, bytes_of(&padded)).is_ok());
        for candidate in [&floats, &padded] {
            if let Ok(view) = FrameView::new(Path::new("x"), meta, bytes_of(candidate)) {
                for row in view.rows() { let _ = row; }
            }
        }
    }

    #[test]
    fn flipping_bytes_of_a_row_table_never_panics(at in 0usize..80, to in any::<u8>()) {
        let batch = example();
        let mut floats = joined(&batch.frames[0]);
        let word = &mut floats[at / 4];
        let mut bytes = word.to_bits().to_le_bytes();
        bytes[at % 4] = to;
        *word = f32::from_bits(u32::from_le_bytes(bytes));
        let view = FrameView::new(Path::new("x"), meta(&batch, &batch.frames[0]), bytes_of(&floats)).unwrap();
        for row in view.rows() { let _ = row; }
    }
}
