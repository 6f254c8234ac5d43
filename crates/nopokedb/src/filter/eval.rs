//! Does a record pass? Read from its JSON text in place; the rules are in the module above.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::ast::{Node, Scalar, Test, TestKind, integer_to_float};
use crate::metadata::view::{Json, Members, is_integer, text_of};

/// Whether `node` holds for `metadata`.
pub(super) fn holds(node: &Node, metadata: Members<'_>) -> bool {
    match node {
        Node::All(nodes) => nodes.iter().all(|node| holds(node, metadata)),
        Node::Any(nodes) => nodes.iter().any(|node| holds(node, metadata)),
        Node::Not(node) => !holds(node, metadata),
        Node::Test(test) => some_value(metadata, &test.path, &mut |value| test.kind.passes(value)),
    }
}

/// Whether `accepts` takes any value at `path`.
pub(crate) fn some_value(metadata: Members<'_>, path: &[String], accepts: &mut dyn FnMut(Json<'_>) -> bool) -> bool {
    some_below(Json::Object(metadata), path, accepts)
}

fn some_below(value: Json<'_>, path: &[String], accepts: &mut dyn FnMut(Json<'_>) -> bool) -> bool {
    let Some((key, path)) = path.split_first() else { return accepts(value) };
    match value {
        Json::Object(members) => members.get(key).is_some_and(|value| some_below(value, path, accepts)),
        Json::Array(mut items) => items.any(|item| match item {
            Json::Object(members) => members.get(key).is_some_and(|value| some_below(value, path, accepts)),
            _ => false,
        }),
        _ => false,
    }
}

impl TestKind {
    /// Whether a value at the path passes.
    fn passes(&self, value: Json<'_>) -> bool {
        match (self, value) {
            (TestKind::Exists, _) => true,
            (TestKind::NotNull, value) => !matches!(value, Json::Null),
            (TestKind::ContainsAny(list), value) => list.iter().any(|operand| contains(value, operand)),
            (TestKind::ContainsAll(list), value) => list.iter().all(|operand| contains(value, operand)),
            (_, Json::Array(mut items)) => items.any(|item| self.scalar_passes(item)),
            (_, value) => self.scalar_passes(value),
        }
    }

    fn scalar_passes(&self, value: Json<'_>) -> bool {
        match self {
            TestKind::Equal(operand) => compare(value, operand).is_some_and(Ordering::is_eq),
            TestKind::Ordered(order, operand) => compare(value, operand).is_some_and(|c| order.admits(c)),
            TestKind::Between(low, high) => {
                compare(value, low).is_some_and(Ordering::is_ge) && compare(value, high).is_some_and(Ordering::is_le)
            }
            TestKind::In(list) => scalar_of(value).is_some_and(|value| list.binary_search(&value).is_ok()),
            TestKind::StartsWith(prefix) => string_of(value).is_some_and(|text| text.starts_with(prefix.as_str())),
            TestKind::Like(like) => string_of(value).is_some_and(|text| like.matches(&text)),
            // Answered above, for whole values.
            TestKind::Exists | TestKind::NotNull | TestKind::ContainsAny(_) | TestKind::ContainsAll(_) => false,
        }
    }
}

impl Test {
    /// Whether the test holds for `metadata`.
    pub(crate) fn holds(&self, metadata: Members<'_>) -> bool {
        some_value(metadata, &self.path, &mut |value| self.kind.passes(value))
    }
}

/// An array has an equal element; a string has the substring.
fn contains(value: Json<'_>, operand: &Scalar) -> bool {
    match value {
        Json::Array(mut items) => items.any(|item| compare(item, operand).is_some_and(Ordering::is_eq)),
        Json::String(raw) => match operand {
            Scalar::String(part) => text_of(raw).contains(part.as_str()),
            _ => false,
        },
        _ => false,
    }
}

/// The order of `value` to `operand`, if they are of one kind.
fn compare(value: Json<'_>, operand: &Scalar) -> Option<Ordering> {
    match (value, operand) {
        (Json::Null, Scalar::Null) => Some(Ordering::Equal),
        (Json::Bool(a), Scalar::Bool(b)) => Some(a.cmp(b)),
        (Json::String(raw), Scalar::String(b)) => Some((*text_of(raw)).cmp(b.as_str())),
        (Json::Number(digits), Scalar::Integer(b)) => Some(match number_of(digits)? {
            Scalar::Float(a) => integer_to_float(*b, a).reverse(),
            a => a.cmp(operand),
        }),
        (Json::Number(digits), Scalar::Float(_)) => Some(number_of(digits)?.cmp(operand)),
        _ => None,
    }
}

pub(super) fn number_of(digits: &str) -> Option<Scalar> {
    if is_integer(digits) {
        return digits.parse().ok().map(Scalar::Integer);
    }
    digits.parse().ok().map(Scalar::Float)
}

fn string_of(value: Json<'_>) -> Option<Cow<'_, str>> {
    match value {
        Json::String(raw) => Some(text_of(raw)),
        _ => None,
    }
}

/// The value as an operand would be; arrays and objects are none.
pub(crate) fn scalar_of(value: Json<'_>) -> Option<Scalar> {
    match value {
        Json::Null => Some(Scalar::Null),
        Json::Bool(b) => Some(Scalar::Bool(b)),
        Json::Number(digits) => number_of(digits),
        Json::String(raw) => Some(Scalar::String(text_of(raw).into_owned())),
        Json::Array(_) | Json::Object(_) => None,
    }
}
