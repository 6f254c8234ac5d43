//! Rows put together by the value of a metadata field: the first groups, and the first rows of each.

use std::collections::BTreeMap;

use super::stages::Chosen;
use crate::filter::Scalar;
use crate::types::Slot;

/// Groups in the making. Rows come nearest first, so groups are in the order of their nearest row.
#[derive(Debug)]
pub(super) struct Groups {
    wanted: usize,
    size: usize,
    places: BTreeMap<Scalar, usize>,
    groups: Vec<Vec<Chosen>>,
    full: usize,
}

impl Groups {
    /// None yet, of `wanted` with up to `size` rows each.
    pub(super) fn new(wanted: usize, size: usize) -> Groups {
        Groups { wanted, size, places: BTreeMap::new(), groups: Vec::new(), full: 0 }
    }

    /// Takes the next row, whose field has `value`. True once no further row can matter.
    pub(super) fn take(&mut self, (distance, slot): (f32, Slot), value: Scalar) -> bool {
        let next = self.groups.len();
        let place = match self.places.get(&value) {
            Some(&place) => place,
            None if next >= self.wanted => return false,
            None => {
                self.places.insert(value.clone(), next);
                self.groups.push(Vec::new());
                next
            }
        };
        let group = &mut self.groups[place];
        if group.len() < self.size {
            group.push(Chosen { distance, slot, group: Some(value) });
            self.full += usize::from(group.len() == self.size);
        }
        self.are_full()
    }

    /// Whether there are as many groups as wanted, with as many rows as wanted.
    pub(super) fn are_full(&self) -> bool {
        self.full >= self.wanted
    }

    /// The rows of all groups but the first `skipped`, group by group.
    pub(super) fn into_rows(self, skipped: usize) -> Vec<Chosen> {
        self.groups.into_iter().skip(skipped).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_ordered_by_their_nearest_row_and_hold_no_more_than_asked() {
        let mut groups = Groups::new(2, 2);
        let values = ["a", "b", "a", "c", "a", "b"];
        let ended: Vec<bool> = (0u8..)
            .zip(values)
            .map(|(i, value)| groups.take((f32::from(i), Slot(u32::from(i))), Scalar::String(value.into())))
            .collect();
        assert_eq!(ended, [false, false, false, false, false, true]);
        let rows: Vec<u32> = groups.into_rows(0).iter().map(|row| row.slot.0).collect();
        assert_eq!(rows, [0, 2, 1, 5], "c came third, and a third a is one too many");
    }

    #[test]
    fn values_that_filters_take_for_equal_are_one_group() {
        let mut groups = Groups::new(5, 1);
        for value in [Scalar::Integer(1), Scalar::Float(1.0), Scalar::Bool(true), Scalar::String("1".into())] {
            groups.take((0.0, Slot(0)), value);
        }
        assert_eq!(groups.into_rows(0).len(), 3);
    }
}
