//! Committed frames on their way into SQLite: read where they lie, in the mapped segment, never copied.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Placed;
use crate::log::Segment;
use crate::log::{FrameMeta, RowKind, RowView};
use crate::meta::{AppliedBatch, MetaRow, Replay, RowKind as MetaKind};
use crate::types::{CollectionId, Lsn};
use crate::vectors::rows::{SegmentTable, SharedSegments};

/// Some frames of one segment.
struct Frames {
    segment: Arc<Segment>,
    frames: Range<usize>,
}

/// A batch that was just committed.
pub(crate) fn placed(p: &Placed) -> Box<dyn AppliedBatch> {
    Box::new(Frames { segment: p.segment.clone(), frames: p.frames.clone() })
}

/// How SQLite reads the log again: whole segments, in LSN order, from the one that holds the first LSN it lacks.
pub(crate) fn replay(segments: &SharedSegments) -> Replay {
    let segments = segments.clone();
    Box::new(move |from, upto, sink| {
        for segment in in_lsn_order(&segments.load()) {
            if segment.last_lsn() > from && segment.first_lsn() <= upto {
                for frame in 0..segment.frame_count() {
                    if segment.frame_meta(frame).is_some_and(|m| m.rows > 0 && m.lsn_last > from) {
                        sink(Box::new(Frames { segment: segment.clone(), frames: frame..frame + 1 }))?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// The segments of a table by what they hold, not by number: compaction writes old rows under new numbers.
pub(crate) fn in_lsn_order(table: &SegmentTable) -> Vec<Arc<Segment>> {
    let mut segments: Vec<Arc<Segment>> = table.iter().cloned().collect();
    segments.sort_by_key(|s| (s.first_lsn(), s.last_lsn()));
    segments
}

impl Frames {
    fn metas(&self) -> impl Iterator<Item = &FrameMeta> {
        self.frames.clone().filter_map(|i| self.segment.frame_meta(i))
    }
}

impl AppliedBatch for Frames {
    fn last_lsn(&self) -> Lsn {
        self.metas().filter(|m| m.rows > 0).map(|m| m.lsn_last).max().unwrap_or_default()
    }

    fn row_count(&self) -> usize {
        self.metas().map(|m| m.rows as usize).sum()
    }

    fn byte_count(&self) -> usize {
        self.metas().map(|m| m.arena_len as usize).sum()
    }

    fn rows<'a>(&'a self) -> Box<dyn Iterator<Item = Result<MetaRow<'a>>> + 'a> {
        Box::new(self.frames.clone().flat_map(move |i| {
            let frame = self.segment.frame(i);
            let (rows, error) = match frame {
                Ok(frame) => {
                    (Some(frame.rows().map(move |row| row.map(|row| meta_row(frame.collection(), &row)))), None)
                }
                Err(e) => (None, Some(Err(e))),
            };
            rows.into_iter().flatten().chain(error)
        }))
    }
}

fn meta_row<'a>(collection: CollectionId, row: &RowView<'a>) -> MetaRow<'a> {
    MetaRow {
        lsn: row.lsn,
        collection,
        id: row.id,
        kind: match row.kind {
            RowKind::Put => MetaKind::Put,
            RowKind::Delete => MetaKind::Delete,
        },
        key: row.key,
        metadata: row.metadata,
        document: row.document,
        expires_ms: row.expires_ms,
    }
}
