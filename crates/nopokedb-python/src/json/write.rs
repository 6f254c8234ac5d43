//! Python objects to JSON text.
//!
//! What is taken: dicts (the outermost may be any mapping), lists, tuples (they come back as lists), str, bool, int in 64 bits, finite float,
//! None, subclasses of these, and NumPy scalars of these kinds by their `.item()`. Everything else is refused by name,
//! with the path of keys that leads to it: nothing is turned into a string quietly.
//!
//! Keys are str; in metadata also int, float, bool and None, which become the text that `json.dumps` makes of them, as they did
//! in 0.5. Two keys of one dict that become the same text are refused.
//!
//! Invariant: the text is canonical as [`nopokedb::Metadata`] wants it, so that the engine need not read it again.

use nopokedb::{MAX_DEPTH, MAX_METADATA_BYTES, Metadata};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple, PyType};

use crate::errors::{bad_metadata, caused_by, raise, type_name};

/// The metadata that a Python dict is. `row` is its place in a batch, for messages.
pub(crate) fn metadata_of(object: &Bound<'_, PyAny>, row: Option<usize>) -> PyResult<Metadata> {
    let py = object.py();
    let mut writer = Writer { out: Vec::with_capacity(128), only_str: false, unusual_keys: false };
    let copied;
    let dict = match object.cast::<PyDict>() {
        Ok(dict) => dict,
        Err(_) => {
            let Ok(mapping) = object.cast::<PyMapping>() else {
                let what = format!("must be a dict, got {}", type_name(object));
                return Err(Fault::new(what).into_error(py, row));
            };
            copied = PyDict::new(py);
            copied.update(mapping)?;
            &copied
        }
    };
    writer.dict(dict, 1).map_err(|fault| fault.into_error(py, row))?;
    let text = String::from_utf8(writer.out).map_err(|e| bad_metadata(py, format!("metadata is not text: {e}")))?;
    if writer.unusual_keys {
        return Metadata::from_json(&text).map_err(|e| raise(py, e));
    }
    Ok(Metadata::from_trusted(text.into_boxed_str()))
}

/// The JSON text of a dict that is a filter, or what is wrong with it.
pub(crate) fn filter_text(dict: &Bound<'_, PyDict>) -> Result<String, (String, Option<PyErr>)> {
    let mut writer = Writer { out: Vec::with_capacity(128), only_str: true, unusual_keys: false };
    match writer.dict(dict, 1) {
        Ok(()) => String::from_utf8(writer.out).map_err(|e| (format!("filter is not text: {e}"), None)),
        Err(fault) => Err((fault.sentence("filter"), fault.cause)),
    }
}

/// The text of a Python str.
pub(crate) fn text_of(string: &Bound<'_, PyString>) -> PyResult<String> {
    let bytes = string.encode_utf8()?;
    Ok(String::from_utf8_lossy(bytes.as_bytes()).into_owned())
}

/// What is wrong, and the path to it from the inside out: a good dict pays nothing for it.
struct Fault {
    path: Vec<Step>,
    what: String,
    cause: Option<PyErr>,
}

enum Step {
    Key(String),
    Index(usize),
}

type Checked = Result<(), Box<Fault>>;

impl Fault {
    fn new(what: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { path: Vec::new(), what: what.into(), cause: None })
    }

    fn because(what: impl Into<String>, cause: PyErr) -> Box<Fault> {
        Box::new(Fault { path: Vec::new(), what: what.into(), cause: Some(cause) })
    }

    fn under(mut self: Box<Self>, step: Step) -> Box<Self> {
        self.path.push(step);
        self
    }

    /// What is wrong, and where in `subject`.
    fn sentence(&self, subject: &str) -> String {
        let mut message = format!("{subject} ");
        if !self.path.is_empty() {
            message.push_str("key \"");
            for (i, step) in self.path.iter().rev().enumerate() {
                match step {
                    Step::Key(key) if i == 0 => message.push_str(key),
                    Step::Key(key) => message.extend([".", key]),
                    Step::Index(index) => message.push_str(&format!("[{index}]")),
                }
            }
            message.push_str("\" ");
        }
        message.push_str(&self.what);
        message
    }

    fn into_error(self, py: Python<'_>, row: Option<usize>) -> PyErr {
        let row = row.map_or_else(String::new, |row| format!("row {row}: "));
        let error = bad_metadata(py, row + &self.sentence("metadata"));
        match self.cause {
            Some(cause) => caused_by(py, error, cause),
            None => error,
        }
    }
}

struct Writer {
    out: Vec<u8>,
    /// Whether keys of other types are refused.
    only_str: bool,
    /// A key is no str, or of a subclass of str, whose own `__eq__` may have let the same text in twice: the engine checks.
    unusual_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> Checked {
        if let Ok(text) = value.cast::<PyString>() {
            self.string(text)
        } else if let Ok(flag) = value.cast::<PyBool>() {
            self.out.extend_from_slice(if flag.is_true() { b"true" } else { b"false" });
            Ok(())
        } else if let Ok(integer) = value.cast::<PyInt>() {
            self.integer(integer)
        } else if let Ok(float) = value.cast::<PyFloat>() {
            self.float(float.value())
        } else if value.is_none() {
            self.out.extend_from_slice(b"null");
            Ok(())
        } else if let Ok(dict) = value.cast::<PyDict>() {
            self.dict(dict, depth + 1)
        } else if let Ok(list) = value.cast::<PyList>() {
            self.array(list.iter(), depth + 1)
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            self.array(tuple.iter(), depth + 1)
        } else {
            self.scalar(value, depth)
        }
    }

    /// Also where the size is watched: a small dict of shared lists can stand for a huge text.
    fn enter(&self, depth: usize) -> Checked {
        if depth > MAX_DEPTH {
            return Err(Fault::new(format!("nests deeper than the limit of {MAX_DEPTH} levels, or contains itself")));
        }
        if self.out.len() > MAX_METADATA_BYTES {
            return Err(Fault::new(format!("exceeds the limit of {MAX_METADATA_BYTES} bytes (64 MiB)")));
        }
        Ok(())
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, depth: usize) -> Checked {
        self.enter(depth)?;
        self.out.push(b'{');
        for (i, (key, value)) in dict.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            let name = match key.cast::<PyString>() {
                Ok(name) => name.clone(),
                Err(_) => self.key(&key)?,
            };
            self.unusual_keys |= key.cast_exact::<PyString>().is_err();
            self.string(&name).map_err(|fault| Fault { what: format!("has a key that {}", fault.what), ..*fault })?;
            self.out.push(b':');
            self.value(&value, depth).map_err(|fault| fault.under(Step::Key(name.to_string_lossy().into_owned())))?;
        }
        self.out.push(b'}');
        self.enter(depth)
    }

    /// The text that `json.dumps` makes of a key that is no str.
    fn key<'py>(&self, key: &Bound<'py, PyAny>) -> Result<Bound<'py, PyString>, Box<Fault>> {
        let py = key.py();
        // Of an enum that is an int, too, the number.
        let plain = |of: Bound<'py, PyType>| of.call_method1("__repr__", (key,))?.cast_into().map_err(PyErr::from);
        let text = if self.only_str {
            None
        } else if let Ok(flag) = key.cast::<PyBool>() {
            Some(Ok(PyString::new(py, if flag.is_true() { "true" } else { "false" })))
        } else if key.is_none() {
            Some(Ok(PyString::new(py, "null")))
        } else if key.is_instance_of::<PyInt>() {
            Some(plain(py.get_type::<PyInt>()))
        } else if let Ok(float) = key.cast::<PyFloat>() {
            float.value().is_finite().then(|| plain(py.get_type::<PyFloat>()))
        } else {
            None
        };
        let keys =
            if self.only_str { "str" } else { "str, or int, float, bool or None, which become the text of them" };
        match text {
            Some(text) => text.map_err(|e| Fault::because("has a key that has no text", e)),
            None => {
                let what = format!("has the key {}, which is {}; keys must be {keys}", shown(key), a(&type_name(key)));
                Err(Fault::new(what))
            }
        }
    }

    fn array<'py>(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>, depth: usize) -> Checked {
        self.enter(depth)?;
        self.out.push(b'[');
        for (i, item) in items.enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.value(&item, depth).map_err(|fault| fault.under(Step::Index(i)))?;
        }
        self.out.push(b']');
        self.enter(depth)
    }

    fn string(&mut self, text: &Bound<'_, PyString>) -> Checked {
        let bytes = text.encode_utf8().map_err(|e| {
            Fault::because("holds half of a surrogate pair, which is no character and cannot be stored", e)
        })?;
        let text = std::str::from_utf8(bytes.as_bytes()).map_err(|e| Fault::new(e.to_string()))?;
        self.json(text)
    }

    fn integer(&mut self, integer: &Bound<'_, PyInt>) -> Checked {
        if let Ok(value) = integer.extract::<i64>() {
            return self.json(&value);
        }
        match integer.extract::<u64>() {
            Ok(value) => self.json(&value),
            Err(_) => {
                let what = format!("holds the integer {}, which does not fit in 64 bits", shown(integer));
                Err(Fault::new(what))
            }
        }
    }

    fn float(&mut self, value: f64) -> Checked {
        if value.is_finite() {
            return self.json(&value);
        }
        Err(Fault::new(format!("holds {value}, which JSON does not have; use None instead")))
    }

    /// A scalar or a string in serde_json's spelling, which is the canonical one.
    fn json<T: serde::Serialize + ?Sized>(&mut self, value: &T) -> Checked {
        serde_json::to_writer(&mut self.out, value).map_err(|e| Fault::new(e.to_string()))
    }

    /// NumPy's scalars by their exact Python value; nothing else.
    fn scalar(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> Checked {
        if is_numpy_scalar(value)
            && let Ok(item) = value.call_method0("item")
            && !item.is(value)
            && !is_numpy_scalar(&item)
        {
            return self.value(&item, depth);
        }
        let name = type_name(value);
        let hint = match name.as_str() {
            "ndarray" => "; call .tolist() on it",
            "datetime" | "date" | "time" => "; store its .isoformat() or its .timestamp()",
            "set" | "frozenset" => "; make it a list",
            "bytes" | "bytearray" => "; decode it to str",
            "Decimal" | "UUID" | "PosixPath" | "WindowsPath" => "; store str() of it",
            _ => "",
        };
        Err(Fault::new(format!("is {}, which is not a JSON value{hint}", a(&name))))
    }
}

fn is_numpy_scalar(value: &Bound<'_, PyAny>) -> bool {
    static GENERIC: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let generic = GENERIC.import(value.py(), "numpy", "generic");
    generic.and_then(|generic| value.is_instance(generic)).unwrap_or(false)
}

/// `a` or `an` before a word.
fn a(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
    format!("{article} {word}")
}

/// The `repr` of a value, cut to a length that fits a message.
fn shown(value: &Bound<'_, PyAny>) -> String {
    let text = value.repr().map_or_else(|_| "?".into(), |repr| repr.to_string_lossy().into_owned());
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}
