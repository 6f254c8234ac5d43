//! Which rows pass a filter: one bit per slot, kept between queries.
//!
//! Invariants:
//! 1. A slot's metadata never changes (an upsert makes a new slot), so a bit once computed stays right: new slots are
//!    evaluated, old ones never again. Deaths are not in the bits; a view knows them.
//! 2. Bits belong to one generation's slots; its cache goes with it.
//! 3. A view that still sees a row which compaction has dropped gets its bit set, whatever the filter: it finds out when it
//!    reads the row, and starts over. Views taken from now on see no such row, and its bit means nothing.
//! 4. The cache holds at most [`MOST_FILTERS`] filters, fewer where rows are few, and [`MOST_BYTES`]; the one used longest ago goes
//!    first. Columns have a budget of their own (`column_pool.rs`).
//!
//! Threading: a short mutex around the list of what is kept; evaluation is outside of it. Two threads that meet a new filter
//! at once both evaluate it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::filter::Filter;
use crate::index::Among;
use crate::query::bits::Bits;
use crate::query::column_pool::ColumnPool;
use crate::query::columns::{Columns, Known};
use crate::query::narrow::{Narrow, holds};
use crate::types::{Lsn, Slot};
use crate::vectors::Visibility;
use crate::vectors::rows::GONE;
use crate::vectors::view::View;

const MOST_FILTERS: usize = 32;
const MOST_BYTES: usize = 64 << 20;
/// Rows for each filter that is kept beside the first.
const ROWS_FOR_ONE: usize = 32;
/// New rows that are read rather than found in columns, which would have to take them in first.
const READ_UP_TO: u32 = 256;
/// Slots are listed where they are at most this part of all: the list takes up to four times what the bits take.
const FEW_PART: usize = 8;
/// How many slots are picked out.
const SAMPLE: u64 = 64;

/// The slots below a length that pass a filter, dead ones included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matches {
    ones: usize,
    bits: Bits,
    /// The slots, where they are few.
    few: Option<Box<[u32]>>,
    sample: Box<[u32]>,
    /// When the last row died of those that were gone already when they were to be read.
    lost: Lsn,
}

impl Matches {
    fn of(bits: Bits, lost: Lsn) -> Matches {
        let ones = bits.count();
        let few = (ones <= bits.len() as usize / FEW_PART).then(|| bits.slots().map(|slot| slot.0).collect());
        let sample = (0..SAMPLE).filter_map(|i| {
            let from = u64::from(bits.len()) * i / SAMPLE;
            bits.next(u32::try_from(from).ok()?)
        });
        let mut sample: Vec<u32> = sample.map(|slot| slot.0).collect();
        sample.dedup();
        Matches { ones, few, sample: sample.into(), bits, lost }
    }

    /// What the index needs to know about them to search `view`.
    pub(crate) fn among(&self, view: &View<'_>) -> Among<'_> {
        Among { count: self.ones, slots: self.few.as_deref(), sample: &self.sample, all_live: view.all_live() }
    }

    /// Whether the slot passes.
    #[inline]
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.bits.contains(slot)
    }

    /// How many pass, dead ones included.
    pub(crate) fn count(&self) -> usize {
        self.ones
    }

    /// Those that pass and that `view` sees, in order.
    pub(crate) fn live<'a>(&'a self, view: &'a View<'_>) -> impl Iterator<Item = Slot> + 'a {
        self.slots(view.snapshot.len).filter(|slot| view.is_live(*slot))
    }

    /// Those below `len` that pass, in order.
    pub(crate) fn slots(&self, len: u32) -> impl Iterator<Item = Slot> {
        self.bits.slots().take_while(move |slot| slot.0 < len)
    }

    /// The rows of `view`, which has rows beyond these or is the first.
    fn extended(&self, filter: &Filter, columns: &Columns, view: &View<'_>) -> Result<Matches> {
        let (known, len) = (self.bits.len(), view.snapshot.len);
        if len - known > READ_UP_TO {
            let (bits, lost) = Narrow::all(filter, columns, view)?;
            return Ok(Matches::of(bits, lost));
        }
        let (mut bits, mut lost) = (self.bits.grown(len), self.lost);
        for slot in (known..len).map(Slot) {
            if holds(view, slot, &mut lost, |members| filter.holds(members))? {
                bits.set(slot);
            }
        }
        Ok(Matches::of(bits, lost))
    }

    /// These for a view that may see rows which are gone: invariant 3.
    fn with_lost(&self, view: &View<'_>) -> Matches {
        let mut bits = self.bits.clone();
        let gone = (0..view.snapshot.len).map(Slot).filter(|&s| view.rows.loc(s) == GONE && view.is_live(s));
        gone.for_each(|slot| bits.set(slot));
        Matches::of(bits, self.lost)
    }
}

/// The rows of a view that pass a filter, for the index.
pub(crate) struct Passing<'a> {
    view: &'a View<'a>,
    matches: &'a Matches,
    /// Whether no row of the view is dead.
    all_live: bool,
}

impl<'a> Passing<'a> {
    pub(crate) fn new(view: &'a View<'_>, matches: &'a Matches) -> Passing<'a> {
        Passing { view, matches, all_live: view.all_live() }
    }
}

impl Visibility for Passing<'_> {
    fn len(&self) -> u32 {
        self.view.len()
    }

    #[inline]
    fn is_live(&self, slot: Slot) -> bool {
        self.matches.contains(slot) && (self.all_live || self.view.is_live(slot))
    }
}

/// What was found for the filters used last, and the columns it was found in.
pub(crate) struct FilterCache {
    /// The one used last is last.
    kept: Mutex<Vec<Kept>>,
    columns: Columns,
}

struct Kept {
    filter: Filter,
    bytes: usize,
    matches: Arc<Matches>,
}

impl Kept {
    fn bytes(&self) -> usize {
        let few = self.matches.few.as_ref().map_or(0, |few| size_of_val::<[u32]>(few));
        self.bytes + self.matches.bits.bytes() + few + 4 * self.matches.sample.len()
    }
}

impl fmt::Debug for FilterCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilterCache({} filters)", self.lock().len())
    }
}

impl FilterCache {
    /// Nothing yet; columns will be among those of `pool`.
    pub(crate) fn new(pool: &ColumnPool) -> FilterCache {
        FilterCache { kept: Mutex::default(), columns: Columns::new(pool) }
    }

    /// The rows of `view` that pass `filter`, and perhaps newer ones.
    pub(crate) fn matches(&self, filter: &Filter, view: &View<'_>) -> Result<Arc<Matches>> {
        let mut matches = self.find(filter).unwrap_or_default();
        if matches.bits.len() < view.snapshot.len {
            matches = Arc::new(matches.extended(filter, &self.columns, view)?);
            self.keep(filter, &matches);
        }
        if view.snapshot.lsn < matches.lost {
            return Ok(Arc::new(matches.with_lost(view)));
        }
        Ok(matches)
    }

    /// What the rows of `view` have at a path.
    pub(crate) fn column(&self, path: &[String], view: &View<'_>) -> Result<Known> {
        Ok(self.columns.get(&[path], view)?.pop().unwrap_or_default())
    }

    /// Bytes held in memory for the bits of filters.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().iter().map(Kept::bytes).sum()
    }

    /// Bytes held in memory for columns.
    pub(crate) fn column_bytes(&self) -> usize {
        self.columns.bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, filter: &Filter) -> Option<Arc<Matches>> {
        let mut kept = self.lock();
        let place = kept.iter().rposition(|k| k.filter == *filter)?;
        kept[place..].rotate_left(1);
        kept.last().map(|k| k.matches.clone())
    }

    fn keep(&self, filter: &Filter, matches: &Arc<Matches>) {
        let new = Kept { filter: filter.clone(), bytes: filter.bytes(), matches: matches.clone() };
        let mut kept = self.lock();
        if let Some(place) = kept.iter().position(|k| k.filter == *filter) {
            if kept[place].matches.bits.len() >= matches.bits.len() {
                // Another thread was faster.
                return;
            }
            kept.remove(place);
        }
        // Ten thousand small collections must not keep thirty-two filters each: their rows are quickly looked at again.
        let most = MOST_FILTERS.min(1 + new.matches.bits.len() as usize / ROWS_FOR_ONE);
        kept.push(new);
        let mut bytes: usize = kept.iter().map(Kept::bytes).sum();
        while kept.len() > most || bytes > MOST_BYTES {
            bytes -= kept.remove(0).bytes();
        }
    }
}
