//! What a query asks for and what it answers.

use crate::error::{Error, Result};
use crate::filter::values::Path;
use crate::filter::{Filter, Scalar};
use crate::metadata::Metadata;
use crate::options::in_range;
use crate::query::fuse::Fusion;
use crate::text::request::Text;
use crate::types::Id;

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
    /// Words to search the documents for, alone ([`Collection::search_text`](crate::Collection::search_text)) or beside the
    /// vector.
    pub text: Option<Text>,
    /// How the order by words and the order by vectors become one.
    pub fusion: Fusion,
    /// Beam width in the graph: higher is more exact and slower. `None` uses the database's.
    pub ef: Option<usize>,
    /// The share of the nearest rows to be found, in place of `ef`: above 0, at most 1. What that takes is measured on the
    /// collection when first asked for, and again once it has grown by a quarter.
    pub recall: Option<f32>,
    /// Compares with every row in full precision, whatever indexes exist.
    pub exact: bool,
    /// Hits that are unlike each other, by maximal marginal relevance, in the order in which they are chosen.
    pub diversity: Option<Diversity>,
    /// The best hits of each value of a metadata field: `k` and `offset` count groups then.
    pub group: Option<Grouping>,
    /// Rows that hits are to be near to, as one more way to say what is looked for: with `p` the mean of their vectors (and
    /// of the query's, if one is given) and `n` that of `negative`, the query is `p + (p - n)`, or `p` where there are no
    /// negative ones. Under cosine each is scaled to length 1 first. The rows themselves are left out of the answer.
    pub positive: Vec<Id>,
    /// Rows that hits are to be away from. They are left out of the answer.
    pub negative: Vec<Id>,
}

/// Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): of the rows nearest to the query, those are chosen one
/// by one that have the highest `lambda * score - (1 - lambda) * the highest score between it and a row chosen before`.
///
/// With a text, whose scores have another scale: `lambda * score / best score - (1 - lambda) * likeness`, where the likeness of
/// two rows is their cosine, under l2 `1 / (1 + distance)`, under ip their product divided by the chosen one's with itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diversity {
    /// 1 is the usual order, 0 thinks of difference only (after the nearest row, which always comes first).
    pub lambda: f32,
    /// How many of the nearest rows to choose from, at least `k + offset`. `None`: five times as many.
    pub fetch: Option<usize>,
}

impl Diversity {
    /// How many rows to choose `page` from.
    pub(crate) fn looked_at(&self, page: usize) -> usize {
        self.fetch.unwrap_or(page.saturating_mul(5)).max(page)
    }
}

/// Hits by the value of a metadata field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// The field, as in filters: `"author.name"`. A row counts for the first value there; rows without one, or with null, are
    /// a group of their own.
    pub field: String,
    /// The most hits of a group. They come group after group, the group with the best hit first.
    pub size: usize,
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
    /// What of the document has the words that were searched for.
    pub snippet: bool,
}

impl Include {
    /// Nothing.
    pub const NONE: Include = Include { metadata: false, document: false, vector: false, snippet: false };
}

impl Default for Include {
    fn default() -> Self {
        Include { metadata: true, ..Include::NONE }
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
            text: None,
            fusion: Fusion::default(),
            ef: None,
            recall: None,
            exact: false,
            diversity: None,
            group: None,
            positive: Vec::new(),
            negative: Vec::new(),
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
        self.text.as_ref().map_or(Ok(()), Text::validate)?;
        self.fusion.validate()?;
        self.filter.as_ref().map_or(Ok(()), Filter::check)?;
        self.validate_stages()?;
        match self.recall {
            Some(recall) if !(recall > 0.0 && recall <= 1.0) => {
                return Err(Error::argument(format!("recall must be above 0 and at most 1, got {recall}")));
            }
            Some(_) if self.ef.is_some() => {
                return Err(Error::argument("recall says what is to be found, ef how hard to look; give one of them"));
            }
            _ => {}
        }
        match (self.exact, self.recall, self.ef) {
            (true, Some(_), _) => {
                return Err(Error::argument(
                    "exact compares every row, so there is no recall to aim at; leave out recall, or exact",
                ));
            }
            (true, _, Some(_)) => {
                return Err(Error::argument(
                    "exact compares every row, so there is no beam to widen; leave out ef, or exact",
                ));
            }
            _ => {}
        }
        self.ef.map_or(Ok(()), |ef| in_range("ef", ef, 1, 65_536))
    }

    fn validate_stages(&self) -> Result<()> {
        if let Some(both) = self.positive.iter().find(|id| self.negative.contains(id)) {
            return Err(Error::argument(format!(
                "id {both:?} is both a positive and a negative example; make it one of them"
            )));
        }
        if let Some(Diversity { lambda, fetch }) = self.diversity {
            if !(0.0..=1.0).contains(&lambda) {
                return Err(Error::argument(format!("the lambda of mmr must be between 0 and 1, got {lambda}")));
            }
            fetch.map_or(Ok(()), |n| {
                in_range("the fetch of mmr", n, self.k.saturating_add(self.offset), u32::MAX as usize)
            })?;
        }
        if let Some(Grouping { field, size }) = &self.group {
            Path::new(field)?;
            in_range("group_size", *size, 1, u32::MAX as usize)?;
            if *size > 1 && self.diversity.is_some() {
                return Err(Error::argument("mmr chooses among single hits: with group_by, group_size must be 1"));
            }
        }
        Ok(())
    }

    /// Whether hits are more than the nearest rows.
    pub(crate) fn has_stages(&self) -> bool {
        self.diversity.is_some() || self.group.is_some()
    }

    /// Whether rows say what is looked for.
    pub(crate) fn has_examples(&self) -> bool {
        !self.positive.is_empty() || !self.negative.is_empty()
    }
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The row's id.
    pub id: Id,
    /// Higher is better: `1 - distance` for cosine, `-distance` for l2 and ip; by words alone BM25; by both what
    /// [`Fusion`] says.
    pub score: f32,
    /// `1 - cos`, squared l2 or `1 - dot`, computed from the stored f32 vectors. NaN if no vector was asked for.
    pub distance: f32,
    /// The row's metadata, if it has any and [`Include`] asks for it.
    pub metadata: Option<Metadata>,
    /// The row's document, if it has one and [`Include`] asks for it.
    pub document: Option<String>,
    /// The row's vector, if [`Include`] asks for it.
    pub vector: Option<Vec<f32>>,
    /// The value that [`Query::group`] goes by; null for rows without one.
    pub group: Option<Scalar>,
    /// BM25, if words were asked for and the row has any of them.
    pub text_score: Option<f32>,
    /// Words of the document around those that were asked for, if [`Include`] asks for it and there are any.
    pub snippet: Option<String>,
}
