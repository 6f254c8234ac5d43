//! A soak: hours of mixed load in one process while its memory, open files, threads and disk are watched from outside, and
//! beside it a writer that is killed again and again and must lose nothing. Who opens its directory after the kills is this process
//! here, and is watched as well: it opens a database some thousand times, and its rows are deleted now and then, so that what it
//! holds itself does not grow.
//!
//! `cargo test` soaks for some seconds and only asks that it works; NOPOKEDB_SOAK=<seconds> (`make soak`: half an hour)
//! holds the last third of the time against the one before it: no growth of memory, of open files or of threads. The time begins when
//! each id was written a few times, however long that takes: before that, rows and segments do grow. From a minute on it judges files
//! and threads, from ten on memory.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "looks at a process and at a directory from outside")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use nopokedb::{Change, Database, Filter, Id, Include, Metadata, NewRow, Options, Query};
use support::Rng;
use support::writer::{Oracle, one_kill, write_if_asked};

const DIR: &str = "NOPOKEDB_SOAK_DIR";
const DIM: usize = 32;
/// Ids in play; about two thirds of them live.
const IDS: usize = 3_000;
const GRAPH_FROM: u32 = 1_000;
/// Writes after which the load is what it stays.
const WARM: u64 = 3 * IDS as u64;
const SEGMENT: u64 = 1 << 20;
/// Rows of the killed writer are deleted when they are so many.
const MOST_ROWS: usize = 2_000;
/// What a verification may take for each of them, at most: the models that fit, what was read in three ways, the database's own.
const ROW_BYTES: u64 = 8 << 10;

#[test]
fn writer_process() {
    write_if_asked();
}

fn open(dir: &str) -> Database {
    let options = Options { graph_from: Some(GRAPH_FROM), segment_bytes: SEGMENT, ..Options::new(DIM) };
    Database::open(dir, options).unwrap()
}

fn vector(rng: &mut Rng) -> Vec<f32> {
    (0..DIM).map(|_| rng.below(2_000) as f32 / 1_000.0 - 1.0).collect()
}

fn metadata(rng: &mut Rng) -> Option<Metadata> {
    let text =
        format!(r#"{{"n":{},"kind":"k{}","note":"{}"}}"#, rng.below(1_000), rng.below(7), "x".repeat(rng.below(300)));
    Some(Metadata::from_json(&text).unwrap())
}

/// One write or read, drawn from the mixture.
fn one(db: &Database, rng: &mut Rng, writes: bool) {
    let (c, id) = (db.collection(), Id::Int(rng.below(IDS) as u64));
    match (writes, rng.below(100)) {
        (true, 0..60) => {
            let document = (rng.chance(30)).then(|| "words ".repeat(rng.below(200)));
            c.upsert(id, Change { vector: Some(vector(rng)), metadata: metadata(rng), document, ..Change::default() })
                .unwrap();
        }
        (true, 60..95) => drop(c.delete(id).unwrap()),
        (true, _) => {
            // Under an id of its own, and away again at once.
            let new = c.add(&vector(rng), NewRow { metadata: metadata(rng), ..NewRow::default() }).unwrap();
            assert!(c.delete(new).unwrap());
        }
        (false, 0..40) => {
            let hits = c.query(&vector(rng), &Query::nearest(10)).unwrap();
            assert_eq!(hits.len(), 10);
        }
        (false, 40..60) => {
            let filter = Filter::field("n").lt(i64::try_from(rng.below(1_000)).unwrap());
            let include = Include { document: true, vector: true, ..Include::default() };
            let query = Query { filter: Some(filter), include, ..Query::nearest(5) };
            assert!(c.query(&vector(rng), &query).unwrap().len() <= 5);
        }
        (false, 60..98) => drop(c.get(id).unwrap()),
        _ => assert!(db.stats().unwrap().writes_stopped.is_none()),
    }
}

/// The file that the soaking process makes beside its directory when it is warm.
fn warm(dir: impl Into<PathBuf>) -> PathBuf {
    dir.into().with_extension("warm")
}

/// The process that is watched: opens, works on four threads for a while, closes, opens again.
#[test]
fn soaking_process() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let (done, written) = (AtomicU64::new(0), AtomicU64::new(0));
    for life in 0.. {
        let db = open(&dir);
        if life == 0 {
            let (mut rng, mut batch) = (Rng(1), db.collection().batch());
            (0..IDS as u64).for_each(|id| {
                let change =
                    Change { vector: Some(vector(&mut rng)), metadata: metadata(&mut rng), ..Change::default() };
                batch.upsert(Id::Int(id), change).unwrap();
            });
            batch.commit().unwrap();
            db.wait_indexed(None).unwrap();
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|s| {
            for t in 0..4 {
                let (db, over, done, written) = (&db, &over, &done, &written);
                s.spawn(move || {
                    let mut rng = Rng(life * 4 + t);
                    while !over.load(Relaxed) {
                        one(db, &mut rng, t < 2);
                        done.fetch_add(1, Relaxed);
                        written.fetch_add(u64::from(t < 2), Relaxed);
                        // Leaves the machine to others as well.
                        park_timeout(Duration::from_micros(200));
                    }
                });
            }
            for _ in 0..8 {
                park_timeout(Duration::from_secs(1));
                println!("did {}", done.load(Relaxed));
                if written.load(Relaxed) >= WARM {
                    fs::write(warm(&dir), "").unwrap();
                }
            }
            over.store(true, Relaxed);
        });
        db.close().unwrap();
    }
}

/// What a process takes, and its directory.
#[derive(Clone, Copy, Debug)]
struct Sample {
    anonymous_kib: u64,
    resident_kib: u64,
    /// Open files but the log's segments.
    files: u64,
    segments: u64,
    /// Open files without a name.
    removed: u64,
    threads: u64,
    disk_kib: u64,
}

fn sample(pid: u32, dir: &Path) -> Sample {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |key: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("0");
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let mut disk = 0;
    for folder in [dir.to_path_buf(), dir.join("log"), dir.join("index")] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        disk += entries.filter_map(|e| Some(e.metadata().ok()?.len())).sum::<u64>();
    }
    let open: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .map(|e| fs::read_link(e.path()).unwrap_or_default())
        .collect();
    let count = |which: &dyn Fn(&str) -> bool| open.iter().filter(|p| p.to_str().is_some_and(which)).count() as u64;
    let segments = count(&|name| name.ends_with(".seg"));
    Sample {
        anonymous_kib: number("RssAnon:"),
        resident_kib: number("VmRSS:"),
        files: open.len() as u64 - segments,
        segments,
        removed: count(&|name| name.ends_with(" (deleted)")),
        threads: number("Threads:"),
        disk_kib: disk >> 10,
    }
}

/// The median of one figure.
fn median(samples: &[Sample], figure: fn(&Sample) -> u64) -> u64 {
    let mut all: Vec<u64> = samples.iter().map(figure).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn most(samples: &[Sample], figure: fn(&Sample) -> u64) -> u64 {
    samples.iter().map(figure).max().unwrap()
}

#[test]
fn memory_and_open_files_stay_flat_and_no_row_is_lost_to_kills() {
    let seconds: u64 = std::env::var("NOPOKEDB_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let (soaked, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "soaking_process", "--nocapture", "--test-threads=1"])
        .env(DIR, soaked.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut oracle, mut rng, mut kills) = (Oracle::new(), Rng(seconds), 0);
    let (mut samples, mut openers) = (Vec::new(), Vec::new());
    let own = |dir: &Path| sample(std::process::id(), dir);
    let (mut before, judged) = (own(killed.path()), seconds >= 60);
    // Short soaks are not judged, and wait for nothing.
    let (give_up, mut began) = (Instant::now() + Duration::from_secs(600), (!judged).then(Instant::now));
    while began.is_none_or(|at| at.elapsed() < Duration::from_secs(seconds)) {
        park_timeout(Duration::from_millis(250));
        assert_eq!(child.try_wait().unwrap(), None, "the soaking process ended");
        if began.is_some() {
            samples.push(sample(child.id(), soaked.path()));
        } else if warm(soaked.path()).exists() {
            began = Some(Instant::now());
        } else {
            assert!(Instant::now() < give_up, "{WARM} writes take longer than ten minutes");
        }
        one_kill(killed.path(), &mut oracle, &mut rng);
        kills += 1;
        if rng.chance(30) || oracle.open() >= 4 {
            oracle.verify(killed.path());
            if oracle.rows() > MOST_ROWS {
                oracle.clear(killed.path());
                openers.push(own(killed.path()));
            }
        }
        if kills == 20 {
            before = own(killed.path());
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    oracle.verify(killed.path());
    let after = own(killed.path());
    let third = samples.len() / 3;
    let (middle, last) = (&samples[third..2 * third], &samples[2 * third..]);
    let told = |what: &str, figure: fn(&Sample) -> u64| {
        println!(
            "soak: {what}: {} -> {}, at most {} -> {}",
            median(middle, figure),
            median(last, figure),
            most(middle, figure),
            most(last, figure)
        );
    };
    println!("soak: {seconds} s, kills: {kills}, acknowledged writes among them: {}", oracle.acked);
    told("anonymous memory, KiB", |s| s.anonymous_kib);
    told("resident memory, KiB", |s| s.resident_kib);
    told("open segments", |s| s.segments);
    told("other open files", |s| s.files);
    told("threads", |s| s.threads);
    told("the directory, KiB", |s| s.disk_kib);
    println!("soak: the opener of killed databases, files: {} -> {}", before.files, after.files);
    assert!(open(soaked.path().to_str().unwrap()).check().unwrap().is_ok(), "a check of the killed soak");
    let _ = fs::remove_file(warm(soaked.path()));
    assert!(after.files <= before.files + 2, "handles of closed databases are left: {before:?} {after:?}");
    if judged {
        let flat = |what: &str, figure: fn(&Sample) -> u64, slack: u64| {
            let (was, is) = (median(middle, figure), median(last, figure));
            assert!(is <= was + slack, "{what}: {was} -> {is}; {:?}", samples.last());
        };
        // Caches and the allocator's own lists are warm some minutes later than the load.
        if seconds >= 600 {
            flat("memory grows", |s| s.anonymous_kib, 4 << 10);
        }
        flat("open segments grow", |s| s.segments, 4);
        flat("open files grow", |s| s.files, 1);
        flat("threads grow", |s| s.threads, 1);
        assert_eq!(median(last, |s| s.removed), 0, "files stay open that were removed");
        assert!(most(last, |s| s.disk_kib) <= most(middle, |s| s.disk_kib) + (8 << 10), "the directory grows");
        judge_opener(&openers);
    }
}

/// Who opens killed databases: its memory each time that their rows were deleted.
fn judge_opener(openers: &[Sample]) {
    let bound = ((MOST_ROWS as u64 * ROW_BYTES) >> 10) + (16 << 10);
    assert!(
        openers.iter().all(|s| s.anonymous_kib <= bound),
        "the opener of killed databases takes more than {bound} KiB: {openers:?}"
    );
    let third = openers.len() / 3;
    // In a short soak the rows are not deleted often enough for more.
    if third >= 3 {
        let taken = |openers: &[Sample]| median(openers, |s| s.anonymous_kib);
        let [first, last] = [taken(&openers[third..2 * third]), taken(&openers[2 * third..])];
        println!("soak: its anonymous memory, with rows deleted {} times: {first} -> {last} KiB", openers.len());
        assert!(last <= first + (4 << 10), "the memory of the opener of killed databases grows: {first} -> {last} KiB");
    }
}
