//! What rows have at one path, kept so that a test is answered without reading any row: the values in order, each with the
//! rows that have it.
//!
//! Invariants:
//! 1. A column holds the rows below its length, in parts that each lie within one chunk of [`CHUNK`] slots; parts neither
//!    change nor move. New rows make new parts; a small part is merged with the one before it in its chunk, so that a chunk
//!    has few, and a row is moved a number of times that is logarithmic in a chunk.
//! 2. For a row of the column [`Column::find`] says what [`Test::holds`](crate::filter::Test) says, except for `$contains_all`
//!    in rows with several values at the path ([`Column::several`]): all of the list may be contained in different ones.
//! 3. Values of arrays are kept apart from those that stand alone, because `$contains` asks for one or the other.
//!
//! Threading: none of its own; a column is cloned (it shares its parts) and read by any thread.

mod builder;
mod lane;
mod marks;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use super::ast::{Order, Scalar, TestKind};
use super::like::Like;
pub(crate) use builder::PartBuilder;
use lane::{Bound, Float, Keys, Lane, Plain, Texts};
use marks::Marks;

/// Slots that parts do not reach across: their rows are numbered in 16 bits.
pub(crate) const CHUNK: u32 = 1 << 16;
/// Words of a chunk's bits.
const CHUNK_WORDS: usize = CHUNK as usize / 64;

/// The values of the rows below a length at one path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    parts: Vec<Arc<Part>>,
    len: u32,
    bytes: usize,
}

/// The values of some neighbouring rows.
#[derive(Debug)]
pub(crate) struct Part {
    chunk: usize,
    /// Counted from the chunk's first slot.
    rows: Range<u32>,
    /// Rows with any value; with one that is not null; with several.
    exists: Marks,
    not_null: Marks,
    several: Marks,
    /// Values that stand alone, and those in arrays.
    alone: Values,
    within: Values,
}

/// Values by kind. Integers of more than 64 bits with a sign are rare enough to be kept apart.
#[derive(Debug, Default)]
struct Values {
    nulls: Lane<Vec<()>>,
    bools: Lane<Vec<bool>>,
    integers: Lane<Vec<i64>>,
    large: Lane<Vec<i128>>,
    floats: Lane<Vec<Float>>,
    texts: Lane<Texts>,
}

/// The rows that pass a test, not yet put together.
#[derive(Debug, Default)]
pub(crate) struct Found<'a> {
    runs: Vec<(usize, &'a [u16])>,
    marks: Vec<(usize, &'a Marks)>,
}

impl Column {
    /// How many rows it holds.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Goes on with the next rows.
    pub(crate) fn push(&mut self, part: Part) {
        debug_assert_eq!(part.first_slot(), self.len, "rows come in order");
        self.len += part.len();
        self.bytes += part.bytes();
        let mut part = Arc::new(part);
        while let Some(before) = self.parts.last()
            && before.chunk == part.chunk
            && (before.len() <= 2 * part.len() || part.rows.end == CHUNK)
        {
            self.bytes -= before.bytes() + part.bytes();
            part = Arc::new(Part::merged(before, &part));
            self.bytes += part.bytes();
            self.parts.pop();
        }
        self.parts.push(part);
    }

    /// The rows that pass a test of this kind; with `$contains_all`, those that may.
    pub(crate) fn find(&self, kind: &TestKind) -> Found<'_> {
        let mut found = Found::default();
        for part in &self.parts {
            match kind {
                TestKind::Exists => found.marks.push((part.chunk, &part.exists)),
                TestKind::NotNull => found.marks.push((part.chunk, &part.not_null)),
                TestKind::ContainsAll(list) if list.is_empty() => found.marks.push((part.chunk, &part.exists)),
                TestKind::ContainsAll(list) => part.contain(&list[..1], &mut found),
                TestKind::ContainsAny(list) => part.contain(list, &mut found),
                kind => {
                    let mut add = |rows| found.add(part.chunk, rows);
                    part.alone.find(kind, &mut add);
                    part.within.find(kind, &mut add);
                }
            }
        }
        found
    }

    /// The rows with an array that has this element, or with a string that has this part.
    pub(crate) fn containing(&self, operand: &Scalar) -> Found<'_> {
        let mut found = Found::default();
        self.parts.iter().for_each(|part| part.contain(std::slice::from_ref(operand), &mut found));
        found
    }

    /// The rows with several values at the path.
    pub(crate) fn several(&self) -> Found<'_> {
        Found { runs: Vec::new(), marks: self.parts.iter().map(|part| (part.chunk, &part.several)).collect() }
    }
}

impl Column {
    /// Shows `add` how many of the rows in `words`, one bit a slot, have which value; the same value may come again for
    /// other rows. None of the rows has several values at the path ([`Column::several`]), but any may have an array.
    pub(crate) fn count(&self, words: &[u64], add: &mut dyn FnMut(Scalar, usize)) {
        for part in &self.parts {
            let words = &words[(part.chunk * CHUNK_WORDS).min(words.len())..];
            part.alone.count(words, add);
            part.within.count(words, add);
        }
    }
}

impl<'a> Found<'a> {
    fn add(&mut self, chunk: usize, rows: &'a [u16]) {
        if !rows.is_empty() {
            self.runs.push((chunk, rows));
        }
    }

    /// How many rows there are at most.
    pub(crate) fn most(&self) -> usize {
        let runs = self.runs.iter().map(|(_, rows)| rows.len());
        runs.chain(self.marks.iter().map(|(_, marks)| marks.count())).sum()
    }

    /// Sets their bits in `words`, one bit a slot; those past its end are left out.
    pub(crate) fn set_in(&self, words: &mut [u64]) {
        for &(chunk, rows) in &self.runs {
            let words = chunk_of(words, chunk);
            for &row in rows {
                if let Some(word) = words.get_mut(usize::from(row / 64)) {
                    *word |= 1 << (row % 64);
                }
            }
        }
        self.marks.iter().for_each(|(chunk, marks)| marks.set_in(chunk_of(words, *chunk)));
    }
}

fn chunk_of(words: &mut [u64], chunk: usize) -> &mut [u64] {
    let (from, end) = (chunk * CHUNK_WORDS, (chunk + 1) * CHUNK_WORDS);
    let len = words.len();
    &mut words[from.min(len)..end.min(len)]
}

impl Part {
    fn first_slot(&self) -> u32 {
        u32::try_from(self.chunk).unwrap_or(u32::MAX) * CHUNK + self.rows.start
    }

    fn len(&self) -> u32 {
        self.rows.end - self.rows.start
    }

    fn bytes(&self) -> usize {
        let marks = self.exists.bytes() + self.not_null.bytes() + self.several.bytes();
        size_of::<Part>() + marks + self.alone.bytes() + self.within.bytes()
    }

    fn merged(earlier: &Part, later: &Part) -> Part {
        debug_assert!(earlier.chunk == later.chunk && earlier.rows.end == later.rows.start, "neighbours");
        Part {
            chunk: earlier.chunk,
            rows: earlier.rows.start..later.rows.end,
            exists: Marks::merged(&earlier.exists, &later.exists),
            not_null: Marks::merged(&earlier.not_null, &later.not_null),
            several: Marks::merged(&earlier.several, &later.several),
            alone: Values::merged(&earlier.alone, &later.alone),
            within: Values::merged(&earlier.within, &later.within),
        }
    }

    /// Rows with an array that has an element of `list`, or with a string that has one as a part.
    fn contain<'a>(&'a self, list: &[Scalar], found: &mut Found<'a>) {
        let mut add = |rows| found.add(self.chunk, rows);
        for operand in list {
            let bound = Some(Bound { operand, included: true });
            self.within.between(bound, bound, &mut add);
            if let Scalar::String(text) = operand {
                self.alone.texts_that(0, |key| Some(key.contains(text.as_str())), &mut add);
            }
        }
    }
}

impl Values {
    fn merged(a: &Values, b: &Values) -> Values {
        Values {
            nulls: Lane::merged(&a.nulls, &b.nulls),
            bools: Lane::merged(&a.bools, &b.bools),
            integers: Lane::merged(&a.integers, &b.integers),
            large: Lane::merged(&a.large, &b.large),
            floats: Lane::merged(&a.floats, &b.floats),
            texts: Lane::merged(&a.texts, &b.texts),
        }
    }

    fn bytes(&self) -> usize {
        let bytes = self.nulls.bytes() + self.bools.bytes() + self.integers.bytes();
        bytes + self.large.bytes() + self.floats.bytes() + self.texts.bytes()
    }

    /// Shows `add` how many of the rows in `words` have which value.
    fn count(&self, words: &[u64], add: &mut dyn FnMut(Scalar, usize)) {
        let is_in = |row: u16| words.get(usize::from(row / 64)).is_some_and(|word| word >> (row % 64) & 1 == 1);
        let mut tell = |value: &dyn Fn() -> Scalar, rows: &mut dyn Iterator<Item = u16>| match rows.count() {
            0 => {}
            n => add(value(), n),
        };
        self.nulls.each(|key, rows| tell(&|| key.scalar(), &mut rows.iter().copied().filter(|row| is_in(*row))));
        self.bools.each(|key, rows| tell(&|| key.scalar(), &mut rows.iter().copied().filter(|row| is_in(*row))));
        self.integers.each(|key, rows| tell(&|| key.scalar(), &mut rows.iter().copied().filter(|row| is_in(*row))));
        self.large.each(|key, rows| tell(&|| key.scalar(), &mut rows.iter().copied().filter(|row| is_in(*row))));
        self.texts.each(|key, rows| tell(&|| Texts::scalar(key), &mut rows.iter().copied().filter(|row| is_in(*row))));
        self.floats.each(|key, rows| {
            // An array may hold a number as an integer and as a float, which is one value.
            let value = key.scalar();
            let bound = Some(Bound { operand: &value, included: true });
            let small = self.integers.rows(self.integers.within(bound, bound));
            let large = self.large.rows(self.large.within(bound, bound));
            let counted = |row: &u16| small.binary_search(row).is_ok() || large.binary_search(row).is_ok();
            tell(&|| value.clone(), &mut rows.iter().copied().filter(|row| is_in(*row) && !counted(row)));
        });
    }

    /// Hands over the rows with a value that passes.
    fn find<'a>(&'a self, kind: &TestKind, add: &mut impl FnMut(&'a [u16])) {
        let bound = |operand, included| Some(Bound { operand, included });
        match kind {
            TestKind::Equal(operand) => self.between(bound(operand, true), bound(operand, true), add),
            TestKind::Ordered(order, operand) => match order {
                Order::Greater => self.between(bound(operand, false), None, add),
                Order::GreaterOrEqual => self.between(bound(operand, true), None, add),
                Order::Less => self.between(None, bound(operand, false), add),
                Order::LessOrEqual => self.between(None, bound(operand, true), add),
            },
            TestKind::Between(low, high) => self.between(bound(low, true), bound(high, true), add),
            TestKind::In(list) => {
                for operand in list {
                    self.between(bound(operand, true), bound(operand, true), add);
                }
            }
            TestKind::StartsWith(prefix) => {
                let first = self.texts.first(|key| key < prefix.as_str());
                let rest = self.texts.first(|key| key < prefix.as_str() || key.starts_with(prefix.as_str()));
                add(self.texts.rows(first..rest));
            }
            TestKind::Like(like) => self.like(like, add),
            // Asked of whole values, not of scalars.
            TestKind::Exists | TestKind::NotNull | TestKind::ContainsAny(_) | TestKind::ContainsAll(_) => {}
        }
    }

    fn like<'a>(&'a self, like: &Like, add: &mut impl FnMut(&'a [u16])) {
        let prefix = like.prefix();
        let first = self.texts.first(|key| key < prefix.as_str());
        self.texts_that(first, |key| key.starts_with(prefix.as_str()).then(|| like.matches(key)), add);
    }

    /// Hands over the rows of the strings from `first` on that pass, up to the first one for which there is no answer.
    fn texts_that<'a>(&'a self, first: usize, passes: impl Fn(&str) -> Option<bool>, add: &mut impl FnMut(&'a [u16])) {
        for i in first..self.texts.keys.len() {
            match passes(self.texts.keys.get(i)) {
                Some(true) => add(self.texts.rows(i..i + 1)),
                Some(false) => {}
                None => break,
            }
        }
    }

    /// Hands over the rows with a value within bounds.
    fn between<'a>(&'a self, low: Option<Bound<'_>>, high: Option<Bound<'_>>, add: &mut impl FnMut(&'a [u16])) {
        add(self.nulls.rows(self.nulls.within(low, high)));
        add(self.bools.rows(self.bools.within(low, high)));
        add(self.integers.rows(self.integers.within(low, high)));
        add(self.large.rows(self.large.within(low, high)));
        add(self.floats.rows(self.floats.within(low, high)));
        add(self.texts.rows(self.texts.within(low, high)));
    }
}
