//! Distances among stored rows, in full precision.

use super::{Index, Scratch};
use crate::error::Result;
use crate::types::Slot;

impl Index {
    /// Fills `out` with the exact distances from the row of `slot` to those of `others`; false if the bytes of one are gone.
    pub(crate) fn among(&self, slot: Slot, others: &[Slot], scratch: &mut Scratch, out: &mut Vec<f32>) -> Result<bool> {
        out.clear();
        if !self.space.probe_row(slot.0, &mut scratch.probe.exact)? {
            return Ok(false);
        }
        for other in others {
            let Some(distance) = self.space.exact(&scratch.probe.exact, other.0)? else { return Ok(false) };
            out.push(distance);
        }
        Ok(true)
    }
}
