//! Filters answered from columns pass the rows that reading every row passes, whatever is written in between.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use nopokedb::{Change, Collection, Database, Filter, Id, Metadata, Metric, NewRow, NewRows, Options, Query};
use serde_json::{Value, json};

use support::Rng;

impl Rng {
    fn one_of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    fn scalar(&mut self) -> Value {
        match self.below(8) {
            0 => Value::Null,
            1 => json!(self.below(2) == 1),
            2 => json!(self.below(5) as f64 / 2.0),
            3 => self.one_of(&[json!(i64::MIN), json!(u64::MAX), json!(1e300), json!(-0.0)]),
            4 | 5 => json!(self.below(40)),
            6 => json!(format!("2024-0{}-1{}", 1 + self.below(9), self.below(9))),
            _ => json!(self.one_of(&["", "a", "ab", "abc", "größe", "a%_\"\\"])),
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0..6 => self.scalar(),
            6 | 7 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: usize) -> Value {
        let keys = ["a", "b", "c.d", "$e", "f"];
        let members = (0..self.below(5)).map(|_| (self.one_of(&keys).to_owned(), self.value(depth)));
        Value::Object(members.collect())
    }

    /// One row in ten has none.
    fn metadata(&mut self) -> Option<Metadata> {
        (self.below(10) > 0).then(|| Metadata::from_json(&self.object(2).to_string()).unwrap())
    }

    fn filter(&mut self, depth: usize) -> Value {
        if depth > 0 && self.below(3) > 0 {
            return match self.below(4) {
                0 => json!({"$not": self.filter(depth - 1)}),
                1 => json!({"$or": (0..=self.below(3)).map(|_| self.filter(depth - 1)).collect::<Vec<_>>()}),
                _ => json!({"$and": (0..=self.below(3)).map(|_| self.filter(depth - 1)).collect::<Vec<_>>()}),
            };
        }
        let path = self.one_of(&["a", "b", "c\\.d", "\\$e", "f", "a.b", "b.a", "a.f.b", "nowhere"]);
        let list = |rng: &mut Rng| (0..rng.below(4)).map(|_| rng.scalar()).collect::<Value>();
        let ordered = self.one_of(&[json!(3), json!(1.5), json!("2024-05"), json!("ab"), json!(u64::MAX)]);
        let text = self.one_of(&["a", "", "2024-0", "g%", "a_%", "%b%", "abc"]);
        let (operator, operand) = match self.below(16) {
            0 | 1 => ("$eq", self.scalar()),
            2 => ("$ne", self.scalar()),
            3 => ("$gt", ordered),
            4 => ("$gte", ordered),
            5 => ("$lt", ordered),
            6 => ("$lte", ordered),
            7 => ("$in", list(self)),
            8 => ("$nin", list(self)),
            9 => ("$contains_any", list(self)),
            10 => ("$contains_all", list(self)),
            11 => ("$contains", self.scalar()),
            12 => ("$startswith", json!(text)),
            13 => ("$like", json!(text)),
            14 => ("$between", json!([ordered.clone(), ordered])),
            _ => (self.one_of(&["$exists", "$null"]), json!(self.below(2) == 1)),
        };
        json!({path: {operator: operand}})
    }
}

fn open(dir: &tempfile::TempDir) -> Database {
    Database::open(dir.path(), Options { metric: Metric::L2, ..Options::new(1) }).unwrap()
}

fn add(c: &Collection, rng: &mut Rng, n: usize) {
    let metadatas = (0..n).map(|_| rng.metadata()).collect();
    c.add_many(&vec![0.0; n], NewRows { metadatas: Some(metadatas), ..NewRows::default() }).unwrap();
}

/// Compares what filters pass with what reading every row passes.
fn compare(c: &Collection, filters: &[(Value, Filter)], when: &str) {
    let rows = c.scroll(None, 1_000_000, None).unwrap();
    let none = Metadata::default();
    for (written, filter) in filters {
        let passes = |m: &Option<Metadata>| filter.matches(m.as_ref().unwrap_or(&none));
        let expected: Vec<Id> = rows.iter().filter(|row| passes(&row.metadata)).map(|row| row.id.clone()).collect();
        let found = c.scroll(None, 1_000_000, Some(filter)).unwrap();
        assert!(found.iter().map(|row| &row.id).eq(&expected), "{when}: {written}");
        assert_eq!(c.count(Some(filter)).unwrap(), expected.len(), "{when}: {written}");
        let hits = c.query(&[0.0], &Query::nearest(1_000_000).only(filter.clone())).unwrap();
        assert_eq!(hits.len(), expected.len(), "{when}: {written}");
    }
}

fn filters(rng: &mut Rng, n: usize) -> Vec<(Value, Filter)> {
    let written = (0..n).map(|_| rng.filter(3));
    written.map(|written| (written.clone(), Filter::from_json(&written).unwrap())).collect()
}

#[test]
fn filters_from_columns_pass_what_reading_passes_throughout_a_life() {
    for seed in 1..4 {
        let (dir, mut rng) = (tempfile::tempdir().unwrap(), Rng(seed));
        let db = open(&dir);
        let c = db.collection();
        add(&c, &mut rng, 700);
        compare(&c, &filters(&mut rng, 60), "new");
        // Batches on both sides of what is read one by one.
        for n in [1, 30, 255, 300, 1, 900] {
            add(&c, &mut rng, n);
            compare(&c, &filters(&mut rng, 12), "while rows come");
        }
        for _ in 0..400 {
            let id = Id::Int(rng.below(2_000) as u64);
            if rng.below(2) == 0 {
                c.delete(id).unwrap();
            } else {
                c.upsert(id, Change { vector: Some(vec![0.0]), metadata: rng.metadata(), ..Change::default() })
                    .unwrap();
            }
        }
        let last = filters(&mut rng, 60);
        compare(&c, &last, "after deletes and upserts");
        assert!(c.stats().unwrap().columns_memory > 0 && c.stats().unwrap().filters_memory > 0);
        db.close().unwrap();
        compare(&open(&dir).collection(), &last, "reopened");
    }
}

#[test]
fn a_field_of_long_texts_is_filtered_without_a_column() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let c = db.collection();
    // More text than columns may take.
    for batch in 0..3 {
        let text = |i: usize| format!("{:0>30000}", batch * 500 + i);
        let metadata =
            |i: usize| Some(Metadata::from_json(&json!({"text": text(i), "n": i % 10}).to_string()).unwrap());
        let rows = NewRows { metadatas: Some((0..500).map(metadata).collect()), ..NewRows::default() };
        c.add_many(&[0.0; 500], rows).unwrap();
    }
    let parse = |text: &str| Filter::parse_str(text).unwrap();
    assert_eq!(c.count(Some(&parse("text like '%77'"))).unwrap(), 15);
    assert_eq!(c.count(Some(&parse("text like '%7' and n = 7"))).unwrap(), 150);
    assert_eq!(c.count(Some(&parse("not text like '%7' or n = 3"))).unwrap(), 1_350);
    assert!(c.stats().unwrap().columns_memory < 1 << 20, "{}", c.stats().unwrap().columns_memory);
}

#[test]
fn threads_that_meet_new_fields_together_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let c = db.collection();
    let metadata =
        |i: usize| Some(Metadata::from_json(&json!({"x": i % 3, "y": i % 5, "z": i % 7}).to_string()).unwrap());
    let rows = NewRows { metadatas: Some((0..21_000).map(metadata).collect()), ..NewRows::default() };
    c.add_many(&vec![0.0; 21_000], rows).unwrap();
    std::thread::scope(|scope| {
        for t in 0..6 {
            let (fields, c) = ([["x", "y", "z"], ["z", "y", "x"], ["y", "x", "z"]][t % 3], &c);
            scope.spawn(move || {
                for n in 0..3 {
                    let text = fields.map(|field| format!("{field} = {n}")).join(" and ");
                    assert_eq!(c.count(Some(&Filter::parse_str(&text).unwrap())).unwrap(), 200);
                    c.add(&[0.0], NewRow::default()).unwrap();
                }
            });
        }
    });
    assert_eq!(c.count(Some(&Filter::parse_str("x = 1 and y = 1").unwrap())).unwrap(), 1_400);
}
