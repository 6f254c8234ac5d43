//! What callers give as vectors, brought to float32 rows.
//!
//! Invariants:
//! 1. Only numbers become numbers: arrays of bool, complex, object, str or dates are refused, not interpreted.
//! 2. A C-contiguous float32 batch is borrowed, not copied. Anything else costs one float32 copy, made by NumPy.
//! 3. One vector is copied, so that its caller may change the array while the engine works.
//!
//! NumPy is imported when the first vector comes, not when the package is imported.

use nopokedb::Collection;
use numpy::{PyArrayDescrMethods, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple, PyType};

use crate::errors::{caused_by, invalid, raise, type_name, wrong_shape};

/// Rows of float32, borrowed from a NumPy array for as long as this lives.
pub(crate) struct Rows<'py> {
    array: PyReadonlyArrayDyn<'py, f32>,
}

impl Rows<'_> {
    /// All rows, one after the other.
    pub(crate) fn as_slice(&self) -> &[f32] {
        // `borrow` admits only aligned C-contiguous arrays; the empty answer would be refused as a wrong length.
        self.array.as_slice().unwrap_or_default()
    }
}

/// One vector of shape `(dim,)` for a collection, copied.
pub(crate) fn one(object: &Bound<'_, PyAny>, of: &Collection) -> PyResult<Vec<f32>> {
    let (py, dim) = (object.py(), of.dim());
    let array = as_array(object, "a vector")?;
    match array.shape() {
        [n] if *n == dim => {}
        [n] => return Err(raise(py, of.wrong_dimension(*n))),
        shape => {
            let hint = if shape.len() == 2 { "; for several vectors there are add_many and query_many" } else { "" };
            let message = format!("expected one vector of shape ({dim},), got shape {}{hint}", Shape(shape));
            return Err(wrong_shape(py, message));
        }
    }
    Ok(Rows { array: as_float32(&array)? }.as_slice().to_vec())
}

/// Vectors of shape `(n, dim)` for a collection.
pub(crate) fn many<'py>(object: &Bound<'py, PyAny>, of: &Collection) -> PyResult<Rows<'py>> {
    let (py, dim) = (object.py(), of.dim());
    let array = if object.hasattr(intern!(py, "__next__"))? {
        as_array(&py.get_type::<PyList>().call1((object,))?, "vectors")
    } else {
        as_array(object, "vectors")
    };
    let array = array.map_err(|error| ragged(object, dim).unwrap_or(error))?;
    match array.shape() {
        [_, n] if *n == dim => {}
        // What an empty list becomes.
        [0] => {}
        [_, n] => return Err(raise(py, of.wrong_dimension(*n))),
        shape => {
            let hint = if shape.len() == 1 { "; for one vector there are add and query" } else { "" };
            let message = format!("expected vectors of shape (n, {dim}), got shape {}{hint}", Shape(shape));
            return Err(wrong_shape(py, message));
        }
    }
    Ok(Rows { array: as_float32(&array)? })
}

/// The object as a NumPy array of whatever dtype.
fn as_array<'py>(object: &Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyUntypedArray>> {
    static ASARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = object.py();
    if let Ok(array) = object.cast::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    if object.is_instance_of::<PyString>() {
        let message = format!("{what} must be numbers, got a str; make a vector of the text with your embedding model");
        return Err(invalid(py, message));
    }
    if object.is_instance_of::<PyBytes>() {
        let message = format!("{what} must be numbers, got bytes; read them with numpy.frombuffer(..., numpy.float32)");
        return Err(invalid(py, message));
    }
    let asarray = ASARRAY.get_or_try_init(py, || py.import("numpy")?.getattr("asarray").map(Bound::unbind))?;
    let array = asarray.bind(py).call1((object,)).map_err(|cause| {
        let message =
            format!("{what} must be an array or a list of numbers; NumPy cannot make one of {}", shown(object));
        caused_by(py, invalid(py, message), cause)
    })?;
    Ok(array.cast_into::<PyUntypedArray>()?)
}

/// The array as aligned, C-contiguous float32: itself if it is that, else a copy.
fn as_float32<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    let py = array.py();
    if let Some(borrowed) = borrow(array) {
        return Ok(borrowed);
    }
    let dtype = array.dtype();
    if !matches!(dtype.kind(), b'f' | b'i' | b'u') {
        return Err(invalid(py, format!("vectors must hold numbers, got an array of dtype {dtype}")));
    }
    static FLOAT32: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let float32 = FLOAT32.import(py, "numpy", "float32")?;
    let options = PyDict::new(py);
    options.set_item(intern!(py, "order"), "C")?;
    let copied = array.call_method(intern!(py, "astype"), (float32,), Some(&options))?;
    borrow(copied.cast::<PyUntypedArray>()?)
        .ok_or_else(|| invalid(py, format!("NumPy made no float32 array of dtype {dtype}")))
}

/// A borrow of the array's memory, if it is float32 in the layout the engine reads.
fn borrow<'py>(array: &Bound<'py, PyUntypedArray>) -> Option<PyReadonlyArrayDyn<'py, f32>> {
    // Fortran order counts as contiguous for `as_slice`, so C order is asked for by name.
    if !array.is_c_contiguous() || !array.is_aligned() {
        return None;
    }
    array.cast::<numpy::PyArrayDyn<f32>>().ok()?.try_readonly().ok()
}

/// The first row of a list of lists that has not `dim` numbers, as an error: it says more than NumPy does.
fn ragged(object: &Bound<'_, PyAny>, dim: usize) -> Option<PyErr> {
    if !object.is_instance_of::<PyList>() && !object.is_instance_of::<PyTuple>() {
        return None;
    }
    for (row, item) in object.try_iter().ok()?.enumerate() {
        match item.ok()?.len() {
            Ok(n) if n == dim => {}
            Ok(n) => {
                let message = format!("row {row} has {n} numbers, expected a vector of dimension {dim}");
                return Some(wrong_shape(object.py(), message));
            }
            Err(_) => return None,
        }
    }
    None
}

fn shown(object: &Bound<'_, PyAny>) -> String {
    format!("this {}", type_name(object))
}

/// A shape as Python writes it.
struct Shape<'a>(&'a [usize]);

impl std::fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [n] => write!(f, "({n},)"),
            shape => {
                let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
                write!(f, "({})", sizes.join(", "))
            }
        }
    }
}
