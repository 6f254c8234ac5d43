//! A set of rows of one chunk, as bits.

use std::ops::Range;

/// Bits of the rows of a range, in whole words.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    first_word: usize,
    words: Vec<u64>,
}

impl Marks {
    /// No row of `rows`.
    pub(super) fn none(rows: &Range<u32>) -> Marks {
        let (first, end) = (rows.start as usize / 64, rows.end.div_ceil(64) as usize);
        Marks { first_word: first, words: vec![0; end - first] }
    }

    /// Adds a row of the range.
    pub(super) fn set(&mut self, slot: u16) {
        self.words[usize::from(slot / 64) - self.first_word] |= 1 << (slot % 64);
    }

    /// Both sets, of neighbouring ranges.
    pub(super) fn merged(earlier: &Marks, later: &Marks) -> Marks {
        let mut words = earlier.words.clone();
        words.resize(later.first_word + later.words.len() - earlier.first_word, 0);
        let mut merged = Marks { first_word: earlier.first_word, words };
        let at = later.first_word - merged.first_word;
        merged.words[at..].iter_mut().zip(&later.words).for_each(|(word, more)| *word |= more);
        merged
    }

    /// Sets the rows' bits among those of the chunk; bits past its end are left out.
    pub(super) fn set_in(&self, chunk: &mut [u64]) {
        let from = self.first_word.min(chunk.len());
        chunk[from..].iter_mut().zip(&self.words).for_each(|(word, more)| *word |= more);
    }

    /// How many rows there are.
    pub(super) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Bytes held in memory.
    pub(super) fn bytes(&self) -> usize {
        8 * self.words.capacity()
    }
}
