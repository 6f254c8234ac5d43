//! The columns of all collections of a database, and what they may take together.
//!
//! Invariants:
//! 1. Once a call is over, all columns take [`LEAST_BUDGET`] bytes at most, or [`BUDGET_PER_ROW`] for each row of the collections
//!    that have any, whichever is more: ten thousand collections share what one may have. Those used longest ago go first,
//!    whosever they are.
//! 2. A column whose owner is gone is gone.
//!
//! Threading: one short mutex; columns grow outside of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::columns::Known;

/// What columns may take, however few rows there are.
const LEAST_BUDGET: usize = 64 << 20;
/// What they may take of each row: a fraction of what its code takes.
const BUDGET_PER_ROW: usize = 32;

/// Bytes that the columns of `rows` rows may take.
pub(super) fn budget(rows: usize) -> usize {
    LEAST_BUDGET.max(rows.saturating_mul(BUDGET_PER_ROW))
}

/// A path in one owner's metadata.
type Key = (u64, Vec<String>);

/// The columns of a database. Clones are the same pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnPool(Arc<Mutex<Listing>>);

#[derive(Debug, Default)]
struct Listing {
    columns: BTreeMap<Key, Listed>,
    /// The columns by when they were used last.
    by_use: BTreeMap<u64, Key>,
    /// How many rows the owners have that ever had a column.
    rows: HashMap<u64, usize>,
    all_rows: usize,
    bytes: usize,
    clock: u64,
    owners: u64,
}

#[derive(Debug)]
struct Listed {
    used: u64,
    bytes: usize,
    known: Arc<Mutex<Known>>,
}

impl ColumnPool {
    /// A number for one more owner of columns.
    pub(super) fn owner(&self) -> u64 {
        let mut listing = self.lock();
        listing.owners += 1;
        listing.owners
    }

    /// The column of a path, which is empty if it is new.
    pub(super) fn listed(&self, owner: u64, path: &[String]) -> Arc<Mutex<Known>> {
        let mut listing = self.lock();
        let Listing { columns, by_use, clock, .. } = &mut *listing;
        *clock += 1;
        let key = (owner, path.to_vec());
        let listed =
            columns.entry(key.clone()).or_insert_with(|| Listed { used: *clock, bytes: 0, known: Arc::default() });
        by_use.remove(&listed.used);
        by_use.insert(*clock, key);
        listed.used = *clock;
        listed.known.clone()
    }

    /// Notes what the columns of `owner`, who has `rows` rows, take, and drops those used longest ago while all take more
    /// than they may.
    pub(super) fn settle<'a>(&self, owner: u64, rows: usize, columns: impl Iterator<Item = (&'a [String], &'a Known)>) {
        let mut listing = self.lock();
        let before = listing.rows.insert(owner, rows).unwrap_or(0);
        listing.all_rows = listing.all_rows - before + rows;
        for (path, known) in columns {
            if let Some(listed) = listing.columns.get_mut(&(owner, path.to_vec())) {
                // One given up is remembered, at the price of its name. Each name is kept twice.
                let kept = known.column.as_ref().map_or(0, |column| column.bytes());
                let names: usize = path.iter().map(|key| key.len() + size_of::<String>()).sum();
                let bytes = kept + size_of::<Listed>() + 2 * (names + size_of::<Key>());
                let before = std::mem::replace(&mut listed.bytes, bytes);
                listing.bytes = listing.bytes - before + bytes;
            }
        }
        let most = budget(listing.all_rows);
        while listing.bytes > most
            && let Some((_, oldest)) = listing.by_use.pop_first()
        {
            let bytes = listing.columns.remove(&oldest).map_or(0, |listed| listed.bytes);
            listing.bytes -= bytes;
        }
    }

    /// Bytes that the columns of `owner` take.
    pub(super) fn bytes(&self, owner: u64) -> usize {
        self.lock().columns.range((owner, Vec::new())..(owner + 1, Vec::new())).map(|(_, listed)| listed.bytes).sum()
    }

    /// The owner is gone, and its columns with it.
    pub(super) fn forget(&self, owner: u64) {
        let mut listing = self.lock();
        let rows = listing.rows.remove(&owner).unwrap_or(0);
        listing.all_rows -= rows;
        let theirs = listing.columns.range((owner, Vec::new())..(owner + 1, Vec::new())).map(|(key, _)| key.clone());
        for key in theirs.collect::<Vec<_>>() {
            if let Some(listed) = listing.columns.remove(&key) {
                listing.by_use.remove(&listed.used);
                listing.bytes -= listed.bytes;
            }
        }
    }

    /// A panic under the lock leaves sums that are off by one column at most.
    fn lock(&self) -> MutexGuard<'_, Listing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand names of a field, each as long as the next.
    fn path(i: usize) -> Vec<String> {
        vec![format!("{i:0>60000}")]
    }

    #[test]
    fn collections_share_one_budget_and_the_oldest_column_goes_first() {
        let pool = ColumnPool::default();
        let given_up = Known { column: None, ..Known::default() };
        let owners: Vec<u64> = (0..10).map(|_| pool.owner()).collect();
        for i in 0..2_000 {
            let (owner, path) = (owners[i % 10], path(i));
            pool.listed(owner, &path);
            pool.settle(owner, 10, std::iter::once((&path[..], &given_up)));
        }
        let all: usize = owners.iter().map(|owner| pool.bytes(*owner)).sum();
        assert!((LEAST_BUDGET - 130_000..=LEAST_BUDGET).contains(&all), "{all}");
        assert_eq!(all, pool.lock().bytes);
        let listing = pool.lock();
        assert!(
            !listing.columns.contains_key(&(owners[0], path(0)))
                && listing.columns.contains_key(&(owners[9], path(1_999)))
        );
        assert_eq!(listing.columns.len(), listing.by_use.len());
        drop(listing);
        pool.forget(owners[3]);
        assert_eq!((pool.bytes(owners[3]), pool.lock().all_rows), (0, 90));
        owners.iter().for_each(|owner| pool.forget(*owner));
        let listing = pool.lock();
        assert_eq!((listing.bytes, listing.all_rows, listing.columns.len(), listing.by_use.len()), (0, 0, 0, 0));
    }
}
