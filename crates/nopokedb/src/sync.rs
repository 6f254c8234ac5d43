//! The locks, atomics and threads of what readers and writers share without a lock around it: the standard library's. In
//! the workspace `schedules/` they are shuttle's, so that the very code that ships runs in schedules that a test chooses
//! (`schedules.rs`).
//!
//! Invariant: nothing but names, a place to switch, and a deadline, which shuttle has none of. What is compiled into the product is `std`.

#[cfg(not(nopokedb_shuttle))]
pub(crate) use nopokedb_kernels::{Zero, Zeroed};
#[cfg(nopokedb_shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, atomic},
    thread,
};
#[cfg(nopokedb_shuttle)]
pub(crate) use shuttled::{Zero, Zeroed};
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

/// Until when a thread waits for others to wake it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(
    #[cfg_attr(nopokedb_shuttle, expect(dead_code, reason = "any moment may be it"))] std::time::Instant,
);

impl Deadline {
    /// So much from now.
    pub(crate) fn after(patience: std::time::Duration) -> Deadline {
        Deadline(std::time::Instant::now() + patience)
    }

    /// Parks until woken, or until the deadline, or for no reason; false if it had passed already.
    #[cfg(not(nopokedb_shuttle))]
    pub(crate) fn park(self) -> bool {
        let left = self.0.saturating_duration_since(std::time::Instant::now());
        if !left.is_zero() {
            thread::park_timeout(left);
        }
        !left.is_zero()
    }

    /// In a schedule the time may be over at any moment.
    #[cfg(nopokedb_shuttle)]
    pub(crate) fn park(self) -> bool {
        use shuttle::rand::Rng;
        thread::yield_now();
        shuttle::rand::thread_rng().gen_bool(0.5)
    }
}

/// What stands for memory that is zero until it is written to where atomics are not plain numbers.
#[cfg(nopokedb_shuttle)]
mod shuttled {
    /// Types whose default is zero.
    pub(crate) trait Zero: Default {}
    impl Zero for super::atomic::AtomicU32 {}
    impl Zero for super::atomic::AtomicU64 {}

    /// A slice of zeros.
    #[derive(Debug)]
    pub(crate) struct Zeroed<T>(Box<[T]>);

    impl<T: Zero> Zeroed<T> {
        pub(crate) fn new(len: usize) -> Zeroed<T> {
            Zeroed((0..len).map(|_| T::default()).collect())
        }
    }

    impl<T> std::ops::Deref for Zeroed<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            &self.0
        }
    }
}
