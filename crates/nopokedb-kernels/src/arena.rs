//! Rows of a fixed stride that never move: one writer appends, any number of readers read what is published, no locks.
//!
//! Invariants:
//! 1. Bucket `b` holds `first_rows << b` rows. Once allocated it never moves and lives as long as the arena.
//! 2. Rows below `len` are initialised and never written again. `len` is stored with Release after their last byte was
//!    written and loaded with Acquire before a row is read.
//! 3. Rows at or above `len` are touched by the writer only; there is one writer at a time (a lock that only
//!    [`AppendArena::append`] takes, so misuse waits instead of racing).
//!
//! Threading: `&AppendArena` may be shared freely. Readers see a prefix of the rows that only grows.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Enough doubling buckets for 2^32 rows from the smallest first bucket.
const BUCKETS: usize = 32;
/// Every bucket starts on a cache line.
const LINE: usize = 64;
/// Bytes of the first bucket, about: small, so that ten thousand tiny collections stay cheap.
const FIRST_BYTES: usize = 4096;

/// Append-only storage of rows of `stride` elements. See the module's head for what holds.
pub struct AppendArena<T: Copy + Send + Sync + 'static> {
    stride: usize,
    first_rows: usize,
    first_log2: u32,
    /// Where a bucket's rows begin: the first cache line inside its allocation.
    buckets: [AtomicPtr<T>; BUCKETS],
    /// What the allocator returned for a bucket. Aligning by hand keeps the request a plain zeroed one, which the
    /// allocator serves with untouched pages; a zeroed request of large alignment would be written to from end to end.
    allocations: [AtomicPtr<u8>; BUCKETS],
    /// Rows published to readers.
    len: AtomicUsize,
    /// Held by the writer.
    writer: Mutex<()>,
    owns: PhantomData<T>,
}

/// Element types whose all-zero bytes are a value.
mod plain {
    pub trait Plain: Copy + Send + Sync + 'static {}
    impl Plain for u8 {}
    impl Plain for i8 {}
    impl Plain for u16 {}
    impl Plain for u32 {}
    impl Plain for u64 {}
    impl Plain for f32 {}
}
use plain::Plain;

impl<T: Plain> AppendArena<T> {
    /// An empty arena of rows of `stride` elements. Allocates nothing yet.
    pub fn new(stride: usize) -> Self {
        Self::with_block(stride, 1)
    }

    /// An arena whose buckets hold a whole number of `block`s (a power of two of rows), so that no block is ever cut.
    pub fn with_block(stride: usize, block: usize) -> Self {
        assert!(stride > 0, "rows of no elements");
        assert!(block.is_power_of_two(), "blocks are a power of two of rows");
        let row_bytes = stride.checked_mul(size_of::<T>()).expect("a row fits the address space");
        let wanted = (FIRST_BYTES / row_bytes.max(1)).max(4);
        let first_rows = (1usize << wanted.ilog2()).max(block);
        AppendArena {
            stride,
            first_rows,
            first_log2: first_rows.trailing_zeros(),
            buckets: [const { AtomicPtr::new(ptr::null_mut()) }; BUCKETS],
            allocations: [const { AtomicPtr::new(ptr::null_mut()) }; BUCKETS],
            len: AtomicUsize::new(0),
            writer: Mutex::new(()),
            owns: PhantomData,
        }
    }

    /// Elements of a row.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Rows that readers may read.
    #[inline]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether no row is published.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory: what lies behind the rows in the last bucket is address space, and becomes memory as it is written.
    pub fn bytes(&self) -> usize {
        let len = self.len();
        (0..BUCKETS)
            .filter(|&b| !self.buckets[b].load(Ordering::Acquire).is_null())
            .map(|b| {
                let rows = len.saturating_sub(self.first_rows * ((1 << b) - 1)).min(self.first_rows << b);
                crate::touched(rows * self.stride * size_of::<T>(), self.layout(b).size())
            })
            .sum()
    }

    /// Row `index`, or a panic when it is not published.
    #[inline]
    pub fn row(&self, index: usize) -> &[T] {
        assert!(index < self.len(), "row {index} is not published");
        let (bucket, offset) = self.locate(index);
        let base = self.buckets[bucket].load(Ordering::Relaxed);
        // SAFETY: `index < len` was read with Acquire, so the bucket's pointer and the row's bytes, both written before
        // the Release store of `len`, are visible (invariant 2). The row lies inside the bucket because `locate` keeps
        // `offset < first_rows << bucket`. Nothing writes it any more, and the bucket outlives `self` (invariant 1).
        unsafe { std::slice::from_raw_parts(base.add(offset * self.stride), self.stride) }
    }

    /// Row `index` without asking whether it is published.
    ///
    /// # Safety
    /// `index` is below a length that [`AppendArena::len`] has returned.
    #[inline]
    pub(crate) unsafe fn row_unchecked(&self, index: usize) -> &[T] {
        let (bucket, offset) = self.locate(index);
        // SAFETY: as in `row`; the caller has made the comparison. `locate` gives a bucket below `BUCKETS` for any row that
        // was ever appended.
        unsafe {
            let base = self.buckets.get_unchecked(bucket).load(Ordering::Relaxed);
            std::slice::from_raw_parts(base.add(offset * self.stride), self.stride)
        }
    }

    /// The longest run of rows `[index, ...)` below `end` that is contiguous in memory: its elements, at least one row.
    /// Panics unless `index < end <= len()`. Scans walk the arena with it, a few runs in all.
    #[inline]
    pub fn run(&self, index: usize, end: usize) -> &[T] {
        assert!(index < end && end <= self.len(), "rows {index}..{end} are not published");
        let (bucket, offset) = self.locate(index);
        let rows = ((self.first_rows << bucket) - offset).min(end - index);
        let base = self.buckets[bucket].load(Ordering::Relaxed);
        // SAFETY: as in `row`; rows `index .. index + rows` are all below `end <= len` and inside this one bucket.
        unsafe { std::slice::from_raw_parts(base.add(offset * self.stride), rows * self.stride) }
    }

    /// Asks the CPU for row `index` if it is published.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        if index < self.len() {
            crate::prefetch(self.row(index));
        }
    }

    /// Appends `rows` (a whole number of them, row-major) and publishes them. Returns the first one's index.
    pub fn append(&self, rows: &[T]) -> usize {
        assert!(rows.len().is_multiple_of(self.stride), "a whole number of rows");
        let mut rows = rows.chunks_exact(self.stride);
        self.append_with(rows.len(), |_, row| row.copy_from_slice(rows.next().expect("as many rows as were counted")))
    }

    /// Appends `n` rows, each of which `fill(i, row)` must write from end to end, called in order, and publishes them
    /// all at once. Returns the first one's index. When `fill` panics nothing is published.
    pub fn append_with(&self, n: usize, mut fill: impl FnMut(usize, &mut [T])) -> usize {
        // A panic in `fill` leaves `len` as it was, so a poisoned lock protects nothing broken.
        let _writer = self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let first = self.len.load(Ordering::Relaxed);
        for i in 0..n {
            let (bucket, offset) = self.locate(first + i);
            let base = self.bucket_for_write(bucket);
            // SAFETY: the row is inside its bucket (`locate`), whose memory is zeroed, which is a value of a `Plain`
            // type. It is at or above `len`, so no reader has it, and the lock makes this the only writer (invariant 3).
            let row = unsafe { std::slice::from_raw_parts_mut(base.add(offset * self.stride).as_ptr(), self.stride) };
            fill(i, row);
        }
        self.len.store(first + n, Ordering::Release);
        first
    }

    /// Which bucket holds row `index`, and at which row of it.
    #[inline]
    fn locate(&self, index: usize) -> (usize, usize) {
        let shifted = index + self.first_rows;
        let bucket = (shifted.ilog2() - self.first_log2) as usize;
        (bucket, shifted - (self.first_rows << bucket))
    }

    /// The bucket's memory, allocated now if it was not. Called by the writer only.
    fn bucket_for_write(&self, bucket: usize) -> NonNull<T> {
        assert!(bucket < BUCKETS, "more than 2^32 rows");
        if let Some(base) = NonNull::new(self.buckets[bucket].load(Ordering::Relaxed)) {
            return base;
        }
        let layout = self.layout(bucket);
        // SAFETY: the layout's size is not zero: a stride is positive and a bucket holds at least one row.
        let allocation = unsafe { alloc_zeroed(layout) };
        if allocation.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: as many bytes as were just allocated, which nobody else knows of yet.
        let memory = unsafe { std::slice::from_raw_parts_mut(allocation.cast::<MaybeUninit<u8>>(), layout.size()) };
        crate::prefer_huge_pages(memory);
        // SAFETY: less than `LINE` bytes are skipped, and the layout has that many to spare.
        let base = unsafe { allocation.add(allocation.align_offset(LINE)) }.cast::<T>();
        self.allocations[bucket].store(allocation, Ordering::Relaxed);
        self.buckets[bucket].store(base, Ordering::Release);
        NonNull::new(base).expect("inside an allocation")
    }
}

impl<T: Copy + Send + Sync + 'static> AppendArena<T> {
    /// Size and alignment of a bucket's allocation.
    fn layout(&self, bucket: usize) -> Layout {
        let rows = (self.first_rows << bucket).checked_mul(self.stride * size_of::<T>()).expect("a bucket that fits");
        // One line more than the rows, so that they can begin on one. The alignment is what `T` needs and no more.
        Layout::from_size_align(rows + LINE, align_of::<T>()).expect("a bucket that fits the address space")
    }
}

impl<T: Copy + Send + Sync + 'static> Drop for AppendArena<T> {
    fn drop(&mut self) {
        for bucket in 0..BUCKETS {
            let allocation = *self.allocations[bucket].get_mut();
            if !allocation.is_null() {
                // SAFETY: the pointer came from `alloc_zeroed` with this same layout, and `&mut self` means that no
                // reader is left. `T: Copy` has no destructor to run.
                unsafe { dealloc(allocation, self.layout(bucket)) }
            }
        }
    }
}

impl<T: Copy + Send + Sync + 'static> fmt::Debug for AppendArena<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.len.load(Ordering::Acquire);
        f.debug_struct("AppendArena").field("stride", &self.stride).field("len", &len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_place_as_the_arena_grows() {
        for stride in [1usize, 3, 64, 5000] {
            let arena = AppendArena::<u32>::new(stride);
            let n = 40_000 / stride + 20;
            let mut held = Vec::new();
            for i in 0..n {
                let value = u32::try_from(i).unwrap();
                assert_eq!(arena.append(&vec![value; stride]), i);
                held.push(arena.row(i));
            }
            for (i, row) in held.iter().enumerate() {
                assert!(row.iter().all(|&v| v as usize == i) && ptr::eq(*row, arena.row(i)));
            }
        }
    }

    #[test]
    fn runs_cover_every_row_once_and_never_cut_a_block() {
        let arena = AppendArena::<u8>::with_block(1000, 64);
        arena.append_with(3000, |i, row| row.fill(u8::try_from(i % 251).unwrap()));
        let mut i = 0;
        while i < 3000 {
            let run = arena.run(i, 3000);
            let rows = run.len() / 1000;
            assert!(rows.is_multiple_of(64) || i + rows == 3000);
            for (r, row) in run.chunks(1000).enumerate() {
                assert!(row.iter().all(|&v| usize::from(v) == (i + r) % 251));
            }
            i += rows;
        }
        assert_eq!(i, 3000);
    }

    #[test]
    fn a_tiny_arena_is_tiny_and_an_empty_one_costs_nothing() {
        let arena = AppendArena::<f32>::new(128);
        assert_eq!(arena.bytes(), 0);
        arena.append(&[0.5; 128]);
        assert!(arena.bytes() <= FIRST_BYTES + LINE, "{}", arena.bytes());
    }

    #[test]
    fn room_that_is_not_written_to_is_not_counted() {
        let arena = AppendArena::<u8>::new(64);
        // One row into a bucket of as much as all before.
        let rows = 64 * ((1 << 14) - 1) + 1;
        arena.append_with(rows, |_, row| row.fill(1));
        let (used, most) = (rows * 64, rows * 64 + (2 << 20) + 20 * LINE);
        assert!((used..=most).contains(&arena.bytes()), "{} of {used}", arena.bytes());
    }

    #[test]
    fn rows_start_on_cache_lines_when_their_stride_is_whole_lines() {
        let arena = AppendArena::<u8>::new(192);
        arena.append_with(20_000, |_, _| ());
        for i in (0..20_000).step_by(777) {
            assert_eq!(arena.row(i).as_ptr() as usize % LINE, 0);
        }
    }

    #[test]
    fn a_panic_while_filling_publishes_nothing_and_the_arena_goes_on() {
        let arena = AppendArena::<u8>::new(4);
        arena.append(&[1; 8]);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            arena.append_with(2, |i, row| {
                assert!(i != 1, "on purpose");
                row.fill(9);
            })
        }));
        assert!(caught.is_err());
        assert_eq!(arena.len(), 2);
        arena.append(&[2; 4]);
        assert_eq!(arena.row(2), [2; 4]);
    }

    #[test]
    #[should_panic(expected = "not published")]
    fn a_row_that_is_not_published_is_not_readable() {
        AppendArena::<u8>::new(4).row(0);
    }

    #[test]
    fn readers_see_only_whole_rows_while_a_writer_appends() {
        let arena = AppendArena::<u64>::new(7);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < 20_000 {
                        let len = arena.len();
                        for i in (seen..len).chain(seen.saturating_sub(3)..seen) {
                            assert_eq!(arena.row(i), [i as u64 + 1; 7]);
                        }
                        seen = len;
                    }
                });
            }
            for i in 0..20_000u64 {
                arena.append(&[i + 1; 7]);
            }
        });
    }
}
