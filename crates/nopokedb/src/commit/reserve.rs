//! Ids in flight: between the check of an id and the moment its commit is applied, nobody else may act on it.
//!
//! Invariants:
//! 1. An id is in at most one live [`Reservation`]. So "does it exist?" stays answered until the write that relied on the
//!    answer is visible, and read-modify-write upserts of one id never lose each other's change.
//! 2. Automatic ids are handed out in order and never twice, even if the commit that took them fails. They start above
//!    every id that was inserted; an id that was given and refused moves them nowhere.
//!
//! Threading: one short mutex; a caller whose ids are in flight waits on a condition variable.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::PoisonError;

use crate::error::{Error, Result};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::types::{Id, RecordId};

/// The ids in flight of one collection, and the next automatic id.
#[derive(Debug)]
pub(crate) struct Reservations {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug)]
struct State {
    next_id: u64,
    ranges: Vec<Range<u64>>,
    ids: HashSet<u64>,
}

impl State {
    fn holds(&self, id: u64) -> bool {
        self.ids.contains(&id) || self.ranges.iter().any(|r| r.contains(&id))
    }
}

/// Ids held by one write until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    owner: &'a Reservations,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Range(Range<u64>),
    Ids(Vec<u64>),
}

impl Reservations {
    /// Automatic ids start at `next_id`.
    pub(crate) fn new(next_id: u64) -> Self {
        let state = State { next_id, ranges: Vec::new(), ids: HashSet::new() };
        Reservations { state: Mutex::new(state), released: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next automatic id.
    pub(crate) fn next_id(&self) -> u64 {
        self.lock().next_id
    }

    /// Takes the next `n` automatic ids.
    pub(crate) fn automatic(&self, n: usize) -> Result<(Range<u64>, Reservation<'_>)> {
        let mut state = self.lock();
        let range = loop {
            let end = state.next_id.checked_add(n as u64).filter(|&end| end <= Id::MAX_INT);
            let used_up = || Error::argument(format!("automatic ids are used up: they are below {}", Id::MAX_INT));
            let range = state.next_id..end.ok_or_else(used_up)?;
            // Somebody may be about to insert one of these ids, or to be refused.
            if !state.ids.iter().any(|id| range.contains(id)) {
                break range;
            }
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.next_id = range.end;
        state.ranges.push(range.clone());
        Ok((range.clone(), Reservation { owner: self, held: Held::Range(range) }))
    }

    /// Takes the given ids (distinct), waiting while any is in flight.
    pub(crate) fn given(&self, ids: &[RecordId]) -> Reservation<'_> {
        let mut state = self.lock();
        while ids.iter().any(|id| state.holds(id.0)) {
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.ids.extend(ids.iter().map(|id| id.0));
        Reservation { owner: self, held: Held::Ids(ids.iter().map(|id| id.0).collect()) }
    }
}

impl Reservation<'_> {
    /// The ids held are going to be inserted: automatic ids start above the integers among them from now on.
    pub(crate) fn insert(&self) {
        if let Held::Ids(ids) = &self.held {
            self.insert_some(ids.iter().map(|&id| RecordId(id)));
        }
    }

    /// [`Reservation::insert`] for some of the ids held.
    pub(crate) fn insert_some(&self, records: impl Iterator<Item = RecordId>) {
        if let Some(RecordId(max)) = records.filter(|record| !record.is_text()).max() {
            let mut state = self.owner.lock();
            state.next_id = state.next_id.max(max + 1);
            drop(state);
            self.owner.released.notify_all();
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = self.owner.lock();
        match &self.held {
            Held::Range(range) => state.ranges.retain(|r| r != range),
            Held::Ids(ids) => ids.iter().for_each(|id| {
                state.ids.remove(id);
            }),
        }
        drop(state);
        self.owner.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    #[test]
    fn automatic_ids_are_never_given_twice() {
        let r = Reservations::new(0);
        assert_eq!(r.automatic(3).unwrap().0, 0..3);
        r.given(&[RecordId(10)]).insert();
        drop(r.given(&[RecordId(99)]));
        assert_eq!(r.automatic(2).unwrap().0, 11..13);
    }

    #[test]
    fn an_automatic_id_waits_for_a_given_one_that_may_be_the_same() {
        let r = Reservations::new(5);
        let held = r.given(&[RecordId(6)]);
        std::thread::scope(|s| {
            let waiter = s.spawn(|| r.automatic(3).unwrap().0);
            held.insert();
            drop(held);
            assert_eq!(waiter.join().unwrap(), 7..10);
        });
        drop(r.given(&[RecordId(11)]));
        assert_eq!(r.automatic(3).unwrap().0, 10..13, "what was refused is free");
    }

    #[test]
    fn ids_run_out_with_an_error() {
        let r = Reservations::new(Id::MAX_INT - 1);
        assert!(r.automatic(1).is_ok());
        assert!(r.automatic(1).is_err());
    }

    #[test]
    fn an_id_in_flight_is_waited_for() {
        let r = Reservations::new(5);
        let (range, flight) = r.automatic(2).unwrap();
        let entered = AtomicBool::new(false);
        std::thread::scope(|s| {
            let waiter = s.spawn(|| {
                let held = r.given(&[RecordId(range.start)]);
                entered.store(true, SeqCst);
                drop(held);
            });
            // The waiter can only enter after the drop below: whatever the schedule, this holds.
            assert!(!entered.load(SeqCst));
            drop(flight);
            waiter.join().unwrap();
        });
        assert!(entered.load(SeqCst));
    }
}
