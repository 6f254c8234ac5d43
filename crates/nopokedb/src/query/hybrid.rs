//! Searches by words, alone or beside a vector, in one state of a collection that memory and SQLite agree on.
//!
//! Invariants:
//! 1. By words alone there are min(k, matching rows) hits; with a vector min(k, rows that pass), as by vector alone.
//! 2. Distances are exact also for rows that only the words found.
//! 3. With groups there are as many as asked for, if there are: where the first rows that are looked at are too few, more are.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::diversify;
use super::execute::{Scope, with_scratch};
use super::explain::Plan;
use super::fuse::{Fused, Sides, fuse};
use super::group::Groups;
use super::matches::Matches;
use super::request::{Hit, Query};
use super::stages::GROWTH;
use crate::error::{Error, Result};
use crate::filter::Scalar;
use crate::filter::values::Path;
use crate::log::RowView;
use crate::meta::Outcome;
use crate::meta::text::{Scratch, any_word_of};
use crate::text::TextCache;
use crate::text::postings::Source;
use crate::text::rank::{Best, Ranked, rank};
use crate::text::request::{MAX_TERMS, Text, TextSyntax};
use crate::types::{Metric, Slot};
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
    /// Rows to leave out, sorted.
    pub(crate) without: &'a [Slot],
    pub(crate) text: &'a Text,
    pub(crate) query: &'a Query,
}

impl Hybrid<'_> {
    /// The hits, best first. `Ok(None)`: something moved on meanwhile, try again.
    pub(crate) fn run(&self) -> Outcome<Option<Vec<Hit>>> {
        let Self { scope, query, .. } = self;
        let filter = query.filter.as_ref();
        let matches = filter.map(|f| scope.filters.matches(f, &scope.view)).transpose()?;
        let page = query.k.saturating_add(query.offset);
        let wanted = query.diversity.map_or(page, |diversity| diversity.looked_at(page));
        let path = query.group.as_ref().map(|group| Path::new(&group.field)).transpose()?;
        let most = scope.view.snapshot.len as usize;
        let per_row = query.group.as_ref().map_or(1, |group| group.size.saturating_mul(GROWTH));
        let mut looked_at = wanted.saturating_mul(per_row).saturating_add(self.without.len()).min(most);
        loop {
            let Some((mut rows, is_all)) = self.found(looked_at, matches.as_deref())? else { return Ok(None) };
            rows.retain(|row| self.is_within(row) && self.without.binary_search(&row.slot).is_err());
            let (Some(path), Some(group)) = (&path, &query.group) else {
                rows.truncate(wanted);
                return self.page(rows.into_iter().map(|row| (row, None)).collect());
            };
            let mut groups = Groups::new(wanted, group.size);
            for row in &rows {
                let Some(value) = scope.view.with_metadata(row.slot, |text| path.first(text))? else { return Ok(None) };
                if groups.take((row.distance, row.slot), value) {
                    break;
                }
            }
            scope.trace.mark("group");
            if !is_all && looked_at < most && !groups.are_full() {
                looked_at = looked_at.saturating_mul(GROWTH).min(most);
                continue;
            }
            let by_slot: HashMap<Slot, Fused> = rows.into_iter().map(|row| (row.slot, row)).collect();
            let skipped = if query.diversity.is_some() { 0 } else { query.offset };
            let chosen = groups.into_rows(skipped).into_iter();
            return self.page(chosen.map(|chosen| (by_slot[&chosen.slot], chosen.group)).collect());
        }
    }

    /// At least the `n` best rows, best first, and whether there are no others. `None`: try again.
    fn found(&self, n: usize, matches: Option<&Matches>) -> Outcome<Option<(Vec<Fused>, bool)>> {
        let Self { scope, query, .. } = self;
        let Some(vector) = self.vector else {
            let Some(ranked) = self.rank(n, &[], matches)? else { return Ok(None) };
            scope.trace.tell(|told| told.plan = Plan::Words);
            let rows =
                ranked.best.iter().map(|&(score, slot)| Fused { slot, score, distance: f32::NAN, text_score: score });
            return Ok(Some((rows.collect(), ranked.best.len() < n)));
        };
        let live = scope.view.snapshot.live as usize;
        let depth = n.saturating_mul(DEPTH_PART).max(DEPTH).min(live.max(n));
        let near = with_scratch(|scratch| scope.nearest(vector, depth, query.filter.as_ref(), query, scratch))?;
        let slots: Vec<Slot> = near.iter().map(|(_, slot)| *slot).collect();
        let Some(ranked) = self.rank(depth, &slots, matches)? else { return Ok(None) };
        let text_distances = self.distances(vector, &ranked.best)?;
        let sides =
            Sides { near: &near, near_text: &ranked.asked, text: &ranked.best, text_distances: &text_distances };
        let fused = fuse(&sides, query.fusion, scope.metric);
        scope.trace.mark("fuse");
        Ok(Some((fused, depth >= live)))
    }

    fn is_within(&self, row: &Fused) -> bool {
        self.query.min_score.is_none_or(|least| row.score >= least)
            && self.query.max_distance.is_none_or(|most| row.distance <= most)
    }

    /// The hits among the rows that were chosen: unlike each other if the query says so.
    fn page(&self, chosen: Vec<Grouped>) -> Outcome<Option<Vec<Hit>>> {
        let query = self.query;
        let Some(diversity) = query.diversity else {
            // Groups have left out theirs.
            let (skipped, kept) = if query.group.is_some() { (0, usize::MAX) } else { (query.offset, query.k) };
            return self.hits(chosen.into_iter().skip(skipped).take(kept));
        };
        let slots: Vec<Slot> = chosen.iter().map(|(row, _)| row.slot).collect();
        let best = chosen.iter().map(|(row, _)| row.score).fold(0.0, f32::max);
        // Scores of words have no scale of their own; similarities are brought to the same one.
        let relevance: Vec<f32> = chosen.iter().map(|(row, _)| row.score / best.max(f32::MIN_POSITIVE)).collect();
        let (index, metric) = (self.scope.index, self.scope.metric);
        let page = query.k.saturating_add(query.offset);
        let order = with_scratch(|scratch| {
            diversify::select(&relevance, page, diversity.lambda, |row, similarities| {
                let found = index.among(slots[row], &slots, scratch, similarities)?;
                if found {
                    let own = similarities[row];
                    similarities.iter_mut().for_each(|distance| *distance = likeness(metric, *distance, own));
                }
                Ok(found)
            })
        })?;
        self.scope.trace.mark("mmr");
        let Some(order) = order else { return Ok(None) };
        self.hits(order.into_iter().skip(query.offset).map(|row| chosen[row].clone()))
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
            return if source.has_index()? {
                let ranked = self.rank_expression(k, asked, &pass)?;
                self.told(Some(&ranked));
                Ok(Some(ranked))
            } else {
                Ok(nothing())
            };
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
        let ranked = lists.map(|lists| rank(&lists, text.mode, &scope.view, k, asked, &pass));
        self.told(ranked.as_ref());
        Ok(ranked)
    }

    /// Notes what the words found.
    fn told(&self, ranked: Option<&Ranked>) {
        let found = ranked.map_or(0, |ranked| ranked.best.len());
        self.scope.trace.tell(|told| *told.text_candidates.get_or_insert(0) += found);
        self.scope.trace.mark("text");
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

    /// The hits that these rows are, or `None` if one is gone.
    fn hits(&self, chosen: impl Iterator<Item = Grouped>) -> Outcome<Option<Vec<Hit>>> {
        let Self { scope, query, .. } = self;
        let mut hits = Vec::new();
        for (row, group) in chosen {
            let read = scope.view.with_row(row.slot, |view| {
                let hit = scope.hit(&view, row.distance, query);
                Ok((hit, self.snippet(&view)?))
            })?;
            let Some((hit, snippet)) = read else { return Ok(None) };
            let text_score = (row.text_score > 0.0).then_some(row.text_score);
            hits.push(Hit { score: row.score, text_score, snippet, group, ..hit });
        }
        scope.trace.mark("rows");
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
        // FTS5 counts bytes but quotes only up to a NUL.
        let shown = match document[..end].contains('\0') {
            true => Cow::Owned(document[..end].replace('\0', " ")),
            false => Cow::Borrowed(&document[..end]),
        };
        let quote = |scratch: &Scratch| scratch.snippet(&shown, expression, marks, words);
        self.source.applier.with_scratch(self.source.tokenizer, quote)
    }
}

/// A row and the value that it is grouped by, if it is.
type Grouped = (Fused, Option<Scalar>);

/// How like two rows are, 1 at most, by their distance and that of one of them to itself: their cosine; `1 / (1 + squared
/// distance)`; or under ip their product divided by the one row's with itself.
fn likeness(metric: Metric, distance: f32, own: f32) -> f32 {
    match metric {
        Metric::Cosine => metric.score(distance),
        Metric::L2 => 1.0 / (1.0 + distance),
        Metric::Ip => ((1.0 - distance) / (1.0 - own).max(f32::MIN_POSITIVE)).clamp(-1.0, 1.0),
    }
}
