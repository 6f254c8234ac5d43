//! A record's metadata: a JSON object, kept as text.
//!
//! Invariants:
//! 1. The text is one JSON object without insignificant white space and with each string escaped the shortest way, so
//!    equal text is equal metadata. Key order and the spelling of numbers stay exactly as they were given: a number
//!    never goes through a float on its way to the disk and back.
//! 2. No object in it names a key twice, nothing nests deeper than [`MAX_DEPTH`], every integer fits in 64 bits, every
//!    float is finite, and the whole is at most [`MAX_METADATA_BYTES`] long.
//! 3. Text from [`Metadata::from_trusted`] keeps 1 and 2 by its caller's word. If it does not, reads give nulls or stop
//!    early; they never panic.

mod scan;
pub(crate) mod view;

use std::fmt;

use serde_json::{Map, Number, Value};

use crate::error::{Error, ErrorKind, Result, Subject};
use view::{Json, Members};

/// The deepest nesting, the object itself being 1.
pub const MAX_DEPTH: usize = 128;

/// The longest metadata of one record, in bytes of its text.
pub const MAX_METADATA_BYTES: usize = 64 << 20;

/// A JSON object, kept as text: what was put in comes out, number for number and key for key, in the same order.
///
/// ```
/// use nopokedb::Metadata;
/// let book = Metadata::from_json(r#"{ "title": "Emma", "year": 1815, "price": 12.50 }"#)?;
/// assert_eq!(book.as_json(), r#"{"title":"Emma","year":1815,"price":12.50}"#);
/// assert_eq!(book.to_map()["year"], 1815);
/// assert!(Metadata::from_json("[1, 2]").is_err());
/// # Ok::<(), nopokedb::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Metadata {
    text: Box<str>,
}

impl Metadata {
    /// Checks `text` and keeps it. Refused, with the key named: anything but an object, a key given twice, an integer
    /// that does not fit in 64 bits, a float too large to be finite, NaN, lone surrogates, nesting deeper than
    /// [`MAX_DEPTH`] and text longer than [`MAX_METADATA_BYTES`].
    pub fn from_json(text: &str) -> Result<Metadata> {
        if text.len() > MAX_METADATA_BYTES {
            return Err(invalid(format!(
                "metadata of {} bytes exceeds the limit of {MAX_METADATA_BYTES} bytes (64 MiB)",
                text.len()
            )));
        }
        match scan::canonical(text) {
            Ok(text) => Ok(Metadata { text }),
            Err(fault) => Err(invalid(fault)),
        }
    }

    /// Keeps the object `map`, in its order.
    pub fn from_map(map: &Map<String, Value>) -> Result<Metadata> {
        let text = serde_json::to_string(map).map_err(|e| invalid(format!("metadata is not JSON: {e}")))?;
        Self::from_json(&text)
    }

    /// Keeps `text` unread. For callers that wrote it with a JSON writer a moment ago (the Python binding, which walks a
    /// dict itself) or read it back from a checksummed frame: they vouch for invariants 1 and 2 of this module.
    #[doc(hidden)]
    pub fn from_trusted(text: Box<str>) -> Metadata {
        debug_assert!(
            scan::canonical(&text).is_ok_and(|t| t == text),
            "trusted metadata is not canonical: {text:.200}"
        );
        Metadata { text }
    }

    /// Keeps `text` as it was stored: read back from a checksummed frame, or from SQLite.
    pub(crate) fn from_stored(text: Box<str>) -> Metadata {
        Metadata { text }
    }

    /// The object as JSON text.
    pub fn as_json(&self) -> &str {
        &self.text
    }

    /// The text, without copying it.
    pub fn into_json(self) -> Box<str> {
        self.text
    }

    /// The object as a map. Floats are read to the nearest `f64`; [`Metadata::as_json`] has their exact digits.
    pub fn to_map(&self) -> Map<String, Value> {
        match Json::of(&self.text) {
            Json::Object(members) => map_of(members, 1),
            _ => Map::new(),
        }
    }

    /// This with the members of `set`: in the place of its own of the same names, or at the end; and without those that
    /// `remove` names.
    pub(crate) fn merged(&self, set: &Metadata, remove: &[String]) -> Result<Metadata> {
        // Invariant 1: of two checked texts, names are equal if and only if they are spelled alike.
        let mut members: Vec<(&str, &str)> = self.members().texts().collect();
        members.retain(|(name, _)| !remove.iter().any(|gone| view::text_of(name) == gone.as_str()));
        for (name, value) in set.members().texts() {
            match members.iter_mut().find(|(old, _)| *old == name) {
                Some(member) => member.1 = value,
                None => members.push((name, value)),
            }
        }
        let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let text = format!("{{{}}}", members.join(","));
        if text.len() > MAX_METADATA_BYTES {
            return Err(invalid(format!(
                "metadata would have {} bytes; the limit is {MAX_METADATA_BYTES}",
                text.len()
            )));
        }
        Ok(Metadata { text: text.into() })
    }

    /// The members, read from the text without building anything.
    pub(crate) fn members(&self) -> Members<'_> {
        match Json::of(&self.text) {
            Json::Object(members) => members,
            _ => Members::empty(),
        }
    }
}

impl fmt::Display for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metadata({})", self.text)
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Metadata { text: "{}".into() }
    }
}

fn invalid(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid(Subject::Metadata), message.to_string())
}

fn map_of(members: Members<'_>, depth: usize) -> Map<String, Value> {
    members.map(|(key, value)| (view::text_of(key).into_owned(), value_of(value, depth))).collect()
}

/// Builds the value. `depth` bounds the recursion even for text nobody checked.
fn value_of(json: Json<'_>, depth: usize) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(digits) => number_of(digits).map_or(Value::Null, Value::Number),
        Json::String(raw) => Value::String(view::text_of(raw).into_owned()),
        Json::Array(_) | Json::Object(_) if depth >= MAX_DEPTH => Value::Null,
        Json::Array(items) => items.map(|item| value_of(item, depth + 1)).collect(),
        Json::Object(members) => Value::Object(map_of(members, depth + 1)),
    }
}

fn number_of(digits: &str) -> Option<Number> {
    if view::is_integer(digits) && digits != "-0" {
        return digits.parse::<i64>().map(Number::from).or_else(|_| digits.parse::<u64>().map(Number::from)).ok();
    }
    digits.parse::<f64>().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests;
