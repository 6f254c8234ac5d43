//! The other arguments: counts, seconds, documents, lists of metadata.

use std::path::PathBuf;
use std::time::Duration;

use nopokedb::Metadata;
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

/// A directory.
pub(crate) fn path(value: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let py = value.py();
    let refused = |cause| caused_by(py, invalid(py, "path must be a str or an os.PathLike"), cause);
    let path = value.extract::<PathBuf>().map_err(refused)?;
    if path.as_os_str().is_empty() {
        return Err(invalid(py, "the path is empty; give a directory, \".\" for the current one"));
    }
    Ok(path)
}

/// A timeout; infinity is one that never comes.
pub(crate) fn seconds(py: Python<'_>, value: f64) -> PyResult<Duration> {
    if value == f64::INFINITY {
        return Ok(Duration::MAX);
    }
    Duration::try_from_secs_f64(value)
        .map_err(|_| invalid(py, format!("timeout must be a number of seconds, 0 or more, got {value}")))
}

/// The metadata of a batch of `n`: dicts or None.
pub(crate) fn metadatas(value: &Bound<'_, PyAny>, n: usize) -> PyResult<Vec<Option<Metadata>>> {
    each(value, "metadatas", Some(n), |row, item| {
        if item.is_none() { Ok(None) } else { json::metadata_of(item, Some(row)).map(Some) }
    })
}

/// The documents of a batch of `n`: str or None.
pub(crate) fn documents(value: &Bound<'_, PyAny>, n: usize) -> PyResult<Vec<Option<String>>> {
    each(value, "documents", Some(n), |i, item| {
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

/// One conversion for each item of an iterable. Where there are to be `n` of them, an iterator that goes on and on ends in an
/// error rather than in all memory taken.
pub(crate) fn each<'py, T>(
    value: &Bound<'py, PyAny>,
    name: &str,
    n: Option<usize>,
    mut convert: impl FnMut(usize, &Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    let one_value =
        value.is_instance_of::<PyDict>() || value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>();
    let items = value.try_iter().ok().filter(|_| !one_value).ok_or_else(|| {
        invalid(value.py(), format!("{name} must be a list with one entry per vector, got {}", type_name(value)))
    })?;
    let mut converted = Vec::with_capacity(value.len().unwrap_or(0));
    let endless = value.len().is_err();
    for (i, item) in items.enumerate() {
        if endless && n == Some(i) {
            let message = format!("got {i} vectors but more {name} than that; give one per vector");
            return Err(invalid(value.py(), message));
        }
        converted.push(convert(i, &item?)?);
    }
    Ok(converted)
}

/// `None` if it is no integer; `Some(None)` if it is one that does not fit. Takes whatever has `__index__`, but no bool.
#[allow(clippy::option_option)] // two different refusals, told apart by the callers
pub(crate) fn integer(value: &Bound<'_, PyAny>) -> Option<Option<i64>> {
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
pub(crate) fn shown(value: &Bound<'_, PyAny>) -> String {
    let text = value.repr().map_or_else(|_| "?".into(), |repr| repr.to_string_lossy().into_owned());
    let short: String = text.chars().take(60).collect();
    format!("{} {short}", type_name(value))
}
