//! What happens between the index's answer and the hits: rows left out, limits, groups, diversity, pages, in that order.
//!
//! Invariants:
//! 1. An answer holds min(k, what there is) rows or groups: where the first rows that are looked at are too few, more are,
//!    up to all of them.
//! 2. Distances are the index's, exact; no stage changes them. Only diversity changes the order.

use super::diversify;
use super::execute::Scope;
use super::group::Groups;
use super::request::Query;
use crate::error::Result;
use crate::filter::values::Path;
use crate::filter::{Filter, Scalar};
use crate::index::Scratch;
use crate::types::Slot;

/// A row on its way into the answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chosen {
    pub(super) distance: f32,
    pub(super) slot: Slot,
    /// The value of the field by which the query groups.
    pub(super) group: Option<Scalar>,
}

impl Chosen {
    pub(super) fn new((distance, slot): (f32, Slot)) -> Chosen {
        Chosen { distance, slot, group: None }
    }
}

/// Rows looked at for each that is wanted, at first and from one look to the next.
pub(super) const GROWTH: usize = 4;

impl Scope<'_> {
    /// The rows that answer a query with stages, in order, or `None` if one is gone. Those of `without` (sorted) are left out.
    pub(super) fn chosen(
        &self,
        vector: &[f32],
        filter: Option<&Filter>,
        without: &[Slot],
        query: &Query,
        scratch: &mut Scratch,
    ) -> Result<Option<Vec<Chosen>>> {
        let page = query.k.saturating_add(query.offset);
        let wanted = query.diversity.map_or(page, |diversity| diversity.looked_at(page));
        let path = query.group.as_ref().map(|group| Path::new(&group.field)).transpose()?;
        let live = self.view.snapshot.live as usize;
        let per_row = query.group.as_ref().map_or(1, |group| group.size.saturating_mul(GROWTH));
        let mut looked_at = wanted.saturating_mul(per_row).saturating_add(without.len()).min(live);
        loop {
            let nearest = self.nearest(vector, looked_at, filter, query, scratch)?;
            let found = nearest.len();
            let mut rows: Vec<_> = nearest.into_iter().take_while(|row| self.is_within(query, row.0)).collect();
            let is_all = found < looked_at || looked_at >= live || rows.len() < found;
            rows.retain(|row| without.binary_search(&row.1).is_err());
            let chosen = match (&path, &query.group) {
                (Some(path), Some(group)) => {
                    let mut groups = Groups::new(wanted, group.size);
                    for row in rows {
                        let Some(value) = self.view.with_metadata(row.1, |text| path.first(text))? else {
                            return Ok(None);
                        };
                        if groups.take(row, value) {
                            break;
                        }
                    }
                    self.trace.mark("group");
                    if !is_all && !groups.are_full() {
                        looked_at = looked_at.saturating_mul(GROWTH).min(live);
                        continue;
                    }
                    groups.into_rows(query.offset)
                }
                _ => rows.into_iter().map(Chosen::new).collect(),
            };
            return self.page(chosen, query, scratch);
        }
    }

    /// Whether a distance is within the query's limits.
    pub(super) fn is_within(&self, query: &Query, distance: f32) -> bool {
        query.max_distance.is_none_or(|most| distance <= most)
            && query.min_score.is_none_or(|least| self.metric.score(distance) >= least)
    }

    /// The rows that the caller gets of those that were chosen.
    fn page(&self, chosen: Vec<Chosen>, query: &Query, scratch: &mut Scratch) -> Result<Option<Vec<Chosen>>> {
        let Some(diversity) = query.diversity else {
            // Groups have left out theirs.
            let (skipped, kept) = match query.group {
                Some(_) => (0, usize::MAX),
                None => (query.offset, query.k),
            };
            return Ok(Some(chosen.into_iter().skip(skipped).take(kept).collect()));
        };
        let slots: Vec<Slot> = chosen.iter().map(|row| row.slot).collect();
        let relevance: Vec<f32> = chosen.iter().map(|row| self.metric.score(row.distance)).collect();
        let page = query.k.saturating_add(query.offset);
        let order = diversify::select(&relevance, page, diversity.lambda, |row, similarities| {
            let found = self.index.among(slots[row], &slots, scratch, similarities)?;
            similarities.iter_mut().for_each(|distance| *distance = self.metric.score(*distance));
            Ok(found)
        })?;
        self.trace.mark("mmr");
        Ok(order.map(|order| order.into_iter().skip(query.offset).map(|row| chosen[row].clone()).collect()))
    }
}
