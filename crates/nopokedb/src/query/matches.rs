//! Which rows pass a filter: one bit per slot, kept between queries.
//!
//! Invariants:
//! 1. A slot's metadata never changes (an upsert makes a new slot), so a bit once computed stays right: new slots are
//!    evaluated, old ones never again. Deaths are not in the bits; a view knows them.
//! 2. Bits belong to one generation's slots; its cache goes with it.
//! 3. A row that compaction dropped has its bit set. No view taken from now on sees it, and one that still does finds out
//!    when it reads the row, and starts over.
//! 4. The cache holds at most [`MOST_FILTERS`] filters and [`MOST_BYTES`]; the one used longest ago goes first.
//!
//! Threading: a short mutex around the list of what is kept; evaluation is outside of it. Two threads that meet a new filter
//! at once both evaluate it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::filter::Filter;
use crate::types::Slot;
use crate::vectors::Visibility;
use crate::vectors::view::View;

const MOST_FILTERS: usize = 32;
const MOST_BYTES: usize = 64 << 20;

/// The slots below a length that pass a filter, dead ones included.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    len: u32,
    ones: usize,
    words: Vec<u64>,
}

impl Matches {
    /// Whether the slot passes.
    #[inline]
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.words.get(slot.index() / 64).is_some_and(|word| word >> (slot.0 % 64) & 1 == 1)
    }

    /// How many pass, dead ones included.
    pub(crate) fn count(&self) -> usize {
        self.ones
    }

    /// Those that pass and that `view` sees, in order.
    pub(crate) fn live<'a>(&'a self, view: &'a View<'_>) -> impl Iterator<Item = Slot> + 'a {
        self.slots(view.snapshot.len).filter(|slot| view.is_live(*slot))
    }

    /// Those below `len` that pass, in order.
    pub(crate) fn slots(&self, len: u32) -> impl Iterator<Item = Slot> {
        let slots = (0u32..).step_by(64).zip(&self.words).flat_map(|(first, &word)| Bits { first, word });
        slots.take_while(move |slot| slot.0 < len)
    }

    /// These and the slots that `view` has beyond them.
    fn extended(&self, filter: &Filter, view: &View<'_>) -> Result<Matches> {
        let len = view.snapshot.len;
        let mut words = Vec::with_capacity(len.div_ceil(64) as usize);
        words.extend_from_slice(&self.words);
        words.resize(len.div_ceil(64) as usize, 0);
        let mut ones = self.ones;
        for slot in (self.len..len).map(Slot) {
            // Invariant 3.
            if view.with_metadata(slot, |text| filter.matches_text(text))?.unwrap_or(true) {
                words[slot.index() / 64] |= 1 << (slot.0 % 64);
                ones += 1;
            }
        }
        Ok(Matches { len, ones, words })
    }
}

/// The set bits of a word, as slots.
struct Bits {
    first: u32,
    word: u64,
}

impl Iterator for Bits {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word - 1;
        Some(Slot(self.first + bit))
    }
}

/// The rows of a view that pass a filter, for the index.
pub(crate) struct Passing<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) matches: &'a Matches,
}

impl Visibility for Passing<'_> {
    fn len(&self) -> u32 {
        self.view.len()
    }

    #[inline]
    fn is_live(&self, slot: Slot) -> bool {
        self.matches.contains(slot) && self.view.is_live(slot)
    }
}

/// What was found for the filters used last.
#[derive(Default)]
pub(crate) struct FilterCache {
    /// The one used last is last.
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    filter: Filter,
    bytes: usize,
    matches: Arc<Matches>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.bytes + 8 * self.matches.words.len()
    }
}

impl fmt::Debug for FilterCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilterCache({} filters)", self.lock().len())
    }
}

impl FilterCache {
    /// The rows of `view` that pass `filter`, and perhaps newer ones.
    pub(crate) fn matches(&self, filter: &Filter, view: &View<'_>) -> Result<Arc<Matches>> {
        let known = self.find(filter).unwrap_or_default();
        if known.len >= view.snapshot.len {
            return Ok(known);
        }
        let matches = Arc::new(known.extended(filter, view)?);
        self.keep(filter, &matches);
        Ok(matches)
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().iter().map(Kept::bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, filter: &Filter) -> Option<Arc<Matches>> {
        let mut kept = self.lock();
        let place = kept.iter().rposition(|k| k.filter == *filter)?;
        kept[place..].rotate_left(1);
        kept.last().map(|k| k.matches.clone())
    }

    fn keep(&self, filter: &Filter, matches: &Arc<Matches>) {
        let new = Kept { filter: filter.clone(), bytes: filter.bytes(), matches: matches.clone() };
        let mut kept = self.lock();
        if let Some(place) = kept.iter().position(|k| k.filter == *filter) {
            if kept[place].matches.len >= matches.len {
                // Another thread was faster.
                return;
            }
            kept.remove(place);
        }
        kept.push(new);
        let mut bytes: usize = kept.iter().map(Kept::bytes).sum();
        while kept.len() > MOST_FILTERS || bytes > MOST_BYTES {
            bytes -= kept.remove(0).bytes();
        }
    }
}
