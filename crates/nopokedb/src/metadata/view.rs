//! Reads JSON text in place: no tree, no allocation, one value at a time.
//!
//! Invariants:
//! 1. The text was checked when it came in ([`super::scan`]) and is checksummed in the log, so nothing is checked again.
//! 2. On text that is not JSON after all, the answer is arbitrary but there is one: no panic, no endless loop.
//! 3. Strings are handed out raw (still escaped); [`text_of`] unescapes, without copying where there is nothing to do.

use std::borrow::Cow;

/// One value in a text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    /// The number's digits, as they were given.
    Number(&'a str),
    /// The string's contents, still escaped.
    String(&'a str),
    Array(Items<'a>),
    Object(Members<'a>),
}

/// The values of an array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Items<'a> {
    rest: &'a str,
}

/// The members of an object: raw key and value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Members<'a> {
    rest: &'a str,
}

impl<'a> Json<'a> {
    /// The value that `text` is.
    pub(crate) fn of(text: &'a str) -> Json<'a> {
        Self::split(text).0
    }

    /// The value at the head of `text`, and what follows it.
    fn split(text: &'a str) -> (Json<'a>, &'a str) {
        let text = skip(text);
        let (end, json): (usize, fn(&'a str) -> Json<'a>) = match text.as_bytes().first() {
            Some(b'"') => (string_end(text), |t| Json::String(inside(t))),
            Some(b'{') => (nested_end(text), |t| Json::Object(Members { rest: inside(t) })),
            Some(b'[') => (nested_end(text), |t| Json::Array(Items { rest: inside(t) })),
            Some(b't') => (plain_end(text), |_| Json::Bool(true)),
            Some(b'f') => (plain_end(text), |_| Json::Bool(false)),
            Some(b'-' | b'0'..=b'9') => (plain_end(text), Json::Number),
            _ => (plain_end(text), |_| Json::Null),
        };
        let (value, rest) = text.split_at(end);
        (json(value), rest)
    }
}

impl Members<'_> {
    /// The members of `{}`.
    pub(crate) fn empty() -> Self {
        Members { rest: "" }
    }
}

impl<'a> Members<'a> {
    /// The members as they stand in the text: raw key and raw value.
    pub(crate) fn texts(mut self) -> impl Iterator<Item = (&'a str, &'a str)> {
        std::iter::from_fn(move || {
            let text = skip(self.rest);
            if !text.starts_with('"') {
                return None;
            }
            let (key, rest) = text.split_at(string_end(text));
            let value = skip(rest);
            let (_, rest) = Json::split(value);
            self.rest = rest;
            Some((inside(key), &value[..value.len() - rest.len()]))
        })
    }

    /// The value of `key` (unescaped), if there is one.
    pub(crate) fn get(self, key: &str) -> Option<Json<'a>> {
        self.into_iter().find(|(raw, _)| *raw == key || (raw.contains('\\') && text_of(raw) == key)).map(|(_, v)| v)
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        self.rest = skip(self.rest);
        if self.rest.is_empty() {
            return None;
        }
        let (item, rest) = Json::split(self.rest);
        self.rest = rest;
        Some(item)
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, Json<'a>);

    fn next(&mut self) -> Option<(&'a str, Json<'a>)> {
        self.rest = skip(self.rest);
        if !self.rest.starts_with('"') {
            return None;
        }
        let (key, rest) = self.rest.split_at(string_end(self.rest));
        let (value, rest) = Json::split(rest);
        self.rest = rest;
        Some((inside(key), value))
    }
}

/// Whether a number's digits are an integer's.
pub(crate) fn is_integer(digits: &str) -> bool {
    !digits.bytes().any(|b| matches!(b, b'.' | b'e' | b'E'))
}

/// The text that a raw string stands for.
pub(crate) fn text_of(raw: &str) -> Cow<'_, str> {
    let Some(first) = raw.find('\\') else { return Cow::Borrowed(raw) };
    let mut text = String::with_capacity(raw.len());
    text.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (c, len) = escape(&rest.as_bytes()[at..]).unwrap_or((char::REPLACEMENT_CHARACTER, 1));
        text.push(c);
        rest = rest.get(at + len..).unwrap_or("");
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// The character that the escape at the head of `bytes` stands for, and the escape's length. `None` if it is none, or
/// half of a surrogate pair.
pub(super) fn escape(bytes: &[u8]) -> Option<(char, usize)> {
    let simple = match bytes.get(1)? {
        b @ (b'"' | b'\\' | b'/') => char::from(*b),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let high = unit(bytes)?;
            if !(0xD800..0xDC00).contains(&high) {
                return Some((char::from_u32(high)?, 6));
            }
            let low = unit(bytes.get(6..)?).filter(|low| (0xDC00..0xE000).contains(low))?;
            return Some((char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))?, 12));
        }
        _ => return None,
    };
    Some((simple, 2))
}

/// The UTF-16 unit of the `\uXXXX` at the head of `bytes`.
fn unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |n, &d| Some(n << 4 | char::from(d).to_digit(16)?))
}

/// Without white space, commas and colons at the head: between checked values they carry nothing.
fn skip(text: &str) -> &str {
    match text.as_bytes().first() {
        Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') => text.trim_start_matches([' ', '\t', '\n', '\r', ',', ':']),
        _ => text,
    }
}

/// Without the first and the last byte: the quotes or brackets, ASCII both.
fn inside(text: &str) -> &str {
    text.get(1..text.len() - 1).unwrap_or("")
}

/// Where the string at the head of `text` ends.
fn string_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(&b) = bytes.get(at) {
        match b {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Where the object or array at the head of `text` ends.
fn nested_end(text: &str) -> usize {
    let (mut at, mut open) = (0, 0usize);
    while let Some(&b) = text.as_bytes().get(at) {
        match b {
            b'"' => {
                at += string_end(&text[at..]);
                continue;
            }
            b'{' | b'[' => open += 1,
            b'}' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if open == 0 {
            return at;
        }
    }
    text.len()
}

/// Where a number or a literal at the head of `text` ends; at least one character on, so that readers move forward.
fn plain_end(text: &str) -> usize {
    let first = text.chars().next().map_or(0, char::len_utf8);
    let bytes = &text.as_bytes()[first..];
    let more = bytes.iter().position(|b| matches!(b, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n' | b'\r' | b'"'));
    first + more.unwrap_or(bytes.len())
}
