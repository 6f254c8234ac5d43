//! Mapped memory: the only `unsafe` of this crate.
//!
//! A [`Region`] shows a file (or, on the simulated disk, a buffer that plays one) as memory. Cloning it is cheap, and
//! the memory stays as long as one clone lives.
//!
//! Invariants:
//! 1. **Only published bytes are read.** A caller asks for bytes that were completely written before it learnt their
//!    offset (through a release/acquire pair: a lock, a snapshot pointer, the opening of the file) and that nobody
//!    changes afterwards. The log is append-only and sealed files are immutable, so this costs nothing; a
//!    file that is rewritten in place must not be mapped.
//! 2. **Nothing past the end of the file is touched** (that is a SIGBUS, not an error). The region knows how far the file
//!    reaches: the mark rises with every write and falls with every cut through the handle that mapped it, and a
//!    request past the mark asks the file system once more before it is refused. A file is not cut below bytes
//!    somebody may hold a reference to; another program that cuts our files breaks this, and nothing can be done about it.
//! 3. **The mapping never moves or shrinks** while a clone lives, so references into it stay valid.
//!
//! A medium that cannot read a mapped page raises SIGBUS; therefore whoever opens a file checks its first bytes through
//! [`read_at`](super::vfs::VfsFile::read_at), which gives an error instead.
//!
//! Threading: every method may be called from any thread. [`Region::write`] is for the simulated disk alone, which
//! calls it under its own lock.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::mem::{align_of, size_of};
use std::slice;
use std::sync::Arc;
#[cfg(any(test, feature = "testing"))]
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapAsRawDesc, MmapMut, MmapOptions, MmapRaw};

#[cfg(not(target_endian = "little"))]
compile_error!("NoPokeDB maps little-endian files as they are; a big-endian target needs a converting Region");

/// Asks the file system how long the file is now.
pub(super) type LenNow = Box<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// A mapped range `[0, capacity)` of a file, of which the bytes below the file's length may be read.
#[derive(Clone)]
pub struct Region {
    inner: Arc<Inner>,
}

struct Inner {
    map: MmapRaw,
    capacity: u64,
    /// How far the file is known to reach; shared with the file handle.
    known_len: Arc<AtomicU64>,
    backing: Backing,
}

/// What plays the file.
enum Backing {
    /// A buffer of the simulated disk, mapped for writing.
    #[cfg(any(test, feature = "testing"))]
    Anonymous,
    /// A file that was at least as long as the mapping from the start: such a region needs no descriptor.
    Whole,
    /// A file that may still grow into the mapping.
    Growing(LenNow),
}

impl Region {
    /// Maps `[0, capacity)` of `file`, read-only and shared. `known_len` is the handle's mark (invariant 2).
    pub(super) fn map_file<F: MmapAsRawDesc>(
        file: F,
        capacity: u64,
        known_len: Arc<AtomicU64>,
        len_now: Option<LenNow>,
    ) -> io::Result<Region> {
        let map = MmapOptions::new().len(map_len(capacity)?).map_raw_read_only(file)?;
        let backing = len_now.map_or(Backing::Whole, Backing::Growing);
        Ok(Region { inner: Arc::new(Inner { map, capacity, known_len, backing }) })
    }

    /// A buffer of `capacity` zero bytes that plays a mapped file on the simulated disk.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn anonymous(capacity: u64, known_len: Arc<AtomicU64>) -> io::Result<Region> {
        let map = MmapRaw::from(MmapMut::map_anon(map_len(capacity)?)?);
        Ok(Region { inner: Arc::new(Inner { map, capacity, known_len, backing: Backing::Anonymous }) })
    }

    /// A region of no file and no bytes. Clones of another one keep theirs.
    pub(crate) fn nothing() -> Region {
        let known_len = Arc::new(AtomicU64::new(0));
        let map = MmapMut::map_anon(1).expect("a page of memory is to be had");
        Region { inner: Arc::new(Inner { map: MmapRaw::from(map), capacity: 0, known_len, backing: Backing::Whole }) }
    }

    /// A reference that does not keep the mapping.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn downgrade(&self) -> WeakRegion {
        WeakRegion(Arc::downgrade(&self.inner))
    }

    /// How many bytes are mapped. The file may be shorter.
    pub(crate) fn len(&self) -> u64 {
        self.inner.capacity
    }

    /// `len` published bytes at `offset` (invariant 1).
    ///
    /// # Panics
    /// When the range is not inside the mapping and the file: offsets read from a file are checked with [`Region::get`].
    #[cfg(any(test, feature = "testing"))]
    #[inline]
    pub fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        match self.get(offset, len) {
            Some(bytes) => bytes,
            None => self.out_of_range(offset, len),
        }
    }

    /// As [`Region::bytes`], or `None` when the range is not inside the mapping and the file.
    #[inline]
    pub fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = self.inside(offset, len)?;
        // SAFETY: `inside` showed `start + len <= capacity`, all of it mapped for as long as `self.inner` lives (invariant
        // 3) and backed by the file (invariant 2). The bytes are initialised, being a file's, and nobody writes them
        // while the reference lives, being published (invariant 1). `u8` has no alignment or validity demands.
        Some(unsafe { slice::from_raw_parts(self.inner.map.as_ptr().add(start), len) })
    }

    /// `count` published floats at `offset`, which is a multiple of 4.
    ///
    /// # Panics
    /// As [`Region::bytes`], and when `offset` is not a multiple of 4.
    #[cfg(any(test, feature = "testing"))]
    #[inline]
    pub fn f32s(&self, offset: u64, count: usize) -> &[f32] {
        match self.get_f32s(offset, count) {
            Some(floats) => floats,
            None => self.out_of_range(offset, count.saturating_mul(size_of::<f32>())),
        }
    }

    /// As [`Region::f32s`], or `None` when the range is outside or `offset` is not a multiple of 4.
    #[inline]
    pub fn get_f32s(&self, offset: u64, count: usize) -> Option<&[f32]> {
        let start = self.inside(offset, count.checked_mul(size_of::<f32>())?)?;
        if start % align_of::<f32>() != 0 {
            return None;
        }
        // SAFETY: as in `get` for the `4 * count` bytes from `start`. The mapping begins at a page, so a `start` that is a
        // multiple of 4 is aligned for f32; every bit pattern is an f32; files and target are little-endian.
        Some(unsafe { slice::from_raw_parts(self.inner.map.as_ptr().add(start).cast::<f32>(), count) })
    }

    /// Copies `bytes` to `offset` of an anonymous region: the simulated disk's `write`. What lies past the capacity is
    /// not seen through the region, as with a mapped file.
    ///
    /// # Panics
    /// On a region of a real file, which is mapped read-only.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(matches!(self.inner.backing, Backing::Anonymous), "a mapped file is written through its handle");
        let Some(room) = self.inner.capacity.checked_sub(offset) else { return };
        let len = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let Ok(start) = usize::try_from(offset) else { return };
        // SAFETY: `start + len <= capacity`, mapped for writing because it is anonymous. Source and target do not overlap:
        // the target is private to the simulated disk, whose lock makes this the only writer, and by invariant 1 nobody
        // holds a reference to bytes that are still to be written.
        unsafe { self.inner.map.as_mut_ptr().add(start).copy_from_nonoverlapping(bytes.as_ptr(), len) }
    }

    /// The start of the range as an index, if the range is mapped and backed by the file.
    #[inline]
    fn inside(&self, offset: u64, len: usize) -> Option<usize> {
        let end = offset.checked_add(len as u64)?;
        if end > self.inner.capacity {
            return None;
        }
        if end > self.inner.known_len.load(Ordering::Acquire) && !self.has_grown_to(end) {
            return None;
        }
        usize::try_from(offset).ok()
    }

    /// Whether the file reaches `end` by now: it may have been written through another handle, or by another process.
    #[cold]
    fn has_grown_to(&self, end: u64) -> bool {
        let Backing::Growing(len_now) = &self.inner.backing else { return false };
        let Ok(now) = len_now() else { return false };
        self.inner.known_len.fetch_max(now, Ordering::AcqRel);
        end <= now
    }

    #[cfg(any(test, feature = "testing"))]
    #[cold]
    fn out_of_range(&self, offset: u64, len: usize) -> ! {
        panic!(
            "{len} bytes at {offset} are outside the mapped file or not aligned (capacity {}, file length {}): a bug in \
             NoPokeDB, please report it",
            self.inner.capacity,
            self.inner.known_len.load(Ordering::Acquire)
        )
    }
}

/// A [`Region`] that may be gone: how the simulated disk remembers whom to show a write.
#[cfg(any(test, feature = "testing"))]
pub(super) struct WeakRegion(Weak<Inner>);

#[cfg(any(test, feature = "testing"))]
impl WeakRegion {
    /// The region, if a clone of it lives.
    pub(super) fn upgrade(&self) -> Option<Region> {
        self.0.upgrade().map(|inner| Region { inner })
    }
}

#[cfg(any(test, feature = "testing"))]
impl fmt::Debug for WeakRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakRegion")
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known_len = self.inner.known_len.load(Ordering::Acquire);
        f.debug_struct("Region").field("capacity", &self.inner.capacity).field("known_len", &known_len).finish()
    }
}

/// A mapping cannot be empty; an empty region maps one byte that is never read.
fn map_len(capacity: u64) -> io::Result<usize> {
    usize::try_from(capacity.max(1)).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
}

/// A page that the kernel wipes in a forked child: one load tells whether this is still the process that made it.
#[derive(Debug)]
pub(super) struct ForkPage(MmapMut);

impl ForkPage {
    /// A new page, or `None` where the system has no such thing.
    #[cfg(target_os = "linux")]
    pub(super) fn new() -> Option<ForkPage> {
        let mut page = MmapMut::map_anon(1).ok()?;
        // SAFETY: the range is this mapping's only page. The advice changes nothing in this process; a child finds the page
        // zeroed, which is a valid `u8` and what `is_wiped` asks for.
        unsafe { rustix::mm::madvise(page.as_mut_ptr().cast(), 1, rustix::mm::Advice::LinuxWipeOnFork) }.ok()?;
        page[0] = 1;
        Some(ForkPage(page))
    }

    /// A new page, or `None` where the system has no such thing.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn new() -> Option<ForkPage> {
        None
    }

    /// Whether this is a forked child.
    #[inline]
    pub(super) fn is_wiped(&self) -> bool {
        self.0[0] == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(code: i32) -> !;
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_forked_child_knows_that_it_is_one() {
        let page = ForkPage::new().expect("this kernel can wipe on fork");
        let mut status = -1;
        // SAFETY: the child only reads one byte and leaves through `_exit`, both allowed after a fork of a threaded
        // process; `status` outlives the wait.
        unsafe {
            let child = fork();
            if child == 0 {
                _exit(if page.is_wiped() { 77 } else { 1 });
            }
            assert!(child > 0 && waitpid(child, &raw mut status, 0) == child);
        }
        assert_eq!(status >> 8, 77);
        assert!(!page.is_wiped(), "the parent still is the parent");
    }
}
