//! Runs a query on one snapshot of a collection: index search, then the hits' rows from the mapped log.
//!
//! With a filter, `matches.rs` says which rows pass, and the index finds the nearest of them (`index/filtered.rs`).

use std::cell::RefCell;

use crate::error::{Error, ErrorKind, Result};
use crate::filter::Filter;
use crate::index::{Index, Scratch};
use crate::log::RowView;
use crate::metadata::Metadata;
use crate::query::explain::Trace;
use crate::query::matches::{FilterCache, Passing};
use crate::query::request::{Hit, Query};
use crate::query::stages::Chosen;
use crate::query::target::{Calibration, Effort};
use crate::types::{Metric, Slot};
use crate::vectors::keys::public_id;
use crate::vectors::view::View;

/// Hits whose rows are asked for before the first of them is read.
const PREFETCHED: usize = 32;

thread_local! {
    /// Working memory of this thread's searches: grows to the largest query and is then reused.
    static SCRATCHES: RefCell<Vec<Scratch>> = RefCell::new(vec![Scratch::new()]);
}

/// Where a query is answered.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) index: &'a Index,
    pub(crate) view: View<'a>,
    pub(crate) filters: &'a FilterCache,
    pub(crate) calibration: &'a Calibration,
    pub(crate) trace: Trace,
    pub(crate) metric: Metric,
    /// The beam width of a query that gives none.
    pub(crate) ef: usize,
}

/// Which rows the queries of one call may find.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Filters<'a> {
    /// The same for all.
    Shared(Option<&'a Filter>),
    /// One for each.
    Each(&'a [Option<Filter>]),
}

impl<'a> Filters<'a> {
    /// The filter of the `i`-th query.
    pub(crate) fn of(self, i: usize) -> Option<&'a Filter> {
        match self {
            Filters::Shared(filter) => filter,
            Filters::Each(filters) => filters.get(i).and_then(Option::as_ref),
        }
    }

    /// Those of the `i`-th query and all after it.
    pub(crate) fn from(self, i: usize) -> Filters<'a> {
        match self {
            Filters::Shared(_) => self,
            Filters::Each(filters) => Filters::Each(filters.get(i..).unwrap_or_default()),
        }
    }
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought<'a> {
    /// Vectors, row-major.
    pub(crate) vectors: &'a [f32],
    /// They stand for the filter of the query.
    pub(crate) filters: Filters<'a>,
    /// Rows to leave out, sorted.
    pub(crate) without: &'a [Slot],
}

/// The hits of each vector of `sought` in `scope`, best first. `Ok(None)` if compaction took a row away that only this (old)
/// view could still see: the caller tries again with a fresh one.
pub(crate) fn run(scope: &Scope<'_>, sought: Sought<'_>, query: &Query) -> Result<Option<Vec<Vec<Hit>>>> {
    let live = scope.view.snapshot.live as usize;
    if live == 0 {
        return Err(empty());
    }
    SCRATCHES.with_borrow_mut(|scratches| {
        if query.has_stages() || !sought.without.is_empty() {
            return scope.staged(sought, query, &mut scratches[0]);
        }
        let k = query.k.saturating_add(query.offset).min(live);
        let nearest = scope.nearest_of_all(sought, k, query, scratches)?;
        nearest.into_iter().map(|nearest| scope.plain_hits(nearest, query)).collect()
    })
}

/// Runs a search with this thread's working memory.
pub(crate) fn with_scratch<R>(search: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCHES.with_borrow_mut(|scratches| search(&mut scratches[0]))
}

/// What a collection without rows answers.
pub(crate) fn empty() -> Error {
    Error::new(ErrorKind::Empty, "the database is empty; add vectors before querying")
}

impl Scope<'_> {
    /// What is nearest to each of `vectors`. Without a filter they share the work.
    fn nearest_of_all(
        &self,
        Sought { vectors, filters, .. }: Sought<'_>,
        k: usize,
        query: &Query,
        scratches: &mut Vec<Scratch>,
    ) -> Result<Vec<Vec<(f32, Slot)>>> {
        if matches!(filters, Filters::Shared(None))
            && let Effort::Beam(ef) = self.effort(k, query)?
        {
            self.trace.mark("plan");
            let nearest = self.index.search_many(vectors, k, ef, &self.view, scratches)?;
            self.trace.searched(&scratches[0], nearest.iter().map(Vec::len).sum(), false, ef);
            return Ok(nearest);
        }
        let vectors = vectors.chunks_exact(self.index.params().dim).enumerate();
        vectors.map(|(i, vector)| self.nearest(vector, k, filters.of(i), query, &mut scratches[0])).collect()
    }

    /// The hits where they are more than the nearest rows.
    fn staged(&self, sought: Sought<'_>, query: &Query, scratch: &mut Scratch) -> Result<Option<Vec<Vec<Hit>>>> {
        let mut answers = Vec::new();
        for (i, vector) in sought.vectors.chunks_exact(self.index.params().dim).enumerate() {
            let chosen = self.chosen(vector, sought.filters.of(i), sought.without, query, scratch)?;
            let Some(chosen) = chosen else { return Ok(None) };
            let Some(hits) = self.hits(chosen.into_iter(), query)? else { return Ok(None) };
            answers.push(hits);
        }
        Ok(Some(answers))
    }

    /// The rows of `nearest` that the query asks for, or `None` if one is gone.
    fn plain_hits(&self, nearest: Vec<(f32, Slot)>, query: &Query) -> Result<Option<Vec<Hit>>> {
        self.view.prefetch_rows(
            &nearest[query.offset.min(nearest.len())..query.offset.saturating_add(PREFETCHED).min(nearest.len())],
        );
        let wanted = nearest.into_iter().take_while(|row| self.is_within(query, row.0)).skip(query.offset);
        self.hits(wanted.map(Chosen::new), query)
    }

    /// The rows that were `chosen`, or `None` if one is gone.
    fn hits(&self, chosen: impl Iterator<Item = Chosen>, query: &Query) -> Result<Option<Vec<Hit>>> {
        let mut hits = Vec::with_capacity(chosen.size_hint().1.unwrap_or(0));
        for Chosen { distance, slot, group } in chosen {
            match self.view.with_row(slot, |row| Ok(self.hit(&row, distance, query)))? {
                Some(hit) => hits.push(Hit { group, ..hit }),
                None => return Ok(None),
            }
        }
        self.trace.mark("rows");
        Ok(Some(hits))
    }

    pub(super) fn nearest(
        &self,
        vector: &[f32],
        k: usize,
        filter: Option<&Filter>,
        query: &Query,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        let Scope { index, view, .. } = self;
        let effort = self.effort(k, query)?;
        let ef = if let Effort::Beam(ef) = effort { ef } else { 0 };
        let Some(filter) = filter else {
            self.trace.mark("plan");
            let nearest = match effort {
                Effort::Beam(ef) => index.search(vector, k, ef, view, scratch),
                Effort::Scan => index.search_flat(vector, k, view, scratch),
                Effort::Exact => index.search_exact(vector, k, view, scratch),
            }?;
            self.trace.searched(scratch, nearest.len(), true, ef);
            return Ok(nearest);
        };
        self.trace.mark("plan");
        let matches = self.filters.matches(filter, view)?;
        self.trace.mark("filter");
        self.trace.tell(|told| told.matches = Some(matches.live(view).count()));
        let k = k.min(matches.count());
        if k == 0 {
            return Ok(Vec::new());
        }
        let passing = Passing::new(view, &matches);
        let among = matches.among(view);
        let nearest = match effort {
            Effort::Exact => index.search_slots(vector, k, matches.slots(view.snapshot.len), view, scratch),
            // What was measured without a filter says nothing about walks with one.
            _ if query.recall.is_some() => index.search_listed(vector, k, among, &passing, scratch),
            _ => index.search_among(vector, k, ef, among, &passing, scratch),
        }?;
        self.trace.searched(scratch, nearest.len(), effort == Effort::Exact, ef);
        Ok(nearest)
    }

    /// How to search for `k` rows.
    fn effort(&self, k: usize, query: &Query) -> Result<Effort> {
        match query.recall {
            _ if query.exact => Ok(Effort::Exact),
            Some(target) => self.calibration.effort(target, k, self.index, &self.view),
            None => Ok(Effort::Beam(query.ef.unwrap_or(self.ef))),
        }
    }

    pub(super) fn hit(&self, row: &RowView<'_>, distance: f32, query: &Query) -> Hit {
        let include = query.include;
        let metadata = row.metadata.filter(|_| include.metadata);
        Hit {
            id: public_id(row.id, row.key),
            score: self.metric.score(distance),
            distance,
            metadata: metadata.map(|text| Metadata::from_stored(text.into())),
            document: row.document.filter(|_| include.document).map(str::to_owned),
            vector: row.vector.filter(|_| include.vector).map(<[f32]>::to_vec),
            group: None,
            text_score: None,
            snippet: None,
        }
    }
}
