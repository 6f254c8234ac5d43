//! Readers beside a writer: at every operation of every workload they see what was acknowledged, whole batches of it, in order;
//! nothing that a loss of power at that moment would take away; and they change nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use nopokedb::testing::crash::History;
use nopokedb::testing::{Beacon, Entry, EntryKind, Fate, LockGuard, OpenMode, Region, SimDisk, Vfs, VfsFile, Word};
use nopokedb::{Database, Options};

use crate::support::Write::{Add, Batch, Create, Delete, Document, Drop, Given, Mixed, Note, Retag, Upsert};
use crate::support::{Model, Row, TEXT, Write, long, options, served};
use crate::workload::*;
use crate::workloads::{large, random, steps, xs};

type Shown = BTreeMap<u8, BTreeMap<u64, Row>>;

fn reader(disk: &SimDisk) -> nopokedb::Result<Database> {
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    Database::open_on(vfs, Path::new(DIR), Options { read_only: true, ..options() })
}

/// What was acknowledged after `point` operations, and what was tried.
fn known(history: &History<Write>, point: usize) -> (Shown, Shown) {
    history.at(point, |seen| (Model::of(seen.acked()).rows(), Model::of(seen.possible()).rows()))
}

/// Lives with everything that changes files: rolls, footers, compactions, collections, closes, unclean ends.
fn lives() -> Vec<Vec<Step>> {
    let small = [Batch(0, xs(3)), Add(0, 1.5), Upsert(0, 1, 9.0), Given(0, vec![(70, 1.0), (7, 2.0)]), Delete(0, 0)];
    let named = vec![Add(0, 4.0), Upsert(0, TEXT, 2.0), Note(0, TEXT, 3), Delete(0, 1), Upsert(0, TEXT + 1, 3.0)];
    let mixed = [Batch(0, xs(4)), Mixed(0, named), Note(0, 2, 5), Delete(0, TEXT)];
    let frames = [Batch(0, xs(90)), Retag(0, 4, 7), Batch(0, xs(60)), Delete(0, 89)];
    let dead = [Delete(0, 0), Delete(0, 1), Delete(0, 2), Upsert(0, 3, 4.0)].map(Do);
    // A segment of rows that stay, and behind it segments of which nothing stays.
    let left_out = (0..5).map(|n| Do(Document(0, 4, 61_000 + n))).collect();
    let made = [Create(1), Batch(1, xs(3)), Add(0, 1.0), Drop(1), Add(0, 2.0), Create(1), Add(1, 9.0)].map(Do);
    vec![
        steps([mixed.map(Do).to_vec(), vec![Die, Do(Upsert(0, TEXT, 9.0)), Reopen, Do(Delete(0, TEXT + 1))]]),
        steps([small.map(Do).to_vec(), vec![Quiet, Do(Add(0, 6.0)), Close]]),
        steps([frames.map(Do).to_vec(), vec![Die, Do(Add(0, 8.0)), Die, Do(Delete(0, 3)), Reopen, Do(Add(0, 9.0))]]),
        steps([large(0..5), dead.to_vec(), vec![Compacted], large(5..6), vec![Quiet, Do(Add(0, 5.0)), Reopen]]),
        steps([large(0..4), dead[..3].to_vec(), vec![Die, Do(Add(0, 5.0)), Compacted, Die, Do(Delete(0, 3))]]),
        steps([made.to_vec(), vec![Index, Save, Do(Batch(0, xs(12))), Index, Reopen, Do(Drop(1)), Do(Add(0, 3.0))]]),
        steps([
            vec![Do(Batch(0, vec![1.0; 800]))],
            left_out,
            vec![Quiet, Do(Add(0, 2.0)), Quiet, Do(Add(0, 3.0)), Reopen],
        ]),
        steps([
            (0..9u16).map(|x| Do(Add(0, x.into()))).collect(),
            vec![Settle, Do(Add(0, 20.0)), Settle, Do(Add(0, 21.0))],
        ]),
        vec![Do(Add(0, 1.0)), Do(Document(0, 0, 90_000)), Do(Add(0, 2.0)), Do(Document(0, 1, 30_000)), Quiet],
    ]
}

fn random_lives() -> impl Iterator<Item = Vec<Step>> {
    let (count, len) = if long() { (60, 60) } else { (2, 25) };
    (900..900 + count).map(move |seed| random(seed, len))
}

#[test]
fn a_reader_at_any_moment_sees_what_was_acknowledged_and_what_no_crash_takes_away() {
    let (mut opened, mut with_unanswered) = (0, 0);
    for life in lives().into_iter().chain(random_lives()) {
        let disk = SimDisk::new();
        let history = History::new(&disk);
        run(&disk, &(Arc::new(disk.clone()) as Arc<dyn Vfs>), &history, &life);
        // A point in time of a process that goes on looks to others as if it had died there.
        for point in disk.crash_points() {
            let now = disk.kill_at(point);
            let (before, ops) = (now.hash(), now.ops());
            let (acked, tried) = known(&history, point);
            let db = match reader(&now) {
                Ok(db) => db,
                Err(e) => {
                    assert!(history.at(point, |seen| seen.acked().count()) == 0, "at {point}: {e}");
                    continue;
                }
            };
            let shown = served(&db);
            assert!(
                shown == acked || shown == tried,
                "at {point} of {life:?}\nshown {shown:?}\nacknowledged {acked:?}"
            );
            drop(db);
            assert_eq!((now.hash(), now.ops()), (before, ops), "a reader changed something");
            let survived = served(&reopen(&disk.crash(point, Fate::NOTHING)));
            // What was shown before it was answered must be as safe as what was answered.
            assert!(survived == tried || shown == survived, "at {point}: shown {shown:?}, survived {survived:?}");
            opened += 1;
            with_unanswered += usize::from(shown != acked);
        }
    }
    println!("reader-openings: {opened}, {with_unanswered} of them before the answer");
    assert!(opened > 300);
}

/// A disk that has a look taken before each call that one thread makes.
struct Watched {
    disk: SimDisk,
    thread: ThreadId,
    look: Mutex<Box<dyn FnMut() + Send>>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

#[derive(Debug, Clone)]
struct Watch(Arc<Watched>);

impl Watch {
    fn look(&self) {
        if thread::current().id() == self.0.thread
            && let Ok(mut look) = self.0.look.try_lock()
        {
            look();
        }
    }
}

#[derive(Debug)]
struct WatchedFile(Watch, Arc<dyn VfsFile>);

impl Vfs for Watch {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.look();
        self.0.disk.create_dir_all(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        self.look();
        Ok(Arc::new(WatchedFile(self.clone(), self.0.disk.open(path, mode)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.look();
        self.0.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.look();
        self.0.disk.remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.look();
        self.0.disk.sync_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.0.disk.list(dir)
    }
    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        self.0.disk.kind(path)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.0.disk.try_lock(path)
    }
    fn network_file_system(&self, path: &Path) -> io::Result<Option<String>> {
        self.0.disk.network_file_system(path)
    }
    fn beacon(&self, path: &Path) -> io::Result<Box<dyn Beacon>> {
        self.0.disk.beacon(path)
    }
    fn told(&self, path: &Path) -> io::Result<Option<Word>> {
        self.0.disk.told(path)
    }
}

impl VfsFile for WatchedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.read_at(buf, offset)
    }
    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.0.look();
        self.1.write_all_at(bufs, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.1.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.look();
        self.1.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.look();
        self.1.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.look();
        self.1.sync_all()
    }
    fn map(&self, capacity: u64) -> io::Result<Region> {
        self.1.map(capacity)
    }
}

/// Runs `life` while one reader follows it step by step, another only every seventh time.
fn follow(life: &[Step]) -> usize {
    let disk = SimDisk::new();
    let history = Arc::new(History::new(&disk));
    let (looks, counted) = (Arc::new(Mutex::new(0)), history.clone());
    let (mut readers, mut n) = ([None, None], 0);
    let look = {
        let (disk, looks) = (disk.clone(), looks.clone());
        move || {
            n += 1;
            for (i, follower) in readers.iter_mut().enumerate() {
                if i == 1 && n % 7 != 0 {
                    continue;
                }
                if follower.is_none() {
                    *follower = reader(&disk).ok();
                }
                let Some(db) = follower else { continue };
                let (acked, _) = known(&counted, disk.ops());
                db.refresh().unwrap();
                let shown = served(db);
                // Only this thread writes, and it stands here.
                let (_, tried) = known(&counted, disk.ops() + 1);
                assert!(shown == acked || shown == tried, "shown {shown:?}\nacknowledged {acked:?}");
                *looks.lock().unwrap() += 1;
            }
        }
    };
    let watched = Watched { disk: disk.clone(), thread: thread::current().id(), look: Mutex::new(Box::new(look)) };
    run(&disk, &(Arc::new(Watch(Arc::new(watched))) as Arc<dyn Vfs>), &history, life);
    *looks.lock().unwrap()
}

#[test]
fn a_reader_that_follows_a_writer_step_by_step_never_sees_anything_else() {
    let looks: usize = lives().into_iter().chain(random_lives()).map(|life| follow(&life)).sum();
    println!("reader-looks: {looks}");
    assert!(looks > 300);
}
