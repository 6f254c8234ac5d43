//! Copies rows from the old files into the new log: vectors and metadata meet by id, both in ascending order.

use std::iter::Peekable;
use std::path::PathBuf;
use std::vec::IntoIter;

use super::hnswlib::OldIndex;
use super::oplog::Pending;
use super::report::Imported;
use super::{From, Plan};
use crate::error::{Error, Result};
use crate::log::{FrameBuilder, Log, NewRowRef, RowKind};
use crate::meta::OldMetadata;
use crate::metadata::Metadata;
use crate::options::{MAX_DIM, Options};
use crate::types::{CollectionId, Metric, RecordId, Watch};

/// A batch, and with it a sync of the log, every so many bytes, or twice a segment.
const BATCH: u64 = 8 << 20;
/// Rows between two words about the progress.
const WATCHED: usize = 4_096;
/// How far the squared length of a vector that was divided by its length may be from 1.
const NEAR_ONE: f64 = 1e-3;

/// The old files, opened.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) index: Option<OldIndex>,
    pub(super) pending: Pending,
    pub(super) metadata: OldMetadata,
    pub(super) dir: PathBuf,
}

/// A copy under way.
pub(super) struct Copy<'a> {
    index: Option<OldIndex>,
    pending: Pending,
    vectors: Peekable<IntoIter<(u64, From)>>,
    to: Target<'a>,
    vector: Vec<f32>,
    metadata: Option<OldMetadata>,
    dir: PathBuf,
    lengths: Lengths,
    imported: Imported,
    watch: Watch<'a>,
    done: usize,
    all: usize,
}

/// The log, and the batch that is being filled.
struct Target<'a> {
    log: &'a mut Log,
    frame: FrameBuilder,
    options: &'a Options,
    bytes: usize,
}

/// Whether vectors have the length that cosine gave them.
#[derive(Debug, Default)]
struct Lengths {
    one: u64,
    other: u64,
    /// A row of another length.
    example: Option<(u64, f64)>,
}

impl<'a> Copy<'a> {
    pub(super) fn new(
        source: Source,
        plan: Plan,
        options: &'a Options,
        log: &'a mut Log,
        watch: Watch<'a>,
    ) -> Copy<'a> {
        let (done, all) = (0, plan.vectors.len());
        let Source { index, pending, metadata, dir } = source;
        let to = Target { log, frame: frame(options), options, bytes: 0 };
        let vectors = plan.vectors.into_iter().peekable();
        let (vector, lengths) = (Vec::new(), Lengths::default());
        let (metadata, imported) = (Some(metadata), plan.imported);
        Copy { index, pending, vectors, to, vector, metadata, dir, lengths, imported, watch, done, all }
    }

    /// Copies everything; what is in the log then is durable.
    pub(super) fn run(mut self) -> Result<Imported> {
        let metadata = self.metadata.take().expect("a copy runs once");
        metadata.for_each(&mut |id, text| {
            let Ok(id) = u64::try_from(id) else {
                self.imported.negative_ids += 1;
                return Ok(());
            };
            while let Some((below, from)) = self.vectors.next_if(|(below, _)| *below < id) {
                self.row(below, from, None)?;
            }
            match self.vectors.next_if(|(same, _)| *same == id) {
                Some((_, from)) => self.row(id, from, Some(text)),
                None => {
                    self.imported.without_vector.push(id);
                    Ok(())
                }
            }
        })?;
        while let Some((id, from)) = self.vectors.next() {
            self.row(id, from, None)?;
        }
        self.to.flush()?;
        self.check_lengths()?;
        self.imported.normalised = self.to.options.metric == Metric::Cosine && self.lengths.one > 0;
        Ok(self.imported)
    }

    /// One row: its vector from the index or the log, its metadata from SQLite or else from the log.
    fn row(&mut self, id: u64, from: From, text: Option<&str>) -> Result<()> {
        if self.done.is_multiple_of(WATCHED) && (self.watch)(self.done, self.all).is_break() {
            return Err(Error::argument("stopped by what was told the progress; nothing was imported"));
        }
        self.done += 1;
        let mut logged = None;
        match from {
            From::Nowhere => {
                self.imported.without_vector.push(id);
                return Ok(());
            }
            From::Index(no) => {
                let index = self.index.as_mut().expect("its element is in the plan");
                index.vector(no, &mut self.vector)?;
                if text.is_none() && self.pending.contains(id) {
                    logged = Some(self.pending.row(id)?.1);
                }
            }
            From::Log => {
                let (vector, metadata) = self.pending.row(id)?;
                (self.vector, logged) = (vector, Some(metadata));
            }
        }
        if self.vector.iter().any(|x| !x.is_finite()) {
            self.imported.not_finite.push(id);
            return Ok(());
        }
        if from != From::Log {
            self.lengths.see(id, &self.vector);
        }
        let of_row = |e: Error| Error::new(e.kind(), format!("row {id}: {}", e.message()));
        let text = text.or(logged.as_deref());
        let metadata = match text {
            None => {
                self.imported.without_metadata.push(id);
                None
            }
            // `add(vector, None)`, which reads back as None.
            Some("null") => None,
            Some(text) => Some(Metadata::from_json(text).or_else(|_| {
                self.imported.metadata_as_text.push(id);
                as_text(text).map_err(of_row)
            })?),
        };
        self.imported.rows += 1;
        self.imported.from_log += u64::from(from == From::Log);
        self.to.put(id, &self.vector, metadata.as_ref().map(Metadata::as_json)).map_err(of_row)
    }

    /// 0.5.1 divided every vector by its length before it stored it under cosine, and otherwise left it alone.
    fn check_lengths(&self) -> Result<()> {
        match self.lengths.example {
            Some((id, length)) if self.to.options.metric == Metric::Cosine && self.lengths.other > self.lengths.one => {
                let message = format!(
                    "{}: this was not written with space=\"cosine\": row {id} has length {length:.4}, and cosine vectors \
                     were stored with length 1. Open it with the space it was written with, \"l2\" or \"ip\"; nothing was changed",
                    self.dir.display()
                );
                Err(Error::argument(message))
            }
            _ => Ok(()),
        }
    }
}

impl Lengths {
    fn see(&mut self, id: u64, vector: &[f32]) {
        let squared: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        if (squared - 1.0).abs() < NEAR_ONE {
            self.one += 1;
        } else if squared > 0.0 {
            self.other += 1;
            self.example.get_or_insert((id, squared.sqrt()));
        }
    }
}

impl Target<'_> {
    fn put(&mut self, id: u64, vector: &[f32], metadata: Option<&str>) -> Result<()> {
        let (id, vector) = (RecordId(id), Some(vector));
        self.frame.push(&NewRowRef {
            kind: RowKind::Put,
            id,
            key: None,
            metadata,
            document: None,
            vector,
            expires_ms: 0,
        })?;
        self.bytes += 4 * self.options.dim + metadata.map_or(0, str::len) + 64;
        if self.bytes as u64 >= BATCH.min(self.options.segment_bytes / 2) { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if std::mem::take(&mut self.bytes) == 0 {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.frame, frame(self.options));
        self.log.append(&[full.finish()]).map(drop)
    }
}

fn frame(options: &Options) -> FrameBuilder {
    #[allow(clippy::cast_possible_truncation)] // Options::validate holds dim at or below 65,535
    let dim = options.dim.min(MAX_DIM) as u16;
    match options.frame_bytes {
        None => FrameBuilder::new(CollectionId::DEFAULT, dim),
        Some(limit) => FrameBuilder::with_limit(CollectionId::DEFAULT, dim, limit),
    }
}

/// Metadata that 0.5.1 took and a JSON object cannot hold: its text, so that nothing is lost.
fn as_text(text: &str) -> Result<Metadata> {
    Metadata::from_map(&serde_json::Map::from_iter([("json".to_owned(), text.into())]))
}
