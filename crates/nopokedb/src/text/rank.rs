//! BM25: which of the documents that have some of the words come first.
//!
//! A document's score is the sum over the words of `idf * count * (k1 + 1) / (count + k1 * (1 - b + b * length / average))`
//! with `idf = ln(1 + (N - n + 0.5) / (n + 0.5))`, k1 = 1.2, b = 0.75: N documents, n of them with the word (Robertson and
//! Zaragoza 2009; the idf is Lucene's, which is never negative). N, n and the average are those of the view, of this
//! collection: deleted documents and other collections have no part in them.
//!
//! FTS5's own `bm25()` is not used: it takes microseconds a document where this takes nanoseconds.
//!
//! Invariant: answers are in order of (score descending, slot ascending), and hold only rows that are live and passed.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::postings::Lists;
use super::request::TextMode;
use crate::types::Slot;
use crate::vectors::Visibility;
use crate::vectors::view::View;

const K1: f32 = 1.2;
const B: f32 = 0.75;

thread_local! {
    /// The scores of this thread's searches, by slot: all zero in between.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// What a ranking found.
#[derive(Debug, Default)]
pub(crate) struct Ranked {
    /// The best, best first.
    pub(crate) best: Vec<(f32, Slot)>,
    /// The scores of the slots that were asked for; 0 for those that do not match.
    pub(crate) asked: Vec<f32>,
}

/// The `k` best documents of `view` among those that `pass`, and the scores of the slots `asked`.
pub(crate) fn rank(
    lists: &Lists,
    mode: TextMode,
    view: &View<'_>,
    k: usize,
    asked: &[Slot],
    pass: &dyn Fn(Slot) -> bool,
) -> Ranked {
    if mode == TextMode::All && lists.postings.len() > 1 {
        return rank_all(lists, view, k, asked, pass);
    }
    SCORES.with_borrow_mut(|scores| {
        scores.resize(scores.len().max(view.len() as usize), 0.0);
        for weight in weights(lists, view) {
            weight.each(view.len(), |slot, score| scores[slot as usize] += score);
        }
        let asked = asked.iter().map(|slot| scores[slot.index()]).collect();
        let mut best = Best::new(k);
        for &slot in lists.postings.iter().flat_map(|p| &p.slots).filter(|s| **s < view.len()) {
            // What was offered once is zero from then on.
            let score = std::mem::take(&mut scores[slot as usize]);
            if score > 0.0 {
                best.offer(score, Slot(slot), |slot| view.is_live(slot) && pass(slot));
            }
        }
        Ranked { best: best.sorted(), asked }
    })
}

/// Of documents that have every word: the shortest list, and of each other list what is in it too.
fn rank_all(lists: &Lists, view: &View<'_>, k: usize, asked: &[Slot], pass: &dyn Fn(Slot) -> bool) -> Ranked {
    let mut weights = weights(lists, view);
    weights.sort_by_key(|w| w.slots.len());
    let Some((first, others)) = weights.split_first() else { return Ranked::default() };
    let mut both: Vec<(u32, f32)> = Vec::new();
    first.each(view.len(), |slot, score| both.push((slot, score)));
    for other in others {
        let mut from = 0;
        both.retain_mut(|(slot, score)| {
            from += other.slots[from..].partition_point(|s| *s < *slot);
            let there = other.slots.get(from).is_some_and(|s| *s == *slot);
            if there {
                *score += other.score(from);
            }
            there
        });
    }
    let score_of = |slot: &Slot| both.binary_search_by_key(&slot.0, |b| b.0).map_or(0.0, |i| both[i].1);
    let asked = asked.iter().map(score_of).collect();
    let mut best = Best::new(k);
    for &(slot, score) in &both {
        best.offer(score, Slot(slot), |slot| view.is_live(slot) && pass(slot));
    }
    Ranked { best: best.sorted(), asked }
}

/// A term's list with all that its scores depend on.
struct Weight<'a> {
    slots: &'a [u32],
    counts: &'a [u16],
    lists: &'a Lists,
    idf: f32,
    /// K1 * B / average length
    by_length: f32,
}

fn weights<'a>(lists: &'a Lists, view: &View<'_>) -> Vec<Weight<'a>> {
    let (documents, words) = lists.lengths.totals(view);
    #[allow(clippy::cast_possible_truncation, reason = "an average")]
    let average = (words as f64 / f64::from(documents.max(1))) as f32;
    let weigh = |postings: &'a std::sync::Arc<super::postings::Postings>| {
        let (all, with) = (f64::from(documents), f64::from(postings.documents(view)));
        #[allow(clippy::cast_possible_truncation, reason = "a weight")]
        let idf = ((all - with + 0.5) / (with + 0.5)).ln_1p() as f32;
        Weight { slots: &postings.slots, counts: &postings.counts, lists, idf, by_length: K1 * B / average.max(1.0) }
    };
    lists.postings.iter().map(weigh).collect()
}

impl Weight<'_> {
    #[inline]
    fn score(&self, i: usize) -> f32 {
        let count = f32::from(self.counts[i]);
        let length = self.lists.lengths.of(self.slots[i]) as f32;
        self.idf * count * (K1 + 1.0) / (count + K1 * (1.0 - B) + self.by_length * length)
    }

    fn each(&self, len: u32, mut f: impl FnMut(u32, f32)) {
        for (i, &slot) in self.slots.iter().enumerate().take_while(|(_, slot)| **slot < len) {
            f(slot, self.score(i));
        }
    }
}

/// The `k` best that were offered.
pub(crate) struct Best {
    k: usize,
    heap: BinaryHeap<Reverse<Entry>>,
}

#[derive(Clone, Copy, PartialEq)]
struct Entry(f32, Slot);

impl Eq for Entry {}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(other.1.cmp(&self.1))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Best {
    pub(crate) fn new(k: usize) -> Self {
        Best { k, heap: BinaryHeap::new() }
    }

    /// Takes in a slot that `may` be taken, if it is among the best.
    pub(crate) fn offer(&mut self, score: f32, slot: Slot, may: impl FnOnce(Slot) -> bool) {
        let entry = Entry(score, slot);
        if self.heap.len() < self.k {
            if may(slot) {
                self.heap.push(Reverse(entry));
            }
        } else if let Some(mut worst) = self.heap.peek_mut()
            && entry > worst.0
            && may(slot)
        {
            *worst = Reverse(entry);
        }
    }

    pub(crate) fn sorted(self) -> Vec<(f32, Slot)> {
        // Ascending in `Reverse` is best first.
        self.heap.into_sorted_vec().into_iter().map(|Reverse(Entry(score, slot))| (score, slot)).collect()
    }
}
