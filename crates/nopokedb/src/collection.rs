//! A collection's public verbs: check the input, then hand it to the write path (`write`) or the search; `select` has those
//! about many rows.

pub(crate) mod batch;
mod facets;
mod select;
mod text;
mod write;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::SystemTime;

use crate::clock::{self, Expiry};
use crate::database::Handle;
use crate::engine::CollectionCore;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::filter::Filter;
use crate::generation::Generation;
use crate::log::RowView;
use crate::metadata::Metadata;
use crate::query::examples::Blend;
use crate::query::execute::{self, Filters, Scope, Sought};
use crate::query::explain::{Explanation, Trace};
use crate::query::request::{Hit, Query};
use crate::types::{Id, Metric, Slot, Tokenizer, Watch};
use crate::vectors::keys::public_id;
use crate::vectors::view::View;

pub use facets::Facet;

/// The largest document: one row must fit a log frame.
pub const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// Vectors of one call that are searched for between two looks whether to go on: whole tiles of a scan that they share.
const WATCHED: usize = 64;

/// What goes with a new vector.
#[derive(Clone, Debug, Default)]
pub struct NewRow {
    /// The id to give it; `None` takes the next automatic one.
    pub id: Option<Id>,
    /// A JSON object.
    pub metadata: Option<Metadata>,
    /// The text the vector stands for.
    pub document: Option<String>,
    /// What happens if there is a row of that id.
    pub on_conflict: OnConflict,
    /// When it expires; `None` is never.
    pub expires: Option<Expiry>,
}

/// What an add does about an id that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnConflict {
    /// Nothing is written, and the error names the ids. So it is for an id that comes twice in one batch.
    #[default]
    Error,
    /// The row that is there stays as it is. Of an id that comes twice in one batch the first counts.
    Skip,
    /// The new row takes the place of the old one, whole. Of an id that comes twice in one batch the last counts.
    Replace,
}

/// What goes with a batch of new vectors: every list that is given has one entry per vector.
#[derive(Clone, Debug, Default)]
pub struct NewRows {
    /// The ids to give them; `None` takes the next automatic ones.
    pub ids: Option<Vec<Id>>,
    /// JSON objects.
    pub metadatas: Option<Vec<Option<Metadata>>>,
    /// The texts the vectors stand for.
    pub documents: Option<Vec<Option<String>>>,
    /// What happens to rows of ids that exist.
    pub on_conflict: OnConflict,
    /// When they expire.
    pub expires: Option<Vec<Option<Expiry>>>,
}

/// What an upsert sets; what is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The new vector. A new id needs one.
    pub vector: Option<Vec<f32>>,
    /// The new metadata, replacing the old whole.
    pub metadata: Option<Metadata>,
    /// The new document.
    pub document: Option<String>,
    /// When the row expires from now on. A row that has expired is none: what is put in its place keeps nothing of it.
    pub expires: Option<Expiry>,
}

/// A stored row.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: Id,
    /// Its metadata, if any.
    pub metadata: Option<Metadata>,
    /// Its document, if any.
    pub document: Option<String>,
    /// The vector exactly as it was given.
    pub vector: Vec<f32>,
    /// When it expires, if it does.
    pub expires_at: Option<SystemTime>,
}

/// Rows of one dimension and metric, searched together. Cheap to clone; all methods may be called from any thread.
#[derive(Clone)]
pub struct Collection {
    handle: Arc<Handle>,
    core: Arc<CollectionCore>,
}

impl Collection {
    pub(crate) fn new(handle: Arc<Handle>, core: Arc<CollectionCore>) -> Self {
        Collection { handle, core }
    }

    /// Refuses a closed database or a dropped collection.
    fn check(&self) -> Result<()> {
        self.handle.check()?;
        if self.core.dropped.load(SeqCst) {
            return Err(Error::new(ErrorKind::Closed, format!("collection {:?} was dropped", self.core.name)));
        }
        Ok(())
    }

    /// As [`Collection::check`], at the head of a verb that writes.
    fn check_writing(&self) -> Result<()> {
        self.handle.check_writing()?;
        self.check()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// The name of the model that makes its vectors, if it was given.
    pub fn model(&self) -> Option<&str> {
        self.core.model.get().map(String::as_str)
    }

    /// Dimension of every vector.
    pub fn dim(&self) -> usize {
        self.core.dim
    }

    /// The error for a vector of `got` numbers: names the model that makes the vectors, where it is known.
    pub fn wrong_dimension(&self, got: usize) -> Error {
        let error = Error::dimension(self.dim(), got);
        match self.model() {
            Some(model) => Error::new(error.kind(), format!("{} (made with {model:?} here)", error.message())),
            None => error,
        }
    }

    /// How distance is measured.
    pub fn metric(&self) -> Metric {
        self.core.metric
    }

    /// How documents are cut into words for full-text search.
    pub fn tokenizer(&self) -> Tokenizer {
        self.handle.engine.applier.tokenizers().get(self.core.id)
    }

    /// Links per node and layer of the graph.
    pub fn m(&self) -> usize {
        self.core.m
    }

    /// Beam width while the graph is built.
    pub fn ef_construction(&self) -> usize {
        self.core.ef_construction
    }

    /// Beam width of a query that does not say otherwise.
    pub fn ef(&self) -> usize {
        self.handle.options.ef
    }

    /// The hint given at open, or the number of rows where that is larger.
    pub fn max_elements(&self) -> usize {
        self.handle.options.max_elements.max(self.core.generation().ids.len())
    }

    /// How many rows are live.
    pub fn len(&self) -> Result<usize> {
        self.check()?;
        Ok(self.core.generation().view().snapshot.live as usize)
    }

    /// Whether no row is live.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Whether `id` is live.
    pub fn contains(&self, id: impl Into<Id>) -> Result<bool> {
        self.check()?;
        Ok(self.core.generation().find(&id.into())?.slot.is_some())
    }

    /// The row of `id`, or `None`.
    pub fn get(&self, id: impl Into<Id>) -> Result<Option<Record>> {
        self.check()?;
        self.read(&id.into())
    }

    /// The metadata of `id`: `None` if there is no such row, `Some(None)` if it has none.
    pub fn metadata(&self, id: impl Into<Id>) -> Result<Option<Option<Metadata>>> {
        self.check()?;
        self.core.with_row(&id.into(), |row| Ok(row.metadata.map(|text| Metadata::from_stored(text.into()))))
    }

    /// The `k` nearest rows that pass the query's filter, best first: always `min(k, rows that pass)`, unless a limit of
    /// score or distance leaves out more. `vector` may be empty where the query has positive examples.
    ///
    /// # Errors
    /// `Invalid` (dimension, NaN or infinity, `k` of 0, examples that do not exist), `Empty` when no row is live,
    /// `Corruption`, `Closed`.
    pub fn query(&self, vector: &[f32], query: &Query) -> Result<Vec<Hit>> {
        self.check()?;
        self.check_vector(vector, query)?;
        query.validate()?;
        if query.text.is_some() {
            return Ok(self.hybrid(Some(vector), query, Trace::default)?.0);
        }
        Ok(self.search(vector, shared(query), query, &mut to_the_end)?.pop().unwrap_or_default())
    }

    /// [`Collection::query`], and how it was answered; [`Collection::search_text`] if `vector` is empty, and the query has a text and
    /// no examples.
    ///
    /// # Errors
    /// As of these.
    pub fn explain(&self, vector: &[f32], query: &Query) -> Result<(Vec<Hit>, Explanation)> {
        self.check()?;
        if query.text.is_some() {
            if vector.is_empty() && !query.has_examples() {
                self.check_text(query)?;
                return self.hybrid(None, query, Trace::on);
            }
            self.check_vector(vector, query)?;
            query.validate()?;
            return self.hybrid(Some(vector), query, Trace::on);
        }
        self.check_vector(vector, query)?;
        query.validate()?;
        let (mut hits, explanation) = self.search_traced(vector, shared(query), query, Trace::on, &mut to_the_end)?;
        Ok((hits.pop().unwrap_or_default(), explanation))
    }

    /// [`Collection::query`] for many vectors, row-major.
    pub fn query_many(&self, vectors: &[f32], query: &Query) -> Result<Vec<Vec<Hit>>> {
        self.query_many_watched(vectors, None, query, &mut to_the_end)
    }

    /// [`Collection::query_many`] with a filter for each vector in place of the query's own.
    ///
    /// # Errors
    /// As [`Collection::query`]; also `Invalid` when there are not as many filters as vectors.
    pub fn query_each(&self, vectors: &[f32], filters: &[Option<Filter>], query: &Query) -> Result<Vec<Vec<Hit>>> {
        self.query_many_watched(vectors, Some(filters), query, &mut to_the_end)
    }

    /// [`Collection::query_many`], or [`Collection::query_each`] if `filters` are given, with `progress` told now and then how
    /// many of how many vectors were searched for.
    ///
    /// # Errors
    /// As of these; `Invalid` if `progress` breaks.
    pub fn query_many_watched(
        &self,
        vectors: &[f32],
        filters: Option<&[Option<Filter>]>,
        query: &Query,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<Hit>>> {
        self.check()?;
        let rows = self.check_vectors(vectors, None)?;
        check_many(query)?;
        let Some(filters) = filters else { return self.search(vectors, shared(query), query, progress) };
        if filters.len() != rows {
            let message = format!("got {rows} vectors but {} filters; give one per vector", filters.len());
            return Err(Error::new(ErrorKind::Invalid(Subject::Filter), message));
        }
        filters.iter().flatten().try_for_each(Filter::check)?;
        self.search(vectors, Filters::Each(filters), query, progress)
    }

    /// The hits of each of `vectors`, all in one snapshot; `filters` stand for that of `query`.
    fn search(
        &self,
        vectors: &[f32],
        filters: Filters<'_>,
        query: &Query,
        progress: Watch<'_>,
    ) -> Result<Vec<Vec<Hit>>> {
        if query.text.is_some() {
            let all = vectors.len() / self.dim();
            let each = |(i, vector)| {
                go_on(&mut *progress, i, all)?;
                let filter = filters.of(i).cloned();
                Ok(self.hybrid(Some(vector), &Query { filter, ..query.clone() }, Trace::default)?.0)
            };
            return vectors.chunks_exact(self.dim()).enumerate().map(each).collect();
        }
        Ok(self.search_traced(vectors, filters, query, Trace::default, progress)?.0)
    }

    /// [`Collection::search`], written along in a `trace`.
    fn search_traced(
        &self,
        vectors: &[f32],
        filters: Filters<'_>,
        query: &Query,
        trace: fn() -> Trace,
        progress: Watch<'_>,
    ) -> Result<(Vec<Vec<Hit>>, Explanation)> {
        loop {
            let generation = self.core.generation();
            let scope = Scope {
                index: &generation.index,
                view: generation.view(),
                filters: &generation.filters,
                calibration: &generation.calibration,
                trace: trace(),
                metric: self.metric(),
                ef: self.ef(),
            };
            let (mut sought, mut blended) = (Sought { vectors, filters, without: &[] }, None);
            if query.has_examples() {
                let Some(found) = self.blend(&generation, &scope.view, vectors, query)? else { continue };
                let (vectors, without) = blended.insert(found);
                (sought.vectors, sought.without) = (&*vectors, &*without);
            }
            if let Some(hits) = self.run_watched(&scope, sought, query, &mut *progress)? {
                scope.trace.tell(|told| told.rows = scope.view.snapshot.live as usize);
                return Ok((hits, scope.trace.finish()));
            }
        }
    }

    /// [`execute::run`] for some of the vectors after the others, all in one scope.
    fn run_watched(
        &self,
        scope: &Scope<'_>,
        sought: Sought<'_>,
        query: &Query,
        progress: Watch<'_>,
    ) -> Result<Option<Vec<Vec<Hit>>>> {
        let all = sought.vectors.len() / self.dim();
        if all <= WATCHED {
            go_on(&mut *progress, 0, all)?;
            return execute::run(scope, sought, query);
        }
        let mut answers = Vec::with_capacity(all);
        for vectors in sought.vectors.chunks(WATCHED * self.dim()) {
            go_on(&mut *progress, answers.len(), all)?;
            let filters = sought.filters.from(answers.len());
            let Some(hits) = execute::run(scope, Sought { vectors, filters, ..sought }, query)? else {
                return Ok(None);
            };
            answers.extend(hits);
        }
        Ok(Some(answers))
    }

    /// The vector that the query's examples (and `vector`, unless it is empty) make up, and the examples' slots, sorted.
    /// `None` if one went away meanwhile.
    fn blend(
        &self,
        generation: &Generation,
        view: &View<'_>,
        vector: &[f32],
        query: &Query,
    ) -> Result<Option<(Vec<f32>, Vec<Slot>)>> {
        let (mut blend, mut slots) = (Blend::new(self.metric(), self.dim()), Vec::new());
        if !vector.is_empty() {
            blend.take(vector, true);
        }
        for (examples, is_positive) in [(&query.positive, true), (&query.negative, false)] {
            for id in examples {
                let slot = generation.find(id)?.slot.ok_or_else(|| {
                    Error::argument(format!("there is no row {id:?}; positive and negative name rows that exist"))
                })?;
                if slot.0 >= view.snapshot.len {
                    // It was replaced after the view was taken.
                    return Ok(None);
                }
                let taken = view.with_row(slot, |row| Ok(row.vector.map(|vector| blend.take(vector, is_positive))))?;
                if taken.flatten().is_none() {
                    return Ok(None);
                }
                slots.push(slot);
            }
        }
        slots.sort_unstable();
        slots.dedup();
        Ok(Some((blend.query(), slots)))
    }

    fn read(&self, id: &Id) -> Result<Option<Record>> {
        self.core.with_row(id, |row| record(&row))
    }

    /// Refuses a vector that is none, unless the query says otherwise what it looks for.
    fn check_vector(&self, vector: &[f32], query: &Query) -> Result<()> {
        match (vector.is_empty(), query.positive.is_empty()) {
            (true, false) => Ok(()),
            (true, true) if !query.negative.is_empty() => {
                Err(Error::argument("negative examples say where not to look; give a vector or positive ones as well"))
            }
            _ => self.check_vectors(vector, Some(1)).map(drop),
        }
    }

    /// Refuses vectors of a wrong shape or with NaN or infinity. Returns how many there are.
    fn check_vectors(&self, vectors: &[f32], rows: Option<usize>) -> Result<usize> {
        let dim = self.dim();
        match rows {
            Some(n) if vectors.len() != n * dim => return Err(self.wrong_dimension(vectors.len())),
            None if !vectors.len().is_multiple_of(dim) => {
                let message = format!(
                    "expected rows of dimension {dim}, got {} numbers, which is no multiple of it",
                    vectors.len()
                );
                return Err(Error::new(ErrorKind::Invalid(Subject::Dimension), message));
            }
            _ => {}
        }
        if !vectors.iter().fold(false, |bad, x| bad | !x.is_finite()) {
            return Ok(vectors.len() / dim);
        }
        let bad = vectors.iter().position(|x| !x.is_finite()).unwrap_or(0);
        Err(Error::argument(format!(
            "row {} holds {} at position {}; vectors must be finite",
            bad / dim,
            vectors[bad],
            bad % dim
        )))
    }
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collection(dim {}, {}, {} rows)", self.core.dim, self.core.metric, self.core.generation().ids.len())
    }
}

/// The filter of `query`, for every vector.
fn shared(query: &Query) -> Filters<'_> {
    Filters::Shared(query.filter.as_ref())
}

/// Of a call that nobody watches.
fn to_the_end(_done: usize, _all: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// An error if what watches the call wants it to end.
fn go_on(progress: Watch<'_>, done: usize, all: usize) -> Result<()> {
    match progress(done, all) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::argument("stopped by what was told the progress")),
    }
}

/// Refuses what only one query can ask for.
fn check_many(query: &Query) -> Result<()> {
    if query.has_examples() {
        return Err(Error::argument("positive and negative say what one query looks for; ask one by one with query"));
    }
    query.validate()
}

fn record(row: &RowView<'_>) -> Result<Record> {
    let no_vector = || Error::new(ErrorKind::Corruption, format!("row {} has no vector in the log", row.id));
    Ok(Record {
        id: public_id(row.id, row.key),
        metadata: row.metadata.map(|text| Metadata::from_stored(text.into())),
        document: row.document.map(str::to_owned),
        vector: row.vector.ok_or_else(no_vector)?.to_vec(),
        expires_at: clock::stored(row.expires_ms),
    })
}
