//! Searches by words, alone or beside a vector, in one state of a collection that memory and SQLite agree on.
//!
//! Invariants:
//! 1. By words alone there are min(k, matching rows) hits; with a vector min(k, rows that pass), as by vector alone.
//! 2. Distances are exact also for rows that only the words found.

use std::collections::{BTreeMap, HashMap};

use super::execute::{Scope, with_scratch};
use super::fuse::{Fused, Sides, fuse};
use super::matches::Matches;
use super::request::{Hit, Query};
use crate::error::{Error, Result};
use crate::log::RowView;
use crate::meta::Outcome;
use crate::meta::text::{Scratch, any_word_of};
use crate::text::TextCache;
use crate::text::postings::Source;
use crate::text::rank::{Best, Ranked, rank};
use crate::text::request::{MAX_TERMS, Text, TextSyntax};
use crate::types::Slot;
use crate::vectors::Visibility;

/// How many rows of each side are candidates: so many at least, or so many times the hits that are wanted. A row that is
/// farther down on one side counts as not found there.
const DEPTH: usize = 256;
const DEPTH_PART: usize = 4;
/// Snippets are looked for in so much of a document.
const SNIPPET_BYTES: usize = 1 << 20;

/// One search.
pub(crate) struct Hybrid<'a> {
    pub(crate) scope: &'a Scope<'a>,
    pub(crate) source: &'a Source<'a>,
    pub(crate) cache: &'a TextCache,
    pub(crate) vector: Option<&'a [f32]>,
    pub(crate) text: &'a Text,
    pub(crate) query: &'a Query,
}

impl Hybrid<'_> {
    /// The hits, best first. `Ok(None)`: something moved on meanwhile, try again.
    pub(crate) fn run(&self) -> Outcome<Option<Vec<Hit>>> {
        let Self { scope, query, .. } = self;
        let filter = query.filter.as_ref();
        let matches = filter.map(|f| scope.filters.matches(f, &scope.view)).transpose()?;
        let k = query.k.saturating_add(query.offset).min(scope.view.snapshot.len as usize);
        let Some(vector) = self.vector else {
            let Some(ranked) = self.rank(k, &[], matches.as_deref())? else { return Ok(None) };
            let rows =
                ranked.best.iter().map(|&(score, slot)| Fused { slot, score, distance: f32::NAN, text_score: score });
            return self.hits(rows.collect());
        };
        let depth = k.saturating_mul(DEPTH_PART).max(DEPTH).min((scope.view.snapshot.live as usize).max(k));
        let near = with_scratch(|scratch| scope.nearest(vector, depth, filter, query, scratch))?;
        let slots: Vec<Slot> = near.iter().map(|(_, slot)| *slot).collect();
        let Some(ranked) = self.rank(depth, &slots, matches.as_deref())? else { return Ok(None) };
        let text_distances = self.distances(vector, &ranked.best)?;
        let sides =
            Sides { near: &near, near_text: &ranked.asked, text: &ranked.best, text_distances: &text_distances };
        self.hits(fuse(&sides, query.fusion, scope.metric))
    }

    /// The exact distances of what the words found.
    fn distances(&self, vector: &[f32], found: &[(f32, Slot)]) -> Result<BTreeMap<Slot, f32>> {
        let mut slots: Vec<Slot> = found.iter().map(|(_, slot)| *slot).collect();
        slots.sort_unstable();
        let Scope { index, view, .. } = self.scope;
        let n = slots.len();
        if n == 0 {
            return Ok(BTreeMap::new());
        }
        let found = with_scratch(|scratch| index.search_slots(vector, n, slots.into_iter(), view, scratch))?;
        Ok(found.into_iter().map(|(distance, slot)| (slot, distance)).collect())
    }

    /// The `k` best by words, and the scores of the slots `asked`.
    fn rank(&self, k: usize, asked: &[Slot], matches: Option<&Matches>) -> Outcome<Option<Ranked>> {
        let Self { scope, source, text, .. } = self;
        let pass = |slot: Slot| matches.is_none_or(|m| m.contains(slot));
        let nothing = || Some(Ranked { best: Vec::new(), asked: vec![0.0; asked.len()] });
        if text.syntax == TextSyntax::Fts5 {
            let checked = source.applier.with_scratch(source.tokenizer, |scratch| Ok(scratch.check(&text.query)))?;
            checked.map_err(|why| {
                Error::argument(format!(
                    "text is not of FTS5's query language: {why}; leave text_syntax out for plain words"
                ))
            })?;
            return if source.has_index()? { self.rank_expression(k, asked, &pass).map(Some) } else { Ok(nothing()) };
        }
        let terms = source.applier.with_scratch(source.tokenizer, |scratch| scratch.terms(&text.query))?;
        if terms.len() > MAX_TERMS {
            let message = format!("text has {} different words; the limit is {MAX_TERMS}", terms.len());
            return Err(Error::argument(message).into());
        }
        if terms.is_empty() || !source.has_index()? {
            return Ok(nothing());
        }
        let lists = self.cache.lists(source, &terms)?;
        Ok(lists.map(|lists| rank(&lists, text.mode, &scope.view, k, asked, &pass)))
    }

    /// Ranks by an expression of FTS5's query language.
    fn rank_expression(&self, k: usize, asked: &[Slot], pass: &dyn Fn(Slot) -> bool) -> Outcome<Ranked> {
        let Self { source, text, .. } = self;
        let view = source.view;
        let (mut best, mut scores) = (Best::new(k), HashMap::new());
        scores.extend(asked.iter().map(|slot| (*slot, 0.0)));
        source.reader.text_match(source.collection, &text.query, &mut |lsn, score| {
            #[allow(clippy::cast_possible_truncation, reason = "scores are f32")]
            let score = score as f32;
            if let Some(slot) = view.rows.slot_of(lsn, view.len()) {
                scores.entry(slot).and_modify(|s| *s = score);
                best.offer(score, slot, |slot| view.is_live(slot) && pass(slot));
            }
        })?;
        Ok(Ranked { best: best.sorted(), asked: asked.iter().map(|slot| scores[slot]).collect() })
    }

    /// The rows of what was found that the query asks for.
    fn hits(&self, found: Vec<Fused>) -> Outcome<Option<Vec<Hit>>> {
        let Self { scope, query, .. } = self;
        let wanted = |row: &Fused| {
            query.min_score.is_none_or(|least| row.score >= least)
                && query.max_distance.is_none_or(|most| row.distance <= most)
        };
        let mut hits = Vec::new();
        for row in found.into_iter().filter(wanted).skip(query.offset).take(query.k) {
            let read = scope.view.with_row(row.slot, |view| {
                let hit = scope.hit(&view, row.distance, query);
                Ok((hit, self.snippet(&view)?))
            })?;
            let Some((hit, snippet)) = read else { return Ok(None) };
            let text_score = (row.text_score > 0.0).then_some(row.text_score);
            hits.push(Hit { score: row.score, text_score, snippet, ..hit });
        }
        Ok(Some(hits))
    }

    fn snippet(&self, row: &RowView<'_>) -> Result<Option<String>> {
        let Some(document) = row.document.filter(|_| self.query.include.snippet) else { return Ok(None) };
        let plain;
        let expression = match self.text.syntax {
            TextSyntax::Fts5 => &self.text.query,
            TextSyntax::Plain => {
                let Some(any) = any_word_of(&self.text.query, self.source.tokenizer) else { return Ok(None) };
                plain = any;
                &plain
            }
        };
        let end = (0..=document.len().min(SNIPPET_BYTES)).rev().find(|&i| document.is_char_boundary(i)).unwrap_or(0);
        let (marks, words) = ((&*self.text.marks.0, &*self.text.marks.1), self.text.snippet_words);
        let words = u32::try_from(words).unwrap_or(64);
        let quote = |scratch: &Scratch| scratch.snippet(&document[..end], expression, marks, words);
        self.source.applier.with_scratch(self.source.tokenizer, quote)
    }
}
