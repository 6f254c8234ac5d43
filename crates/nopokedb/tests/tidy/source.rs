//! Reads Rust source as far as the rules of the house need it: no strings, no comments, which lines are tests, where
//! functions begin and end, and which modules a file names. Not a parser: it trusts rustfmt's layout and the compiler.

use std::collections::BTreeSet;

/// One source file, seen three ways.
pub struct Source {
    /// Path from the workspace's root, with forward slashes.
    pub path: String,
    /// The text as it stands.
    pub text: String,
    /// The same text with strings, chars and comments blanked; lines and columns are kept.
    pub code: String,
    /// Whether each line belongs to a `#[cfg(test)]` item.
    pub is_test_line: Vec<bool>,
}

/// A function and how many lines it takes, from `fn` to its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let is_test_line = test_lines(&code);
        Source { path: path.to_owned(), text: text.to_owned(), code, is_test_line }
    }

    /// Lines outside `#[cfg(test)]` items.
    pub fn non_test_lines(&self) -> usize {
        self.is_test_line.iter().filter(|t| !**t).count()
    }

    /// `code` without the lines of tests.
    pub fn production_code(&self) -> String {
        let keep = |(line, test): (&str, &bool)| if *test { String::new() } else { line.to_owned() };
        self.code.lines().zip(&self.is_test_line).map(keep).collect::<Vec<_>>().join("\n")
    }

    /// Every function with a body outside tests.
    pub fn functions(&self) -> Vec<Function> {
        let code = self.production_code();
        words(&code).filter(|(_, w)| *w == "fn").filter_map(|(at, _)| function_at(&code, at)).collect()
    }

    /// Modules declared here under `#[cfg(test)]` without a body: their files are tests too.
    pub fn test_modules(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut rest = self.code.as_str();
        while let Some(at) = rest.find("#[cfg(test)]") {
            rest = &rest[at + "#[cfg(test)]".len()..];
            let item = rest.trim_start();
            let item = item.strip_prefix("pub(crate) ").or_else(|| item.strip_prefix("pub ")).unwrap_or(item);
            if let Some(name) = item.strip_prefix("mod ").and_then(|m| m.split_once(';')).map(|(name, _)| name)
                && name.chars().all(is_word)
            {
                found.push(name.to_owned());
            }
        }
        found
    }

    /// The module path of this file below `src/`: `["index", "hnsw", "graph"]`; empty for `lib.rs`.
    pub fn module(&self) -> Vec<String> {
        let inner = self.path.split_once("/src/").map_or("", |(_, inner)| inner);
        let mut parts: Vec<String> = inner.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
            parts.pop();
        }
        parts
    }

    /// The crate's top-level modules that the code outside tests names, by `crate::` or by `super::` up to the root.
    pub fn names_modules(&self) -> BTreeSet<String> {
        let code = self.production_code();
        let mut found = after(&code, "crate::");
        let ups = "super::".repeat(self.module().len());
        if !ups.is_empty() {
            found.extend(after(&code, &ups));
        }
        // What starts with a capital or names a macro or function is re-exported by lib.rs: the front door, no module.
        found.into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase())).collect()
    }
}

/// The first path segment after each `prefix` in `code`; a `{a, b::c}` group gives one segment per member.
fn after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let preceded = code[..at].chars().next_back();
        if preceded.is_some_and(|c| is_word(c) || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

fn head(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|c| is_word(*c)).collect();
    (!name.is_empty() && name != "super").then_some(name)
}

fn group_heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut heads = Vec::from_iter(head(group));
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(head(&group[at + 1..])),
            _ => {}
        }
    }
    heads
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every word of `code` with its byte offset.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let start = code.as_ptr() as usize;
    code.split(|c| !is_word(c)).filter(|w| !w.is_empty()).map(move |w| (w.as_ptr() as usize - start, w))
}

/// The 1-based line of byte offset `at`.
pub fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

fn function_at(code: &str, at: usize) -> Option<Function> {
    let rest = &code[at..];
    let name: String = rest["fn".len()..].trim_start().chars().take_while(|c| is_word(*c)).collect();
    let open = rest.find(['{', ';']).filter(|_| !name.is_empty())?;
    // A `;` before the brace is a declaration without a body, unless it stands in an array type such as `[u8; 4]`.
    let open = match rest[open..].starts_with(';') && !inside_brackets(&rest[..open]) {
        true => return None,
        false => open + rest[open..].find('{')?,
    };
    let close = matching_brace(rest, open)?;
    let lines = line_of(rest, close);
    Some(Function { name, line: line_of(code, at), lines })
}

fn inside_brackets(text: &str) -> bool {
    text.matches('[').count() > text.matches(']').count()
}

fn matching_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(open + at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Marks the lines of every item that follows a `#[cfg(test)]`.
fn test_lines(code: &str) -> Vec<bool> {
    let mut marks = vec![false; code.lines().count()];
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        let rest = &code[at + attribute.len()..];
        let Some(stop) = rest.find(['{', ';']) else { continue };
        let end = if rest[stop..].starts_with('{') { matching_brace(rest, stop).unwrap_or(stop) } else { stop };
        let (first, last) = (line_of(code, at), line_of(code, at + attribute.len() + end));
        marks[first - 1..last].fill(true);
    }
    marks
}

/// Replaces strings, character literals and comments by spaces, keeping every newline.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = skipped_len(rest, out.chars().next_back());
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        out.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[skipped..];
    }
    out
}

/// Bytes of the comment or literal that `rest` starts with; 0 when it starts with code.
fn skipped_len(rest: &str, previous: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with('"') {
        return string_len(rest);
    }
    if rest.starts_with('\'') {
        return char_len(rest);
    }
    let hashes = rest.strip_prefix('r').map_or(0, |r| r.len() - r.trim_start_matches('#').len());
    if rest.starts_with('r') && rest[1 + hashes..].starts_with('"') && !previous.is_some_and(is_word) {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = 2 + hashes;
        return rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len());
    }
    0
}

fn string_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal's length, or 0 for a lifetime.
fn char_len(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(0, |at| 3 + at + 1),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}
