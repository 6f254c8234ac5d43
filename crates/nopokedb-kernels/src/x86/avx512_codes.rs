//! Codes on AVX-512 with VNNI and VBMI. Callers guarantee the lengths (`codes.rs`).

use std::arch::x86_64::*;

use crate::codes::{BLOCK_16, BLOCK_64, NibbleQuery, Scoring};
use crate::scalar;

/// How far ahead codes are asked for: they come from beyond the second-level cache as often as not.
const AHEAD: usize = 6144;

/// 64 bytes from `x[i..]`, zeros beyond its end.
///
/// # Safety
/// `i < x.len()`, and the rest is 32 bytes or at least 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load<T: Copy>(x: &[T], i: usize) -> __m512i {
    const { assert!(size_of::<T>() == 1) };
    debug_assert!(i < x.len());
    let left = x.len() - i;
    let mask = if left >= 64 { u64::MAX } else { u64::MAX >> (64 - left) };
    // SAFETY: only bytes below `left` are read.
    unsafe { _mm512_maskz_loadu_epi8(mask, x.as_ptr().add(i).cast()) }
}

/// Adds to the pair of sums what 64 bytes of code contribute.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn step(acc: &mut [__m512i; 2], code: __m512i, high: __m512i, low: __m512i) {
    acc[0] = _mm512_dpbusd_epi32(acc[0], code, high);
    acc[1] = _mm512_dpbusd_epi32(acc[1], _mm512_and_si512(code, _mm512_set1_epi8(15)), low);
}

/// `whole + 16 * low` in each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(acc: [__m512i; 2]) -> __m512i {
    _mm512_add_epi32(acc[0], _mm512_slli_epi32::<4>(acc[1]))
}

/// The sums over all lanes of four pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn join4(acc: [[__m512i; 2]; 4]) -> __m128i {
    let [a, b, c, d] = [join(acc[0]), join(acc[1]), join(acc[2]), join(acc[3])];
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let quads = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let halves = _mm256_add_epi32(_mm512_castsi512_si256(quads), _mm512_extracti64x4_epi64::<1>(quads));
    _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn nibble_dot(q: NibbleQuery<'_>, row: &[u8]) -> i32 {
    let mut acc = [_mm512_setzero_si512(); 2];
    let mut i = 0;
    while i < row.len() {
        // SAFETY: all three are equally long, a multiple of 32, and `i` is a multiple of 64 below that.
        unsafe { step(&mut acc, load(row, i), load(q.high, i), load(q.low, i)) };
        i += 64;
    }
    _mm512_reduce_add_epi32(join(acc))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn nibble_dot4(q: NibbleQuery<'_>, rows: [&[u8]; 4]) -> [i32; 4] {
    let mut acc = [[_mm512_setzero_si512(); 2]; 4];
    let bytes = q.high.len();
    let mut i = 0;
    while i < bytes {
        // SAFETY: all are `bytes` long, a multiple of 32, and `i` is a multiple of 64 below that.
        let (high, low) = unsafe { (load(q.high, i), load(q.low, i)) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above.
            step(acc, unsafe { load(row, i) }, high, low);
        }
        i += 64;
    }
    let sums = join4(acc);
    let mut out = [0; 4];
    // SAFETY: `out` is 16 bytes.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
    out
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn nibble_rows(q: NibbleQuery<'_>, rows: &[u8], out: &mut [i32]) {
    let bytes = q.high.len();
    let whole = out.len() - out.len() % 4;
    for (out, four) in out.chunks_exact_mut(4).zip(rows.chunks_exact(4 * bytes)) {
        let row = |i: usize| &four[i * bytes..][..bytes];
        out.copy_from_slice(&nibble_dot4(q, [row(0), row(1), row(2), row(3)]));
    }
    for (out, row) in out[whole..].iter_mut().zip(rows[whole * bytes..].chunks_exact(bytes)) {
        *out = nibble_dot(q, row);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn nibble_blocks(q: NibbleQuery<'_>, blocks: &[u8], out: &mut [i32]) {
    let block_bytes = BLOCK_16 * q.high.len();
    let four = 4 * BLOCK_16;
    let whole = out.len() - out.len() % four;
    for (out, blocks) in out[..whole].chunks_exact_mut(four).zip(blocks.chunks_exact(4 * block_bytes)) {
        // SAFETY: four blocks.
        store(&unsafe { some_blocks::<4>(q, blocks) }, out);
    }
    let rest = &blocks[whole / BLOCK_16 * block_bytes..];
    for (out, block) in out[whole..].chunks_exact_mut(BLOCK_16).zip(rest.chunks_exact(block_bytes)) {
        // SAFETY: one block.
        store(&unsafe { some_blocks::<1>(q, block) }, out);
    }
}

/// Writes sums in order.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(sums: &[__m512i], out: &mut [i32]) {
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(16)) {
        // SAFETY: sixteen sums.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), *sums) };
    }
}

/// The sums of `N` blocks side by side: a query's weights are read once for all of them, and the sums do not wait for each
/// other.
///
/// # Safety
/// `blocks` is `N` blocks of codes as long as the query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn some_blocks<const N: usize>(q: NibbleQuery<'_>, blocks: &[u8]) -> [__m512i; N] {
    let bytes = q.high.len();
    debug_assert!(blocks.len() == N * BLOCK_16 * bytes && q.low.len() == bytes);
    let mut acc = [[_mm512_setzero_si512(); 2]; N];
    for j in 0..bytes / 4 {
        // SAFETY: `4 * j + 4 <= bytes`; both planes are `bytes` long.
        let (high, low) = unsafe {
            (
                q.high.as_ptr().add(4 * j).cast::<i32>().read_unaligned(),
                q.low.as_ptr().add(4 * j).cast::<i32>().read_unaligned(),
            )
        };
        let (high, low) = (_mm512_set1_epi32(high), _mm512_set1_epi32(low));
        for (n, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `n * 16 * bytes + 64 * j + 64 <= (n + 1) * 16 * bytes`, as `64 * (j + 1) <= 16 * bytes`.
            let code = unsafe { blocks.as_ptr().add(n * BLOCK_16 * bytes + 64 * j) };
            _mm_prefetch::<_MM_HINT_T0>(code.wrapping_add(AHEAD).cast());
            // SAFETY: as above.
            step(acc, unsafe { _mm512_loadu_si512(code.cast()) }, high, low);
        }
    }
    acc.map(|acc| join(acc))
}

/// Groups of four entries that are added in 16 bits before they are widened: 512 * 4 * 31 < 65,536.
const PANEL: usize = 512;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn table_blocks(tables: &[u8], blocks: &[u8], out: &mut [i32]) {
    // SAFETY: whole blocks of as many groups as the tables have.
    unsafe { table_sums(tables, blocks, |i, sums| store(&sums, &mut out[i..])) }
}

/// Shows to `each` the sums of all blocks, 64 rows at a time, sixteen in a register, and the first row's index.
///
/// # Safety
/// `tables` is groups of 256 bytes, `blocks` whole blocks of as many groups of 192.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn table_sums(tables: &[u8], blocks: &[u8], mut each: impl FnMut(usize, [__m512i; 4])) {
    let block_bytes = tables.len() / 4 * 3;
    let pairs = blocks.len() / (2 * block_bytes) * (2 * block_bytes);
    // SAFETY: whole pairs of blocks, and the one that may be left.
    unsafe {
        some_table_sums::<2>(tables, &blocks[..pairs], &mut each);
        let skipped = pairs / block_bytes * BLOCK_64;
        some_table_sums::<1>(tables, &blocks[pairs..], |i, sums| each(skipped + i, sums));
    }
}

/// [`table_sums`] of `N` blocks side by side, which share the reading of a table.
///
/// # Safety
/// `tables` is groups of 256 bytes, `blocks` a multiple of `N` blocks of as many groups of 192.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn some_table_sums<const N: usize>(tables: &[u8], blocks: &[u8], mut each: impl FnMut(usize, [__m512i; 4])) {
    let (groups, block_bytes) = (tables.len() / 256, tables.len() / 4 * 3);
    debug_assert!(tables.len() == 256 * groups && blocks.len().is_multiple_of(N * block_bytes));
    for (b, blocks) in blocks.chunks_exact(N * block_bytes).enumerate() {
        let mut sums = [[_mm512_setzero_si512(); 4]; N];
        let mut from = 0;
        while from < groups {
            let upto = groups.min(from + PANEL);
            // Of 16-bit lanes, which hold two rows each: the lanes themselves, and the upper rows.
            let (mut both, mut odd) = ([_mm512_setzero_si512(); N], [_mm512_setzero_si512(); N]);
            let mut g = from;
            while g < upto {
                let mut bytes = [_mm512_setzero_si512(); N];
                // SAFETY: group `g` is inside the tables and inside each block.
                unsafe { add_table_group(tables, blocks, g, &mut bytes) };
                if g + 1 < upto {
                    // SAFETY: as above.
                    unsafe { add_table_group(tables, blocks, g + 1, &mut bytes) };
                }
                for n in 0..N {
                    both[n] = _mm512_add_epi16(both[n], bytes[n]);
                    odd[n] = _mm512_add_epi16(odd[n], _mm512_srli_epi16::<8>(bytes[n]));
                }
                g += 2;
            }
            for n in 0..N {
                let even = _mm512_sub_epi16(both[n], _mm512_slli_epi16::<8>(odd[n]));
                let more = in_order(even, odd[n]);
                for (sum, more) in sums[n].iter_mut().zip(more) {
                    *sum = _mm512_add_epi32(*sum, more);
                }
            }
            from = upto;
        }
        for (n, sums) in sums.into_iter().enumerate() {
            each(BLOCK_64 * (N * b + n), sums);
        }
    }
}

/// Adds the entries of `N` blocks' rows for the `g`-th group of 24 signs, four look-ups each, in bytes.
///
/// # Safety
/// `tables` is more than `g` groups of 256 bytes, `blocks` `N` times as many of 192.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn add_table_group<const N: usize>(tables: &[u8], blocks: &[u8], g: usize, bytes: &mut [__m512i; N]) {
    let groups = tables.len() / 256;
    debug_assert!(g < groups && blocks.len() == N * 192 * groups);
    // SAFETY: within what the caller vouches for.
    let table = [0, 1, 2, 3].map(|i| unsafe { _mm512_loadu_si512(tables.as_ptr().add(256 * g + 64 * i).cast()) });
    for (n, bytes) in bytes.iter_mut().enumerate() {
        // SAFETY: as above.
        let rows = unsafe { blocks.as_ptr().add(192 * (n * groups + g)) };
        for line in 0..3 {
            _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(AHEAD + 64 * line).cast());
        }
        // SAFETY: as above.
        let rows = [0, 1, 2].map(|i| unsafe { _mm512_loadu_si512(rows.add(64 * i).cast()) });
        // The fourth index is made of the others' top bits. A look-up ignores an index's own top bits, and the bits that
        // the 16-bit shifts drag in from the neighbour are masked here. 0xCA takes the second where the first is set.
        let (a, b) = (_mm512_srli_epi16::<6>(rows[0]), _mm512_srli_epi16::<4>(rows[1]));
        let ab = _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi8(0b11), a, b);
        let c = _mm512_srli_epi16::<2>(rows[2]);
        let last = _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi8(0b1111), ab, c);
        let first =
            _mm512_add_epi8(_mm512_permutexvar_epi8(rows[0], table[0]), _mm512_permutexvar_epi8(rows[1], table[1]));
        let second =
            _mm512_add_epi8(_mm512_permutexvar_epi8(rows[2], table[2]), _mm512_permutexvar_epi8(last, table[3]));
        *bytes = _mm512_add_epi8(*bytes, _mm512_add_epi8(first, second));
    }
}

/// Widens 64 sums of 16 bits, lane `l` of `even` being row `2 * l` and of `odd` row `2 * l + 1`, sixteen rows a register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn in_order(even: __m512i, odd: __m512i) -> [__m512i; 4] {
    // One 32-bit lane holds rows 4 l and 4 l + 2.
    let word = _mm512_set1_epi32(0xFFFF);
    let quarters = [
        _mm512_and_si512(even, word),
        _mm512_and_si512(odd, word),
        _mm512_srli_epi32::<16>(even),
        _mm512_srli_epi32::<16>(odd),
    ];
    // Back into row order: rows 0..3 are lane 0 of the quarters, and so on.
    let (a, b) = (_mm512_unpacklo_epi32(quarters[0], quarters[1]), _mm512_unpackhi_epi32(quarters[0], quarters[1]));
    let (c, d) = (_mm512_unpacklo_epi32(quarters[2], quarters[3]), _mm512_unpackhi_epi32(quarters[2], quarters[3]));
    let rows = [
        _mm512_unpacklo_epi64(a, c),
        _mm512_unpackhi_epi64(a, c),
        _mm512_unpacklo_epi64(b, d),
        _mm512_unpackhi_epi64(b, d),
    ];
    // `rows[i]`'s 128-bit lane `l` is rows `16 l + 4 i ..+ 4`.
    let low = [_mm512_shuffle_i32x4::<0x44>(rows[0], rows[1]), _mm512_shuffle_i32x4::<0x44>(rows[2], rows[3])];
    let high = [_mm512_shuffle_i32x4::<0xEE>(rows[0], rows[1]), _mm512_shuffle_i32x4::<0xEE>(rows[2], rows[3])];
    [
        _mm512_shuffle_i32x4::<0x88>(low[0], low[1]),
        _mm512_shuffle_i32x4::<0xDD>(low[0], low[1]),
        _mm512_shuffle_i32x4::<0x88>(high[0], high[1]),
        _mm512_shuffle_i32x4::<0xDD>(high[0], high[1]),
    ]
}

/// The estimates of rows `i ..+ 16`, which it also stores.
///
/// # Safety
/// `i + 16` is within the three arrays.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn estimate(i: usize, sums: __m512i, rows: &Scoring<'_>, estimates: &mut [f32]) -> __m512 {
    let Scoring { norms, factors, affine: a, .. } = rows;
    debug_assert!(i + 16 <= norms.len().min(factors.len()).min(estimates.len()));
    // SAFETY: within what the caller vouches for.
    let (norm, factor) = unsafe { (_mm512_loadu_ps(norms.as_ptr().add(i)), _mm512_loadu_ps(factors.as_ptr().add(i))) };
    let product = _mm512_fmadd_ps(_mm512_set1_ps(a.scale), _mm512_cvtepi32_ps(sums), _mm512_set1_ps(a.offset));
    let constant = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(a.square), norm), norm, _mm512_set1_ps(a.base));
    let estimate = _mm512_fmadd_ps(product, factor, constant);
    // SAFETY: as above.
    unsafe { _mm512_storeu_ps(estimates.as_mut_ptr().add(i), estimate) };
    estimate
}

/// Stores the estimates of rows `i ..+ 64` and adds those wanted to the `n` hits; returns how many there are then.
///
/// # Safety
/// `i + 64` is within the three arrays; `hits` has room for as many more.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn select_64(
    i: usize,
    sums: [__m512i; 4],
    rows: &Scoring<'_>,
    estimates: &mut [f32],
    hits: &mut [u32],
    mut n: usize,
) -> usize {
    let bound = _mm512_set1_ps(rows.limit);
    // Hits are rare: sixty-four rows are asked about at once.
    let mut masks = 0u64;
    for (part, sums) in sums.into_iter().enumerate() {
        // SAFETY: within what the caller vouches for.
        let estimate = unsafe { estimate(i + 16 * part, sums, rows, estimates) };
        masks |= u64::from(_mm512_cmp_ps_mask::<_CMP_NGT_UQ>(estimate, bound)) << (16 * part);
    }
    while masks != 0 {
        hits[n] = u32::try_from(i).unwrap_or(u32::MAX) + masks.trailing_zeros();
        masks &= masks - 1;
        n += 1;
    }
    n
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn nibble_scan(
    q: NibbleQuery<'_>,
    blocks: &[u8],
    rows: &Scoring<'_>,
    estimates: &mut [f32],
    hits: &mut [u32],
) -> usize {
    let mut n = 0;
    for (i, blocks) in blocks.chunks_exact(BLOCK_64 * q.high.len()).enumerate() {
        // SAFETY: four blocks; as many rows as there are blocks of 64 are within the arrays.
        n = unsafe { select_64(BLOCK_64 * i, some_blocks::<4>(q, blocks), rows, estimates, hits, n) };
    }
    n
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn table_scan(
    tables: &[u8],
    blocks: &[u8],
    rows: &Scoring<'_>,
    estimates: &mut [f32],
    hits: &mut [u32],
) -> usize {
    let mut n = 0;
    // SAFETY: whole blocks of as many groups as the tables have; their rows are within the arrays.
    unsafe { table_sums(tables, blocks, |i, sums| n = select_64(i, sums, rows, estimates, hits, n)) };
    n
}

#[target_feature(enable = "avx512f")]
pub(super) fn select(sums: &[i32], rows: &Scoring<'_>, estimates: &mut [f32], hits: &mut [u32]) -> usize {
    let (mut n, mut i) = (0, 0);
    while i + 64 <= sums.len() {
        // SAFETY: the four arrays are equally long, `i + 64` is within them, and `hits` has room for every index.
        n = unsafe {
            let parts = [0, 16, 32, 48].map(|part| _mm512_loadu_si512(sums.as_ptr().add(i + part).cast()));
            select_64(i, parts, rows, estimates, hits, n)
        };
        i += 64;
    }
    n + rest_of_select(i, sums, rows, estimates, &mut hits[n..])
}

/// The last few rows, their indexes counted from the first.
pub(super) fn rest_of_select(
    i: usize,
    sums: &[i32],
    rows: &Scoring<'_>,
    estimates: &mut [f32],
    hits: &mut [u32],
) -> usize {
    let rest = Scoring { norms: &rows.norms[i..], factors: &rows.factors[i..], ..*rows };
    let n = scalar::select(&sums[i..], &rest, &mut estimates[i..], hits);
    let skipped = u32::try_from(i).unwrap_or(u32::MAX);
    hits[..n].iter_mut().for_each(|hit| *hit += skipped);
    n
}

#[target_feature(enable = "avx512f")]
pub(super) fn select_between(estimates: &[f32], low: f32, high: f32, hits: &mut [u32]) -> usize {
    let (lowest, highest) = (_mm512_set1_ps(low), _mm512_set1_ps(high));
    let (mut n, mut i) = (0, 0);
    while i + 64 <= estimates.len() {
        let mut masks = 0u64;
        for part in 0..4 {
            // SAFETY: `i + 64` is within the array.
            let estimate = unsafe { _mm512_loadu_ps(estimates.as_ptr().add(i + 16 * part)) };
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(estimate, lowest);
            masks |= u64::from(_mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(above, estimate, highest)) << (16 * part);
        }
        while masks != 0 {
            hits[n] = u32::try_from(i).unwrap_or(u32::MAX) + masks.trailing_zeros();
            masks &= masks - 1;
            n += 1;
        }
        i += 64;
    }
    let rest = scalar::select_between(&estimates[i..], low, high, &mut hits[n..]);
    let skipped = u32::try_from(i).unwrap_or(u32::MAX);
    hits[n..n + rest].iter_mut().for_each(|hit| *hit += skipped);
    n + rest
}

#[target_feature(enable = "avx512f")]
pub(super) fn hadamard(x: &mut [f32]) {
    // Signs of a stage inside sixteen lanes: the second of each pair is subtracted from the first.
    let one = _mm512_set1_ps(1.0);
    let signs =
        [0xAAAAu16, 0xCCCC, 0xF0F0, 0xFF00].map(|minus| _mm512_mask_sub_ps(one, minus, _mm512_setzero_ps(), one));
    for lanes in x.chunks_exact_mut(16) {
        // SAFETY: sixteen floats.
        let mut v = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
        v = _mm512_fmadd_ps(v, signs[0], _mm512_permute_ps::<0b10_11_00_01>(v));
        v = _mm512_fmadd_ps(v, signs[1], _mm512_permute_ps::<0b01_00_11_10>(v));
        v = _mm512_fmadd_ps(v, signs[2], _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v));
        v = _mm512_fmadd_ps(v, signs[3], _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v));
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), v) };
    }
    let mut half = 16;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.chunks_exact_mut(16).zip(b.chunks_exact_mut(16)) {
                // SAFETY: sixteen floats each.
                unsafe {
                    let (left, right) = (_mm512_loadu_ps(a.as_ptr()), _mm512_loadu_ps(b.as_ptr()));
                    _mm512_storeu_ps(a.as_mut_ptr(), _mm512_add_ps(left, right));
                    _mm512_storeu_ps(b.as_mut_ptr(), _mm512_sub_ps(left, right));
                }
            }
        }
        half *= 2;
    }
}

/// The specification itself, compiled for these registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn quantise(z: &[f32], middles: &mut [f32], nibbles: &mut [u8]) -> f32 {
    scalar::quantise_body(z, middles, nibbles)
}
