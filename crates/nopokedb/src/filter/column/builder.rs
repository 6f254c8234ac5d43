//! Reads what rows have at a path, row by row, and sorts it into a [`Part`].

use std::collections::HashMap;
use std::ops::Range;

use super::lane::{Float, Lane, Plain, Texts};
use super::marks::Marks;
use super::{CHUNK, Part, Values};
use crate::filter::ast::Scalar;
use crate::filter::eval::{number_of, some_value};
use crate::metadata::view::{Json, Members, text_of};

/// Collects the values of rows of one chunk.
#[derive(Debug)]
pub(crate) struct PartBuilder {
    path: Vec<String>,
    part: Part,
    alone: Found,
    within: Found,
    /// Bytes of strings at most: beyond, the part is not worth keeping.
    most_text: usize,
}

/// Values met so far, with their rows.
#[derive(Debug, Default)]
struct Found {
    nulls: Vec<((), u16)>,
    bools: Vec<(bool, u16)>,
    integers: Vec<(i64, u16)>,
    large: Vec<(i128, u16)>,
    floats: Vec<(Float, u16)>,
    /// Numbers of the strings met so far.
    known: HashMap<Box<str>, u32>,
    texts: Vec<(u32, u16)>,
    /// Bytes of strings.
    text_bytes: usize,
}

impl PartBuilder {
    /// A builder for the slots `rows`, all in one chunk, that keeps at most `most_text` bytes of strings.
    pub(crate) fn new(path: &[String], rows: &Range<u32>, most_text: usize) -> PartBuilder {
        let chunk = rows.start / CHUNK;
        let rows = rows.start - chunk * CHUNK..rows.end - chunk * CHUNK;
        debug_assert!(rows.end <= CHUNK, "a part lies in one chunk");
        PartBuilder {
            path: path.to_vec(),
            part: Part {
                chunk: chunk as usize,
                exists: Marks::none(&rows),
                not_null: Marks::none(&rows),
                several: Marks::none(&rows),
                rows,
                alone: Values::default(),
                within: Values::default(),
            },
            alone: Found::default(),
            within: Found::default(),
            most_text,
        }
    }

    /// Takes in what the metadata of `slot` has at the path.
    pub(crate) fn add(&mut self, slot: u32, metadata: Members<'_>) {
        #[allow(clippy::cast_possible_truncation)] // a chunk's slots fit
        let slot = (slot % CHUNK) as u16;
        let (part, alone, within) = (&mut self.part, &mut self.alone, &mut self.within);
        let mut leaves = 0;
        some_value(metadata, &self.path, &mut |value| {
            leaves += 1;
            if !matches!(value, Json::Null) {
                part.not_null.set(slot);
            }
            match value {
                Json::Array(items) => items.for_each(|item| within.add(item, slot)),
                value => alone.add(value, slot),
            }
            false
        });
        if leaves > 0 {
            part.exists.set(slot);
        }
        if leaves > 1 {
            part.several.set(slot);
        }
    }

    /// Whether there is more text than there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.alone.text_bytes + self.within.text_bytes > self.most_text
    }

    /// The part, or `None` if it is too large.
    pub(crate) fn finish(self) -> Option<Part> {
        if self.is_full() {
            return None;
        }
        Some(Part { alone: self.alone.sorted(), within: self.within.sorted(), ..self.part })
    }
}

impl Found {
    fn add(&mut self, value: Json<'_>, slot: u16) {
        match value {
            Json::Null => self.nulls.push(((), slot)),
            Json::Bool(b) => self.bools.push((b, slot)),
            Json::Number(digits) => match number_of(digits) {
                Some(Scalar::Integer(i)) => match i64::try_from(i) {
                    Ok(i) => self.integers.push((i, slot)),
                    Err(_) => self.large.push((i, slot)),
                },
                Some(Scalar::Float(f)) => self.floats.extend(Float::new(f).map(|f| (f, slot))),
                _ => {}
            },
            Json::String(raw) => {
                let text = text_of(raw);
                if let Some(&number) = self.known.get(&*text) {
                    return self.texts.push((number, slot));
                }
                let number = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
                self.text_bytes += text.len();
                self.known.insert((*text).into(), number);
                self.texts.push((number, slot));
            }
            Json::Array(_) | Json::Object(_) => {}
        }
    }

    fn sorted(self) -> Values {
        Values {
            nulls: sorted(self.nulls),
            bools: sorted(self.bools),
            integers: sorted(self.integers),
            large: sorted(self.large),
            floats: sorted(self.floats),
            texts: sorted_texts(&self.known, self.texts),
        }
    }
}

fn sorted<T: Plain>(mut pairs: Vec<(T, u16)>) -> Lane<Vec<T>> {
    pairs.sort_unstable();
    Lane::of(pairs.into_iter())
}

fn sorted_texts(known: &HashMap<Box<str>, u32>, mut pairs: Vec<(u32, u16)>) -> Lane<Texts> {
    let mut texts: Vec<(&str, u32)> = known.iter().map(|(text, &number)| (&**text, number)).collect();
    texts.sort_unstable();
    let mut places = vec![0; texts.len()];
    for (place, (_, number)) in (0u32..).zip(&texts) {
        places[*number as usize] = place;
    }
    pairs.iter_mut().for_each(|(number, _)| *number = places[*number as usize]);
    pairs.sort_unstable();
    Lane::of(pairs.into_iter().map(|(place, slot)| (texts[place as usize].0, slot)))
}
