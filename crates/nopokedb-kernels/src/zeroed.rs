//! Memory that is zero until it is written to: what is reserved ahead of need takes address space and nothing else.
//!
//! Invariants:
//! 1. The elements never move, and live as long as the [`Zeroed`].
//! 2. Their bytes were zero when they were handed out, which is a value of a [`Zero`] type.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::AtomicU32 {}
    impl Sealed for super::AtomicU64 {}
}

/// Element types whose all-zero bytes are a value, and which need no dropping.
pub trait Zero: sealed::Sealed + Send + Sync + 'static {}
impl Zero for AtomicU32 {}
impl Zero for AtomicU64 {}

/// A slice of zeros on the heap, whose pages are there once they are written to.
pub struct Zeroed<T: Zero> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its elements as a box does, and they may be sent (`Zero` requires it).
unsafe impl<T: Zero> Send for Zeroed<T> {}
// SAFETY: sharing it shares the elements, which may be shared.
unsafe impl<T: Zero> Sync for Zeroed<T> {}

impl<T: Zero> Zeroed<T> {
    /// `len` zeros. Panics for none, or for more than the address space holds.
    pub fn new(len: usize) -> Zeroed<T> {
        assert!(len > 0, "no elements");
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero: there is an element, and none is of no size.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        // SAFETY: as many bytes as were just allocated, which nobody else knows of yet.
        let memory = unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast::<MaybeUninit<u8>>(), layout.size()) };
        crate::prefer_huge_pages(memory);
        Zeroed { start: start.cast(), len }
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len).expect("elements that fit the address space")
    }
}

impl<T: Zero> Deref for Zeroed<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements, aligned and zero, which is a value (invariant 2), and ours as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zero> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this very layout; the elements need no dropping.
        unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
    }
}

impl<T: Zero> std::fmt::Debug for Zeroed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zeroed").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn elements_are_zero_until_they_are_written() {
        for len in [1, 7, 100_000] {
            let (words, longs) = (Zeroed::<AtomicU32>::new(len), Zeroed::<AtomicU64>::new(len));
            assert!(words.iter().all(|w| w.load(Relaxed) == 0) && longs.iter().all(|w| w.load(Relaxed) == 0));
            words[len - 1].store(7, Relaxed);
            longs[len / 2].store(8, Relaxed);
            assert_eq!((words.len(), words[len - 1].load(Relaxed), longs[len / 2].load(Relaxed)), (len, 7, 8));
        }
    }
}
