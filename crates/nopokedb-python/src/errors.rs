//! Which Python exception each error is: the one table.
//!
//! Every exception of this package is a `NoPokeDBError`, and also the builtin that a caller who never heard of us would
//! catch (`ValueError`, `RuntimeError`, `OSError`).

use std::collections::HashMap;
use std::error::Error as _;
use std::io;

use nopokedb::{Error, ErrorKind, Subject};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::ids;

/// "No space left on device", the same number on every system that Python runs on.
const ENOSPC: i32 = 28;

/// An exception: its name, its parents (builtins or earlier rows) and its docstring.
struct Exception(&'static str, &'static [&'static str], &'static str);

const TABLE: &[Exception] = &[
    Exception("NoPokeDBError", &["Exception"], "Any error of this package."),
    Exception(
        "InvalidError",
        &["NoPokeDBError", "ValueError"],
        "An argument is not acceptable. Nothing was written; the message says what would be.",
    ),
    Exception(
        "DimensionError",
        &["NoPokeDBError", "ValueError"],
        "A vector's shape or the database's dimension is not the expected one. The message names both.",
    ),
    Exception(
        "MetadataError",
        &["InvalidError"],
        "Metadata that is not a dict of JSON values. The message names the key.",
    ),
    Exception(
        "DuplicateIdError",
        &["InvalidError"],
        "An id that exists already, or that appears twice in one batch. `ids` is the list of all of them; the message names the\n\
         first ten.",
    ),
    Exception(
        "FilterError",
        &["InvalidError"],
        "A filter that makes no sense. The message names the place in it and what could stand there.",
    ),
    Exception("EmptyError", &["NoPokeDBError", "RuntimeError"], "A query was made against a database without rows."),
    Exception(
        "LockedError",
        &["NoPokeDBError", "RuntimeError"],
        "Another process has the directory open. The message names its pid and host.",
    ),
    Exception(
        "ClosedError",
        &["NoPokeDBError", "RuntimeError"],
        "The handle was closed, carried over a fork, or a failed fsync made it unusable. Open the directory again.",
    ),
    Exception(
        "ReadOnlyError",
        &["NoPokeDBError", "RuntimeError"],
        "A write through a handle that was opened with read_only=True.",
    ),
    Exception(
        "StorageError",
        &["NoPokeDBError", "OSError"],
        "The operating system refused to read or write. `errno` is set where it gave a code.",
    ),
    Exception(
        "StorageFullError",
        &["NoPokeDBError", "OSError"],
        "The disk is full. Nothing was written; reads go on, and writes resume when there is room.",
    ),
    Exception(
        "CorruptionError",
        &["NoPokeDBError", "RuntimeError"],
        "A file that holds acknowledged data is damaged. The message names the file and the offset.",
    ),
];

/// The exception of an error's kind.
fn exception_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid(Subject::Dimension) => "DimensionError",
        ErrorKind::Invalid(Subject::Metadata) => "MetadataError",
        ErrorKind::Invalid(Subject::DuplicateId) => "DuplicateIdError",
        ErrorKind::Invalid(Subject::Filter) => "FilterError",
        ErrorKind::Invalid(Subject::ReadOnly) => "ReadOnlyError",
        ErrorKind::Invalid(_) => "InvalidError",
        ErrorKind::Empty => "EmptyError",
        ErrorKind::Locked => "LockedError",
        ErrorKind::Closed => "ClosedError",
        ErrorKind::Full => "StorageFullError",
        ErrorKind::Io => "StorageError",
        ErrorKind::Corruption => "CorruptionError",
        _ => "NoPokeDBError",
    }
}

static TYPES: PyOnceLock<HashMap<&'static str, Py<PyType>>> = PyOnceLock::new();

/// Makes the exceptions and puts them into the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let builtins = py.import("builtins")?;
    let mut types: HashMap<&'static str, Py<PyType>> = HashMap::new();
    for Exception(name, parents, doc) in TABLE {
        let mut bases = Vec::new();
        for &parent in *parents {
            bases.push(match types.get(parent) {
                Some(ours) => ours.bind(py).clone().into_any(),
                None => builtins.getattr(parent)?,
            });
        }
        let members = PyDict::new(py);
        members.set_item("__module__", "nopokedb")?;
        members.set_item("__doc__", *doc)?;
        // `class name(*bases)`: the one way to several parents.
        let made = builtins.getattr("type")?.call1((*name, PyTuple::new(py, bases)?, members))?;
        module.add(*name, &made)?;
        types.insert(name, made.cast_into::<PyType>()?.unbind());
    }
    // A second initialisation of the module in this process keeps the first one's types.
    let _ = TYPES.set(py, types);
    Ok(())
}

/// The Python exception for an error of the engine.
#[allow(clippy::needless_pass_by_value)] // reads as a conversion at every `map_err`
pub(crate) fn raise(py: Python<'_>, error: Error) -> PyErr {
    let name = exception_of(error.kind());
    let Some(kind) = TYPES.get(py).and_then(|types| types.get(name)) else {
        return PyRuntimeError::new_err(error.to_string());
    };
    let raised = PyErr::from_type(kind.bind(py).clone(), error.to_string());
    if error.kind() == ErrorKind::Invalid(Subject::DuplicateId) {
        let listed = ids::list(py, error.duplicate_ids());
        // Of the class, so that it takes the attribute; the message stands without it.
        let _ = listed.and_then(|listed| raised.value(py).setattr("ids", listed));
    }
    let code = error.source().and_then(|s| s.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    // All waiters of a failed commit get its words, only one of them its cause.
    let code = code.or((error.kind() == ErrorKind::Full).then_some(ENOSPC));
    if let Some(code) = code {
        // Only OSErrors have the attribute; the message stands without it.
        let _ = raised.value(py).setattr("errno", code);
    }
    raised
}

/// An argument that is not acceptable.
pub(crate) fn invalid(py: Python<'_>, message: impl Into<String>) -> PyErr {
    raise(py, Error::argument(message))
}

/// A shape that is not the expected one.
pub(crate) fn wrong_shape(py: Python<'_>, message: impl Into<String>) -> PyErr {
    raise(py, Error::new(ErrorKind::Invalid(Subject::Dimension), message))
}

/// Metadata that cannot be kept.
pub(crate) fn bad_metadata(py: Python<'_>, message: impl Into<String>) -> PyErr {
    raise(py, Error::new(ErrorKind::Invalid(Subject::Metadata), message))
}

/// `error`, raised from the Python exception that caused it.
pub(crate) fn caused_by(py: Python<'_>, error: PyErr, cause: PyErr) -> PyErr {
    error.set_cause(py, Some(cause));
    error
}

/// The name of an object's type, for messages.
pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().qualname().map_or_else(|_| "object of unknown type".into(), |name| name.to_string())
}
