//! Search among the rows that pass a filter: by the cheapest of four ways, which find the same but for what codes and walks
//! may miss.
//!
//! * *Gather*: the codes of the rows that pass, where they are few.
//! * *Scan*: the codes of all rows.
//! * *Hops*: a walk from passing row to passing row, through those that do not pass (`hnsw/hops.rs`).
//! * *Walk*: the usual walk, with a beam wide enough for the rows that pass and for the others between them.
//!
//! Invariant: as in [`super`]: min(k, rows that pass) rows, ascending, with exact distances. A walk that ends short or gives up is
//! followed by a gather or a scan.

use super::hnsw::beam::{Stop, Width};
use super::near::Probe;
use super::plan::{MEASURED_EF, MEASURED_K, MEASURED_QUERIES, Route};
use super::reach::FILTERED;
use super::scan::BUDGET_PART;
use super::topk::{Scored, TopK, by_distance};
use super::work::Way;
use super::{Field, Index, RERANK_DEVIATIONS, Scratch, answer, median_ns};
use std::time::Instant;

use crate::error::Result;
use crate::types::Slot;
use crate::vectors::Visibility;
use crate::vectors::code_query::Plane;
use crate::vectors::codes::Codes;

/// Rows up to which exact distances cost less than preparing codes.
const EXACT_BELOW: usize = 64;
/// Exact distances at most, beside those of the first round.
const BUDGET: usize = 4096;

/// Passing rows that a walk looks for, at least, for each that is wanted. Measured: with two, recall is 0.98 where one row in five
/// passes, and with three 0.987; where most pass, or few, it is higher.
pub(super) const LIVE_FOR_ONE: usize = 3;
/// Places in the beam of the walk that goes ahead of hops.
const PILOT: usize = 64;
/// A walk is trusted if rows around the query pass at least this often, compared with all.
const LEAST_LOCAL: f32 = 0.25;
/// The share of rows that pass where ways are measured.
pub(super) const TENTH: f32 = 0.1;
/// Rows gathered to measure what one costs: enough for what a query costs beside them not to matter.
const GATHERED: u32 = 4096;

/// The rows that pass, as far as a plan needs to know them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Among<'a> {
    /// How many there are, dead ones included.
    pub(crate) count: usize,
    /// All of them, in order, if they are few.
    pub(crate) slots: Option<&'a [u32]>,
    /// Some of them, from all over the collection.
    pub(crate) sample: &'a [u32],
    /// Whether none of them is known to be dead.
    pub(crate) all_live: bool,
}

impl Among<'_> {
    /// The share of `len` rows that passes.
    #[allow(clippy::cast_precision_loss)] // an estimate
    fn share(&self, len: u32) -> f32 {
        (self.count as f32 / len.max(1) as f32).min(1.0)
    }
}

/// How rare the rows are that a walk is to find.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rare {
    /// The share of all rows that they are.
    pub(super) share: f32,
    /// Rows that may be in the beam before another way is to be taken.
    pub(super) most: usize,
}

impl Rare {
    /// The beam of a walk whose beam would be `width` rows wide, up to `stop`, if every row passed. It takes as many rows,
    /// whether they pass or not, and at least a few times `k` of those that do: then it is as wide as one for the rows that
    /// do not pass in between, too, would have to be.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a beam's width
    pub(super) fn beam(self, k: usize, width: usize, stop: Option<Stop>) -> (Width, Option<Stop>) {
        let part = |n: usize| (n as f32 * self.share).ceil() as usize;
        let live = part(width).max(LIVE_FOR_ONE * k);
        let stop = stop.map(|stop| Stop { anchor: part(stop.anchor).max(k + k / 2), anchor_all: stop.anchor, ..stop });
        let least = (width as f32 * self.share * LEAST_LOCAL).ceil() as usize;
        let expected = (live as f32 / self.share) as usize;
        (Width { live, all: width, most: self.most.max(expected.max(width).saturating_mul(2)), least }, stop)
    }
}

/// Working memory of a gather.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    live: Vec<u32>,
    estimates: Vec<f32>,
    pool: Vec<Scored>,
}

impl Gathered {
    /// Codes that the last gather compared.
    pub(super) fn coded(&self) -> usize {
        self.estimates.len()
    }

    /// A search that compares no codes begins.
    pub(super) fn forget(&mut self) {
        self.estimates.clear();
    }
}

impl Index {
    /// The `k` rows nearest to `vector` of those that pass, which are the ones `passing` shows.
    pub(crate) fn search_among(
        &self,
        vector: &[f32],
        k: usize,
        ef: usize,
        among: Among<'_>,
        passing: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        let graph_len = self.walkable(passing);
        let way = self.costs.choose_among(passing.len(), graph_len, k, ef, among.count, among.slots.is_some());
        match (way, among.slots) {
            (Route::Gather, Some(slots)) => self.search_few(vector, k, slots, among.all_live, passing, scratch),
            (Route::Walk, _) => self.search_rare(vector, k, ef, among, passing, scratch),
            (Route::Hops, _) => self.search_hops(vector, k, ef, among, passing, scratch),
            (Route::Scan | Route::Gather, _) => self.search_flat(vector, k, passing, scratch),
        }
    }

    /// Walks through all rows; without walking where those that pass turn out to be rarer around the query than elsewhere, so
    /// that the nearest of them may lie in any direction, and a walk finds those of one.
    pub(crate) fn search_rare(
        &self,
        vector: &[f32],
        k: usize,
        ef: usize,
        among: Among<'_>,
        passing: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        let share = among.share(passing.len());
        if share >= 1.0 {
            return self.search_graph(vector, k, ef, passing, scratch);
        }
        let most = self.costs.beam_for(passing.len(), among.count, among.slots.is_some());
        match self.walk(vector, k, ef, Some(Rare { share, most }), passing, scratch)? {
            Some(hits) => Ok(hits),
            None => self.search_listed(vector, k, among, passing, scratch),
        }
    }

    /// The same without walks: what codes say, where the rows are few of these rows alone.
    pub(crate) fn search_listed(
        &self,
        vector: &[f32],
        k: usize,
        among: Among<'_>,
        passing: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        match among.slots {
            Some(slots) => self.search_few(vector, k, slots, among.all_live, passing, scratch),
            None => self.search_flat(vector, k, passing, scratch),
        }
    }

    /// Compares the codes of `slots`, as far as `view` sees them (it sees all below its length if `all_live`), then the rows that may be among the `k` nearest.
    pub(crate) fn search_few(
        &self,
        vector: &[f32],
        k: usize,
        slots: &[u32],
        all_live: bool,
        view: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        let codes = self.codes().filter(|_| slots.len() > EXACT_BELOW.max(2 * k));
        let below = slots.partition_point(|slot| *slot < view.len());
        let Some(codes) = codes else {
            return self.search_slots(vector, k, slots[..below].iter().map(|slot| Slot(*slot)), view, scratch);
        };
        self.space.probe(vector, &mut scratch.probe.exact)?;
        scratch.top.reset(k);
        scratch.way = Way::Gather;
        let Scratch { probe, top, gathered, .. } = scratch;
        let Gathered { live, estimates, pool } = gathered;
        live.clear();
        if all_live {
            live.extend_from_slice(&slots[..below]);
        } else {
            live.extend(slots[..below].iter().copied().filter(|slot| view.is_live(Slot(*slot))));
        }
        probe.code.prepare_nibbles(codes.grid(), vector);
        probe.code.near_many(&codes, live, estimates);
        let slack = probe.code.slack(Plane::Nibbles, RERANK_DEVIATIONS);
        if slack > 0.0 {
            estimates.iter_mut().zip(&*live).for_each(|(estimate, slot)| *estimate -= slack * codes.norm(*slot));
        }
        // Enough exact distances for an idea of the k-th, then those of all rows that may be nearer.
        let last = nearest(estimates, live, k + (k / 2).max(22), pool);
        self.offer_pool(pool, k, usize::MAX, &codes, probe, top)?;
        if let Some(last) = last {
            let kth = top.sorted().get(k - 1).map_or(f32::INFINITY, |kth| kth.0);
            let margin = probe.code.margin(Plane::Nibbles, kth, RERANK_DEVIATIONS);
            let most = margin.of_all(codes.longest());
            let rest = estimates.iter().copied().zip(live.iter().copied());
            pool.clear();
            pool.extend(rest.filter(|row| row.0 <= most && by_distance(row, &last).is_gt()));
            pool.retain(|&(estimate, slot)| estimate <= margin.of_norm(codes.norm(slot)));
            let budget = BUDGET.max(2 * k).max(below / BUDGET_PART);
            self.offer_pool(pool, k, budget, &codes, probe, top)?;
        }
        Ok(answer(top))
    }

    /// Offers rows of `pool`, nearest first, `budget` at most, until no further one can be among the `k` nearest.
    fn offer_pool(
        &self,
        pool: &mut [Scored],
        k: usize,
        budget: usize,
        codes: &Codes,
        probe: &Probe,
        top: &mut TopK,
    ) -> Result<()> {
        pool.sort_unstable_by(by_distance);
        let longest = codes.longest();
        let mut margin = None;
        for (i, &(estimate, slot)) in pool.iter().take(budget).enumerate() {
            if i % 4 == 0
                && let Some(&(kth, _)) = top.sorted().get(k - 1)
            {
                margin = Some(probe.code.margin(Plane::Nibbles, kth, RERANK_DEVIATIONS));
            }
            if margin.is_some_and(|margin| estimate > margin.of_all(longest)) {
                break;
            }
            if let Some(distance) = self.space.exact(&probe.exact, slot)? {
                top.offer(distance, slot);
            }
        }
        Ok(())
    }

    /// Walks from passing row to passing row, and scans the tail. A narrow walk through all rows goes ahead: if much fewer pass
    /// around the query than everywhere, the nearest that do may lie in any direction, and a gather or a scan finds them.
    pub(crate) fn search_hops(
        &self,
        vector: &[f32],
        k: usize,
        ef: usize,
        among: Among<'_>,
        view: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        self.space.probe(vector, &mut scratch.probe.exact)?;
        scratch.top.reset(k);
        scratch.way = Way::Graph;
        let graph_len = self.graph.len().min(view.len());
        let Scratch { probe, walker, .. } = scratch;
        let codes = self.codes();
        let rows = self.near(codes.as_deref());
        if let Some(codes) = rows.codes {
            probe.code.prepare_nibbles(codes.grid(), vector);
        }
        let passes = |slot: u32| self.graph.any_of(slot, |slot| view.is_live(Slot(slot)));
        let field = Field { graph: &self.graph, rows: &rows, limit: graph_len };
        walker.walk(field, probe, PILOT, None, &|_| false)?;
        let mut seeds: Vec<u32> = walker.beam.rows().map(|(_, slot)| slot).filter(|slot| passes(*slot)).collect();
        #[allow(clippy::cast_precision_loss)] // a handful
        if (seeds.len() as f32) < PILOT as f32 * among.share(view.len()) * LEAST_LOCAL {
            return self.search_listed(vector, k, among, view, scratch);
        }
        // Rows on a chain, which no list names, and rows that died are no place to start from.
        let sample =
            among.sample.iter().copied().filter(|&slot| {
                slot < graph_len && view.is_live(Slot(slot)) && self.graph.links(slot).next().is_some()
            });
        seeds.extend(sample);
        let beam = FILTERED.beam(self.params.metric, k, ef.max(k), rows.noise(probe));
        walker.walk_among(field, probe, beam, seeds.into_iter(), &passes)?;
        let Scratch { probe, walker, top, .. } = scratch;
        self.rerank(walker, probe, rows.codes, k, graph_len, view, top)?;
        self.scan(graph_len, vector, k, view, scratch)?;
        if scratch.top.sorted().len() < k {
            return self.search_flat(vector, k, view, scratch);
        }
        Ok(answer(&mut scratch.top))
    }

    /// Measures what a gathered row costs, and hops and walks among one row in ten.
    pub(super) fn measure_among(&self, view: &dyn Visibility, scratch: &mut Scratch) -> Result<()> {
        let rows = view.len();
        let tenth = OneInTen(view);
        let slots: Vec<u32> = (0..rows).step_by((rows / GATHERED).max(1) as usize).collect();
        let sample: Vec<u32> = (0..rows).filter(|slot| tenth.is_live(Slot(*slot))).step_by(64).take(64).collect();
        let among =
            Among { count: (rows as usize / 10).max(1), slots: None, sample: &sample, all_live: view.all_live() };
        let (mut vector, mut times) = (Vec::new(), [(); 3].map(|()| Vec::new()));
        for slot in (0..rows).step_by((rows / MEASURED_QUERIES).max(1) as usize) {
            if !view.is_live(Slot(slot)) || !self.space.copy_row(slot, &mut vector)? {
                continue;
            }
            let start = Instant::now();
            self.search_few(&vector, MEASURED_K, &slots, view.all_live(), view, scratch)?;
            let middle = Instant::now();
            self.search_hops(&vector, MEASURED_K, MEASURED_EF, among, &tenth, scratch)?;
            let last = Instant::now();
            self.search_rare(&vector, MEASURED_K, MEASURED_EF, among, &tenth, scratch)?;
            times[2].push(last.elapsed());
            times[1].push(last - middle);
            times[0].push(middle - start);
        }
        let [gathers, hops, walks] = times.map(median_ns);
        #[allow(clippy::cast_precision_loss)] // estimates
        if gathers > 0.0 {
            self.costs.measured_among(gathers / slots.len() as f32, hops / MEASURED_EF as f32, walks);
        }
        Ok(())
    }
}

/// Fills `pool` with the `keep` nearest by their estimates; returns the last of them if there are more.
fn nearest(estimates: &[f32], slots: &[u32], keep: usize, pool: &mut Vec<Scored>) -> Option<Scored> {
    fn shrink(pool: &mut Vec<Scored>, keep: usize) -> Option<Scored> {
        let last = *pool.select_nth_unstable_by(keep - 1, by_distance).1;
        pool.truncate(keep);
        Some(last)
    }
    pool.clear();
    let mut last: Option<Scored> = None;
    for (&estimate, &slot) in estimates.iter().zip(slots) {
        if last.is_some_and(|last| estimate > last.0) {
            continue;
        }
        pool.push((estimate, slot));
        if pool.len() >= 4 * keep {
            last = shrink(pool, keep);
        }
    }
    if pool.len() > keep { shrink(pool, keep) } else { last }
}

/// A view of a tenth of the rows, to measure with.
struct OneInTen<'a>(&'a dyn Visibility);

impl Visibility for OneInTen<'_> {
    fn len(&self) -> u32 {
        self.0.len()
    }

    fn is_live(&self, slot: Slot) -> bool {
        // Multiplied, so that neighbours in time are told apart as any rows are.
        slot.0.wrapping_mul(0x9E37_79B1) >> 16 < 6_554 && self.0.is_live(slot)
    }
}
