//! Random operations of every verb, with reopenings, kills, losses of power, lost caches and readers at work, against a map
//! and brute force.
//!
//! The operations follow from a seed. `cargo test` does some thousands; `make crash` sets NOPOKEDB_CRASH=long and does a
//! million. A failure prints the seed and the last operations; NOPOKEDB_SEED=<n> repeats that life alone.
#![allow(clippy::disallowed_methods, reason = "deletes caches behind the database's back")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nopokedb::testing::{Fate, Keep, SimDisk};
use nopokedb::{Database, Query};
use support::{
    Expires, Model, Rng, Row, TEXT, Write, collection, long, number, options, perform, seeds, served, vector,
};
use tempfile::TempDir;

/// Collections in play, the default one among them.
const COLLECTIONS: u8 = 3;
/// Rows of a collection above which more are deleted than added.
const CROWDED: usize = 150;

/// Where a life takes place.
enum World {
    /// On a disk that can lose what was not synced.
    Sim(SimDisk),
    /// In a real directory, with SQLite's files.
    Dir(TempDir),
}

impl World {
    fn sim() -> World {
        World::Sim(SimDisk::new())
    }

    /// In memory where the system has such a place: what is tested here is not the disk.
    fn dir() -> World {
        let shm = Path::new("/dev/shm");
        World::Dir(if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap())
    }

    fn open(&self) -> Database {
        match self {
            World::Sim(disk) => Database::open_on(Arc::new(disk.clone()), Path::new("/db"), options()),
            World::Dir(dir) => Database::open(dir.path(), options()),
        }
        .expect("opens")
    }

    /// Ends the process: by a kill, or with a loss of power. A real directory can only be closed.
    fn end(self, db: Database, rng: &mut Rng) -> World {
        let World::Sim(disk) = self else {
            drop(db);
            return self;
        };
        let fate = match rng.below(4) {
            0 => Fate::NOTHING,
            1 => Fate::EVERYTHING,
            2 => Fate::keeping(Keep::Random(rng.next())),
            _ => Fate::keeping(Keep::Random(rng.next())).with_noise(),
        };
        // A kill keeps the journal, so that most ends are losses of power, which begin a new one.
        let (crashed, killed) = (disk.crash_now(fate), disk.kill());
        drop(db);
        World::Sim(if rng.chance(20) { killed } else { crashed })
    }

    /// Deletes caches, or cuts them short. The database is closed.
    fn lose_caches(&self, rng: &mut Rng) {
        let World::Dir(dir) = self else { return };
        let index = fs::read_dir(dir.path().join("index")).into_iter().flatten();
        for entry in fs::read_dir(dir.path()).unwrap().chain(index).map(Result::unwrap) {
            let file = entry.file_name().into_string().unwrap();
            if (file.contains(".sqlite") || file.contains(".idx")) && rng.chance(60) {
                if rng.chance(50) {
                    fs::remove_file(entry.path()).unwrap();
                } else {
                    let bytes = fs::read(entry.path()).unwrap();
                    fs::write(entry.path(), &bytes[..rng.below(bytes.len() + 1)]).unwrap();
                }
            }
        }
    }
}

/// One database and what it should hold.
struct Life {
    rng: Rng,
    world: Option<World>,
    db: Option<Database>,
    model: Model,
    /// The last operations, for the message of a failure.
    told: Vec<String>,
    done: u64,
    /// Hits that search without `exact` should have found, and those it did find.
    recall: (usize, usize),
}

impl Life {
    fn new(world: World, seed: u64) -> Life {
        let db = Some(world.open());
        let (rng, model) = (Rng(seed), Model::default());
        Life { rng, world: Some(world), db, model, told: Vec::new(), done: 0, recall: (0, 0) }
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("open between operations")
    }

    fn tell(&mut self, what: String) {
        if self.told.len() >= 40 {
            self.told.remove(0);
        }
        self.told.push(what);
    }

    /// A collection that exists.
    fn some_collection(&mut self) -> u8 {
        let names: Vec<u8> = self.model.0.keys().copied().collect();
        names[self.rng.below(names.len())]
    }

    /// An id that lives, or one that does not.
    fn some_id(&mut self, c: u8) -> u64 {
        let rows = &self.model.0[&c];
        let wild = rows.next + 5;
        match self.rng.below(rows.rows.len() + 1) {
            0 if self.rng.chance(30) => TEXT + self.rng.next() % 40,
            0 => self.rng.next() % wild,
            n => *rows.rows.keys().nth(n - 1).unwrap(),
        }
    }

    fn x(&mut self) -> f32 {
        f32::from(u16::try_from(self.rng.below(4_000)).unwrap()) / 8.0
    }

    fn some_write(&mut self) -> Write {
        let c = self.some_collection();
        let crowded = self.model.0[&c].rows.len() > CROWDED;
        let id = self.some_id(c);
        match self.rng.below(100) {
            _ if crowded && self.rng.chance(50) => Write::Delete(c, id),
            0..20 => Write::Add(c, self.x()),
            20..30 => Write::Batch(c, (0..=self.rng.below(12)).map(|_| self.x()).collect()),
            30 => Write::Batch(c, (0..70).map(|_| self.x()).collect()),
            31..40 => self.given(c),
            40..47 => self.mixed(c),
            47..56 => Write::Upsert(c, id, self.x()),
            56..60 => {
                let when = if self.rng.chance(60) { Expires::InAges } else { Expires::Already };
                Write::Expiring(c, id, self.x(), when)
            }
            60..65 => Write::Note(c, id, u32::try_from(self.rng.below(3)).unwrap()),
            65..70 => Write::Retag(c, id, u32::try_from(self.rng.below(1_000)).unwrap()),
            70..74 => Write::Document(c, id, 6 + self.rng.below(20_000)),
            74..80 => Write::Document(c, id, 6 + self.rng.below(100)),
            80..95 => Write::Delete(c, id),
            95..98 if self.rng.chance(90) => Write::DeleteWhere(c, u32::try_from(self.rng.below(1_000)).unwrap()),
            95..98 => Write::DeleteWhere(c, 1),
            98 => Write::Create(1 + u8::try_from(self.rng.below(COLLECTIONS.into())).unwrap() % (COLLECTIONS - 1)),
            _ if c != 0 => Write::Drop(c),
            _ => Write::Create(1),
        }
    }

    /// Rows under ids that are free, at least when they are drawn.
    fn given(&mut self, c: u8) -> Write {
        let mut ids: Vec<u64> =
            (0..=self.rng.below(4)).map(|_| self.rng.next() % (self.model.0[&c].next + 20)).collect();
        ids.iter_mut().filter(|_| self.rng.chance(20)).for_each(|id| *id = TEXT + *id % 40);
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| !self.model.0[&c].rows.contains_key(id));
        Write::Given(c, ids.into_iter().map(|id| (id, self.x())).collect())
    }

    /// Several writes of which each may touch what one before it did.
    fn mixed(&mut self, c: u8) -> Write {
        let mut then = Model([(c, self.model.0[&c].clone())].into());
        let first = then.0[&c].next;
        let mut writes = Vec::new();
        for _ in 0..=self.rng.below(8) {
            // An automatic id is drawn before the batch is done: whoever upserts one above it here would be in its way.
            let id = Some(self.some_id(c)).filter(|&id| id < first || id >= TEXT).unwrap_or(TEXT + 7);
            let write = match (then.0[&c].rows.contains_key(&id), self.rng.below(8)) {
                (_, 0 | 1) => Write::Add(c, self.x()),
                (_, 2) => Write::Delete(c, id),
                (true, 3) => Write::Retag(c, id, 5),
                (true, 4 | 5) => Write::Note(c, id, u32::try_from(self.rng.below(3)).unwrap()),
                (true, 6) => Write::Document(c, id, 6 + self.rng.below(3_000)),
                _ => Write::Upsert(c, id, self.x()),
            };
            then.apply(&write);
            writes.push(write);
        }
        Write::Mixed(c, writes)
    }

    /// Whether a write that must change a row has one to change.
    fn is_possible(&self, write: &Write) -> bool {
        match write {
            Write::Retag(c, id, _) | Write::Note(c, id, _) | Write::Document(c, id, _) => {
                self.model.0[c].rows.contains_key(id)
            }
            _ => true,
        }
    }

    fn write(&mut self) {
        let write = self.some_write();
        self.tell(format!("{write:?}"));
        let outcome = perform(self.db(), &write);
        if self.is_possible(&write) {
            outcome.unwrap();
            self.model.apply(&write);
        } else {
            outcome.expect_err("there is no such row");
        }
    }

    /// Looks at one row in each way.
    fn read(&mut self) {
        let c = self.some_collection();
        let id = self.some_id(c);
        self.tell(format!("read {id} of {c}"));
        let (expected, at) = (self.model.0[&c].rows.get(&id), support::id(id));
        let coll = collection(self.db(), c).unwrap();
        assert_eq!(coll.len().unwrap(), self.model.0[&c].rows.len());
        assert_eq!(coll.contains(&at).unwrap(), expected.is_some());
        assert_eq!(coll.metadata(&at).unwrap().is_some(), expected.is_some());
        let row = coll.get(&at).unwrap();
        assert_eq!(row.as_ref().map(|r| r.vector[0]), expected.map(|r| r.x));
        assert_eq!(row.map_or(0, |r| r.document.map_or(0, |d| d.len())), expected.map_or(0, |r| r.document));
    }

    /// Searches, and compares with brute force.
    fn search(&mut self) {
        let c = self.some_collection();
        let (at, k, exact) = (self.x(), 1 + self.rng.below(20), self.rng.chance(40));
        self.tell(format!("search {c} at {at} for {k}, exact {exact}"));
        let rows = &self.model.0[&c].rows;
        let coll = collection(self.db(), c).unwrap();
        let query = Query { exact, ..Query::nearest(k) };
        if rows.is_empty() {
            coll.query(&vector(at), &query).expect_err("nothing to find");
            return;
        }
        let mut distances: Vec<f32> = rows.values().map(|r| (r.x - at).powi(2)).collect();
        distances.sort_by(f32::total_cmp);
        distances.truncate(k);
        let hits = coll.query(&vector(at), &query).unwrap();
        assert_eq!(hits.len(), distances.len(), "always min(k, rows) hits");
        let mut found = 0;
        for (i, hit) in hits.iter().enumerate() {
            let distance = (rows[&number(&hit.id)].x - at).powi(2);
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-4 * a.abs().max(1.0);
            assert!(close(hit.distance, distance), "{} for {distance}", hit.distance);
            assert!(!exact || close(hit.distance, distances[i]), "hit {i}: {hit:?} for {}", distances[i]);
            found += usize::from(close(hit.distance, distances[i]));
        }
        self.recall = (self.recall.0 + hits.len(), self.recall.1 + found);
    }

    /// Readers at work while rows are written: what nobody touches is found, always, and nothing is torn.
    fn burst(&mut self) {
        self.tell("a burst of writes under readers".into());
        let rows = self.model.0[&0].rows.clone();
        let stable: Vec<(u64, Row)> = rows.into_iter().filter(|(id, _)| id % 2 == 0).collect();
        let stop = AtomicBool::new(false);
        let db = self.db().clone();
        std::thread::scope(|s| {
            let readers: Vec<_> = (0..2).map(|_| s.spawn(|| watch(&db, &stable, &stop))).collect();
            let written = catch_unwind(AssertUnwindSafe(|| {
                for _ in 0..12 {
                    let write = self.some_write();
                    let touched = match &write {
                        Write::Upsert(0, id, _) | Write::Retag(0, id, _) | Write::Document(0, id, _) => id % 2 == 0,
                        Write::Delete(0, id) | Write::Note(0, id, _) | Write::Expiring(0, id, ..) => id % 2 == 0,
                        Write::Mixed(..)
                        | Write::DeleteWhere(..)
                        | Write::Drop(_)
                        | Write::Create(_)
                        | Write::CreateAll(_) => true,
                        _ => false,
                    };
                    if !touched && self.is_possible(&write) {
                        perform(&db, &write).unwrap();
                        self.model.apply(&write);
                    }
                }
            }));
            stop.store(true, Relaxed);
            readers.into_iter().for_each(|r| r.join().unwrap());
            written.unwrap_or_else(|panic| resume_unwind(panic));
        });
    }

    /// The database as a whole is the model.
    fn compare(&self) {
        assert_eq!(served(self.db()), self.model.rows());
    }

    fn again(&mut self, what: &str, end: impl FnOnce(World, Database, &mut Rng) -> World) {
        self.tell(what.into());
        let (world, db) = (self.world.take().unwrap(), self.db.take().unwrap());
        let world = end(world, db, &mut self.rng);
        self.db = Some(world.open());
        self.world = Some(world);
        self.compare();
    }

    fn step(&mut self) {
        self.done += 1;
        match self.rng.below(1_000) {
            0..550 => self.write(),
            550..730 => self.read(),
            730..950 => self.search(),
            950..962 => self.burst(),
            962..970 => self.db().save().unwrap(),
            970..978 => assert!(self.db().wait_indexed(Some(Duration::from_secs(60))).unwrap()),
            978..982 => {
                self.db().wait_applied().unwrap();
                let stats = self.db().stats().unwrap();
                assert_eq!((stats.sqlite_error, stats.background_error, stats.writes_stopped), (None, None, None));
            }
            982..988 => self.again("close and open", |world, db, _| {
                db.close().unwrap();
                db.collection().len().expect_err("a closed handle");
                world
            }),
            988..992 => self.again("lose caches", |world, db, rng| {
                drop(db);
                world.lose_caches(rng);
                world
            }),
            _ => self.again("the end of the process", World::end),
        }
    }
}

/// Reads what does not change, until told to stop.
fn watch(db: &Database, stable: &[(u64, Row)], stop: &AtomicBool) {
    let c = db.collection();
    while !stop.load(Relaxed) {
        for (id, row) in stable.iter().take(20) {
            let got = c.get(support::id(*id)).unwrap().expect("a row that nobody touches");
            assert_eq!(got.vector[0], row.x);
        }
        let Ok(hits) = c.query(&vector(100.0), &Query { exact: true, ..Query::nearest(1_000_000) }) else { continue };
        let ids: std::collections::BTreeSet<u64> = hits.iter().map(|h| number(&h.id)).collect();
        assert_eq!(ids.len(), hits.len(), "a row twice");
        assert!(stable.iter().all(|(id, _)| ids.contains(id)), "a row that nobody touches is not found");
    }
}

/// Lives `steps` operations. On a failure says how to repeat it.
fn live(world: World, seed: u64, steps: u64) -> u64 {
    let mut life = Life::new(world, seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        (0..steps).for_each(|_| life.step());
        life.compare();
    }));
    if let Err(panic) = outcome {
        eprintln!("seed {seed}, operation {}, the last ones:\n  {}", life.done, life.told.join("\n  "));
        resume_unwind(panic);
    }
    let (asked, found) = life.recall;
    // Few rows in few dimensions: a walk that misses some has met a wall.
    assert!(asked < 1_000 || found * 1_000 >= asked * 998, "recall {found} of {asked}, seed {seed}");
    life.done
}

/// Lives all of `seeds` on two threads.
fn live_all(what: &str, seeds: Range<u64>, steps: u64, world: fn() -> World) {
    let done = AtomicU64::new(0);
    std::thread::scope(|s| {
        let lives = |part: usize| seeds.clone().skip(part).step_by(2);
        let threads: Vec<_> = (0..2)
            .map(|part| {
                let (done, lives) = (&done, lives(part));
                s.spawn(move || {
                    for seed in lives {
                        done.fetch_add(live(world(), seed, steps), Relaxed);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap_or_else(|panic| resume_unwind(panic)));
    });
    println!("model-operations: {} {what}", done.into_inner());
}

#[test]
fn random_operations_agree_with_the_model_through_kills_and_losses_of_power() {
    let (lives, steps) = if long() { (180, 5_000) } else { (6, 1_500) };
    live_all("with losses of power", seeds(1, lives), steps, World::sim);
}

#[test]
fn random_operations_agree_with_the_model_through_lost_and_damaged_caches() {
    let (lives, steps) = if long() { (40, 5_000) } else { (2, 1_200) };
    live_all("with lost caches", seeds(1_001, lives), steps, World::dir);
}
