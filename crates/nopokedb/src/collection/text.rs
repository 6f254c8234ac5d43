//! Search by words, and by words and a vector.
//!
//! What was acknowledged must be found, and what was deleted must not. SQLite follows the log a little later, so a search
//! waits until it has caught up with what was visible when it began, and then looks at memory as it was at the LSN that
//! SQLite has reached: both sides answer from one state.

use std::sync::Arc;

use super::Collection;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::meta::{Outcome, Reader};
use crate::query::execute::{self, Scope};
use crate::query::explain::{Explanation, Trace};
use crate::query::hybrid::Hybrid;
use crate::query::request::{Hit, Query};
use crate::text::postings::Source;
use crate::types::Lsn;

impl Collection {
    /// The `k` rows whose documents match the query's text best, by BM25: `min(k, matching rows)`, unless `min_score` leaves
    /// out more. Hits have no distance (NaN).
    ///
    /// # Errors
    /// `Invalid` when there is no text, or it is empty, or is no FTS5 expression where it should be one, or a
    /// `max_distance` is given; `Empty` when no row is live; `Corruption`, `Io`, `Closed`.
    pub fn search_text(&self, query: &Query) -> Result<Vec<Hit>> {
        self.check()?;
        self.check_text(query)?;
        Ok(self.hybrid(None, query, Trace::default)?.0)
    }

    /// Refuses a query that cannot be answered by words alone.
    pub(super) fn check_text(&self, query: &Query) -> Result<()> {
        query.validate()?;
        if query.text.is_none() {
            return Err(Error::argument("there is nothing to search for; give a vector, a text, or both"));
        }
        if query.max_distance.is_some() {
            return Err(Error::argument("max_distance needs a vector to be distant from; give one, or use min_score"));
        }
        if query.exact || query.recall.is_some() {
            return Err(Error::argument(
                "exact and recall are about vectors, and words are always searched in full; leave them out",
            ));
        }
        Ok(())
    }

    /// Searches by the query's text, and by `vector` or examples if there are any, written along in a `trace`.
    pub(super) fn hybrid(
        &self,
        vector: Option<&[f32]>,
        query: &Query,
        trace: fn() -> Trace,
    ) -> Result<(Vec<Hit>, Explanation)> {
        if query.has_examples() {
            self.check_vector(vector.unwrap_or_default(), query)?;
        }
        let mut told = trace();
        loop {
            let generation = self.core.generation();
            let begun = generation.view().snapshot;
            if begun.live == 0 {
                return Err(execute::empty());
            }
            let search = |reader: &Reader<'_>| -> Outcome<Option<Vec<Hit>>> {
                let applied = reader.applied_lsn()?;
                self.handle.engine.reach(applied)?;
                let view = generation.view().back_at(applied);
                // A rebuilt generation lacks rows that had died before it took over.
                if !Arc::ptr_eq(&generation, &self.core.generation()) {
                    return Ok(None);
                }
                told.mark("wait");
                let scope = Scope {
                    index: &generation.index,
                    view,
                    filters: &generation.filters,
                    calibration: &generation.calibration,
                    trace: std::mem::take(&mut told),
                    metric: self.metric(),
                    ef: self.ef(),
                };
                scope.trace.tell(|told| told.rows = scope.view.snapshot.live as usize);
                let found = self.hybrid_in(&generation, &scope, reader, applied, vector, query);
                told = scope.trace;
                found
            };
            if let Some(hits) = self.handle.engine.applier.read(begun.lsn, search)? {
                return Ok((hits, told.finish()));
            }
        }
    }

    /// The hits in one state, which SQLite has as of `applied`.
    fn hybrid_in(
        &self,
        generation: &Generation,
        scope: &Scope<'_>,
        reader: &Reader<'_>,
        applied: Lsn,
        vector: Option<&[f32]>,
        query: &Query,
    ) -> Outcome<Option<Vec<Hit>>> {
        let Some(text) = &query.text else { return Ok(Some(Vec::new())) };
        let mut blended = (Vec::new(), Vec::new());
        if query.has_examples() {
            let Some(found) = self.blend(generation, &scope.view, vector.unwrap_or_default(), query)? else {
                return Ok(None);
            };
            blended = found;
        }
        let vector = if query.has_examples() { Some(&*blended.0) } else { vector };
        let source = Source {
            applier: &self.handle.engine.applier,
            reader,
            applied,
            collection: self.core.id,
            tokenizer: self.tokenizer(),
            view: &scope.view,
        };
        let cache = &generation.texts;
        Hybrid { scope, source: &source, cache, vector, without: &blended.1, text, query }.run()
    }
}
