//! Which documents have a word and how often: read from SQLite once, and kept for the words that are asked for.
//!
//! Invariants:
//! 1. What is kept reflects the documents that SQLite had at one LSN, `upto`, and perhaps some that are deleted since then.
//!    A search never uses it with an older state: a document that was deleted in between would be missing.
//! 2. A slot's document never changes, so lists only grow at their end. Deaths are not in them; a view knows those.
//! 3. Lists take [`MOST_BYTES`] at most; the one used longest ago goes first. Besides them, 4 bytes for each row.
//!
//! Threading: a short mutex around what is kept; a list that is missing is read outside of it. Those who read at once share
//! nothing but the outcome.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::meta::text::Term;
use crate::meta::{Applier, Outcome, Reader, Trouble};
use crate::types::{CollectionId, Lsn, Slot, Tokenizer};
use crate::vectors::Visibility;
use crate::vectors::rows::Rows;
use crate::vectors::view::View;

const MOST_BYTES: usize = 128 << 20;
/// New documents are cut into words here, for the lists that are kept, if they have less than this part of the lists'
/// length; else the lists are read again when they are needed. Cutting a word costs as much as reading about so many.
const CUT_PART: usize = 8;

/// Documents by slot that have a term, and how often.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    pub(crate) slots: Vec<u32>,
    /// Counts above 65,535 make no difference to any rank.
    pub(crate) counts: Vec<u16>,
    /// How many of them a view saw, by its LSN.
    seen: Mutex<Option<(Lsn, u32)>>,
}

impl Clone for Postings {
    fn clone(&self) -> Self {
        Postings { slots: self.slots.clone(), counts: self.counts.clone(), seen: Mutex::default() }
    }
}

impl Postings {
    fn push(&mut self, slot: Slot) {
        match self.counts.last_mut().filter(|_| self.slots.last() == Some(&slot.0)) {
            Some(count) => *count = count.saturating_add(1),
            None => {
                self.slots.push(slot.0);
                self.counts.push(1);
            }
        }
    }

    fn bytes(&self) -> usize {
        4 * self.slots.capacity() + 2 * self.counts.capacity()
    }

    /// How many documents of `view` have the term.
    pub(crate) fn documents(&self, view: &View<'_>) -> u32 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((lsn, documents)) if lsn == view.snapshot.lsn => documents,
            _ => {
                let documents = self.slots.iter().filter(|&&s| s < view.len() && view.is_live(Slot(s))).count();
                let documents = u32::try_from(documents).unwrap_or(u32::MAX);
                *seen = Some((view.snapshot.lsn, documents));
                documents
            }
        }
    }
}

/// How many words each slot's document has; 0 where there is none.
#[derive(Debug, Default)]
pub(crate) struct Lengths {
    words: Vec<u32>,
    /// How many documents a view saw, and how many words they have together, by its LSN.
    seen: Mutex<Option<(Lsn, u32, u64)>>,
}

impl Clone for Lengths {
    fn clone(&self) -> Self {
        Lengths { words: self.words.clone(), seen: Mutex::default() }
    }
}

impl Lengths {
    #[inline]
    pub(crate) fn of(&self, slot: u32) -> u32 {
        self.words.get(slot as usize).copied().unwrap_or(0)
    }

    /// How many documents `view` has, and how many words they have together.
    pub(crate) fn totals(&self, view: &View<'_>) -> (u32, u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((lsn, documents, words)) if lsn == view.snapshot.lsn => (documents, words),
            _ => {
                let slots = (0..view.len()).zip(&self.words).filter(|(_, words)| **words > 0);
                let live = slots.filter(|(slot, _)| view.is_live(Slot(*slot)));
                let (documents, words) = live.fold((0, 0), |(n, sum), (_, words)| (n + 1, sum + u64::from(*words)));
                *seen = Some((view.snapshot.lsn, documents, words));
                (documents, words)
            }
        }
    }
}

/// The lists of one generation's slots.
#[derive(Default)]
pub(crate) struct TextCache {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    upto: Lsn,
    tokenizer: Tokenizer,
    lengths: Arc<Lengths>,
    /// The one used last is last.
    lists: Vec<(Term, Arc<Postings>)>,
}

impl fmt::Debug for TextCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TextCache({} lists)", self.lock().lists.len())
    }
}

/// Where documents are looked for: SQLite at one LSN, and a view of just that.
pub(crate) struct Source<'a> {
    pub(crate) applier: &'a Applier,
    pub(crate) reader: &'a Reader<'a>,
    /// What the reader reflects.
    pub(crate) applied: Lsn,
    pub(crate) collection: CollectionId,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) view: &'a View<'a>,
}

/// What ranking needs to know of some terms.
pub(crate) struct Lists {
    pub(crate) lengths: Arc<Lengths>,
    pub(crate) postings: Vec<Arc<Postings>>,
}

impl TextCache {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        let kept = self.lock();
        kept.bytes() + 4 * kept.lengths.words.capacity()
    }

    /// The lists of `terms`. `None` if a newer state than `source` is kept already: look again with a newer one.
    pub(crate) fn lists(&self, source: &Source<'_>, terms: &[Term]) -> Outcome<Option<Lists>> {
        let (lengths, mut found) = {
            let mut kept = self.lock();
            if kept.upto > source.applied {
                return Ok(None);
            }
            kept.advance(source)?;
            let found: Vec<_> = terms.iter().map(|term| kept.find(term)).collect();
            (kept.lengths.clone(), found)
        };
        for (term, found) in terms.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
            let postings = Arc::new(source.read(term)?);
            let mut kept = self.lock();
            if kept.upto == source.applied && kept.tokenizer == source.tokenizer {
                kept.keep(term, &postings);
            }
            *found = Some(postings);
        }
        Ok(Some(Lists { lengths, postings: found.into_iter().flatten().collect() }))
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        self.lists.iter().map(|(_, postings)| postings.bytes()).sum()
    }

    fn find(&mut self, term: &Term) -> Option<Arc<Postings>> {
        let place = self.lists.iter().rposition(|(t, _)| t == term)?;
        self.lists[place..].rotate_left(1);
        self.lists.last().map(|(_, postings)| postings.clone())
    }

    fn keep(&mut self, term: &Term, postings: &Arc<Postings>) {
        self.lists.retain(|(t, _)| t != term);
        self.lists.push((term.clone(), postings.clone()));
        let mut bytes = self.bytes();
        while bytes > MOST_BYTES {
            bytes -= self.lists.remove(0).1.bytes();
        }
    }

    /// Takes in the documents that were written since.
    fn advance(&mut self, source: &Source<'_>) -> Outcome<()> {
        if self.tokenizer != source.tokenizer {
            *self = Kept { tokenizer: source.tokenizer, ..Kept::default() };
        }
        let (mut new, mut words) = (Vec::new(), 0);
        let lengths = Arc::make_mut(&mut self.lengths);
        let mut place = Place::new(source.view.rows, source.view.len());
        let after = self.upto;
        source.reader.text_lengths(source.collection, after, &mut |lsn, length| {
            if let Some(slot) = place.of(lsn) {
                if lengths.words.len() <= slot.index() {
                    lengths.words.resize(slot.index() + 1, 0);
                }
                lengths.words[slot.index()] = length;
                words += length as usize;
                new.push(slot);
            }
        })?;
        self.upto = source.applied;
        if new.is_empty() {
            return Ok(());
        }
        *lengths.seen.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        let kept: usize = self.lists.iter().map(|(_, postings)| postings.slots.len()).sum();
        if source.tokenizer == Tokenizer::Trigram || words * CUT_PART >= kept || !self.cut(source, &new)? {
            self.lists.clear();
        }
        Ok(())
    }

    /// Adds what of the lists' words is in the documents of `new` slots. False if that cannot be said.
    fn cut(&mut self, source: &Source<'_>, new: &[Slot]) -> Outcome<bool> {
        let mut documents = Vec::with_capacity(new.len());
        for &slot in new {
            let text = source.view.with_row(slot, |row| Ok(row.document.map(str::to_owned)))?;
            let Some(Some(text)) = text else { return Ok(false) };
            documents.push((slot.0, text));
        }
        let terms: Vec<Term> = self.lists.iter().map(|(term, _)| term.clone()).collect();
        let cut = source.applier.with_scratch(source.tokenizer, |scratch| {
            scratch.occurrences(&documents, terms.iter(), &mut |term, slot| {
                Arc::make_mut(&mut self.lists[term].1).push(Slot(slot));
            })
        });
        // A list may have got a part of it only.
        cut.inspect_err(|_| self.lists.clear())?;
        for (_, postings) in &mut self.lists {
            *postings.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(true)
    }
}

impl Source<'_> {
    /// Whether there is a text index, cut as is wanted now.
    pub(crate) fn has_index(&self) -> Outcome<bool> {
        match self.reader.text_tokenizer(self.collection)? {
            Some(stored) if stored != self.tokenizer => {
                Err(Trouble::Damaged(format!("it is cut by {stored}, and {} is wanted now", self.tokenizer)))
            }
            stored => Ok(stored.is_some()),
        }
    }

    fn read(&self, term: &Term) -> Outcome<Postings> {
        let mut postings = Postings::default();
        let mut place = Place::new(self.view.rows, self.view.len());
        self.reader.text_occurrences(self.collection, term, &mut |lsn| {
            if let Some(slot) = place.of(lsn) {
                postings.push(slot);
            }
        })?;
        postings.slots.shrink_to_fit();
        postings.counts.shrink_to_fit();
        Ok(postings)
    }
}

/// Finds slots by LSN, for ascending LSNs: each search begins where the last one ended.
struct Place<'a> {
    rows: &'a Rows,
    len: u32,
    /// Slots below this were written earlier than what is looked for.
    from: u32,
    /// What was found last.
    last: Option<(Lsn, Option<Slot>)>,
}

impl<'a> Place<'a> {
    fn new(rows: &'a Rows, len: u32) -> Self {
        Place { rows, len, from: 0, last: None }
    }

    fn of(&mut self, lsn: Lsn) -> Option<Slot> {
        if let Some((_, slot)) = self.last.filter(|(last, _)| *last == lsn) {
            return slot;
        }
        let before = |slot: u32| self.rows.lsn(Slot(slot)) < lsn;
        let (mut low, mut step) = (self.from, 1);
        while low.saturating_add(step) < self.len && before(low + step) {
            low += step;
            step = step.saturating_mul(2).min(self.len);
        }
        let mut high = self.len.min(low.saturating_add(step).saturating_add(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if before(middle) { low = middle + 1 } else { high = middle }
        }
        self.from = low;
        let slot = (low < self.len && self.rows.lsn(Slot(low)) == lsn).then_some(Slot(low));
        self.last = Some((lsn, slot));
        slot
    }
}
