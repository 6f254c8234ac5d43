//! Filters written in Rust: `Filter::field("year").gte(2020) & !Filter::field("lang").eq("en")`.

use std::ops::{BitAnd, BitOr, Not};

use super::Filter;
use super::ast::{Node, Order, Scalar, Test, TestKind, split_path};
use super::like::Like;

/// A path, about to be tested.
#[derive(Clone, Debug)]
pub struct Field {
    /// `None` if there is no such path (an empty key): nothing is ever there.
    path: Option<Vec<String>>,
}

impl Filter {
    /// The values at `path`: keys joined by dots, as in `"author.name"`; a dot in a key is `\.`.
    pub fn field(path: &str) -> Field {
        Field { path: split_path(path) }
    }

    /// Matches everything.
    pub fn everything() -> Filter {
        Filter { node: Node::All(Vec::new()) }
    }
}

impl Field {
    /// `$eq`: some value equals `operand`.
    pub fn eq(self, operand: impl Into<Scalar>) -> Filter {
        self.test(TestKind::Equal(operand.into()))
    }

    /// `$ne`: no value equals `operand`; holds where there is none.
    pub fn ne(self, operand: impl Into<Scalar>) -> Filter {
        !self.eq(operand)
    }

    /// `$gt`: some value is greater than the number or string `operand`.
    pub fn gt(self, operand: impl Into<Scalar>) -> Filter {
        self.test(TestKind::Ordered(Order::Greater, operand.into()))
    }

    /// `$gte`: some value is at least `operand`.
    pub fn gte(self, operand: impl Into<Scalar>) -> Filter {
        self.test(TestKind::Ordered(Order::GreaterOrEqual, operand.into()))
    }

    /// `$lt`: some value is less than `operand`.
    pub fn lt(self, operand: impl Into<Scalar>) -> Filter {
        self.test(TestKind::Ordered(Order::Less, operand.into()))
    }

    /// `$lte`: some value is at most `operand`.
    pub fn lte(self, operand: impl Into<Scalar>) -> Filter {
        self.test(TestKind::Ordered(Order::LessOrEqual, operand.into()))
    }

    /// `$between`: some value is at least `low` and at most `high`.
    pub fn between(self, low: impl Into<Scalar>, high: impl Into<Scalar>) -> Filter {
        self.test(TestKind::Between(low.into(), high.into()))
    }

    /// `$in`: some value equals one of `list`.
    pub fn is_in<S: Into<Scalar>>(self, list: impl IntoIterator<Item = S>) -> Filter {
        self.test(TestKind::in_list(scalars(list)))
    }

    /// `$contains`: an array has an equal element, or a string the substring.
    pub fn contains(self, operand: impl Into<Scalar>) -> Filter {
        self.contains_any([operand])
    }

    /// `$contains_any`: one of `list` is contained.
    pub fn contains_any<S: Into<Scalar>>(self, list: impl IntoIterator<Item = S>) -> Filter {
        self.test(TestKind::ContainsAny(scalars(list)))
    }

    /// `$contains_all`: each of `list` is contained.
    pub fn contains_all<S: Into<Scalar>>(self, list: impl IntoIterator<Item = S>) -> Filter {
        self.test(TestKind::ContainsAll(scalars(list)))
    }

    /// `$startswith`: some string begins with `prefix`.
    pub fn starts_with(self, prefix: impl Into<String>) -> Filter {
        self.test(TestKind::StartsWith(prefix.into()))
    }

    /// `$like`: some string fits the pattern. One that ends in a lone `\` fits nothing.
    pub fn like(self, pattern: &str) -> Filter {
        match Like::new(pattern) {
            Some(like) => self.test(TestKind::Like(like)),
            None => nothing(),
        }
    }

    /// `$exists`: there is a value, be it null.
    pub fn exists(self) -> Filter {
        self.test(TestKind::Exists)
    }

    /// `$null`: there is no value but null.
    pub fn is_null(self) -> Filter {
        !self.test(TestKind::NotNull)
    }

    fn test(self, kind: TestKind) -> Filter {
        let has_nan = match &kind {
            TestKind::Equal(a) | TestKind::Ordered(_, a) => is_nan(a),
            TestKind::Between(a, b) => is_nan(a) || is_nan(b),
            _ => false,
        };
        match self.path {
            Some(path) if !has_nan => Filter { node: Node::Test(Test { path, kind }) },
            // NaN compares with nothing, and nothing is at a path that cannot be.
            _ => nothing(),
        }
    }
}

fn nothing() -> Filter {
    Filter { node: Node::Any(Vec::new()) }
}

fn scalars<S: Into<Scalar>>(list: impl IntoIterator<Item = S>) -> Vec<Scalar> {
    list.into_iter().map(Into::into).filter(|s| !is_nan(s)).collect()
}

fn is_nan(scalar: &Scalar) -> bool {
    matches!(scalar, Scalar::Float(f) if f.is_nan())
}

impl BitAnd for Filter {
    type Output = Filter;

    fn bitand(self, other: Filter) -> Filter {
        Filter { node: self.node.and(other.node) }
    }
}

impl BitOr for Filter {
    type Output = Filter;

    fn bitor(self, other: Filter) -> Filter {
        Filter { node: self.node.or(other.node) }
    }
}

impl Not for Filter {
    type Output = Filter;

    fn not(self) -> Filter {
        Filter { node: self.node.negated() }
    }
}

impl From<bool> for Scalar {
    fn from(value: bool) -> Scalar {
        Scalar::Bool(value)
    }
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Scalar {
        Scalar::Float(value)
    }
}

impl From<&str> for Scalar {
    fn from(value: &str) -> Scalar {
        Scalar::String(value.to_owned())
    }
}

impl From<String> for Scalar {
    fn from(value: String) -> Scalar {
        Scalar::String(value)
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Scalar {
            fn from(value: $integer) -> Scalar {
                Scalar::Integer(value.into())
            }
        }
    )*};
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64);

/// `None` is null.
impl<S: Into<Scalar>> From<Option<S>> for Scalar {
    fn from(value: Option<S>) -> Scalar {
        value.map_or(Scalar::Null, Into::into)
    }
}
