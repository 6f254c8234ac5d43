//! The verbs that change rows: check the input, hold the ids, encode a batch, hand it to the write path.

use std::collections::HashSet;

use super::{Change, Collection, MAX_DOCUMENT_BYTES, NewRow, NewRows};
use crate::commit::reserve::Reservation;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::log::{Batch, FrameBuilder, NewRowRef, RowKind};
use crate::metadata::Metadata;
use crate::options::MAX_DIM;
use crate::types::RecordId;

impl Collection {
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

    /// An empty frame for `rows` rows and `arena` bytes of metadata and documents.
    pub(super) fn frame(&self, rows: usize, arena: usize) -> FrameBuilder {
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
