//! Which frames a segment holds: appended by the log's writer while any thread reads.
//!
//! Invariants:
//! 1. Entries below the published length are complete and never change; the length only grows.
//! 2. Entries ascend in offset and do not overlap.
//!
//! Threading: one writer calls [`Directory::push`]; readers take no lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::frame::FrameMeta;

/// Entries in the first bucket; each further bucket doubles.
const FIRST: usize = 16;
/// Enough for 2^32 frames.
const BUCKETS: usize = 28;

type Bucket = OnceLock<Box<[OnceLock<FrameMeta>]>>;

/// An append-only table of frames that readers index without locks.
#[derive(Debug)]
pub(crate) struct Directory {
    buckets: [Bucket; BUCKETS],
    published: AtomicUsize,
}

/// Which bucket holds entry `index`, and where in it.
fn locate(index: usize) -> (usize, usize) {
    let shifted = index / FIRST + 1;
    let bucket = shifted.ilog2() as usize;
    (bucket, index - FIRST * ((1 << bucket) - 1))
}

impl Directory {
    /// A table of `frames`.
    pub(crate) fn new(frames: &[FrameMeta]) -> Self {
        let directory = Directory { buckets: [const { OnceLock::new() }; BUCKETS], published: AtomicUsize::new(0) };
        frames.iter().for_each(|f| directory.push(*f));
        directory
    }

    /// Adds a frame. Only the log's writer calls this.
    pub(crate) fn push(&self, frame: FrameMeta) {
        let index = self.published.load(Ordering::Relaxed);
        if let Some(last) = index.checked_sub(1).and_then(|i| self.get(i)) {
            assert!(last.payload_end() <= frame.offset, "frames are appended in the order of their offsets");
        }
        let (bucket, at) = locate(index);
        let cells = self.buckets[bucket].get_or_init(|| (0..FIRST << bucket).map(|_| OnceLock::new()).collect());
        let fresh = cells[at].set(frame).is_ok();
        assert!(fresh, "a frame directory has one writer");
        self.published.store(index + 1, Ordering::Release);
    }

    /// How many frames are published.
    pub(crate) fn len(&self) -> usize {
        self.published.load(Ordering::Acquire)
    }

    /// Frame `index`, if it is published.
    pub(crate) fn get(&self, index: usize) -> Option<&FrameMeta> {
        if index >= self.len() {
            return None;
        }
        let (bucket, at) = locate(index);
        self.buckets[bucket].get()?[at].get()
    }

    /// The last frame that starts at or before `offset`.
    pub(crate) fn at_or_before(&self, offset: u64) -> Option<(usize, &FrameMeta)> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle)?.offset <= offset { low = middle + 1 } else { high = middle }
        }
        let index = low.checked_sub(1)?;
        Some((index, self.get(index)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::FrameKind;
    use super::*;
    use crate::types::{CollectionId, Lsn};

    fn frame(offset: u64) -> FrameMeta {
        let (lsn_first, lsn_last, collection, kind) = (Lsn(1), Lsn(0), CollectionId(0), FrameKind::Rows);
        FrameMeta {
            offset,
            lsn_first,
            lsn_last,
            payload_len: 0,
            rows: 0,
            vectors: 0,
            arena_len: 0,
            collection,
            dim: 1,
            kind,
            flags: 0,
        }
    }

    #[test]
    fn a_frame_is_found_by_any_offset_inside_it() {
        let directory = Directory::new(&[]);
        assert!(directory.at_or_before(10).is_none());
        for i in 0..1000 {
            directory.push(frame(4096 + i * 4096));
        }
        assert!(directory.at_or_before(4095).is_none());
        for i in 0..1000u64 {
            for inside in [0, 1, 4095] {
                let (index, found) = directory.at_or_before(4096 + i * 4096 + inside).unwrap();
                assert_eq!((index as u64, found.offset), (i, 4096 + i * 4096));
            }
        }
    }

    #[test]
    fn readers_see_only_complete_frames_while_the_writer_appends() {
        let directory = Directory::new(&[]);
        std::thread::scope(|s| {
            s.spawn(|| (0..20_000).for_each(|i| directory.push(frame(i * 128))));
            s.spawn(|| {
                loop {
                    let len = directory.len();
                    assert!((0..len).step_by(97).all(|i| directory.get(i).unwrap().offset == i as u64 * 128));
                    if len == 20_000 {
                        break;
                    }
                }
            });
        });
    }
}
