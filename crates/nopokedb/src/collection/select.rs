//! The verbs about many rows at once: counted, read, paged through or deleted, by ids or by a filter.
//!
//! Invariant: each call looks at one snapshot. `delete_where` holds the ids it is about to delete and looks again, so that
//! no row is deleted that does not pass at that moment.

use std::collections::{BTreeSet, BinaryHeap, HashSet};
use std::ops::ControlFlow;

use super::{Collection, Record, record};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::generation::Generation;
use crate::log::NewRowRef;
use crate::options::in_range;
use crate::query::request::{Include, Query};
use crate::stats::Stats;
use crate::types::{Id, RecordId, Slot};
use crate::vectors::Visibility;
use crate::vectors::keys::{PLACES, first_place, relatives};
use crate::vectors::view::View;

/// So many more rows than those of a page are looked at, for a record may have one of a text's [`PLACES`] numbers: rows of up to that
/// many numbers come before a text's first one and after it in order, and the other way round.
const NEIGHBOURS: usize = 2 * PLACES;
/// Searches between two words about the progress.
const WATCHED: usize = 8;

impl Collection {
    /// How many rows pass `filter`; without one, how many there are.
    ///
    /// # Errors
    /// `Invalid` for a filter beyond the limits, `Corruption`, `Closed`.
    pub fn count(&self, filter: Option<&Filter>) -> Result<usize> {
        let Some(filter) = filter else { return self.len() };
        self.check()?;
        filter.check()?;
        let generation = self.core.generation();
        let view = generation.view();
        Ok(generation.filters.matches(filter, &view)?.live(&view).count())
    }

    /// Deletes every row that passes `filter`, all or none, and says how many they were.
    ///
    /// # Errors
    /// As [`Collection::count`]; also `Full`, `Io`. Nothing was deleted then.
    pub fn delete_where(&self, filter: &Filter) -> Result<usize> {
        self.check_writing()?;
        filter.check()?;
        let ids = self.passing(filter, |_| true)?;
        let _held = self.core.reservations.given(&ids);
        // Nobody changes these rows now; some may have changed before they were held.
        let ids = self.passing(filter, |id| ids.binary_search(&id).is_ok())?;
        self.delete_held(&ids)?;
        Ok(ids.len())
    }

    /// [`Collection::purge`] for every row that passes `filter` now, and says how many they were. Rows that have expired and passed
    /// are purged too, and not counted: nobody sees them, but their bytes are there.
    ///
    /// # Errors
    /// As [`Collection::delete_where`]; the rows may be deleted then, and not purged.
    pub fn purge_where(&self, filter: &Filter) -> Result<usize> {
        self.check_writing()?;
        filter.check()?;
        let expired = self.handle.engine.expired_passing(&self.core, filter)?;
        let records = self.passing(filter, |_| true)?;
        let held = self.core.reservations.given(&union(&records, &expired));
        let records = self.passing(filter, |id| records.binary_search(&id).is_ok())?;
        let generation = self.core.generation();
        let mut hidden = expired.clone();
        hidden.retain(|&id| generation.has_expired(id));
        self.delete_held(&union(&records, &hidden))?;
        drop(held);
        // A text that was deleted and came again may have had another of its numbers before.
        let purged: HashSet<u64> =
            union(&records, &expired).into_iter().flat_map(relatives).map(|record| record.0).collect();
        if !purged.is_empty() {
            self.handle.engine.purge(&self.core, &purged)?;
        }
        Ok(records.len())
    }

    /// Deletes these rows, which exist and are held.
    pub(super) fn delete_held(&self, records: &[RecordId]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut frame = self.frame(records.len(), 0);
        for &record in records {
            frame.push(&NewRowRef::delete(record))?;
        }
        self.handle.engine.commit(frame.finish())
    }

    /// The rows of `ids`, in that order; `None` for those there are not.
    ///
    /// # Errors
    /// `Corruption`, `Closed`.
    pub fn get_many(&self, ids: &[Id]) -> Result<Vec<Option<Record>>> {
        self.check()?;
        ids.iter().map(|id| self.read(id)).collect()
    }

    /// The next `limit` rows after the id `after` that pass `filter`: those with integer ids first, ascending, then those
    /// with text ids, in an order that is fixed but not alphabetical (of the texts' hashes). Fewer come back only at the
    /// end. Pass the last id of a page to get the next one: a row that is there all the while comes exactly once, whatever
    /// is written in between.
    ///
    /// # Errors
    /// `Invalid` for a `limit` of 0 or a filter beyond the limits, `Corruption`, `Closed`.
    pub fn scroll(&self, after: Option<&Id>, limit: usize, filter: Option<&Filter>) -> Result<Vec<Record>> {
        self.check()?;
        in_range("limit", limit, 1, u32::MAX as usize)?;
        filter.map_or(Ok(()), Filter::check)?;
        loop {
            let generation = self.core.generation();
            let view = generation.view();
            let slots = page(&generation, &view, after.map(first_place), limit.saturating_add(NEIGHBOURS), filter)?;
            let rows = slots.into_iter().map(|slot| view.with_row(slot, |row| record(&row)));
            // A row that is missing was compacted away since the view was taken: a fresh one does not have it.
            if let Some(mut rows) = rows.collect::<Result<Option<Vec<_>>>>()? {
                rows.retain(|row| after.is_none_or(|after| order(&row.id) > order(after)));
                rows.sort_by(|a, b| order(&a.id).cmp(&order(&b.id)));
                rows.truncate(limit);
                return Ok(rows);
            }
        }
    }

    /// How much of what an exact search finds `query` finds, from 0 to 1: measured with the vectors of up to `sample` rows
    /// spread over the collection (those that pass the query's filter), each row itself left out of its own answer.
    ///
    /// # Errors
    /// As [`Collection::query`]; also `Invalid` for a `sample` of 0.
    pub fn recall(&self, sample: usize, query: &Query) -> Result<f64> {
        self.recall_watched(sample, query, &mut |_, _| ControlFlow::Continue(()))
    }

    /// [`Collection::recall`], telling `progress` how many searches are done, and of how many. Breaking ends it with an error.
    pub fn recall_watched(
        &self,
        sample: usize,
        query: &Query,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<f64> {
        self.check()?;
        in_range("sample", sample, 1, u32::MAX as usize)?;
        query.validate()?;
        let with_itself = Query {
            k: query.k.saturating_add(1),
            include: Include::NONE,
            filter: query.filter.clone(),
            ef: query.ef,
            recall: query.recall,
            ..Query::default()
        };
        let exact = Query { exact: true, ef: None, recall: None, ..with_itself.clone() };
        let (mut found, mut wanted) = (0u32, 0u32);
        let vectors = self.sample(sample, query.filter.as_ref())?;
        let (mut done, all) = (0, vectors.len() / self.dim());
        for vectors in vectors.chunks(WATCHED * self.dim()) {
            if progress(done, all).is_break() {
                return Err(Error::argument("stopped by what was told the progress"));
            }
            done += vectors.len() / self.dim();
            let (found_all, best_all) = (self.query_many(vectors, &with_itself)?, self.query_many(vectors, &exact)?);
            for (hits, best) in found_all.iter().zip(&best_all) {
                let Some(last) = best.last().filter(|_| best.len() > 1) else { continue };
                // By distance, for of equally near rows any will do.
                let right = hits.iter().filter(|hit| hit.distance <= last.distance).count();
                found += u32::try_from(right.min(best.len()).saturating_sub(1)).unwrap_or(0);
                wanted += u32::try_from(best.len() - 1).unwrap_or(0);
            }
        }
        // There is nothing left to stop.
        let _ = progress(all, all);
        Ok(if wanted == 0 { 1.0 } else { f64::from(found) / f64::from(wanted) })
    }

    /// Counters of what the collection holds and uses.
    pub fn stats(&self) -> Result<Stats> {
        self.check()?;
        self.handle.engine.stats(self.core.id)
    }

    /// The vectors (row-major) of up to `sample` rows that pass, spread evenly over all.
    fn sample(&self, sample: usize, filter: Option<&Filter>) -> Result<Vec<f32>> {
        let generation = self.core.generation();
        let view = generation.view();
        let slots: Vec<Slot> = match filter {
            Some(filter) => generation.filters.matches(filter, &view)?.live(&view).collect(),
            None => (0..view.snapshot.len).map(Slot).filter(|&slot| view.is_live(slot)).collect(),
        };
        let step = slots.len().div_ceil(sample).max(1);
        let mut vectors = Vec::new();
        for slot in slots.into_iter().step_by(step) {
            view.with_row(slot, |row| {
                vectors.extend_from_slice(row.vector.unwrap_or_default());
                Ok(())
            })?;
        }
        Ok(vectors)
    }

    /// The ids of the rows that pass, sorted.
    fn passing(&self, filter: &Filter, wanted: impl Fn(RecordId) -> bool) -> Result<Vec<RecordId>> {
        let generation = self.core.generation();
        let view = generation.view();
        let matches = generation.filters.matches(filter, &view)?;
        let ids = matches.live(&view).map(|slot| view.rows.id(slot));
        let mut ids: Vec<RecordId> = ids.filter(|&id| wanted(id)).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

/// What is in either, sorted.
fn union(a: &[RecordId], b: &[RecordId]) -> Vec<RecordId> {
    let all: BTreeSet<RecordId> = a.iter().chain(b).copied().collect();
    all.into_iter().collect()
}

/// The order of a scroll, which is that of the ids alone: what number a text's record has among its places depends on who was there
/// before it.
fn order(id: &Id) -> (RecordId, &str) {
    match id {
        Id::Int(_) => (first_place(id), ""),
        Id::Text(text) => (first_place(id), text),
    }
}

/// The slots of the `limit` smallest numbers from `from` on that pass, by number.
fn page(
    generation: &Generation,
    view: &View<'_>,
    from: Option<RecordId>,
    limit: usize,
    filter: Option<&Filter>,
) -> Result<Vec<Slot>> {
    let mut page = BinaryHeap::new();
    let mut offer = |slot: Slot| {
        let id = view.rows.id(slot);
        if from.is_some_and(|from| id < from) {
            return;
        }
        if page.len() < limit {
            page.push((id, slot));
        } else if let Some(mut last) = page.peek_mut()
            && id < last.0
        {
            *last = (id, slot);
        }
    };
    match filter {
        Some(filter) => generation.filters.matches(filter, view)?.live(view).for_each(&mut offer),
        None => (0..view.snapshot.len).map(Slot).filter(|&slot| view.is_live(slot)).for_each(&mut offer),
    }
    Ok(page.into_sorted_vec().into_iter().map(|(_, slot)| slot).collect())
}
