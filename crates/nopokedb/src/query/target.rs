//! How much effort a recall takes: measured on the collection, kept, and measured again when it has grown by a quarter.
//!
//! Rows of the collection, moved by half the difference of two of their neighbours so that no row of the index is where a
//! query is, are searched for by a scan and by walks of growing width. The narrowest walk that finds the wanted share of
//! what the scan finds, by two standard errors more, is taken from then on; if none does, the scan; if that, held
//! against exact distances, finds too little itself, every row is compared.
//!
//! Threading: the first to ask measures, and those who ask for the same meanwhile wait; once there is a measurement, one
//! who finds it old measures while the others go on with it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::index::{Index, Scratch};
use crate::types::Slot;
use crate::vectors::Visibility;
use crate::vectors::view::View;

/// Beyond this a scan's estimates are not trusted, and every row is compared.
const MOST_BY_SCAN: f32 = 0.999;
/// Queries that are measured.
const SAMPLE: usize = 96;
/// Numbers compared, at most about, when the scan is held against exact distances; and queries at least.
const EXACT_BUDGET: usize = 400_000_000;
const EXACT_SAMPLE: usize = 4;
/// Walks wider than this cost more than a scan wherever that was tried.
const WIDEST: usize = 4_096;
/// Numbers of neighbours are rounded up to a power of two, so that few are measured; this is the least.
const FEWEST: usize = 8;

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// A beam of this width, or a scan where that is cheaper.
    Beam(usize),
    /// A scan of all codes.
    Scan,
    /// Every row in full precision.
    Exact,
}

/// What was measured for one number of neighbours.
#[derive(Clone, Debug)]
struct Curve {
    k: usize,
    rows: u32,
    graph_len: u32,
    /// The recall that walks of some widths reach at least, narrow ones first.
    walks: Vec<(usize, f32)>,
    /// The recall that a scan reaches at least.
    scan: f32,
}

impl Curve {
    fn effort(&self, target: f32) -> Effort {
        match self.walks.iter().find(|(_, recall)| *recall >= target) {
            Some(&(ef, _)) if self.scan >= target => Effort::Beam(ef),
            _ if self.scan >= target => Effort::Scan,
            _ => Effort::Exact,
        }
    }

    fn is_old(&self, rows: u32, graph_len: u32) -> bool {
        let differs = |now: u32, then: u32| now.abs_diff(then) > then / 4;
        differs(rows, self.rows) || differs(graph_len, self.graph_len)
    }
}

/// What is known about a generation's recall.
#[derive(Debug, Default)]
pub(crate) struct Calibration {
    curves: Mutex<Vec<Curve>>,
    measuring: Mutex<()>,
}

impl Calibration {
    /// What it takes to find `target` of the `k` nearest rows of `view`.
    pub(crate) fn effort(&self, target: f32, k: usize, index: &Index, view: &View<'_>) -> Result<Effort> {
        if target > MOST_BY_SCAN {
            return Ok(Effort::Exact);
        }
        let k = k.next_power_of_two().max(FEWEST);
        let (rows, graph_len) = (view.snapshot.live, index.graph_len().min(view.len()));
        let _measuring = match self.find(k) {
            Some(curve) if !curve.is_old(rows, graph_len) => return Ok(curve.effort(target)),
            Some(curve) => match self.measuring.try_lock() {
                Ok(measuring) => measuring,
                Err(_) => return Ok(curve.effort(target)),
            },
            None => self.measuring.lock().unwrap_or_else(PoisonError::into_inner),
        };
        if let Some(curve) = self.find(k).filter(|curve| !curve.is_old(rows, graph_len)) {
            return Ok(curve.effort(target));
        }
        let (walks, scan) = Sampler::new(index, view, k)?.measure(graph_len > 0)?;
        let curve = Curve { k, rows, graph_len, walks, scan };
        let effort = curve.effort(target);
        let mut curves = self.lock();
        curves.retain(|old| old.k != k);
        curves.push(curve);
        Ok(effort)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Curve>> {
        self.curves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, k: usize) -> Option<Curve> {
        self.lock().iter().find(|curve| curve.k == k).cloned()
    }
}

/// Queries and their true neighbours.
struct Sampler<'a> {
    index: &'a Index,
    view: &'a View<'a>,
    k: usize,
    scratch: Scratch,
    queries: Vec<Vec<f32>>,
    /// The distance of the farthest neighbour of each, and how many there are.
    truth: Vec<(f32, usize)>,
    scan_took: Duration,
}

impl<'a> Sampler<'a> {
    fn new(index: &'a Index, view: &'a View<'a>, k: usize) -> Result<Sampler<'a>> {
        let mut sampler = Sampler {
            index,
            view,
            k,
            scratch: Scratch::new(),
            queries: Vec::with_capacity(SAMPLE),
            truth: Vec::with_capacity(SAMPLE),
            scan_took: Duration::ZERO,
        };
        let step = (view.snapshot.len as usize).div_ceil(SAMPLE).max(1);
        for slot in (0..view.snapshot.len).step_by(step).map(Slot).filter(|slot| view.is_live(*slot)) {
            let Some(query) = sampler.query_near(slot)? else { continue };
            let start = Instant::now();
            let found = index.search_flat(&query, k, view, &mut sampler.scratch)?;
            sampler.scan_took += start.elapsed();
            if let Some(&(last, _)) = found.last() {
                sampler.queries.push(query);
                sampler.truth.push((last, found.len()));
            }
        }
        Ok(sampler)
    }

    /// The row of `slot`, moved by half the difference of two of its neighbours; `None` if it is gone.
    fn query_near(&mut self, slot: Slot) -> Result<Option<Vec<f32>>> {
        let view = self.view;
        let row = |slot| -> Result<Option<Vec<f32>>> {
            Ok(view.with_row(slot, |row| Ok(row.vector.map(<[f32]>::to_vec)))?.flatten())
        };
        let Some(mut query) = row(slot)? else { return Ok(None) };
        let near = self.index.search_flat(&query, 5, view, &mut self.scratch)?;
        if let [_, (_, a), _, (_, b), ..] = near[..]
            && let (Some(a), Some(b)) = (row(a)?, row(b)?)
        {
            query.iter_mut().zip(a.iter().zip(&b)).for_each(|(x, (a, b))| *x += (a - b) / 2.0);
        }
        Ok(Some(query))
    }

    /// The recall of walks, until they reach all or cost more than a scan, and of the scan.
    fn measure(&mut self, has_graph: bool) -> Result<(Vec<(usize, f32)>, f32)> {
        let mut walks = Vec::new();
        let (mut ef, mut last) = (self.k.max(2 * FEWEST), 0.0);
        while has_graph && ef <= WIDEST && last < MOST_BY_SCAN {
            let start = Instant::now();
            last = self.recall_of(SAMPLE, |s, query| s.index.search_graph(query, s.k, ef, s.view, &mut s.scratch))?;
            walks.push((ef, last));
            if start.elapsed() > self.scan_took {
                break;
            }
            ef += (ef / 2).next_power_of_two();
        }
        let numbers = self.view.snapshot.live as usize * self.index.params().dim;
        let some = (EXACT_BUDGET / numbers.max(1)).clamp(EXACT_SAMPLE, SAMPLE);
        // The other way round: how much of what is really near the scan found.
        let mut all = true;
        let scan = self.recall_of(some, |s, query| {
            let exact = s.index.search_exact(query, s.k, s.view, &mut s.scratch)?;
            let found = s.index.search_flat(query, s.k, s.view, &mut s.scratch)?;
            let last = exact.last().map_or(0.0, |row| row.0);
            all &= found.last().is_none_or(|row| row.0 <= last);
            Ok(found)
        })?;
        Ok((walks, if all { 1.0 } else { scan }))
    }

    /// The share of the true neighbours that `search` finds for the first `some` queries, less what chance may account for.
    fn recall_of(
        &mut self,
        some: usize,
        mut search: impl FnMut(&mut Self, &[f32]) -> Result<Vec<(f32, Slot)>>,
    ) -> Result<f32> {
        let (queries, truth) = (std::mem::take(&mut self.queries), std::mem::take(&mut self.truth));
        let (mut sum, mut squares, mut wanted, mut n) = (0.0, 0.0, 0.0, 0.0f64);
        let mut outcome = Ok(());
        for (query, &(last, count)) in queries.iter().zip(&truth).take(some) {
            match search(self, query) {
                Ok(found) => {
                    // By distance, for of equally near rows any will do.
                    let right = found.iter().filter(|row| row.0 <= last).count();
                    #[allow(clippy::cast_precision_loss)] // small numbers
                    let (share, count) = (right.min(count) as f64 / count as f64, count as f64);
                    (sum, squares, wanted, n) = (sum + share, squares + share * share, wanted + count, n + 1.0);
                }
                Err(error) => outcome = Err(error),
            }
        }
        (self.queries, self.truth) = (queries, truth);
        outcome?;
        if n == 0.0 {
            return Ok(0.0);
        }
        let mean = sum / n;
        let error = ((squares / n - mean * mean).max(0.0) / n).sqrt();
        #[allow(clippy::cast_possible_truncation)] // a share
        let least = (mean - 2.0 * error).min(1.0 - 1.0 / (wanted + 1.0)) as f32;
        Ok(least)
    }
}
