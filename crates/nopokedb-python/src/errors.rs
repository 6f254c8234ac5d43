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
    Exception("NoPokeDBError", &["Exception"], include_str!("docs/errors/NoPokeDBError.txt")),
    Exception("InvalidError", &["NoPokeDBError", "ValueError"], include_str!("docs/errors/InvalidError.txt")),
    Exception("DimensionError", &["NoPokeDBError", "ValueError"], include_str!("docs/errors/DimensionError.txt")),
    Exception("MetadataError", &["InvalidError"], include_str!("docs/errors/MetadataError.txt")),
    Exception("DuplicateIdError", &["InvalidError"], include_str!("docs/errors/DuplicateIdError.txt")),
    Exception("FilterError", &["InvalidError"], include_str!("docs/errors/FilterError.txt")),
    Exception("EmptyError", &["NoPokeDBError", "RuntimeError"], include_str!("docs/errors/EmptyError.txt")),
    Exception("LockedError", &["NoPokeDBError", "RuntimeError"], include_str!("docs/errors/LockedError.txt")),
    Exception("ClosedError", &["NoPokeDBError", "RuntimeError"], include_str!("docs/errors/ClosedError.txt")),
    Exception("ReadOnlyError", &["NoPokeDBError", "RuntimeError"], include_str!("docs/errors/ReadOnlyError.txt")),
    Exception("StorageError", &["NoPokeDBError", "OSError"], include_str!("docs/errors/StorageError.txt")),
    Exception("StorageFullError", &["NoPokeDBError", "OSError"], include_str!("docs/errors/StorageFullError.txt")),
    Exception("CorruptionError", &["NoPokeDBError", "RuntimeError"], include_str!("docs/errors/CorruptionError.txt")),
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
