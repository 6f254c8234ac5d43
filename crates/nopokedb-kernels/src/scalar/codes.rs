//! Integer kernels over codes. Every level equals these exactly, [`hadamard`] and [`select`] to the last bit included.

use crate::codes::{BLOCK_16, BLOCK_64, NibbleQuery, Scoring, TABLE};

/// `16 * sum(code * query)` of a row of nibbles; see [`NibbleQuery`] for what the query's two planes mean.
pub fn nibble_dot(q: NibbleQuery<'_>, row: &[u8]) -> i32 {
    let terms = row.iter().zip(q.high.iter().zip(q.low));
    terms.map(|(&b, (&h, &l))| i32::from(b) * i32::from(h) + 16 * i32::from(b & 15) * i32::from(l)).sum()
}

/// [`nibble_dot`] of one query with four rows.
pub fn nibble_dot4(q: NibbleQuery<'_>, rows: [&[u8]; 4]) -> [i32; 4] {
    rows.map(|row| nibble_dot(q, row))
}

/// [`nibble_dot`] of one query with rows that lie one behind the other.
pub fn nibble_rows(q: NibbleQuery<'_>, rows: &[u8], out: &mut [i32]) {
    for (out, row) in out.iter_mut().zip(rows.chunks_exact(q.high.len())) {
        *out = nibble_dot(q, row);
    }
}

/// [`nibble_dot`] over blocks of 16 rows: byte `4 * j + t` of row `r` lies at `64 * j + 4 * r + t` of its block.
pub fn nibble_blocks(q: NibbleQuery<'_>, blocks: &[u8], out: &mut [i32]) {
    let bytes = q.high.len();
    for (out, block) in out.chunks_exact_mut(BLOCK_16).zip(blocks.chunks_exact(BLOCK_16 * bytes)) {
        for (r, out) in out.iter_mut().enumerate() {
            let byte = |i: usize| block[64 * (i / 4) + 4 * r + i % 4];
            let terms = (0..bytes).map(|i| {
                let (b, h, l) = (byte(i), i32::from(q.high[i]), i32::from(q.low[i]));
                i32::from(b) * h + 16 * i32::from(b & 15) * l
            });
            *out = terms.sum();
        }
    }
}

/// Sum of table entries over blocks of 64 rows. Three bytes of a row, `a`, `b` and `c`, are four indexes of six bits: the low
/// six of each, and the top two of `a`, `b` and `c` from low to high. Byte `64 * i + r` of a block is row `r`'s byte `i`.
/// Outside the contract, because wider levels do it otherwise: entries above 31 (eight of them are added in a byte), and
/// tables that are not additive, `table[i] = table[i & 15] + table[i & 48] - table[0]`.
pub fn table_blocks(tables: &[u8], blocks: &[u8], out: &mut [i32]) {
    let block_bytes = tables.len() / TABLE / 4 * 3 * BLOCK_64;
    for (out, block) in out.chunks_exact_mut(BLOCK_64).zip(blocks.chunks_exact(block_bytes)) {
        for (r, out) in out.iter_mut().enumerate() {
            let groups = tables.chunks_exact(4 * TABLE).zip(block.chunks_exact(3 * BLOCK_64));
            let sums = groups.map(|(tables, bytes)| {
                let [a, b, c] = [0, 1, 2].map(|i| bytes[i * BLOCK_64 + r]);
                let indexes = [a & 63, b & 63, c & 63, a >> 6 | b >> 6 << 2 | c >> 6 << 4];
                let entries = indexes.into_iter().zip(tables.chunks_exact(TABLE));
                entries.map(|(index, table)| i32::from(table[usize::from(index)])).sum::<i32>()
            });
            *out = sums.sum();
        }
    }
}

/// `estimates[i] = base + square * norms[i]^2 + (scale * sums[i] + offset) * factors[i]`, each step fused; then the
/// indexes of those not above `limit` (so that NaN is among them) go to `hits`, whose new length is returned.
pub fn select(sums: &[i32], rows: &Scoring<'_>, estimates: &mut [f32], hits: &mut [u32]) -> usize {
    let Scoring { norms, factors, affine: a, limit } = *rows;
    let mut n = 0;
    for (i, (&sum, out)) in sums.iter().zip(estimates.iter_mut()).enumerate() {
        // As every level rounds it: sums beyond 2^24 to the nearest float.
        #[allow(clippy::cast_precision_loss)]
        let product = a.scale.mul_add(sum as f32, a.offset);
        let constant = (a.square * norms[i]).mul_add(norms[i], a.base);
        let estimate = product.mul_add(factors[i], constant);
        *out = estimate;
        if estimate.partial_cmp(&limit) != Some(std::cmp::Ordering::Greater) {
            hits[n] = u32::try_from(i).unwrap_or(u32::MAX);
            n += 1;
        }
    }
    n
}

/// The indexes of estimates above `low` and not above `high` go to `hits`, whose new length is returned.
pub fn select_between(estimates: &[f32], low: f32, high: f32, hits: &mut [u32]) -> usize {
    let mut n = 0;
    for (i, &estimate) in estimates.iter().enumerate() {
        if estimate > low && estimate <= high {
            hits[n] = u32::try_from(i).unwrap_or(u32::MAX);
            n += 1;
        }
    }
    n
}

/// The Walsh-Hadamard transform in place, not normalised. The length is a power of two.
pub fn hadamard(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        hadamard_stage(x, half);
        half *= 2;
    }
}

/// One stage: sums and differences of elements `half` apart.
#[inline(always)]
pub(crate) fn hadamard_stage(x: &mut [f32], half: usize) {
    for pair in x.chunks_exact_mut(2 * half) {
        let (a, b) = pair.split_at_mut(half);
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}
