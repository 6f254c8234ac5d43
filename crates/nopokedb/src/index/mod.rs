//! The index of one collection: a flat *tail* of recent rows, scanned exactly, and a graph that a background worker moves
//! them into. Every answer merges both.
//!
//! Invariants:
//! 1. A row appended before a view was taken is found by a search in that view: it is in the graph (slot below
//!    `graph_len`) or in the tail, never in neither.
//! 2. Answers hold min(k, live) rows, ascending by (distance, slot), with exact f32 distances, and only rows the view sees.
//! 3. Rows are dense: `append` continues at `len`.
//!
//! Threading: one appender, one absorber at a time, any number of searchers; searchers take no lock.

mod among;
#[cfg(feature = "testing")]
pub(crate) mod bench;
mod filtered;
#[cfg(test)]
mod filtered_tests;
pub(crate) mod flat;
#[cfg(test)]
mod flat_tests;
pub(crate) mod hnsw;
mod near;
mod plan;
mod reach;
mod scan;
mod space;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod topk;
mod work;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use filtered::Among;
pub(crate) use hnsw::image::Image;

use crate::error::Result;
use crate::io::vfs::Vfs;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU32;
use crate::types::{CollectionId, Lsn, Metric, Slot};
use crate::vectors::code_query::Plane;
use crate::vectors::codes::Codes;
use crate::vectors::{VectorSource, Visibility};
use filtered::{Gathered, Rare};
use flat::Flat;
use hnsw::check::{GraphReport, check};
use hnsw::graph::Graph;
use hnsw::image::{self, Parts, Source, Stamp};
use hnsw::image_read;
use hnsw::insert::{Absorb, BuildParams, Builder};
use hnsw::search::{Field, Walker};
use near::{Near, Probe};
use plan::{Costs, MEASURED_EF, MEASURED_K, MEASURED_QUERIES, MEASURED_WIDE, Plan};
use reach::{FILTERED, FREE};
use scan::{FlatScratch, Lane};
use space::{Space, Stored};
use topk::{TopK, answer};
pub(crate) use work::Way;

/// Below this many rows a scan of the codes costs about as much as a walk (under 50 us on the machines measured) and misses
/// nothing, whatever the data, so no graph is built.
pub(crate) const DEFAULT_GRAPH_FROM: u32 = 50_000;

/// Queries that share one pass over the codes.
const TILE: usize = 8;

/// How much nearer to each other than to the node two neighbours must be for one to be dropped; see [`hnsw::neighbors`].
const ALPHA: f32 = 1.0;

/// Rows whose memory is on its way while others are compared exactly.
const RERANK_AHEAD: usize = 4;

/// Rows whose places are on their way before the first is compared.
const PLACES_AHEAD: usize = 48;

/// Standard deviations of a code's error that re-ranking allows for.
const RERANK_DEVIATIONS: f32 = 3.5;

/// What an index is made of. All but `graph_from` are facts of the collection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct IndexParams {
    pub(crate) dim: usize,
    pub(crate) metric: Metric,
    /// Links per node; lists hold twice as many.
    pub(crate) m: usize,
    /// Beam width while building.
    pub(crate) ef_construction: usize,
    /// Seed of everything random in the index.
    pub(crate) seed: u64,
    /// Rows from which on a graph is built.
    pub(crate) graph_from: u32,
}

impl IndexParams {
    /// Parameters with the default seed and threshold.
    pub(crate) fn new(dim: usize, metric: Metric, m: usize, ef_construction: usize) -> Self {
        IndexParams { dim, metric, m, ef_construction, seed: 0, graph_from: DEFAULT_GRAPH_FROM }
    }
}

impl Default for IndexParams {
    /// One dimension, cosine, M 16, ef_construction 200: to be completed.
    fn default() -> Self {
        IndexParams::new(1, Metric::Cosine, 16, 200)
    }
}

/// Bytes the index holds in memory, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexMemory {
    /// Lists, chains and entry points.
    pub(crate) graph: usize,
    /// Norms and codes.
    pub(crate) codes: usize,
}

/// Whose image it is and what it reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageStamp {
    /// The database's own id.
    pub(crate) database: [u8; 16],
    pub(crate) collection: CollectionId,
    /// Every operation up to here is reflected.
    pub(crate) lsn: Lsn,
}

impl ImageStamp {
    fn of(self, params: &IndexParams) -> Stamp {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Stamp {
            database: self.database,
            collection: self.collection,
            lsn: self.lsn,
            metric: params.metric,
            dim: number(params.dim),
            m: number(params.m),
            ef_construction: number(params.ef_construction),
            seed: params.seed,
        }
    }
}

/// Working memory of a search: grows to the largest search and is then reused.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    probe: Probe,
    walker: Walker,
    top: TopK,
    gathered: Gathered,
    pub(crate) flat: FlatScratch,
    way: Way,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch::default()
    }
}

/// The index of one collection.
pub(crate) struct Index {
    params: IndexParams,
    space: Space,
    flat: Flat,
    graph: Graph,
    costs: Costs,
    len: AtomicU32,
    builder: Mutex<Builder>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("params", &self.params)
            .field("len", &self.len())
            .field("graph_len", &self.graph_len())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// An empty index over `source`'s rows.
    pub(crate) fn new(params: IndexParams, source: Arc<dyn VectorSource>) -> Index {
        let parts = Parts { graph: Graph::new(2 * params.m), stored: Stored::new(), codes: None };
        Self::assemble(params, source, 0, parts)
    }

    /// An index that goes on from `image`: its slots are appended and its graph is built.
    pub(crate) fn with_image(params: IndexParams, source: Arc<dyn VectorSource>, image: Image) -> Index {
        #[allow(clippy::cast_possible_truncation)] // an image's slots were counted as u32
        let len = image.lsns.len() as u32;
        Self::assemble(params, source, len, image.parts)
    }

    fn assemble(params: IndexParams, source: Arc<dyn VectorSource>, len: u32, parts: Parts) -> Index {
        debug_assert_eq!(params.dim, source.dim());
        let Parts { graph, stored, codes } = parts;
        Index {
            params,
            flat: Flat::new(&params, source.clone(), len, codes),
            space: Space::new(params.metric, source, stored),
            graph,
            costs: Costs::expected(params.dim),
            len: AtomicU32::new(len),
            builder: Mutex::default(),
        }
    }

    /// Rows appended so far.
    pub(crate) fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    /// Rows the graph covers; the rest is the tail.
    pub(crate) fn graph_len(&self) -> u32 {
        self.graph.len()
    }

    /// Adds rows (row-major) to the tail, from slot `first` = `len` on. Single writer.
    pub(crate) fn append(&self, first: Slot, vectors: &[f32]) -> Result<()> {
        debug_assert_eq!(first.0, self.len.load(Ordering::Relaxed), "rows are dense");
        debug_assert_eq!(vectors.len() % self.params.dim, 0);
        self.space.append(first, vectors);
        self.flat.append(first.index(), vectors);
        #[allow(clippy::cast_possible_truncation)] // slots are u32: the caller has counted them
        let added = (vectors.len() / self.params.dim) as u32;
        self.len.store(first.0 + added, Ordering::Release);
        Ok(())
    }

    /// What the index was made with.
    pub(crate) fn params(&self) -> &IndexParams {
        &self.params
    }

    /// Whether a collection of `len` rows is to have a graph at all.
    pub(crate) fn wants_graph(&self, len: u32) -> bool {
        len >= self.params.graph_from
    }

    /// Moves the tail rows below `upto` into the graph, on `threads` threads, until done or `stop`; returns how many were
    /// covered. Rows that `view` does not see are covered but not linked. A collection below `graph_from` rows is left as
    /// it is. Can be stopped and called again; the outcome does not depend on `threads`.
    pub(crate) fn absorb(&self, upto: u32, threads: usize, view: &dyn Visibility, stop: &AtomicBool) -> Result<usize> {
        let upto = upto.min(self.len());
        if !self.wants_graph(upto) {
            return Ok(0);
        }
        // A poisoned lock means that an absorber panicked before publishing; its memory is only scratch.
        let mut builder = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.graph.len();
        let is_live = |slot: u32| may_live(view, slot);
        // The codes may be replaced at any time; one batch uses one set.
        while !stop.load(Ordering::Relaxed)
            && self.absorber(self.codes().as_deref(), threads).batch(upto, &is_live, &mut builder)?
        {}
        drop(builder);
        if self.graph.len() >= upto && self.costs.is_due(self.graph.len()) {
            self.measure(view)?;
        }
        Ok((self.graph.len() - before) as usize)
    }

    /// Measures what scans and walks cost and find, for the planner.
    fn measure(&self, view: &dyn Visibility) -> Result<()> {
        let (mut scratch, mut vector) = (Scratch::new(), Vec::new());
        let (mut scans, mut walks, mut wide) = (Vec::new(), Vec::new(), Vec::new());
        let (mut found, mut wanted) = (0, 0);
        let rows = view.len();
        // Every other row is searched for by a wide walk, so that none finds the caches filled for its own sake.
        for slot in (0..rows).step_by((rows / (2 * MEASURED_QUERIES)).max(1) as usize) {
            if !view.is_live(Slot(slot)) || !self.space.copy_row(slot, &mut vector)? {
                continue;
            }
            let start = Instant::now();
            if wide.len() < scans.len() {
                self.search_graph(&vector, MEASURED_K, MEASURED_WIDE, view, &mut scratch)?;
                wide.push(start.elapsed());
                continue;
            }
            let walked = self.search_graph(&vector, MEASURED_K, MEASURED_EF, view, &mut scratch)?;
            let middle = Instant::now();
            let scanned = self.search_flat(&vector, MEASURED_K, view, &mut scratch)?;
            scans.push(middle.elapsed());
            walks.push(middle - start);
            wanted += scanned.len();
            found += walked.iter().zip(&scanned).filter(|(w, s)| w.0 <= s.0).count();
        }
        if !scans.is_empty() && !wide.is_empty() {
            #[allow(clippy::cast_precision_loss)] // an estimate
            let recall = found as f32 / wanted.max(1) as f32;
            let walks = [median_ns(walks), median_ns(wide)];
            self.costs.measured(self.graph.len(), rows, median_ns(scans), walks, recall);
            self.measure_among(view, &mut scratch)?;
        }
        Ok(())
    }

    /// Takes the rows that `view` does not see out of the graph, on `threads` threads, until done or `stop`; returns how many
    /// nodes got new links. They stay covered. Can be stopped and called again; the outcome does not depend on `threads`.
    pub(crate) fn repair(&self, threads: usize, view: &dyn Visibility, stop: &AtomicBool) -> Result<usize> {
        let mut builder = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        self.absorber(self.codes().as_deref(), threads).repair(&|slot| may_live(view, slot), stop, &mut builder)
    }

    /// Whether the graph may lead to rows without bytes where walks need them, that is, where rows have no codes: to walls.
    pub(crate) fn has_walls(&self) -> bool {
        !Flat::keeps_codes(self.params.dim) && self.graph.len() > 0 && self.space.lost_any()
    }

    /// How many rows of `view` a walk can find: none while there may be walls.
    fn walkable(&self, view: &dyn Visibility) -> u32 {
        if self.has_walls() { 0 } else { self.graph.len().min(view.len()) }
    }

    /// The codes, if rows have any.
    fn codes(&self) -> Option<Arc<Codes>> {
        self.flat.codes()
    }

    /// The rows as walks see them.
    fn near<'a>(&'a self, codes: Option<&'a Codes>) -> Near<'a> {
        Near { space: &self.space, codes, graph: &self.graph }
    }

    fn absorber<'a>(&'a self, codes: Option<&'a Codes>, threads: usize) -> Absorb<'a> {
        let params = BuildParams {
            ef_construction: self.params.ef_construction,
            alpha: ALPHA,
            adaptive: self.params.metric != Metric::Ip,
        };
        Absorb { graph: &self.graph, rows: self.near(codes), params, threads }
    }

    /// The `k` rows of `view` nearest to `vector` by beam search of width `ef` (exact where that is cheaper), ascending.
    pub(crate) fn search(
        &self,
        vector: &[f32],
        k: usize,
        ef: usize,
        view: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        match self.costs.choose(view.len(), self.walkable(view), k, ef) {
            Plan::Flat => self.search_flat(vector, k, view, scratch),
            Plan::Graph => self.search_graph(vector, k, ef, view, scratch),
        }
    }

    /// [`Index::search`] for many vectors (row-major). Where it scans, several queries share a pass over the codes.
    pub(crate) fn search_many(
        &self,
        vectors: &[f32],
        k: usize,
        ef: usize,
        view: &dyn Visibility,
        scratches: &mut Vec<Scratch>,
    ) -> Result<Vec<Vec<(f32, Slot)>>> {
        let dim = self.params.dim;
        if let (true, [scratch, ..]) = (vectors.len() == dim, &mut scratches[..]) {
            return Ok(vec![self.search(vectors, k, ef, view, scratch)?]);
        }
        let tile = match self.costs.choose(view.len(), self.walkable(view), k, ef) {
            Plan::Flat => TILE,
            Plan::Graph => 1,
        };
        let mut answers = Vec::with_capacity(vectors.len() / dim);
        if scratches.len() < tile {
            scratches.resize_with(tile, Scratch::new);
        }
        for vectors in vectors.chunks(tile * dim) {
            if vectors.len() == dim {
                answers.push(self.search(vectors, k, ef, view, &mut scratches[0])?);
                continue;
            }
            let mut lanes = Vec::with_capacity(tile);
            for (vector, scratch) in vectors.chunks_exact(dim).zip(scratches.iter_mut()) {
                self.space.probe(vector, &mut scratch.probe.exact)?;
                let Scratch { probe, top, flat, .. } = scratch;
                top.reset(k);
                lanes.push(Lane { vector, space: &self.space, probe: &probe.exact, scratch: flat, top });
            }
            self.flat.search(0, k, view, &mut lanes)?;
            answers.extend(lanes.into_iter().map(|lane| answer(lane.top)));
        }
        Ok(answers)
    }

    /// Scans the codes of every row of `view`.
    pub(crate) fn search_flat(
        &self,
        vector: &[f32],
        k: usize,
        view: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        self.space.probe(vector, &mut scratch.probe.exact)?;
        scratch.top.reset(k);
        scratch.way = Way::Scan;
        self.scan(0, vector, k, view, scratch)?;
        Ok(answer(&mut scratch.top))
    }

    /// Walks the graph and scans the tail, whatever it costs.
    pub(crate) fn search_graph(
        &self,
        vector: &[f32],
        k: usize,
        ef: usize,
        view: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        // Fewer than k rows may be all there are; only a scan can tell.
        self.walk(vector, k, ef, None, view, scratch)?.map_or_else(|| self.search_flat(vector, k, view, scratch), Ok)
    }

    /// Walks the graph and scans the tail. `None` if that found fewer than `k` rows, or gave up looking for the rows that are
    /// visible among many that are not, as far as it is known how rare they are.
    fn walk(
        &self,
        vector: &[f32],
        k: usize,
        ef: usize,
        rare: Option<Rare>,
        view: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Option<Vec<(f32, Slot)>>> {
        self.space.probe(vector, &mut scratch.probe.exact)?;
        scratch.top.reset(k);
        scratch.way = Way::Graph;
        let graph_len = self.graph.len().min(view.len());
        self.scan(graph_len, vector, k, view, scratch)?;
        let Scratch { probe, walker, top, .. } = scratch;
        let codes = self.codes();
        let rows = self.near(codes.as_deref());
        if let Some(codes) = rows.codes {
            probe.code.prepare_nibbles(codes.grid(), vector);
        }
        let all_live = view.all_live();
        let is_dead = |slot: u32| !all_live && !view.is_live(Slot(slot));
        let field = Field { graph: &self.graph, rows: &rows, limit: graph_len };
        let reach = if rare.is_some() { FILTERED } else { FREE };
        let (width, stop) = reach.beam(self.params.metric, k, ef, rows.noise(probe));
        let (width, stop) = rare.map_or((width.into(), stop), |rare| rare.beam(k, width, stop));
        let arrived = walker.walk(field, probe, width, stop, &is_dead)?;
        if !arrived && rare.is_some() {
            return Ok(None);
        }
        self.rerank(walker, probe, rows.codes, k, graph_len, view, top)?;
        Ok((top.sorted().len() >= k).then(|| answer(top)))
    }

    /// Offers the rows of the beam, nearest first, until no further one can be among the `k` nearest.
    #[allow(clippy::too_many_arguments)] // one caller; a struct would only name them again
    fn rerank(
        &self,
        walker: &Walker,
        probe: &Probe,
        codes: Option<&Codes>,
        k: usize,
        graph_len: u32,
        view: &dyn Visibility,
        top: &mut TopK,
    ) -> Result<()> {
        let slack = codes.map_or(0.0, |_| probe.code.slack(Plane::Nibbles, RERANK_DEVIATIONS));
        let mut margin = None;
        // What the k-th estimate leaves out is seldom compared: no need to ask for it.
        let likely = match (codes, walker.beam.live().nth(k.max(1) - 1)) {
            (Some(codes), Some((kth, _))) => {
                let longest = codes.longest();
                probe.code.margin(Plane::Nibbles, kth, RERANK_DEVIATIONS).of_all(longest) + slack * longest
            }
            _ => f32::INFINITY,
        };
        let mut ahead = walker.beam.live().take_while(|row| row.0 <= likely).map(|row| row.1);
        ahead.clone().take(PLACES_AHEAD).for_each(|slot| {
            self.space.prefetch_place(slot);
            self.graph.prefetch_twin(slot);
        });
        // Counts the live ones.
        let mut i = 0;
        for ((estimate, node), is_live) in walker.beam.marked() {
            if is_live && i % RERANK_AHEAD == 0 {
                // One block ahead of the one that is compared now.
                let mut next = [node; 2 * RERANK_AHEAD];
                let next = &mut next[..if i == 0 { 2 * RERANK_AHEAD } else { RERANK_AHEAD }];
                let asked = next.iter_mut().zip(&mut ahead).map(|(next, node)| *next = node).count();
                self.space.prefetch(&next[..asked]);
            }
            if is_live
                && i % 4 == 0
                && i >= k
                && codes.is_some()
                && let Some(&(kth, _)) = top.sorted().get(k - 1)
            {
                margin = Some(probe.code.margin(Plane::Nibbles, kth, RERANK_DEVIATIONS));
            }
            if let (Some(codes), Some(margin)) = (codes, margin) {
                let (norm, longest) = (codes.norm(node), codes.longest());
                if estimate - slack * longest > margin.of_all(longest) {
                    break;
                }
                if estimate - slack * norm > margin.of_norm(norm) {
                    i += usize::from(is_live);
                    continue;
                }
            }
            i += usize::from(is_live);
            self.offer_chain(node, probe, graph_len, view, top)?;
        }
        Ok(())
    }

    /// Offers a node of the graph and the rows that share it.
    fn offer_chain(
        &self,
        node: u32,
        probe: &Probe,
        graph_len: u32,
        view: &dyn Visibility,
        top: &mut TopK,
    ) -> Result<()> {
        let mut row = Some(node);
        while let Some(slot) = row
            && slot < graph_len
        {
            if view.is_live(Slot(slot))
                && let Some(distance) = self.space.exact(&probe.exact, slot)?
            {
                top.offer(distance, slot);
            }
            row = self.graph.twin(slot);
        }
        Ok(())
    }

    /// Offers the rows of `view` from slot `from` on that may be among the `k` nearest.
    fn scan(&self, from: u32, vector: &[f32], k: usize, view: &dyn Visibility, scratch: &mut Scratch) -> Result<()> {
        let Scratch { probe, top, flat, .. } = scratch;
        let lane = Lane { vector, space: &self.space, probe: &probe.exact, scratch: flat, top };
        self.flat.search(from, k, view, &mut [lane])
    }

    /// Writes the image of the first `lsns.len()` slots to `path`; `lsns` holds the LSN that wrote each of them, and every
    /// operation up to `lsn` is reflected in them. Absorbing waits meanwhile; appends and searches do not.
    pub(crate) fn write_image(&self, vfs: &dyn Vfs, path: &Path, stamp: ImageStamp, lsns: &[u64]) -> Result<()> {
        let _unchanging = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(lsns.len() <= self.len() as usize);
        let codes = self.codes();
        let source = Source { lsns, graph: &self.graph, stored: self.space.stored(), codes: codes.as_deref() };
        image::write(vfs, path, &stamp.of(&self.params), source)
    }

    /// Reads and checks the image at `path`, for [`Index::with_image`]. It must be of this database and collection, made
    /// with `params`, and not reflect anything after `stamp.lsn`. An error means: build from the log.
    pub(crate) fn read_image(vfs: &dyn Vfs, path: &Path, stamp: ImageStamp, params: &IndexParams) -> Result<Image> {
        image_read::read(vfs, path, &stamp.of(params))
    }

    /// Makes the checksums and the stamp of an image right: for hostile files in tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn sealed_image(bytes: &[u8], stamp: ImageStamp, params: &IndexParams) -> Vec<u8> {
        image::sealed(bytes, &stamp.of(params))
    }

    /// Bytes held in memory.
    pub(crate) fn memory(&self) -> IndexMemory {
        IndexMemory { graph: self.graph.bytes(), codes: self.space.bytes() + self.flat.bytes() }
    }

    /// Checks the graph's invariants.
    pub(crate) fn check(&self, view: &dyn Visibility) -> GraphReport {
        check(&self.graph, &|slot| slot < view.len() && view.is_live(Slot(slot)))
    }
}

/// The median: what else runs on the machine makes a few of them much longer.
fn median_ns(mut times: Vec<Duration>) -> f32 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |median| median.as_secs_f32() * 1e9)
}

/// Whether a row is live as far as `view` knows: one that it does not reach yet was appended after it.
fn may_live(view: &dyn Visibility, slot: u32) -> bool {
    slot >= view.len() || view.is_live(Slot(slot))
}
