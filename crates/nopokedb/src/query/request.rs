//! What a query asks for and what it answers.

use crate::error::Result;
use crate::metadata::Metadata;
use crate::options::in_range;
use crate::types::RecordId;

/// How to search. Build one with [`Query::default`] (`k` = 5) and change what you need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// How many hits; fewer are returned only if fewer rows are live.
    pub k: usize,
    /// Beam width in the graph: higher is more exact and slower. `None` uses the database's.
    pub ef: Option<usize>,
    /// Compares with every row in full precision, whatever indexes exist.
    pub exact: bool,
}

impl Default for Query {
    fn default() -> Self {
        Query { k: 5, ef: None, exact: false }
    }
}

impl Query {
    /// A query for the `k` nearest rows.
    pub fn nearest(k: usize) -> Self {
        Query { k, ..Query::default() }
    }

    /// Refuses values out of range.
    pub fn validate(&self) -> Result<()> {
        in_range("k", self.k, 1, u32::MAX as usize)?;
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
    /// The row's metadata, if it has any.
    pub metadata: Option<Metadata>,
}
