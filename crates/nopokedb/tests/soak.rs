//! A soak: hours of mixed load in one process while its memory, open files, threads and disk are watched from outside, and
//! beside it a writer that is killed again and again and must lose nothing.
//!
//! `cargo test` soaks for some seconds and only asks that it works; NOPOKEDB_SOAK=<seconds> (`make soak`: half an hour)
//! holds the last third of the time against the one before it: no growth of memory, of open files or of threads.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "looks at a process and at a directory from outside")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::path::Path;
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
const IDS: usize = 6_000;
const GRAPH_FROM: u32 = 2_000;
const SEGMENT: u64 = 1 << 20;

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

/// The process that is watched: opens, works on four threads for a while, closes, opens again.
#[test]
fn soaking_process() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let done = AtomicU64::new(0);
    for life in 0.. {
        let db = open(&dir);
        if life == 0 {
            let mut rng = Rng(1);
            (0..IDS).for_each(|id| {
                let change =
                    Change { vector: Some(vector(&mut rng)), metadata: metadata(&mut rng), ..Change::default() };
                db.collection().upsert(Id::Int(id as u64), change).unwrap();
            });
            db.wait_indexed(None).unwrap();
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|s| {
            for t in 0..4 {
                let (db, over, done) = (&db, &over, &done);
                s.spawn(move || {
                    let mut rng = Rng(life * 4 + t);
                    while !over.load(Relaxed) {
                        one(db, &mut rng, t < 2);
                        done.fetch_add(1, Relaxed);
                        // Leaves the machine to others as well.
                        park_timeout(Duration::from_micros(200));
                    }
                });
            }
            for _ in 0..8 {
                park_timeout(Duration::from_secs(1));
                println!("did {}", done.load(Relaxed));
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
    files: u64,
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
    Sample {
        anonymous_kib: number("RssAnon:"),
        resident_kib: number("VmRSS:"),
        files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
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
    let (mut samples, began) = (Vec::new(), Instant::now());
    let own = |dir: &Path| sample(std::process::id(), dir);
    let mut before = own(killed.path());
    while began.elapsed() < Duration::from_secs(seconds) {
        park_timeout(Duration::from_millis(250));
        assert_eq!(child.try_wait().unwrap(), None, "the soaking process ended");
        samples.push(sample(child.id(), soaked.path()));
        one_kill(killed.path(), &mut oracle, &mut rng);
        kills += 1;
        if rng.chance(30) || oracle.open() >= 4 {
            oracle.verify(killed.path());
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
    println!(
        "soak: {seconds} s, kills: {kills}, acknowledged writes among them: {}; anonymous memory {} -> {} KiB, resident {} -> {} \
         KiB, at most {} -> {} files, {} -> {} threads, {} -> {} KiB on the disk; the opener of killed databases {} -> {} \
         files, {} -> {} KiB",
        oracle.acked,
        median(middle, |s| s.anonymous_kib),
        median(last, |s| s.anonymous_kib),
        median(middle, |s| s.resident_kib),
        median(last, |s| s.resident_kib),
        most(middle, |s| s.files),
        most(last, |s| s.files),
        most(middle, |s| s.threads),
        most(last, |s| s.threads),
        most(middle, |s| s.disk_kib),
        most(last, |s| s.disk_kib),
        before.files,
        after.files,
        before.anonymous_kib,
        after.anonymous_kib,
    );
    assert!(open(soaked.path().to_str().unwrap()).check().unwrap().is_ok(), "a check of the killed soak");
    assert!(after.files <= before.files + 2, "handles of closed databases are left: {before:?} {after:?}");
    if seconds >= 60 {
        let flat = |figure: fn(&Sample) -> u64, slack: u64| median(last, figure) <= median(middle, figure) + slack;
        assert!(flat(|s| s.anonymous_kib, 4 << 10), "memory grows");
        assert!(flat(|s| s.files, 4) && flat(|s| s.threads, 1), "open files or threads grow");
        assert!(most(last, |s| s.disk_kib) <= most(middle, |s| s.disk_kib) + (8 << 10), "the directory grows");
    }
}
