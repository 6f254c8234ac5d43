//! The values at a path, for grouping and counting. Paths are those of filters.

use super::ast::split_path;
use super::eval::{scalar_of, some_value};
use super::{Scalar, invalid};
use crate::error::Result;
use crate::metadata::view::{Json, Members};

/// Keys from the outside in.
#[derive(Clone, Debug)]
pub(crate) struct Path(Vec<String>);

impl Path {
    /// Reads `"author.name"`.
    pub(crate) fn new(text: &str) -> Result<Path> {
        let keys = split_path(text).filter(|keys| !keys.is_empty());
        keys.map(Path).ok_or_else(|| {
            invalid(format!(
                "field {text:?} has an empty key; keys are joined by single dots, and a dot in a key is \\."
            ))
        })
    }

    /// The keys.
    pub(crate) fn keys(&self) -> &[String] {
        &self.0
    }

    /// The first scalar at the path, in the order in which it is written; null if there is none.
    pub(crate) fn first(&self, metadata: Option<&str>) -> Scalar {
        let mut found = Scalar::Null;
        self.visit(metadata, &mut |value| {
            found = value;
            true
        });
        found
    }

    /// Each different scalar at the path, nulls included. Nothing where there is no value.
    pub(crate) fn all(&self, metadata: Option<&str>, values: &mut Vec<Scalar>) {
        values.clear();
        self.visit(metadata, &mut |value| {
            values.push(value);
            false
        });
        values.sort_unstable();
        values.dedup();
    }

    /// Shows every scalar to `f`, until it says that it has seen enough. Elements of arrays are values; arrays and objects
    /// are not.
    fn visit(&self, metadata: Option<&str>, f: &mut dyn FnMut(Scalar) -> bool) {
        let members = match metadata.map(Json::of) {
            Some(Json::Object(members)) => members,
            _ => Members::empty(),
        };
        some_value(members, &self.0, &mut |value| match value {
            Json::Array(mut items) => items.any(|item| scalar_of(item).is_some_and(&mut *f)),
            value => scalar_of(value).is_some_and(&mut *f),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(path: &str, text: &str) -> Vec<Scalar> {
        let mut values = vec![Scalar::Bool(true)];
        Path::new(path).expect("a path").all(Some(text), &mut values);
        values
    }

    #[test]
    fn values_are_those_that_filters_see() {
        let text = r#"{"a":{"b":[3,"x",3.0,null,[1],{"c":2}]},"e":[{"f":1},{"f":[2,1]}],"g.h":"dot"}"#;
        assert_eq!(all("a.b", text), [Scalar::Null, Scalar::Integer(3), Scalar::String("x".into())]);
        assert_eq!(all("a.b.c", text), [Scalar::Integer(2)]);
        assert_eq!(all("e.f", text), [Scalar::Integer(1), Scalar::Integer(2)]);
        assert_eq!(all(r"g\.h", text), [Scalar::String("dot".into())]);
        assert_eq!(all("missing", text), []);
        assert_eq!(Path::new("a.b").expect("a path").first(Some(text)), Scalar::Integer(3));
        assert_eq!(Path::new("a").expect("a path").first(Some(text)), Scalar::Null, "an object is no value");
        assert_eq!(Path::new("a").expect("a path").first(None), Scalar::Null);
        assert!(Path::new("a..b").is_err() && Path::new("").is_err());
    }
}
