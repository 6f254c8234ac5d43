//! Rows that expire: from their instant on no read returns them, whatever it is, and the space comes back.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nopokedb::testing::{Fate, Keep, SimDisk};
use nopokedb::{
    Change, Clock, Collection, Database, ErrorKind, Expiry, Filter, Id, Metadata, Metric, NewRow, NewRows, OnConflict,
    Options, Query, Text,
};
use support::{Rng, long};

const START: SystemTime = UNIX_EPOCH;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn clock() -> Clock {
    Clock::stopped(START + seconds(1_000))
}

fn options(clock: &Clock) -> Options {
    Options { metric: Metric::L2, clock: clock.clone(), graph_from: Some(16), build_threads: 1, ..Options::new(2) }
}

fn row(id: impl Into<Id>, n: u64, expires: Option<Expiry>) -> NewRow {
    let metadata = Some(Metadata::from_json(&format!(r#"{{"n":{n}}}"#)).unwrap());
    NewRow { id: Some(id.into()), metadata, document: Some(format!("word{n} all")), expires, ..NewRow::default() }
}

fn ids(hits: Vec<nopokedb::Hit>) -> Vec<Id> {
    hits.into_iter().map(|hit| hit.id).collect()
}

/// That every read there is knows exactly `wanted` (ids with their n), and none of `hidden`.
fn reads_know(c: &Collection, wanted: &[(Id, u64)], hidden: &[Id], text: bool) {
    let n = wanted.len();
    let sorted = |mut ids: Vec<Id>| {
        ids.sort();
        ids
    };
    let all: Vec<Id> = sorted(wanted.iter().map(|(id, _)| id.clone()).collect());
    assert_eq!((c.len().unwrap(), c.count(None).unwrap(), c.stats().unwrap().rows), (n, n, n as u64));
    assert_eq!(c.is_empty().unwrap(), n == 0);
    let any = Filter::parse_str("n >= 0").unwrap();
    assert_eq!(c.count(Some(&any)).unwrap(), n);
    assert_eq!(sorted(c.scroll(None, 1_000, None).unwrap().into_iter().map(|r| r.id).collect()), all);
    assert_eq!(sorted(c.scroll(None, 1_000, Some(&any)).unwrap().into_iter().map(|r| r.id).collect()), all);
    assert_eq!(c.facets("n", None, 1_000).unwrap().iter().map(|f| f.count).sum::<usize>(), n);
    for (id, n) in wanted {
        assert!(c.contains(id).unwrap());
        assert_eq!(c.get(id).unwrap().unwrap().metadata.unwrap().to_map()["n"], *n);
    }
    for id in hidden {
        assert!(!c.contains(id).unwrap() && c.get(id).unwrap().is_none() && c.metadata(id).unwrap().is_none(), "{id}");
        assert!(!c.delete(id).unwrap_or(false), "{id}");
    }
    assert!(c.get_many(hidden).unwrap().iter().all(Option::is_none));
    let with = |filter: Option<Filter>, exact| Query { filter, exact, ..Query::nearest(1_000) };
    for query in [with(None, false), with(None, true), with(Some(any.clone()), false), with(Some(any), true)] {
        match c.query(&[0.0, 0.0], &query) {
            Ok(hits) => assert_eq!(sorted(ids(hits)), all),
            Err(e) => assert!(e.kind() == ErrorKind::Empty && n == 0, "{e}"),
        }
    }
    if text {
        let words = Query { text: Some(Text::new("all")), ..Query::nearest(1_000) };
        match c.search_text(&words) {
            Ok(hits) => assert_eq!(sorted(ids(hits)), all),
            Err(e) => assert!(e.kind() == ErrorKind::Empty && n == 0, "{e}"),
        }
    }
    if n > 0 {
        assert!((c.recall(20, &Query::nearest(5)).unwrap() - 1.0).abs() < 0.2);
    }
}

#[test]
fn no_read_returns_a_row_from_the_instant_it_expires() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let db = Database::open(dir.path(), options(&clock)).unwrap();
    let c = db.collection();
    c.add(&[1.0, 0.0], row("stays", 1, None)).unwrap();
    c.add(&[0.0, 0.0], row("goes", 2, Some(Expiry::After(seconds(10))))).unwrap();
    c.add(&[2.0, 0.0], row(7, 3, Some(Expiry::At(START + seconds(1_020))))).unwrap();
    c.add(&[3.0, 0.0], row("born dead", 4, Some(Expiry::At(START)))).unwrap();
    let many = NewRows {
        ids: Some(vec![Id::Int(100), Id::Int(101)]),
        metadatas: Some((5..7).map(|n| row(0, n, None).metadata).collect()),
        documents: Some(vec![Some("all".into()), Some("all".into())]),
        expires: Some(vec![None, Some(Expiry::After(seconds(10)))]),
        ..NewRows::default()
    };
    c.add_many(&[4.0, 0.0, 5.0, 0.0], many).unwrap();
    assert_eq!(c.get("goes").unwrap().unwrap().expires_at, Some(START + seconds(1_010)));
    assert_eq!(c.get("stays").unwrap().unwrap().expires_at, None);
    let (stays, goes, seven) = ((Id::from("stays"), 1), (Id::from("goes"), 2), (Id::Int(7), 3));
    let (hundred, one) = ((Id::Int(100), 5), (Id::Int(101), 6));
    let dead = Id::from("born dead");
    let before = [stays.clone(), goes.clone(), seven.clone(), hundred.clone(), one.clone()];
    reads_know(&c, &before, std::slice::from_ref(&dead), true);
    clock.advance(Duration::from_millis(9_999));
    reads_know(&c, &before, std::slice::from_ref(&dead), true);
    clock.advance(Duration::from_millis(1));
    let hidden = [dead, goes.0.clone(), one.0.clone()];
    let after = [stays.clone(), seven, hundred.clone()];
    reads_know(&c, &after, &hidden, true);
    let by_example = Query { positive: vec![goes.0], ..Query::nearest(3) };
    assert!(c.query(&[], &by_example).is_err(), "an example that has expired is none");
    // A reader of its own, with a clock of its own, deletes nothing and hides the same.
    let reader = Database::open(dir.path(), Options { read_only: true, ..options(&clock) }).unwrap();
    reads_know(&reader.collection(), &after, &hidden, false);
    db.reap().unwrap();
    reads_know(&c, &after, &hidden, true);
    reader.refresh().unwrap();
    reads_know(&reader.collection(), &after, &hidden, false);
    assert!(db.check().unwrap().is_ok(), "{}", db.check().unwrap());
    clock.advance(seconds(10));
    reads_know(&reader.collection(), &[stays.clone(), hundred.clone()], &hidden, false);
    db.close().unwrap();
    let db = Database::open(dir.path(), options(&clock)).unwrap();
    reads_know(&db.collection(), &[stays, hundred], &hidden, true);
}

#[test]
fn writes_take_what_has_expired_for_gone() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), clock());
    let db = Database::open(dir.path(), options(&clock)).unwrap();
    let c = db.collection();
    let soon = Some(Expiry::After(seconds(10)));
    let keep = |id: &str| c.get(id).unwrap().unwrap().expires_at;
    for (n, id) in (0..).zip(["add", "upsert", "update", "batch", "kept", "later", "never", "skip"]) {
        c.add(&[0.0, 0.0], row(id, n, soon)).unwrap();
    }
    // What does not speak of it leaves the expiry as it is; what does changes it.
    let metadata = row(0, 9, None).metadata;
    c.upsert("kept", Change { metadata: metadata.clone(), ..Change::default() }).unwrap();
    c.update("kept", metadata.clone().unwrap(), &[]).unwrap();
    assert_eq!(keep("kept"), Some(START + seconds(1_010)));
    let full = row(0, 9, None);
    let all = Change { vector: Some(vec![1.0, 1.0]), metadata: full.metadata, document: full.document, expires: None };
    c.upsert("kept", all.clone()).unwrap();
    let mut batch = c.batch();
    batch.upsert("kept", all).unwrap();
    batch.upsert("later", Change { expires: Some(Expiry::After(seconds(99))), ..Change::default() }).unwrap();
    batch.commit().unwrap();
    c.upsert("never", Change { expires: Some(Expiry::Never), ..Change::default() }).unwrap();
    assert_eq!(
        (keep("kept"), keep("later"), keep("never")),
        (Some(START + seconds(1_010)), Some(START + seconds(1_099)), None)
    );
    clock.advance(seconds(10));
    assert_eq!(c.len().unwrap(), 2);
    assert!(!c.delete("kept").unwrap());
    assert_eq!(c.delete_where(&Filter::parse_str("n >= 0").unwrap()).unwrap(), 2);
    assert_eq!(c.add(&[5.0, 0.0], row("add", 50, None)).unwrap(), Id::from("add"));
    let skip = NewRow { on_conflict: OnConflict::Skip, ..row("skip", 51, None) };
    c.add(&[5.0, 0.0], skip).unwrap();
    assert!(
        c.upsert("upsert", Change { metadata: metadata.clone(), ..Change::default() }).is_err(),
        "no vector to keep"
    );
    c.upsert("upsert", Change { vector: Some(vec![1.0, 2.0]), ..Change::default() }).unwrap();
    let anew = c.get("upsert").unwrap().unwrap();
    assert_eq!(
        (anew.metadata, anew.document, anew.expires_at),
        (None, None, None),
        "nothing is kept of what had expired"
    );
    assert!(c.update("update", metadata.unwrap(), &[]).is_err());
    let mut batch = c.batch();
    batch.delete("batch");
    batch.add(&[9.0, 0.0], row("batch", 52, soon)).unwrap();
    assert_eq!(batch.commit().unwrap(), [false, true]);
    db.reap().unwrap();
    assert_eq!(c.len().unwrap(), 4);
    assert!(db.check().unwrap().is_ok(), "{}", db.check().unwrap());
    assert!(c.add(&[0.0, 0.0], row("x", 0, Some(Expiry::After(Duration::MAX)))).is_err());
}

#[test]
fn the_background_deletes_what_has_expired_and_gives_the_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let db = Database::open(dir.path(), Options { segment_bytes: 64 << 10, ..options(&clock) }).unwrap();
    let c = db.collection();
    let n = 3_000;
    let (expires, documents) = (Some(vec![Some(Expiry::After(seconds(5))); n]), Some(vec![Some("x".repeat(200)); n]));
    c.add_many(&vec![0.5; 2 * n], NewRows { expires, documents, ..NewRows::default() }).unwrap();
    c.add(&[1.0, 1.0], row("stays", 0, None)).unwrap();
    let written = db.stats().unwrap();
    assert_eq!((written.rows, written.dead_rows), (n as u64 + 1, 0));
    clock.advance(seconds(5));
    // A write wakes the background, as the instant itself does where the clock goes on by itself.
    c.add(&[1.0, 1.0], row("stays too", 0, None)).unwrap();
    let begun = Instant::now();
    loop {
        let stats = db.stats().unwrap();
        if stats.visible_lsn == written.visible_lsn + 1 + n as u64 && stats.log_bytes < written.log_bytes / 2 {
            break;
        }
        assert!(begun.elapsed() < seconds(60), "{stats:?}, {} bytes before", written.log_bytes);
        let _ = db.wait_indexed(Some(Duration::from_millis(20)));
        std::thread::yield_now();
    }
    assert_eq!(c.len().unwrap(), 2);
    let report = db.check().unwrap();
    assert!(report.is_ok() && report.sqlite_rows == 2, "{report}");
}

/// What a model knows of a row: its number, and when it expires.
type Model = BTreeMap<Id, (u64, Option<u64>)>;

struct World {
    db: Database,
    clock: Clock,
    now: u64,
    model: Model,
    rng: Rng,
    n: u64,
}

impl World {
    fn expiry(&mut self) -> (Option<Expiry>, Option<u64>) {
        match self.rng.below(4) {
            0 => (None, None),
            1 => (Some(Expiry::At(START + seconds(self.now - 1))), Some(self.now - 1)),
            _ => {
                let after = 1 + self.rng.below(30) as u64;
                (Some(Expiry::After(seconds(after))), Some(self.now + after))
            }
        }
    }

    fn id(&mut self) -> Id {
        let n = self.rng.below(60) as u64;
        if n.is_multiple_of(2) { Id::Int(n) } else { Id::from(format!("text {n}")) }
    }

    fn expire(&mut self) {
        let now = self.now;
        self.model.retain(|_, (_, expires)| expires.is_none_or(|at| at > now));
    }

    fn step(&mut self) {
        let c = self.db.collection();
        let (id, (expires, at)) = (self.id(), self.expiry());
        self.n += 1;
        let vector = [self.n as f32, 1.0];
        match self.rng.below(10) {
            0..3 => {
                let exists = self.model.contains_key(&id);
                let added = c.add(&vector, row(id.clone(), self.n, expires));
                assert_eq!(added.is_err(), exists, "{id}");
                if !exists {
                    self.model.insert(id, (self.n, at));
                }
            }
            3 | 4 => {
                let NewRow { metadata, document, .. } = row(0, self.n, None);
                let change = Change { vector: Some(vector.to_vec()), metadata, document, expires };
                c.upsert(id.clone(), change).unwrap();
                let kept = self.model.get(&id).and_then(|(_, at)| *at);
                self.model.insert(id, (self.n, if expires.is_some() { at } else { kept }));
            }
            5 => {
                let set = row(0, self.n, None).metadata.unwrap();
                let updated = c.update(id.clone(), set, &[]);
                assert_eq!(updated.is_ok(), self.model.contains_key(&id));
                self.model.entry(id).and_modify(|(n, _)| *n = self.n);
            }
            6 => assert_eq!(c.delete(&id).unwrap(), self.model.remove(&id).is_some()),
            7 => {
                let (other, NewRow { metadata, document, .. }) = (self.id(), row(0, self.n, None));
                let expires = Some(expires.unwrap_or(Expiry::Never));
                let change = Change { vector: Some(vector.to_vec()), metadata, document, expires };
                let mut batch = c.batch();
                batch.delete(&other);
                batch.upsert(id.clone(), change).unwrap();
                batch.commit().unwrap();
                self.model.remove(&other);
                self.model.insert(id, (self.n, at));
            }
            8 => {
                let by = self.rng.below(8) as u64;
                self.now += by;
                self.clock.advance(seconds(by));
            }
            _ => drop(self.db.reap().unwrap()),
        }
        self.expire();
    }

    fn compare(&self, text: bool) {
        let wanted: Vec<(Id, u64)> = self.model.iter().map(|(id, (n, _))| (id.clone(), *n)).collect();
        reads_know(&self.db.collection(), &wanted, &[], text);
    }
}

#[test]
fn a_model_agrees_through_random_writes_time_reopenings_and_lost_caches() {
    for seed in support::seeds(1, if long() { 200 } else { 6 }) {
        let (mut disk, clock) = (SimDisk::new(), clock());
        let at = Path::new("/db");
        let open = |disk: &SimDisk| Database::open_on(Arc::new(disk.clone()), at, options(&clock)).unwrap();
        let db = open(&disk);
        let mut world = World { db, clock: clock.clone(), now: 1_000, model: Model::new(), rng: Rng(seed), n: 0 };
        for step in 0..120 {
            world.step();
            if step % 10 == 9 {
                world.compare(step % 40 == 39);
            }
            if world.rng.chance(4) {
                // With a crash, an index image, or neither.
                match world.rng.below(3) {
                    0 => drop(world.db.save()),
                    1 => {
                        disk = disk.crash_now(Fate::keeping(Keep::Nothing));
                        world.db = open(&disk);
                    }
                    _ => {}
                }
                if world.rng.chance(50) {
                    let reader = Options { read_only: true, ..options(&clock) };
                    world.db.close().unwrap();
                    let reader = Database::open_on(Arc::new(disk.clone()), at, reader).unwrap();
                    assert_eq!(reader.collection().len().unwrap(), world.model.len(), "seed {seed} step {step}");
                    drop(reader);
                    world.db = open(&disk);
                }
            }
        }
        world.compare(true);
        let report = world.db.check().unwrap();
        assert!(report.is_ok(), "seed {seed}: {report}");
    }
}
