//! Ids: Python ints and strs to the engine's and back.

use nopokedb::{Id, OnConflict};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString};

use crate::errors::{invalid, type_name};
use crate::rows::{document, each, integer, shown};

/// An id as Python has it.
pub(crate) fn to_python<'py>(py: Python<'py>, id: &Id) -> Bound<'py, PyAny> {
    match id {
        Id::Int(number) => match number.into_pyobject(py) {
            Ok(number) => number.into_any(),
            Err(never) => match never {},
        },
        Id::Text(text) => PyString::new(py, text).into_any(),
    }
}

/// Many of them.
pub(crate) fn list<'py>(py: Python<'py>, ids: &[Id]) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, ids.iter().map(|id| to_python(py, id)))
}

/// The id to look for; `None` for what no row can have.
pub(crate) fn sought(value: &Bound<'_, PyAny>) -> PyResult<Option<Id>> {
    if value.is_instance_of::<PyString>() {
        // Half of a surrogate pair is no character, so no id has it.
        return Ok(document("id", value).ok().map(Id::from));
    }
    match integer(value) {
        Some(id) => Ok(id.and_then(|id| u64::try_from(id).ok()).map(Id::Int)),
        None => Err(invalid(value.py(), format!("an id is an integer or a str, got {}", shown(value)))),
    }
}

/// Whether several ids are given rather than one.
pub(crate) fn is_many(value: &Bound<'_, PyAny>) -> bool {
    let one = value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() || integer(value).is_some();
    !one && value.try_iter().is_ok()
}

/// The ids to look for, from any iterable; `None` for what no row can have.
pub(crate) fn sought_ids(value: &Bound<'_, PyAny>) -> PyResult<Vec<Option<Id>>> {
    if !is_many(value) {
        return Err(invalid(value.py(), format!("ids must be a list of ids, got {}", type_name(value))));
    }
    each(value, "ids", None, |_, item| sought(item))
}

/// The id to write under.
pub(crate) fn id(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Id> {
    if value.is_instance_of::<PyString>() {
        return document(name, value).map(Id::from);
    }
    let refused = || {
        let wanted = "must be an integer from 0 to 2**63 - 2, or a str";
        invalid(value.py(), format!("{name} {wanted}, got {}", shown(value)))
    };
    integer(value).flatten().and_then(|id| u64::try_from(id).ok()).map(Id::Int).ok_or_else(refused)
}

/// The ids of a batch of `n`, if that is known, from any iterable of integers and strs.
pub(crate) fn ids(value: &Bound<'_, PyAny>, n: Option<usize>) -> PyResult<Vec<Id>> {
    // An array's elements as Python objects, all at once.
    let list = match value.getattr_opt(intern!(value.py(), "tolist"))? {
        Some(tolist) => tolist.call0()?,
        None => value.clone(),
    };
    each(&list, "ids", n, |i, item| match item.cast_exact::<PyInt>().ok().and_then(|n| n.extract::<u64>().ok()) {
        Some(number) => Ok(Id::Int(number)),
        None => id(&format!("ids[{i}]"), item),
    })
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

/// What an add does about an id that exists.
pub(crate) fn on_conflict(value: &Bound<'_, PyAny>) -> PyResult<OnConflict> {
    match value.extract::<String>().as_deref() {
        Ok("error") => Ok(OnConflict::Error),
        Ok("skip") => Ok(OnConflict::Skip),
        Ok("replace") => Ok(OnConflict::Replace),
        _ => {
            let names = "\"error\", \"skip\" or \"replace\"";
            Err(invalid(value.py(), format!("on_conflict must be {names}, got {}", shown(value))))
        }
    }
}
