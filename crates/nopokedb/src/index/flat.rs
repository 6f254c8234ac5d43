//! The codes of a collection's rows, and the scan over them.
//!
//! Invariants:
//! 1. The codes cover every row appended, in one of two states: all around the old centre, or all around the new one. Few rows
//!    have none: whoever sees so many that a scan reads codes finds them made.
//! 2. What a scan offers is as `scan.rs` promises.
//!
//! Threading: one appender; any number of searchers, each with its own `FlatScratch`, without locks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use arc_swap::ArcSwapOption;

use super::IndexParams;
use super::scan::{Lane, Scan};
use crate::error::Result;
use crate::types::{Metric, Slot};
use crate::vectors::centre;
use crate::vectors::codes::{Codes, Grid};
use crate::vectors::{VectorSource, Visibility};

/// Below this many rows exact distances cost less than preparing a query.
const EXACT_BELOW: usize = 96;
/// Up to this dimension codes would be larger than they are worth.
const EXACT_DIM: usize = 16;
/// More neighbours than this are found among nibbles at once: the signs would leave most rows in.
const SIGNS_UP_TO: usize = 256;

/// From this much failure on the signs are left out, and up to when they are tried again.
const DISTRUST: u32 = 32;
const RETRIAL: u32 = 96;

/// Numbers of rows at which the centre is looked at again: the first rows may not be like the rest.
const RECENTRE_AT: [usize; 3] = [256, 4096, 32_768];

/// The codes of a collection, scanned.
pub(crate) struct Flat {
    codes: ArcSwapOption<Codes>,
    /// Rows from which on there are codes.
    codes_from: usize,
    metric: Metric,
    source: Arc<dyn VectorSource>,
    seed: u64,
    /// How often the signs told too little lately; see `trust_signs`.
    coarse_failures: AtomicU32,
}

impl fmt::Debug for Flat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flat").field("codes", &self.codes()).finish_non_exhaustive()
    }
}

impl Flat {
    /// The codes of `source`'s first `len` rows, or those that an image kept. A graph may be built from `graph_from` rows on.
    pub(crate) fn new(params: &IndexParams, source: Arc<dyn VectorSource>, len: u32, kept: Option<Codes>) -> Flat {
        let flat = Flat {
            codes: ArcSwapOption::from(kept.map(Arc::new)),
            codes_from: (EXACT_BELOW + 1).min(params.graph_from as usize).max(1),
            metric: params.metric,
            source,
            seed: params.seed,
            coarse_failures: AtomicU32::new(0),
        };
        if flat.codes.load().is_none() && len as usize >= flat.codes_from && Self::keeps_codes(params.dim) {
            flat.make(len as usize);
        }
        flat
    }

    /// Whether vectors of `dim` dimensions have codes.
    pub(crate) fn keeps_codes(dim: usize) -> bool {
        dim > EXACT_DIM
    }

    /// The rows' codes as they are now, unless the rows are too few to have any. They are replaced when the centre moves; what
    /// is held stays valid for views taken before it was loaded.
    pub(crate) fn codes(&self) -> Option<Arc<Codes>> {
        self.codes.load_full()
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.codes().map_or(0, |codes| codes.bytes())
    }

    /// Adds rows (row-major) after the first `before`, which the source has. Single writer.
    pub(crate) fn append(&self, before: usize, vectors: &[f32]) {
        let dim = self.source.dim();
        let after = before + vectors.len() / dim;
        if !Self::keeps_codes(dim) || after < self.codes_from {
            return;
        }
        let moves = RECENTRE_AT.iter().any(|n| before < *n && after >= *n);
        match self.codes() {
            Some(codes) if moves => drop(self.recentre(&codes, before)),
            Some(_) => {}
            None if before > 0 => self.make(before),
            None => {
                let visit = |i: usize, f: &mut dyn FnMut(&[f32])| f(&vectors[i * dim..][..dim]);
                let centre = if moves { centre::better(self.metric, dim, after, &[], visit) } else { None };
                self.codes.store(Some(Arc::new(self.empty_around(centre.unwrap_or_default(), after))));
            }
        }
        let codes = self.codes().expect("made above where there were none");
        codes.append(vectors);
        if codes.outgrows_blocks(after) {
            self.codes.store(Some(Arc::new(codes.without_blocks())));
        }
    }

    /// Makes the codes of the first `known` rows, which the source has.
    fn make(&self, known: usize) {
        let codes = self.empty_around(Vec::new(), known);
        if !self.recentre(&codes, known) {
            self.encode(&codes, known);
            self.codes.store(Some(Arc::new(codes)));
        }
    }

    /// If the first `known` rows, which the source has, lie much nearer to another centre than to that of `old`, makes
    /// their codes anew around it. Searches go on meanwhile with the old codes.
    fn recentre(&self, old: &Codes, known: usize) -> bool {
        let grid = old.grid();
        let visit = |i: usize, f: &mut dyn FnMut(&[f32])| self.visit(i, f);
        let Some(centre) = centre::better(grid.metric, grid.dim, known, &grid.centre, visit) else { return false };
        let codes = self.empty_around(centre, known);
        self.encode(&codes, known);
        self.codes.store(Some(Arc::new(codes)));
        true
    }

    /// Codes around `centre` of no rows yet, of which there will be so many soon.
    fn empty_around(&self, centre: Vec<f32>, rows: usize) -> Codes {
        Codes::of(Grid::new(self.metric, self.source.dim(), centre, self.seed), rows)
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

    /// Offers to each query's answer the rows from slot `from` on that may be among its `k` nearest.
    pub(crate) fn search(&self, from: u32, k: usize, view: &dyn Visibility, lanes: &mut [Lane<'_>]) -> Result<()> {
        let len = view.len();
        let rows = len.saturating_sub(from) as usize;
        let codes = self.codes.load();
        let Some(codes) = codes.as_ref().filter(|_| rows > EXACT_BELOW.max(2 * k)) else {
            return lanes.iter_mut().try_for_each(|lane| lane.offer_all(from..len, view));
        };
        lanes.iter_mut().for_each(|lane| lane.prepare(codes, rows));
        let scan = Scan { codes, from, rows, k, view };
        if codes.grid().has_signs() && k <= SIGNS_UP_TO && self.trust_signs() {
            let told = scan.by_signs(lanes)?;
            self.learn(told);
            if told {
                return Ok(());
            }
        }
        scan.by_nibbles(lanes)
    }

    /// Whether to begin with the signs: as long as they have helped lately, and now and then again.
    fn trust_signs(&self) -> bool {
        let failures = self.coarse_failures.load(Relaxed);
        if failures >= DISTRUST {
            // Counts up to the next trial.
            self.coarse_failures.store(if failures > RETRIAL { DISTRUST - 1 } else { failures + 1 }, Relaxed);
        }
        failures < DISTRUST
    }

    fn learn(&self, told: bool) {
        let failures = self.coarse_failures.load(Relaxed);
        self.coarse_failures.store(if told { failures.saturating_sub(1) } else { failures + 8 }, Relaxed);
    }
}
