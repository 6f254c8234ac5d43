//! The words of a query.

use crate::error::{Error, Result};
use crate::options::in_range;

/// The longest text that may be searched for.
const MAX_BYTES: usize = 64 << 10;
/// The most different words that it may have.
pub(crate) const MAX_TERMS: usize = 1_024;

/// Words to search the documents for. Build one with [`Text::new`] and change what you need.
///
/// ```
/// use nopokedb::{Query, Text, TextMode};
/// let text = Text { mode: TextMode::All, ..Text::new("crash safe") };
/// let query = Query { text: Some(text), ..Query::nearest(10) };
/// assert!(query.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What is searched for. Plain text: nothing in it is an operator, unless `syntax` says so.
    pub query: String,
    /// Whether a document needs one of the words, or all.
    pub mode: TextMode,
    /// How `query` is read.
    pub syntax: TextSyntax,
    /// What stands before and after each word that was found, in a hit's snippet.
    pub marks: (String, String),
    /// How many words a snippet has at most, 1 to 64.
    pub snippet_words: usize,
}

/// Which documents match a plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextMode {
    /// Those that have at least one of its words. Those with more of them, and rarer ones, come first.
    #[default]
    Any,
    /// Those that have every word.
    All,
}

/// How a text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextSyntax {
    /// As words, whatever characters it has.
    #[default]
    Plain,
    /// As SQLite's FTS5 query language: `"a phrase" AND word* NOT (other OR NEAR(one two, 5))`. Ranked by FTS5's own bm25,
    /// which takes microseconds for every document that matches.
    Fts5,
}

impl Text {
    /// A plain text of which any word may match.
    pub fn new(query: impl Into<String>) -> Self {
        Text {
            query: query.into(),
            mode: TextMode::default(),
            syntax: TextSyntax::default(),
            marks: ("**".into(), "**".into()),
            snippet_words: 24,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.query.trim().is_empty() {
            return Err(Error::argument("text is empty; give some words to search for, or none at all"));
        }
        in_range("the length of text in bytes", self.query.len(), 1, MAX_BYTES)?;
        if self.syntax == TextSyntax::Fts5 && self.mode == TextMode::All {
            return Err(Error::argument(
                "text_mode is about plain words, and an FTS5 expression says by itself which it needs; leave text_mode out",
            ));
        }
        if self.marks.0.contains('\0') || self.marks.1.contains('\0') {
            return Err(Error::argument("highlight holds a NUL character, which no snippet can have; use others"));
        }
        in_range("snippet_words", self.snippet_words, 1, 64)
    }
}
