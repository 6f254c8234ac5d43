//! Going on to the next segment. What a crash between any two steps leaves: `docs/DURABILITY.md`, section 5.
//!
//! Invariants:
//! 1. The successor exists, with its header and its name synced, before the SEAL that names it is written.
//! 2. The SEAL is synced before the successor gets a frame.
//! 3. A segment's number is never used twice, not even after a failure.
//!
//! Threading: the log's owner.

use std::sync::Arc;

use super::files::{MAX_SEGMENT_NO, create_segment, log_dir, segment_path};
use super::format::{FrameKind, PAGE, SEGMENT_HEADER_LEN, SegmentHeader, SegmentKind, align_up};
use super::group::Group;
use super::segment::Segment;
use super::writer::{Behind, Log, random16};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::types::SegmentNo;

impl Log {
    /// Seals the active segment and starts another with room for a group of `need` bytes. The successor is made and synced
    /// first: if the disk is full, nothing has changed.
    pub(super) fn roll(&mut self, need: u64) -> Result<()> {
        self.check_in_place()?;
        let no = self.allocate_segment()?;
        let seal = Group::without_rows(self.start(), FrameKind::Seal, no.0);
        let capacity = align_up(self.options.segment_bytes.max(SEGMENT_HEADER_LEN + need + PAGE), PAGE);
        let header = SegmentHeader {
            kind: SegmentKind::Raw,
            no,
            db_uuid: self.db_uuid,
            first_lsn: self.tail.next_lsn,
            salt: random16(&self.options, u64::from(no.0)),
            prev_chain: seal.chain,
            created_ms: (self.options.now_ms)(),
            capacity,
        };
        let path = segment_path(&self.dir, no);
        let file = create_segment(&*self.vfs, &path, &header)?;
        if let Err(e) = self.vfs.sync_dir(&log_dir(&self.dir)) {
            return Err(self.poison_by("sync the directory of", &e));
        }
        let ready = file
            .map(capacity)
            .context("map", &path)
            .and_then(|region| self.write(&seal, Behind::Nothing).map(|()| region));
        let region = match ready {
            Ok(region) => region,
            Err(e) => {
                // If the SEAL may be there in spite of the error, so must be the segment that it names. Otherwise it was
                // never used, and if it cannot be removed, the next opening does so.
                if self.poison.is_none() {
                    let _ = self.vfs.remove_file(&path);
                }
                return Err(e);
            }
        };
        self.accept(&seal, FrameKind::Seal);
        let next = Arc::new(Segment::new(path, file, region, header, &[], SEGMENT_HEADER_LEN));
        self.sealed.push(std::mem::replace(&mut self.active, next));
        self.capacity = capacity;
        (self.tail.end, self.tail.zeroed) = (SEGMENT_HEADER_LEN, SEGMENT_HEADER_LEN);
        Ok(())
    }

    /// Seals the active segment now if it has rows, so that a compaction can reach them.
    pub(crate) fn seal_active(&mut self) -> Result<()> {
        self.check_alive()?;
        if self.active.rows() > 0 { self.roll(0) } else { Ok(()) }
    }

    /// A segment number that was never used.
    pub(crate) fn allocate_segment(&mut self) -> Result<SegmentNo> {
        if self.next_segment > MAX_SEGMENT_NO {
            let words =
                format!("the log has used all its {MAX_SEGMENT_NO} segment numbers; copy the rows to a new database");
            return Err(Error::new(ErrorKind::Full, words));
        }
        self.next_segment += 1;
        Ok(SegmentNo(self.next_segment - 1))
    }
}
