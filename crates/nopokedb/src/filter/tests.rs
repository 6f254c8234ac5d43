use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::error::ErrorKind;
use crate::meta::{Applier, MetaLocation, MetaRow, MetaStore, RowKind, Tokenizers};
use crate::types::{CollectionId, Lsn, RecordId};

fn matches(filter: &Value, metadata: Value) -> bool {
    let Value::Object(map) = metadata else { panic!("{metadata}") };
    Filter::from_json(filter).unwrap().matches(&Metadata::from_map(&map).unwrap())
}

fn text_matches(filter: &str, metadata: &Value) -> bool {
    let Value::Object(map) = metadata else { panic!("{metadata}") };
    Filter::parse_str(filter).unwrap().matches(&Metadata::from_map(map).unwrap())
}

#[test]
fn values_compare_within_their_kind_only() {
    for (value, operand, equal) in [
        (json!(1), json!(1), true),
        (json!(1), json!(1.0), true),
        (json!(-0.0), json!(0), true),
        (json!(true), json!(1), false),
        (json!(1), json!(true), false),
        (json!("1"), json!(1), false),
        (json!(null), json!(null), true),
        (json!(null), json!(false), false),
        (json!(9_007_199_254_740_993i64), json!(9_007_199_254_740_992.0), false),
        (json!(9_007_199_254_740_992i64), json!(9_007_199_254_740_992.0), true),
        (json!(u64::MAX), json!(u64::MAX), true),
        (json!(u64::MAX), json!(18_446_744_073_709_551_616.0), false),
        (json!("é"), json!("é"), true),
        (json!("A"), json!("a"), false),
        (json!(["x", "y"]), json!("y"), true),
        (json!([["x"]]), json!("x"), false),
        (json!({"x": 1}), json!("x"), false),
    ] {
        assert_eq!(matches(&json!({ "k": operand }), json!({ "k": value })), equal, "{value} against {operand}");
        assert_eq!(matches(&json!({ "k": {"$ne": operand} }), json!({ "k": value })), !equal);
        assert_eq!(matches(&json!({ "k": {"$in": [operand, "other", 77]} }), json!({ "k": value })), equal);
        assert_eq!(matches(&json!({ "k": {"$nin": [operand]} }), json!({ "k": value })), !equal);
    }
    assert!(!matches(&json!({"k": {"$gt": 5}}), json!({"k": "6"})));
    assert!(!matches(&json!({"k": {"$lt": 5}}), json!({"k": "4"})));
    assert!(!matches(&json!({"k": {"$lt": 5}}), json!({"k": null})));
    assert!(matches(&json!({"k": {"$gt": 9_007_199_254_740_992.0}}), json!({"k": 9_007_199_254_740_993i64})));
    assert!(matches(&json!({"k": {"$lt": -1.5}}), json!({"k": -2})));
    assert!(matches(&json!({"k": {"$gte": "2024-02-01", "$lt": "2024-03-01"}}), json!({"k": "2024-02-29"})));
}

#[test]
fn a_missing_key_matches_no_test_and_every_complement() {
    let nothing = json!({});
    for operator in ["$eq", "$gt", "$gte", "$lt", "$lte", "$contains", "$startswith", "$like"] {
        assert!(!matches(&json!({ "k": {operator: "x"} }), nothing.clone()), "{operator}");
        assert!(matches(&json!({ "k": {"$not": {operator: "x"}} }), nothing.clone()), "{operator}");
    }
    assert!(matches(&json!({"k": {"$ne": "x"}}), nothing.clone()));
    assert!(matches(&json!({"k": {"$nin": ["x"]}}), nothing.clone()));
    assert!(!matches(&json!({ "k": null }), nothing.clone()));
    for (value, exists, null) in
        [(json!({}), false, true), (json!({"k": null}), true, true), (json!({"k": 0}), true, false)]
    {
        assert_eq!(matches(&json!({"k": {"$exists": true}}), value.clone()), exists);
        assert_eq!(matches(&json!({"k": {"$exists": false}}), value.clone()), !exists);
        assert_eq!(matches(&json!({"k": {"$null": true}}), value.clone()), null);
        assert_eq!(matches(&json!({"k": {"$null": false}}), value), !null);
    }
}

#[test]
fn every_operator_does_what_its_name_says() {
    let book = json!({
        "title": "100% Größe_x", "year": 2021, "tags": ["a", "b", 3], "author": {"name": "Ada", "born": 1815},
        "parts": [{"page": 1}, {"page": 9}, 7], "a.b": "dotted", "$odd": 1, "empty": []
    });
    for (filter, expected) in [
        (json!({}), true),
        (json!({"year": {"$between": [2020, 2021]}}), true),
        (json!({"year": {"$between": [2022, 2020]}}), false),
        (json!({"tags": {"$contains": "a"}}), true),
        (json!({"tags": {"$contains": "3"}}), false),
        (json!({"tags": {"$contains_all": ["a", 3]}}), true),
        (json!({"tags": {"$contains_all": ["a", "z"]}}), false),
        (json!({"tags": {"$contains_any": ["z", "b"]}}), true),
        (json!({"tags": {"$contains_any": []}}), false),
        (json!({"tags": {"$contains_all": []}}), true),
        (json!({"title": {"$contains": "röß"}}), true),
        (json!({"year": {"$contains": 2021}}), false),
        (json!({"title": {"$startswith": "100%"}}), true),
        (json!({"title": {"$like": "100\\% Gr__e\\_%"}}), true),
        (json!({"title": {"$like": "100\\% gr%"}}), false),
        (json!({"author.name": "Ada"}), true),
        (json!({"author.born": {"$lt": 1900, "$gt": 1800}}), true),
        (json!({"parts.page": {"$gt": 8}}), true),
        (json!({"parts.page": {"$gt": 9}}), false),
        (json!({"parts": 7}), true),
        (json!({"a\\.b": "dotted", "\\$odd": 1}), true),
        (json!({"a.b": "dotted"}), false),
        (json!({"empty": {"$exists": true}}), true),
        (json!({"empty": {"$ne": 1}}), true),
        (json!({"$or": [{"year": 1}, {"tags": "b"}]}), true),
        (json!({"$and": [{"year": 2021}, {"tags": "z"}]}), false),
        (json!({"$not": {"year": 2021}}), false),
        (json!({"year": 2021, "author.name": "Bob"}), false),
        (json!({"year": {"$in": []}}), false),
        (json!({"year": {"$nin": []}}), true),
    ] {
        assert_eq!(matches(&filter, book.clone()), expected, "{filter}");
    }
}

#[test]
fn the_string_dialect_says_the_same() {
    let book =
        json!({"year": 2021, "lang": "en", "tags": ["x", "it's"], "a": {"b c": {"d-e": -1.5}}, "t": null, "in": 1});
    for (filter, expected) in [
        ("year >= 2020 and lang = 'en' and tags contains 'x'", true),
        ("year=2021 AND NOT lang=\"de\"", true),
        ("year < 2020 or lang == 'en' and tags contains 'y'", false),
        ("(year < 2020 or lang = 'en') && tags contains 'it''s'", true),
        ("year not in (2020, 2022) and lang in ['en']", true),
        ("year between 2000 and 2021 and lang like '_n'", true),
        ("year not between 2000 and 2021", false),
        ("a.\"b c\".d-e <= -1.5e0 and a.`b c`.d-e > -2", true),
        ("t is null and nope is null and year is not null", true),
        ("t exists and nope not exists and not (lang <> 'en')", true),
        ("t = null and nope != null", true),
        ("tags contains_any ('z', 'x') and tags not contains_all ('z', 'x')", true),
        ("lang startswith 'e' || year = 'x'", true),
        ("\"in\" = 1 and lang != \"1\"", true),
        ("year = 2021.0 and year <> true", true),
    ] {
        assert_eq!(text_matches(filter, &book), expected, "{filter}");
    }
}

#[test]
fn bad_filters_are_refused_naming_the_place_and_what_is_valid() {
    for (filter, words) in [
        (json!([1]), "filter: expected a dict like"),
        (
            json!({"year": {"$gtt": 1}}),
            "filter at year.$gtt: unknown operator \"$gtt\"; valid operators are $eq, $ne, $gt",
        ),
        (json!({"$xor": []}), "filter: unknown operator \"$xor\"; valid here are $and, $or, $not, or a key"),
        (
            json!({"$or": [{"a": 1}, {"b": {"$gt": true}}]}),
            "at $or[1].b.$gt: expected a number or a string, got the bool",
        ),
        (json!({"$and": []}), "at $and: expected a list of at least one filter, got a list of 0"),
        (json!({"a": {}}), "at a: no operator; valid operators are $eq"),
        (json!({"a": [1, 2]}), "at a: a list is not a value to compare with; use $in"),
        (json!({"a": {"$in": "x"}}), "at a.$in: expected a list, got the string \"x\""),
        (json!({"a": {"$in": [1, [2]]}}), "at a.$in[1]: expected a string, a number, a bool or null, got a list of 1"),
        (json!({"a": {"$between": [1]}}), "at a.$between: expected [low, high], got a list of 1"),
        (json!({"a": {"$between": [1, "x"]}}), "low is a number, high is a string"),
        (json!({"a": {"$exists": 1}}), "at a.$exists: expected true or false, got the number 1"),
        (json!({"a": {"$like": 1}}), "at a.$like: expected a string, got the number 1"),
        (json!({"a": {"$like": "x\\"}}), "ends in a \\"),
        (json!({"a": {"$not": 5}}), "at a.$not: expected a dict of operators"),
        (json!({"a": {"b": 1}}), "at a.b: unknown operator \"b\""),
        (json!({"a..b": 1}), "filter at a..b: the field \"a..b\" has an empty key"),
        (json!({"": 1}), "the field \"\" has an empty key"),
    ] {
        let e = Filter::from_json(&filter).expect_err(&filter.to_string());
        assert_eq!(e.kind(), ErrorKind::Invalid(Subject::Filter));
        assert!(e.message().contains(words), "{filter}: {e}");
    }
    for (filter, words) in [
        ("year >> 3", "character 7: expected a value: 'text', a number, true, false or null, found \">\""),
        ("größe ~ 3", "character 7: expected no '~'"),
        ("lang = en", "character 8: expected a value (a text needs 'quotes'), found \"en\""),
        ("lang 'en'", "character 6: expected an operator: =, !=, <"),
        ("year = 3 year = 4", "character 10: expected \"and\", \"or\" or the end, found \"year\""),
        ("(year = 3", "expected \"and\", \"or\" or a closing ), found the end"),
        ("a = 'x", "character 5: expected a closing ' for this one"),
        ("a in 3", "expected a list like ('a', 'b')"),
        ("a in (1 2)", "expected a comma or a closing )"),
        ("a > true", "expected a number or a text, which have an order"),
        ("a between 1 and 'x'", "expected a number, as the lower end is"),
        ("a is 3", "expected null"),
        ("a = 2024-01-01", "expected a 64-bit number (a text or a date needs 'quotes'), found \"2024-01-01\""),
        ("a = 99999999999999999999", "expected a 64-bit number"),
        ("", "character 1: expected a filter (leave it out, or give {}, for every row), found the end"),
        (" \n", "expected a filter"),
        ("= 3", "character 1: expected a key of the metadata, found \"=\""),
        ("a like '\\'", "a lone \\"),
    ] {
        let e = Filter::parse_str(filter).expect_err(filter);
        assert!(e.message().contains(words), "{filter}: {e}");
    }
}

#[test]
fn limits_are_errors() {
    let deep = |n: usize| (0..n).fold(json!({"a": 1}), |inner, _| json!({"$or": [inner, {"b": 1}]}));
    assert!(Filter::from_json(&deep(MAX_DEPTH)).is_ok());
    for n in [MAX_DEPTH + 1, 60] {
        assert!(Filter::from_json(&deep(n)).unwrap_err().message().contains("limit is 32"), "{n}");
    }
    let brackets = |n: usize| format!("{}a=1{}", "not (b = 1 or ".repeat(n), ")".repeat(n));
    assert!(Filter::parse_str(&brackets(MAX_DEPTH / 2)).is_ok());
    for n in [MAX_DEPTH, 100_000 / 15] {
        assert!(Filter::parse_str(&brackets(n)).unwrap_err().message().contains("limit is 32"), "{n}");
    }
    let wide = |n: usize| vec!["a = 1"; n].join(" or ");
    assert!(Filter::parse_str(&wide(MAX_TESTS)).is_ok());
    assert!(Filter::parse_str(&wide(MAX_TESTS + 1)).unwrap_err().message().contains("1025 tests, the limit is 1024"));
    let list = |n: usize| json!({"a": {"$in": (0..n).collect::<Vec<_>>()}});
    assert!(Filter::from_json(&list(MAX_LIST)).is_ok());
    assert!(Filter::from_json(&list(MAX_LIST + 1)).unwrap_err().message().contains("limit is 65536"));
    assert!(Filter::parse_str(&"x".repeat(MAX_TEXT + 1)).unwrap_err().message().contains("limit is 1048576"));
    let built = (0..60).fold(Filter::field("a").eq(1), |inner, _| !(inner & Filter::field("b").eq(1)));
    assert!(built.check().unwrap_err().message().contains("limit is 32"));
}

#[test]
fn built_filters_equal_written_ones() {
    let written = "a = 1 and not b.c in ('x', 'y') and (d >= 1.5 or e is null) and f exists and g between 1 and 2";
    let f = Filter::field;
    let built = f("a").eq(1)
        & !f("b.c").is_in(["y", "x", "y"])
        & (f("d").gte(1.5) | f("e").is_null())
        & f("f").exists()
        & f("g").between(1, 2);
    assert_eq!(Filter::parse_str(written).unwrap(), built);
    let nan = Filter::field("a").eq(f64::NAN) | Filter::field("a").is_in([f64::NAN]) | Filter::field("").eq(1);
    assert!(!nan.matches(&Metadata::from_json(r#"{"a": 0, "": 1}"#).unwrap()));
    assert!(Filter::everything().matches(&Metadata::default()));
}

#[test]
fn filtering_a_batch_of_records_costs_milliseconds() {
    let records: Vec<_> = (0..20_000)
        .map(|i| json!({"title": format!("row number {i}"), "year": 1900 + i % 120, "lang": "en", "tags": ["a", "b"]}))
        .map(|value| Metadata::from_map(value.as_object().unwrap()).unwrap())
        .collect();
    let filter = Filter::parse_str("year >= 1960 and lang = 'en' and tags contains 'b'").unwrap();
    let begun = std::time::Instant::now();
    let found = records.iter().filter(|metadata| filter.matches(metadata)).count();
    let took = begun.elapsed();
    println!("20,000 records in {took:?}");
    assert!((9_000..11_000).contains(&found), "{found}");
    // Far above what it takes (5 to 10 ms in a release build), far below what a mistake would cost.
    assert!(took.as_millis() < 400, "{took:?}");
}

// The same question answered three ways: from the text, naively from a tree, and by SQLite.

const KEYS: [&str; 5] = ["a", "b", "c d", "e\"f", "k"];

fn any_scalar() -> BoxedStrategy<Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..4).prop_map(Value::from),
        prop_oneof![Just(-1.0), Just(-0.0), Just(0.5), Just(2.0), Just(9_007_199_254_740_992.0), Just(1e300)]
            .prop_map(Value::from),
        prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(9_007_199_254_740_993)].prop_map(Value::from),
        // No letters of which SQLite's LIKE would ignore the case.
        "[1é%_\"\\\\ß]{0,3}".prop_map(Value::from),
    ]
    .boxed()
}

pub(super) fn any_metadata() -> BoxedStrategy<Map<String, Value>> {
    let value = any_scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(&KEYS), inner), 0..3)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    });
    prop::collection::vec((prop::sample::select(&KEYS), value), 0..5)
        .prop_map(|members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>())
        .boxed()
}

pub(super) fn any_filter() -> BoxedStrategy<Value> {
    let ordered = || any_scalar().prop_filter("has an order", |v| v.is_number() || v.is_string());
    let list = || prop::collection::vec(any_scalar(), 0..4);
    let text = || "[1é%_ß]{0,3}";
    let between = (ordered(), ordered()).prop_filter("one kind", |(a, b)| a.is_number() == b.is_number());
    let operation = prop_oneof![
        (prop::sample::select(&["$eq", "$ne", "$contains"]), any_scalar()).prop_map(|(o, v)| json!({ o: v })),
        (prop::sample::select(&["$gt", "$gte", "$lt", "$lte"]), ordered()).prop_map(|(o, v)| json!({ o: v })),
        (prop::sample::select(&["$in", "$nin", "$contains_any", "$contains_all"]), list())
            .prop_map(|(o, v)| json!({ o: v })),
        between.prop_map(|(a, b)| json!({"$between": [a, b]})),
        (prop::sample::select(&["$exists", "$null"]), any::<bool>()).prop_map(|(o, v)| json!({ o: v })),
        (prop::sample::select(&["$startswith", "$like"]), text()).prop_map(|(o, v)| json!({ o: v })),
        any_scalar(),
    ];
    // Several operators of a field, or a value to be equal to; under `$not` now and then.
    let operations = prop::collection::vec(operation, 1..3).prop_map(|all| {
        let merged: Map<_, _> =
            all.iter().filter_map(Value::as_object).flatten().map(|(o, v)| (o.clone(), v.clone())).collect();
        if merged.is_empty() { all[0].clone() } else { Value::Object(merged) }
    });
    let operations =
        (operations, 0..4).prop_map(|(o, not)| if not == 0 && o.is_object() { json!({ "$not": o }) } else { o });
    let path = prop::collection::vec(prop::sample::select(&KEYS), 1..3).prop_map(|keys| keys.join("."));
    let leaf = prop::collection::vec((path, operations), 1..3)
        .prop_map(|tests| Value::Object(tests.into_iter().collect()))
        .boxed();
    leaf.prop_recursive(3, 10, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|f| json!({ "$and": f })),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|f| json!({ "$or": f })),
            inner.prop_map(|f| json!({ "$not": f })),
        ]
    })
    .boxed()
}

/// The same filter in the string dialect.
fn as_text(filter: &Value) -> String {
    let all = |filters: &Value, with: &str| {
        let texts: Vec<_> = filters.as_array().unwrap().iter().map(as_text).collect();
        format!("({})", texts.join(with))
    };
    let parts = filter.as_object().unwrap().iter().map(|(key, value)| match key.as_str() {
        "$and" => all(value, " and "),
        "$or" => all(value, " or "),
        "$not" => format!("not {}", as_text(value)),
        path => {
            let keys: Vec<_> = path.split('.').map(|key| format!("\"{}\"", key.replace('"', "\"\""))).collect();
            tests_as_text(&keys.join("."), value)
        }
    });
    format!("({})", parts.collect::<Vec<_>>().join(" and "))
}

fn tests_as_text(path: &str, tests: &Value) -> String {
    let Value::Object(operators) = tests else { return format!("{path} = {}", value_as_text(tests)) };
    let not = |value: &Value| if value == &json!(true) { "" } else { "not " };
    let tests = operators.iter().map(|(operator, value)| match operator.as_str() {
        "$not" => format!("not {}", tests_as_text(path, value)),
        "$between" => format!("{path} between {} and {}", value_as_text(&value[0]), value_as_text(&value[1])),
        "$exists" => format!("{path} {}exists", not(value)),
        "$null" => format!("{path} is {}null", not(value)),
        operator => {
            let word = match operator {
                "$eq" => "=",
                "$ne" => "!=",
                "$gt" => ">",
                "$gte" => ">=",
                "$lt" => "<",
                "$lte" => "<=",
                "$nin" => "not in",
                other => &other[1..],
            };
            format!("{path} {word} {}", value_as_text(value))
        }
    });
    format!("({})", tests.collect::<Vec<_>>().join(" and "))
}

fn value_as_text(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Array(values) => format!("({})", values.iter().map(value_as_text).collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}

mod naive {
    use super::*;
    use std::cmp::Ordering;

    pub(super) fn holds(filter: &Value, record: &Map<String, Value>) -> bool {
        filter.as_object().unwrap().iter().all(|(key, value)| match key.as_str() {
            "$and" => value.as_array().unwrap().iter().all(|f| holds(f, record)),
            "$or" => value.as_array().unwrap().iter().any(|f| holds(f, record)),
            "$not" => !holds(value, record),
            path => {
                let top = Value::Object(record.clone());
                let leaves = path.split('.').fold(vec![&top], |values, key| {
                    let here = values.iter().flat_map(|v| match v {
                        Value::Array(items) => items.iter().filter(|i| i.is_object()).collect(),
                        v => vec![*v],
                    });
                    here.filter_map(|v| v.get(key)).collect()
                });
                match value {
                    Value::Object(operators) => operators.iter().all(|(o, v)| operation(o, v, &leaves)),
                    operand => operation("$eq", operand, &leaves),
                }
            }
        })
    }

    fn operation(operator: &str, operand: &Value, leaves: &[&Value]) -> bool {
        let list = || operand.as_array().unwrap();
        let flat = || leaves.iter().flat_map(|v| v.as_array().map_or(vec![*v], |items| items.iter().collect()));
        let text = || flat().filter_map(Value::as_str);
        match operator {
            "$eq" => flat().any(|v| compare(v, operand) == Some(Ordering::Equal)),
            "$ne" => !operation("$eq", operand, leaves),
            "$gt" => flat().any(|v| compare(v, operand).is_some_and(Ordering::is_gt)),
            "$gte" => flat().any(|v| compare(v, operand).is_some_and(Ordering::is_ge)),
            "$lt" => flat().any(|v| compare(v, operand).is_some_and(Ordering::is_lt)),
            "$lte" => flat().any(|v| compare(v, operand).is_some_and(Ordering::is_le)),
            "$in" => list().iter().any(|o| operation("$eq", o, leaves)),
            "$nin" => !operation("$in", operand, leaves),
            "$between" => flat().any(|v| {
                compare(v, &operand[0]).is_some_and(Ordering::is_ge)
                    && compare(v, &operand[1]).is_some_and(Ordering::is_le)
            }),
            "$exists" => leaves.is_empty() != operand.as_bool().unwrap(),
            "$null" => leaves.iter().all(|v| v.is_null()) == operand.as_bool().unwrap(),
            "$contains" => leaves.iter().any(|leaf| contains(leaf, operand)),
            "$contains_any" => leaves.iter().any(|leaf| list().iter().any(|o| contains(leaf, o))),
            "$contains_all" => leaves.iter().any(|leaf| list().iter().all(|o| contains(leaf, o))),
            "$startswith" => text().any(|t| t.starts_with(operand.as_str().unwrap())),
            "$like" => text().any(|t| {
                let pattern: Vec<char> = operand.as_str().unwrap().chars().collect();
                like(&pattern, &t.chars().collect::<Vec<_>>())
            }),
            "$not" => !operand.as_object().unwrap().iter().all(|(o, v)| operation(o, v, leaves)),
            _ => panic!("{operator}"),
        }
    }

    fn contains(leaf: &Value, operand: &Value) -> bool {
        match leaf {
            Value::Array(items) => items.iter().any(|v| compare(v, operand) == Some(Ordering::Equal)),
            Value::String(text) => operand.as_str().is_some_and(|part| text.contains(part)),
            _ => false,
        }
    }

    fn like(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('%', rest)), _) => like(rest, text) || (!text.is_empty() && like(pattern, &text[1..])),
            (Some((p, rest)), Some((t, more))) => (*p == '_' || p == t) && like(rest, more),
            _ => false,
        }
    }

    fn compare(a: &Value, b: &Value) -> Option<Ordering> {
        match (a, b) {
            (Value::Null, Value::Null) => Some(Ordering::Equal),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                (Some(a), None) => Some(integer_float(a, b.as_f64().unwrap())),
                (None, Some(b)) => Some(integer_float(b, a.as_f64().unwrap()).reverse()),
                (None, None) => a.as_f64().unwrap().partial_cmp(&b.as_f64().unwrap()),
            },
            _ => None,
        }
    }

    /// Floats here are halves, or far beyond every integer.
    #[allow(clippy::cast_possible_truncation)]
    fn integer_float(a: i64, b: f64) -> Ordering {
        if b.abs() > 1e18 {
            return 0.0f64.partial_cmp(&b).unwrap();
        }
        (i128::from(a) * 2).cmp(&((b * 2.0) as i128))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_filters_agree_with_sqlite_and_with_a_naive_evaluator(
        records in prop::collection::vec(any_metadata(), 1..12),
        filters in prop::collection::vec(any_filter(), 1..12),
    ) {
        let records: Vec<_> = records.iter().map(|r| (r, Metadata::from_map(r).unwrap())).collect();
        let (mut store, _) = MetaStore::open(MetaLocation::Memory, [1; 16], Lsn(0), Tokenizers::default()).unwrap();
        let rows = records.iter().zip(0u64..).map(|((_, metadata), i)| MetaRow {
            lsn: Lsn(i + 1),
            collection: CollectionId(0),
            id: RecordId(i),
            kind: RowKind::Put,
            key: None,
            metadata: Some(metadata.as_json()),
            document: None,
            expires_ms: 0,
        });
        let last = Lsn(records.len() as u64);
        store.apply(rows, last).unwrap();
        let applier = Applier::start(store, Box::new(|_, _, _| Ok(()))).unwrap();
        for written in &filters {
            let filter = Filter::from_json(written).unwrap();
            let ours: Vec<_> = records.iter().map(|(_, metadata)| filter.matches(metadata)).collect();
            let naive: Vec<_> = records.iter().map(|(record, _)| naive::holds(written, record)).collect();
            prop_assert_eq!(&ours, &naive, "{} over {:?}", written, &records);
            let text = as_text(written);
            let as_written = Filter::parse_str(&text).unwrap();
            let by_text: Vec<_> = records.iter().map(|(_, metadata)| as_written.matches(metadata)).collect();
            prop_assert_eq!(&ours, &by_text, "{} for {} over {:?}", text, written, &records);
            let (condition, bounds) = sql::condition(&filter.node);
            let sql = format!("SELECT id FROM records WHERE {condition}");
            let sqlite = applier.read(last, |reader| {
                let mut found = vec![false; records.len()];
                reader.select(&sql, &bounds, &mut |cells| match cells {
                    [crate::meta::Cell::Integer(id)] => found[usize::try_from(*id).unwrap()] = true,
                    other => panic!("{other:?}"),
                })?;
                Ok(found)
            });
            prop_assert_eq!(&ours, &sqlite.unwrap(), "{} over {:?}", written, &records);
        }
    }

    #[test]
    fn any_text_is_a_filter_or_an_error_and_never_a_panic(
        noise in any::<String>(),
        text in "[ab.'\"`()\\[\\], =<>!&|0-9eé_-]{0,20}",
        words in prop::collection::vec(prop::sample::select(&[
            "a", "and", "or", "not", "in", "between", "like", "is", "null", "exists", "(", ")", ",", "'x'", "3", "-", "=", ".", "\"k\"",
        ]), 0..14),
    ) {
        for text in [noise, text, words.join(" ")] {
            if let Ok(filter) = Filter::parse_str(&text) {
                filter.matches(&Metadata::from_json(r#"{"a": [1, "x"]}"#).unwrap());
            }
        }
    }

    #[test]
    fn any_json_is_a_filter_or_an_error_and_never_a_panic(filter in any_filter(), metadata in any_metadata()) {
        for written in [filter, Value::Object(metadata)] {
            drop(Filter::from_json(&written));
        }
    }
}
