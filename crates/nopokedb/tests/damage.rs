//! Every file of a database is damaged in every way we can think of: bits flipped, bytes zeroed, files cut, lengthened,
//! removed, replaced by an older version of themselves or by another file. Each time the damage is reported with a file and
//! an offset, or repaired from the log, or harmless. Never a wrong answer, a silent loss, a panic, a signal, a hang, or
//! memory taken because a damaged length said so.
//!
//! `cargo test` tries a sample; NOPOKEDB_CRASH=long (`make crash`) every byte that is not padding, and half of the padding.
#![allow(clippy::disallowed_methods, reason = "damages files behind the database's back")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use nopokedb::testing::cut_at_the_first_bad_checksum;
use nopokedb::{Database, Error, ErrorKind, Id, Query};
use support::{Rng, Row, Write, collection, long, options, perform, served, vector};
use tempfile::TempDir;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A directory with every kind of file, as bytes, and what it holds.
struct Golden {
    files: Files,
    /// The same directory at earlier moments.
    older: Vec<Files>,
    rows: BTreeMap<u8, BTreeMap<u64, Row>>,
}

static CLOSED: LazyLock<Golden> = LazyLock::new(|| golden(true));
static IDLE: LazyLock<Golden> = LazyLock::new(|| golden(false));

fn room() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap()
}

fn read(dir: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if let Ok(bytes) = fs::read(entry.path()) {
                files.insert(entry.path().strip_prefix(dir).unwrap().to_path_buf(), bytes);
            }
        }
    }
    files
}

fn put(dir: &Path, files: &Files) {
    for folder in ["log", "index"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
}

/// Waits until the background worker has nothing left to do.
fn rested(dir: &Path) -> Files {
    let (mut files, mut since) = (read(dir), Instant::now());
    while since.elapsed() < Duration::from_millis(150) {
        park_timeout(Duration::from_millis(10));
        let now = read(dir);
        if now != files {
            (files, since) = (now, Instant::now());
        }
    }
    files
}

fn golden(close: bool) -> Golden {
    let dir = room();
    let db = Database::open(dir.path(), options()).unwrap();
    let mut older = Vec::new();
    let parts: [&[Write]; 4] = [
        &[Write::Batch(0, (0..30u8).map(f32::from).collect()), Write::Create(1), Write::Batch(1, vec![1.0; 9])],
        &[0, 1, 2, 3, 0, 1, 2, 3].map(|id| Write::Document(0, id, 14_000)),
        &[Write::Delete(0, 7), Write::Upsert(1, 3, 5.0), Write::Document(1, 4, 20_000), Write::Document(0, 9, 25_000)],
        &[Write::Create(2), Write::Add(2, 8.0), Write::Drop(2), Write::Retag(0, 8, 6), Write::Add(0, 77.0)],
    ];
    for writes in parts {
        writes.iter().for_each(|w| perform(&db, w).unwrap());
        db.wait_indexed(None).unwrap();
        db.save().unwrap();
        db.wait_applied().unwrap();
        older.push(rested(dir.path()));
    }
    let rows = served(&db);
    if close {
        db.close().unwrap();
    }
    let files = rested(dir.path());
    let kinds: BTreeSet<u8> = files.iter().filter(|(p, _)| is(p, "seg")).map(|(_, bytes)| bytes[36]).collect();
    assert_eq!(kinds, BTreeSet::from([1, 2]), "raw and compacted segments");
    assert!(files.keys().any(|p| is(p, "idx")) && files.keys().any(|p| is(p, "sqlite")), "{:?}", files.keys());
    Golden { files, older, rows }
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

/// What is done to a file. `None` removes it.
type Damaged = Option<Vec<u8>>;

/// The words for an error that says what is damaged and where.
fn is_named(e: &Error) -> bool {
    let words = e.message();
    match e.kind() {
        ErrorKind::Corruption => words.contains("damaged at byte") || words.contains("lost"),
        ErrorKind::Invalid(_) => words.contains("format"),
        _ => false,
    }
}

/// How a damaged directory behaved.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Refused,
    Reported,
    Served,
}

fn judge(dir: &Path, golden: &Golden) -> Result<Verdict, String> {
    let before = read(dir);
    let db = match Database::open(dir, options()) {
        Err(e) if is_named(&e) => {
            let truth = |files: Files| -> Files {
                files.into_iter().filter(|(p, _)| is(p, "seg") || p.to_str().unwrap().contains("MANIFEST")).collect()
            };
            let untouched = truth(read(dir)) == truth(before);
            return if untouched { Ok(Verdict::Refused) } else { Err(format!("refused but changed: {e}")) };
        }
        Err(e) => return Err(format!("refused without naming the damage: {e:?}")),
        Ok(db) => db,
    };
    let names = db.collections().unwrap();
    if names.len() != golden.rows.len() {
        return Err(format!("the collections are {names:?}"));
    }
    let mut verdict = look(&db, golden)?;
    // Again through whatever the background worker made of it.
    let _ = db.wait_indexed(Some(Duration::from_secs(5)));
    if look(&db, golden)? == Verdict::Reported {
        verdict = Verdict::Reported;
    }
    let _ = db.close();
    Ok(verdict)
}

/// Reads everything: what is answered is right, what is not answered is a named error.
fn look(db: &Database, golden: &Golden) -> Result<Verdict, String> {
    let mut verdict = Verdict::Served;
    let mut passes = |e: Error| {
        verdict = Verdict::Reported;
        if is_named(&e) { Ok(()) } else { Err(format!("an error that names nothing: {e:?}")) }
    };
    for (c, rows) in &golden.rows {
        let coll = collection(db, *c).map_err(|e| e.to_string())?;
        for (id, row) in rows {
            match coll.get(Id::Int(*id)) {
                Err(e) => passes(e)?,
                Ok(None) => return Err(format!("row {id} of {c} is lost in silence")),
                Ok(Some(got)) => {
                    let document = got.document.unwrap_or_default();
                    let tag = got.metadata.map(|m| m.to_map()["tag"].as_u64().unwrap());
                    if got.vector != vector(row.x)
                        || tag != Some(row.tag.into())
                        || (row.document > 0 && document != support::document(row.document))
                    {
                        return Err(format!("row {id} of {c} is wrong"));
                    }
                }
            }
        }
        for exact in [false, true] {
            match coll.query(&vector(3.0), &Query { exact, ..Query::nearest(1_000) }) {
                Err(e) => passes(e)?,
                Ok(hits) => {
                    let found: BTreeSet<u64> = hits.iter().map(|h| h.id.int().unwrap()).collect();
                    if hits.len() != rows.len() || !found.iter().eq(rows.keys()) {
                        return Err(format!("{} hits for {} rows of {c}", hits.len(), rows.len()));
                    }
                    let wrong =
                        hits.iter().find(|h| (h.distance - (rows[&h.id.int().unwrap()].x - 3.0).powi(2)).abs() > 1e-3);
                    if let Some(hit) = wrong {
                        return Err(format!("a wrong distance: {hit:?}"));
                    }
                }
            }
        }
    }
    Ok(verdict)
}

/// One damaged file of a copy of the golden directory.
fn attempt(golden: &Golden, file: &Path, damaged: Damaged, what: &str) -> Result<Verdict, String> {
    let dir = room();
    put(dir.path(), &golden.files);
    match damaged {
        Some(bytes) => fs::write(dir.path().join(file), bytes).unwrap(),
        None => fs::remove_file(dir.path().join(file)).unwrap(),
    }
    let verdict = catch_unwind(AssertUnwindSafe(|| judge(dir.path(), golden)));
    let verdict = verdict.unwrap_or_else(|p| Err(format!("a panic: {:?}", p.downcast_ref::<String>())));
    verdict.map_err(|why| format!("{} {what}: {why}", file.display()))
}

/// One case: a file, what is done to it, and the words for it.
type Case = (PathBuf, Box<dyn Fn(&Golden) -> Damaged + Send + Sync>, String);

fn case(file: &Path, what: String, damage: impl Fn(&[u8]) -> Damaged + Send + Sync + 'static) -> Case {
    let name = file.to_path_buf();
    (file.to_path_buf(), Box::new(move |g| damage(&g.files[&name])), what)
}

fn changed(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Damaged {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    Some(bytes)
}

/// The places to damage: what is not padding, and a part of the padding; all of it, or a sample.
fn places(bytes: &[u8], rng: &mut Rng) -> Vec<usize> {
    let telling = |at: &usize| bytes[*at] != 0 || at.is_multiple_of(61) || at % 4096 < 96;
    let all: Vec<usize> = (0..bytes.len()).filter(telling).collect();
    if long() || all.len() <= 40 {
        let step = (all.len() / 12_000).max(1);
        return all.into_iter().step_by(step).collect();
    }
    (0..40).map(|i| if i < 12 { all[i * 3] } else { all[rng.below(all.len())] }).collect()
}

fn flips(golden: &Golden) -> Vec<Case> {
    let mut rng = Rng(7);
    let mut cases = Vec::new();
    for (file, bytes) in &golden.files {
        for at in places(bytes, &mut rng) {
            let bit = rng.next() % 8;
            cases.push(case(file, format!("bit {bit} of byte {at}"), move |b| changed(b, |b| b[at] ^= 1 << bit)));
        }
    }
    cases
}

fn cuts(golden: &Golden) -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, bytes) in &golden.files {
        let len = bytes.len();
        let step = if long() { 131 } else { (len / 10).max(1) | 1 };
        let near = [0, 1, 64, 4095, 4096, 4097, 8192, len.saturating_sub(1)];
        for cut in (0..len).step_by(step).chain(near.into_iter().filter(|c| *c < len)) {
            cases.push(case(file, format!("cut at {cut}"), move |b| Some(b[..cut].to_vec())));
        }
        cases.push(case(file, "removed".into(), |_| None));
        cases.push(case(file, "lengthened".into(), |b| changed(b, |b| b.extend([0xA5; 700]))));
        cases.push(case(file, "lengthened with zeros".into(), |b| changed(b, |b| b.extend([0; 5000]))));
    }
    cases
}

fn smears(golden: &Golden) -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, bytes) in &golden.files {
        for (len, every) in [(512, 512), (4096, 4096)] {
            let step = if long() { every } else { every * 5 };
            for at in (0..bytes.len()).step_by(step) {
                let range = at..(at + len).min(bytes.len());
                if bytes[range.clone()].iter().all(|b| *b == 0) {
                    continue;
                }
                let zeroed = range.clone();
                cases
                    .push(case(file, format!("zeroed {zeroed:?}"), move |b| changed(b, |b| b[zeroed.clone()].fill(0))));
                cases.push(case(file, format!("garbage in {range:?}"), move |b| {
                    changed(b, |b| b[range.clone()].fill(0xA5))
                }));
            }
        }
    }
    cases
}

/// A file takes the place of another: an older version of itself, or another file of its kind.
fn swaps(golden: &Golden) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, older) in golden.older.iter().enumerate() {
        for (file, bytes) in older.iter().filter(|(file, bytes)| golden.files.get(*file).is_some_and(|b| b != *bytes)) {
            let bytes = bytes.clone();
            cases.push(case(file, format!("as it was at moment {i}"), move |_| Some(bytes.clone())));
        }
    }
    for file in golden.files.keys() {
        for (other, bytes) in golden.files.iter().filter(|(o, _)| *o != file && o.extension() == file.extension()) {
            let bytes = bytes.clone();
            cases.push(case(file, format!("replaced by {}", other.display()), move |_| Some(bytes.clone())));
        }
    }
    cases
}

/// What one case may take of a core, and of time, which on a busy machine is another matter.
const MOST_WORK: Duration = Duration::from_secs(30);
const MOST_TIME: Duration = Duration::from_secs(300);

/// Tries all cases on two threads. Fails with the first few that went wrong, and if any takes for ever.
fn try_all(what: &str, golden: &'static Golden, cases: &[Case]) {
    let peak = virtual_memory();
    let (next, served, began) = (AtomicUsize::new(0), AtomicU64::new(0), Instant::now());
    let under_way: [Mutex<Option<(Instant, usize)>>; 2] = <_>::default();
    let wrong: Vec<String> = std::thread::scope(|s| {
        let work = |mine: &Mutex<Option<(Instant, usize)>>| {
            let mut wrong = Vec::new();
            loop {
                let n = next.fetch_add(1, Relaxed);
                let Some((file, damage, words)) = cases.get(n) else { break };
                *mine.lock().unwrap() = Some((Instant::now(), n));
                let before = work_of_this_thread();
                match attempt(golden, file, damage(golden), words) {
                    Ok(verdict) => drop(served.fetch_add(u64::from(verdict == Verdict::Served), Relaxed)),
                    Err(why) => wrong.push(why),
                }
                let took = work_of_this_thread().saturating_sub(before);
                if took > MOST_WORK {
                    wrong.push(format!("{} {words}: took {took:?} of a core", file.display()));
                }
            }
            *mine.lock().unwrap() = None;
            wrong
        };
        let threads = under_way.each_ref().map(|mine| s.spawn(move || work(mine)));
        while !threads.iter().all(|t| t.is_finished()) {
            park_timeout(Duration::from_millis(20));
            for (since, n) in under_way.iter().filter_map(|mine| *mine.lock().unwrap()) {
                if since.elapsed() > MOST_TIME {
                    // Its thread will not be joined.
                    println!("{} {}: no end after {MOST_TIME:?}", cases[n].0.display(), cases[n].2);
                    std::process::abort();
                }
            }
        }
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let grown = virtual_memory().saturating_sub(peak);
    println!("damage-cases: {} {what}, {} answered in full, {:?}", cases.len(), served.into_inner(), began.elapsed());
    assert!(
        wrong.is_empty(),
        "{} of {} went wrong:\n{}",
        wrong.len(),
        cases.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    assert!(grown < 2 << 20, "{grown} KiB of address space were taken");
}

/// What the calling thread has taken of a core; nothing where the system does not say.
fn work_of_this_thread() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // The name, which comes second, may have blanks; it ends with the last bracket. Hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The most address space this process ever had, in KiB; 0 where the system does not say.
fn virtual_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:")).unwrap_or("0 kB").trim().to_owned();
    line.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
fn a_flipped_bit_is_reported_repaired_or_harmless() {
    try_all("flips, closed", &CLOSED, &flips(&CLOSED));
    try_all("flips, idle", &IDLE, &flips(&IDLE));
}

#[test]
fn a_file_cut_lengthened_or_removed_is_reported_repaired_or_harmless() {
    try_all("cuts, closed", &CLOSED, &cuts(&CLOSED));
    try_all("cuts, idle", &IDLE, &cuts(&IDLE));
}

#[test]
fn zeros_and_garbage_are_reported_repaired_or_harmless() {
    try_all("smears, closed", &CLOSED, &smears(&CLOSED));
    try_all("smears, idle", &IDLE, &smears(&IDLE));
}

#[test]
fn an_older_version_of_a_file_or_another_file_is_reported_repaired_or_harmless() {
    try_all("swaps, closed", &CLOSED, &swaps(&CLOSED));
    try_all("swaps, idle", &IDLE, &swaps(&IDLE));
}

#[test]
fn a_recovery_that_cuts_at_the_first_bad_checksum_is_caught() {
    // The broken variant takes the place of the scan; the same damage is refused by ours. SQLite's stamp and the image,
    // which would notice the loss by themselves, are not there.
    let golden = &*IDLE;
    let mut files = golden.files.clone();
    files.retain(|p, _| !p.to_str().unwrap().contains("sqlite") && !is(p, "idx"));
    let (active, bytes) = files.iter_mut().rfind(|(p, b)| is(p, "seg") && b[36] == 1).unwrap();
    let name = active.clone();
    bytes[4096 + 130] ^= 1;
    let damaged = Golden { files, older: Vec::new(), rows: golden.rows.clone() };
    let tried = || attempt(&damaged, &name, Some(damaged.files[&name].clone()), "a flipped bit");
    assert_eq!(tried(), Ok(Verdict::Refused));
    let caught = cut_at_the_first_bad_checksum(tried);
    assert!(caught.is_err(), "{caught:?}");
}
