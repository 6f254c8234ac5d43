//! Absorbing rows into the graph, a batch at a time, on any number of threads.
//!
//! A batch goes through three phases (the scheme of ParlayANN: Manohar et al., PPoPP 2024, arXiv 2305.04359): (1) in
//! parallel, each row searches the graph as it stood before the batch, looks at the batch's other rows too, and chooses its
//! links; (2) in one thread, in slot order, rows equal to an older one are chained to it, and each other row gets its kept
//! link; (3) in parallel, grouped by target, the reverse links are added and full lists pruned.
//!
//! Invariants:
//! 1. The outcome depends on the rows, the seed and the batches' boundaries, never on the number of threads.
//! 2. A batch is published (`Graph::publish`) whole or not at all; what a failed one left in older lists names slots that
//!    readers ignore, and is met again, unchanged, when the batch is repeated.
//!
//! Threading: one absorber at a time (its [`Builder`] sits in a mutex); readers go on meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::beam::Stop;
use super::graph::{Graph, KEPT, MAX_SLOTS, slot_of};
use super::neighbors::Selector;
use super::search::{Field, Walker};
use crate::error::Result;
use crate::index::near::{Near, Probe};
use crate::index::topk::{Scored, by_distance};

/// Rows in the largest batch: large enough to keep threads busy, small enough that comparing its rows with each other costs
/// little beside their searches.
const MAX_BATCH: u32 = 256;
/// A batch is at most this fraction of the graph it is added to, so that early rows see each other.
const BATCH_FRACTION: u32 = 32;
/// Below this many rows a batch is not worth starting threads for.
const MIN_PARALLEL: usize = 32;
/// See [`Stop::stretch`]; measured: a graph that is built about twice as fast and searched as well.
const BUILD_STRETCH: f32 = 1.1;
/// The usual `ef_construction`.
const USUAL_EF: usize = 200;
/// The most candidates among which links are chosen, for each link a list can hold: with more, lists grow longer, and searches
/// compare more rows for the same recall.
const CANDIDATES_PER_LINK: usize = 2;

/// How the graph is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BuildParams {
    /// Beam width of the search for a new row's neighbours.
    pub(crate) ef_construction: usize,
    /// See [`super::neighbors`].
    pub(crate) alpha: f32,
    /// Whether distances can be stretched: not under ip.
    pub(crate) adaptive: bool,
}

/// The absorber's memory, kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    workers: Vec<Worker>,
    /// The last row of each chain, by its node.
    chain_ends: HashMap<u32, u32>,
}

/// One thread's working memory.
#[derive(Debug, Default)]
pub(super) struct Worker {
    walker: Walker,
    pub(super) selector: Selector,
    pub(super) probe: Probe,
    pub(super) slots: Vec<u32>,
    pub(super) distances: Vec<f32>,
    pub(super) candidates: Vec<Scored>,
    pub(super) taken: Vec<Scored>,
    pub(super) words: Vec<u32>,
}

impl Builder {
    /// The working memory of `threads` threads.
    pub(super) fn workers(&mut self, threads: usize) -> &mut [Worker] {
        self.workers.resize_with(threads.max(1), Worker::default);
        &mut self.workers
    }

    /// The working memory of what one thread does.
    pub(super) fn first_worker(&mut self) -> &mut Worker {
        &mut self.workers(1)[0]
    }
}

/// Where a row of a batch goes.
#[derive(Debug)]
enum Place {
    /// It was dead before it was absorbed.
    Skip,
    /// It equals this older row.
    Twin(u32),
    /// It becomes a node with these links, nearest first.
    Node(Vec<Scored>),
}

/// A link to be added: at `target`, to `source`.
#[derive(Clone, Copy, Debug)]
struct Reverse {
    target: u32,
    /// The source's slot, with [`KEPT`] if the link is the source's kept one.
    source: u32,
}

/// One run of absorbing.
pub(crate) struct Absorb<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) rows: Near<'a>,
    pub(crate) params: BuildParams,
    pub(crate) threads: usize,
}

/// How many rows the next batch has on a graph of `len`.
fn batch_len(len: u32) -> u32 {
    (len / BATCH_FRACTION).clamp(1, MAX_BATCH)
}

/// How many entry points a graph of `len` should have. All are compared in every walk, side by side ([`super::entrance`]);
/// measured on embeddings, tight and loose clusters, heavy tails and queries from elsewhere, a quarter as many save no time and
/// lose recall where the beam is narrow, twice as many gain nothing more.
fn entries_wanted(len: u32) -> u32 {
    len.isqrt().clamp(8, 4096).min(len)
}

impl Absorb<'_> {
    /// Adds the next batch below `upto`; false when there is nothing left to add.
    pub(crate) fn batch(
        &self,
        upto: u32,
        is_live: &(dyn Fn(u32) -> bool + Sync),
        builder: &mut Builder,
    ) -> Result<bool> {
        let first = self.graph.len();
        let end = first.saturating_add(batch_len(first)).min(upto).min(MAX_SLOTS);
        if end <= first {
            return Ok(false);
        }
        self.graph.reserve(end);
        builder.workers(self.threads);
        let live: Vec<u32> = (first..end).filter(|&slot| is_live(slot)).collect();
        let placed = self.in_parallel(&mut builder.workers, live.len(), |worker, i| self.place(worker, &live, i))?;
        let mut places: Vec<Place> = (first..end).map(|_| Place::Skip).collect();
        for (slot, place) in live.iter().zip(placed) {
            places[(slot - first) as usize] = place;
        }
        resolve_twins(&mut places, first);
        let (mut reverse, roots) = self.link_own(&places, first);
        reverse.sort_unstable_by_key(|r| (r.target, r.source & !KEPT));
        let groups: Vec<&[Reverse]> = reverse.chunk_by(|a, b| a.target == b.target).collect();
        self.in_parallel(&mut builder.workers, groups.len(), |worker, i| self.link_back(worker, groups[i]))?;
        // Nothing below can fail.
        self.chain(&places, first, &mut builder.chain_ends);
        for root in roots {
            self.graph.add_entry(root);
        }
        self.graph.publish(end);
        let mut nodes = (first..end).zip(&places).filter(|(_, p)| matches!(p, Place::Node(_)));
        while self.graph.entry_count() < entries_wanted(end)
            && let Some((slot, _)) = nodes.next()
        {
            if self.graph.entries().all(|e| e != slot) {
                self.graph.add_entry(slot);
            }
        }
        Ok(true)
    }

    /// Phase 1: searches the graph and the batch's live rows for the `i`-th one's neighbours and chooses its links.
    fn place(&self, w: &mut Worker, batch: &[u32], i: usize) -> Result<Place> {
        let slot = batch[i];
        if !self.rows.probe_row(slot, &mut w.probe)? {
            return Ok(Place::Skip);
        }
        let ef = self.params.ef_construction;
        let field = Field { graph: self.graph, rows: &self.rows, limit: self.graph.len() };
        let stop = self.stop(&w.probe);
        w.walker.walk(field, &mut w.probe, ef, stop, &|_| false)?;
        w.candidates.clear();
        w.candidates.extend(w.walker.beam.rows());
        self.rows.distances(&mut w.probe, batch, &mut w.distances)?;
        let own = w.distances[i];
        let bound = w.walker.beam.bound();
        for (&other, &distance) in batch.iter().zip(&w.distances) {
            if other != slot && distance <= bound {
                w.candidates.push((distance, other));
            }
        }
        // The beam's rows are in order already, which this kind of sorting makes use of.
        w.candidates.sort_by(by_distance);
        if let Some(older) = self.twin_of(slot, own, &w.candidates)? {
            return Ok(Place::Twin(older));
        }
        w.candidates.truncate(ef.min(CANDIDATES_PER_LINK * self.graph.capacity()));
        w.selector.select(&self.rows, &w.candidates, self.graph.capacity(), self.params.alpha, &mut w.taken)?;
        Ok(Place::Node(w.taken.clone()))
    }

    /// What lies well beyond as many rows as a list holds is never linked to, so it is not looked for. A larger
    /// `ef_construction` than usual looks farther.
    fn stop(&self, probe: &Probe) -> Option<Stop> {
        let anchor = self.graph.capacity() * 3 / 4 * self.params.ef_construction.max(USUAL_EF) / USUAL_EF;
        self.params.adaptive.then_some(Stop {
            anchor,
            anchor_all: 0,
            stretch: BUILD_STRETCH,
            noise: self.rows.noise(probe),
        })
    }

    /// The oldest of `candidates` that traversal cannot tell from `slot`, which is `own` away from itself.
    fn twin_of(&self, slot: u32, own: f32, candidates: &[Scored]) -> Result<Option<u32>> {
        let slack = 1e-5 * (1.0 + own.abs());
        let mut oldest = None;
        for &(distance, other) in candidates {
            if other < oldest.unwrap_or(slot) && (distance - own).abs() <= slack && self.rows.same(slot, other)? {
                oldest = Some(other);
            }
        }
        Ok(oldest)
    }

    /// Phase 2: writes the new nodes' own lists and gives each its kept link. Returns the links to add in the other
    /// direction, and the nodes that no neighbour has a place for, which become roots.
    fn link_own(&self, places: &[Place], first: u32) -> (Vec<Reverse>, Vec<u32>) {
        let mut reverse = Vec::new();
        let mut roots = Vec::new();
        let mut promised: HashMap<u32, usize> = HashMap::new();
        for (slot, place) in (first..).zip(places) {
            let Place::Node(links) = place else { continue };
            let is_node = |s: u32| s < first || matches!(places[(s - first) as usize], Place::Node(_));
            let links: Vec<Scored> = links.iter().copied().filter(|l| is_node(l.1)).collect();
            let words: Vec<u32> = links.iter().map(|l| l.1).collect();
            self.graph.set_links(slot, &words);
            let parent = links.iter().map(|l| l.1).find(|&p| {
                let old = if p < first { self.graph.links(p).filter(|w| w & KEPT != 0).count() } else { 0 };
                p < slot && old + promised.get(&p).copied().unwrap_or(0) < self.graph.capacity() / 2
            });
            match parent {
                Some(parent) => *promised.entry(parent).or_default() += 1,
                None => roots.push(slot),
            }
            reverse.extend(links.iter().map(|&(_, target)| {
                let kept = if Some(target) == parent { KEPT } else { 0 };
                Reverse { target, source: slot | kept }
            }));
        }
        (reverse, roots)
    }

    /// Phase 3: adds links to one target's list, pruning it if it overflows.
    fn link_back(&self, w: &mut Worker, group: &[Reverse]) -> Result<()> {
        let target = group[0].target;
        w.words.clear();
        w.words.extend(self.graph.links(target));
        for r in group {
            match w.words.iter_mut().find(|word| slot_of(**word) == slot_of(r.source)) {
                Some(word) => *word |= r.source & KEPT,
                None => w.words.push(r.source),
            }
        }
        if w.words.len() > self.graph.capacity() {
            self.prune(w, target)?;
        }
        self.graph.set_links(target, &w.words);
        Ok(())
    }

    /// Reduces `w.words`, links of `target`, to what the list can hold.
    pub(super) fn prune(&self, w: &mut Worker, target: u32) -> Result<()> {
        let capacity = self.graph.capacity();
        if !self.rows.probe_row(target, &mut w.probe)? {
            // A dead row whose bytes are gone only needs its kept links; those come first, then what fits.
            w.words.sort_by_key(|word| word & KEPT == 0);
            w.words.truncate(capacity);
            return Ok(());
        }
        w.slots.clear();
        w.slots.extend(w.words.iter().map(|&word| slot_of(word)));
        self.rows.distances(&mut w.probe, &w.slots, &mut w.distances)?;
        w.candidates.clear();
        w.candidates.extend(w.distances.iter().copied().zip(w.words.iter().copied()));
        w.candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(slot_of(a.1).cmp(&slot_of(b.1))));
        w.selector.select(&self.rows, &w.candidates, capacity, self.params.alpha, &mut w.taken)?;
        w.words.clear();
        w.words.extend(w.taken.iter().map(|t| t.1));
        Ok(())
    }

    /// Hangs the batch's twins on their nodes' chains, in slot order.
    fn chain(&self, places: &[Place], first: u32, ends: &mut HashMap<u32, u32>) {
        for (slot, place) in (first..).zip(places) {
            if let Place::Twin(node) = place {
                let end = ends.entry(*node).or_insert_with(|| {
                    let mut end = *node;
                    while let Some(next) = self.graph.twin(end) {
                        end = next;
                    }
                    end
                });
                self.graph.set_twin(*end, slot);
                *end = slot;
            }
        }
    }

    /// Runs `work` on `0..n`, on as many threads as there are workers when that pays; results are in order.
    pub(super) fn in_parallel<T: Send>(
        &self,
        workers: &mut [Worker],
        n: usize,
        work: impl Fn(&mut Worker, usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        if workers.len() == 1 || n < MIN_PARALLEL {
            return (0..n).map(|i| work(&mut workers[0], i)).collect();
        }
        let next = AtomicUsize::new(0);
        let (next, work) = (&next, &work);
        let mut done: Vec<(usize, T)> = Vec::with_capacity(n);
        std::thread::scope(|scope| {
            let run = move |worker: &mut Worker| -> Result<Vec<(usize, T)>> {
                let mut mine = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        return Ok(mine);
                    }
                    mine.push((i, work(worker, i)?));
                }
            };
            // This thread works too: on a busy machine the others may start late, and find that all is done.
            let mut workers = workers.iter_mut();
            let own = workers.next();
            let handles: Vec<_> = workers.map(|w| scope.spawn(move || run(w))).collect();
            if let Some(worker) = own {
                done.extend(run(worker)?);
            }
            for handle in handles {
                match handle.join() {
                    Ok(mine) => done.extend(mine?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<_, crate::error::Error>(())
        })?;
        done.sort_unstable_by_key(|d| d.0);
        Ok(done.into_iter().map(|d| d.1).collect())
    }
}

/// Makes twins of twins of the same batch twins of the node.
fn resolve_twins(places: &mut [Place], first: u32) {
    for i in 0..places.len() {
        if let Place::Twin(older) = places[i]
            && older >= first
            && let Place::Twin(node) = places[(older - first) as usize]
        {
            places[i] = Place::Twin(node);
        }
    }
}
