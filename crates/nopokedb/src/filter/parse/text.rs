//! The string dialect: `year >= 2020 and (lang = 'en' or not tags contains 'x')`.
//!
//! ```text
//! filter  = both { "or" both }
//! both    = one { "and" one }
//! one     = "not" one | "(" filter ")" | path test
//! test    = ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
//!         | ["not"] ( "in" list | "between" value "and" value | "like" string | "startswith" string
//!                   | "contains" value | "contains_any" list | "contains_all" list | "exists" )
//!         | "is" ["not"] "null"
//! path    = key { "." key }      key = word, or anything in "double quotes" or `back quotes`
//! value   = 'text' | "text" | number | "true" | "false" | "null"
//! list    = "(" [ value { "," value } ] ")", or the same in [ ]
//! ```
//! Words are case-blind, keys are not. A quote inside a text is written twice: `'it''s'`.

use super::super::ast::{Node, Order, Scalar, Test, TestKind};
use super::super::like::Like;
use super::super::{MAX_DEPTH, MAX_TEXT, invalid};
use crate::error::{Error, Result};

const OPERATORS: &str = "=, !=, <, <=, >, >=, in, between, like, startswith, contains, contains_any, contains_all, \
                         exists, is null, or \"not\" and one of them";

/// Reads a whole filter.
pub(in crate::filter) fn parse(text: &str) -> Result<Node> {
    if text.len() > MAX_TEXT {
        return Err(invalid(format!("filter: {} bytes long, the limit is {MAX_TEXT}", text.len())));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens: &tokens, at: 0, depth: 0 };
    if parser.peek() == Token::End {
        // Not "every row": a text that came out empty by mistake must not delete them.
        return Err(parser.error("a filter (leave it out, or give {}, for every row)"));
    }
    let node = parser.filter()?;
    match parser.peek() {
        Token::End => Ok(node),
        _ => Err(parser.error("\"and\", \"or\" or the end")),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    /// A key or a word of the language.
    Word(&'a str),
    /// In single quotes: a text.
    Text(String),
    /// In double quotes: a text or a key, whichever fits. In back quotes, too.
    Quoted(String),
    Number(Scalar),
    /// An operator or a bracket.
    Sign(&'a str),
    End,
}

const SIGNS: [&str; 16] = ["==", "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ",", ".", "&&", "||"];

/// The tokens, each with the byte where it begins.
fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let after_dot = matches!(found.last(), Some((_, Token::Sign("."))));
        let (token, len) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '\'' | '"' | '`' => quoted(text, at, c)?,
            '0'..='9' | '-' | '+' if !after_dot => number(text, at)?,
            c if is_word(c) => {
                let len = rest.find(|c| !is_word(c) && c != '-').unwrap_or(rest.len());
                (Token::Word(&rest[..len]), len)
            }
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (Token::Sign(sign), sign.len()),
                None => return Err(error_at(text, at, &format!("no {c:?}"), rest)),
            },
        };
        found.push((at, token));
        at += len;
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '@')
}

fn quoted(text: &str, start: usize, quote: char) -> Result<(Token<'static>, usize)> {
    let (mut content, mut chars) = (String::new(), text[start + 1..].char_indices().peekable());
    while let Some((i, c)) = chars.next() {
        if c != quote {
            content.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            content.push(quote);
        } else {
            let token = if quote == '\'' { Token::Text(content) } else { Token::Quoted(content) };
            return Ok((token, i + 2));
        }
    }
    Err(error_at(text, start, &format!("a closing {quote} for this one"), &text[start..]))
}

fn number(text: &str, start: usize) -> Result<(Token<'static>, usize)> {
    let rest = &text[start..];
    // Everything that could be meant as one number or date, so that the message shows it whole.
    let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+')));
    let len = end.unwrap_or(rest.len());
    let digits = &rest[..len];
    let plain = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+'));
    let fits = |n: &i128| i128::from(i64::MIN) <= *n && *n <= i128::from(u64::MAX);
    let integer = digits.parse::<i128>().ok();
    let scalar = match integer {
        Some(_) => integer.filter(fits).map(Scalar::Integer),
        None => digits.parse().ok().filter(|f: &f64| plain && f.is_finite()).map(Scalar::Float),
    };
    let expected = "a 64-bit number (a text or a date needs 'quotes')";
    scalar.map(|scalar| (Token::Number(scalar), len)).ok_or_else(|| error_at(text, start, expected, digits))
}

fn error_at(text: &str, at: usize, expected: &str, found: &str) -> Error {
    let character = text[..at].chars().count() + 1;
    let found = if found.is_empty() { "the end".to_owned() } else { format!("{found:.30?}") };
    invalid(format!("filter, character {character}: expected {expected}, found {found}"))
}

struct Parser<'a, 't> {
    text: &'a str,
    tokens: &'t [(usize, Token<'a>)],
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a, '_> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).map_or(Token::End, |(_, token)| token.clone())
    }

    /// The place of the next token, and what is there instead of what was `expected`.
    fn error(&self, expected: &str) -> Error {
        let at = self.tokens.get(self.at).map_or(self.text.len(), |(at, _)| *at);
        let next = self.tokens.get(self.at + 1).map_or(self.text.len(), |(at, _)| *at);
        error_at(self.text, at, expected, self.text[at..next].trim_end())
    }

    /// Steps over the word, if it is next.
    fn word(&mut self, word: &str) -> bool {
        let is_next = matches!(self.peek(), Token::Word(w) if w.eq_ignore_ascii_case(word));
        self.at += usize::from(is_next);
        is_next
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is_next = self.peek() == Token::Sign(match_sign(sign));
        self.at += usize::from(is_next);
        is_next
    }

    fn filter(&mut self) -> Result<Node> {
        let mut nodes = vec![self.both()?];
        while self.word("or") || self.sign("||") {
            nodes.push(self.both()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn both(&mut self) -> Result<Node> {
        let mut nodes = vec![self.one()?];
        while self.word("and") || self.sign("&&") {
            nodes.push(self.one()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn one(&mut self) -> Result<Node> {
        self.depth += 1;
        // The tree has a level for each of "and", "or" and "not", so this is reached only by what is refused anyway.
        if self.depth > 4 * MAX_DEPTH {
            return Err(invalid(format!("filter: nests too deep, the limit is {MAX_DEPTH} levels")));
        }
        let node = if self.word("not") {
            self.one()?.negated()
        } else if self.sign("(") {
            let node = self.filter()?;
            if !self.sign(")") {
                return Err(self.error("\"and\", \"or\" or a closing )"));
            }
            node
        } else {
            let path = self.path()?;
            self.test(path)?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn path(&mut self) -> Result<Vec<String>> {
        let mut path = Vec::new();
        loop {
            match self.peek() {
                Token::Word(word) => path.push(word.to_owned()),
                Token::Quoted(key) if !key.is_empty() => path.push(key),
                _ => return Err(self.error("a key of the metadata")),
            }
            self.at += 1;
            if !self.sign(".") {
                return Ok(path);
            }
        }
    }

    fn test(&mut self, path: Vec<String>) -> Result<Node> {
        let signs = [("=", None), ("==", None), ("!=", None), ("<>", None)].into_iter().chain([
            (">", Some(Order::Greater)),
            (">=", Some(Order::GreaterOrEqual)),
            ("<", Some(Order::Less)),
            ("<=", Some(Order::LessOrEqual)),
        ]);
        for (sign, order) in signs {
            if !self.sign(sign) {
                continue;
            }
            let kind = match order {
                Some(order) => TestKind::Ordered(order, self.ordered()?),
                None => TestKind::Equal(self.value()?),
            };
            return Ok(negated_if(matches!(sign, "!=" | "<>"), path, kind));
        }
        if self.word("is") {
            let not = self.word("not");
            if !self.word("null") {
                return Err(self.error("null (other values are compared with =)"));
            }
            return Ok(negated_if(!not, path, TestKind::NotNull));
        }
        let not = self.word("not");
        let kind = self.worded_test()?;
        Ok(negated_if(not, path, kind))
    }

    fn worded_test(&mut self) -> Result<TestKind> {
        if self.word("in") {
            return Ok(TestKind::in_list(self.list()?));
        }
        if self.word("between") {
            let low = self.ordered()?;
            if !self.word("and") {
                return Err(self.error("\"and\" and the upper end"));
            }
            let at = self.at;
            let high = self.ordered()?;
            if !low.is_like(&high) {
                self.at = at;
                return Err(self.error(&format!("{}, as the lower end is", low.kind())));
            }
            return Ok(TestKind::Between(low, high));
        }
        if self.word("like") {
            let pattern = self.string()?;
            return match Like::new(&pattern) {
                Some(like) => Ok(TestKind::Like(like)),
                None => {
                    self.at -= 1;
                    Err(self.error("a pattern that does not end in a lone \\"))
                }
            };
        }
        if self.word("startswith") {
            return Ok(TestKind::StartsWith(self.string()?));
        }
        if self.word("contains_any") {
            return Ok(TestKind::ContainsAny(self.list()?));
        }
        if self.word("contains_all") {
            return Ok(TestKind::ContainsAll(self.list()?));
        }
        if self.word("contains") {
            return Ok(TestKind::ContainsAny(vec![self.value()?]));
        }
        if self.word("exists") {
            return Ok(TestKind::Exists);
        }
        Err(self.error(&format!("an operator: {OPERATORS}")))
    }

    fn value(&mut self) -> Result<Scalar> {
        let value = match self.peek() {
            Token::Text(text) | Token::Quoted(text) => Scalar::String(text),
            Token::Number(number) => number,
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Scalar::Bool(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Scalar::Bool(false),
            Token::Word(word) if word.eq_ignore_ascii_case("null") => Scalar::Null,
            Token::Word(_) => return Err(self.error("a value (a text needs 'quotes')")),
            _ => return Err(self.error("a value: 'text', a number, true, false or null")),
        };
        self.at += 1;
        Ok(value)
    }

    fn ordered(&mut self) -> Result<Scalar> {
        let at = self.at;
        let value = self.value()?;
        if value.has_order() {
            return Ok(value);
        }
        self.at = at;
        Err(self.error("a number or a text, which have an order"))
    }

    fn string(&mut self) -> Result<String> {
        match self.peek() {
            Token::Text(text) | Token::Quoted(text) => {
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.error("a text in 'quotes'")),
        }
    }

    fn list(&mut self) -> Result<Vec<Scalar>> {
        let close = match self.peek() {
            Token::Sign("(") => ")",
            Token::Sign("[") => "]",
            _ => return Err(self.error("a list like ('a', 'b')")),
        };
        self.at += 1;
        let mut list = Vec::new();
        if self.sign(close) {
            return Ok(list);
        }
        loop {
            list.push(self.value()?);
            if self.sign(close) {
                return Ok(list);
            }
            if !self.sign(",") {
                return Err(self.error(&format!("a comma or a closing {close}")));
            }
        }
    }
}

/// The sign as the tokens have it.
fn match_sign(sign: &str) -> &'static str {
    SIGNS.iter().find(|known| **known == sign).copied().unwrap_or("")
}

fn negated_if(negated: bool, path: Vec<String>, kind: TestKind) -> Node {
    let node = Node::Test(Test { path, kind });
    if negated { node.negated() } else { node }
}
