//! JSON as Python's `json` reads and writes it: with NaN, Infinity and -Infinity. Finds the pieces; builds nothing.

use std::borrow::Cow;

/// Python gives up near 1,000 levels; no honest log comes close.
const MAX_DEPTH: usize = 500;

/// The members of the object that `text` is, in order, their values as text; `None` if it is no such thing.
pub(super) fn members(text: &str) -> Option<Vec<(Cow<'_, str>, &str)>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut members = Vec::new();
    scanner.space();
    scanner.take(b'{')?;
    scanner.list(b'}', |s| {
        let key = s.token(Scanner::string)?;
        s.space();
        s.take(b':')?;
        s.space();
        let value = s.token(|s| s.value(1))?;
        members.push((unquoted(key)?, value));
        Some(())
    })?;
    scanner.space();
    (scanner.at == text.len()).then_some(members)
}

/// The numbers of the array that `text`, a value from [`members`], is; `None` if something else is in it.
pub(super) fn numbers(text: &str) -> Option<Vec<f64>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim_ascii();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let number = |item: &str| match item.trim_ascii() {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        digits if digits.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) => digits.parse().ok(),
        _ => None,
    };
    inner.split(',').map(number).collect()
}

fn unquoted(raw: &str) -> Option<Cow<'_, str>> {
    let inner = &raw[1..raw.len() - 1];
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// What `scan` goes over, as text.
    fn token(&mut self, scan: impl FnOnce(&mut Self) -> Option<()>) -> Option<&'a str> {
        let from = self.at;
        scan(self)?;
        Some(&self.text[from..self.at])
    }

    /// Items between commas up to `close`; the opening bracket is taken already.
    fn list(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.space();
        if self.take(close).is_some() {
            return Some(());
        }
        loop {
            self.space();
            item(self)?;
            self.space();
            if self.take(close).is_some() {
                return Some(());
            }
            self.take(b',')?;
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            b'"' => self.string(),
            b'{' => {
                self.at += 1;
                self.list(b'}', |s| {
                    s.string()?;
                    s.space();
                    s.take(b':')?;
                    s.space();
                    s.value(depth + 1)
                })
            }
            b'[' => {
                self.at += 1;
                self.list(b']', |s| s.value(depth + 1))
            }
            _ => {
                let rest = &self.text[self.at..];
                let words = ["true", "false", "null", "NaN", "Infinity", "-Infinity"];
                match words.iter().find(|word| rest.starts_with(**word)) {
                    Some(word) => self.at += word.len(),
                    None => self.number()?,
                }
                Some(())
            }
        }
    }

    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if self.take(b'+').is_none() {
                let _ = self.take(b'-');
            }
            self.digits()?;
        }
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            match self.peek()? {
                b'"' => return self.take(b'"'),
                b'\\' => {
                    self.at += 1;
                    let hex = match self.peek()? {
                        b'u' => 4,
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 0,
                        _ => return None,
                    };
                    self.at += 1;
                    for _ in 0..hex {
                        self.peek().filter(u8::is_ascii_hexdigit)?;
                        self.at += 1;
                    }
                }
                0..0x20 => return None,
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_found_piece_by_piece() {
        let line =
            r#"{"t": "add", "id": 3, "vec": [1.0, -2e-5, NaN], "md": {"a": [1, {"b": "}\"]"}], "n": -Infinity}}"#;
        let found = members(line).unwrap();
        let keys: Vec<&str> = found.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys, ["t", "id", "vec", "md"]);
        assert_eq!(found[3].1, r#"{"a": [1, {"b": "}\"]"}], "n": -Infinity}"#);
        let numbers = numbers(found[2].1).unwrap();
        assert!(numbers[..2] == [1.0, -2e-5] && numbers[2].is_nan());
        assert_eq!(members(r#" {"\u00e9": 1} "#).unwrap(), [(Cow::Borrowed("é"), "1")]);
        assert_eq!(members("{}"), Some(vec![]));
    }

    #[test]
    fn what_python_would_not_read_is_refused() {
        let whole = r#"{"t": "add", "id": 3, "vec": [1.0, 2.0], "md": {"a": "b", "c": [true, null]}}"#;
        assert!(members(whole).is_some());
        for cut in 0..whole.len() {
            assert_eq!(members(&whole[..cut]), None, "cut at {cut}");
        }
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in
            ["[1]", "{'a': 1}", r#"{"a": 01}"#, r#"{"a": 1.}"#, r#"{"a": "\x"}"#, "{\"a\": \"\n\"}", "{} {}", &deep]
        {
            assert_eq!(members(bad), None);
        }
        for bad in ["[1, [2]]", r#"["1"]"#, "[1,,2]", "{}", "[inf]"] {
            assert_eq!(numbers(bad), None, "{bad}");
        }
    }
}
