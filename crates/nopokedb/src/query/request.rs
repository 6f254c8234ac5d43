//! What a query asks for and what it answers.

use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::metadata::Metadata;
use crate::options::in_range;
use crate::types::RecordId;

/// How to search. Build one with [`Query::default`] (`k` = 5) and change what you need.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// How many hits; fewer are returned only if fewer rows are live and pass what is asked of them.
    pub k: usize,
    /// How many of the best hits to leave out, for paging.
    pub offset: usize,
    /// Which rows may be returned. `None`: all.
    pub filter: Option<Filter>,
    /// Hits with a lower score are left out.
    pub min_score: Option<f32>,
    /// Hits farther away than this are left out.
    pub max_distance: Option<f32>,
    /// What hits carry besides id, score and distance.
    pub include: Include,
    /// Beam width in the graph: higher is more exact and slower. `None` uses the database's.
    pub ef: Option<usize>,
    /// Compares with every row in full precision, whatever indexes exist.
    pub exact: bool,
}

/// What a hit carries besides id, score and distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Include {
    /// The metadata. On by default.
    pub metadata: bool,
    /// The document.
    pub document: bool,
    /// The vector exactly as it was given.
    pub vector: bool,
}

impl Default for Include {
    fn default() -> Self {
        Include { metadata: true, document: false, vector: false }
    }
}

impl Default for Query {
    fn default() -> Self {
        Query {
            k: 5,
            offset: 0,
            filter: None,
            min_score: None,
            max_distance: None,
            include: Include::default(),
            ef: None,
            exact: false,
        }
    }
}

impl Query {
    /// A query for the `k` nearest rows.
    pub fn nearest(k: usize) -> Self {
        Query { k, ..Query::default() }
    }

    /// The same query among the rows that pass `filter`.
    #[must_use]
    pub fn only(self, filter: Filter) -> Self {
        Query { filter: Some(filter), ..self }
    }

    /// Refuses values out of range.
    pub fn validate(&self) -> Result<()> {
        in_range("k", self.k, 1, u32::MAX as usize)?;
        in_range("offset", self.offset, 0, u32::MAX as usize)?;
        for (name, limit) in [("min_score", self.min_score), ("max_distance", self.max_distance)] {
            if limit.is_some_and(f32::is_nan) {
                return Err(Error::argument(format!("{name} must be a number, got NaN")));
            }
        }
        self.filter.as_ref().map_or(Ok(()), Filter::check)?;
        self.ef.map_or(Ok(()), |ef| in_range("ef", ef, 1, 65_536))
    }
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The row's id.
    pub id: RecordId,
    /// Higher is better: `1 - distance` for cosine, `-distance` for l2 and ip.
    pub score: f32,
    /// `1 - cos`, squared l2 or `1 - dot`, computed from the stored f32 vectors.
    pub distance: f32,
    /// The row's metadata, if it has any and [`Include`] asks for it.
    pub metadata: Option<Metadata>,
    /// The row's document, if it has one and [`Include`] asks for it.
    pub document: Option<String>,
    /// The row's vector, if [`Include`] asks for it.
    pub vector: Option<Vec<f32>>,
}
