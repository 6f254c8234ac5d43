//! The tree that every dialect becomes.
//!
//! Invariants:
//! 1. Two-valued: a test holds or does not; negation is complement. `$ne`, `$nin`, `$exists: false` and `$null: true` are
//!    `Not` of their counterparts and have no form of their own.
//! 2. Lists for `$in` are sorted and without repetition, so that membership is a binary search.

use std::cmp::Ordering;

use super::like::Like;
use super::{MAX_LIST, MAX_TEXT, invalid};
use crate::error::Result;

/// A filter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// Every one holds. Without any: everything matches.
    All(Vec<Node>),
    /// One holds. Without any: nothing matches.
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
}

/// Some value at `path` passes `kind`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Test {
    /// Keys from the outside in; never empty.
    pub(crate) path: Vec<String>,
    pub(crate) kind: TestKind,
}

/// What is asked of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TestKind {
    /// Any value at all.
    Exists,
    /// Any value but null.
    NotNull,
    Equal(Scalar),
    /// A number or string in this order to the operand, which is a number or a string.
    Ordered(Order, Scalar),
    /// Both ends included, both numbers or both strings.
    Between(Scalar, Scalar),
    /// Sorted, without repetition.
    In(Vec<Scalar>),
    ContainsAny(Vec<Scalar>),
    ContainsAll(Vec<Scalar>),
    StartsWith(String),
    Like(Like),
}

/// The four inequalities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Order {
    /// Whether `value` compared with the operand came out right.
    pub(crate) fn admits(self, compared: Ordering) -> bool {
        match self {
            Order::Greater => compared.is_gt(),
            Order::GreaterOrEqual => compared.is_ge(),
            Order::Less => compared.is_lt(),
            Order::LessOrEqual => compared.is_le(),
        }
    }
}

/// An operand: null, a bool, a number or a string.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Scalar {
    /// JSON's null.
    Null,
    /// A bool, which is not a number.
    Bool(bool),
    /// An integer of up to 64 bits, signed or not.
    Integer(i128),
    /// A float, not NaN.
    Float(f64),
    /// A string.
    String(String),
}

/// Equal is what a filter takes for equal: `2` and `2.0` are, `1` and `true` are not.
impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scalar {}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Within a kind, the order that filters see. Between kinds, some order, for sorting only.
impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Scalar::Bool(a), Scalar::Bool(b)) => a.cmp(b),
            (Scalar::Integer(a), Scalar::Integer(b)) => a.cmp(b),
            (Scalar::Float(a), Scalar::Float(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Scalar::Integer(a), Scalar::Float(b)) => integer_to_float(*a, *b),
            (Scalar::Float(a), Scalar::Integer(b)) => integer_to_float(*b, *a).reverse(),
            (Scalar::String(a), Scalar::String(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl Scalar {
    fn rank(&self) -> u8 {
        match self {
            Scalar::Null => 0,
            Scalar::Bool(_) => 1,
            Scalar::Integer(_) | Scalar::Float(_) => 2,
            Scalar::String(_) => 3,
        }
    }

    /// Whether the two can be compared.
    pub(crate) fn is_like(&self, other: &Scalar) -> bool {
        self.rank() == other.rank()
    }

    /// Whether values of this kind have an order.
    pub(crate) fn has_order(&self) -> bool {
        self.rank() >= 2
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        ["null", "a bool", "a number", "a string"][usize::from(self.rank())]
    }
}

/// Compares exactly, without rounding the integer.
pub(crate) fn integer_to_float(integer: i128, float: f64) -> Ordering {
    // Beyond these, truncating to an integer would saturate; no 64-bit integer is there.
    if float >= 1e30 {
        return Ordering::Less;
    }
    if float <= -1e30 {
        return Ordering::Greater;
    }
    #[allow(clippy::cast_possible_truncation)] // bounded just above
    let whole = float.trunc() as i128;
    integer.cmp(&whole).then_with(|| 0.0f64.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal))
}

impl Node {
    /// Depth of the nesting, and number of tests. Does not recurse: a built tree may be deep.
    pub(super) fn size(&self) -> (usize, usize) {
        let (mut depth, mut tests) = (0, 0);
        let mut level: Vec<&Node> = vec![self];
        while !level.is_empty() {
            depth += 1;
            let mut next = Vec::new();
            for node in level {
                match node {
                    Node::All(nodes) | Node::Any(nodes) => next.extend(nodes),
                    Node::Not(node) => next.push(&**node),
                    Node::Test(_) => tests += 1,
                }
            }
            level = next;
        }
        (depth - 1, tests)
    }

    /// Every test, in order; the tree is within the limits already.
    pub(crate) fn tests(&self) -> Vec<&Test> {
        match self {
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().flat_map(Node::tests).collect(),
            Node::Not(node) => node.tests(),
            Node::Test(test) => vec![test],
        }
    }

    pub(super) fn check_lists(&self) -> Result<()> {
        for test in self.tests() {
            let (list, text) = match &test.kind {
                TestKind::In(list) | TestKind::ContainsAny(list) | TestKind::ContainsAll(list) => (list.len(), 0),
                TestKind::StartsWith(text) => (0, text.len()),
                TestKind::Like(like) => (0, like.len()),
                _ => (0, 0),
            };
            let path = test.path.join(".");
            if list > MAX_LIST {
                return Err(invalid(format!("filter at {path}: a list of {list} values, the limit is {MAX_LIST}")));
            }
            if text > MAX_TEXT {
                return Err(invalid(format!("filter at {path}: a text of {text} bytes, the limit is {MAX_TEXT}")));
            }
        }
        Ok(())
    }

    /// The complement.
    pub(crate) fn negated(self) -> Node {
        match self {
            Node::Not(node) => *node,
            node => Node::Not(Box::new(node)),
        }
    }

    /// Both hold. Flat where it can be, so that long chains do not nest.
    pub(super) fn and(self, other: Node) -> Node {
        match (self, other) {
            (Node::All(mut nodes), Node::All(more)) => {
                nodes.extend(more);
                Node::All(nodes)
            }
            (Node::All(mut nodes), other) => {
                nodes.push(other);
                Node::All(nodes)
            }
            (first, other) => Node::All(vec![first, other]),
        }
    }

    /// One of both holds.
    pub(super) fn or(self, other: Node) -> Node {
        match (self, other) {
            (Node::Any(mut nodes), Node::Any(more)) => {
                nodes.extend(more);
                Node::Any(nodes)
            }
            (Node::Any(mut nodes), other) => {
                nodes.push(other);
                Node::Any(nodes)
            }
            (first, other) => Node::Any(vec![first, other]),
        }
    }
}

impl Test {
    /// About how many bytes the test takes.
    pub(super) fn bytes(&self) -> usize {
        let text = |scalar: &Scalar| match scalar {
            Scalar::String(text) => size_of::<Scalar>() + text.len(),
            _ => size_of::<Scalar>(),
        };
        let operands = match &self.kind {
            TestKind::In(list) | TestKind::ContainsAny(list) | TestKind::ContainsAll(list) => {
                list.iter().map(text).sum()
            }
            TestKind::Equal(one) | TestKind::Ordered(_, one) => text(one),
            TestKind::Between(low, high) => text(low) + text(high),
            TestKind::StartsWith(text) => text.len(),
            // A pattern is kept as its characters too.
            TestKind::Like(like) => 9 * like.len(),
            TestKind::Exists | TestKind::NotNull => 0,
        };
        size_of::<Test>() + self.path.iter().map(String::len).sum::<usize>() + operands
    }
}

impl TestKind {
    /// Membership in `list`.
    pub(super) fn in_list(mut list: Vec<Scalar>) -> TestKind {
        list.sort_unstable();
        list.dedup();
        TestKind::In(list)
    }
}

/// Splits a path at its dots; `\` takes the next character as it is. `None` if a key is empty.
pub(super) fn split_path(text: &str) -> Option<Vec<String>> {
    let mut keys = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, keys.last_mut()) {
            ('.', _) => keys.push(String::new()),
            ('\\', Some(key)) => key.push(chars.next()?),
            (c, Some(key)) => key.push(c),
            (_, None) => return None,
        }
    }
    keys.iter().all(|key| !key.is_empty()).then_some(keys)
}
