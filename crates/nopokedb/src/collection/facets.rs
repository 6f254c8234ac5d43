//! How often each value of a metadata field occurs.

use std::collections::BTreeMap;

use super::Collection;
use crate::error::Result;
use crate::filter::values::Path;
use crate::filter::{Filter, Scalar};
use crate::options::in_range;
use crate::query::bits::Bits;
use crate::types::Slot;
use crate::vectors::Visibility;

/// A value and how many rows have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facet {
    /// The value. Numbers that filters take for equal are one.
    pub value: Scalar,
    /// How many rows have it; a row with an array counts once for each different element.
    pub count: usize,
}

impl Collection {
    /// The `limit` most frequent values of `field` among the rows that pass `filter`, most frequent first, then by value.
    /// Nulls are a value; rows without the field are not counted.
    ///
    /// # Errors
    /// `Invalid` for a field or filter that makes no sense and a `limit` of 0, `Corruption`, `Closed`.
    pub fn facets(&self, field: &str, filter: Option<&Filter>, limit: usize) -> Result<Vec<Facet>> {
        self.check()?;
        in_range("limit", limit, 1, u32::MAX as usize)?;
        filter.map_or(Ok(()), Filter::check)?;
        let path = Path::new(field)?;
        let counts = loop {
            if let Some(counts) = self.counted(&path, filter)? {
                break counts;
            }
        };
        let mut facets: Vec<Facet> = counts.into_iter().map(|(value, count)| Facet { value, count }).collect();
        // Stable: equal counts stay in the order of their values.
        facets.sort_by_key(|facet| std::cmp::Reverse(facet.count));
        facets.truncate(limit);
        Ok(facets)
    }

    /// Every value with its count: from the field's column, or by reading rows. Or `None` if a row was compacted away meanwhile.
    fn counted(&self, path: &Path, filter: Option<&Filter>) -> Result<Option<BTreeMap<Scalar, usize>>> {
        let generation = self.core.generation();
        let view = generation.view();
        let len = view.snapshot.len;
        let mut rows = Bits::none(len);
        match filter {
            Some(filter) => generation.filters.matches(filter, &view)?.live(&view).for_each(|slot| rows.set(slot)),
            None => (0..len).map(Slot).filter(|&slot| view.is_live(slot)).for_each(|slot| rows.set(slot)),
        }
        let (mut counts, mut values) = (BTreeMap::new(), Vec::new());
        let known = generation.filters.column(path.keys(), &view)?;
        if let Some(column) = known.column.filter(|_| known.lost <= view.snapshot.lsn) {
            // Of rows with several values at the path the column does not say which are the same.
            let several = Bits::filled(len, |words| column.several().set_in(words));
            let mut plain = rows.clone();
            plain.remove(&several);
            rows.keep(&several);
            column.count(plain.words(), &mut |value, n| *counts.entry(value).or_insert(0) += n);
        }
        for slot in rows.slots() {
            if view.with_metadata(slot, |text| path.all(text, &mut values))?.is_none() {
                return Ok(None);
            }
            for value in values.drain(..) {
                *counts.entry(value).or_insert(0) += 1;
            }
        }
        Ok(Some(counts))
    }
}
