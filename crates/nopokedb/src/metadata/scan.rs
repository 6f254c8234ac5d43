//! Checks JSON text and brings it into the one form that is stored.
//!
//! One pass. Runs that are canonical already are copied whole; text that is canonical throughout costs one copy.

use std::collections::HashSet;
use std::fmt;
use std::fmt::Write as _;

use super::MAX_DEPTH;
use super::view;

/// Objects with more keys than this find a repeated one by hashing instead of by comparing all pairs.
const FEW_KEYS: usize = 16;

/// What is wrong with the text, and under which key.
#[derive(Debug)]
pub(super) struct Fault {
    /// From the inside out: steps are added while the scanner unwinds, so a good text pays nothing for them.
    path: Vec<Step>,
    what: String,
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return write!(f, "metadata {}", self.what);
        }
        f.write_str("metadata key \"")?;
        for (i, step) in self.path.iter().rev().enumerate() {
            match step {
                Step::Key(key) if i == 0 => write!(f, "{key:.200}")?,
                Step::Key(key) => write!(f, ".{key:.200}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        write!(f, "\" {}", self.what)
    }
}

type Checked<T = ()> = Result<T, Box<Fault>>;

/// The stored form of `text`, or what is wrong with it.
pub(super) fn canonical(text: &str) -> Checked<Box<str>> {
    let mut scanner = Scanner { text, at: 0, copied: 0, out: String::new() };
    scanner.space();
    if scanner.peek() != Some(b'{') {
        return Err(scanner.not_an_object());
    }
    scanner.value(0)?;
    scanner.space();
    if scanner.at < text.len() {
        return Err(scanner.syntax("the end of the text"));
    }
    if scanner.copied == 0 {
        return Ok(text.into());
    }
    scanner.flush();
    Ok(scanner.out.into_boxed_str())
}

struct Scanner<'a> {
    text: &'a str,
    /// Next byte to read.
    at: usize,
    /// `text[..copied]` is in `out`, in its canonical form. 0: nothing has had to change yet.
    copied: usize,
    out: String,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn flush(&mut self) {
        self.out.push_str(&self.text[self.copied..self.at]);
        self.copied = self.at;
    }

    /// Leaves white space out.
    fn space(&mut self) {
        if !matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            return;
        }
        self.flush();
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.copied = self.at;
    }

    fn expect(&mut self, byte: u8, what: &str) -> Checked {
        if self.peek() != Some(byte) {
            return Err(self.syntax(what));
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Checked {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => Err(self.syntax("a value")),
        }
    }

    fn literal(&mut self, word: &str) -> Checked {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.syntax(word));
        }
        self.at += word.len();
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Checked {
        self.enter(depth)?;
        let mut keys = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let key = self.string()?;
            keys.push(key);
            self.space();
            self.expect(b':', "':' after the key").map_err(|f| f.under(key))?;
            self.space();
            self.value(depth).map_err(|f| f.under(key))?;
            self.space();
            if self.more(b'}')? {
                continue;
            }
            return refuse_repeated(&keys);
        }
    }

    fn array(&mut self, depth: usize) -> Checked {
        self.enter(depth)?;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        let mut index = 0;
        loop {
            self.space();
            self.value(depth).map_err(|mut f| {
                f.path.push(Step::Index(index));
                f
            })?;
            self.space();
            if !self.more(b']')? {
                return Ok(());
            }
            index += 1;
        }
    }

    /// Past the opening bracket of a value at `depth`.
    fn enter(&mut self, depth: usize) -> Checked {
        self.at += 1;
        if depth > MAX_DEPTH {
            return Err(Fault::new(format!("nests deeper than the limit of {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    /// Past a comma (true) or past `close` (false).
    fn more(&mut self, close: u8) -> Checked<bool> {
        let next = self.peek();
        if next != Some(b',') && next != Some(close) {
            return Err(self.syntax(if close == b'}' { "',' or '}'" } else { "',' or ']'" }));
        }
        self.at += 1;
        Ok(next == Some(b','))
    }

    /// A string; returns its raw contents.
    fn string(&mut self) -> Checked<&'a str> {
        self.expect(b'"', "a string in double quotes")?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(0..0x20) => return Err(self.syntax("no bare control character in a string (write it \\u00XX)")),
                Some(_) => self.at += 1,
                None => return Err(self.syntax("'\"' to end the string")),
            }
        }
        self.at += 1;
        Ok(&self.text[start..self.at - 1])
    }

    /// One escape: kept where it is the shortest way to write its character, rewritten where it is not.
    fn escape(&mut self) -> Checked {
        let raw = &self.text.as_bytes()[self.at..];
        let Some((c, len)) = view::escape(raw) else {
            if raw.get(1) == Some(&b'u') {
                return Err(Fault::new(
                    "has a \\u escape that is no character (a lone surrogate or bad digits)".into(),
                ));
            }
            return Err(self.syntax("an escape that JSON knows"));
        };
        let mut short = String::new();
        match c {
            '"' => short.push_str("\\\""),
            '\\' => short.push_str("\\\\"),
            '\u{8}' => short.push_str("\\b"),
            '\u{c}' => short.push_str("\\f"),
            '\n' => short.push_str("\\n"),
            '\r' => short.push_str("\\r"),
            '\t' => short.push_str("\\t"),
            '\0'..' ' => drop(write!(short, "\\u{:04x}", u32::from(c))),
            _ => short.push(c),
        }
        if raw.starts_with(short.as_bytes()) {
            self.at += len;
            return Ok(());
        }
        self.flush();
        self.out.push_str(&short);
        self.at += len;
        self.copied = self.at;
        Ok(())
    }

    fn number(&mut self) -> Checked {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let whole = self.digits()?;
        if leading_zero && whole > 1 {
            return Err(self.syntax("a number without leading zeros"));
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            (self.at, integer) = (self.at + 1, false);
            self.digits()?;
        }
        let exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if exponent {
            (self.at, integer) = (self.at + 1, false);
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let digits = &self.text[start..self.at];
        if integer {
            return fits_64_bits(digits, whole);
        }
        // Without an exponent, fewer than 300 digits cannot overflow.
        if (exponent || whole > 300) && !digits.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(Fault::new(format!("holds {digits:.40}, which is too large for a 64-bit float")));
        }
        Ok(())
    }

    /// At least one digit; returns how many.
    fn digits(&mut self) -> Checked<usize> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.syntax("a digit (NaN and Infinity are not JSON)"));
        }
        Ok(self.at - start)
    }

    fn syntax(&self, expected: &str) -> Box<Fault> {
        let rest = self.text.get(self.at..).unwrap_or("");
        let word = rest.split([',', '}', ']', '\n', ' ']).next().unwrap_or("");
        let found = match (word, rest.chars().next()) {
            (_, None) => "the end of the text".to_owned(),
            ("", Some(c)) => format!("{c:?}"),
            (word, _) => format!("{word:.20}"),
        };
        Fault::new(format!("is not JSON: expected {expected}, found {found} at byte {}", self.at))
    }

    fn not_an_object(&self) -> Box<Fault> {
        let found = match self.peek() {
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b'-' | b'0'..=b'9') => "a number",
            Some(b't' | b'f') => "a bool",
            Some(b'n') => "null",
            Some(_) => return self.syntax("'{'"),
            None => "empty text",
        };
        Fault::new(format!("must be a JSON object like {{\"key\": \"value\"}}, got {found}"))
    }
}

impl Fault {
    fn new(what: String) -> Box<Self> {
        Box::new(Fault { path: Vec::new(), what })
    }

    fn under(mut self: Box<Self>, raw_key: &str) -> Box<Self> {
        self.path.push(Step::Key(view::text_of(raw_key).into_owned()));
        self
    }
}

fn fits_64_bits(digits: &str, count: usize) -> Checked {
    if count <= 18 || digits.parse::<i64>().is_ok() || digits.parse::<u64>().is_ok() {
        return Ok(());
    }
    Err(Fault::new(format!(
        "holds the integer {digits:.40}, which does not fit in 64 bits; store it as a string or a float"
    )))
}

/// Refuses a key that an object has twice: readers would disagree on which value counts.
fn refuse_repeated(keys: &[&str]) -> Checked {
    // Escapes can write one key in several ways, so keys that have any are compared by what they mean.
    let plain = keys.iter().all(|k| !k.contains('\\'));
    let repeated = if plain && keys.len() <= FEW_KEYS {
        keys.iter().enumerate().find(|(i, key)| keys[..*i].contains(key)).map(|(_, key)| *key)
    } else {
        let mut seen = HashSet::with_capacity(keys.len());
        keys.iter().find(|key| !seen.insert(view::text_of(key))).copied()
    };
    match repeated {
        None => Ok(()),
        Some(key) => Err(Fault::new("is given twice in one object".into()).under(key)),
    }
}
