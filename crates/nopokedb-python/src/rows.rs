//! The other arguments: ids, counts, seconds, documents, lists of metadata.

use std::path::PathBuf;
use std::time::Duration;

use nopokedb::{Metadata, RecordId};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyString};

use crate::errors::{caused_by, invalid, type_name};
use crate::json;

/// An integer that the engine will check against its own limits; `low` is only named in the message for negative ones.
pub(crate) fn count(name: &str, low: usize, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = value.py();
    let number =
        integer(value).ok_or_else(|| invalid(py, format!("{name} must be an integer, got {}", shown(value))))?;
    match number.and_then(|n| usize::try_from(n).ok()) {
        Some(n) => Ok(n),
        None => Err(invalid(py, format!("{name} must be at least {low} and fit in 63 bits, got {}", shown(value)))),
    }
}

/// The id to look for; `None` for integers that no row can have.
pub(crate) fn sought(value: &Bound<'_, PyAny>) -> PyResult<Option<RecordId>> {
    match integer(value) {
        Some(id) => Ok(id.and_then(|id| u64::try_from(id).ok()).map(RecordId)),
        None => Err(invalid(value.py(), format!("an id is an integer, got {}", shown(value)))),
    }
}

/// Whether several ids are given rather than one.
pub(crate) fn is_many(value: &Bound<'_, PyAny>) -> bool {
    let one = value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() || integer(value).is_some();
    !one && value.try_iter().is_ok()
}

/// The ids to look for, from any iterable; `None` for integers that no row can have.
pub(crate) fn sought_ids(value: &Bound<'_, PyAny>) -> PyResult<Vec<Option<RecordId>>> {
    if !is_many(value) {
        return Err(invalid(value.py(), format!("ids must be a list of ids, got {}", type_name(value))));
    }
    each(value, "ids", |_, item| sought(item))
}

/// The id to write under.
pub(crate) fn id(name: &str, value: &Bound<'_, PyAny>) -> PyResult<RecordId> {
    let refused =
        || invalid(value.py(), format!("{name} must be an integer from 0 to 2**63 - 2, got {}", shown(value)));
    integer(value).flatten().and_then(|id| u64::try_from(id).ok()).map(RecordId).ok_or_else(refused)
}

/// One id, given by position or under the name it had in 0.5.1.
pub(crate) fn one_id<'a, 'py>(
    method: &str,
    id: Option<&'a Bound<'py, PyAny>>,
    vid: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<&'a Bound<'py, PyAny>> {
    match (id, vid) {
        (Some(id), None) | (None, Some(id)) => Ok(id),
        (None, None) => Err(PyTypeError::new_err(format!("{method}() missing 1 required argument: 'id'"))),
        (Some(_), Some(_)) => Err(PyTypeError::new_err(format!("{method}() got both 'id' and its old name 'vid'"))),
    }
}

/// A directory.
pub(crate) fn path(value: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let py = value.py();
    let refused = |cause| caused_by(py, invalid(py, "path must be a str or an os.PathLike"), cause);
    value.extract::<PathBuf>().map_err(refused)
}

/// A timeout.
pub(crate) fn seconds(py: Python<'_>, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| invalid(py, format!("timeout must be a number of seconds, 0 or more, got {value}")))
}

/// The ids of a batch, from any iterable of integers.
pub(crate) fn ids(value: &Bound<'_, PyAny>) -> PyResult<Vec<RecordId>> {
    // An array's elements as Python ints, all at once.
    let list = match value.getattr_opt(intern!(value.py(), "tolist"))? {
        Some(tolist) => tolist.call0()?,
        None => value.clone(),
    };
    each(&list, "ids", |i, item| id(&format!("ids[{i}]"), item))
}

/// The metadata of a batch: dicts or None.
pub(crate) fn metadatas(value: &Bound<'_, PyAny>) -> PyResult<Vec<Option<Metadata>>> {
    each(
        value,
        "metadatas",
        |row, item| {
            if item.is_none() { Ok(None) } else { json::metadata_of(item, Some(row)).map(Some) }
        },
    )
}

/// The documents of a batch: str or None.
pub(crate) fn documents(value: &Bound<'_, PyAny>) -> PyResult<Vec<Option<String>>> {
    each(value, "documents", |i, item| {
        if item.is_none() { Ok(None) } else { document(&format!("documents[{i}]"), item).map(Some) }
    })
}

/// One document.
pub(crate) fn document(name: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = value.py();
    let text =
        value.cast::<PyString>().map_err(|_| invalid(py, format!("{name} must be a str, got {}", shown(value))))?;
    json::text_of(text).map_err(|cause| {
        let message = format!("{name} holds half of a surrogate pair, which is no character and cannot be stored");
        caused_by(py, invalid(py, message), cause)
    })
}

fn each<'py, T>(
    value: &Bound<'py, PyAny>,
    name: &str,
    mut convert: impl FnMut(usize, &Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    let one_value =
        value.is_instance_of::<PyDict>() || value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>();
    let items = value.try_iter().ok().filter(|_| !one_value).ok_or_else(|| {
        invalid(value.py(), format!("{name} must be a list with one entry per vector, got {}", type_name(value)))
    })?;
    let mut converted = Vec::with_capacity(value.len().unwrap_or(0));
    for (i, item) in items.enumerate() {
        converted.push(convert(i, &item?)?);
    }
    Ok(converted)
}

/// `None` if it is no integer; `Some(None)` if it is one that does not fit. Takes whatever has `__index__`, but no bool.
#[allow(clippy::option_option)] // two different refusals, told apart by the callers
fn integer(value: &Bound<'_, PyAny>) -> Option<Option<i64>> {
    if value.is_instance_of::<PyBool>() {
        return None;
    }
    match value.extract::<i64>() {
        Ok(number) => Some(Some(number)),
        Err(e) if e.is_instance_of::<pyo3::exceptions::PyOverflowError>(value.py()) => Some(None),
        Err(_) => None,
    }
}

/// A value as it appears in messages.
fn shown(value: &Bound<'_, PyAny>) -> String {
    let text = value.repr().map_or_else(|_| "?".into(), |repr| repr.to_string_lossy().into_owned());
    let short: String = text.chars().take(60).collect();
    format!("{} {short}", type_name(value))
}
