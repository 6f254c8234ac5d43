//! A collection's public verbs: check the input, then hand it to the write path or the search.

mod select;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::commit::reserve::Reservation;
use crate::database::Handle;
use crate::engine::CollectionCore;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::log::{Batch, FrameBuilder, NewRowRef, RowKind, RowView};
use crate::metadata::Metadata;
use crate::options::MAX_DIM;
use crate::query::execute::{self, Scope};
use crate::query::request::{Hit, Query};
use crate::types::{Metric, RecordId};

/// The largest document: one row must fit a log frame.
pub const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// What goes with a new vector.
#[derive(Clone, Debug, Default)]
pub struct NewRow {
    /// The id to give it; `None` takes the next automatic one.
    pub id: Option<RecordId>,
    /// A JSON object.
    pub metadata: Option<Metadata>,
    /// The text the vector stands for.
    pub document: Option<String>,
}

/// What goes with a batch of new vectors: every list that is given has one entry per vector.
#[derive(Clone, Debug, Default)]
pub struct NewRows {
    /// The ids to give them; `None` takes the next automatic ones.
    pub ids: Option<Vec<RecordId>>,
    /// JSON objects.
    pub metadatas: Option<Vec<Option<Metadata>>>,
    /// The texts the vectors stand for.
    pub documents: Option<Vec<Option<String>>>,
}

/// What an upsert sets; what is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The new vector. A new id needs one.
    pub vector: Option<Vec<f32>>,
    /// The new metadata, replacing the old whole.
    pub metadata: Option<Metadata>,
    /// The new document.
    pub document: Option<String>,
}

/// A stored row.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: RecordId,
    /// Its metadata, if any.
    pub metadata: Option<Metadata>,
    /// Its document, if any.
    pub document: Option<String>,
    /// The vector exactly as it was given.
    pub vector: Vec<f32>,
}

/// Rows of one dimension and metric, searched together. Cheap to clone; all methods may be called from any thread.
#[derive(Clone)]
pub struct Collection {
    handle: Arc<Handle>,
    core: Arc<CollectionCore>,
}

impl Collection {
    pub(crate) fn new(handle: Arc<Handle>, core: Arc<CollectionCore>) -> Self {
        Collection { handle, core }
    }

    /// Refuses a closed database or a dropped collection.
    fn check(&self) -> Result<()> {
        self.handle.check()?;
        if self.core.dropped.load(SeqCst) {
            return Err(Error::new(ErrorKind::Closed, format!("collection {:?} was dropped", self.core.name)));
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// The name of the model that makes its vectors, if it was given.
    pub fn model(&self) -> Option<&str> {
        self.core.model.as_deref()
    }

    /// Dimension of every vector.
    pub fn dim(&self) -> usize {
        self.core.dim
    }

    /// How distance is measured.
    pub fn metric(&self) -> Metric {
        self.core.metric
    }

    /// Links per node and layer of the graph.
    pub fn m(&self) -> usize {
        self.core.m
    }

    /// Beam width while the graph is built.
    pub fn ef_construction(&self) -> usize {
        self.core.ef_construction
    }

    /// Beam width of a query that does not say otherwise.
    pub fn ef(&self) -> usize {
        self.handle.options.ef
    }

    /// The hint given at open, or the number of rows where that is larger.
    pub fn max_elements(&self) -> usize {
        self.handle.options.max_elements.max(self.core.generation().ids.len())
    }

    /// How many rows are live.
    pub fn len(&self) -> Result<usize> {
        self.check()?;
        Ok(self.core.generation().snapshot.load().live as usize)
    }

    /// Whether no row is live.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Whether `id` is live.
    pub fn contains(&self, id: RecordId) -> Result<bool> {
        self.check()?;
        Ok(self.core.generation().ids.get(id).is_some())
    }

    /// Adds one vector. When this returns, the row is on the disk and every search sees it.
    ///
    /// # Errors
    /// `Invalid` (dimension, NaN or infinity, an id that exists), `Full`, `Io`, `Closed`; nothing was written then.
    #[allow(clippy::needless_pass_by_value)] // an owned row may one day be kept without a copy
    pub fn add(&self, vector: &[f32], row: NewRow) -> Result<RecordId> {
        self.check()?;
        self.check_vectors(vector, Some(1))?;
        check_document(row.document.as_deref(), 0)?;
        let (id, _held) = match row.id {
            None => {
                let (range, held) = self.core.reservations.automatic(1)?;
                (RecordId(range.start), held)
            }
            Some(id) => (id, self.reserve_new(&[id])?),
        };
        let mut frame = self.frame(1, row.metadata.as_ref().map_or(0, |m| m.as_json().len()));
        frame.push(&put(id, vector, row.metadata.as_ref(), row.document.as_deref()))?;
        self.handle.engine.commit(frame.finish())?;
        Ok(id)
    }

    /// Adds many vectors, row-major, all or nothing, with one fsync. Returns their ids in order.
    ///
    /// # Errors
    /// As [`Collection::add`]; messages about one row name it by its position in the batch.
    pub fn add_many(&self, vectors: &[f32], rows: NewRows) -> Result<Vec<RecordId>> {
        self.check()?;
        let n = self.check_vectors(vectors, None)?;
        check_count("ids", rows.ids.as_ref().map(Vec::len), n)?;
        check_count("metadatas", rows.metadatas.as_ref().map(Vec::len), n)?;
        check_count("documents", rows.documents.as_ref().map(Vec::len), n)?;
        for (i, document) in rows.documents.iter().flatten().enumerate() {
            check_document(document.as_deref(), i)?;
        }
        if n == 0 {
            return Ok(Vec::new());
        }
        let (ids, _held) = match rows.ids {
            None => {
                let (range, held) = self.core.reservations.automatic(n)?;
                (range.map(RecordId).collect(), held)
            }
            Some(ids) => {
                let held = self.reserve_new(&ids)?;
                (ids, held)
            }
        };
        let batch = self.encode(vectors, &ids, rows.metadatas.as_deref(), rows.documents.as_deref())?;
        self.handle.engine.commit(batch)?;
        Ok(ids)
    }

    /// Replaces what `change` gives of the row `id`, or inserts it.
    ///
    /// # Errors
    /// As [`Collection::add`]; also `Invalid` when `id` does not exist and no vector is given.
    pub fn upsert(&self, id: RecordId, change: Change) -> Result<()> {
        self.check()?;
        if let Some(vector) = &change.vector {
            self.check_vectors(vector, Some(1))?;
        }
        check_document(change.document.as_deref(), 0)?;
        check_id(id)?;
        let held = self.core.reservations.given(&[id]);
        let complete = change.vector.is_some() && change.metadata.is_some() && change.document.is_some();
        let old = if complete { None } else { self.read(id)? };
        let (old_vector, old_metadata, old_document) = match old {
            Some(r) => (Some(r.vector), r.metadata, r.document),
            None => (None, None, None),
        };
        let vector = change.vector.or(old_vector).ok_or_else(|| {
            Error::argument(format!("there is no row {id} to change; give a vector as well to insert it"))
        })?;
        held.insert();
        let metadata = change.metadata.or(old_metadata);
        let document = change.document.or(old_document);
        let mut frame = self.frame(1, 0);
        frame.push(&put(id, &vector, metadata.as_ref(), document.as_deref()))?;
        self.handle.engine.commit(frame.finish())
    }

    /// Deletes a row. `false` if there is none of that id.
    pub fn delete(&self, id: RecordId) -> Result<bool> {
        self.check()?;
        let _held = self.core.reservations.given(&[id]);
        if self.core.generation().ids.get(id).is_none() {
            return Ok(false);
        }
        let mut frame = self.frame(1, 0);
        frame.push(&NewRowRef {
            kind: RowKind::Delete,
            id,
            key: None,
            metadata: None,
            document: None,
            vector: None,
            expires_ms: 0,
        })?;
        self.handle.engine.commit(frame.finish())?;
        Ok(true)
    }

    /// The row of `id`, or `None`.
    pub fn get(&self, id: RecordId) -> Result<Option<Record>> {
        self.check()?;
        self.read(id)
    }

    /// The metadata of `id`: `None` if there is no such row, `Some(None)` if it has none.
    pub fn metadata(&self, id: RecordId) -> Result<Option<Option<Metadata>>> {
        self.check()?;
        self.core.with_row(id, |row| Ok(row.metadata.map(|text| Metadata::from_stored(text.into()))))
    }

    /// The `k` nearest rows that pass the query's filter, best first: always `min(k, rows that pass)`, unless a limit of
    /// score or distance leaves out more.
    ///
    /// # Errors
    /// `Invalid` (dimension, NaN or infinity, `k` of 0), `Empty` when no row is live, `Corruption`, `Closed`.
    pub fn query(&self, vector: &[f32], query: &Query) -> Result<Vec<Hit>> {
        self.check()?;
        self.check_vectors(vector, Some(1))?;
        query.validate()?;
        Ok(self.search(vector, query)?.pop().unwrap_or_default())
    }

    /// [`Collection::query`] for many vectors, row-major.
    pub fn query_many(&self, vectors: &[f32], query: &Query) -> Result<Vec<Vec<Hit>>> {
        self.check()?;
        self.check_vectors(vectors, None)?;
        query.validate()?;
        self.search(vectors, query)
    }

    /// The hits of each of `vectors`, all in one snapshot.
    fn search(&self, vectors: &[f32], query: &Query) -> Result<Vec<Vec<Hit>>> {
        loop {
            let generation = self.core.generation();
            let (index, filters) = (&generation.index, &generation.filters);
            let scope = Scope { index, view: generation.view(), filters, metric: self.metric(), ef: self.ef() };
            if let Some(hits) = execute::run(&scope, vectors, query)? {
                return Ok(hits);
            }
        }
    }

    fn read(&self, id: RecordId) -> Result<Option<Record>> {
        self.core.with_row(id, |row| record(&row))
    }

    /// An empty frame for `rows` rows and `arena` bytes of metadata and documents.
    fn frame(&self, rows: usize, arena: usize) -> FrameBuilder {
        #[allow(clippy::cast_possible_truncation)] // Options::validate holds dim at or below 65,535
        let dim = self.core.dim.min(MAX_DIM) as u16;
        let mut frame = match self.handle.options.frame_bytes {
            None => FrameBuilder::new(self.core.id, dim),
            Some(limit) => FrameBuilder::with_limit(self.core.id, dim, limit),
        };
        frame.reserve(rows, arena);
        frame
    }

    fn encode(
        &self,
        vectors: &[f32],
        ids: &[RecordId],
        metadatas: Option<&[Option<Metadata>]>,
        documents: Option<&[Option<String>]>,
    ) -> Result<Batch> {
        let text = |i: usize| metadatas.and_then(|m| m[i].as_ref());
        let document = |i: usize| documents.and_then(|d| d[i].as_deref());
        let arena =
            (0..ids.len()).map(|i| text(i).map_or(0, |m| m.as_json().len()) + document(i).map_or(0, str::len)).sum();
        let mut frame = self.frame(ids.len(), arena);
        for (i, (&id, vector)) in ids.iter().zip(vectors.chunks_exact(self.dim())).enumerate() {
            frame.push(&put(id, vector, text(i), document(i)))?;
        }
        Ok(frame.finish())
    }

    /// Reserves ids that must not exist yet.
    fn reserve_new(&self, ids: &[RecordId]) -> Result<Reservation<'_>> {
        ids.iter().try_for_each(|&id| check_id(id))?;
        let mut seen = HashSet::with_capacity(ids.len());
        let twice: Vec<RecordId> = ids.iter().copied().filter(|id| !seen.insert(id.0)).collect();
        if !twice.is_empty() {
            return Err(duplicate("appear twice in the batch", &twice));
        }
        let held = self.core.reservations.given(ids);
        let generation = self.core.generation();
        let taken: Vec<RecordId> = ids.iter().copied().filter(|&id| generation.ids.get(id).is_some()).collect();
        if !taken.is_empty() {
            return Err(duplicate("exist already; use upsert to replace them", &taken));
        }
        held.insert();
        Ok(held)
    }

    /// Refuses vectors of a wrong shape or with NaN or infinity. Returns how many there are.
    fn check_vectors(&self, vectors: &[f32], rows: Option<usize>) -> Result<usize> {
        let dim = self.dim();
        match rows {
            Some(n) if vectors.len() != n * dim => return Err(Error::dimension(dim, vectors.len())),
            None if !vectors.len().is_multiple_of(dim) => {
                let message = format!(
                    "expected rows of dimension {dim}, got {} numbers, which is no multiple of it",
                    vectors.len()
                );
                return Err(Error::new(ErrorKind::Invalid(Subject::Dimension), message));
            }
            _ => {}
        }
        if !vectors.iter().fold(false, |bad, x| bad | !x.is_finite()) {
            return Ok(vectors.len() / dim);
        }
        let bad = vectors.iter().position(|x| !x.is_finite()).unwrap_or(0);
        Err(Error::argument(format!(
            "row {} holds {} at position {}; vectors must be finite",
            bad / dim,
            vectors[bad],
            bad % dim
        )))
    }
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collection(dim {}, {}, {} rows)", self.core.dim, self.core.metric, self.core.generation().ids.len())
    }
}

fn record(row: &RowView<'_>) -> Result<Record> {
    let no_vector = || Error::new(ErrorKind::Corruption, format!("row {} has no vector in the log", row.id));
    Ok(Record {
        id: row.id,
        metadata: row.metadata.map(|text| Metadata::from_stored(text.into())),
        document: row.document.map(str::to_owned),
        vector: row.vector.ok_or_else(no_vector)?.to_vec(),
    })
}

fn put<'a>(
    id: RecordId,
    vector: &'a [f32],
    metadata: Option<&'a Metadata>,
    document: Option<&'a str>,
) -> NewRowRef<'a> {
    NewRowRef {
        kind: RowKind::Put,
        id,
        key: None,
        metadata: metadata.map(Metadata::as_json),
        document,
        vector: Some(vector),
        expires_ms: 0,
    }
}

fn check_id(id: RecordId) -> Result<()> {
    // The largest id is kept free, so that the next automatic one can always be represented.
    if id < RecordId::MAX {
        return Ok(());
    }
    Err(Error::argument(format!("ids must be below {}, got {id}", RecordId::MAX)))
}

fn check_count(what: &str, given: Option<usize>, n: usize) -> Result<()> {
    match given {
        Some(len) if len != n => Err(Error::argument(format!("got {n} vectors but {len} {what}; give one per vector"))),
        _ => Ok(()),
    }
}

fn check_document(document: Option<&str>, row: usize) -> Result<()> {
    match document {
        Some(text) if text.len() > MAX_DOCUMENT_BYTES => Err(Error::argument(format!(
            "the document of row {row} has {} bytes; the limit is {MAX_DOCUMENT_BYTES}",
            text.len()
        ))),
        _ => Ok(()),
    }
}

fn duplicate(what: &str, ids: &[RecordId]) -> Error {
    let shown: Vec<String> = ids.iter().take(10).map(ToString::to_string).collect();
    let more = if ids.len() > shown.len() { format!(" and {} more", ids.len() - shown.len()) } else { String::new() };
    Error::new(ErrorKind::Invalid(Subject::DuplicateId), format!("ids {}{more} {what}", shown.join(", ")))
}
