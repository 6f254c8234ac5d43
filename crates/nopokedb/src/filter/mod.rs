//! Filters over metadata: one tree, written as a dict, as a string, or in Rust.
//!
//! What a filter means, whichever way it is written:
//! 1. A test asks about the values at a path. `"a.b"` is the member `b` of the object `a`; where `a` is an array, it is the
//!    members `b` of the objects in it. A dot or a leading `$` that belongs to a key is written `\.` and `\$`.
//! 2. A test holds if it holds for any value at the path, and where that value is an array, for any of its elements
//!    (elements that are arrays or objects themselves match nothing). So `{"tags": "x"}` finds `"tags": ["x", "y"]`.
//! 3. A path that leads nowhere has no value, so no test holds for it. `$ne`, `$nin` and `$not` are exact complements of
//!    `$eq`, `$in` and what they negate: they hold for records without the key. Add `$exists` to leave those out.
//! 4. Values compare within their kind only: null, bool, number, string. `1`, `true` and `"1"` are three different things;
//!    a number is not below a string, nor above it. Bools and nulls have no order: `$gt` and its like refuse them.
//! 5. Integers and floats compare by their exact values, so 2 equals 2.0, and 9007199254740993 does not equal
//!    9007199254740992.0. `-0.0` equals `0`.
//! 6. Strings compare by code point, case and accents counting. ISO 8601 dates of one form and time zone therefore compare
//!    as dates.
//! 7. `$eq null` holds where there is a null. `$null: true` holds where there is no value or only nulls; `$exists: true`
//!    where there is any value, null included.
//! 8. `$contains` holds for an array with an equal element, and for a string with that substring; `$contains_any` and
//!    `$contains_all` likewise for some or all of a list. `$like` is SQL's: `%` is any run, `_` any one character, `\` takes
//!    the next character as it is; case counts.
//! 9. Several keys, and several operators under one key, are joined by "and". `{}` matches everything, `$in: []` nothing.
//!
//! Limits are errors, not cuts: [`MAX_DEPTH`], [`MAX_TESTS`], [`MAX_LIST`], [`MAX_TEXT`].

mod ast;
mod build;
pub(crate) mod column;
mod eval;
mod like;
mod parse;
#[cfg(test)]
mod sql;
#[cfg(test)]
mod tests;
pub(crate) mod values;

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::metadata::Metadata;
use crate::metadata::view::Members;

pub use ast::Scalar;
pub(crate) use ast::{Node, Test, TestKind};
pub use build::Field;

/// The deepest nesting of `$and`, `$or` and `$not`.
pub const MAX_DEPTH: usize = 32;
/// The most tests in one filter.
pub const MAX_TESTS: usize = 1_024;
/// The longest list of an `$in`.
pub const MAX_LIST: usize = 65_536;
/// The longest filter string, in bytes, and the longest text in a test.
pub const MAX_TEXT: usize = 1 << 20;

/// Which records a query may return.
///
/// ```
/// use nopokedb::{Filter, Metadata};
/// let written = Filter::parse_str("year >= 2020 and lang = 'en' and tags contains 'x'")?;
/// let built = Filter::field("year").gte(2020) & Filter::field("lang").eq("en") & Filter::field("tags").contains("x");
/// assert_eq!(written, built);
/// assert!(written.matches(&Metadata::from_json(r#"{"year": 2021, "lang": "en", "tags": ["x", "y"]}"#)?));
/// assert!(!written.matches(&Metadata::from_json(r#"{"year": "2021", "lang": "en", "tags": ["x"]}"#)?));
/// # Ok::<(), nopokedb::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pub(crate) node: Node,
}

impl Filter {
    /// Reads the string dialect: `year >= 2020 and (lang = 'en' or not tags contains 'x')`.
    ///
    /// # Errors
    /// [`Subject::Filter`], naming the character where the text stops making sense and what could stand there.
    pub fn parse_str(text: &str) -> Result<Filter> {
        Filter::checked(parse::text::parse(text)?)
    }

    /// Reads the dict dialect: `{"year": {"$gte": 2020}, "lang": "en"}`.
    ///
    /// # Errors
    /// [`Subject::Filter`], naming the place in the dict, and the valid operators where there is an unknown one.
    pub fn from_json(value: &Value) -> Result<Filter> {
        Filter::checked(parse::dict::parse(value)?)
    }

    /// Whether the record with this metadata passes.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        eval::holds(&self.node, metadata.members())
    }

    /// Whether the record with these stored members passes.
    pub(crate) fn holds(&self, members: Members<'_>) -> bool {
        eval::holds(&self.node, members)
    }

    /// About how many bytes the filter takes.
    pub(crate) fn bytes(&self) -> usize {
        self.node.tests().iter().map(|test| test.bytes()).sum()
    }

    /// Refuses a filter beyond the limits. Those that were read from text or JSON are within them; those that were built
    /// may not be, and are checked when they are used.
    pub fn check(&self) -> Result<()> {
        let (depth, tests) = self.node.size();
        if depth > MAX_DEPTH {
            return Err(invalid(format!("filter: nests {depth} levels deep, the limit is {MAX_DEPTH}")));
        }
        if tests > MAX_TESTS {
            return Err(invalid(format!("filter: has {tests} tests, the limit is {MAX_TESTS}")));
        }
        self.node.check_lists()
    }

    fn checked(node: Node) -> Result<Filter> {
        let filter = Filter { node };
        filter.check()?;
        Ok(filter)
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid(Subject::Filter), message)
}
