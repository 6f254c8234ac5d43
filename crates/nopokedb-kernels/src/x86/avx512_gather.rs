//! Nibble codes of rows scattered over an arena, on AVX-512 with VNNI: the inner loop of every walk. Callers guarantee ids
//! and lengths (`gather.rs`).
//!
//! For the usual lengths the query stays in registers, and memory for rows ahead is asked for one row at a time between
//! those that are compared.

use std::arch::x86_64::*;

use super::avx512_codes::{join4, step};
use crate::arena::AppendArena;
use crate::codes::NibbleQuery;

/// Cache lines of rows that are on their way while others are compared. Measured where codes do not fit the caches: with a third of
/// that a walk takes some 5 % longer.
const LINES_AHEAD: usize = 72;
/// Places for rows that were asked for: those ahead, and the four that are compared.
const RING: usize = 32;

/// # Safety
/// The CPU has AVX-512 F, BW, VL, DQ and VNNI, LZCNT, BMI1 and BMI2; the query is as long as the arena's rows; every id is
/// published; there are as many sums as ids.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,lzcnt,bmi1,bmi2")]
pub(super) unsafe fn nibble_gather(q: NibbleQuery<'_>, arena: &AppendArena<u8>, ids: &[u32], out: &mut [i32]) {
    // SAFETY: the caller's promises, and the length that is matched on.
    unsafe {
        match q.high.len() {
            64 => fixed::<1>(q, arena, ids, out),
            128 => fixed::<2>(q, arena, ids, out),
            192 => fixed::<3>(q, arena, ids, out),
            256 => fixed::<4>(q, arena, ids, out),
            384 => fixed::<6>(q, arena, ids, out),
            512 => fixed::<8>(q, arena, ids, out),
            _ => super::AVX512.gather_by_fours(q, arena, ids, out),
        }
    }
}

/// The gathering loop for codes of `64 * N` bytes.
///
/// # Safety
/// As [`nibble_gather`]; codes are `64 * N` bytes long.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,lzcnt,bmi1,bmi2")]
unsafe fn fixed<const N: usize>(q: NibbleQuery<'_>, arena: &AppendArena<u8>, ids: &[u32], out: &mut [i32]) {
    debug_assert!(q.high.len() == 64 * N && q.low.len() == 64 * N && ids.len() == out.len());
    let (mut high, mut low) = ([_mm512_setzero_si512(); N], [_mm512_setzero_si512(); N]);
    for i in 0..N {
        // SAFETY: both planes are `64 * N` bytes long.
        unsafe {
            high[i] = _mm512_loadu_si512(q.high.as_ptr().add(64 * i).cast());
            low[i] = _mm512_loadu_si512(q.low.as_ptr().add(64 * i).cast());
        }
    }
    // SAFETY: the caller vouches for every id.
    let row = |id: u32| unsafe { arena.row_unchecked(id as usize) }.as_ptr();
    let ask = |row: *const u8| (0..N).for_each(|i| _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(64 * i).cast()));
    // Where the rows are that were asked for: a ring.
    let mut asked = [std::ptr::null(); RING];
    let ahead = (LINES_AHEAD / N).clamp(4, RING - 4);
    for (place, &id) in asked.iter_mut().zip(ids.iter().take(ahead)) {
        *place = row(id);
        ask(*place);
    }
    let mut done = 0;
    while done < ids.len() {
        let four = (ids.len() - done).min(4);
        for (i, &id) in ids.iter().enumerate().skip(done + ahead).take(4) {
            asked[i % RING] = row(id);
            ask(asked[i % RING]);
        }
        // The last few are compared together with copies of the very last.
        let rows = [0, 1, 2, 3].map(|i: usize| asked[(done + i.min(four - 1)) % RING]);
        let mut acc = [[_mm512_setzero_si512(); 2]; 4];
        for i in 0..N {
            for r in 0..4 {
                // SAFETY: a row is `64 * N` bytes long.
                step(&mut acc[r], unsafe { _mm512_loadu_si512(rows[r].add(64 * i).cast()) }, high[i], low[i]);
            }
        }
        let mask = u8::MAX >> (8 - four);
        // SAFETY: only the first `four` lanes are written, and `done + four <= out.len()`.
        unsafe { _mm_mask_storeu_epi32(out.as_mut_ptr().add(done), mask, join4(acc)) };
        done += four;
    }
}
