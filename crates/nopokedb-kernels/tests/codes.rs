//! Every level's kernels over codes equal the specification exactly.

use nopokedb_kernels::{
    Affine, BLOCK_16, BLOCK_64, CELL, Kernels, MIDDLE, NibbleQuery, Scoring, TABLE, interleave_16, pack_signs_64,
    scalar, sign_groups,
};
use proptest::prelude::*;

fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[7]
    };
    (0..n).map(next).collect()
}

/// Weights of both planes; every fourth seed has them at their extremes.
fn weights(seed: u64, n: usize) -> Vec<i8> {
    let extreme = |b: u8| if b & 1 == 0 { -128 } else { 127 };
    bytes(seed, n).into_iter().map(|b| if seed.is_multiple_of(4) { extreme(b) } else { b.cast_signed() }).collect()
}

#[test]
fn products_with_nibbles_equal_the_specification_on_every_level() {
    for (seed, length) in [32, 64, 96, 128, 160, 192, 384, 416, 768, 1536].into_iter().enumerate() {
        for seed in seed as u64 * 8..seed as u64 * 8 + 8 {
            let (high, low) = (weights(seed, length), weights(seed + 4, length));
            let q = NibbleQuery { high: &high, low: &low };
            // Seven rows: one group of four and a rest. An odd offset: nothing may rely on alignment.
            let mut data = bytes(seed + 77, 7 * length + 1);
            if seed.is_multiple_of(8) {
                data.fill(0xFF);
            }
            let rows = &data[1..];
            let row = |i: usize| &rows[i * length..][..length];
            let want: Vec<i32> = (0..7).map(|i| scalar::nibble_dot(q, row(i))).collect();
            for k in Kernels::available() {
                assert_eq!(k.nibble_dot(q, row(3)), want[3], "{k:?} {length}");
                assert_eq!(k.nibble_dot4(q, [row(0), row(1), row(2), row(3)]), want[..4], "{k:?} {length}");
                let mut out = [0; 7];
                k.nibble_rows(q, rows, &mut out);
                assert_eq!(out, want[..], "{k:?} {length}");
            }
        }
    }
}

#[test]
fn the_low_plane_and_a_sixteenth_of_the_high_one_weigh_low_nibbles() {
    let (mut high, mut low, mut row) = ([0i8; 32], [0i8; 32], [0u8; 32]);
    (high[5], low[5], row[5]) = (32, 7, 0x3A);
    let sum = scalar::nibble_dot(NibbleQuery { high: &high, low: &low }, &row);
    assert_eq!(sum, 16 * (3 * 32 + 10 * (7 + 2)));
}

#[test]
fn the_largest_dimension_does_not_overflow() {
    let (high, low, row) = (vec![118i8; 32_768], vec![127i8; 32_768], vec![0xFFu8; 32_768]);
    let q = NibbleQuery { high: &high, low: &low };
    let want = 32_768i64 * (255 * 118 + 16 * 15 * 127);
    for k in Kernels::available() {
        assert_eq!(i64::from(k.nibble_dot(q, &row)), want, "{k:?}");
    }
}

#[test]
fn blocks_of_sixteen_give_what_their_rows_give() {
    for (length, blocks) in [(32, 1), (32, 9), (64, 4), (64, 7), (96, 5), (384, 3)] {
        let (high, low) = (weights(3, length), weights(5, length));
        let q = NibbleQuery { high: &high, low: &low };
        let rows = bytes(11, length * BLOCK_16 * blocks);
        let mut interleaved = vec![0; rows.len()];
        for (block, rows) in interleaved.chunks_mut(BLOCK_16 * length).zip(rows.chunks(BLOCK_16 * length)) {
            interleave_16(std::array::from_fn(|r| &rows[r * length..][..length]), block);
        }
        let want: Vec<i32> = rows.chunks(length).map(|row| scalar::nibble_dot(q, row)).collect();
        for k in Kernels::available() {
            let mut out = vec![-1; want.len()];
            k.nibble_blocks(q, &interleaved, &mut out);
            assert_eq!(out, want, "{k:?} {length}");
        }
    }
}

/// Additive tables of entries up to 31.
fn tables(seed: u64, groups: usize) -> Vec<u8> {
    let parts = bytes(seed, groups * 20);
    let entry = |parts: &[u8], i: usize| parts[i & 15] % 21 + if i < 16 { 0 } else { parts[16 + i / 16] % 11 };
    parts.chunks(20).flat_map(|parts| (0..TABLE).map(move |i| entry(parts, i))).collect()
}

#[test]
fn sums_of_table_entries_equal_the_specification_on_every_level() {
    for (groups, blocks) in [(1, 1), (2, 2), (3, 1), (8, 3), (11, 3), (16, 5), (511, 1), (512, 1), (513, 2), (2731, 1)]
    {
        let tables = tables(groups as u64, 4 * groups);
        let codes = bytes(groups as u64 + 9, 3 * groups * BLOCK_64 * blocks);
        let mut want = vec![0; BLOCK_64 * blocks];
        scalar::table_blocks(&tables, &codes, &mut want);
        for k in Kernels::available() {
            let mut out = vec![-1; want.len()];
            k.table_blocks(&tables, &codes, &mut out);
            assert_eq!(out, want, "{k:?} {groups}");
        }
    }
}

#[test]
fn full_tables_do_not_wrap() {
    let (tables, codes) = (vec![31; 4 * 700 * TABLE], bytes(5, 3 * 700 * BLOCK_64));
    for k in Kernels::available() {
        let mut out = [0; BLOCK_64];
        k.table_blocks(&tables, &codes, &mut out);
        assert_eq!(out, [31 * 4 * 700; BLOCK_64], "{k:?}");
    }
}

#[test]
fn packed_signs_are_the_top_bits_of_the_nibbles_in_byte_order() {
    for length in [32, 64, 96, 192] {
        let codes = bytes(length as u64, length * BLOCK_64);
        let groups = sign_groups(2 * length);
        let mut block = vec![0xAA; groups * 3 * BLOCK_64];
        pack_signs_64(std::array::from_fn(|r| &codes[r * length..][..length]), &mut block);
        for d in 0..2 * length {
            let mut tables = vec![0; groups * 4 * TABLE];
            for (i, entry) in tables[d / 6 * TABLE..][..TABLE].iter_mut().enumerate() {
                *entry = u8::try_from(i >> (d % 6) & 1).expect("a bit");
            }
            let mut signs = [0; BLOCK_64];
            scalar::table_blocks(&tables, &block, &mut signs);
            for (r, sign) in signs.into_iter().enumerate() {
                let byte = codes[r * length + d / 2];
                let want = if d % 2 == 0 { byte >> 7 } else { byte >> 3 & 1 };
                assert_eq!(sign, i32::from(want), "row {r}, sign {d}");
            }
        }
    }
}

#[test]
fn the_hadamard_transform_is_its_own_inverse_and_equal_on_every_level() {
    for length in [64usize, 128, 256, 1024, 4096] {
        let x: Vec<f32> = bytes(3, length).into_iter().map(|b| f32::from(b) - 100.0).collect();
        let mut want = x.clone();
        scalar::hadamard(&mut want);
        for k in Kernels::available() {
            let mut y = x.clone();
            k.hadamard(&mut y);
            assert_eq!(y, want, "{k:?} {length}");
            k.hadamard(&mut y);
            // Small integers: every sum is exact.
            assert!(y.iter().zip(&x).all(|(y, x)| *y == x * length as f32), "{k:?} {length}");
        }
    }
}

/// About normal coordinates of variance 1.
fn normal(seed: u64, n: usize) -> Vec<f32> {
    let sums = bytes(seed, 12 * n);
    sums.chunks(12).map(|c| c.iter().map(|b| f32::from(*b) / 255.0).sum::<f32>() - 6.0).collect()
}

#[test]
fn quantised_rows_are_balanced_and_equal_on_every_level() {
    for (seed, length) in [32, 64, 96, 192, 384, 1536].into_iter().cycle().take(60).enumerate() {
        let mut z = normal(seed as u64 * 31 + 1, 2 * length);
        // A few outliers, beyond the last cell.
        z.iter_mut().step_by(61).for_each(|x| *x *= if seed % 3 == 0 { 1.6 } else { 1.0 });
        let (mut middles, mut want) = (vec![0.0; 2 * length], vec![0; length]);
        let want_signs = scalar::quantise(&z, &mut middles, &mut want);
        let decoded = |i: usize| if i < length { want[i] >> 4 } else { want[i - length] & 15 };
        let middle = |i: usize| (f32::from(decoded(i)) - MIDDLE) * CELL;
        let own: f64 = z.iter().map(|x| f64::from(*x).powi(2)).sum();
        let product: f64 = z.iter().enumerate().map(|(i, x)| f64::from(*x) * f64::from(middle(i))).sum();
        assert!((own - product).abs() < 0.05 + 2e-5 * own, "seed {seed}, {length} bytes: {own} {product}");
        let error: f64 = z.iter().enumerate().map(|(i, x)| f64::from(*x - middle(i)).powi(2)).sum();
        assert!(seed % 3 == 0 || error < 0.02 * own, "{error} of {own}");
        let signs: f32 = z.iter().enumerate().map(|(i, x)| x * middle(i).signum()).sum();
        assert!((signs - want_signs).abs() < 1e-3 * signs);
        for k in Kernels::available() {
            let mut nibbles = vec![0; length];
            let signs = k.quantise(&z, &mut middles, &mut nibbles);
            assert_eq!((signs.to_bits(), &nibbles), (want_signs.to_bits(), &want), "{k:?} seed {seed}");
        }
    }
}

#[test]
fn rows_that_cannot_be_balanced_are_quantised_all_the_same() {
    for value in [0.0, 1.0, -1e30, f32::INFINITY, f32::NAN] {
        let z = [value; 64];
        for k in Kernels::available() {
            let (mut middles, mut nibbles, mut want) = ([0.0; 64], [0; 32], [0; 32]);
            scalar::quantise(&z, &mut middles, &mut want);
            k.quantise(&z, &mut middles, &mut nibbles);
            assert_eq!(nibbles, want, "{k:?} {value}");
        }
    }
}

#[test]
fn scans_give_what_sums_and_selection_give_on_every_level() {
    for (groups, blocks) in [(1, 1), (3, 2), (8, 3), (11, 17), (16, 8), (513, 2)] {
        let (n, length) = (BLOCK_64 * blocks, 32 * groups.min(12));
        let noise = |seed: usize| bytes(seed as u64, n).into_iter().map(|b| f32::from(b) / 64.0).collect::<Vec<f32>>();
        let (norms, factors) = (noise(groups + 1), noise(groups + 2));
        let (high, low, tables) = (weights(3, length), weights(5, length), tables(groups as u64, 4 * groups));
        let q = NibbleQuery { high: &high, low: &low };
        let (nibbles, signs) = (bytes(11, length * n), bytes(9, 3 * groups * n));
        let mut sums = vec![0; n];
        let expect = |sums: &[i32], scale: f32| {
            let affine = Affine { base: 1.0, square: 0.5, scale, offset: -0.25 };
            let (mut want, mut hits) = (vec![0.0; n], vec![0; n]);
            let all = Scoring { norms: &norms, factors: &factors, affine, limit: f32::INFINITY };
            scalar::select(sums, &all, &mut want, &mut hits);
            let mut order = want.clone();
            order.sort_by(f32::total_cmp);
            // Few, half and all of the rows.
            [order[n / 50], order[n / 2], f32::INFINITY].map(|limit| {
                let scoring = Scoring { limit, ..all };
                let found = scalar::select(sums, &scoring, &mut want, &mut hits);
                (scoring, want.clone(), hits[..found].to_vec())
            })
        };
        scalar::nibble_blocks(q, &nibbles, &mut sums);
        let by_nibbles = expect(&sums, 1e-6);
        scalar::table_blocks(&tables, &signs, &mut sums);
        let by_tables = expect(&sums, 1e-3);
        for k in Kernels::available() {
            for i in 0..3 {
                let (mut estimates, mut hits) = (vec![0.0; n], vec![0; n]);
                let (scoring, want, want_hits) = &by_nibbles[i];
                let found = k.nibble_scan(q, &nibbles, scoring, &mut estimates, &mut hits);
                assert_eq!((&estimates, &hits[..found]), (want, &want_hits[..]), "{k:?} {length} bytes");
                let (scoring, want, want_hits) = &by_tables[i];
                let found = k.table_scan(&tables, &signs, scoring, &mut estimates, &mut hits);
                assert_eq!((&estimates, &hits[..found]), (want, &want_hits[..]), "{k:?} {groups} groups");
            }
        }
    }
}

/// One row of a scan: sum, norm and factor.
fn row() -> impl Strategy<Value = (i32, f32, f32)> {
    (
        -100_000_000..100_000_000i32,
        prop_oneof![0.0f32..10.0, Just(f32::NAN), Just(f32::INFINITY), Just(0.0)],
        0.0f32..10.0,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn selection_equals_the_specification_on_every_level(
        rows in prop::collection::vec(row(), 0..300),
        (base, square, scale, offset) in (-10.0f32..10.0, -1.0f32..1.0, -1e-6f32..1e-6, -10.0f32..10.0),
        limit in prop_oneof![-100.0f32..100.0, Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
        width in 0.0f32..50.0,
    ) {
        let sums: Vec<i32> = rows.iter().map(|r| r.0).collect();
        let norms: Vec<f32> = rows.iter().map(|r| r.1).collect();
        let factors: Vec<f32> = rows.iter().map(|r| r.2).collect();
        let affine = Affine { base, square, scale, offset };
        let n = rows.len();
        let (mut want, mut want_hits) = (vec![0.0; n], vec![0; n]);
        let scoring = Scoring { norms: &norms, factors: &factors, affine, limit };
        let want_n = scalar::select(&sums, &scoring, &mut want, &mut want_hits);
        prop_assert!(want_hits[..want_n].iter().all(|&i| want[i as usize] <= limit || want[i as usize].is_nan()));
        for k in Kernels::available() {
            let (mut estimates, mut hits) = (vec![0.0; n], vec![0; n]);
            let found = k.select(&sums, &scoring, &mut estimates, &mut hits);
            prop_assert_eq!(&hits[..found], &want_hits[..want_n], "{:?}", k);
            let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            prop_assert!(estimates.iter().zip(&want).all(|(a, b)| same(a, b)), "{:?}", k);

            let (mut between, mut want_between) = (vec![0; n], vec![0; n]);
            let want_n = scalar::select_between(&want, limit, limit + width, &mut want_between);
            let found = k.select_between(&estimates, limit, limit + width, &mut between);
            prop_assert_eq!(&between[..found], &want_between[..want_n], "{:?}", k);
        }
    }
}
