//! Several writes as one, gathered in a `with` block; and `update`, which is a batch of one.
//!
//! Invariant: nothing is written before the block ends, and nothing at all if it raises.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nopokedb::{Change, Collection, Error, Metadata, NewRow, Result, WriteBatch};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::database::NoPokeDB;
use crate::errors::{invalid, type_name};
use crate::{expiry, ids, json, rows, vectors};

/// Several writes to one collection that are done together or not at all; made by `NoPokeDB.batch()`.
///
/// `add`, `upsert`, `update` and `delete` are those of `NoPokeDB`, done when the `with` block ends: with one fsync, visible all at
/// once. If the block raises, or one of the writes is refused, nothing is written. Each write sees those before it in the batch.
///
/// Attributes
/// ----------
/// changed : list of bool, or None before it is written
///     For each write whether it changed anything: a delete of no row and an add that was skipped have not.
///
/// Examples
/// --------
/// >>> db = NoPokeDB(dim=2, path="Batch")
/// >>> old = db.add([1, 0], {"draft": True})
/// >>> with db.batch() as b:
/// ...     new = b.add([0, 1], {"draft": False})
/// ...     b.delete(old)
/// ...     b.delete(99)
/// >>> b.changed, old in db, new in db
/// ([True, True, False], False, True)
/// >>> with db.batch() as b:
/// ...     b.delete(new)
/// ...     raise ValueError("never mind")
/// Traceback (most recent call last):
///     ...
/// ValueError: never mind
/// >>> new in db
/// True
#[pyclass(frozen, module = "nopokedb")]
pub(crate) struct Batch {
    db: Py<NoPokeDB>,
    state: Mutex<State>,
}

enum State {
    Gathering(WriteBatch),
    Written(Vec<bool>),
    Dropped,
}

impl Batch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the writes gathered so far. Without the GIL: an automatic id may have to be waited for.
    fn gather<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut WriteBatch) -> Result<T> + Send) -> PyResult<T> {
        self.db.get().opened(py)?.run(py, |_| match &mut *self.lock() {
            State::Gathering(batch) => work(batch),
            State::Written(_) => Err(Error::argument("this batch is written; begin another with db.batch()")),
            State::Dropped => Err(Error::argument("this batch was given up; begin another with db.batch()")),
        })
    }

    fn collection(&self, py: Python<'_>) -> PyResult<&Collection> {
        Ok(&self.db.get().opened(py)?.collection)
    }
}

#[pymethods]
impl Batch {
    /// As `NoPokeDB.add`, when the batch is written. The id that the row will have is known at once; an automatic one is used up
    /// even if nothing is written.
    ///
    /// Parameters
    /// ----------
    /// vector : array_like of shape (dim,)
    /// metadata, id, document, on_conflict, ttl, expires_at : optional
    ///     As in `NoPokeDB.add`.
    ///
    /// Returns
    /// -------
    /// int or str
    ///
    /// Raises
    /// ------
    /// DimensionError, MetadataError, InvalidError, ReadOnlyError, ClosedError
    ///     `commit`, or the end of the `with` block, raises the rest.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="Batch.add")
    /// >>> with db.batch() as b:
    /// ...     parent = b.add([1, 0], {"title": "whole"})
    /// ...     part = b.add([0, 1], {"of": parent})
    /// >>> db.get(part)
    /// {'of': 0}
    #[pyo3(
        signature = (vector, metadata=None, *, id=None, document=None, on_conflict=None, ttl=None, expires_at=None),
        text_signature = "($self, vector, metadata=None, *, id=None, document=None, on_conflict='error', ttl=None, \
                          expires_at=None)"
    )]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn add<'py>(
        &self,
        py: Python<'py>,
        vector: &Bound<'py, PyAny>,
        metadata: Option<&Bound<'py, PyAny>>,
        id: Option<&Bound<'py, PyAny>>,
        document: Option<&Bound<'py, PyAny>>,
        on_conflict: Option<&Bound<'py, PyAny>>,
        ttl: Option<&Bound<'py, PyAny>>,
        expires_at: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let vector = vectors::one(vector, self.collection(py)?)?;
        let row = NewRow {
            id: id.map(|id| ids::id("id", id)).transpose()?,
            metadata: metadata.map(|metadata| json::metadata_of(metadata, None)).transpose()?,
            document: document.map(|document| rows::document("document", document)).transpose()?,
            on_conflict: on_conflict.map(ids::on_conflict).transpose()?.unwrap_or_default(),
            expires: expiry::one(ttl, expires_at)?,
        };
        let id = self.gather(py, |batch| batch.add(&vector, row))?;
        Ok(ids::to_python(py, &id))
    }

    /// As `NoPokeDB.upsert`, when the batch is written.
    ///
    /// Parameters
    /// ----------
    /// id : int or str
    /// vector : array_like of shape (dim,), optional
    /// metadata, document, ttl, expires_at : optional
    ///     As in `NoPokeDB.upsert`.
    ///
    /// Raises
    /// ------
    /// DimensionError, MetadataError, InvalidError, ReadOnlyError, ClosedError
    ///     `commit`, or the end of the `with` block, raises the rest.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="Batch.upsert")
    /// >>> with db.batch() as b:
    /// ...     b.upsert("a", [1, 0], {"n": 1})
    /// ...     b.upsert("a", metadata={"n": 2})
    /// >>> db.get("a")
    /// {'n': 2}
    #[pyo3(signature = (id, vector=None, metadata=None, *, document=None, ttl=None, expires_at=None))]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn upsert(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        vector: Option<&Bound<'_, PyAny>>,
        metadata: Option<&Bound<'_, PyAny>>,
        document: Option<&Bound<'_, PyAny>>,
        ttl: Option<&Bound<'_, PyAny>>,
        expires_at: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let id = ids::id("id", id)?;
        let change = Change {
            vector: vector.map(|vector| vectors::one(vector, self.collection(py)?)).transpose()?,
            metadata: metadata.map(|metadata| json::metadata_of(metadata, None)).transpose()?,
            document: document.map(|document| rows::document("document", document)).transpose()?,
            expires: expiry::one(ttl, expires_at)?,
        };
        self.gather(py, |batch| batch.upsert(id, change))
    }

    /// As `NoPokeDB.update`, when the batch is written.
    ///
    /// Parameters
    /// ----------
    /// id : int or str
    /// set : dict, optional
    /// remove : str or iterable of str
    ///     As in `NoPokeDB.update`.
    ///
    /// Raises
    /// ------
    /// MetadataError, InvalidError, ReadOnlyError, ClosedError
    ///     `commit`, or the end of the `with` block, raises the rest.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="Batch.update")
    /// >>> ids = db.add_many([[1, 0], [0, 1]], [{"stock": 3}, {"stock": 0}])
    /// >>> with db.batch() as b:
    /// ...     b.update(0, {"stock": 2})
    /// ...     b.update(1, {"stock": 1})
    /// >>> [row["metadata"]["stock"] for row in db.get_many(ids)]
    /// [2, 1]
    #[pyo3(signature = (id, set=None, *, remove=None), text_signature = "($self, id, set=None, *, remove=())")]
    fn update(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        set: Option<&Bound<'_, PyAny>>,
        remove: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (id, set, remove) = (ids::id("id", id)?, members(set)?, names(remove)?);
        self.gather(py, |batch| batch.update(id, set, &remove.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// As `NoPokeDB.delete` of one id, when the batch is written; no row of that id is no error.
    ///
    /// Parameters
    /// ----------
    /// id : int or str
    ///
    /// Raises
    /// ------
    /// InvalidError, ReadOnlyError, ClosedError
    ///     `commit`, or the end of the `with` block, raises the rest.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="Batch.delete")
    /// >>> ids = db.add_many([[1, 0], [0, 1]])
    /// >>> with db.batch() as b:
    /// ...     for id in ids:
    /// ...         b.delete(id)
    /// >>> len(db)
    /// 0
    fn delete(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<()> {
        let id = ids::id("id", id)?;
        self.gather(py, |batch| {
            batch.delete(id);
            Ok(())
        })
    }

    /// Write the batch now; the end of the `with` block does it otherwise.
    ///
    /// Returns
    /// -------
    /// list of bool
    ///     `changed`.
    ///
    /// Raises
    /// ------
    /// DuplicateIdError, InvalidError, ReadOnlyError, StorageFullError, StorageError, ClosedError
    ///     Nothing was written then.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="Batch.commit")
    /// >>> b = db.batch()
    /// >>> id = b.add([1, 0])
    /// >>> len(b), len(db), b.commit(), len(db)
    /// (1, 0, [True], 1)
    fn commit(&self, py: Python<'_>) -> PyResult<Vec<bool>> {
        self.db.get().opened(py)?.run(py, |_| {
            let mut state = self.lock();
            match std::mem::replace(&mut *state, State::Dropped) {
                State::Gathering(batch) => {
                    let changed = batch.commit()?;
                    *state = State::Written(changed.clone());
                    Ok(changed)
                }
                over => {
                    *state = over;
                    Err(Error::argument("this batch is over; begin another with db.batch()"))
                }
            }
        })
    }

    /// For each write whether it changed anything; None before the batch is written.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="Batch.changed")
    /// >>> with db.batch() as b:
    /// ...     b.delete("nobody")
    /// >>> b.changed
    /// [False]
    #[getter]
    fn changed(&self) -> Option<Vec<bool>> {
        match &*self.lock() {
            State::Written(changed) => Some(changed.clone()),
            _ => None,
        }
    }

    /// How many writes it has.
    fn __len__(&self) -> usize {
        match &*self.lock() {
            State::Gathering(batch) => batch.len(),
            State::Written(changed) => changed.len(),
            State::Dropped => 0,
        }
    }

    /// A batch is true, also without writes.
    fn __bool__(&self) -> bool {
        true
    }

    fn __enter__(slf: Py<Self>, py: Python<'_>) -> PyResult<Py<Self>> {
        slf.get().gather(py, |_| Ok(()))?;
        Ok(slf)
    }

    #[pyo3(signature = (exc_type=None, exc=None, traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: Option<&Bound<'_, PyAny>>,
        exc: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = (exc, traceback);
        let is_gathering = matches!(&*self.lock(), State::Gathering(_));
        match exc_type {
            None if is_gathering => self.commit(py).map(drop),
            Some(_) if is_gathering => {
                *self.lock() = State::Dropped;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn __repr__(&self) -> String {
        match &*self.lock() {
            State::Gathering(batch) => format!("<Batch of {} writes>", batch.len()),
            State::Written(changed) => format!("<Batch of {} writes, written>", changed.len()),
            State::Dropped => "<Batch, given up>".into(),
        }
    }
}

#[pymethods]
impl NoPokeDB {
    /// Several writes as one: all or none of them, with one fsync, visible all at once.
    ///
    /// Returns
    /// -------
    /// Batch
    ///     Its `add`, `upsert`, `update` and `delete` are done when the `with` block ends; if the block raises, nothing is
    ///     written.
    ///
    /// Raises
    /// ------
    /// DuplicateIdError, InvalidError, ReadOnlyError, StorageFullError, StorageError, ClosedError
    ///     At the end of the block, for the first write that is refused. Nothing was written then.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="batch")
    /// >>> db.upsert("draft", [1, 0], {"title": "Emma"})
    /// >>> with db.batch() as b:
    /// ...     b.upsert("final", [1, 0], {"title": "Emma"})
    /// ...     b.delete("draft")
    /// >>> "draft" in db, "final" in db
    /// (False, True)
    fn batch(slf: Py<Self>, py: Python<'_>) -> PyResult<Batch> {
        let batch = slf.get().opened(py)?.run(py, |o| Ok(o.collection.batch()))?;
        Ok(Batch { db: slf, state: Mutex::new(State::Gathering(batch)) })
    }

    /// Change single keys of a row's metadata; the others, the vector and the document stay. Nobody else's change gets lost in
    /// between.
    ///
    /// Parameters
    /// ----------
    /// id : int or str
    /// set : dict, optional
    ///     Keys to add, or whose values to replace (whole: nested dicts are not merged).
    /// remove : str or iterable of str
    ///     Keys to take away. One that is not there is no error.
    ///
    /// Raises
    /// ------
    /// InvalidError
    ///     No row has that id, or a key is both set and removed. Nothing was written then.
    /// MetadataError, StorageFullError, StorageError, ClosedError
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="update")
    /// >>> id = db.add([1, 0], {"title": "Emma", "draft": True})
    /// >>> db.update(id, {"year": 1815}, remove=["draft"])
    /// >>> db.get(id)
    /// {'title': 'Emma', 'year': 1815}
    #[pyo3(signature = (id, set=None, *, remove=None), text_signature = "($self, id, set=None, *, remove=())")]
    fn update(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        set: Option<&Bound<'_, PyAny>>,
        remove: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (id, set, remove) = (ids::id("id", id)?, members(set)?, names(remove)?);
        let remove: Vec<&str> = remove.iter().map(String::as_str).collect();
        self.opened(py)?.run(py, |o| o.collection.update(id, set, &remove))
    }
}

/// The keys to set.
fn members(set: Option<&Bound<'_, PyAny>>) -> PyResult<Metadata> {
    set.map_or_else(|| Ok(Metadata::default()), |set| json::metadata_of(set, None))
}

/// The keys to take away.
fn names(remove: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
    let Some(remove) = remove else { return Ok(Vec::new()) };
    if remove.is_instance_of::<PyString>() {
        return Ok(vec![rows::document("remove", remove)?]);
    }
    let items = remove.try_iter().map_err(|_| {
        invalid(remove.py(), format!("remove must be a key or a list of keys, got {}", type_name(remove)))
    })?;
    items.enumerate().map(|(i, name)| rows::document(&format!("remove[{i}]"), &name?)).collect()
}
