use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn refusal(text: &str) -> String {
    let e = Metadata::from_json(text).expect_err(text);
    assert_eq!(e.kind(), ErrorKind::Invalid(Subject::Metadata));
    e.message().to_owned()
}

#[test]
fn text_is_kept_number_for_number_and_key_for_key() {
    let text = r#"{"z":1.0,"a":-0.0,"m":1e3,"n":0.1234567890123456789012345,"i":-9223372036854775808,"u":18446744073709551615,"s":5e-324,"":[]}"#;
    assert_eq!(Metadata::from_json(text).unwrap().as_json(), text);
    let spaced = " {\n\t\"b\" : [ 1 , 2,{ } ] ,\r\n \"a\": { \"x y\": \" kept \" } } \n";
    assert_eq!(Metadata::from_json(spaced).unwrap().as_json(), r#"{"b":[1,2,{}],"a":{"x y":" kept "}}"#);
}

#[test]
fn strings_are_escaped_the_shortest_way_so_equal_text_is_equal_metadata() {
    let same = [
        r#"{"k":"a\"b\\c/d\u0001\n\té😀"}"#,
        r#"{"\u006b":"a\u0022b\u005cc\/d\u0001\u000a\u0009\u00e9\ud83d\ude00"}"#,
        r#"{ "k": "a\"b\\c\u002fd\u0001\n\t\u00E9\uD83D\uDE00" }"#,
    ];
    let all: Vec<_> = same.iter().map(|t| Metadata::from_json(t).unwrap()).collect();
    assert!(all.iter().all(|m| *m == all[0] && m.as_json() == same[0]), "{all:?}");
    assert_eq!(all[0].to_map()["k"], "a\"b\\c/d\u{1}\n\té😀");
}

#[test]
fn bad_metadata_is_refused_naming_the_key() {
    for (text, words) in [
        ("[1]", "must be a JSON object like {\"key\": \"value\"}, got an array"),
        ("", "got empty text"),
        ("null", "got null"),
        (r#"{"a":{"b":[0,18446744073709551616]}}"#, "key \"a.b[1]\" holds the integer 18446744073709551616"),
        (r#"{"a":-9223372036854775809}"#, "key \"a\" holds the integer -9223372036854775809"),
        (r#"{"a":[1e400]}"#, "key \"a[0]\" holds 1e400, which is too large"),
        (r#"{"year":NaN}"#, "key \"year\" is not JSON: expected a value, found NaN at byte 8"),
        (r#"{"x":-Infinity}"#, "key \"x\" is not JSON: expected a digit (NaN and Infinity are not JSON)"),
        (r#"{"a":1,"b":{"c":1,"\u0063":2}}"#, "key \"b.c\" is given twice"),
        (r#"{"a":"\ud800"}"#, "key \"a\" has a \\u escape that is no character"),
        (r#"{"a":01}"#, "without leading zeros"),
        (r#"{"a":1.}"#, "expected a digit"),
        (r#"{"a":1,}"#, "expected a string in double quotes"),
        (r#"{"a":1 "b":2}"#, "expected ',' or '}'"),
        (r#"{"a":tru}"#, "key \"a\" is not JSON: expected true"),
        (r#"{"a":"x"#, "expected '\"' to end the string"),
        ("{\"a\":\"\n\"}", "no bare control character"),
        (r#"{"a":1} {}"#, "expected the end of the text"),
        (r#"{"a":"\x"}"#, "an escape that JSON knows"),
        ("{'a':1}", "expected a string in double quotes"),
    ] {
        let message = refusal(text);
        assert!(message.contains(words), "{text}: {message}");
    }
}

#[test]
fn limits_are_errors_that_name_the_limit() {
    let nested = |n: usize| format!("{}{}{}", "{\"a\":".repeat(n), 1, "}".repeat(n));
    let deepest = Metadata::from_json(&nested(MAX_DEPTH)).unwrap();
    assert_eq!(Metadata::from_map(&deepest.to_map()).unwrap(), deepest);
    assert!(refusal(&nested(MAX_DEPTH + 1)).contains("nests deeper than the limit of 128 levels"));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_METADATA_BYTES));
    assert!(refusal(&long).contains("exceeds the limit of 67108864 bytes"));
}

#[test]
fn a_key_repeated_in_a_large_object_is_found() {
    let mut text: Vec<String> = (0..5_000).map(|i| format!("\"k{i}\":{i}")).collect();
    assert!(Metadata::from_json(&format!("{{{}}}", text.join(","))).is_ok());
    text.push("\"k17\":0".into());
    assert!(refusal(&format!("{{{}}}", text.join(","))).contains("key \"k17\" is given twice"));
}

#[test]
fn a_megabyte_string_round_trips() {
    let big = "é\"\\\n𝄞x".repeat(100_000);
    let map = json!({ "big": big.clone(), "after": true }).as_object().unwrap().clone();
    let metadata = Metadata::from_map(&map).unwrap();
    assert_eq!(metadata.to_map(), map);
    assert_eq!(Metadata::from_json(metadata.as_json()).unwrap(), metadata);
}

#[test]
fn untrue_trusted_text_is_read_without_panic() {
    for text in
        ["", "{", "{\"a\"", "{\"a\":\"\\", "{\"a\":\"\\u12", "}", "é", "{\"a\":[1,{\"b\":é\"c", "[[[", "{\"a\":-}"]
    {
        let metadata = Metadata { text: text.into() };
        drop(metadata.to_map());
        assert!(metadata.members().count() <= 2);
    }
    let deep = Metadata { text: format!("{{\"a\":{}", "[".repeat(100_000)).into() };
    drop(deep.to_map());
}

#[test]
fn checking_a_batch_of_small_objects_costs_milliseconds() {
    let texts: Vec<String> = (0..20_000)
        .map(|i| format!("{{\"id\":{i},\"title\":\"row number {i}\",\"tags\":[\"a\",\"b\"],\"score\":0.{i}}}"))
        .collect();
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            assert!(texts.iter().all(|t| Metadata::from_json(t).is_ok()));
            start.elapsed().as_millis()
        })
        .min();
    // Far above what it takes (2 ms in a release build), far below what a mistake would cost.
    println!("20,000 objects in {best:?} ms");
    assert!(best < Some(200), "{best:?} ms");
}

fn any_value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no NaN", |f| f.is_finite()).prop_map(Value::from),
        prop_oneof![Just(-0.0), Just(5e-324), Just(f64::MAX), Just(f64::MIN_POSITIVE / 3.0), Just(0.1)]
            .prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        any::<String>().prop_map(Value::from),
        "[\\x00-\\x1f\"\\\\/é😀]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec(("[a-z\"\\\\\n]{0,6}", any_value()), 0..8).prop_map(|members| members.into_iter().collect())
}

/// Bit for bit: `-0.0 == 0.0` hides a lost sign.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) if x.is_f64() || y.is_f64() => {
            x.is_f64() && y.is_f64() && x.as_f64().map(f64::to_bits) == y.as_f64().map(f64::to_bits)
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|((j, x), (k, y))| j == k && same(x, y))
        }
        _ => a == b,
    }
}

proptest! {
    #[test]
    fn any_json_object_round_trips_exactly(map in any_object()) {
        let metadata = Metadata::from_map(&map).unwrap();
        let back = metadata.to_map();
        prop_assert!(same(&Value::Object(back), &Value::Object(map.clone())), "{map:?} became {metadata}");
        let pretty = serde_json::to_string_pretty(&map).unwrap();
        prop_assert_eq!(Metadata::from_json(&pretty).unwrap(), metadata);
    }

    #[test]
    fn any_text_is_taken_or_refused_as_serde_does_and_never_panics(text in "[\\{\\}\\[\\]\",:0-9a-e\\\\u.\\- tfn]{0,24}") {
        let text = format!("{{\"a\":{text}}}");
        let ours = Metadata::from_json(&text);
        let theirs = serde_json::from_str::<Map<String, Value>>(&text);
        match (&ours, &theirs) {
            (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
            (Err(e), Ok(_)) if e.message().contains("64 bits") || e.message().contains("twice") => {}
            _ => prop_assert!(false, "{text}: {ours:?} but {theirs:?}"),
        }
    }

    #[test]
    fn any_bytes_called_trusted_are_read_without_panic(text in any::<String>()) {
        drop(Metadata { text: text.clone().into() }.to_map());
        drop(view::text_of(&text));
        drop(Metadata { text: format!("{{\"a\":{text}").into() }.to_map());
    }
}
