//! A process that writes until it is stopped and tells on a pipe what was acknowledged, and what its database may hold then.
//!
//! The process is the test's own binary, started again on its test `writer_process` with a directory in its environment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nopokedb::{Database, Options};

use super::{Model, Rng, Row, TEXT, Write, id, options, perform, served};

/// Writing threads of the child; each has ids of its own.
pub const WRITERS: u64 = 2;
/// Ids of writer `t` are from `t * SPACE` on.
const SPACE: u64 = 1 << 32;
const DIR: &str = "NOPOKEDB_WRITER_DIR";
const FROM: &str = "NOPOKEDB_WRITER_FROM";

/// What writer `t` does as its `i`th operation: it follows from these numbers alone.
fn operation(t: u64, i: u64) -> Write {
    let mut rng = Rng(t << 48 ^ i.wrapping_mul(0x9E37_79B9));
    let base = t * SPACE;
    let id = base + rng.next() % 150;
    let x = f32::from(u16::try_from(rng.below(4_000)).unwrap()) / 8.0;
    let batch = |i: u64| base + 1_000 + i * 8;
    match rng.below(100) {
        0..40 => Write::Upsert(0, id, x),
        40..46 => Write::Upsert(0, TEXT + id, x),
        46..52 => {
            let (row, named) = (Write::Upsert(0, id, x), Write::Upsert(0, TEXT + id, x));
            let gone = [Write::Delete(0, id + 1), Write::Delete(0, TEXT + id + 1)];
            Write::Mixed(0, [row, Write::Note(0, id, 7), named].into_iter().chain(gone).collect())
        }
        52..58 => Write::Note(0, id, if rng.chance(30) { 0 } else { 5 }),
        58..68 => Write::Given(0, (0..8).map(|j| (batch(i) + j, x + j as f32)).collect()),
        68..75 => Write::Document(0, id, 6 + rng.below(9_000)),
        75..80 => Write::Delete(0, id),
        80..85 => Write::Delete(0, TEXT + id),
        _ => Write::Delete(0, batch(i.saturating_sub(1 + rng.next() % 8)) + rng.next() % 8),
    }
}

/// The child's life: opens, writes and tells until it is stopped. In a test run of its own there is nothing to do.
pub fn write_if_asked() {
    let (Ok(dir), Ok(from)) = (std::env::var(DIR), std::env::var(FROM)) else { return };
    let from: Vec<u64> = from.split(',').map(|n| n.parse().unwrap()).collect();
    // A program that another test starts at this moment may hold the lock of the last opening until it runs.
    let db = Database::open(dir, Options { timeout_ms: 10_000, ..options() }).unwrap();
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
    let missing = match write {
        Write::Document(_, n, _) | Write::Note(_, n, _) => !db.collection().contains(id(n)).unwrap(),
        _ => false,
    };
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
    /// Since then, for each life of the process: what was acknowledged, then what is in doubt. Of the latter the first so
    /// many are there, for one began when the one before it was done.
    since: Vec<(Vec<Write>, Vec<Write>)>,
    next: u64,
}

impl Known {
    /// Every model that fits what was acknowledged.
    fn candidates(&self) -> Vec<Model> {
        let mut models = vec![self.model.clone()];
        for (acked, doubtful) in &self.since {
            models.iter_mut().for_each(|m| acked.iter().for_each(|w| m.apply(w)));
            let mut further = models.clone();
            for write in doubtful {
                further.iter_mut().for_each(|m| m.apply(write));
                models.extend(further.iter().cloned());
            }
        }
        models
    }
}

/// What all writers' rows may be.
#[derive(Clone, Debug)]
pub struct Oracle {
    writers: Vec<Known>,
    /// Writes that were acknowledged so far.
    pub acked: u64,
}

/// A writer at work.
pub struct Writer {
    pub child: Child,
    told: Receiver<(usize, u64)>,
}

impl Oracle {
    /// Nothing was written yet.
    pub fn new() -> Oracle {
        Oracle { writers: vec![Known::default(); usize::try_from(WRITERS).unwrap()], acked: 0 }
    }

    /// Starts a process that goes on where the last one was stopped.
    pub fn start(&mut self, dir: &Path) -> Writer {
        let from: Vec<String> = self.writers.iter().map(|k| k.next.to_string()).collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .env(FROM, from.join(","))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.writers.iter_mut().for_each(|k| k.since.push(<_>::default()));
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
        Writer { child, told }
    }

    fn note(&mut self, (t, i): (usize, u64), doubtful: bool) {
        let known = &mut self.writers[t];
        assert_eq!(i, known.next, "the writer tells everything, in order");
        let life = known.since.last_mut().expect("a writer was started");
        if doubtful { &mut life.1 } else { &mut life.0 }.push(operation(t as u64, i));
        known.next += 1;
        self.acked += u64::from(!doubtful);
    }

    /// Notes what the writer told until now.
    pub fn heard(&mut self, writer: &Writer) {
        while let Ok(ack) = writer.told.try_recv() {
            self.note(ack, false);
        }
    }

    /// Waits for so many acknowledgements.
    pub fn hear(&mut self, writer: &Writer, acks: usize) {
        for _ in 0..acks {
            self.note(writer.told.recv_timeout(Duration::from_secs(60)).expect("the writer writes"), false);
        }
    }

    /// The writer is dead: notes what it still told, which is `doubtful` if the power was gone by then, and what was under way.
    pub fn buried(&mut self, writer: &Writer, doubtful: bool) {
        for ack in &writer.told {
            self.note(ack, doubtful);
        }
        for t in 0..self.writers.len() {
            self.note((t, self.writers[t].next), true);
        }
    }

    /// Operations whose outcome is not known yet, at most, of a writer.
    pub fn open(&self) -> usize {
        self.writers.iter().map(|k| k.since.iter().map(|life| life.1.len()).sum()).max().unwrap_or(0)
    }

    /// Opens the directory, holds it against all that was acknowledged, and settles what became of the operations that were
    /// under way.
    pub fn verify(&mut self, dir: &Path) {
        let db = Database::open(dir, options()).unwrap_or_else(|e| panic!("{} does not open: {e}", dir.display()));
        let rows = served(&db).remove(&0).unwrap();
        for (t, k) in (0..).zip(&mut self.writers) {
            let its_own = |n: u64| n % TEXT / SPACE == t;
            let own: BTreeMap<u64, Row> =
                rows.iter().filter(|(n, _)| its_own(**n)).map(|(n, r)| (*n, r.clone())).collect();
            let fits = k.candidates().into_iter().find(|m| m.rows()[&0] == own);
            k.model = fits.unwrap_or_else(|| panic!("writer {t} has {own:?}\nlast operations: {:?}", k.since));
            k.since.clear();
        }
        db.wait_applied().unwrap();
        assert_eq!(db.stats().unwrap().sqlite_error, None);
        let report = db.check().unwrap();
        assert!(report.is_ok(), "{report}");
    }
}

impl Oracle {
    /// Rows that may be there, of all writers.
    pub fn rows(&self) -> usize {
        self.writers.iter().map(|k| k.model.0[&0].rows.len()).sum()
    }

    /// Deletes all rows, which were verified just now.
    pub fn clear(&mut self, dir: &Path) {
        let db = Database::open(dir, options()).unwrap();
        let c = db.collection();
        let mut batch = c.batch();
        for known in &mut self.writers {
            assert!(known.since.is_empty());
            for n in known.model.rows()[&0].keys() {
                batch.delete(id(*n));
                known.model.apply(&Write::Delete(0, *n));
            }
        }
        batch.commit().unwrap();
        db.close().unwrap();
    }
}

/// Lets a writer work for a while, kills it, and notes what it had acknowledged.
pub fn one_kill(dir: &Path, oracle: &mut Oracle, rng: &mut Rng) {
    let mut writer = oracle.start(dir);
    if rng.chance(30) {
        // Perhaps while it opens.
        std::thread::park_timeout(Duration::from_micros(rng.next() % 30_000));
    } else {
        oracle.hear(&writer, rng.below(120));
        std::thread::park_timeout(Duration::from_micros(rng.next() % 2_000));
    }
    writer.child.kill().unwrap();
    let status = writer.child.wait().unwrap();
    assert_eq!(status.code(), None, "the writer failed before it was killed");
    oracle.buried(&writer, false);
}
