//! Rows compared one by one, in full precision: with a query, and with each other.

use super::{Index, Scratch, Way, answer};
use crate::error::Result;
use crate::types::Slot;
use crate::vectors::Visibility;

impl Index {
    /// Compares the `f32` rows of `slots`, as far as `view` sees them.
    pub(crate) fn search_slots(
        &self,
        vector: &[f32],
        k: usize,
        slots: impl Iterator<Item = Slot>,
        view: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        self.space.probe(vector, &mut scratch.probe.exact)?;
        scratch.top.reset(k);
        scratch.way = Way::Gather;
        scratch.gathered.forget();
        for slot in slots.filter(|slot| view.is_live(*slot)) {
            if let Some(distance) = self.space.exact(&scratch.probe.exact, slot.0)? {
                scratch.top.offer(distance, slot.0);
            }
        }
        Ok(answer(&mut scratch.top))
    }

    /// Compares the `f32` row of every slot in `view`.
    pub(crate) fn search_exact(
        &self,
        vector: &[f32],
        k: usize,
        view: &dyn Visibility,
        scratch: &mut Scratch,
    ) -> Result<Vec<(f32, Slot)>> {
        self.search_slots(vector, k, (0..view.len()).map(Slot), view, scratch)
    }

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
