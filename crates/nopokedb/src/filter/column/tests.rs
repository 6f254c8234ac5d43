//! Columns say what the evaluator says, however the rows came.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::filter::tests::{any_filter, any_metadata};
use crate::filter::{Filter, Test};
use crate::metadata::Metadata;

/// A column of `records`, taken in in pieces of these sizes, from slot `first` on.
fn column(path: &[String], records: &[Metadata], pieces: &[u32], first: u32) -> Column {
    let mut column = Column { len: first, ..Column::default() };
    let (mut pieces, end) = (pieces.iter().cycle(), first + u32::try_from(records.len()).unwrap());
    while column.len < end {
        let to_chunk_end = CHUNK - column.len % CHUNK;
        let rows = column.len..end.min(column.len + to_chunk_end.min(*pieces.next().unwrap()));
        let mut builder = PartBuilder::new(path, &rows, usize::MAX);
        rows.clone().for_each(|slot| builder.add(slot, records[(slot - first) as usize].members()));
        column.push(builder.finish().unwrap());
    }
    assert_eq!(column.len(), end);
    column
}

fn slots(found: &Found<'_>, len: u32) -> Vec<bool> {
    let mut words = vec![0; len.div_ceil(64) as usize];
    found.set_in(&mut words);
    let ones: usize = words.iter().map(|word| word.count_ones() as usize).sum();
    assert!(ones <= found.most());
    (0..len).map(|slot| words[slot as usize / 64] >> (slot % 64) & 1 == 1).collect()
}

fn compare(test: &Test, records: &[Metadata], pieces: &[u32], first: u32) {
    let column = column(&test.path, records, pieces, first);
    let found = slots(&column.find(&test.kind), column.len());
    assert!(!found[..first as usize].contains(&true), "rows that are not in the column");
    let several = slots(&column.several(), column.len());
    let mut all = vec![true; column.len() as usize];
    if let TestKind::ContainsAll(list) = &test.kind {
        for operand in list {
            all.iter_mut().zip(slots(&column.containing(operand), column.len())).for_each(|(all, one)| *all &= one);
        }
    }
    for (slot, record) in (first as usize..).zip(records) {
        let expected = test.holds(record.members());
        if several[slot] && matches!(test.kind, TestKind::ContainsAll(_)) {
            assert!(!expected || (found[slot] && all[slot]), "{test:?} of {record}");
        } else {
            assert_eq!(found[slot] && all[slot], expected, "{test:?} of {record}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn columns_agree_with_the_evaluator_for_random_tests_and_rows(
        records in prop::collection::vec(any_metadata(), 1..40),
        filters in prop::collection::vec(any_filter(), 1..8),
        pieces in prop::collection::vec(1u32..9, 1..6),
        first in prop::sample::select(&[0, 5, 60, CHUNK - 7]),
    ) {
        let records: Vec<_> = records.iter().map(|record| Metadata::from_map(record).unwrap()).collect();
        for filter in filters {
            for test in Filter::from_json(&filter).unwrap().node.tests() {
                compare(test, &records, &pieces, first);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn columns_count_what_reading_counts(
        records in prop::collection::vec(any_metadata(), 1..40),
        path in prop::sample::select(&["a", "b", "a.b", "k.k"]),
        pieces in prop::collection::vec(1u32..9, 1..6),
        first in prop::sample::select(&[0, 60, CHUNK - 7]),
        asked in any::<[u64; 2]>(),
    ) {
        let records: Vec<_> = records.iter().map(|record| Metadata::from_map(record).unwrap()).collect();
        let path = crate::filter::values::Path::new(path).unwrap();
        let column = column(path.keys(), &records, &pieces, first);
        let several = slots(&column.several(), column.len());
        let (mut words, mut expected, mut values) =
            (vec![0u64; column.len().div_ceil(64) as usize], BTreeMap::new(), Vec::new());
        for (i, slot) in (first as usize..column.len() as usize).enumerate() {
            if !several[slot] && asked[i / 64] >> (i % 64) & 1 == 1 {
                words[slot / 64] |= 1 << (slot % 64);
                path.all(Some(records[i].as_json()), &mut values);
                values.drain(..).for_each(|value| *expected.entry(value).or_insert(0) += 1);
            }
        }
        let mut counts: BTreeMap<Scalar, usize> = BTreeMap::new();
        column.count(&words, &mut |value, n| *counts.entry(value).or_insert(0) += n);
        prop_assert_eq!(counts, expected);
    }
}

#[test]
fn operands_that_only_the_builder_can_make_mean_the_same() {
    let values =
        [json!(null), json!(true), json!(false), json!(1), json!(1.5), json!(u64::MAX), json!("a"), json!([1, "a"])];
    let records: Vec<_> = values
        .iter()
        .map(|value| Metadata::from_json(&json!({"k": value, "other": 1}).to_string()).unwrap())
        .chain([Metadata::default()])
        .collect();
    let k = || Filter::field("k");
    for filter in [
        k().gt(true),
        k().lte(true),
        k().gte(None::<i64>),
        k().between(1, "a"),
        k().between(2, 1),
        k().lt(u64::MAX),
        k().gte(u64::MAX),
        k().gt(f64::INFINITY),
        k().lt(f64::INFINITY),
        k().contains_all(Vec::<i64>::new()),
        k().contains(None::<i64>),
        k().like("%"),
        k().starts_with(""),
    ] {
        filter.node.tests().into_iter().for_each(|test| compare(test, &records, &[3], 0));
    }
}

#[test]
fn rows_that_come_one_by_one_make_few_parts_and_cost_little() {
    let records: Vec<_> = (0..3_000)
        .map(|i| Metadata::from_json(&json!({"n": i % 7, "s": format!("row {i}")}).to_string()).unwrap())
        .collect();
    for path in ["n", "s", "none"].map(|key| vec![key.to_owned()]) {
        let column = column(&path, &records, &[1], 0);
        assert!(column.parts.len() <= 12, "{}", column.parts.len());
        assert_eq!(column.bytes(), column.parts.iter().map(|part| part.bytes()).sum::<usize>());
    }
    let n = column(&["n".to_owned()], &records, &[3_000], 0);
    assert!(n.bytes() < 3 * records.len() + 2_000, "{}", n.bytes());
}

#[test]
fn too_much_text_is_given_up() {
    let record = |i: usize| Metadata::from_json(&json!({"s": format!("{i:0>1000}")}).to_string()).unwrap();
    let mut builder = PartBuilder::new(&["s".to_owned()], &(0..100), 50_000);
    (0u32..).zip((0..50).map(record)).for_each(|(slot, record)| builder.add(slot, record.members()));
    assert!(!builder.is_full());
    builder.add(50, record(50).members());
    assert!(builder.is_full() && builder.finish().is_none());
}
