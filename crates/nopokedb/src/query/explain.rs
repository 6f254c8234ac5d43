//! How a query was answered: written along while it is, if the caller asked for it.
//!
//! Invariant: a trace that is off does nothing but look at itself; no clock is read.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::index::{Scratch, Way};

/// How rows were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Plan {
    /// The codes of all rows were scanned, and the best compared in full precision.
    #[default]
    Scan,
    /// The graph was walked, and rows that are not in it yet were scanned.
    Graph,
    /// The few rows that pass the filter were compared, by their codes first unless they are very few.
    Gather,
    /// All rows (that pass the filter) were compared in full precision, as the query asked.
    Exact,
    /// No vector was asked for: documents were ranked by their words.
    Words,
}

impl Plan {
    /// `"scan"`, `"graph"`, `"gather"`, `"exact"` or `"words"`.
    pub fn name(self) -> &'static str {
        match self {
            Plan::Scan => "scan",
            Plan::Graph => "graph",
            Plan::Gather => "gather",
            Plan::Exact => "exact",
            Plan::Words => "words",
        }
    }
}

/// How a query was answered. Counts add up over all searches that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// How rows were found, by the last search if there were several.
    pub plan: Plan,
    /// Live rows.
    pub rows: usize,
    /// How many of them pass the filter, if there is one.
    pub matches: Option<usize>,
    /// The beam width, if the graph was walked.
    pub ef: Option<usize>,
    /// Searches: more than one where groups needed more rows than expected.
    pub searches: usize,
    /// Rows that the searches found, before limits, groups and diversity.
    pub candidates: usize,
    /// Rows that the words found, if words were asked for.
    pub text_candidates: Option<usize>,
    /// Rows whose codes were compared one after the other.
    pub rows_scanned: usize,
    /// Distances estimated from codes, those of scanned rows included.
    pub code_distances: usize,
    /// Distances computed from `f32` rows.
    pub exact_distances: usize,
    /// What took how long, in the order in which it was first done.
    pub stages: Vec<(&'static str, Duration)>,
    /// What the whole took.
    pub total: Duration,
}

/// An explanation in the making, or nothing.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    told: RefCell<Option<Told>>,
}

#[derive(Debug)]
struct Told {
    started: Instant,
    last: Instant,
    explanation: Explanation,
}

impl Trace {
    /// A trace that is written.
    pub(crate) fn on() -> Trace {
        let now = Instant::now();
        let explanation = Explanation::default();
        Trace { told: RefCell::new(Some(Told { started: now, last: now, explanation })) }
    }

    /// What has passed since the last mark was `stage`.
    pub(crate) fn mark(&self, stage: &'static str) {
        let mut told = self.told.borrow_mut();
        let Some(Told { last, explanation, .. }) = &mut *told else { return };
        let now = Instant::now();
        let took = now - std::mem::replace(last, now);
        match explanation.stages.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += took,
            None => explanation.stages.push((stage, took)),
        }
    }

    /// Lets `tell` write something down.
    pub(crate) fn tell(&self, tell: impl FnOnce(&mut Explanation)) {
        if let Some(told) = &mut *self.told.borrow_mut() {
            tell(&mut told.explanation);
        }
    }

    /// Notes a search that found `found` rows; `exact` if the query asked for every row to be compared.
    pub(crate) fn searched(&self, scratch: &Scratch, found: usize, exact: bool, ef: usize) {
        self.tell(|told| {
            let work = scratch.work();
            told.plan = match work.way {
                Way::Gather if exact => Plan::Exact,
                Way::Gather => Plan::Gather,
                Way::Scan => Plan::Scan,
                Way::Graph => Plan::Graph,
            };
            told.ef = (work.way == Way::Graph).then_some(ef);
            told.searches += 1;
            told.candidates += found;
            told.rows_scanned += work.scanned;
            told.code_distances += work.codes;
            told.exact_distances += work.exact;
        });
        self.mark("search");
    }

    /// What was told.
    pub(crate) fn finish(self) -> Explanation {
        let Some(Told { started, explanation, .. }) = self.told.into_inner() else { return Explanation::default() };
        Explanation { total: started.elapsed(), ..explanation }
    }
}
