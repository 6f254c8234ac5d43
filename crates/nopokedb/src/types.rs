//! The nouns of the engine: newtypes for ids and positions, so that they cannot be mixed up.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What is told how far a long call is: how much is done, and of how much. It may break it off.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// A row's id, as the caller sees it: an integer, counted from 0 unless the caller gives its own, or text. Both may be mixed
/// in one collection. Cheap to clone.
///
/// ```
/// use nopokedb::Id;
/// assert_eq!(Id::from(7), Id::Int(7));
/// assert_eq!(Id::from("doc-1").to_string(), "doc-1");
/// assert!(Id::Int(u64::MAX) < Id::from(""));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// A number below [`Id::MAX_INT`].
    Int(u64),
    /// Text of 1 to [`Id::MAX_TEXT`] bytes, compared byte by byte.
    Text(Arc<str>),
}

impl Id {
    /// Integer ids are below this: SQLite's integers are signed.
    pub const MAX_INT: u64 = i64::MAX as u64;
    /// The longest text, in bytes.
    pub const MAX_TEXT: usize = u16::MAX as usize;

    /// The number, if it is one.
    pub fn int(&self) -> Option<u64> {
        match self {
            Id::Int(number) => Some(*number),
            Id::Text(_) => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Id::Int(_) => None,
            Id::Text(text) => Some(text),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Int(number) => number.fmt(f),
            Id::Text(text) => text.fmt(f),
        }
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Int(number) => number.fmt(f),
            Id::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl From<u64> for Id {
    fn from(number: u64) -> Id {
        Id::Int(number)
    }
}

impl From<&str> for Id {
    fn from(text: &str) -> Id {
        Id::Text(text.into())
    }
}

impl From<String> for Id {
    fn from(text: String) -> Id {
        Id::Text(text.into())
    }
}

impl From<&Id> for Id {
    fn from(id: &Id) -> Id {
        id.clone()
    }
}

/// A record's number inside the engine. Below `i64::MAX` it is the integer id itself; from 2^63 on it stands for a text,
/// which the record holds as its key (`vectors/keys.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordId(pub(crate) u64);

impl RecordId {
    /// The lowest number that stands for a text.
    pub(crate) const FIRST_TEXT: u64 = 1 << 63;

    /// Whether it stands for a text.
    pub(crate) fn is_text(self) -> bool {
        self.0 >= Self::FIRST_TEXT
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Log sequence number: one per row operation, dense, counted from 1. `Lsn(0)` is "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The LSN `n` operations later.
    pub fn plus(self, n: u64) -> Lsn {
        Lsn(self.0 + n)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A row's position in a collection's index: dense, in LSN order, never reused while the database is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// As an index into per-slot arrays.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A collection's number inside its database; its directory entries and frames carry this, never its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionId(pub u32);

impl CollectionId {
    /// The collection every database has.
    pub const DEFAULT: CollectionId = CollectionId(0);
}

/// A log segment's number: unique for the life of a database, counted from 1, below 2^24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u32);

impl fmt::Display for SegmentNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How distance between two vectors is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `distance = 1 - cos(a, b)`, `score = 1 - distance`. A zero vector has distance 1 to everything.
    Cosine,
    /// `distance = |a - b|^2` (squared), `score = -distance`.
    L2,
    /// `distance = 1 - a . b`, `score = -distance`.
    Ip,
}

impl Metric {
    /// The name users write: `"cosine"`, `"l2"` or `"ip"`.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::L2 => "l2",
            Metric::Ip => "ip",
        }
    }

    /// The metric of that name.
    pub fn from_name(name: &str) -> Option<Metric> {
        [Metric::Cosine, Metric::L2, Metric::Ip].into_iter().find(|m| m.name() == name)
    }

    /// The score of a hit at `distance`: higher is better under every metric.
    pub fn score(self, distance: f32) -> f32 {
        match self {
            Metric::Cosine => 1.0 - distance,
            Metric::L2 | Metric::Ip => -distance,
        }
    }
}

/// How documents are cut into words for full-text search; queries are cut in the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tokenizer {
    /// Runs of letters and digits, without case and accents: `Café` is found by `cafe`. For languages that put spaces
    /// between words.
    #[default]
    Unicode61,
    /// As [`Tokenizer::Unicode61`], and English words by their stems: `running` is found by `runs`.
    Porter,
    /// Every three characters in a row, without case and accents: finds words inside of words, and languages without
    /// spaces, like Chinese and Japanese. The index is several times as large.
    Trigram,
}

impl Tokenizer {
    /// All there are.
    pub const ALL: [Tokenizer; 3] = [Tokenizer::Unicode61, Tokenizer::Porter, Tokenizer::Trigram];

    /// The name users write: `"unicode61"`, `"porter"` or `"trigram"`.
    pub fn name(self) -> &'static str {
        match self {
            Tokenizer::Unicode61 => "unicode61",
            Tokenizer::Porter => "porter",
            Tokenizer::Trigram => "trigram",
        }
    }

    /// The tokenizer of that name.
    pub fn from_name(name: &str) -> Option<Tokenizer> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
