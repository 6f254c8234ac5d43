//! Runs a query on one snapshot of a collection: index search, then the hits' rows from the mapped log.

use std::cell::RefCell;

use crate::error::{Error, ErrorKind, Result};
use crate::index::{Index, Scratch};
use crate::metadata::Metadata;
use crate::query::request::{Hit, Query};
use crate::types::Metric;
use crate::vectors::view::View;

thread_local! {
    /// Working memory of this thread's searches: grows to the largest query and is then reused.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The hits of `vector` in `view`, best first. `Ok(None)` if compaction took a row away that only this (old) view could
/// still see: the caller tries again with a fresh one.
pub(crate) fn run(
    index: &Index,
    view: &View<'_>,
    metric: Metric,
    vector: &[f32],
    query: &Query,
    default_ef: usize,
) -> Result<Option<Vec<Hit>>> {
    if view.snapshot.live == 0 {
        return Err(Error::new(ErrorKind::Empty, "the database is empty; add vectors before querying"));
    }
    let k = query.k.min(view.snapshot.live as usize);
    let nearest = SCRATCH.with_borrow_mut(|scratch| {
        if query.exact {
            index.search_exact(vector, k, view, scratch)
        } else {
            index.search(vector, k, query.ef.unwrap_or(default_ef), view, scratch)
        }
    })?;
    let mut hits = Vec::with_capacity(nearest.len());
    for (distance, slot) in nearest {
        let hit = view.with_row(slot, |row| {
            let metadata = row.metadata.map(|text| Metadata::from_stored(text.into()));
            Ok(Hit { id: row.id, score: metric.score(distance), distance, metadata })
        })?;
        match hit {
            Some(hit) => hits.push(hit),
            None => return Ok(None),
        }
    }
    Ok(Some(hits))
}
