//! The locks, atomics and threads of what readers and writers share without a lock around it: the standard library's. In
//! the workspace `schedules/` they are shuttle's, so that the very code that ships runs in schedules that a test chooses
//! (`schedules.rs`).
//!
//! Invariant: nothing but names. What is compiled into the product is `std`.

#[cfg(nopokedb_shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, atomic},
    thread,
};
#[cfg(not(nopokedb_shuttle))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, atomic},
    thread,
};

/// Where memory is allocated that others may ask for meanwhile: a place at which shuttle may go on with another thread.
#[inline(always)]
pub(crate) fn allocating() {
    #[cfg(nopokedb_shuttle)]
    shuttle::thread::yield_now();
}
