//! Caches written ahead of need, so that the next opening is fast: SQLite's checkpoint and the index images.

use crate::engine::Engine;
use crate::error::Result;

impl Engine {
    /// Writes the caches.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.applier.checkpoint()
    }

    /// Writes the index images if much was absorbed since the last ones.
    pub(crate) fn checkpoint_if_due(&self) -> Result<()> {
        Ok(())
    }
}
