//! A growing array that never moves: readers index it without locks while one writer appends.
//!
//! Invariants:
//! 1. Bucket `b` holds `FIRST << b` elements and, once allocated, never moves or is freed before the array.
//! 2. An element exists as soon as its bucket does, as the element type's default (zero); what it *means* is decided
//!    by the length that its owner publishes, not here.
//! 3. Address space grows by doubling buckets; memory as elements are written. One that needs no more than the first bucket has
//!    no table of the others either.
//!
//! Threading: elements are atomics, so any thread may read and write them; [`Chunked::reserve`] is safe to race.

use std::sync::OnceLock;

use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use crate::sync::{Zero, Zeroed, allocating};

use nopokedb_kernels::touched;

/// Elements in the first bucket: small, so that ten thousand tiny collections stay cheap.
const FIRST: usize = 16;
const FIRST_LOG2: u32 = FIRST.trailing_zeros();
/// Enough buckets for 2^32 elements.
const BUCKETS: usize = 29;

type Bucket<T> = OnceLock<Zeroed<T>>;

/// An append-only array of atomics in doubling buckets.
#[derive(Debug)]
pub(crate) struct Chunked<T: Zero> {
    first: Bucket<T>,
    /// The others, once there is one.
    more: OnceLock<Box<[Bucket<T>; BUCKETS - 1]>>,
    /// Elements that were asked for: none beyond is written.
    reserved: AtomicUsize,
}

/// Array of `u64` cells.
pub(crate) type ChunkedU64 = Chunked<AtomicU64>;
/// Array of `u32` cells.
pub(crate) type ChunkedU32 = Chunked<AtomicU32>;

/// Which bucket holds `index`, and where in it.
fn locate(index: usize) -> (usize, usize) {
    let shifted = index + FIRST;
    let bucket = (usize::BITS - 1 - shifted.leading_zeros()) - FIRST_LOG2;
    (bucket as usize, shifted - (FIRST << bucket))
}

impl<T: Zero> Chunked<T> {
    /// An array with no buckets.
    pub(crate) fn new() -> Self {
        Chunked { first: OnceLock::new(), more: OnceLock::new(), reserved: AtomicUsize::new(0) }
    }

    /// Makes all elements below `len` exist.
    pub(crate) fn reserve(&self, len: usize) {
        if len == 0 {
            return;
        }
        self.reserved.fetch_max(len, Relaxed);
        fill(&self.first, 0);
        let (last, _) = locate(len - 1);
        if last > 0 {
            let more = self.more.get_or_init(|| Box::new([const { OnceLock::new() }; BUCKETS - 1]));
            more[..last].iter().zip(1..).for_each(|(bucket, b)| fill(bucket, b));
        }
    }

    /// The element at `index`, which must have been reserved.
    #[inline]
    pub(crate) fn at(&self, index: usize) -> &T {
        let (bucket, offset) = locate(index);
        let found =
            if bucket == 0 { self.first.get() } else { self.more.get().and_then(|more| more[bucket - 1].get()) };
        match found {
            Some(b) => &b[offset],
            None => panic!("element {index} was never reserved"),
        }
    }

    /// Asks the CPU for the element at `index`, if it was reserved.
    #[inline]
    pub(crate) fn prefetch(&self, index: usize) {
        let (bucket, offset) = locate(index);
        let found =
            if bucket == 0 { self.first.get() } else { self.more.get().and_then(|more| more[bucket - 1].get()) };
        if let Some(element) = found.and_then(|b| b.get(offset..=offset)) {
            nopokedb_kernels::prefetch(element);
        }
    }

    /// Bytes in memory once every element that was reserved has been written; what lies behind them is address space.
    pub(crate) fn bytes(&self) -> usize {
        let more = self.more.get().into_iter().flat_map(|more| more.iter());
        let (reserved, element) = (self.reserved.load(Relaxed), size_of::<T>());
        let bytes = |(b, bucket): (usize, &Bucket<T>)| {
            let elements = bucket.get()?.len();
            let used = reserved.saturating_sub(FIRST * ((1 << b) - 1)).min(elements);
            Some(touched(used * element, elements * element))
        };
        std::iter::once(&self.first).chain(more).enumerate().filter_map(bytes).sum()
    }
}

/// Makes bucket `b`, unless it is there.
fn fill<T: Zero>(bucket: &Bucket<T>, b: usize) {
    if bucket.get().is_none() {
        allocating();
    }
    bucket.get_or_init(|| Zeroed::new(FIRST << b));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn every_element_keeps_its_place_as_the_array_grows() {
        let array = ChunkedU32::new();
        for i in 0..10_000u32 {
            array.reserve(i as usize + 1);
            array.at(i as usize).store(i ^ 0xA5A5, Relaxed);
        }
        assert!((0..10_000u32).all(|i| array.at(i as usize).load(Relaxed) == i ^ 0xA5A5));
    }

    #[test]
    fn a_small_array_is_small_and_a_large_one_counts_what_is_used() {
        let array = ChunkedU64::new();
        array.reserve(1);
        assert_eq!(array.bytes(), FIRST * 8);
        array.reserve(100_000);
        assert!((800_000..=800_000 + 4_096).contains(&array.bytes()), "{}", array.bytes());
    }

    #[test]
    fn locate_is_dense_and_in_order() {
        let mut expected = (0, 0);
        for i in 0..1_000_000 {
            assert_eq!(locate(i), expected);
            expected =
                if expected.1 + 1 == FIRST << expected.0 { (expected.0 + 1, 0) } else { (expected.0, expected.1 + 1) };
        }
    }
}
