//! Several writes as one: gathered, then done together or not at all; and `update`, which is a batch of one.
//!
//! Invariants:
//! 1. Nothing is checked against the stored rows, and nothing is held, before [`WriteBatch::commit`]: a batch that is dropped
//!    has changed nothing but the count of automatic ids.
//! 2. Each write sees those before it in the batch. Of each id only what becomes of it in the end is written, as one row of
//!    the log; all of them go with one fsync and appear in one snapshot.
//! 3. If one write is refused, none is done.
//!
//! Threading: a batch belongs to one thread; its ids are held while it commits, so that what it read stays true.

use std::collections::HashMap;

use super::write::{HeldIds, check_document, duplicate, put};
use super::{Change, Collection, NewRow, OnConflict, Record};
use crate::clock::Expiry;
use crate::error::{Error, Result};
use crate::log::NewRowRef;
use crate::metadata::Metadata;
use crate::types::{Id, RecordId};

/// Writes to one collection that are to be done together; made by [`Collection::batch`].
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use nopokedb::{Database, NewRow, Options};
/// let db = Database::open(dir.path(), Options::new(2))?;
/// let old = db.collection().add(&[1.0, 0.0], NewRow::default())?;
/// let mut batch = db.collection().batch();
/// let new = batch.add(&[0.0, 1.0], NewRow::default())?;
/// batch.delete(&old);
/// assert_eq!(batch.commit()?, [true, true]);
/// assert!(db.collection().contains(new)? && !db.collection().contains(old)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WriteBatch {
    collection: Collection,
    writes: Vec<(Id, Write)>,
}

#[derive(Debug)]
enum Write {
    Add(Row, OnConflict),
    /// With the instant at which its row is to expire.
    Upsert(Change, Option<i64>),
    Update(Metadata, Vec<String>),
    Delete,
}

/// A row as it is to be.
#[derive(Clone, Debug)]
struct Row {
    vector: Vec<f32>,
    metadata: Option<Metadata>,
    document: Option<String>,
    expires_ms: i64,
}

/// What is known of an id while its batch commits.
#[derive(Debug)]
enum State {
    /// No write has changed it yet; whether it has a row.
    Stored(bool),
    /// What it becomes: a row or none.
    Becomes(Option<Row>),
}

impl Collection {
    /// Sets single members of a row's metadata: those of `set` are added or take the place of the old ones, those that
    /// `remove` names go, all others stay. Nobody else's change gets lost in between.
    ///
    /// # Errors
    /// `Invalid` when there is no row `id`, or a name is in both; `Full`, `Io`, `Corruption`, `Closed`. Nothing was written then.
    pub fn update(&self, id: impl Into<Id>, set: Metadata, remove: &[&str]) -> Result<()> {
        let mut batch = self.batch();
        batch.update(id, set, remove)?;
        batch.commit().map(drop)
    }

    /// Begins a batch of writes to this collection.
    pub fn batch(&self) -> WriteBatch {
        WriteBatch { collection: self.clone(), writes: Vec::new() }
    }
}

impl WriteBatch {
    /// How many writes it has.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// As [`Collection::add`], once the batch commits. Returns the id that the row will have; an automatic one is used up
    /// even if the batch is dropped.
    ///
    /// # Errors
    /// `Invalid` (dimension, NaN or infinity), `Closed`. The batch is as it was then.
    pub fn add(&mut self, vector: &[f32], row: NewRow) -> Result<Id> {
        self.collection.check_writing()?;
        self.collection.check_vectors(vector, Some(1))?;
        check_document(row.document.as_deref(), self.writes.len())?;
        let id = match row.id {
            Some(id) => id,
            // Not held until the commit: its number is not given again, and whoever names it by hand gets in first.
            None => Id::Int(self.collection.core.reservations.automatic(1)?.0.start),
        };
        let expires_ms = self.collection.expires_ms(row.expires)?;
        let new = Row { vector: vector.to_vec(), metadata: row.metadata, document: row.document, expires_ms };
        self.writes.push((id.clone(), Write::Add(new, row.on_conflict)));
        Ok(id)
    }

    /// As [`Collection::upsert`], once the batch commits.
    ///
    /// # Errors
    /// As [`WriteBatch::add`].
    pub fn upsert(&mut self, id: impl Into<Id>, change: Change) -> Result<()> {
        self.collection.check_writing()?;
        if let Some(vector) = &change.vector {
            self.collection.check_vectors(vector, Some(1))?;
        }
        check_document(change.document.as_deref(), self.writes.len())?;
        let expires_ms = change.expires.map(|expires| self.collection.expires_ms(Some(expires))).transpose()?;
        self.writes.push((id.into(), Write::Upsert(change, expires_ms)));
        Ok(())
    }

    /// As [`Collection::update`], once the batch commits.
    ///
    /// # Errors
    /// `Invalid` when a name is both set and removed. The batch is as it was then.
    pub fn update(&mut self, id: impl Into<Id>, set: Metadata, remove: &[&str]) -> Result<()> {
        let set_too = |name: &&&str| set.to_map().contains_key(**name);
        if let Some(name) = remove.iter().find(set_too) {
            return Err(Error::argument(format!("{name:?} is both set and removed; do one of them")));
        }
        let remove = remove.iter().map(|&name| name.to_owned()).collect();
        self.writes.push((id.into(), Write::Update(set, remove)));
        Ok(())
    }

    /// As [`Collection::delete`], once the batch commits.
    pub fn delete(&mut self, id: impl Into<Id>) {
        self.writes.push((id.into(), Write::Delete));
    }

    /// Does all writes, in their order, or none; when this returns they are on the disk and visible, all at once. Answers for
    /// each whether it changed anything: a delete of no row and an add that was skipped have not.
    ///
    /// # Errors
    /// What the first refused write is refused for; `Full`, `Io`, `Corruption`, `Closed`. Nothing was written then.
    pub fn commit(self) -> Result<Vec<bool>> {
        let WriteBatch { collection, writes } = self;
        collection.check_writing()?;
        let (mut ids, mut places): (Vec<Id>, HashMap<Id, usize>) = (Vec::new(), HashMap::new());
        for (id, _) in &writes {
            places.entry(id.clone()).or_insert_with(|| {
                ids.push(id.clone());
                ids.len() - 1
            });
        }
        let held = collection.hold(&ids.iter().collect::<Vec<_>>())?;
        let mut states: Vec<State> = held.found.iter().map(|found| State::Stored(found.exists)).collect();
        let mut done = Vec::with_capacity(writes.len());
        for (id, write) in writes {
            let state = &mut states[places[&id]];
            let becomes = collection.becomes(&id, state, write)?;
            done.push(becomes.is_some());
            if let Some(row) = becomes {
                *state = State::Becomes(row);
            }
        }
        collection.write_states(&ids, &held, &states)?;
        Ok(done)
    }
}

impl Collection {
    /// What `write` makes of an id in `state`: a row, none, or (`None`) no change.
    #[allow(clippy::option_option)] // the inner one is the row
    fn becomes(&self, id: &Id, state: &State, write: Write) -> Result<Option<Option<Row>>> {
        let exists = matches!(state, State::Stored(true) | State::Becomes(Some(_)));
        let old = || match state {
            State::Stored(true) => self.read(id)?.map(|r| self.row_of(r)).transpose(),
            State::Stored(false) => Ok(None),
            State::Becomes(row) => Ok(row.clone()),
        };
        match write {
            Write::Add(_, OnConflict::Error) if exists => {
                Err(duplicate("exist already; use upsert or on_conflict to go on", &[id]))
            }
            Write::Add(_, OnConflict::Skip) if exists => Ok(None),
            Write::Add(row, _) => Ok(Some(Some(row))),
            Write::Delete => Ok(exists.then_some(None)),
            Write::Upsert(change, expires_ms) => {
                let (vector, metadata, document, old_expires_ms) = match old()? {
                    Some(row) => (Some(row.vector), row.metadata, row.document, row.expires_ms),
                    None => (None, None, None, 0),
                };
                let missing =
                    || Error::argument(format!("there is no row {id:?} to change; give a vector as well to insert it"));
                Ok(Some(Some(Row {
                    vector: change.vector.or(vector).ok_or_else(missing)?,
                    metadata: change.metadata.or(metadata),
                    document: change.document.or(document),
                    expires_ms: expires_ms.unwrap_or(old_expires_ms),
                })))
            }
            Write::Update(set, remove) => {
                let mut row = old()?.ok_or_else(|| Error::argument(format!("there is no row {id:?} to update")))?;
                row.metadata = Some(row.metadata.unwrap_or_default().merged(&set, &remove)?);
                Ok(Some(Some(row)))
            }
        }
    }

    /// A stored row as it is.
    fn row_of(&self, record: Record) -> Result<Row> {
        let Record { vector, metadata, document, expires_at, .. } = record;
        Ok(Row { vector, metadata, document, expires_ms: self.expires_ms(expires_at.map(Expiry::At))? })
    }

    /// Commits what has become of `ids`, if anything has.
    fn write_states(&self, ids: &[Id], held: &HeldIds<'_>, states: &[State]) -> Result<()> {
        let mut frame = self.frame(ids.len(), 0);
        let mut inserted: Vec<RecordId> = Vec::new();
        let mut any = false;
        for ((id, found), state) in ids.iter().zip(&held.found).zip(states) {
            match state {
                State::Becomes(Some(row)) => {
                    let (metadata, document) = (row.metadata.as_ref(), row.document.as_deref());
                    frame.push(&put(found.record, id.text(), &row.vector, metadata, document, row.expires_ms))?;
                    inserted.push(found.record);
                }
                State::Becomes(None) if found.exists => frame.push(&NewRowRef::delete(found.record))?,
                _ => continue,
            }
            any = true;
        }
        if !any {
            return Ok(());
        }
        held.reservation.insert_some(inserted.into_iter());
        self.handle.engine.commit(frame.finish())
    }
}
