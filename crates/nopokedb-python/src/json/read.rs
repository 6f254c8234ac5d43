//! JSON text to Python objects, in one pass.
//!
//! Invariants:
//! 1. Integers become int, numbers with a point or an exponent become the nearest float: nothing else touches them.
//! 2. The text was checked when it was stored and is checksummed on disk. If it is not JSON after all, the answer is
//!    `CorruptionError`, never a panic.

use nopokedb::{Error, ErrorKind, MAX_DEPTH, Metadata};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyList, PyString};

use crate::errors::raise;

/// Keys remembered by one reader. Rows of one answer mostly share their few keys.
const REMEMBERED_KEYS: usize = 24;

/// Builds the dicts of one answer. Keeps the key strings it has made, so that equal keys are one object, hashed once.
pub(crate) struct Reader<'py> {
    py: Python<'py>,
    keys: Vec<(Box<str>, Bound<'py, PyString>)>,
}

impl<'py> Reader<'py> {
    pub(crate) fn new(py: Python<'py>) -> Self {
        Reader { py, keys: Vec::new() }
    }

    /// The dict that `metadata` is, or `None`.
    pub(crate) fn dict(&mut self, metadata: Option<&Metadata>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(metadata) = metadata else { return Ok(None) };
        let mut cursor = Cursor { text: metadata.as_json(), at: 0, reader: self };
        cursor.value(0).map(Some)
    }

    fn key(&mut self, text: &str) -> Bound<'py, PyString> {
        if let Some((_, known)) = self.keys.iter().find(|(known, _)| **known == *text) {
            return known.clone();
        }
        let made = PyString::new(self.py, text);
        if self.keys.len() < REMEMBERED_KEYS {
            self.keys.push((text.into(), made.clone()));
        }
        made
    }
}

struct Cursor<'a, 'r, 'py> {
    text: &'a str,
    at: usize,
    reader: &'r mut Reader<'py>,
}

impl<'a, 'py> Cursor<'a, '_, 'py> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn value(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let py = self.reader.py;
        match self.peek() {
            Some(b'"') => match self.raw_string()? {
                (raw, false) => Ok(PyString::new(py, raw).into_any()),
                (_, true) => Ok(PyString::new(py, &self.unescaped()?).into_any()),
            },
            Some(b'{') if depth < MAX_DEPTH => self.object(depth + 1),
            Some(b'[') if depth < MAX_DEPTH => self.array(depth + 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true").map(|()| PyBool::new(py, true).to_owned().into_any()),
            Some(b'f') => self.literal("false").map(|()| PyBool::new(py, false).to_owned().into_any()),
            Some(b'n') => self.literal("null").map(|()| py.None().into_bound(py)),
            _ => Err(self.not_json()),
        }
    }

    fn literal(&mut self, word: &str) -> PyResult<()> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.not_json());
        }
        self.at += word.len();
        Ok(())
    }

    fn object(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let dict = PyDict::new(self.reader.py);
        self.at += 1;
        if self.closes(b'}') {
            return Ok(dict.into_any());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.not_json());
            }
            let key = match self.raw_string()? {
                (raw, false) => self.reader.key(raw),
                (_, true) => PyString::new(self.reader.py, &self.unescaped()?),
            };
            self.literal(":")?;
            dict.set_item(key, self.value(depth)?)?;
            if self.closes(b'}') {
                return Ok(dict.into_any());
            }
            self.literal(",")?;
        }
    }

    fn array(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let mut items = Vec::new();
        self.at += 1;
        if self.closes(b']') {
            return Ok(PyList::empty(self.reader.py).into_any());
        }
        loop {
            items.push(self.value(depth)?);
            if self.closes(b']') {
                return Ok(PyList::new(self.reader.py, items)?.into_any());
            }
            self.literal(",")?;
        }
    }

    /// Past `bracket`, if it is next.
    fn closes(&mut self, bracket: u8) -> bool {
        let here = self.peek() == Some(bracket);
        self.at += usize::from(here);
        here
    }

    fn number(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        let digits = &rest[..end.unwrap_or(rest.len())];
        let py = self.reader.py;
        let integer = !digits.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) && digits != "-0";
        let number = if !integer {
            digits.parse::<f64>().ok().map(|value| PyFloat::new(py, value).into_any())
        } else if let Ok(value) = digits.parse::<i64>() {
            Some(value.into_pyobject(py)?.into_any())
        } else {
            digits.parse::<u64>().ok().map(|value| value.into_pyobject(py)).transpose()?.map(Bound::into_any)
        };
        let number = number.ok_or_else(|| self.not_json())?;
        self.at += digits.len();
        Ok(number)
    }

    /// The string at the cursor: its contents if it has no escape, with the cursor behind it; else the cursor stays.
    fn raw_string(&mut self) -> PyResult<(&'a str, bool)> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes().get(start..).unwrap_or_default();
        match bytes.iter().position(|&b| b == b'"' || b == b'\\') {
            Some(len) if bytes[len] == b'"' => {
                self.at = start + len + 1;
                Ok((&self.text[start..start + len], false))
            }
            Some(_) => Ok(("", true)),
            None => Err(self.not_json()),
        }
    }

    /// The string at the cursor, whose escapes are resolved by serde_json.
    fn unescaped(&mut self) -> PyResult<String> {
        let mut strings = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter::<String>();
        match strings.next() {
            Some(Ok(text)) => {
                self.at += strings.byte_offset();
                Ok(text)
            }
            _ => Err(self.not_json()),
        }
    }

    #[cold]
    fn not_json(&self) -> PyErr {
        let what = format!("stored metadata is not JSON at byte {}: {:.80}", self.at, self.text);
        raise(self.reader.py, Error::new(ErrorKind::Corruption, what))
    }
}
