//! Hits put into another order by the caller's own function, which runs with the GIL after the search.

use nopokedb::{Include, Query};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors::{caused_by, invalid, type_name};

/// How many times as many hits as the caller wants are shown to the function, unless it says otherwise.
const USUAL_FACTOR: usize = 4;

/// What puts hits into another order.
pub(crate) struct Rerank<'py> {
    function: Bound<'py, PyAny>,
    factor: usize,
}

impl<'py> Rerank<'py> {
    pub(crate) fn new(function: &Bound<'py, PyAny>, factor: Option<usize>) -> PyResult<Rerank<'py>> {
        if !function.is_callable() {
            let message = format!("rerank must be a function of the hits, got {}", type_name(function));
            return Err(PyTypeError::new_err(message));
        }
        if factor == Some(0) {
            return Err(invalid(function.py(), "rerank_factor must be at least 1, got 0"));
        }
        Ok(Rerank { function: function.clone(), factor: factor.unwrap_or(USUAL_FACTOR) })
    }

    /// The query for the hits that the function sees.
    pub(crate) fn wider(&self, py: Python<'_>, query: &Query) -> PyResult<Query> {
        if query.group.as_ref().is_some_and(|group| group.size > 1) {
            return Err(invalid(py, "rerank orders single hits: with group_by, group_size must be 1"));
        }
        let k = query.k.saturating_add(query.offset).saturating_mul(self.factor).min(u32::MAX as usize);
        let include = Include { metadata: true, document: true, ..query.include };
        Ok(Query { k, offset: 0, include, ..query.clone() })
    }

    /// The hits that `query` asks for, of those of the wider one.
    pub(crate) fn apply(&self, hits: &Bound<'py, PyList>, query: &Query) -> PyResult<Bound<'py, PyList>> {
        let py = hits.py();
        let ordered = if hits.is_empty() { Vec::new() } else { self.ordered(hits)? };
        let page = PyList::empty(py);
        for hit in ordered.into_iter().skip(query.offset).take(query.k) {
            let unwanted = [("metadata", query.include.metadata), ("document", query.include.document)];
            for (name, _) in unwanted.into_iter().filter(|(_, wanted)| !wanted) {
                if hit.contains(name)? {
                    hit.del_item(name)?;
                }
            }
            page.append(hit)?;
        }
        Ok(page)
    }

    /// All hits in the function's order.
    fn ordered(&self, hits: &Bound<'py, PyList>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let py = hits.py();
        let answer = self.function.call1((hits.clone(),))?;
        // The numbers of an array, all at once.
        let answer = match answer.getattr_opt(intern!(py, "tolist"))? {
            Some(tolist) => tolist.call0()?,
            None => answer,
        };
        let wrong = |found: String| {
            invalid(py, format!("rerank must answer with one score for each hit, or with hits in order; got {found}"))
        };
        let items = answer.try_iter().map_err(|cause| caused_by(py, wrong(type_name(&answer)), cause))?;
        let items = items.collect::<PyResult<Vec<_>>>()?;
        if items.iter().all(|item| item.is_instance_of::<PyDict>()) {
            return items.into_iter().map(|item| Ok(item.cast_into::<PyDict>()?)).collect();
        }
        if items.len() != hits.len() {
            return Err(wrong(format!("{} scores for {} hits", items.len(), hits.len())));
        }
        let mut scored = Vec::with_capacity(items.len());
        for (item, hit) in items.iter().zip(hits) {
            let score = item.extract::<f64>().map_err(|cause| caused_by(py, wrong(type_name(item)), cause))?;
            if score.is_nan() {
                return Err(wrong("NaN".into()));
            }
            let hit = hit.cast_into::<PyDict>()?;
            hit.set_item(intern!(py, "rerank_score"), score)?;
            scored.push((score, hit));
        }
        // Equal scores leave the search's order.
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(scored.into_iter().map(|(_, hit)| hit).collect())
    }
}
