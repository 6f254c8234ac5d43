//! One pass over codes for one or several queries: estimates for every row, exact distances for the few that matter.
//!
//! Invariants:
//! 1. What is offered to an answer is exact and live, and no row is offered twice. At least min(k, live) rows are offered.
//! 2. No row is passed over unless its estimate says that it is farther than the k-th exact distance by more than
//!    [`DEVIATIONS`] times the estimate's error, or so many rows were nearer by their estimates as [`Scan::budget`] says.
//!
//! Several queries share the pass: each chunk of codes is read from memory once and scored for all of them.

use std::cmp::Ordering;
use std::ops::Range;

use nopokedb_kernels::{BLOCK_64, Scoring, kernels};

use super::space::{Probe, Space};
use super::topk::TopK;
use crate::error::Result;
use crate::types::Slot;
use crate::vectors::Visibility;
use crate::vectors::code_query::{CodeQuery, Margin, Plane};
use crate::vectors::codes::Codes;

/// Standard deviations of the estimate's error that are allowed for.
const DEVIATIONS: f32 = 3.0;
/// Exact distances at most, beside those of the first round.
const BUDGET: usize = 4096;
/// That, or this part of all rows, where not all are live: where a filter leaves out what is near, a large part of the others is
/// about as far as the nearest of them.
pub(super) const BUDGET_PART: usize = 4;
/// Rows scanned between two looks at the best so far: their sums stay in the first-level cache.
const CHUNK: usize = 1024;
const SHARED_CHUNK: usize = 256;
/// Rows that are all pooled, to learn what is near.
const FIRST: usize = 128;
/// Rows whose nibbles are compared after the signs, before anything is known about the k-th distance.
const COARSE: usize = 64;

/// An estimate and its slot in one word that orders by estimate, then slot. NaN is last.
type Entry = u64;

fn entry(estimate: f32, slot: u32) -> Entry {
    let bits = if estimate.is_nan() { f32::NAN.to_bits() } else { estimate.to_bits() };
    let order = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(order) << 32 | u64::from(slot)
}

#[allow(clippy::cast_possible_truncation)] // the two halves
fn parts(entry: Entry) -> (f32, u32) {
    let order = (entry >> 32) as u32;
    let bits = if order >> 31 == 1 { order & !(1 << 31) } else { !order };
    (f32::from_bits(bits), entry as u32)
}

fn slot(entry: Entry) -> u32 {
    parts(entry).1
}

/// Rows whose memory is on its way while others are compared exactly.
const AHEAD: usize = 4;

/// Working memory of a scan. Grows to the largest one and is then reused.
#[derive(Debug, Default)]
pub(crate) struct FlatScratch {
    query: CodeQuery,
    sums: Vec<i32>,
    hits: Vec<u32>,
    estimates: Vec<f32>,
    ones: Vec<f32>,
    /// Estimates of single rows.
    near: Vec<f32>,
    /// Rows that may belong to the answer.
    pool: Vec<Entry>,
    /// Up to which estimate the pool holds every live row.
    limit: f32,
    /// Rows already offered, in order.
    offered: Vec<u32>,
    /// The best exact distances so far, at most k, in order.
    best: Vec<f32>,
    /// Whether the answer is complete.
    settled: bool,
    /// Exact distances computed by the last search, and rows whose nibbles it compared one by one.
    pub(crate) exact: usize,
    pub(crate) refined: usize,
    /// Rows whose codes it compared in order.
    pub(crate) coded: usize,
}

/// One query on its way.
pub(crate) struct Lane<'a> {
    pub(crate) vector: &'a [f32],
    /// Where exact distances come from, and the vector as they want it.
    pub(crate) space: &'a Space,
    pub(crate) probe: &'a Probe,
    pub(crate) scratch: &'a mut FlatScratch,
    pub(crate) top: &'a mut TopK,
}

impl Lane<'_> {
    /// Gets ready for a scan of `rows` rows.
    pub(crate) fn prepare(&mut self, codes: &Codes, rows: usize) {
        let scratch = &mut *self.scratch;
        scratch.query.prepare(codes.grid(), self.vector);
        scratch.sums.resize(CHUNK, 0);
        scratch.ones.resize(CHUNK, 1.0);
        if scratch.estimates.len() < rows {
            scratch.estimates.resize(rows, 0.0);
            scratch.hits.resize(rows.max(CHUNK), 0);
        }
        scratch.offered.clear();
        scratch.best.clear();
        scratch.settled = false;
        (scratch.exact, scratch.refined, scratch.coded) = (0, 0, rows);
    }

    /// Offers every live row of `slots`.
    pub(crate) fn offer_all(&mut self, slots: Range<u32>, view: &dyn Visibility) -> Result<()> {
        (self.scratch.exact, self.scratch.refined, self.scratch.coded) = (slots.len(), 0, 0);
        for slot in slots {
            if view.is_live(Slot(slot))
                && let Some(distance) = self.space.exact(self.probe, slot)?
            {
                self.top.offer(distance, slot);
            }
        }
        Ok(())
    }

    /// Asks for the rows of the pool that will be compared after its `i`-th, a few ahead of it.
    fn prefetch(&self, i: usize) {
        if !i.is_multiple_of(AHEAD) {
            return;
        }
        let from = if i == 0 { 0 } else { i + AHEAD };
        let ahead = self.scratch.pool.get(from..).unwrap_or_default();
        let mut slots = [0; 2 * AHEAD];
        let n = ahead.len().min(i + 2 * AHEAD - from);
        slots.iter_mut().zip(&ahead[..n]).for_each(|(place, entry)| *place = slot(*entry));
        self.space.prefetch(&slots[..n]);
    }

    /// Offers a row that is live, and remembers its distance if it is among the best `k`.
    fn offer(&mut self, slot: u32, k: usize) -> Result<()> {
        self.scratch.exact += 1;
        if let Some(distance) = self.space.exact(self.probe, slot)? {
            self.top.offer(distance, slot);
            let best = &mut self.scratch.best;
            if best.len() < k || best.last().is_some_and(|worst| distance < *worst) {
                best.truncate(k.max(1) - 1);
                best.insert(best.partition_point(|d| *d <= distance), distance);
            }
        }
        Ok(())
    }

    /// Which estimates rows of the answer can have, by what is known so far.
    fn margin(&self, plane: Plane, k: usize) -> Margin {
        let kth = self.scratch.best.get(k.max(1) - 1).copied().unwrap_or(f32::INFINITY);
        self.scratch.query.margin(plane, kth, DEVIATIONS)
    }
}

impl FlatScratch {
    /// Keeps the `keep` best of the pool; returns the worst estimate kept.
    fn shrink(&mut self, keep: usize) -> f32 {
        let keep = keep.min(self.pool.len());
        if keep == 0 {
            return f32::INFINITY;
        }
        let (_, worst, _) = self.pool.select_nth_unstable(keep - 1);
        let worst = parts(*worst).0;
        self.pool.truncate(keep);
        worst
    }
}

/// Codes of consecutive rows.
struct Run<'a> {
    codes: &'a [u8],
    rows: usize,
    plane: Plane,
    in_blocks: bool,
}

/// A scan of the rows `from ..+ rows` of `codes` for the `k` nearest.
pub(crate) struct Scan<'a> {
    pub(crate) codes: &'a Codes,
    pub(crate) from: u32,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) view: &'a dyn Visibility,
}

impl Scan<'_> {
    /// Nibbles for every row, then exact distances. Settles every lane that is not settled yet.
    pub(crate) fn by_nibbles(&self, lanes: &mut [Lane<'_>]) -> Result<()> {
        self.estimate_all(Plane::Nibbles, self.k + (self.k / 2).max(22), lanes);
        for lane in lanes.iter_mut().filter(|lane| !lane.scratch.settled) {
            self.forget_offered(lane);
            lane.scratch.pool.sort_unstable();
            self.rerank(lane, usize::MAX)?;
            let margin = lane.margin(Plane::Nibbles, self.k);
            if margin.of_all(self.codes.longest()) < lane.scratch.limit {
                continue;
            }
            // Rows between what was pooled and what may still belong to the answer.
            self.pool_more(margin, lane.scratch);
            self.forget_offered(lane);
            let budget = self.budget();
            lane.scratch.shrink(budget);
            lane.scratch.pool.sort_unstable();
            let budget = lane.scratch.exact + budget;
            self.rerank(lane, budget)?;
        }
        Ok(())
    }

    /// Signs for every row, nibbles for those that may matter, then exact distances. False if for some lanes these were
    /// nearly all rows: they are not settled.
    pub(crate) fn by_signs(&self, lanes: &mut [Lane<'_>]) -> Result<bool> {
        self.estimate_all(Plane::Signs, COARSE.max(2 * self.k), lanes);
        let mut all = true;
        for lane in lanes.iter_mut() {
            lane.scratch.settled = self.settle_signs(lane)?;
            all &= lane.scratch.settled;
        }
        Ok(all)
    }

    fn settle_signs(&self, lane: &mut Lane<'_>) -> Result<bool> {
        self.refine(lane.scratch);
        lane.scratch.pool.sort_unstable();
        // Enough exact distances for a first idea of the k-th.
        for i in 0..lane.scratch.pool.len().min(self.k + 2) {
            lane.prefetch(i);
            let slot = slot(lane.scratch.pool[i]);
            lane.offer(slot, self.k)?;
            lane.scratch.offered.push(slot);
        }
        lane.scratch.offered.sort_unstable();
        let margin = lane.margin(Plane::Signs, self.k);
        let refined = lane.scratch.pool.split_off(lane.scratch.offered.len());
        lane.scratch.pool.clear();
        if margin.of_all(self.codes.longest()) > lane.scratch.limit {
            self.pool_more(margin, lane.scratch);
            if lane.scratch.pool.len() > self.rows / 6 {
                return Ok(false);
            }
            self.refine(lane.scratch);
        }
        lane.scratch.pool.extend(refined);
        // Most of them are out by now: what is left is quickly sorted.
        let margin = lane.margin(Plane::Nibbles, self.k);
        let most = margin.of_all(self.codes.longest());
        lane.scratch.pool.retain(|entry| !matches!(parts(*entry).0.partial_cmp(&most), Some(Ordering::Greater)));
        lane.scratch.pool.sort_unstable();
        self.rerank(lane, self.budget())?;
        Ok(true)
    }

    /// Exact distances at most.
    fn budget(&self) -> usize {
        let part = if self.view.all_live() { 0 } else { self.rows / BUDGET_PART };
        BUDGET.max(2 * self.k).max(part)
    }

    /// Takes from the pool what the signs' first guess had offered already.
    fn forget_offered(&self, lane: &mut Lane<'_>) {
        let FlatScratch { pool, offered, .. } = &mut *lane.scratch;
        if !offered.is_empty() {
            pool.retain(|entry| offered.binary_search(&slot(*entry)).is_err());
        }
    }

    /// Estimates every row from `plane` for the lanes that are not settled, and pools about the `keep` best of each.
    fn estimate_all(&self, plane: Plane, keep: usize, lanes: &mut [Lane<'_>]) {
        for lane in lanes.iter_mut() {
            lane.scratch.limit = f32::INFINITY;
            lane.scratch.pool.clear();
        }
        // Codes that several queries are to read stay in the first-level cache between them.
        let usual = if lanes.len() > 1 { SHARED_CHUNK } else { CHUNK };
        let mut done = 0;
        while done < self.rows {
            let chunk = if done < FIRST { FIRST } else { usual };
            let mut taken = self.rows - done;
            for lane in lanes.iter_mut().filter(|lane| !lane.scratch.settled) {
                taken = self.estimate_chunk(plane, done, chunk.min(taken), lane.scratch);
                let (seen, scratch) = (done + taken, &mut *lane.scratch);
                if (FIRST..2 * CHUNK).contains(&seen) {
                    // As many of the first rows as `keep` of all would be, and some to spare.
                    scratch.limit = scratch.shrink((2 * keep * seen / self.rows).clamp(8.min(keep), keep));
                } else if scratch.pool.len() > 4 * keep {
                    scratch.limit = scratch.shrink(keep);
                }
            }
            done += taken;
        }
        for FlatScratch { pool, limit, .. } in lanes.iter_mut().map(|lane| &mut *lane.scratch) {
            pool.retain(|entry| !matches!(parts(*entry).0.partial_cmp(limit), Some(Ordering::Greater)));
        }
    }

    /// Estimates `n` rows or fewer from the `done`-th on and pools those not above the limit. Returns how many rows it took, which
    /// is the same for every query.
    fn estimate_chunk(&self, plane: Plane, done: usize, n: usize, scratch: &mut FlatScratch) -> usize {
        let FlatScratch { query, sums, hits, estimates, pool, ones, limit, .. } = scratch;
        let first = self.from as usize + done;
        let run = self.run(plane, first, n);
        let (used, n) = (run.plane, run.rows);
        let norms = self.codes.norm_run(first, n).unwrap_or(&ones[..n]);
        let factors = if used == Plane::Signs { self.codes.factor_run(first, n) } else { norms };
        let mut n = n.min(norms.len()).min(factors.len());
        if run.in_blocks {
            n -= n % BLOCK_64;
        }
        let (norms, factors) = (&norms[..n], &factors[..n]);
        let affine = query.affine(used, query.slack(used, DEVIATIONS));
        let scoring = Scoring { norms, factors, affine, limit: *limit };
        let codes = &run.codes[..n * (run.codes.len() / run.rows)];
        let estimates = &mut estimates[done..done + n];
        let found = match (run.in_blocks, used) {
            (true, Plane::Signs) => kernels().table_scan(query.tables(), codes, &scoring, estimates, hits),
            (true, Plane::Nibbles) => kernels().nibble_scan(query.weights(), codes, &scoring, estimates, hits),
            (false, _) => {
                kernels().nibble_rows(query.weights(), codes, &mut sums[..n]);
                kernels().select(&sums[..n], &scoring, estimates, hits)
            }
        };
        let all_live = self.view.all_live();
        for &hit in &hits[..found] {
            #[allow(clippy::cast_possible_truncation)] // a slot is a u32
            let slot = first as u32 + hit;
            if all_live || self.view.is_live(Slot(slot)) {
                pool.push(entry(estimates[hit as usize], slot));
            }
        }
        n
    }

    /// The codes of rows `first ..+ n`, or fewer, in `plane` or, where that has no whole block, as nibbles.
    fn run(&self, plane: Plane, first: usize, n: usize) -> Run<'_> {
        let signs = self.codes.grid().has_signs();
        let blocks = if signs && plane == Plane::Nibbles { &[] } else { self.codes.block_run(first, n) };
        if !blocks.is_empty() {
            let rows = blocks.len() / self.codes.block_bytes() * BLOCK_64;
            return Run { codes: blocks, rows, plane, in_blocks: true };
        }
        // Up to where blocks begin; behind the last there are only rows.
        let n = if first.is_multiple_of(BLOCK_64) || signs && plane == Plane::Nibbles {
            n
        } else {
            n.min(BLOCK_64 - first % BLOCK_64)
        };
        let codes = self.codes.hi_run(first, n);
        Run { codes, rows: codes.len() / (self.codes.grid().width / 2), plane: Plane::Nibbles, in_blocks: false }
    }

    /// Replaces the pool by the live rows whose estimates lie above the limit and within `margin`.
    fn pool_more(&self, margin: Margin, scratch: &mut FlatScratch) {
        let FlatScratch { hits, estimates, pool, limit, .. } = scratch;
        pool.clear();
        let estimates = &estimates[..self.rows];
        let found = kernels().select_between(estimates, *limit, margin.of_all(self.codes.longest()), hits);
        for &hit in &hits[..found] {
            let (estimate, slot) = (estimates[hit as usize], self.from + hit);
            if estimate <= margin.of_norm(self.codes.norm(slot)) && self.view.is_live(Slot(slot)) {
                pool.push(entry(estimate, slot));
            }
        }
    }

    /// Replaces the pool's estimates by those from nibbles.
    fn refine(&self, scratch: &mut FlatScratch) {
        let FlatScratch { query, pool, hits, near, refined, .. } = scratch;
        *refined += pool.len();
        let slots = &mut hits[..pool.len()];
        slots.iter_mut().zip(pool.iter()).for_each(|(place, entry)| *place = slot(*entry));
        query.near_many(self.codes, slots, near);
        let slack = query.slack(Plane::Nibbles, DEVIATIONS);
        for ((place, &slot), estimate) in pool.iter_mut().zip(slots.iter()).zip(near.iter()) {
            let slack = if slack > 0.0 { slack * self.codes.norm(slot) } else { 0.0 };
            *place = entry(estimate - slack, slot);
        }
    }

    /// Exact distances for the pool, which is sorted, until no row in it can belong to the answer.
    fn rerank(&self, lane: &mut Lane<'_>, budget: usize) -> Result<()> {
        let longest = self.codes.longest();
        let mut margin = lane.margin(Plane::Nibbles, self.k);
        for i in 0..lane.scratch.pool.len() {
            lane.prefetch(i);
            let (estimate, slot) = parts(lane.scratch.pool[i]);
            if estimate > margin.of_all(longest) || lane.scratch.exact >= budget {
                break;
            }
            if estimate > margin.of_norm(self.codes.norm(slot)) {
                continue;
            }
            lane.offer(slot, self.k)?;
            if lane.scratch.exact.is_multiple_of(4) {
                margin = lane.margin(Plane::Nibbles, self.k);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_order_by_estimate_then_slot_and_give_both_back() {
        let estimates = [f32::NEG_INFINITY, -1e30, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1e30, f32::INFINITY];
        let all: Vec<(f32, u32)> = estimates.into_iter().flat_map(|e| [(e, 0), (e, 7), (e, u32::MAX)]).collect();
        assert!(all.is_sorted_by_key(|&(e, s)| entry(e, s)));
        assert!(all.iter().all(|&(e, s)| parts(entry(e, s)) == (e, s)));
        assert!(entry(-f32::NAN, 0) > entry(f32::INFINITY, u32::MAX));
    }
}
