//! What changes rows.

use nopokedb::{Change, NewRow, NewRows};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyList};

use crate::database::NoPokeDB;
use crate::opened::Opened;
use crate::progress::Progress;
use crate::{asked, expiry, ids, json, rows, vectors};

#[pymethods]
impl NoPokeDB {
    #[doc = include_str!("docs/add.txt")]
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
        let opened = self.opened(py)?;
        let vector = vectors::one(vector, &opened.collection)?;
        let row = NewRow {
            id: id.map(|id| ids::id("id", id)).transpose()?,
            metadata: metadata.map(|metadata| json::metadata_of(metadata, None)).transpose()?,
            document: document.map(|document| rows::document("document", document)).transpose()?,
            on_conflict: on_conflict.map(ids::on_conflict).transpose()?.unwrap_or_default(),
            expires: expiry::one(ttl, expires_at)?,
        };
        let id = opened.run(py, |o| o.collection.add(&vector, row))?;
        Ok(ids::to_python(py, &id))
    }

    #[doc = include_str!("docs/add_many.txt")]
    #[pyo3(
        signature = (vectors, metadatas=None, *, ids=None, documents=None, on_conflict=None, ttl=None, expires_at=None, progress=None),
        text_signature = "($self, vectors, metadatas=None, *, ids=None, documents=None, on_conflict='error', ttl=None, \
                          expires_at=None, progress=None)"
    )]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn add_many<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        metadatas: Option<&Bound<'py, PyAny>>,
        ids: Option<&Bound<'py, PyAny>>,
        documents: Option<&Bound<'py, PyAny>>,
        on_conflict: Option<&Bound<'py, PyAny>>,
        ttl: Option<&Bound<'py, PyAny>>,
        expires_at: Option<&Bound<'py, PyAny>>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.opened(py)?;
        let vectors = vectors::many(vectors, &opened.collection)?;
        let n = vectors.as_slice().len() / opened.collection.dim();
        let rows = NewRows {
            ids: ids.map(|ids| ids::ids(ids, Some(n))).transpose()?,
            metadatas: metadatas.map(|metadatas| rows::metadatas(metadatas, n)).transpose()?,
            documents: documents.map(|documents| rows::documents(documents, n)).transpose()?,
            on_conflict: on_conflict.map(ids::on_conflict).transpose()?.unwrap_or_default(),
            expires: expiry::many(n, ttl, expires_at)?,
        };
        let vectors = vectors.as_slice();
        let mut progress = Progress::new("add_many", progress)?;
        let added =
            opened.run(py, |o| o.collection.add_many_watched(vectors, rows, &mut |done, all| progress.tell(done, all)));
        ids::list(py, &progress.outcome(added)?)
    }

    /// Replace the vector, the metadata or the document of a row, or insert it. What is None stays as it is.
    ///
    /// Parameters
    /// ----------
    /// id : int or str
    ///     `vid=`, its name in 0.5.1, is taken too.
    /// vector : array_like of shape (dim,), optional
    ///     Needed if there is no row of that id.
    /// metadata : dict, optional
    ///     Replaces the old dict whole.
    /// document : str, optional
    /// ttl, expires_at : optional
    ///     As in `add`. None leaves it as it is; `float("inf")` makes the row stay.
    ///
    /// Raises
    /// ------
    /// InvalidError
    ///     No row has that id, and no vector is given.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="upsert")
    /// >>> db.upsert(7, [1, 0], {"name": "east"})
    /// >>> db.upsert(7, metadata={"name": "East"})
    /// >>> db.query([1, 0])[0]["metadata"]
    /// {'name': 'East'}
    #[pyo3(signature = (id=None, vector=None, metadata=None, *, document=None, ttl=None, expires_at=None, vid=None))]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn upsert(
        &self,
        py: Python<'_>,
        id: Option<&Bound<'_, PyAny>>,
        vector: Option<&Bound<'_, PyAny>>,
        metadata: Option<&Bound<'_, PyAny>>,
        document: Option<&Bound<'_, PyAny>>,
        ttl: Option<&Bound<'_, PyAny>>,
        expires_at: Option<&Bound<'_, PyAny>>,
        vid: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let opened = self.opened(py)?;
        let id = ids::id("id", ids::one_id("upsert", id, vid)?)?;
        let change = Change {
            vector: vector.map(|vector| vectors::one(vector, &opened.collection)).transpose()?,
            metadata: metadata.map(|metadata| json::metadata_of(metadata, None)).transpose()?,
            document: document.map(|document| rows::document("document", document)).transpose()?,
            expires: expiry::one(ttl, expires_at)?,
        };
        opened.run(py, |o| o.collection.upsert(id, change))
    }

    /// Delete a row, or every row that passes a filter. The space is reclaimed in the background.
    ///
    /// Parameters
    /// ----------
    /// id : int
    ///     `vid=`, its name in 0.5.1, is taken too.
    /// where : dict or str
    ///     A filter, instead of an id: all rows that pass are deleted, or none of them.
    /// purge : bool
    ///     Return only when every byte of the rows is out of the directory: vectors, metadata, documents and text ids, those of
    ///     earlier states too. This rewrites the parts of the log they are in, the index and SQLite's file, so purge many at
    ///     once. A filter reaches rows that have expired too, without counting them. If the call fails or the process ends
    ///     before it returns, call it again, with the id even though the row is gone. Backups, and other processes that have
    ///     the directory open, keep what they have.
    ///
    /// Returns
    /// -------
    /// bool or int
    ///     For an id, False if there is no such row; for a filter, how many rows it were.
    ///
    /// Raises
    /// ------
    /// FilterError, InvalidError, StorageFullError, StorageError, ClosedError
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="delete")
    /// >>> db.delete(db.add([1, 0])), db.delete(99)
    /// (True, False)
    /// >>> ids = db.add_many([[1, 0], [0, 1]], [{"lang": "en"}, {"lang": "de"}])
    /// >>> db.delete(where={"lang": "en"}), len(db)
    /// (1, 1)
    /// >>> db.delete(ids[1], purge=True), len(db)
    /// (True, 0)
    #[pyo3(
        signature = (id=None, *, r#where=None, purge=false, vid=None),
        text_signature = "($self, id=None, *, where=None, purge=False, vid=None)"
    )]
    fn delete<'py>(
        &self,
        py: Python<'py>,
        id: Option<&Bound<'py, PyAny>>,
        r#where: Option<&Bound<'py, PyAny>>,
        purge: bool,
        vid: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let opened = self.opened(py)?;
        if let Some(filter) = r#where {
            if id.is_some() || vid.is_some() {
                return Err(PyTypeError::new_err("delete() got both an id and 'where'; give one of them"));
            }
            let filter = asked::filter(filter)?;
            let deleted = opened.run(py, |o| match purge {
                true => o.collection.purge_where(&filter),
                false => o.collection.delete_where(&filter),
            })?;
            return Ok(deleted.into_pyobject(py)?.into_any());
        }
        let id = ids::sought(ids::one_id("delete", id, vid)?)?;
        let delete = |o: &Opened, id| match purge {
            true => o.collection.purge(&[id]).map(|deleted| deleted > 0),
            false => o.collection.delete(id),
        };
        let deleted = id.map_or(Ok(false), |id| opened.run(py, |o| delete(o, id)))?;
        Ok(PyBool::new(py, deleted).to_owned().into_any())
    }

    /// Delete every row that passes a filter, all or none of them: `delete(where=...)` under a name of its own.
    ///
    /// Parameters
    /// ----------
    /// where : dict or str
    ///
    /// Returns
    /// -------
    /// int
    ///     How many they were.
    ///
    /// Raises
    /// ------
    /// FilterError, ReadOnlyError, StorageFullError, StorageError, ClosedError
    ///     Nothing was deleted then.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=1, path="delete_where")
    /// >>> ids = db.add_many([[1], [2], [3]], [{"n": 1}, {"n": 2}, {"n": 3}])
    /// >>> db.delete_where({"n": {"$lt": 3}}), len(db)
    /// (2, 1)
    fn delete_where(&self, py: Python<'_>, r#where: &Bound<'_, PyAny>) -> PyResult<usize> {
        let filter = asked::filter(r#where)?;
        self.opened(py)?.run(py, |o| o.collection.delete_where(&filter))
    }
}
