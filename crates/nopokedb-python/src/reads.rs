//! What asks: queries, counts, look-ups.

use std::sync::atomic::Ordering::Relaxed;

use nopokedb::Query;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::asked::{self, Asked};
use crate::database::NoPokeDB;
use crate::json::Reader;
use crate::{answers, rows, vectors};

#[pymethods]
impl NoPokeDB {
    #[doc = include_str!("docs/query.txt")]
    #[pyo3(
        signature = (vector, k=None, ef=None, *, r#where=None, min_score=None, max_distance=None, offset=None, include=None, exact=false),
        text_signature = "($self, vector, k=5, ef=None, *, where=None, min_score=None, max_distance=None, offset=0, \
                          include=None, exact=False)"
    )]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn query<'py>(
        &self,
        py: Python<'py>,
        vector: &Bound<'py, PyAny>,
        k: Option<&Bound<'py, PyAny>>,
        ef: Option<&Bound<'py, PyAny>>,
        r#where: Option<&Bound<'py, PyAny>>,
        min_score: Option<&Bound<'py, PyAny>>,
        max_distance: Option<&Bound<'py, PyAny>>,
        offset: Option<&Bound<'py, PyAny>>,
        include: Option<&Bound<'py, PyAny>>,
        exact: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.opened(py)?;
        let asked = Asked { k, ef, filter: r#where, min_score, max_distance, offset, include, exact };
        let query = asked.query(opened.ef.load(Relaxed))?;
        let vector = vectors::one(vector, opened.collection.dim())?;
        let hits = opened.run(py, |o| o.collection.query(&vector, &query))?;
        answers::hits(&mut Reader::new(py), py, &hits, query.include)
    }

    /// `query` for many vectors at once.
    ///
    /// Parameters
    /// ----------
    /// vectors : array_like of shape (n, dim)
    /// k, ef, where, min_score, max_distance, offset, include, exact
    ///     As in `query`.
    ///
    /// Returns
    /// -------
    /// list of n lists of dict
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="query_many")
    /// >>> ids = db.add_many([[1, 0], [0, 1]])
    /// >>> [hits[0]["id"] for hits in db.query_many([[0, 2], [2, 0]], k=1)]
    /// [1, 0]
    #[pyo3(
        signature = (vectors, k=None, ef=None, *, r#where=None, min_score=None, max_distance=None, offset=None, include=None, exact=false),
        text_signature = "($self, vectors, k=5, ef=None, *, where=None, min_score=None, max_distance=None, offset=0, \
                          include=None, exact=False)"
    )]
    #[allow(clippy::too_many_arguments)] // keyword arguments in Python
    fn query_many<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        k: Option<&Bound<'py, PyAny>>,
        ef: Option<&Bound<'py, PyAny>>,
        r#where: Option<&Bound<'py, PyAny>>,
        min_score: Option<&Bound<'py, PyAny>>,
        max_distance: Option<&Bound<'py, PyAny>>,
        offset: Option<&Bound<'py, PyAny>>,
        include: Option<&Bound<'py, PyAny>>,
        exact: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.opened(py)?;
        let asked = Asked { k, ef, filter: r#where, min_score, max_distance, offset, include, exact };
        let query = asked.query(opened.ef.load(Relaxed))?;
        let vectors = vectors::many(vectors, opened.collection.dim())?;
        let vectors = vectors.as_slice();
        let answered = opened.run(py, |o| o.collection.query_many(vectors, &query))?;
        let mut reader = Reader::new(py);
        let lists = PyList::empty(py);
        for hits in &answered {
            lists.append(answers::hits(&mut reader, py, hits, query.include)?)?;
        }
        Ok(lists)
    }

    /// How many rows pass a filter; without one, how many there are.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=1, path="count")
    /// >>> ids = db.add_many([[1], [2], [3]], [{"n": 1}, {"n": 2}, {"n": 3}])
    /// >>> db.count(), db.count("n >= 2"), db.count({"n": {"$in": [1, 7]}})
    /// (3, 2, 1)
    #[pyo3(signature = (r#where=None))]
    fn count(&self, py: Python<'_>, r#where: Option<&Bound<'_, PyAny>>) -> PyResult<usize> {
        let filter = r#where.map(asked::filter).transpose()?;
        self.opened(py)?.run(py, |o| o.collection.count(filter.as_ref()))
    }

    #[doc = include_str!("docs/scroll.txt")]
    #[pyo3(
        signature = (r#where=None, *, limit=None, after=None, include=None),
        text_signature = "($self, where=None, *, limit=100, after=None, include=None)"
    )]
    fn scroll<'py>(
        &self,
        py: Python<'py>,
        r#where: Option<&Bound<'py, PyAny>>,
        limit: Option<&Bound<'py, PyAny>>,
        after: Option<&Bound<'py, PyAny>>,
        include: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let filter = r#where.map(asked::filter).transpose()?;
        let limit = limit.map_or(Ok(100), |limit| rows::count("limit", 1, limit))?;
        let after = after.map(|after| rows::id("after", after)).transpose()?;
        let include = asked::include(include)?;
        let found = self.opened(py)?.run(py, |o| o.collection.scroll(after, limit, filter.as_ref()))?;
        let (mut reader, list) = (Reader::new(py), PyList::empty(py));
        for record in &found {
            list.append(answers::record(&mut reader, py, record, include)?)?;
        }
        Ok(list)
    }

    /// The metadata of a row, or None if there is no such row (or it has no metadata; `id in db` tells the two apart).
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="get")
    /// >>> db.get(db.add([1, 0], {"name": "east", "tags": ["a", None, 1.5]}))
    /// {'name': 'east', 'tags': ['a', None, 1.5]}
    /// >>> db.get(99) is None
    /// True
    #[pyo3(signature = (id=None, *, vid=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        id: Option<&Bound<'py, PyAny>>,
        vid: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let opened = self.opened(py)?;
        let Some(id) = rows::sought(rows::one_id("get", id, vid)?)? else { return Ok(None) };
        let metadata = opened.run(py, |o| o.collection.metadata(id))?.flatten();
        Reader::new(py).dict(metadata.as_ref())
    }

    #[doc = include_str!("docs/recall.txt")]
    #[pyo3(
        signature = (k=None, sample=None, r#where=None, ef=None),
        text_signature = "($self, k=10, sample=200, where=None, ef=None)"
    )]
    fn recall(
        &self,
        py: Python<'_>,
        k: Option<&Bound<'_, PyAny>>,
        sample: Option<&Bound<'_, PyAny>>,
        r#where: Option<&Bound<'_, PyAny>>,
        ef: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<f64> {
        let opened = self.opened(py)?;
        let asked = Asked { filter: r#where, ef, ..Asked::default() };
        let k = k.map_or(Ok(10), |k| rows::count("k", 1, k))?;
        let query = Query { k, ..asked.query(opened.ef.load(Relaxed))? };
        let sample = sample.map_or(Ok(200), |sample| rows::count("sample", 1, sample))?;
        opened.run(py, |o| o.collection.recall(sample, &query))
    }
}
