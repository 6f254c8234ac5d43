//! The dict dialect, known from Chroma and MongoDB: `{"year": {"$gte": 2020}, "$or": [{"lang": "en"}, {"tags": "x"}]}`.

use std::fmt;

use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};
use crate::filter::ast::{Node, Order, Scalar, Test, TestKind, split_path};
use crate::filter::like::Like;
use crate::filter::{MAX_DEPTH, invalid};

/// Operators under a key. The message for an unknown one lists them.
const OPERATORS: &str = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $between, $exists, $null, $contains, $contains_any, \
                         $contains_all, $startswith, $like, $not";
/// Operators in place of a key.
const CONNECTIVES: &str = "$and, $or, $not";

/// Where in the dict we are, for messages: `filter at $or[1].year.$gte`. Linked through the stack, so it costs nothing.
#[derive(Clone, Copy)]
struct Place<'a> {
    outer: Option<&'a Place<'a>>,
    step: Step<'a>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Top,
    Key(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    const TOP: Place<'static> = Place { outer: None, step: Step::Top, depth: 0 };

    fn key(&'a self, key: &'a str) -> Place<'a> {
        Place { outer: Some(self), step: Step::Key(key), depth: self.depth + 1 }
    }

    fn index(&'a self, index: usize) -> Place<'a> {
        Place { outer: Some(self), step: Step::Index(index), depth: self.depth + 1 }
    }

    fn error(&self, message: impl fmt::Display) -> Error {
        invalid(format!("filter{self}: {message}"))
    }

    /// `expected`, and what is there instead.
    fn expected(&self, expected: &str, found: &Value) -> Error {
        self.error(format!("expected {expected}, got {}", describe(found)))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(outer) = self.outer else { return Ok(()) };
        outer.fmt(f)?;
        let first = outer.outer.is_none();
        match self.step {
            Step::Top => Ok(()),
            Step::Key(key) if first => write!(f, " at {key:.100}"),
            Step::Key(key) => write!(f, ".{key:.100}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => format!("the bool {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the string {s:.60?}"),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "a dict".into(),
    }
}

/// Reads a whole filter.
pub(in crate::filter) fn parse(value: &Value) -> Result<Node> {
    filter(value, &Place::TOP)
}

fn filter(value: &Value, place: &Place<'_>) -> Result<Node> {
    // Places are nested twice per level at most: `$and` and its index.
    if place.depth > 3 * MAX_DEPTH {
        return Err(invalid(format!("filter: nests too deep, the limit is {MAX_DEPTH} levels")));
    }
    let Value::Object(map) = value else {
        return Err(place.expected("a dict like {\"year\": {\"$gte\": 2020}}", value));
    };
    joined(map, |key, value| match key.as_str() {
        "$and" => Ok(Node::All(filters(value, &place.key(key))?)),
        "$or" => Ok(Node::Any(filters(value, &place.key(key))?)),
        "$not" => Ok(filter(value, &place.key(key))?.negated()),
        _ if key.starts_with('$') => {
            let advice = format!("valid here are {CONNECTIVES}, or a key; a key that begins with $ is written \\$");
            Err(place.error(format!("unknown operator {key:?}; {advice}")))
        }
        _ => field(key, value, &place.key(key)),
    })
}

/// The tests of all members, joined by "and".
fn joined(map: &Map<String, Value>, mut node: impl FnMut(&String, &Value) -> Result<Node>) -> Result<Node> {
    let mut nodes = map.iter().map(|(key, value)| node(key, value)).collect::<Result<Vec<Node>>>()?;
    Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
}

fn filters(value: &Value, place: &Place<'_>) -> Result<Vec<Node>> {
    match value {
        Value::Array(list) if !list.is_empty() => {
            list.iter().enumerate().map(|(i, value)| filter(value, &place.index(i))).collect()
        }
        _ => Err(place.expected("a list of at least one filter", value)),
    }
}

fn field(key: &str, value: &Value, place: &Place<'_>) -> Result<Node> {
    let path = split_path(key).ok_or_else(|| {
        let advice = "keys are joined by single dots, and a dot in a key is written \\.";
        place.error(format!("the field {key:.100?} has an empty key, which no filter can ask about; {advice}"))
    })?;
    match value {
        Value::Object(operators) if operators.is_empty() => {
            Err(place.error(format!("no operator; valid operators are {OPERATORS}")))
        }
        Value::Object(operators) => tests(&path, operators, place),
        Value::Array(_) => {
            Err(place.error("a list is not a value to compare with; use $in, $contains_any or $contains_all"))
        }
        _ => Ok(test(&path, TestKind::Equal(scalar(value, place)?))),
    }
}

/// The operators under one key.
fn tests(path: &[String], operators: &Map<String, Value>, place: &Place<'_>) -> Result<Node> {
    if place.depth > 3 * MAX_DEPTH {
        return Err(invalid(format!("filter: nests too deep, the limit is {MAX_DEPTH} levels")));
    }
    joined(operators, |operator, value| {
        let place = place.key(operator);
        match operator.as_str() {
            "$not" => match value {
                Value::Object(operators) if !operators.is_empty() => Ok(tests(path, operators, &place)?.negated()),
                _ => Err(place.expected("a dict of operators like {\"$gt\": 5}", value)),
            },
            _ => operation(path, operator, value, &place),
        }
    })
}

fn operation(path: &[String], operator: &str, value: &Value, place: &Place<'_>) -> Result<Node> {
    let kind = match operator {
        "$eq" | "$ne" => TestKind::Equal(scalar(value, place)?),
        "$gt" => TestKind::Ordered(Order::Greater, ordered(value, place)?),
        "$gte" => TestKind::Ordered(Order::GreaterOrEqual, ordered(value, place)?),
        "$lt" => TestKind::Ordered(Order::Less, ordered(value, place)?),
        "$lte" => TestKind::Ordered(Order::LessOrEqual, ordered(value, place)?),
        "$in" | "$nin" => TestKind::in_list(scalars(value, place)?),
        "$between" => between(value, place)?,
        "$exists" => TestKind::Exists,
        "$null" => TestKind::NotNull,
        "$contains" => TestKind::ContainsAny(vec![scalar(value, place)?]),
        "$contains_any" => TestKind::ContainsAny(scalars(value, place)?),
        "$contains_all" => TestKind::ContainsAll(scalars(value, place)?),
        "$startswith" => TestKind::StartsWith(string(value, place)?.to_owned()),
        "$like" => TestKind::Like(
            Like::new(string(value, place)?)
                .ok_or_else(|| place.error("the pattern ends in a \\ that escapes nothing"))?,
        ),
        _ => return Err(place.error(format!("unknown operator {operator:?}; valid operators are {OPERATORS}"))),
    };
    let node = test(path, kind);
    let negated = match operator {
        "$ne" | "$nin" => true,
        "$exists" => !boolean(value, place)?,
        "$null" => boolean(value, place)?,
        _ => false,
    };
    Ok(if negated { node.negated() } else { node })
}

fn test(path: &[String], kind: TestKind) -> Node {
    Node::Test(Test { path: path.to_vec(), kind })
}

fn between(value: &Value, place: &Place<'_>) -> Result<TestKind> {
    let list = value.as_array().filter(|list| list.len() == 2);
    let Some([low, high]) = list.map(Vec::as_slice) else { return Err(place.expected("[low, high]", value)) };
    let (low, high) = (ordered(low, &place.index(0))?, ordered(high, &place.index(1))?);
    if !low.is_like(&high) {
        return Err(place.error(format!("low is {}, high is {}; both must be of one kind", low.kind(), high.kind())));
    }
    Ok(TestKind::Between(low, high))
}

fn scalar(value: &Value, place: &Place<'_>) -> Result<Scalar> {
    match value {
        Value::Null => Ok(Scalar::Null),
        Value::Bool(b) => Ok(Scalar::Bool(*b)),
        Value::Number(n) => number(n).ok_or_else(|| place.expected("a finite number", value)),
        Value::String(s) => Ok(Scalar::String(s.clone())),
        Value::Array(_) | Value::Object(_) => Err(place.expected("a string, a number, a bool or null", value)),
    }
}

fn number(n: &Number) -> Option<Scalar> {
    let integer = n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
    integer.map(Scalar::Integer).or_else(|| n.as_f64().map(Scalar::Float))
}

fn ordered(value: &Value, place: &Place<'_>) -> Result<Scalar> {
    let scalar = scalar(value, place)?;
    if scalar.has_order() { Ok(scalar) } else { Err(place.expected("a number or a string", value)) }
}

fn scalars(value: &Value, place: &Place<'_>) -> Result<Vec<Scalar>> {
    match value {
        Value::Array(list) => list.iter().enumerate().map(|(i, value)| scalar(value, &place.index(i))).collect(),
        _ => Err(place.expected("a list", value)),
    }
}

fn string<'v>(value: &'v Value, place: &Place<'_>) -> Result<&'v str> {
    value.as_str().ok_or_else(|| place.expected("a string", value))
}

fn boolean(value: &Value, place: &Place<'_>) -> Result<bool> {
    value.as_bool().ok_or_else(|| place.expected("true or false", value))
}
