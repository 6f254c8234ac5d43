use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::super::queue::MAX_ROWS;
use super::*;
use crate::error::{Error, ErrorKind};

/// A log that can be replayed, and counts how often it was.
fn replay_of(ops: &[Op], replays: &Arc<AtomicU64>) -> Replay {
    let (ops, replays) = (ops.to_vec(), Arc::clone(replays));
    Box::new(move |after, upto, sink| {
        replays.fetch_add(1, SeqCst);
        let rows: Vec<_> = ops.iter().filter(|op| op.lsn > after.0 && op.lsn <= upto.0).cloned().collect();
        rows.chunks(100).try_for_each(|batch| sink(Box::new(Batch(batch.to_vec()))))
    })
}

fn start(dir: &Dir, ops: &[Op]) -> (Applier, Arc<AtomicU64>) {
    let replays = Arc::new(AtomicU64::new(0));
    let (store, _) = dir.open(u64::MAX).unwrap();
    (Applier::start(store, replay_of(ops, &replays)).unwrap(), replays)
}

fn submit_all(applier: &Applier, ops: &[Op]) {
    for batch in ops.chunks(70) {
        applier.submit(Box::new(Batch(batch.to_vec())));
    }
}

fn check(applier: &Applier, ops: &[Op]) {
    let last = ops.last().unwrap().lsn;
    let found = applier.read(Lsn(last), |reader| {
        reader.verify()?;
        everything(reader)
    });
    assert_eq!(found.unwrap(), model(ops, last));
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn submitted_batches_are_applied_and_can_be_waited_for() {
    let ops = log(5_000);
    let dir = Dir::new();
    let (applier, replays) = start(&dir, &ops);
    submit_all(&applier, &ops[..4_000]);
    applier.wait_applied(Lsn(4_000)).unwrap();
    check(&applier, &ops[..4_000]);
    submit_all(&applier, &ops[4_000..]);
    // Without anyone waiting, too.
    eventually("applying", || applier.applied_lsn() == Lsn(5_000));
    check(&applier, &ops);
    assert_eq!(applier.count(Lsn(5_000), CollectionId(0)).unwrap(), model(&ops, 5_000).range(..(1, 0)).count() as u64);
    applier.checkpoint().unwrap();
    assert!(!files::has_wal(&dir.file()));
    applier.shutdown();
    assert_eq!(dir.bytes().keys().collect::<Vec<_>>(), ["meta.sqlite"]);
    assert_eq!(replays.load(SeqCst), 0);
    let (_, opened) = dir.open(5_000).unwrap();
    assert_eq!((opened.applied_lsn, opened.chain), (Lsn(5_000), 5_000u128.to_be_bytes()));
}

#[test]
fn what_is_submitted_before_shutdown_is_applied_and_waiting_after_it_is_an_error() {
    let ops = log(3_000);
    let dir = Dir::new();
    let (applier, _) = start(&dir, &ops);
    submit_all(&applier, &ops);
    applier.shutdown();
    applier.wait_applied(Lsn(3_000)).unwrap();
    assert_eq!(applier.wait_applied(Lsn(3_001)).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(applier.checkpoint().unwrap_err().kind(), ErrorKind::Closed);
    assert!(applier.get(Lsn(1), CollectionId(0), RecordId(1)).is_err());
    submit_all(&applier, &log(10));
    applier.shutdown();
    let (store, _) = dir.open(3_000).unwrap();
    assert_eq!(contents(&store).unwrap(), model(&ops, 3_000));
}

#[test]
fn a_removed_or_replaced_file_is_rebuilt_while_open() {
    let ops = log(900);
    for replaced in [false, true] {
        let dir = Dir::new();
        let (applier, replays) = start(&dir, &ops);
        submit_all(&applier, &ops[..600]);
        applier.wait_applied(Lsn(600)).unwrap();
        std::fs::remove_file(dir.file()).unwrap();
        if replaced {
            std::fs::write(dir.file(), b"something else").unwrap();
        }
        submit_all(&applier, &ops[600..]);
        applier.wait_applied(Lsn(900)).unwrap();
        check(&applier, &ops);
        assert_eq!((replays.load(SeqCst), applier.stats().rebuilds), (1, 1));
        applier.shutdown();
        let (store, opened) = dir.open(900).unwrap();
        assert_eq!(opened.found, Found::Intact);
        assert_eq!(contents(&store).unwrap(), model(&ops, 900));
    }
}

#[test]
fn damage_that_a_reader_meets_is_rebuilt_under_it() {
    let ops = log(900);
    let dir = Dir::filled(&ops);
    let mut bytes = std::fs::read(dir.file()).unwrap();
    let at = bytes.windows(6).rposition(|w| w == "größ".as_bytes()).unwrap();
    bytes[at] = b'G';
    std::fs::write(dir.file(), bytes).unwrap();
    let (applier, replays) = start(&dir, &ops);
    // Many at once, and not a rebuild for each.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| check(&applier, &ops));
        }
    });
    assert!((1..=3).contains(&replays.load(SeqCst)), "{replays:?}");
    assert!(dir.bytes().contains_key("meta.sqlite.damaged-1"));
}

#[test]
fn a_locked_file_degrades_and_recovers_and_never_blocks_a_commit() {
    let ops = log(2_000);
    let dir = Dir::new();
    let (applier, replays) = start(&dir, &ops);
    submit_all(&applier, &ops[..500]);
    applier.wait_applied(Lsn(500)).unwrap();
    let person = rusqlite::Connection::open(dir.file()).unwrap();
    person.execute_batch("BEGIN IMMEDIATE").unwrap();
    submit_all(&applier, &ops[500..600]);
    eventually("the degraded state", || applier.stats().degraded.is_some());
    // More than the queue holds: a healthy cache would make the submitter wait.
    struct Huge(Batch);
    impl AppliedBatch for Huge {
        fn last_lsn(&self) -> Lsn {
            self.0.last_lsn()
        }
        fn row_count(&self) -> usize {
            MAX_ROWS
        }
        fn byte_count(&self) -> usize {
            0
        }
        fn rows<'a>(&'a self) -> Box<dyn Iterator<Item = Result<MetaRow<'a>>> + 'a> {
            self.0.rows()
        }
    }
    let begun = Instant::now();
    applier.submit(Box::new(Huge(Batch(ops[600..700].to_vec()))));
    applier.submit(Box::new(Huge(Batch(ops[700..800].to_vec()))));
    submit_all(&applier, &ops[800..1_900]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let e = applier.wait_applied(Lsn(1_900)).unwrap_err();
    assert!(e.message().contains("locked"), "{e}");
    assert!(applier.checkpoint().is_err());
    person.execute_batch("ROLLBACK").unwrap();
    eventually("the recovery", || applier.wait_applied(Lsn(1_900)).is_ok());
    assert_eq!(applier.stats().degraded, None);
    submit_all(&applier, &ops[1_900..]);
    check(&applier, &ops);
    assert_eq!(replays.load(SeqCst), 1, "what was dropped is read from the log once");
}

#[test]
fn a_file_that_cannot_be_opened_is_opened_when_it_can_be() {
    let ops = log(900);
    let dir = Dir::filled(&ops[..300]);
    let aside = dir.0.path().join("aside");
    std::fs::rename(dir.file(), &aside).unwrap();
    std::fs::create_dir(dir.file()).unwrap();
    let (store, opened) = dir.open(900).unwrap();
    assert!(matches!(opened.found, Found::Unavailable { why } if why.contains("it may be moved away")));
    let replays = Arc::new(AtomicU64::new(0));
    let applier = Applier::start(store, replay_of(&ops, &replays)).unwrap();
    submit_all(&applier, &ops);
    let e = applier.wait_applied(Lsn(900)).unwrap_err();
    assert!(e.message().contains("unable to open"), "{e}");
    std::fs::remove_dir(dir.file()).unwrap();
    std::fs::rename(&aside, dir.file()).unwrap();
    eventually("the opening", || applier.wait_applied(Lsn(900)).is_ok());
    check(&applier, &ops);
}

#[test]
fn only_what_a_checkpoint_covers_counts_as_durable() {
    let ops = log(200);
    let dir = Dir::new();
    let (applier, _) = start(&dir, &ops);
    submit_all(&applier, &ops[..100]);
    applier.wait_applied(Lsn(100)).unwrap();
    assert_eq!(applier.durable_lsn(), Lsn(0));
    applier.checkpoint().unwrap();
    submit_all(&applier, &ops[100..]);
    applier.read(Lsn(200), |reader| reader.verify()).unwrap();
    assert_eq!(applier.durable_lsn(), Lsn(100));
}

#[test]
fn a_full_queue_makes_the_submitter_wait_while_sqlite_works() {
    struct Slow(u64, Arc<AtomicBool>);
    impl AppliedBatch for Slow {
        fn last_lsn(&self) -> Lsn {
            Lsn(self.0)
        }
        fn row_count(&self) -> usize {
            MAX_ROWS / 2
        }
        fn byte_count(&self) -> usize {
            0
        }
        fn rows<'a>(&'a self) -> Box<dyn Iterator<Item = Result<MetaRow<'a>>> + 'a> {
            while !self.1.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Box::new(std::iter::empty())
        }
    }
    let dir = Dir::new();
    let (applier, _) = start(&dir, &[]);
    let go = Arc::new(AtomicBool::new(false));
    let submitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for lsn in 1..=8 {
                applier.submit(Box::new(Slow(lsn, Arc::clone(&go))));
                submitted.store(lsn, SeqCst);
            }
        });
        eventually("submitting", || submitted.load(SeqCst) >= 2);
        std::thread::sleep(Duration::from_millis(100));
        assert!(submitted.load(SeqCst) <= 4, "{submitted:?} of 8 went in");
        go.store(true, SeqCst);
    });
    applier.wait_applied(Lsn(8)).unwrap();
}

#[test]
fn a_log_that_cannot_be_read_is_reported_to_those_who_wait() {
    let ops = log(300);
    let dir = Dir::new();
    let (store, _) = dir.open(0).unwrap();
    let broken = Arc::new(AtomicBool::new(true));
    let (flag, mut replay) = (Arc::clone(&broken), replay_of(&ops, &Arc::default()));
    let applier = Applier::start(
        store,
        Box::new(move |after, upto, sink| {
            if flag.load(SeqCst) {
                return Err(Error::corruption("log/00000001.seg".as_ref(), 4_096, "a frame does not match its hash"));
            }
            replay(after, upto, sink)
        }),
    );
    let applier = applier.unwrap();
    submit_all(&applier, &ops[..200]);
    applier.wait_applied(Lsn(200)).unwrap();
    std::fs::remove_file(dir.file()).unwrap();
    submit_all(&applier, &ops[200..]);
    let e = applier.wait_applied(Lsn(300)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corruption);
    broken.store(false, SeqCst);
    eventually("the recovery", || applier.wait_applied(Lsn(300)).is_ok());
    check(&applier, &ops);
}
