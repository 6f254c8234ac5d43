//! Comparing a query with rows scattered over an arena: memory for the rows ahead is asked for while the present ones are
//! compared, so that the wait for one hides the work on another.
#![allow(unsafe_code)]

use crate::arena::AppendArena;
use crate::codes::NibbleQuery;
use crate::table::Kernels;

/// Rows whose memory is on its way while others are compared.
const AHEAD: usize = 8;

impl Kernels {
    /// [`Kernels::nibble_dot`] of one query with the rows `ids` of `arena`, one sum each. Panics when an id is not
    /// published, when the codes differ in length from the query, or when there are not as many sums as ids.
    pub fn nibble_gather(&self, q: NibbleQuery<'_>, arena: &AppendArena<u8>, ids: &[u32], out: &mut [i32]) {
        q.check();
        assert_eq!(arena.stride(), q.high.len(), "codes of another length");
        assert_eq!(ids.len(), out.len(), "as many ids as sums");
        let largest = ids.iter().fold(0, |m: u32, &id| m.max(id));
        assert!(ids.is_empty() || (largest as usize) < arena.len(), "row {largest} is not published");
        match self.nibble_gather {
            // SAFETY: `table.rs` invariant 1: the CPU has the features; the query is as long as the rows, a multiple of 32, and
            // every id is at most `largest`, which is below a published length.
            Some(gather) => unsafe { gather(q, arena, ids, out) },
            // SAFETY: as above.
            None => unsafe { self.gather_by_fours(q, arena, ids, out) },
        }
    }

    /// Four rows at a time: what does for any level and any length.
    ///
    /// # Safety
    /// `q` is as long as the arena's rows, and every id is below a published length.
    pub(crate) unsafe fn gather_by_fours(
        &self,
        q: NibbleQuery<'_>,
        arena: &AppendArena<u8>,
        ids: &[u32],
        out: &mut [i32],
    ) {
        // SAFETY: the caller vouches for every id.
        let row = |id: u32| unsafe { arena.row_unchecked(id as usize) };
        ids.iter().take(AHEAD).for_each(|&id| crate::prefetch(row(id)));
        let (fours, rest) = ids.as_chunks::<4>();
        let (sums, rest_out) = out.as_chunks_mut::<4>();
        for (i, (four, sums)) in fours.iter().zip(sums).enumerate() {
            if let Some(ahead) = fours.get(i + AHEAD / 4) {
                ahead.iter().for_each(|&id| crate::prefetch(row(id)));
            }
            // SAFETY: `table.rs` invariant 1; the caller vouches for the lengths.
            *sums = unsafe { (self.nibble_dot4)(q, four.map(row)) };
        }
        for (&id, sum) in rest.iter().zip(rest_out) {
            // SAFETY: as above.
            *sum = unsafe { (self.nibble_dot)(q, row(id)) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // bytes of a pattern
mod tests {
    use super::*;

    #[test]
    fn gathered_sums_are_those_of_the_rows_one_by_one() {
        for bytes in [32, 64, 96, 128, 192, 256, 384, 512] {
            let arena = AppendArena::<u8>::new(bytes);
            arena.append_with(500, |i, row| {
                row.iter_mut().enumerate().for_each(|(j, b)| *b = ((i * 31 + j * 7) % 256) as u8);
            });
            let high: Vec<i8> = (0..bytes).map(|j| ((j * 5) % 256) as u8 as i8).collect();
            let low: Vec<i8> = (0..bytes).map(|j| ((j * 11 + 3) % 256) as u8 as i8).collect();
            let q = NibbleQuery { high: &high, low: &low };
            for n in 0..30u32 {
                let ids: Vec<u32> = (0..n).map(|i| i * 97 % 500).collect();
                for kernels in Kernels::available() {
                    let mut sums = vec![0; ids.len()];
                    kernels.nibble_gather(q, &arena, &ids, &mut sums);
                    let expected: Vec<i32> =
                        ids.iter().map(|&i| kernels.nibble_dot(q, arena.row(i as usize))).collect();
                    assert_eq!(sums, expected);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "not published")]
    fn a_row_that_is_not_published_is_not_gathered() {
        let arena = AppendArena::<u8>::new(32);
        arena.append(&[1; 64]);
        let q = NibbleQuery { high: &[1; 32], low: &[1; 32] };
        crate::kernels().nibble_gather(q, &arena, &[0, 2], &mut [0; 2]);
    }
}
