//! The graph's memory: one list of links per slot, chains of equal rows, and the entry points.
//!
//! One layer only: in high dimensions a flat graph entered through well-chosen points is as good as HNSW's hierarchy
//! (Munyampirwa et al., "Down with the Hierarchy", arXiv 2412.01940). Entry points take the upper layers' place.
//!
//! Invariants:
//! 1. A link names a slot whose own list was written before (Release on the link, Acquire on reading it), so a reader may
//!    follow any link it sees. Lists change word by word under readers: a reader may see old and new links mixed, or one twice.
//! 2. A list holds at most `capacity` links, then [`NONE`]; no slot twice (as the writer sees it).
//! 3. Tree: each node but the roots has one *kept* link to it, from an older slot; kept links are never pruned and all
//!    roots are entry points. So every node can be reached, whatever pruning does.
//! 4. Rows that traversal cannot tell apart share one node: the rest hang on its chain, in slot order.
//! 5. `len` slots are covered (node, twin or skipped because dead); readers ignore links to slots from `len` on.
//!
//! Threading: any number of readers without locks; one writer at a time, which may use several threads on distinct lists.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, OnceLock};

use super::entrance::{Entrance, Entrances};
use super::packed::Lists;
use crate::sync::atomic::AtomicU32;
use crate::vectors::chunked::{ChunkedU32, ChunkedU64};
use crate::vectors::codes::Codes;

/// "No link": the end of a list, or of a chain.
pub(crate) const NONE: u32 = u32::MAX;
/// Marks a link of the tree (invariant 3) in a list's word.
pub(crate) const KEPT: u32 = 1 << 31;
/// The graph covers at most this many slots, so that walks can pack two marks beside a slot; rows beyond stay in the tail.
pub(crate) const MAX_SLOTS: u32 = (1 << 30) - 1;

/// A link's slot, without its mark.
#[inline]
pub(crate) fn slot_of(word: u32) -> u32 {
    word & !KEPT
}

const LINE_WORDS: usize = 16;

/// A cache line of links.
#[derive(Debug)]
#[repr(align(64))]
struct Line([AtomicU32; LINE_WORDS]);

impl Line {
    fn empty() -> Line {
        Line(std::array::from_fn(|_| AtomicU32::new(NONE)))
    }
}

/// Nodes in the first bucket, and buckets per doubling: memory runs at most an eighth ahead of need.
const FIRST_LOG2: u32 = 6;
const STEPS_LOG2: u32 = 3;
const BUCKETS: usize = (32 - FIRST_LOG2 as usize) << STEPS_LOG2;

/// Which bucket holds a slot's list, and which list in it that is.
#[inline]
fn locate(slot: u32) -> (usize, usize) {
    let shifted = u64::from(slot) + (1 << FIRST_LOG2);
    let log2 = shifted.ilog2();
    let step = log2 - STEPS_LOG2;
    let bucket = (u64::from(log2 - FIRST_LOG2) << STEPS_LOG2) + ((shifted >> step) & ((1 << STEPS_LOG2) - 1));
    #[allow(clippy::cast_possible_truncation)] // both are far below 2^32
    (bucket as usize, (shifted & ((1 << step) - 1)) as usize)
}

/// Lists in bucket `b`.
fn bucket_len(b: usize) -> usize {
    1 << (FIRST_LOG2 as usize + (b >> STEPS_LOG2) - STEPS_LOG2 as usize)
}

type Buckets = [OnceLock<Box<[Line]>>; BUCKETS];

/// The lists, chains and entry points.
#[derive(Debug)]
pub(crate) struct Graph {
    capacity: usize,
    /// Cache lines per list.
    lines: usize,
    /// Made with the first list: most collections of many are too small for a graph.
    buckets: OnceLock<Box<Buckets>>,
    /// Next row of a chain, plus one; 0 ends it.
    twins: ChunkedU32,
    /// Which nodes have a chain: a bit each, so that walks among few rows need not read `twins` for all they meet.
    chained: ChunkedU64,
    entries: ChunkedU32,
    entry_count: AtomicU32,
    entry_changes: AtomicU32,
    entrances: Entrances,
    len: AtomicU32,
}

impl Graph {
    /// An empty graph with lists of up to `capacity` links.
    pub(crate) fn new(capacity: usize) -> Graph {
        Graph {
            capacity,
            lines: capacity.div_ceil(LINE_WORDS),
            buckets: OnceLock::new(),
            twins: ChunkedU32::new(),
            chained: ChunkedU64::new(),
            entries: ChunkedU32::new(),
            entry_count: AtomicU32::new(0),
            entry_changes: AtomicU32::new(0),
            entrances: Entrances::default(),
            len: AtomicU32::new(0),
        }
    }

    /// Links a list can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Slots covered.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.len.load(Acquire)
    }

    /// Declares the slots below `len` covered. Writer only; their lists and chains must be complete.
    pub(crate) fn publish(&self, len: u32) {
        debug_assert!(len <= MAX_SLOTS && len >= self.len.load(Relaxed));
        self.len.store(len, Release);
    }

    fn table(&self) -> &Buckets {
        self.buckets.get_or_init(|| Box::new([const { OnceLock::new() }; BUCKETS]))
    }

    /// Makes room for `len` slots. Writer only.
    pub(crate) fn reserve(&self, len: u32) {
        if len == 0 {
            return;
        }
        for (b, bucket) in self.table().iter().enumerate().take(locate(len - 1).0 + 1) {
            bucket.get_or_init(|| {
                let mut lines = Vec::with_capacity(bucket_len(b) * self.lines);
                nopokedb_kernels::prefer_huge_pages(lines.spare_capacity_mut());
                lines.resize_with(bucket_len(b) * self.lines, Line::empty);
                lines.into_boxed_slice()
            });
        }
        self.twins.reserve(len as usize);
        self.chained.reserve(len.div_ceil(64) as usize);
    }

    /// Takes the lists that are whole in `lists`. False if one makes no sense: a link to a slot that will not be covered.
    pub(super) fn take_lists(&self, filled: &mut Filled, lists: &mut Lists) -> bool {
        let mut fine = true;
        filled.words.resize(self.lines * LINE_WORDS, NONE);
        while let Some(makes_sense) = lists.next(&mut filled.words) {
            fine &= makes_sense;
            let room = bucket_len(filled.bucket) * self.lines;
            if filled.lines.is_empty() {
                filled.lines.reserve_exact(room);
                nopokedb_kernels::prefer_huge_pages(filled.lines.spare_capacity_mut());
            }
            let lines = filled.words.as_chunks::<LINE_WORDS>().0;
            filled.lines.extend(lines.iter().map(|words| Line(words.map(AtomicU32::new))));
            if filled.lines.len() == room {
                self.publish_lists(filled);
            }
        }
        fine
    }

    /// After the last of [`Graph::take_lists`]: all of the first `covered` slots have a list.
    pub(super) fn finish_lists(&self, filled: &mut Filled, covered: u32) {
        if !filled.lines.is_empty() {
            self.publish_lists(filled);
        }
        self.reserve(covered);
    }

    fn publish_lists(&self, filled: &mut Filled) {
        let mut lines = std::mem::take(&mut filled.lines);
        lines.resize_with(bucket_len(filled.bucket) * self.lines, Line::empty);
        self.table()[filled.bucket].get_or_init(|| lines.into_boxed_slice());
        filled.bucket += 1;
    }

    #[inline]
    fn lines_of(&self, slot: u32) -> &[Line] {
        let (bucket, i) = locate(slot);
        let buckets = self.buckets.get();
        let lists = buckets
            .and_then(|buckets| buckets[bucket].get())
            .expect("a slot's list is reserved before anything names the slot");
        &lists[i * self.lines..(i + 1) * self.lines]
    }

    #[inline]
    fn words_of(&self, slot: u32) -> impl Iterator<Item = &AtomicU32> {
        self.lines_of(slot).iter().flat_map(|line| &line.0).take(self.capacity)
    }

    /// The words (slot and mark) of a list.
    #[inline]
    pub(crate) fn links(&self, slot: u32) -> impl Iterator<Item = u32> {
        self.words_of(slot).map(|w| w.load(Acquire)).take_while(|&w| w != NONE)
    }

    /// Calls `visit` with the slot of each link of a list, and with slots past [`MAX_SLOTS`] for the room behind them: at most
    /// [`Graph::room`] calls. What walks are made of: [`Graph::links`] without marks and without looking for the end.
    #[inline(always)]
    pub(crate) fn visit(&self, slot: u32, mut visit: impl FnMut(u32)) {
        for line in self.lines_of(slot) {
            if line.0[0].load(Relaxed) == NONE {
                return;
            }
            for word in &line.0 {
                visit(slot_of(word.load(Acquire)));
            }
        }
    }

    /// Words of a list in memory.
    pub(crate) fn room(&self) -> usize {
        self.lines * LINE_WORDS
    }

    /// Asks for a slot's list.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        nopokedb_kernels::prefetch(self.lines_of(slot));
    }

    /// Replaces a list. Writer only. Readers see the old links, the new ones, or a mixture.
    pub(crate) fn set_links(&self, slot: u32, links: &[u32]) {
        debug_assert!(links.len() <= self.capacity, "a list of {} links exceeds {}", links.len(), self.capacity);
        let padded = links.iter().copied().chain(std::iter::repeat(NONE));
        for (word, link) in self.words_of(slot).zip(padded) {
            if word.load(Relaxed) != link {
                word.store(link, Release);
            }
        }
    }

    /// The next row of `slot`'s chain of equal rows.
    #[inline]
    pub(crate) fn twin(&self, slot: u32) -> Option<u32> {
        self.twins.at(slot as usize).load(Acquire).checked_sub(1)
    }

    /// Asks for the link to the next row of `slot`'s chain.
    #[inline]
    pub(crate) fn prefetch_twin(&self, slot: u32) {
        self.twins.prefetch(slot as usize);
    }

    /// Whether `passes` holds for a node or for a row of its chain.
    #[inline]
    pub(crate) fn any_of(&self, node: u32, passes: impl Fn(u32) -> bool) -> bool {
        let alone = passes(node);
        if alone || self.chained.at(node as usize / 64).load(Relaxed) >> (node % 64) & 1 == 0 {
            return alone;
        }
        let mut row = self.twin(node);
        while let Some(slot) = row {
            if passes(slot) {
                return true;
            }
            row = self.twin(slot);
        }
        false
    }

    /// Hangs `twin` behind `slot`. Writer only.
    pub(crate) fn set_twin(&self, slot: u32, twin: u32) {
        debug_assert!(twin > slot, "chains are in slot order");
        self.twins.at(slot as usize).store(twin + 1, Release);
        self.chained.at(slot as usize / 64).fetch_or(1 << (slot % 64), Release);
    }

    /// Where searches start.
    pub(crate) fn entries(&self) -> impl Iterator<Item = u32> {
        let count = self.entry_count.load(Acquire) as usize;
        (0..count).map(|i| self.entries.at(i).load(Acquire))
    }

    /// How many entry points there are.
    pub(crate) fn entry_count(&self) -> u32 {
        self.entry_count.load(Acquire)
    }

    /// Makes a node an entry point. Writer only.
    pub(crate) fn add_entry(&self, slot: u32) {
        let count = self.entry_count.load(Relaxed);
        self.entries.reserve(count as usize + 1);
        self.entries.at(count as usize).store(slot, Relaxed);
        self.entry_count.store(count + 1, Release);
        self.entry_changes.fetch_add(1, Release);
    }

    /// Makes another node the `i`-th entry point. Writer only.
    pub(crate) fn set_entry(&self, i: u32, slot: u32) {
        self.entries.at(i as usize).store(slot, Release);
        self.entry_changes.fetch_add(1, Release);
    }

    /// How often entry points were added or replaced.
    pub(crate) fn entry_changes(&self) -> u32 {
        self.entry_changes.load(Acquire)
    }

    /// The entry points in terms of `codes`, side by side; see [`Entrances::of`].
    pub(crate) fn entrance(&self, codes: &Codes) -> Option<Arc<Entrance>> {
        self.entrances.of(self, codes)
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        let lists: usize = self
            .buckets
            .get()
            .map_or(0, |buckets| buckets.iter().filter_map(OnceLock::get).map(|b| size_of_val::<[Line]>(b)).sum());
        lists + self.twins.bytes() + self.chained.bytes() + self.entries.bytes() + self.entrances.bytes()
    }
}

/// How far [`Graph::take_lists`] has come: each bucket is written once, as its lists come, and published when it is full.
#[derive(Debug, Default)]
pub(super) struct Filled {
    bucket: usize,
    lines: Vec<Line>,
    /// A list.
    words: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_has_its_own_place_and_none_moves_as_the_graph_grows() {
        let graph = Graph::new(24);
        for slot in 0..5_000u32 {
            graph.reserve(slot + 1);
            graph.set_links(slot, &[slot, slot ^ 1, KEPT | 7]);
        }
        for slot in 0..5_000u32 {
            assert_eq!(graph.links(slot).collect::<Vec<_>>(), [slot, slot ^ 1, KEPT | 7]);
        }
        graph.set_links(3, &(0..24).collect::<Vec<_>>());
        assert_eq!(graph.links(3).count(), 24);
        assert_eq!(graph.links(4).count(), 3, "a full list does not run into the next");
    }

    #[test]
    fn memory_runs_at_most_an_eighth_ahead_of_need() {
        let graph = Graph::new(32);
        graph.reserve(100_001);
        let lists = graph.bytes() - graph.twins.bytes() - graph.chained.bytes();
        assert!(lists <= 100_001 * 128 * 9 / 8 + 64 * 128, "{lists}");
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut expected = (0, 0);
        for slot in 0..300_000 {
            assert_eq!(locate(slot), expected, "slot {slot}");
            expected.1 += 1;
            if expected.1 == bucket_len(expected.0) {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(locate(MAX_SLOTS).0 < BUCKETS);
    }
}
