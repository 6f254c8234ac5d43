//! Codes on AVX-512 with VNNI and VBMI. Callers guarantee the lengths (`codes.rs`).

use std::arch::x86_64::*;

use crate::codes::{Affine, BLOCK_16, BLOCK_64, NibbleQuery, TABLE};
use crate::scalar;

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
        // SAFETY: `out` is 64 sums and `blocks` four blocks.
        unsafe { some_blocks::<4>(q, blocks, out) };
    }
    let rest = &blocks[whole / BLOCK_16 * block_bytes..];
    for (out, block) in out[whole..].chunks_exact_mut(BLOCK_16).zip(rest.chunks_exact(block_bytes)) {
        // SAFETY: `out` is 16 sums and `block` one block.
        unsafe { some_blocks::<1>(q, block, out) };
    }
}

/// `N` blocks side by side: a query's weights are read once for all of them, and the sums do not wait for each other.
///
/// # Safety
/// `blocks` is `N` blocks of codes as long as the query, `out` is `16 * N` long.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn some_blocks<const N: usize>(q: NibbleQuery<'_>, blocks: &[u8], out: &mut [i32]) {
    let bytes = q.high.len();
    debug_assert!(blocks.len() == N * BLOCK_16 * bytes && out.len() == N * BLOCK_16 && q.low.len() == bytes);
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
            let code = unsafe { _mm512_loadu_si512(blocks.as_ptr().add(n * BLOCK_16 * bytes + 64 * j).cast()) };
            step(acc, code, high, low);
        }
    }
    for (n, acc) in acc.into_iter().enumerate() {
        // SAFETY: `out` is `16 * N` long.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(BLOCK_16 * n).cast(), join(acc)) };
    }
}

/// How far ahead codes are asked for.
const AHEAD: usize = 6144;

/// Groups of four entries that are added in 16 bits before they are widened: 512 * 4 * 31 < 65,536.
const PANEL: usize = 512;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn table_blocks(tables: &[u8], blocks: &[u8], out: &mut [i32]) {
    let block_bytes = tables.len() / 4 * 3;
    for (out, block) in out.chunks_exact_mut(BLOCK_64).zip(blocks.chunks_exact(block_bytes)) {
        out.fill(0);
        for (tables, block) in tables.chunks(PANEL * 4 * TABLE).zip(block.chunks(PANEL * 3 * BLOCK_64)) {
            // SAFETY: as many groups of four tables as of three times 64 bytes; `out` is 64 sums.
            unsafe { table_panel(tables, block, out) };
        }
    }
}

/// The entries of 64 rows for one group of 24 signs: four look-ups, added in bytes.
///
/// # Safety
/// `tables` is readable for 256 bytes, `rows` for 192.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn table_group(tables: *const u8, rows: *const u8) -> __m512i {
    // The codes come from beyond the second-level cache as often as not.
    _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(AHEAD).cast());
    _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(AHEAD + 64).cast());
    _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(AHEAD + 128).cast());
    // SAFETY: within what the caller vouches for.
    let (rows, tables) = unsafe {
        (
            [0, 1, 2].map(|i| _mm512_loadu_si512(rows.add(64 * i).cast())),
            [0, 1, 2, 3].map(|i| _mm512_loadu_si512(tables.add(64 * i).cast())),
        )
    };
    // The fourth index is made of the others' top bits. A look-up ignores an index's own top bits, and the bits that the
    // 16-bit shifts drag in from the neighbour are masked here. 0xCA takes the second where the first is set.
    let [a, b, c] = [_mm512_srli_epi16::<6>(rows[0]), _mm512_srli_epi16::<4>(rows[1]), _mm512_srli_epi16::<2>(rows[2])];
    let ab = _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi8(0b11), a, b);
    let last = _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi8(0b1111), ab, c);
    let first =
        _mm512_add_epi8(_mm512_permutexvar_epi8(rows[0], tables[0]), _mm512_permutexvar_epi8(rows[1], tables[1]));
    let second = _mm512_add_epi8(_mm512_permutexvar_epi8(rows[2], tables[2]), _mm512_permutexvar_epi8(last, tables[3]));
    _mm512_add_epi8(first, second)
}

/// Adds one panel of one block to its 64 sums.
///
/// # Safety
/// `tables` is groups of 256 bytes, `block` as many of 192, at most [`PANEL`]; `out` is 64 long.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn table_panel(tables: &[u8], block: &[u8], out: &mut [i32]) {
    let groups = tables.len() / 256;
    debug_assert!(tables.len() == 256 * groups && block.len() == 192 * groups && out.len() == 64);
    let byte = _mm512_set1_epi16(0xFF);
    let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut add = |sum: __m512i| {
        even = _mm512_add_epi16(even, _mm512_and_si512(sum, byte));
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(sum));
    };
    let (table, row) = (tables.as_ptr(), block.as_ptr());
    let mut g = 0;
    while g + 2 <= groups {
        // SAFETY: groups `g` and `g + 1` are inside both.
        let sums = unsafe {
            [
                table_group(table.add(256 * g), row.add(192 * g)),
                table_group(table.add(256 * (g + 1)), row.add(192 * (g + 1))),
            ]
        };
        add(_mm512_add_epi8(sums[0], sums[1]));
        g += 2;
    }
    if g < groups {
        // SAFETY: group `g` is inside both.
        add(unsafe { table_group(table.add(256 * g), row.add(192 * g)) });
    }
    // Lane `l` of `even` is row `2 * l`, of `odd` row `2 * l + 1`: one 32-bit lane holds rows 4 l and 4 l + 2.
    let (word, mut quarters) = (_mm512_set1_epi32(0xFFFF), [_mm512_setzero_si512(); 4]);
    quarters[0] = _mm512_and_si512(even, word);
    quarters[1] = _mm512_and_si512(odd, word);
    quarters[2] = _mm512_srli_epi32::<16>(even);
    quarters[3] = _mm512_srli_epi32::<16>(odd);
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
    let ordered = [
        _mm512_shuffle_i32x4::<0x88>(low[0], low[1]),
        _mm512_shuffle_i32x4::<0xDD>(low[0], low[1]),
        _mm512_shuffle_i32x4::<0x88>(high[0], high[1]),
        _mm512_shuffle_i32x4::<0xDD>(high[0], high[1]),
    ];
    for (n, sums) in ordered.into_iter().enumerate() {
        // SAFETY: `out` is 64 long.
        unsafe {
            let at = out.as_mut_ptr().add(16 * n);
            _mm512_storeu_si512(at.cast(), _mm512_add_epi32(_mm512_loadu_si512(at.cast()), sums));
        }
    }
}

/// The estimates of rows `i ..+ 16`, which it also stores.
///
/// # Safety
/// `i + 16` is within all four arrays.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn estimate(
    i: usize,
    sums: &[i32],
    norms: &[f32],
    factors: &[f32],
    a: &Affine,
    estimates: &mut [f32],
) -> __m512 {
    debug_assert!(i + 16 <= sums.len().min(norms.len()).min(factors.len()).min(estimates.len()));
    // SAFETY: within what the caller vouches for.
    let (sum, norm, factor) = unsafe {
        (
            _mm512_loadu_si512(sums.as_ptr().add(i).cast()),
            _mm512_loadu_ps(norms.as_ptr().add(i)),
            _mm512_loadu_ps(factors.as_ptr().add(i)),
        )
    };
    let product = _mm512_fmadd_ps(_mm512_set1_ps(a.scale), _mm512_cvtepi32_ps(sum), _mm512_set1_ps(a.offset));
    let constant = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(a.square), norm), norm, _mm512_set1_ps(a.base));
    let estimate = _mm512_fmadd_ps(product, factor, constant);
    // SAFETY: as above.
    unsafe { _mm512_storeu_ps(estimates.as_mut_ptr().add(i), estimate) };
    estimate
}

#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments)]
pub(super) fn select(
    sums: &[i32],
    norms: &[f32],
    factors: &[f32],
    a: &Affine,
    limit: f32,
    estimates: &mut [f32],
    hits: &mut [u32],
) -> usize {
    let bound = _mm512_set1_ps(limit);
    let (mut n, mut i) = (0, 0);
    // Hits are rare: sixty-four rows are asked about at once.
    while i + 64 <= sums.len() {
        let mut masks = 0u64;
        for part in 0..4 {
            // SAFETY: the four arrays are equally long and `i + 64` is within them.
            let estimate = unsafe { estimate(i + 16 * part, sums, norms, factors, a, estimates) };
            masks |= u64::from(_mm512_cmp_ps_mask::<_CMP_NGT_UQ>(estimate, bound)) << (16 * part);
        }
        while masks != 0 {
            hits[n] = u32::try_from(i).unwrap_or(u32::MAX) + masks.trailing_zeros();
            masks &= masks - 1;
            n += 1;
        }
        i += 64;
    }
    n + rest_of_select(i, sums, norms, factors, a, limit, estimates, &mut hits[n..])
}

/// The last few rows, their indexes counted from the first.
#[allow(clippy::too_many_arguments)]
pub(super) fn rest_of_select(
    i: usize,
    sums: &[i32],
    norms: &[f32],
    factors: &[f32],
    a: &Affine,
    limit: f32,
    estimates: &mut [f32],
    hits: &mut [u32],
) -> usize {
    let n = scalar::select(&sums[i..], &norms[i..], &factors[i..], a, limit, &mut estimates[i..], hits);
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
