//! A real process that writes is killed with SIGKILL at any moment, again and again, on the real file system: what it told
//! us was done is there, what it was doing is there whole or not at all, and nothing else is.
//!
//! The writer is this very binary, started again on one test with a directory in its environment; two threads write at
//! once and tell on the pipe what is acknowledged. `cargo test` kills some; NOPOKEDB_CRASH=long (`make crash`) a thousand.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nopokedb::{Database, RecordId};
use support::{Model, Rng, Row, Write, long, options, perform, served};

/// Writing threads of the child; each has ids of its own.
const WRITERS: u64 = 2;
/// Ids of writer `t` are from `t * SPACE` on.
const SPACE: u64 = 1 << 32;
const DIR: &str = "NOPOKEDB_KILL_DIR";
const FROM: &str = "NOPOKEDB_KILL_FROM";

/// What writer `t` does as its `i`th operation: it follows from these numbers alone.
fn operation(t: u64, i: u64) -> Write {
    let mut rng = Rng(t << 48 ^ i.wrapping_mul(0x9E37_79B9));
    let base = t * SPACE;
    let id = base + rng.next() % 150;
    let x = f32::from(u16::try_from(rng.below(4_000)).unwrap()) / 8.0;
    let batch = |i: u64| base + 1_000 + i * 8;
    match rng.below(100) {
        0..50 => Write::Upsert(0, id, x),
        50..65 => Write::Given(0, (0..8).map(|j| (batch(i) + j, x + j as f32)).collect()),
        65..75 => Write::Document(0, id, 6 + rng.below(9_000)),
        75..85 => Write::Delete(0, id),
        _ => Write::Delete(0, batch(i.saturating_sub(1 + rng.next() % 8)) + rng.next() % 8),
    }
}

/// The child's life: opens, writes and tells until it is killed. As a test of its own it has nothing to do.
#[test]
fn writer_process() {
    let (Ok(dir), Ok(from)) = (std::env::var(DIR), std::env::var(FROM)) else { return };
    let from: Vec<u64> = from.split(',').map(|n| n.parse().unwrap()).collect();
    let db = Database::open(dir, options()).unwrap();
    std::thread::scope(|s| {
        for (t, from) in (0..).zip(from) {
            let db = &db;
            s.spawn(move || {
                for i in from..u64::MAX {
                    work(db, t, i);
                }
            });
        }
    });
}

fn work(db: &Database, t: u64, i: u64) {
    let write = operation(t, i);
    let missing = matches!(write, Write::Document(_, id, _) if !db.collection().contains(RecordId(id)).unwrap());
    if !missing {
        perform(db, &write).unwrap();
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "acked {t} {i}").and_then(|()| out.flush()).unwrap();
    drop(out);
    match i % 97 {
        40 => db.save().unwrap(),
        80 => assert!(db.wait_indexed(Some(Duration::from_secs(60))).unwrap()),
        _ => {}
    }
}

/// What one writer's rows may be.
#[derive(Clone, Debug, Default)]
struct Known {
    /// After everything before `since`.
    model: Model,
    /// Since then, and whether it was acknowledged.
    since: Vec<(Write, bool)>,
    next: u64,
}

impl Known {
    /// Every model that fits what was acknowledged.
    fn candidates(&self) -> Vec<Model> {
        let mut models = vec![self.model.clone()];
        for (write, acked) in &self.since {
            let without = if *acked { Vec::new() } else { models.clone() };
            models.iter_mut().for_each(|m| m.apply(write));
            models.extend(without);
        }
        models
    }
}

fn spawn(dir: &Path, known: &[Known]) -> (Child, Receiver<(usize, u64)>) {
    let from: Vec<String> = known.iter().map(|k| k.next.to_string()).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(FROM, from.join(","))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (tell, told) = channel();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // A line is written with one call, so that a kill does not cut it; libtest's own lines are passed over.
            if let Some((t, i)) = line.split_once("acked ").and_then(|(_, l)| l.split_once(' ')) {
                let _ = tell.send((t.parse().unwrap(), i.parse().unwrap()));
            }
        }
    });
    (child, told)
}

/// Lets a writer work for a while, kills it, and notes what it had acknowledged.
fn one_kill(dir: &Path, known: &mut [Known], rng: &mut Rng) -> usize {
    let (mut child, told) = spawn(dir, known);
    let mut acked = 0;
    let mut note = |known: &mut [Known], (t, i): (usize, u64)| {
        assert_eq!(i, known[t].next, "the writer tells everything, in order");
        known[t].since.push((operation(t as u64, i), true));
        known[t].next += 1;
        acked += 1;
    };
    if rng.chance(30) {
        // Perhaps while it opens.
        std::thread::park_timeout(Duration::from_micros(rng.next() % 30_000));
    } else {
        for _ in 0..rng.below(120) {
            note(known, told.recv_timeout(Duration::from_secs(60)).expect("the writer writes"));
        }
        std::thread::park_timeout(Duration::from_micros(rng.next() % 2_000));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the writer failed before it was killed");
    told.iter().for_each(|ack| note(known, ack));
    for (t, k) in (0..).zip(known) {
        k.since.push((operation(t, k.next), false));
        k.next += 1;
    }
    acked
}

/// Opens the directory and settles what became of the operations that were under way.
fn verify(dir: &Path, known: &mut [Known]) {
    let db = Database::open(dir, options()).expect("opens after a kill");
    let rows = served(&db).remove(&0).unwrap();
    for (t, k) in (0..).zip(known) {
        let own: BTreeMap<u64, Row> = rows.range(t * SPACE..(t + 1) * SPACE).map(|(i, r)| (*i, r.clone())).collect();
        let fits = k.candidates().into_iter().find(|m| m.rows()[&0] == own);
        k.model = fits.unwrap_or_else(|| panic!("writer {t} has {own:?}\nlast operations: {:?}", k.since));
        k.since.clear();
    }
    db.wait_applied().unwrap();
    assert_eq!(db.stats().unwrap().sqlite_error, None);
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    let (lives, kills) = if long() { (20, 55) } else { (1, 15) };
    let (mut done, mut acked) = (0, 0);
    for life in 0..lives {
        let (dir, mut rng) = (tempfile::tempdir().unwrap(), Rng(life));
        let mut known = vec![Known::default(); usize::try_from(WRITERS).unwrap()];
        for kill in 1..=kills {
            acked += one_kill(dir.path(), &mut known, &mut rng);
            done += 1;
            // Often the next writer itself meets what the killed one left.
            if rng.chance(50) || kill == kills || known[0].since.iter().filter(|w| !w.1).count() >= 4 {
                verify(dir.path(), &mut known);
            }
        }
    }
    println!("kills: {done}, acknowledged writes among them: {acked}");
    assert!(acked > done * 5, "hardly anything was written");
}
