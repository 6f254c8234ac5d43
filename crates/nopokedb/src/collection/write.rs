//! The verbs that change rows: check the input, hold the ids, encode a batch, hand it to the write path.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::{Change, Collection, MAX_DOCUMENT_BYTES, NewRow, NewRows, OnConflict};
use crate::clock::Expiry;
use crate::commit::reserve::Reservation;
use crate::error::{Error, Result};
use crate::generation::Found;
use crate::log::{Batch, FrameBuilder, NewRowRef, RowKind};
use crate::metadata::Metadata;
use crate::options::MAX_DIM;
use crate::types::{Id, RecordId};
use crate::vectors::keys::{first_place, places};

/// Rows between two words about the progress.
const WATCHED: usize = 4_096;

impl Collection {
    /// Adds one vector. When this returns, the row is on the disk and every search sees it. Returns its id: the given one, or
    /// the automatic one.
    ///
    /// # Errors
    /// `Invalid` (dimension, NaN or infinity, an id that exists), `Full`, `Io`, `Closed`; nothing was written then.
    #[allow(clippy::needless_pass_by_value)] // an owned row may one day be kept without a copy
    pub fn add(&self, vector: &[f32], row: NewRow) -> Result<Id> {
        self.check_writing()?;
        self.check_vectors(vector, Some(1))?;
        check_document(row.document.as_deref(), 0)?;
        let mut frame = self.frame(1, row.metadata.as_ref().map_or(0, |m| m.as_json().len()));
        let expires_ms = self.expires_ms(row.expires)?;
        let put = |record, key| put(record, key, vector, row.metadata.as_ref(), row.document.as_deref(), expires_ms);
        let Some(id) = row.id.clone() else {
            let (range, _held) = self.core.reservations.automatic(1)?;
            frame.push(&put(RecordId(range.start), None))?;
            self.handle.engine.commit(frame.finish())?;
            return Ok(Id::Int(range.start));
        };
        let held = self.hold(&[&id])?;
        match row.on_conflict {
            OnConflict::Skip if held.found[0].exists => return Ok(id),
            OnConflict::Error => held.refuse_existing(&[&id])?,
            _ => {}
        }
        held.reservation.insert();
        frame.push(&put(held.found[0].record, id.text()))?;
        self.handle.engine.commit(frame.finish())?;
        Ok(id)
    }

    /// Adds many vectors, row-major, all or nothing, with one fsync. Returns their ids in order, those of rows that were
    /// skipped included.
    ///
    /// # Errors
    /// As [`Collection::add`]; messages about one row name it by its position in the batch.
    pub fn add_many(&self, vectors: &[f32], rows: NewRows) -> Result<Vec<Id>> {
        self.add_many_watched(vectors, rows, &mut |_, _| ControlFlow::Continue(()))
    }

    /// [`Collection::add_many`], telling `progress` how many rows are prepared, and of how many; the last word, that all are
    /// done, comes when they are on the disk and visible. Breaking before that ends it with an error, and nothing is written.
    pub fn add_many_watched(
        &self,
        vectors: &[f32],
        mut rows: NewRows,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<Id>> {
        self.check_writing()?;
        let n = self.check_vectors(vectors, None)?;
        check_count("ids", rows.ids.as_ref().map(Vec::len), n)?;
        check_count("metadatas", rows.metadatas.as_ref().map(Vec::len), n)?;
        check_count("documents", rows.documents.as_ref().map(Vec::len), n)?;
        check_count("expiries", rows.expires.as_ref().map(Vec::len), n)?;
        for (i, document) in rows.documents.iter().flatten().enumerate() {
            check_document(document.as_deref(), i)?;
        }
        if n == 0 {
            return Ok(Vec::new());
        }
        let Some(ids) = rows.ids.take() else {
            let (range, _held) = self.core.reservations.automatic(n)?;
            let numbered = range.clone().map(|number| (RecordId(number), None)).enumerate();
            self.handle.engine.commit(self.encode(vectors, &rows, numbered, n, progress)?)?;
            // There is nothing left to stop.
            let _ = progress(n, n);
            return Ok(range.map(Id::Int).collect());
        };
        let chosen = once_each(&ids, rows.on_conflict)?;
        let distinct: Vec<&Id> = chosen.iter().map(|&i| &ids[i]).collect();
        let held = self.hold(&distinct)?;
        if rows.on_conflict == OnConflict::Error {
            held.refuse_existing(&distinct)?;
        }
        let skip = rows.on_conflict == OnConflict::Skip;
        let written = chosen.iter().zip(&held.found).filter(|(_, found)| !(skip && found.exists));
        let written: Vec<_> = written.map(|(&i, found)| (i, (found.record, ids[i].text()))).collect();
        if !written.is_empty() {
            held.reservation.insert();
            let count = written.len();
            self.handle.engine.commit(self.encode(vectors, &rows, written.into_iter(), count, progress)?)?;
        }
        drop(held);
        let _ = progress(n, n);
        Ok(ids)
    }

    /// Replaces what `change` gives of the row `id`, or inserts it.
    ///
    /// # Errors
    /// As [`Collection::add`]; also `Invalid` when `id` does not exist and no vector is given.
    pub fn upsert(&self, id: impl Into<Id>, change: Change) -> Result<()> {
        let id = id.into();
        self.check_writing()?;
        if let Some(vector) = &change.vector {
            self.check_vectors(vector, Some(1))?;
        }
        check_document(change.document.as_deref(), 0)?;
        let held = self.hold(&[&id])?;
        let expires = change.expires.is_some() || !self.core.generation().rows.any_expires();
        let complete = change.vector.is_some() && change.metadata.is_some() && change.document.is_some() && expires;
        let old = if complete { None } else { self.read(&id)? };
        let (old_vector, old_metadata, old_document, old_expiry) = match old {
            Some(r) => (Some(r.vector), r.metadata, r.document, r.expires_at.map(Expiry::At)),
            None => (None, None, None, None),
        };
        let expires_ms = self.expires_ms(change.expires.or(old_expiry))?;
        let vector = change.vector.or(old_vector).ok_or_else(|| {
            Error::argument(format!("there is no row {id:?} to change; give a vector as well to insert it"))
        })?;
        held.reservation.insert();
        let metadata = change.metadata.or(old_metadata);
        let document = change.document.or(old_document);
        let mut frame = self.frame(1, 0);
        let (record, document) = (held.found[0].record, document.as_deref());
        frame.push(&put(record, id.text(), &vector, metadata.as_ref(), document, expires_ms))?;
        self.handle.engine.commit(frame.finish())
    }

    /// Deletes a row. `false` if there is none of that id.
    pub fn delete(&self, id: impl Into<Id>) -> Result<bool> {
        let id = id.into();
        self.check_writing()?;
        if !self.core.generation().find(&id)?.exists() {
            return Ok(false);
        }
        let held = self.hold(&[&id])?;
        if !held.found[0].exists {
            return Ok(false);
        }
        let mut frame = self.frame(1, 0);
        frame.push(&NewRowRef::delete(held.found[0].record))?;
        self.handle.engine.commit(frame.finish())?;
        Ok(true)
    }

    /// The instant of an expiry in Unix milliseconds; 0 is never.
    pub(super) fn expires_ms(&self, expires: Option<Expiry>) -> Result<i64> {
        expires.unwrap_or(Expiry::Never).resolve(&self.handle.engine.options.clock)
    }

    /// Deletes the rows `ids` and takes every byte of them out of the directory before it returns: vectors, metadata, documents
    /// and text ids, of their earlier states too. Says how many rows there were. Ids without a row are purged all the same, so
    /// that a purge that a crash cut off is finished by doing it again.
    ///
    /// This rewrites the log segments that they are in, the index and SQLite's file: purge many rows at once. Other processes
    /// that read the directory, and backups, keep what they have.
    ///
    /// # Errors
    /// As [`Collection::delete`]; the rows may be deleted then, and not purged.
    pub fn purge(&self, ids: &[Id]) -> Result<usize> {
        self.check_writing()?;
        let distinct: Vec<&Id> = ids.iter().collect::<HashSet<_>>().into_iter().collect();
        let held = self.hold(&distinct)?;
        let generation = self.core.generation();
        // What has expired is hidden, but there until somebody deletes it.
        let records =
            held.found.iter().map(|found| found.record).filter(|&record| generation.ids.get(record).is_some());
        self.delete_held(&records.collect::<Vec<_>>())?;
        let existed = held.found.iter().filter(|found| found.exists).count();
        drop(held);
        // A text that is gone may have had any of its numbers.
        let numbers = |id: &&Id| match id.text() {
            Some(text) => places(text).collect(),
            None => vec![first_place(id)],
        };
        let records = distinct.iter().flat_map(numbers).map(|record| record.0).collect();
        self.handle.engine.purge(&self.core, &records)?;
        Ok(existed)
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

    /// The rows of a batch at the positions `numbered` gives, with their record numbers and keys.
    fn encode<'a>(
        &self,
        vectors: &[f32],
        rows: &NewRows,
        numbered: impl Iterator<Item = (usize, (RecordId, Option<&'a str>))>,
        count: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Batch> {
        let metadata = |i: usize| rows.metadatas.as_ref().and_then(|m| m[i].as_ref());
        let document = |i: usize| rows.documents.as_ref().and_then(|d| d[i].as_deref());
        let all = vectors.len() / self.dim();
        let arena =
            (0..all).map(|i| metadata(i).map_or(0, |m| m.as_json().len()) + document(i).map_or(0, str::len)).sum();
        let mut frame = self.frame(count, arena);
        for (done, (i, (record, key))) in numbered.enumerate() {
            if done.is_multiple_of(WATCHED) && progress(done, count).is_break() {
                return Err(Error::argument("stopped by what was told the progress; nothing was written"));
            }
            let vector = &vectors[i * self.dim()..(i + 1) * self.dim()];
            let expires_ms = self.expires_ms(rows.expires.as_ref().and_then(|e| e[i]))?;
            frame.push(&put(record, key, vector, metadata(i), document(i), expires_ms))?;
        }
        Ok(frame.finish())
    }

    /// Holds `ids` (distinct), so that nobody else acts on them, and says what is known about each.
    pub(super) fn hold(&self, ids: &[&Id]) -> Result<HeldIds<'_>> {
        ids.iter().try_for_each(|id| check_id(id))?;
        let mut wanted: Vec<RecordId> = ids.iter().map(|id| first_place(id)).collect();
        loop {
            let reservation = self.core.reservations.given(&wanted);
            let (generation, mut taken) = (self.core.generation(), HashSet::new());
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let Found { record, slot } = generation.find_beside(id, |place| taken.contains(&place))?;
                let record = record.ok_or_else(|| {
                    Error::argument(format!("the id {id:?} has the hash of too many others; use another"))
                })?;
                if record.is_text() {
                    taken.insert(record);
                }
                found.push(FoundId { record, exists: slot.is_some() });
            }
            // A text that another one keeps from its first place: that other place must be held too.
            let mut elsewhere =
                found.iter().zip(&wanted).filter(|(f, first)| f.record != **first).map(|(f, _)| f.record);
            if elsewhere.all(|record| wanted.contains(&record)) {
                return Ok(HeldIds { reservation, found });
            }
            let more: Vec<RecordId> = found.iter().map(|f| f.record).filter(|r| !wanted.contains(r)).collect();
            wanted.extend(more);
        }
    }
}

/// Ids that nobody else acts on while this lives.
#[derive(Debug)]
pub(super) struct HeldIds<'a> {
    pub(super) reservation: Reservation<'a>,
    /// In the order they were asked for.
    pub(super) found: Vec<FoundId>,
}

/// A held id.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundId {
    pub(super) record: RecordId,
    /// Whether it has a row.
    pub(super) exists: bool,
}

impl HeldIds<'_> {
    /// Refuses if any of `ids`, which are the held ones, has a row.
    fn refuse_existing(&self, ids: &[&Id]) -> Result<()> {
        let taken: Vec<&Id> =
            ids.iter().zip(&self.found).filter(|(_, found)| found.exists).map(|(id, _)| *id).collect();
        if taken.is_empty() {
            Ok(())
        } else {
            Err(duplicate("exist already; use upsert or on_conflict to go on", &taken))
        }
    }
}

/// The positions of `ids` to be written, each id once; an error names those that come twice where that is not allowed.
fn once_each(ids: &[Id], on_conflict: OnConflict) -> Result<Vec<usize>> {
    let mut seen: HashMap<&Id, usize> = HashMap::with_capacity(ids.len());
    let mut twice = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        match seen.entry(id) {
            Entry::Vacant(first) => drop(first.insert(i)),
            Entry::Occupied(mut other) => match on_conflict {
                OnConflict::Error => twice.push(id),
                OnConflict::Skip => {}
                OnConflict::Replace => drop(other.insert(i)),
            },
        }
    }
    if !twice.is_empty() {
        return Err(duplicate("appear twice in the batch", &twice));
    }
    let mut chosen: Vec<usize> = seen.into_values().collect();
    chosen.sort_unstable();
    Ok(chosen)
}

pub(super) fn put<'a>(
    id: RecordId,
    key: Option<&'a str>,
    vector: &'a [f32],
    metadata: Option<&'a Metadata>,
    document: Option<&'a str>,
    expires_ms: i64,
) -> NewRowRef<'a> {
    NewRowRef {
        kind: RowKind::Put,
        id,
        key,
        metadata: metadata.map(Metadata::as_json),
        document,
        vector: Some(vector),
        expires_ms,
    }
}

fn check_id(id: &Id) -> Result<()> {
    match id {
        // The largest id is kept free, so that the next automatic one can always be represented.
        Id::Int(number) if *number >= Id::MAX_INT => {
            Err(Error::argument(format!("integer ids must be below {}, got {number}", Id::MAX_INT)))
        }
        Id::Text(text) if text.is_empty() || text.len() > Id::MAX_TEXT => {
            Err(Error::argument(format!("a text id has 1 to {} bytes, got {}", Id::MAX_TEXT, text.len())))
        }
        _ => Ok(()),
    }
}

fn check_count(what: &str, given: Option<usize>, n: usize) -> Result<()> {
    match given {
        Some(len) if len != n => Err(Error::argument(format!("got {n} vectors but {len} {what}; give one per vector"))),
        _ => Ok(()),
    }
}

pub(super) fn check_document(document: Option<&str>, row: usize) -> Result<()> {
    match document {
        Some(text) if text.len() > MAX_DOCUMENT_BYTES => Err(Error::argument(format!(
            "the document of row {row} has {} bytes; the limit is {MAX_DOCUMENT_BYTES}",
            text.len()
        ))),
        _ => Ok(()),
    }
}

pub(super) fn duplicate(what: &str, ids: &[&Id]) -> Error {
    Error::duplicate_id(what, ids.iter().map(|id| (*id).clone()).collect())
}
