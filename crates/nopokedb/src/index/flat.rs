//! The scan: estimates from codes for every row, exact distances for the few that matter.
//!
//! Invariants:
//! 1. What is offered to the answer is exact and live. At least min(k, live) rows are offered.
//! 2. No row is passed over unless its estimate says that it is farther than the k-th exact distance by more than
//!    [`DEVIATIONS`] times the estimate's error, or [`BUDGET`] rows were nearer by their estimates.
//!
//! Threading: one appender; any number of searchers, each with its own [`FlatScratch`], without locks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use arc_swap::ArcSwap;
use nopokedb_kernels::{BLOCK_64, kernels};

use super::topk::{Scored, TopK, by_distance};
use crate::error::Result;
use crate::types::{Metric, Slot};
use crate::vectors::centre;
use crate::vectors::code_query::{CodeQuery, Margin, Plane};
use crate::vectors::codes::{Codes, Grid};
use crate::vectors::{VectorSource, Visibility};

/// Standard deviations of the estimate's error that are allowed for.
const DEVIATIONS: f32 = 2.6;
/// Exact distances at most, beside those of the first round.
const BUDGET: usize = 4096;
/// Rows scanned between two looks at the best so far: their sums stay in the first-level cache.
const CHUNK: usize = 1024;
/// Below this many rows exact distances cost less than preparing a query.
const EXACT_BELOW: usize = 96;
/// Up to this dimension codes would be larger than they are worth.
const EXACT_DIM: usize = 16;
/// Rows whose nibbles are compared after the signs, before anything is known about the k-th distance.
const COARSE: usize = 64;

/// More neighbours than this are found among nibbles at once: the signs would leave most rows in.
const SIGNS_UP_TO: usize = 256;

/// Numbers of rows at which the centre is looked at again: the first rows may not be like the rest.
const RECENTRE_AT: [usize; 3] = [256, 4096, 32_768];

/// What a search asks of its surroundings: which rows it may return, and their exact distances.
pub(crate) struct Sight<'a> {
    pub(crate) view: &'a dyn Visibility,
    /// The exact distance of a row, `None` if its bytes are gone.
    pub(crate) exact: &'a dyn Fn(u32) -> Result<Option<f32>>,
}

/// The codes of a collection, scanned.
pub(crate) struct Flat {
    codes: ArcSwap<Codes>,
    source: Arc<dyn VectorSource>,
    seed: u64,
    /// How often the signs told too little lately: high values turn to nibbles at once.
    coarse_failures: AtomicU32,
}

/// Working memory of a scan. Grows to the largest one and is then reused.
#[derive(Debug, Default)]
pub(crate) struct FlatScratch {
    query: CodeQuery,
    sums: Vec<i32>,
    hits: Vec<u32>,
    estimates: Vec<f32>,
    pool: Vec<Scored>,
    /// Rows already offered, in order.
    offered: Vec<u32>,
    ones: Vec<f32>,
    /// Exact distances computed by the last search, and rows whose nibbles it compared one by one.
    pub(crate) exact: usize,
    pub(crate) refined: usize,
}

impl fmt::Debug for Flat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flat").field("codes", &self.codes()).finish_non_exhaustive()
    }
}

impl Flat {
    /// The codes of `source`'s first `len` rows.
    pub(crate) fn new(metric: Metric, seed: u64, source: Arc<dyn VectorSource>, len: u32) -> Flat {
        let codes = Codes::new(Grid::new(metric, source.dim(), Vec::new(), seed));
        let flat = Flat { codes: ArcSwap::from_pointee(codes), source, seed, coarse_failures: AtomicU32::new(0) };
        if len > 0 && flat.source.dim() > EXACT_DIM && !flat.recentre(len as usize) {
            flat.encode(&flat.codes(), len as usize);
        }
        flat
    }

    /// The rows' codes as they are now. They are replaced when the centre moves; what is held stays valid for views taken
    /// before it was loaded.
    pub(crate) fn codes(&self) -> Arc<Codes> {
        self.codes.load_full()
    }

    /// Whether rows have codes.
    pub(crate) fn has_codes(&self) -> bool {
        self.source.dim() > EXACT_DIM
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.codes().bytes()
    }

    /// Adds rows (row-major); the source has those before them. Single writer.
    pub(crate) fn append(&self, vectors: &[f32]) {
        let dim = self.source.dim();
        if dim <= EXACT_DIM {
            return;
        }
        let (before, added) = (self.codes().len(), vectors.len() / dim);
        if RECENTRE_AT.iter().any(|n| before < *n && before + added >= *n) {
            if before > 0 {
                self.recentre(before);
            } else {
                let grid = self.codes();
                let visit = |i: usize, f: &mut dyn FnMut(&[f32])| f(&vectors[i * dim..][..dim]);
                if let Some(centre) = centre::better(grid.grid().metric, dim, added, &[], visit) {
                    self.codes.store(Arc::new(self.empty_around(centre)));
                }
            }
        }
        self.codes().append(vectors);
    }

    /// If the first `known` rows, which the source has, lie much nearer to another centre than to the present one, makes
    /// their codes anew around it. Searches go on meanwhile with the old codes.
    fn recentre(&self, known: usize) -> bool {
        let old = self.codes();
        let grid = old.grid();
        let visit = |i: usize, f: &mut dyn FnMut(&[f32])| self.visit(i, f);
        let Some(centre) = centre::better(grid.metric, grid.dim, known, &grid.centre, visit) else { return false };
        let codes = self.empty_around(centre);
        self.encode(&codes, known);
        self.codes.store(Arc::new(codes));
        true
    }

    fn empty_around(&self, centre: Vec<f32>) -> Codes {
        let metric = self.codes().grid().metric;
        Codes::new(Grid::new(metric, self.source.dim(), centre, self.seed))
    }

    /// Shows row `i` of the source to `f`. A damaged row is reported by the search that comes near it, not here.
    fn visit(&self, i: usize, f: &mut dyn FnMut(&[f32])) {
        let slot = u32::try_from(i).unwrap_or(u32::MAX);
        let _ = self.source.with_vector(Slot(slot), f);
    }

    /// Appends to `codes` those of the source's first `len` rows. Dead ones that it has dropped become zeros.
    fn encode(&self, codes: &Codes, len: usize) {
        let zeros = vec![0.0; self.source.dim()];
        for i in 0..len {
            self.visit(i, &mut |row| codes.append(row));
            if codes.len() == i {
                codes.append(&zeros);
            }
        }
    }

    /// Offers to `top` the rows from slot `from` on that may be among the `k` nearest to `vector`.
    pub(crate) fn search(
        &self,
        from: u32,
        vector: &[f32],
        k: usize,
        sight: &Sight<'_>,
        scratch: &mut FlatScratch,
        top: &mut TopK,
    ) -> Result<()> {
        let len = sight.view.len();
        let rows = len.saturating_sub(from) as usize;
        (scratch.exact, scratch.refined) = (0, 0);
        if self.source.dim() <= EXACT_DIM || rows <= EXACT_BELOW.max(2 * k) {
            return (from..len).try_for_each(|slot| offer(sight, slot, scratch, top));
        }
        let codes = self.codes.load();
        scratch.query.prepare(codes.grid(), vector);
        scratch.prepare(rows);
        let scan = Scan { codes: &codes, from, rows, k, sight };
        if codes.grid().has_signs() && k <= SIGNS_UP_TO && self.trust_signs() {
            let told = scan.by_signs(scratch, top)?;
            self.learn(told);
            if told {
                return Ok(());
            }
        }
        scan.by_nibbles(scratch, top)
    }

    /// Whether to begin with the signs: as long as they have helped lately, and now and then again.
    fn trust_signs(&self) -> bool {
        let failures = self.coarse_failures.load(Relaxed);
        if failures >= 32 {
            // Counts down to the next trial.
            self.coarse_failures.store(if failures > 96 { 31 } else { failures + 1 }, Relaxed);
        }
        failures < 32
    }

    fn learn(&self, told: bool) {
        let failures = self.coarse_failures.load(Relaxed);
        self.coarse_failures.store(if told { failures.saturating_sub(1) } else { failures + 8 }, Relaxed);
    }
}

/// Offers a row's exact distance if it is live.
fn offer(sight: &Sight<'_>, slot: u32, scratch: &mut FlatScratch, top: &mut TopK) -> Result<()> {
    if sight.view.is_live(Slot(slot)) {
        scratch.exact += 1;
        if let Some(distance) = (sight.exact)(slot)? {
            top.offer(distance, slot);
        }
    }
    Ok(())
}

impl FlatScratch {
    fn prepare(&mut self, rows: usize) {
        self.sums.resize(CHUNK, 0);
        self.hits.resize(CHUNK.max(rows), 0);
        self.ones.resize(CHUNK, 1.0);
        if self.estimates.len() < rows {
            self.estimates.resize(rows, 0.0);
        }
        self.pool.clear();
        self.offered.clear();
    }

    /// Keeps the `keep` best of the pool; returns the worst estimate kept.
    fn shrink(&mut self, keep: usize) -> f32 {
        if self.pool.len() > keep {
            self.pool.select_nth_unstable_by(keep - 1, by_distance);
            self.pool.truncate(keep);
        }
        self.pool.iter().fold(f32::NEG_INFINITY, |worst, &(d, _)| if d > worst || d.is_nan() { d } else { worst })
    }
}

/// One scan of one query.
struct Scan<'a> {
    codes: &'a Codes,
    from: u32,
    rows: usize,
    k: usize,
    sight: &'a Sight<'a>,
}

impl Scan<'_> {
    /// Nibbles for every row, then exact distances.
    fn by_nibbles(&self, scratch: &mut FlatScratch, top: &mut TopK) -> Result<()> {
        scratch.pool.clear();
        let limit = self.estimate_all(Plane::Nibbles, self.k + (self.k / 2).max(22), scratch);
        self.forget_offered(scratch);
        scratch.pool.sort_unstable_by(by_distance);
        let bound = self.rerank(scratch, top, usize::MAX)?;
        if bound < limit {
            return Ok(());
        }
        // Rows between what was pooled and what may still belong to the answer.
        let margin = self.margin(scratch, top);
        self.pool_between(limit, margin, scratch);
        self.forget_offered(scratch);
        scratch.shrink(BUDGET.max(2 * self.k));
        scratch.pool.sort_unstable_by(by_distance);
        let budget = scratch.exact + BUDGET.max(2 * self.k);
        self.rerank(scratch, top, budget).map(drop)
    }

    /// Takes from the pool what the signs' first guess had offered already.
    fn forget_offered(&self, scratch: &mut FlatScratch) {
        let FlatScratch { pool, offered, .. } = scratch;
        if !offered.is_empty() {
            pool.retain(|(_, slot)| offered.binary_search(slot).is_err());
        }
    }

    /// Signs for every row, nibbles for those that may matter, then exact distances. False if that was nearly all of them.
    fn by_signs(&self, scratch: &mut FlatScratch, top: &mut TopK) -> Result<bool> {
        let limit = self.estimate_all(Plane::Signs, COARSE.max(2 * self.k), scratch);
        self.refine(scratch);
        scratch.pool.sort_unstable_by(by_distance);
        // Enough exact distances for a first idea of the k-th.
        let kth = self.rerank_some(scratch, top, self.k + 2)?;
        let reach = scratch.query.margin(Plane::Signs, kth, DEVIATIONS);
        let refined = scratch.pool.split_off(scratch.pool.len().min(self.k + 2));
        scratch.pool.clear();
        if reach.of_all(self.codes.longest()) > limit {
            self.pool_between(limit, reach, scratch);
            if scratch.pool.len() > self.rows / 6 {
                return Ok(false);
            }
            self.refine(scratch);
        }
        scratch.pool.extend(refined);
        scratch.pool.sort_unstable_by(by_distance);
        self.rerank(scratch, top, BUDGET.max(2 * self.k))?;
        Ok(true)
    }

    /// Estimates every row from `plane` and pools about the `keep` best. Returns the estimate up to which the pool is
    /// complete.
    fn estimate_all(&self, plane: Plane, keep: usize, scratch: &mut FlatScratch) -> f32 {
        let mut limit = f32::INFINITY;
        let mut done = 0;
        while done < self.rows {
            done += self.estimate_chunk(plane, done, limit, scratch);
            if limit == f32::INFINITY && done >= CHUNK.min(self.rows) {
                // As many of the first rows as `keep` of all would be, and some to spare.
                limit = scratch.shrink((2 * keep * done / self.rows).clamp(8.min(keep), keep));
            } else if scratch.pool.len() > 4 * keep {
                limit = scratch.shrink(keep);
            }
        }
        scratch.pool.retain(|&(d, _)| d <= limit || d.is_nan());
        limit
    }

    /// Estimates some rows from the `done`-th on and pools those not above `limit`. Returns how many rows it took.
    fn estimate_chunk(&self, plane: Plane, done: usize, limit: f32, scratch: &mut FlatScratch) -> usize {
        let FlatScratch { query, sums, hits, estimates, pool, ones, .. } = scratch;
        let first = self.from as usize + done;
        let (n, used) = self.sums(plane, first, CHUNK.min(self.rows - done), query, sums);
        let norms = self.codes.norm_run(first, n).unwrap_or(&ones[..n]);
        let factors = if used == Plane::Signs { self.codes.factor_run(first, n) } else { norms };
        let n = n.min(norms.len()).min(factors.len());
        let affine = query.affine(used, query.slack(used, DEVIATIONS));
        let (norms, factors) = (&norms[..n], &factors[..n]);
        let estimates = &mut estimates[done..done + n];
        let found = kernels().select(&sums[..n], norms, factors, &affine, limit, estimates, hits);
        for &hit in &hits[..found] {
            #[allow(clippy::cast_possible_truncation)] // a slot is a u32
            let slot = first as u32 + hit;
            if self.sight.view.is_live(Slot(slot)) {
                pool.push((estimates[hit as usize], slot));
            }
        }
        n
    }

    /// Sums for rows `first ..+ n`, or fewer, from `plane` or, where that has no whole block, from nibbles.
    fn sums(&self, plane: Plane, first: usize, n: usize, query: &CodeQuery, sums: &mut [i32]) -> (usize, Plane) {
        let blocks = self.codes.block_run(first, n);
        if blocks.is_empty() {
            // Up to the next block that is whole; there is none behind the last.
            let n = n.min(BLOCK_64 - first % BLOCK_64);
            return (self.row_sums(first, n, query, sums), Plane::Nibbles);
        }
        let signs = self.codes.grid().has_signs();
        if signs && plane == Plane::Nibbles {
            return (self.row_sums(first, n, query, sums), Plane::Nibbles);
        }
        let n = blocks.len() / self.codes.block_bytes() * BLOCK_64;
        if signs {
            kernels().table_blocks(query.tables(), blocks, &mut sums[..n]);
        } else {
            kernels().nibble_blocks(query.weights(), blocks, &mut sums[..n]);
        }
        (n, plane)
    }

    fn row_sums(&self, first: usize, n: usize, query: &CodeQuery, sums: &mut [i32]) -> usize {
        let codes = self.codes.hi_run(first, n);
        let n = codes.len() / (self.codes.grid().width / 2);
        kernels().nibble_rows(query.weights(), codes, &mut sums[..n]);
        n
    }

    /// Replaces the pool by the live rows whose estimates lie above `low` and within `margin`.
    fn pool_between(&self, low: f32, margin: Margin, scratch: &mut FlatScratch) {
        let FlatScratch { hits, estimates, pool, .. } = scratch;
        pool.clear();
        let estimates = &estimates[..self.rows];
        let found = kernels().select_between(estimates, low, margin.of_all(self.codes.longest()), hits);
        for &hit in &hits[..found] {
            let (estimate, slot) = (estimates[hit as usize], self.from + hit);
            if estimate <= margin.of_norm(self.codes.encoded(slot).norm) && self.sight.view.is_live(Slot(slot)) {
                pool.push((estimate, slot));
            }
        }
    }

    /// Replaces the pool's estimates by those from nibbles.
    fn refine(&self, scratch: &mut FlatScratch) {
        let FlatScratch { query, pool, refined, .. } = scratch;
        *refined += pool.len();
        let slack = query.slack(Plane::Nibbles, DEVIATIONS);
        pool.iter().take(8).for_each(|&(_, slot)| self.codes.prefetch(slot));
        let mut i = 0;
        while i < pool.len() {
            pool[i..].iter().skip(8).take(4).for_each(|&(_, slot)| self.codes.prefetch(slot));
            let four = pool.len().min(i + 4) - i;
            // The last few are compared together with copies of the very last.
            let slots = std::array::from_fn(|j| pool[i + j.min(four - 1)].1);
            let estimates = query.near4(self.codes, slots);
            for (entry, estimate) in pool[i..i + four].iter_mut().zip(estimates) {
                let slack = if slack > 0.0 { slack * self.codes.encoded(entry.1).norm } else { 0.0 };
                entry.0 = estimate - slack;
            }
            i += 4;
        }
    }

    /// Exact distances for the pool, which is sorted, until no row in it can belong to the answer. Returns the largest
    /// estimate that a row of the answer can have.
    fn rerank(&self, scratch: &mut FlatScratch, top: &mut TopK, budget: usize) -> Result<f32> {
        let longest = self.codes.longest();
        let mut margin = self.margin(scratch, top);
        for i in 0..scratch.pool.len() {
            let (estimate, slot) = scratch.pool[i];
            if estimate > margin.of_all(longest) || scratch.exact >= budget {
                break;
            }
            if estimate > margin.of_norm(self.codes.encoded(slot).norm) {
                continue;
            }
            self.offer(slot, scratch, top)?;
            if scratch.exact.is_multiple_of(4) {
                margin = self.margin(scratch, top);
            }
        }
        Ok(self.margin(scratch, top).of_all(longest))
    }

    /// Exact distances for the first `n` of the pool, which is sorted. Returns the k-th distance so far.
    fn rerank_some(&self, scratch: &mut FlatScratch, top: &mut TopK, n: usize) -> Result<f32> {
        for i in 0..scratch.pool.len().min(n) {
            let slot = scratch.pool[i].1;
            self.offer(slot, scratch, top)?;
            scratch.offered.push(slot);
        }
        scratch.offered.sort_unstable();
        Ok(kth(top, self.k))
    }

    /// Which nibble estimates rows of the answer can have, by what is known so far.
    fn margin(&self, scratch: &FlatScratch, top: &mut TopK) -> Margin {
        scratch.query.margin(Plane::Nibbles, kth(top, self.k), DEVIATIONS)
    }

    fn offer(&self, slot: u32, scratch: &mut FlatScratch, top: &mut TopK) -> Result<()> {
        scratch.exact += 1;
        if let Some(distance) = (self.sight.exact)(slot)? {
            top.offer(distance, slot);
        }
        Ok(())
    }
}

/// The k-th best distance so far; infinite before there are k.
fn kth(top: &mut TopK, k: usize) -> f32 {
    top.sorted().get(k.max(1) - 1).map_or(f32::INFINITY, |scored| scored.0)
}
