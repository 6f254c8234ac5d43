//! Where a slot's vector is, and what is known about it.

pub(crate) mod centre;
pub(crate) mod chunked;
pub(crate) mod code_query;
pub(crate) mod codes;
pub(crate) mod expiry;
pub(crate) mod ids;
pub(crate) mod keys;
pub(crate) mod rotate;
pub(crate) mod rows;
pub(crate) mod view;

use crate::error::Result;
use crate::types::Slot;

/// What the index may ask about rows.
pub(crate) trait VectorSource: Send + Sync {
    /// Calls `f` with the slot's vector. A dead row whose bytes compaction has dropped has none: `f` is not called.
    fn with_vector(&self, slot: Slot, f: &mut dyn FnMut(&[f32])) -> Result<()>;
    /// Asks the CPU for where the vector of `slot` is: to be called before [`VectorSource::prefetch`]. A hint.
    fn prefetch_place(&self, _slot: u32) {}
    /// Asks the CPU for the vectors of `slots`, which will be read next. A hint.
    fn prefetch(&self, _slots: &[u32]) {}
    /// Whether slots lost their bytes while the graph may still lead to them.
    fn lost_any(&self) -> bool {
        false
    }
    /// The vectors' dimension.
    fn dim(&self) -> usize;
}

/// What one search may see: the slots below `len` that are live in its snapshot.
pub(crate) trait Visibility: Sync {
    /// Slots from here on do not exist yet.
    fn len(&self) -> u32;
    /// Whether a slot below `len` is to be returned.
    fn is_live(&self, slot: Slot) -> bool;
    /// Whether every slot below `len` is, as far as that is known without looking at each.
    fn all_live(&self) -> bool {
        false
    }
}
