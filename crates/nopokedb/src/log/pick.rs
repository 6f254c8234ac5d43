//! Which segments to compact, and what a compaction must know before it starts.
//!
//! Invariants:
//! 1. A run that is picked is adjacent, has footers, and gives back a share of its bytes worth the copying.
//! 2. A DELETE is dropped only if no older segment can still hold a PUT that it kills.
//!
//! Threading: the log's owner; a [`Compaction`] may then be carried out by any thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::files::segment_path;
use super::format::{SegmentHeader, SegmentKind};
use super::segment::Segment;
use super::writer::{Log, random16};
use crate::error::{Error, Result};
use crate::types::{Lsn, SegmentNo};

/// A run of segments is worth compacting when this share of its bytes, in percent, is of no use.
const WASTE_PERCENT: u64 = 30;
/// So many adjacent small segments are merged even if they waste nothing.
const MANY_SMALL: usize = 8;

/// A compaction to be done: what it reads, and the number of what it writes.
#[derive(Clone, Debug)]
pub(crate) struct Compaction {
    pub(super) dir: PathBuf,
    pub(super) header: SegmentHeader,
    pub(super) inputs: Vec<Arc<Segment>>,
    pub(super) drop_deletes: bool,
    /// Set when the directory could not be synced: the log then stops.
    pub(super) directory_failed: Arc<AtomicBool>,
}

impl Compaction {
    pub(super) fn path(&self) -> PathBuf {
        segment_path(&self.dir, self.header.no)
    }

    pub(super) fn last_lsn(&self) -> Lsn {
        self.inputs.last().map_or(Lsn(0), |s| s.last_lsn())
    }
}

impl Log {
    /// The adjacent segments most worth compacting now, if any. `dead_rows` counts a segment's rows that would go.
    pub(crate) fn pick_compaction(&self, dead_rows: &dyn Fn(SegmentNo) -> u64) -> Option<Vec<SegmentNo>> {
        let sizes: Vec<Size> = self.sealed.iter().map(|s| Size::of(s, dead_rows(s.no()))).collect();
        let limit = self.options.segment_bytes;
        let mut best: Option<(u64, std::ops::Range<usize>)> = None;
        for start in 0..sizes.len() {
            let mut sum = Size::default();
            for (end, size) in sizes.iter().enumerate().skip(start) {
                if !size.sealed
                    || !(size.wasteful() || size.len < limit / 4)
                    || sum.live + size.live > limit.max(size.live)
                {
                    break;
                }
                sum.len += size.len;
                sum.live += size.live;
                let worth = sum.wasteful() || end - start + 1 >= MANY_SMALL;
                let gain = (sum.len - sum.live.min(sum.len)).max(1);
                if worth && best.as_ref().is_none_or(|(most, _)| gain > *most) {
                    best = Some((gain, start..end + 1));
                }
            }
        }
        best.map(|(_, range)| self.sealed[range].iter().map(|s| s.no()).collect())
    }

    /// Whether the segment that is written to has so much of no use in it, at least `least` bytes, that an idle log should go on to
    /// another one.
    pub(crate) fn active_is_wasteful(&self, least: u64) -> bool {
        let active = &self.active;
        let size = Size::of(active, active.dead_rows());
        active.rows() > 0 && size.wasteful() && size.len - size.live.min(size.len) >= least
    }

    /// Prepares the compaction of these adjacent sealed segments, which must have footers. A DELETE in them is dropped if no
    /// segment before them has dead rows: then nothing is left that it would have to kill (invariant 3).
    pub(crate) fn plan_compaction(
        &mut self,
        old: &[SegmentNo],
        dead_rows: &dyn Fn(SegmentNo) -> u64,
    ) -> Result<Compaction> {
        self.check_alive()?;
        let range = self.adjacent(old)?;
        let inputs = self.sealed[range.clone()].to_vec();
        if inputs.iter().any(|s| s.footer().is_none()) {
            return Err(Error::argument("a segment is compacted only after its footer was written"));
        }
        let drop_deletes = self.sealed[..range.start].iter().all(|s| dead_rows(s.no()) == 0);
        let no = self.allocate_segment()?;
        let header = SegmentHeader {
            kind: SegmentKind::Compact,
            no,
            db_uuid: self.db_uuid,
            first_lsn: inputs[0].first_lsn(),
            salt: random16(&self.options, u64::from(no.0)),
            prev_chain: [0; 16],
            created_ms: (self.options.now_ms)(),
            capacity: 0,
        };
        let directory_failed = Arc::clone(&self.directory_failed);
        Ok(Compaction { dir: self.dir.clone(), header, inputs, drop_deletes, directory_failed })
    }

    /// Up to here rows may have been dropped, DELETEs among them: the end of the last segment that a compaction made, or left out.
    pub(crate) fn compacted_to(&self) -> Lsn {
        let (mut to, mut next) = (Lsn(0), Lsn(1));
        for segment in self.segments() {
            if segment.first_lsn() > next {
                to = Lsn(segment.first_lsn().0 - 1);
            }
            if segment.kind() == SegmentKind::Compact {
                to = to.max(segment.last_lsn());
            }
            next = segment.last_lsn().plus(1);
        }
        to
    }

    /// Where the adjacent segments `old` stand among the sealed ones.
    pub(super) fn adjacent(&self, old: &[SegmentNo]) -> Result<std::ops::Range<usize>> {
        let start = self.sealed.iter().position(|s| Some(&s.no()) == old.first());
        let range = start.map(|s| s..s + old.len()).filter(|r| {
            r.end <= self.sealed.len() && self.sealed[r.clone()].iter().map(|s| s.no()).eq(old.iter().copied())
        });
        range.ok_or_else(|| Error::argument("these segments are not adjacent sealed ones"))
    }
}

/// What a segment, or a run of them, would weigh after a compaction.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    sealed: bool,
    len: u64,
    live: u64,
}

impl Size {
    fn of(segment: &Segment, dead: u64) -> Size {
        let rows = segment.rows().max(1);
        let live = u128::from(segment.payload_bytes()) * u128::from(rows.saturating_sub(dead)) / u128::from(rows);
        let live = u64::try_from(live).unwrap_or(u64::MAX);
        // What a compact segment has besides its rows, a compaction cannot save.
        let len = if segment.kind() == SegmentKind::Compact { segment.payload_bytes() } else { segment.len() };
        Size { sealed: segment.footer().is_some(), len, live }
    }

    fn wasteful(&self) -> bool {
        self.live.saturating_mul(100) < self.len.saturating_mul(100 - WASTE_PERCENT)
    }
}
