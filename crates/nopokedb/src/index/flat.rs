//! The codes of a collection's rows, and the scan over them.
//!
//! Invariants:
//! 1. The codes cover every row appended, in one of two states: all around the old centre, or all around the new one.
//! 2. What a scan offers is as `scan.rs` promises.
//!
//! Threading: one appender; any number of searchers, each with its own `FlatScratch`, without locks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use arc_swap::ArcSwap;

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
    codes: ArcSwap<Codes>,
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
    /// The codes of `source`'s first `len` rows.
    pub(crate) fn new(metric: Metric, seed: u64, source: Arc<dyn VectorSource>, len: u32) -> Flat {
        let codes = Codes::new(Grid::new(metric, source.dim(), Vec::new(), seed));
        let flat = Flat { codes: ArcSwap::from_pointee(codes), source, seed, coarse_failures: AtomicU32::new(0) };
        if len > 0 && flat.source.dim() > EXACT_DIM && !flat.recentre(len as usize) {
            flat.encode(&flat.codes(), len as usize);
        }
        flat
    }

    /// The codes that an image kept.
    pub(crate) fn with_codes(codes: Codes, seed: u64, source: Arc<dyn VectorSource>) -> Flat {
        Flat { codes: ArcSwap::from_pointee(codes), source, seed, coarse_failures: AtomicU32::new(0) }
    }

    /// Whether vectors of `dim` dimensions have codes.
    pub(crate) fn keeps_codes(dim: usize) -> bool {
        dim > EXACT_DIM
    }

    /// The rows' codes as they are now. They are replaced when the centre moves; what is held stays valid for views taken
    /// before it was loaded.
    pub(crate) fn codes(&self) -> Arc<Codes> {
        self.codes.load_full()
    }

    /// Whether rows have codes.
    pub(crate) fn has_codes(&self) -> bool {
        Self::keeps_codes(self.source.dim())
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

    /// Offers to each query's answer the rows from slot `from` on that may be among its `k` nearest.
    pub(crate) fn search(&self, from: u32, k: usize, view: &dyn Visibility, lanes: &mut [Lane<'_>]) -> Result<()> {
        let len = view.len();
        let rows = len.saturating_sub(from) as usize;
        let exactly = self.source.dim() <= EXACT_DIM || rows <= EXACT_BELOW.max(2 * k);
        if exactly {
            return lanes.iter_mut().try_for_each(|lane| lane.offer_all(from..len, view));
        }
        let codes = self.codes.load();
        lanes.iter_mut().for_each(|lane| lane.prepare(&codes, rows));
        let scan = Scan { codes: &codes, from, rows, k, view };
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
