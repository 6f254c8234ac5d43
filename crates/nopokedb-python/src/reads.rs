//! What asks: queries, counts, look-ups.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use nopokedb::Query;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::asked::{self, Asked};
use crate::database::NoPokeDB;
use crate::json::Reader;
use crate::opened::Opened;
use crate::progress::Progress;
use crate::{answers, ids, rows, vectors};

#[pymethods]
impl NoPokeDB {
    #[doc = include_str!("docs/query.txt")]
    #[pyo3(
        signature = (vector=None, k=None, ef=None, **named),
        text_signature = "($self, vector=None, k=5, ef=None, *, where=None, min_score=None, max_distance=None, offset=0, \
                          include=None, exact=False, recall=None, mmr=None, group_by=None, group_size=1, positive=None, \
                          negative=None, rerank=None, rerank_factor=4, explain=False, text=None, text_mode='any', text_syntax='plain', \
                          fusion='rrf', highlight=('**', '**'))"
    )]
    fn query<'py>(
        &self,
        py: Python<'py>,
        vector: Option<&Bound<'py, PyAny>>,
        k: Option<&Bound<'py, PyAny>>,
        ef: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.opened(py)?;
        let asked = Asked::new("query", k, ef, named)?;
        let query = asked.query(opened.ef.load(Relaxed))?;
        let vector = match vector {
            Some(vector) => vectors::one(vector, &opened.collection)?,
            None if !query.positive.is_empty() || !query.negative.is_empty() => Vec::new(),
            None if query.text.is_some() => Vec::new(),
            None => return Err(PyTypeError::new_err("query() needs a vector, a text, or positive=[ids]")),
        };
        let rerank = asked.rerank()?;
        let wider = rerank.as_ref().map(|rerank| rerank.wider(py, &query)).transpose()?;
        let sought = wider.as_ref().unwrap_or(&query);
        let (found, explanation) = if asked.explains()? {
            let (hits, explanation) = opened.run(py, |o| o.collection.explain(&vector, sought))?;
            (hits, Some(explanation))
        } else {
            let by_words = vector.is_empty() && sought.text.is_some();
            let search = |o: &Opened| match by_words {
                true => o.collection.search_text(sought),
                false => o.collection.query(&vector, sought),
            };
            (opened.run(py, search)?, None)
        };
        let start = Instant::now();
        let hits = answers::hits(&mut Reader::new(py), py, &found, sought)?;
        let dicts = start.elapsed();
        let hits = rerank.as_ref().map_or(Ok(hits.clone()), |rerank| rerank.apply(&hits, &query))?;
        let Some(mut explanation) = explanation else { return Ok(hits) };
        explanation.stages.push(("dicts", dicts));
        if rerank.is_some() {
            explanation.stages.push(("rerank", start.elapsed() - dicts));
        }
        explanation.total += start.elapsed();
        answers::explained(&hits, &explanation)
    }

    /// `query` for many vectors at once, all in one snapshot (with `text`, each in the newest).
    ///
    /// Parameters
    /// ----------
    /// vectors : array_like of shape (n, dim)
    /// where : dict or str, or a list of n of them (or None), optional
    ///     One filter for all, or one for each.
    /// k, ef, min_score, max_distance, offset, include, exact, recall, mmr, group_by, group_size, rerank, rerank_factor
    /// text, text_mode, text_syntax, fusion, highlight
    ///     As in `query`. `rerank` is called with the hits of one vector after the other.
    ///
    /// Returns
    /// -------
    /// list of n lists of dict
    ///
    /// Raises
    /// ------
    /// FilterError
    ///     Also if there are not as many filters as vectors.
    /// EmptyError, DimensionError, InvalidError, CorruptionError, ClosedError
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="query_many")
    /// >>> ids = db.add_many([[1, 0], [0, 1]], [{"name": "east"}, {"name": "north"}])
    /// >>> [hits[0]["id"] for hits in db.query_many([[0, 2], [2, 0]], k=1)]
    /// [1, 0]
    /// >>> [hits[0]["id"] for hits in db.query_many([[0, 2], [0, 2]], k=1, where=["name = 'east'", None])]
    /// [0, 1]
    #[pyo3(
        signature = (vectors, k=None, ef=None, **named),
        text_signature = "($self, vectors, k=5, ef=None, *, where=None, min_score=None, max_distance=None, offset=0, \
                          include=None, exact=False, recall=None, mmr=None, group_by=None, group_size=1, rerank=None, \
                          rerank_factor=4, text=None, text_mode='any', text_syntax='plain', \
                          fusion='rrf', highlight=('**', '**'))"
    )]
    fn query_many<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        k: Option<&Bound<'py, PyAny>>,
        ef: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let opened = self.opened(py)?;
        let vectors = vectors::many(vectors, &opened.collection)?;
        let mut asked = Asked::new("query_many", k, ef, named)?;
        let filters = asked.filter_each()?;
        let query = asked.query(opened.ef.load(Relaxed))?;
        let vectors = vectors.as_slice();
        let rerank = asked.rerank()?;
        let wider = rerank.as_ref().map(|rerank| rerank.wider(py, &query)).transpose()?;
        let sought = wider.as_ref().unwrap_or(&query);
        // Tells nobody but Ctrl-C.
        let mut progress = Progress::default();
        let answered = opened.run(py, |o| {
            let mut tell = |done, all| progress.tell(done, all);
            o.collection.query_many_watched(vectors, filters.as_deref(), sought, &mut tell)
        });
        let answered = progress.outcome(answered)?;
        let mut reader = Reader::new(py);
        let lists = PyList::empty(py);
        for hits in &answered {
            let hits = answers::hits(&mut reader, py, hits, sought)?;
            lists.append(rerank.as_ref().map_or(Ok(hits.clone()), |rerank| rerank.apply(&hits, &query))?)?;
        }
        Ok(lists)
    }

    /// How many rows pass a filter; without one, how many there are.
    ///
    /// Parameters
    /// ----------
    /// where : dict or str, optional
    ///
    /// Returns
    /// -------
    /// int
    ///
    /// Raises
    /// ------
    /// FilterError, CorruptionError, ClosedError
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

    #[doc = include_str!("docs/facets.txt")]
    #[pyo3(
        signature = (field, r#where=None, *, limit=None),
        text_signature = "($self, field, where=None, *, limit=100)"
    )]
    fn facets<'py>(
        &self,
        py: Python<'py>,
        field: &Bound<'py, PyAny>,
        r#where: Option<&Bound<'py, PyAny>>,
        limit: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (field, filter) = (rows::document("field", field)?, r#where.map(asked::filter).transpose()?);
        let limit = limit.map_or(Ok(100), |limit| rows::count("limit", 1, limit))?;
        let facets = self.opened(py)?.run(py, |o| o.collection.facets(&field, filter.as_ref(), limit))?;
        answers::facets(py, &facets)
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
        let after = after.map(|after| ids::id("after", after)).transpose()?;
        let carried = asked::carried(include)?;
        let found = self.opened(py)?.run(py, |o| o.collection.scroll(after.as_ref(), limit, filter.as_ref()))?;
        let (mut reader, list) = (Reader::new(py), PyList::empty(py));
        for record in &found {
            list.append(answers::record(&mut reader, py, record, carried)?)?;
        }
        Ok(list)
    }

    #[doc = include_str!("docs/get.txt")]
    #[pyo3(signature = (id=None, *, include=None, vid=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        id: Option<&Bound<'py, PyAny>>,
        include: Option<&Bound<'py, PyAny>>,
        vid: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let opened = self.opened(py)?;
        let id = ids::one_id("get", id, vid)?;
        let many = ids::is_many(id);
        if !many && include.is_none() {
            let Some(id) = ids::sought(id)? else { return Ok(None) };
            let metadata = opened.run(py, |o| o.collection.metadata(id))?.flatten();
            return Reader::new(py).dict(metadata.as_ref());
        }
        let ids = if many { ids::sought_ids(id)? } else { vec![ids::sought(id)?] };
        let found = opened
            .run(py, |o| ids.iter().map(|id| id.as_ref().map_or(Ok(None), |id| o.collection.get(id))).collect())?;
        let list = answers::records(py, found, include.map(|i| asked::carried(Some(i))).transpose()?)?;
        if many { Ok(Some(list.into_any())) } else { Ok(Some(list.get_item(0)?).filter(|row| !row.is_none())) }
    }

    /// The rows of many ids, in their order; None for those there are not.
    ///
    /// Parameters
    /// ----------
    /// ids : iterable of n ints or strs
    /// include : iterable of "metadata", "document", "vector", "expires_at", optional
    ///     What the dicts hold besides the id; None is the metadata.
    ///
    /// Returns
    /// -------
    /// list of n dicts (or None)
    ///
    /// Raises
    /// ------
    /// InvalidError, CorruptionError, ClosedError
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="get_many")
    /// >>> ids = db.add_many([[1, 0], [0, 1]], [{"name": "east"}, {"name": "north"}], documents=["E", "N"])
    /// >>> db.get_many([1, 99])
    /// [{'id': 1, 'metadata': {'name': 'north'}}, None]
    /// >>> db.get_many(ids, include=["document"])
    /// [{'id': 0, 'document': 'E'}, {'id': 1, 'document': 'N'}]
    #[pyo3(signature = (ids, *, include=None))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        include: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (carried, ids) = (asked::carried(include)?, ids::sought_ids(ids)?);
        let found = self
            .opened(py)?
            .run(py, |o| ids.iter().map(|id| id.as_ref().map_or(Ok(None), |id| o.collection.get(id))).collect())?;
        answers::records(py, found, Some(carried))
    }

    #[doc = include_str!("docs/recall.txt")]
    #[pyo3(
        signature = (k=None, sample=None, r#where=None, ef=None, *, progress=None),
        text_signature = "($self, k=10, sample=200, where=None, ef=None, *, progress=None)"
    )]
    fn recall(
        &self,
        py: Python<'_>,
        k: Option<&Bound<'_, PyAny>>,
        sample: Option<&Bound<'_, PyAny>>,
        r#where: Option<&Bound<'_, PyAny>>,
        ef: Option<&Bound<'_, PyAny>>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<f64> {
        let opened = self.opened(py)?;
        let mut asked = Asked::new("recall", None, ef, None)?;
        asked.filter = r#where.cloned();
        let k = k.map_or(Ok(10), |k| rows::count("k", 1, k))?;
        let query = Query { k, ..asked.query(opened.ef.load(Relaxed))? };
        let sample = sample.map_or(Ok(200), |sample| rows::count("sample", 1, sample))?;
        let mut progress = Progress::new("recall", progress)?;
        let recall =
            opened.run(py, |o| o.collection.recall_watched(sample, &query, &mut |done, all| progress.tell(done, all)));
        progress.outcome(recall)
    }
}
