//! What the engine answers, as Python objects.

use nopokedb::{Explanation, Facet, Hit, Query, Record, Scalar, Stats};
use numpy::PyArray1;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyList, PyType};

use crate::asked::Carried;
use crate::ids;
use crate::json::Reader;

/// Hits as dicts of id, metadata, score and distance, and what else `query` asked for.
pub(crate) fn hits<'py>(
    reader: &mut Reader<'py>,
    py: Python<'py>,
    hits: &[Hit],
    query: &Query,
) -> PyResult<Bound<'py, PyList>> {
    let include = query.include;
    let list = PyList::empty(py);
    for hit in hits {
        let dict = PyDict::new(py);
        dict.set_item(intern!(py, "id"), ids::to_python(py, &hit.id))?;
        if include.metadata {
            dict.set_item(intern!(py, "metadata"), reader.dict(hit.metadata.as_ref())?)?;
        }
        dict.set_item(intern!(py, "score"), f64::from(hit.score))?;
        // Without a vector there is no distance.
        dict.set_item(intern!(py, "distance"), Some(f64::from(hit.distance)).filter(|d| !d.is_nan()))?;
        if query.text.is_some() {
            dict.set_item(intern!(py, "text_score"), hit.text_score.map(f64::from))?;
        }
        if include.snippet {
            dict.set_item(intern!(py, "snippet"), hit.snippet.as_deref())?;
        }
        if include.document {
            dict.set_item(intern!(py, "document"), hit.document.as_deref())?;
        }
        if include.vector {
            dict.set_item(intern!(py, "vector"), hit.vector.as_deref().map(|vector| PyArray1::from_slice(py, vector)))?;
        }
        if let Some(group) = &hit.group {
            dict.set_item(intern!(py, "group"), scalar(py, group)?)?;
        }
        list.append(dict)?;
    }
    Ok(list)
}

/// A row as a dict of its id and what was asked for.
pub(crate) fn record<'py>(
    reader: &mut Reader<'py>,
    py: Python<'py>,
    record: &Record,
    Carried { include, expires_at }: Carried,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item(intern!(py, "id"), ids::to_python(py, &record.id))?;
    if include.metadata {
        dict.set_item(intern!(py, "metadata"), reader.dict(record.metadata.as_ref())?)?;
    }
    if include.document {
        dict.set_item(intern!(py, "document"), record.document.as_deref())?;
    }
    if include.vector {
        dict.set_item(intern!(py, "vector"), PyArray1::from_slice(py, &record.vector))?;
    }
    if expires_at {
        dict.set_item(intern!(py, "expires_at"), record.expires_at)?;
    }
    Ok(dict)
}

/// Rows in order, None for those there are not: dicts of id and what was asked for or, with no `include`, the bare metadata.
pub(crate) fn records<'py>(
    py: Python<'py>,
    records: Vec<Option<Record>>,
    include: Option<Carried>,
) -> PyResult<Bound<'py, PyList>> {
    let (mut reader, list) = (Reader::new(py), PyList::empty(py));
    for found in records {
        let row = match (found, include) {
            (None, _) => None,
            (Some(found), None) => reader.dict(found.metadata.as_ref())?,
            (Some(found), Some(include)) => Some(record(&mut reader, py, &found, include)?.into_any()),
        };
        list.append(row)?;
    }
    Ok(list)
}

/// The list of hits, of the class that has a place for how they were found.
pub(crate) fn explained<'py>(hits: &Bound<'py, PyList>, told: &Explanation) -> PyResult<Bound<'py, PyList>> {
    static HITS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = hits.py();
    let dict = PyDict::new(py);
    dict.set_item("plan", told.plan.name())?;
    dict.set_item("rows", told.rows)?;
    dict.set_item("matches", told.matches)?;
    dict.set_item("ef", told.ef)?;
    dict.set_item("searches", told.searches)?;
    dict.set_item("candidates", told.candidates)?;
    dict.set_item("text_candidates", told.text_candidates)?;
    dict.set_item("rows_scanned", told.rows_scanned)?;
    dict.set_item("code_distances", told.code_distances)?;
    dict.set_item("exact_distances", told.exact_distances)?;
    let stages = PyDict::new(py);
    for (name, took) in &told.stages {
        stages.set_item(name, took.as_secs_f64() * 1e6)?;
    }
    dict.set_item("stages_us", stages)?;
    dict.set_item("total_us", told.total.as_secs_f64() * 1e6)?;
    let explained = HITS.import(py, "nopokedb.hits", "Hits")?.call1((hits,))?;
    explained.setattr("explanation", dict)?;
    Ok(explained.cast_into::<PyList>()?)
}

/// Values and their counts, as dicts.
pub(crate) fn facets<'py>(py: Python<'py>, facets: &[Facet]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for facet in facets {
        let dict = PyDict::new(py);
        dict.set_item(intern!(py, "value"), scalar(py, &facet.value)?)?;
        dict.set_item(intern!(py, "count"), facet.count)?;
        list.append(dict)?;
    }
    Ok(list)
}

/// One value of a metadata field.
pub(crate) fn scalar<'py>(py: Python<'py>, value: &Scalar) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Scalar::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
        Scalar::Integer(value) => value.into_pyobject(py)?.into_any(),
        Scalar::Float(value) => value.into_pyobject(py)?.into_any(),
        Scalar::String(value) => value.into_pyobject(py)?.into_any(),
        _ => py.None().into_bound(py),
    })
}

/// Counters as a dict, named as in the Rust struct.
pub(crate) fn stats<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let counters = [
        ("rows", stats.rows),
        ("graph_rows", stats.graph_rows),
        ("tail_rows", stats.tail_rows),
        ("dead_rows", stats.dead_rows),
        ("segments", stats.segments),
        ("log_bytes", stats.log_bytes),
        ("graph_memory", stats.graph_memory),
        ("codes_memory", stats.codes_memory),
        ("rows_memory", stats.rows_memory),
        ("ids_memory", stats.ids_memory),
        ("columns_memory", stats.columns_memory),
        ("filters_memory", stats.filters_memory),
        ("texts_memory", stats.texts_memory),
        ("visible_lsn", stats.visible_lsn),
        ("applied_lsn", stats.applied_lsn),
    ];
    for (name, value) in counters {
        dict.set_item(name, value)?;
    }
    dict.set_item("writes_stopped", stats.writes_stopped.as_deref())?;
    dict.set_item("background_error", stats.background_error.as_deref())?;
    dict.set_item("sqlite_error", stats.sqlite_error.as_deref())?;
    Ok(dict)
}
