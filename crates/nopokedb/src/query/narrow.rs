//! Finds the rows that pass a filter: from columns where there are some, else by reading the rows that are still in question.
//!
//! Invariant: the outcome is what [`Test::holds`] says of every row, whichever way was taken; so the way is a matter of cost
//! alone.

use crate::error::Result;
use crate::filter::{Filter, Node, Test, TestKind};
use crate::metadata::view::{Json, Members};
use crate::query::bits::Bits;
use crate::query::columns::{Columns, Known};
use crate::types::{Lsn, Slot};
use crate::vectors::view::View;

/// Setting a bit from a column costs this small a part of reading a row.
const BITS_PER_READ: usize = 256;

/// A search for the rows of a view that pass.
pub(crate) struct Narrow<'a> {
    view: &'a View<'a>,
    /// By path, sorted.
    columns: Vec<(&'a [String], Known)>,
    /// When the last row died of those that were gone.
    lost: Lsn,
}

impl<'a> Narrow<'a> {
    /// The rows of `view` that pass `filter`, and when the last row died that would have had to be read and was gone.
    pub(crate) fn all(filter: &'a Filter, columns: &Columns, view: &'a View<'a>) -> Result<(Bits, Lsn)> {
        let mut paths: Vec<&[String]> = filter.node.tests().iter().map(|test| &test.path[..]).collect();
        paths.sort_unstable();
        paths.dedup();
        let known = columns.get(&paths, view)?;
        let lost = known.iter().map(|known| known.lost).max().unwrap_or(Lsn(0));
        let mut narrow = Narrow { view, columns: paths.into_iter().zip(known).collect(), lost };
        let mut bits = Bits::all(view.snapshot.len);
        narrow.keep(&filter.node, &mut bits)?;
        Ok((bits, narrow.lost))
    }

    fn column(&self, test: &Test) -> Option<usize> {
        let place = self.columns.binary_search_by_key(&&test.path[..], |(path, _)| path).ok()?;
        self.columns[place].1.column.is_some().then_some(place)
    }

    /// About what a node costs, in bits set.
    fn cost(&self, node: &Node) -> usize {
        let len = self.view.snapshot.len as usize;
        match node {
            Node::All(nodes) => nodes.iter().map(|node| self.cost(node)).min().unwrap_or(0),
            Node::Any(nodes) => nodes.iter().fold(0, |sum, node| sum.saturating_add(self.cost(node))),
            Node::Not(node) => self.cost(node).saturating_add(len),
            Node::Test(test) => match self.column(test).and_then(|place| self.columns[place].1.column.as_ref()) {
                Some(column) => column.find(&test.kind).most(),
                None => len.saturating_mul(BITS_PER_READ),
            },
        }
    }

    /// Takes out of `bits` the rows that do not pass.
    fn keep(&mut self, node: &Node, bits: &mut Bits) -> Result<()> {
        match node {
            Node::All(nodes) => {
                for node in self.cheapest_first(nodes) {
                    self.keep(node, bits)?;
                }
            }
            Node::Any(nodes) => {
                let mut pass = Bits::none(bits.len());
                for node in self.cheapest_first(nodes) {
                    let mut more = bits.clone();
                    self.keep(node, &mut more)?;
                    // What passes already need not be looked at again.
                    bits.remove(&more);
                    pass.add(&more);
                }
                *bits = pass;
            }
            Node::Not(node) => {
                let mut pass = bits.clone();
                self.keep(node, &mut pass)?;
                bits.remove(&pass);
            }
            Node::Test(test) => self.test(test, bits)?,
        }
        Ok(())
    }

    fn cheapest_first<'n>(&self, nodes: &'n [Node]) -> Vec<&'n Node> {
        let mut nodes: Vec<&Node> = nodes.iter().collect();
        if nodes.len() > 1 {
            nodes.sort_by_cached_key(|node| self.cost(node));
        }
        nodes
    }

    fn test(&mut self, test: &Test, bits: &mut Bits) -> Result<()> {
        let Some(column) = self.column(test).and_then(|place| self.columns[place].1.column.as_ref()) else {
            return self.read(test, bits);
        };
        let found = column.find(&test.kind);
        if bits.count().saturating_mul(BITS_PER_READ) < found.most() {
            return self.read(test, bits);
        }
        bits.keep(&Bits::filled(bits.len(), |words| found.set_in(words)));
        let TestKind::ContainsAll(list) = &test.kind else { return Ok(()) };
        for operand in list {
            bits.keep(&Bits::filled(bits.len(), |words| column.containing(operand).set_in(words)));
        }
        // Where there are several values, each may contain a part of the list.
        let mut several = Bits::filled(bits.len(), |words| column.several().set_in(words));
        several.keep(bits);
        bits.remove(&several);
        self.read(test, &mut several)?;
        bits.add(&several);
        Ok(())
    }

    /// Reads the rows in question.
    fn read(&mut self, test: &Test, bits: &mut Bits) -> Result<()> {
        let (view, lost) = (self.view, &mut self.lost);
        bits.retain(|slot| holds(view, slot, lost, |members| test.holds(members)))
    }
}

/// Whether `passes` holds for the metadata of `slot`; false if the row is gone, which is noted in `lost`.
pub(crate) fn holds(
    view: &View<'_>,
    slot: Slot,
    lost: &mut Lsn,
    passes: impl FnOnce(Members<'_>) -> bool,
) -> Result<bool> {
    let read = view.with_metadata(slot, |text| match text.map(Json::of) {
        Some(Json::Object(members)) => passes(members),
        _ => passes(Members::empty()),
    })?;
    if read.is_none() {
        *lost = (*lost).max(view.rows.died(slot));
    }
    Ok(read.unwrap_or(false))
}
