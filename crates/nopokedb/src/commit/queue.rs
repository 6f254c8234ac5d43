//! Group commit: whoever finds no leader leads; the others ride on the leader's fsync.
//!
//! Invariants:
//! 1. Every submitted item is in exactly one group, and its submitter gets that group's outcome for it.
//! 2. Groups run one after the other, in the order their items were submitted. A group is what queued while the previous one
//!    was on the disk, and what those bring who were answered just then: they are likely to come back at once, and a sync
//!    that they just miss costs them a second one. They are waited for no longer than [`PATIENCE`] allows, and a writer that
//!    is alone never waits. (PostgreSQL's `commit_siblings`, without its settings.)
//! 3. A leader leads until its own item is done and then hands over to a waiter, so nobody is starved.
//! 4. If a leader panics, everyone waiting gets an error instead of waiting for ever, and so does everyone after.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::thread::{self, Thread};
use crate::sync::{Deadline, Mutex, MutexGuard};

/// The part of a group's own time for which its successor waits for more.
const PATIENCE: f64 = 0.5;
/// It waits no longer than this, however slow the disk.
const LONGEST: Duration = Duration::from_millis(2);

/// A queue of items of type `T` whose groups answer with an `R` each.
#[derive(Debug)]
pub(crate) struct GroupCommit<T, R> {
    state: Mutex<State<T, R>>,
    longest: Duration,
}

#[derive(Debug)]
struct State<T, R> {
    pending: Vec<Waiter<T>>,
    /// Whose items the leader is committing.
    in_flight: Vec<Thread>,
    done: HashMap<u64, Result<R>>,
    next_ticket: u64,
    leading: bool,
    /// A leader that waits for more items.
    gathering: Option<Thread>,
    /// How many writers there were when the last group was done: its own and those queued behind it.
    writers: usize,
    /// How long the last group took.
    took: Duration,
    broken: bool,
}

#[derive(Debug)]
struct Waiter<T> {
    ticket: u64,
    item: T,
    thread: Thread,
}

impl<T, R> GroupCommit<T, R> {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        let state = State {
            pending: Vec::new(),
            in_flight: Vec::new(),
            done: HashMap::new(),
            next_ticket: 0,
            leading: false,
            gathering: None,
            writers: 0,
            took: Duration::ZERO,
            broken: false,
        };
        GroupCommit { state: Mutex::new(state), longest: LONGEST }
    }

    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits `item` and returns its outcome. `lead` commits a whole group, in order, and answers item by item; it runs
    /// on one of the submitting threads, never on two at once.
    pub(crate) fn submit(&self, item: T, lead: impl Fn(Vec<T>) -> Vec<Result<R>>) -> Result<R> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.pending.push(Waiter { ticket, item, thread: thread::current() });
        if state.pending.len() >= state.writers
            && let Some(leader) = state.gathering.take()
        {
            leader.unpark();
        }
        loop {
            if let Some(outcome) = state.done.remove(&ticket) {
                return outcome;
            }
            if state.broken {
                let message = "a write failed unexpectedly; close the database and open it again";
                return Err(Error::new(ErrorKind::Closed, message));
            }
            if state.leading {
                drop(state);
                // Whoever finishes the group of this item, or finds it to be the next leader's, wakes this thread; a wake
                // that comes before the park is kept.
                thread::park();
            } else {
                self.lead_group(state, &lead);
            }
            state = self.lock();
        }
    }

    /// Waits until as many items are pending as there were writers just now, or it takes too long.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State<T, R>>) -> MutexGuard<'a, State<T, R>> {
        if state.pending.len() >= state.writers {
            return state;
        }
        let deadline = Deadline::after(state.took.mul_f64(PATIENCE).min(self.longest));
        loop {
            state.gathering = Some(thread::current());
            drop(state);
            let in_time = deadline.park();
            state = self.lock();
            if !in_time || state.pending.len() >= state.writers {
                break;
            }
        }
        state.gathering = None;
        state
    }

    /// Commits everything that is pending, then wakes exactly those who have something to do: the group's submitters, and
    /// one of those who queued meanwhile, to lead the next group.
    fn lead_group<'a>(&'a self, mut state: MutexGuard<'a, State<T, R>>, lead: impl Fn(Vec<T>) -> Vec<Result<R>>) {
        state.leading = true;
        let mut state = self.gather(state);
        let group = std::mem::take(&mut state.pending);
        let tickets: Vec<u64> = group.iter().map(|w| w.ticket).collect();
        state.in_flight = group.iter().map(|w| w.thread.clone()).collect();
        drop(state);
        let guard = LeaderGuard { queue: self };
        let start = Instant::now();
        let outcomes = lead(group.into_iter().map(|w| w.item).collect());
        assert_eq!(outcomes.len(), tickets.len(), "a group answers for each of its items");
        std::mem::forget(guard);
        let took = start.elapsed();
        let mut state = self.lock();
        (state.took, state.writers) = (took, tickets.len() + state.pending.len());
        state.done.extend(tickets.into_iter().zip(outcomes));
        state.leading = false;
        let answered = std::mem::take(&mut state.in_flight);
        let next = state.pending.first().map(|w| w.thread.clone());
        drop(state);
        // The next leader first: the disk is idle until it runs.
        next.iter().chain(&answered).for_each(Thread::unpark);
    }
}

/// Breaks the queue if its leader unwinds.
struct LeaderGuard<'a, T, R> {
    queue: &'a GroupCommit<T, R>,
}

impl<T, R> Drop for LeaderGuard<'_, T, R> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.broken = true;
        let mut wake = std::mem::take(&mut state.in_flight);
        wake.extend(state.pending.iter().map(|w| w.thread.clone()));
        drop(state);
        wake.iter().for_each(Thread::unpark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn every_item_gets_its_own_answer_once_and_groups_do_not_overlap() {
        let queue = GroupCommit::<u64, u64>::new();
        let (inside, groups) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for t in 0..8u64 {
                let (queue, inside, groups) = (&queue, &inside, &groups);
                s.spawn(move || {
                    for i in 0..500 {
                        let item = t * 1_000 + i;
                        let answer = queue.submit(item, |items| {
                            assert_eq!(inside.fetch_add(1, SeqCst), 0, "two leaders at once");
                            groups.fetch_add(1, SeqCst);
                            let answers = items.iter().map(|x| Ok(x * 2)).collect();
                            inside.fetch_sub(1, SeqCst);
                            answers
                        });
                        assert_eq!(answer.unwrap(), item * 2);
                    }
                });
            }
        });
        assert!((1..=4_000).contains(&groups.into_inner()));
        assert!(queue.lock().done.is_empty(), "no answer is left behind");
    }

    #[test]
    fn what_queues_behind_a_leader_becomes_one_group() {
        let queue = GroupCommit::<u32, usize>::new();
        let leader_inside = Barrier::new(2);
        let release = Barrier::new(2);
        std::thread::scope(|s| {
            s.spawn(|| {
                queue.submit(0, |items| {
                    if items == [0] {
                        leader_inside.wait();
                        release.wait();
                    }
                    items.iter().map(|_| Ok(items.len())).collect()
                })
            });
            leader_inside.wait();
            let followers: Vec<_> = (1..=4)
                .map(|i| {
                    s.spawn({
                        let queue = &queue;
                        move || queue.submit(i, |items| items.iter().map(|_| Ok(items.len())).collect()).unwrap()
                    })
                })
                .collect();
            while queue.lock().pending.len() < 4 {
                std::thread::yield_now();
            }
            release.wait();
            let sizes: Vec<usize> = followers.into_iter().map(|f| f.join().unwrap()).collect();
            assert_eq!(sizes, [4; 4]);
        });
    }

    /// A queue that has just answered `writers` writers with a group that took a minute.
    fn after_a_slow_group(writers: usize) -> GroupCommit<u32, usize> {
        let queue = GroupCommit::<u32, usize> { longest: Duration::from_secs(60), ..GroupCommit::new() };
        (queue.lock().writers, queue.lock().took) = (writers, Duration::from_secs(60));
        queue
    }

    #[allow(clippy::needless_pass_by_value)] // as a group comes
    fn count(items: Vec<u32>) -> Vec<Result<usize>> {
        items.iter().map(|_| Ok(items.len())).collect()
    }

    #[test]
    fn writers_who_were_answered_together_are_waited_for() {
        let queue = after_a_slow_group(2);
        std::thread::scope(|s| {
            let first = s.spawn(|| queue.submit(1, count).unwrap());
            while queue.lock().gathering.is_none() && !first.is_finished() {
                std::thread::yield_now();
            }
            assert_eq!(queue.submit(2, count).unwrap(), 2);
            assert_eq!(first.join().unwrap(), 2, "it waited, and was woken long before a minute had passed");
        });
    }

    #[test]
    fn writers_who_do_not_come_back_are_waited_for_once() {
        let queue = GroupCommit::<u32, usize>::new();
        (queue.lock().writers, queue.lock().took) = (9, Duration::from_micros(10));
        assert_eq!(queue.submit(1, count).unwrap(), 1);
        assert_eq!(queue.lock().writers, 1, "from now on");
        queue.lock().took = Duration::MAX;
        assert_eq!(queue.submit(2, count).unwrap(), 1, "one writer alone never waits");
    }

    #[test]
    fn a_panicking_leader_leaves_nobody_waiting() {
        let queue = GroupCommit::<u32, ()>::new();
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| queue.submit(1, |_| panic!("boom"))));
        assert!(died.is_err());
        let error = queue.submit(2, |items| items.iter().map(|_| Ok(())).collect()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}
