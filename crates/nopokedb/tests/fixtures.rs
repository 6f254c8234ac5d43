//! Directories of format 1, kept as they were written: this version and every later one opens them and finds the same rows.
//!
//! NOPOKEDB_WRITE_FIXTURES=1 writes them anew into tests/fixtures/v1, which is done once for each format and never to make a
//! failing test pass.
#![allow(clippy::disallowed_methods, reason = "copies directories and patches files")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use nopokedb::testing::SimDisk;
use nopokedb::{Database, ErrorKind, Subject};
use support::{Model, Write, options, perform, served};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1");
const NAMES: [&str; 3] = ["clean", "unclean", "mid-compaction"];

/// The writes that each kept directory reflects.
fn writes() -> Vec<Write> {
    let mut writes = vec![
        Write::Batch(0, (0..20u8).map(f32::from).collect()),
        Write::Create(1),
        Write::Given(1, vec![(5, 1.5), (9, 2.5)]),
        Write::Upsert(0, 3, 33.0),
        Write::Retag(0, 4, 44),
        Write::Delete(0, 5),
        Write::Create(2),
        Write::Add(2, 1.0),
        Write::Drop(2),
    ];
    writes.extend([0, 1, 2, 0, 1, 2].map(|id| Write::Document(0, id, 14_000)));
    writes.push(Write::Add(0, 50.0));
    writes
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files_of(disk: &SimDisk) -> Files {
    let named =
        disk.names().into_iter().filter_map(|p| Some((p.strip_prefix("/db").ok()?.to_path_buf(), disk.peek(&p)?)));
    named.filter(|(p, _)| !p.to_str().unwrap().starts_with("LOCK")).collect()
}

/// The three directories, made anew.
fn make() -> BTreeMap<&'static str, Files> {
    let disk = SimDisk::new();
    let db = Database::open_on(Arc::new(disk.clone()), Path::new("/db"), options()).unwrap();
    writes().iter().for_each(|w| perform(&db, w).unwrap());
    db.wait_indexed(None).unwrap();
    let give_up = Instant::now() + Duration::from_secs(20);
    while disk.peek(Path::new("/db/log/00000001.seg")).is_some() {
        assert!(Instant::now() < give_up, "a compaction");
        park_timeout(Duration::from_millis(5));
    }
    park_timeout(Duration::from_millis(150)); // the idle watermark
    let trace = disk.trace(disk.ops(), &nopokedb::testing::Fate::EVERYTHING);
    let removal = trace.lines().find(|l| l.contains("remove /db/log/00000001.seg")).unwrap();
    let removal: usize = removal.split_whitespace().next().unwrap().parse().unwrap();
    let middle = files_of(&disk.kill_at(removal));
    let unclean = files_of(&disk.kill_at(disk.ops()));
    db.save().unwrap();
    db.close().unwrap();
    BTreeMap::from([("mid-compaction", middle), ("unclean", unclean), ("clean", files_of(&disk))])
}

fn put(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    }
}

fn kept(name: &str) -> Files {
    let root = Path::new(KEPT).join(name);
    let mut files = Files::new();
    for folder in [root.clone(), root.join("log"), root.join("index")] {
        for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                files.insert(entry.path().strip_prefix(&root).unwrap().to_path_buf(), fs::read(entry.path()).unwrap());
            }
        }
    }
    assert!(files.len() > 3, "{}: {:?}", root.display(), files.keys());
    files
}

#[test]
fn directories_of_format_1_open_and_hold_what_was_written() {
    if std::env::var_os("NOPOKEDB_WRITE_FIXTURES").is_some() {
        make().iter().for_each(|(name, files)| put(&Path::new(KEPT).join(name), files));
    }
    for name in NAMES {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &kept(name));
        let mut model = Model::of(&writes());
        for _ in 0..2 {
            let db = Database::open(dir.path(), options()).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(served(&db), model.rows(), "{name}");
            let next = Write::Add(0, 9.0);
            perform(&db, &next).unwrap();
            model.apply(&next);
            assert_eq!(served(&db), model.rows(), "{name}");
            db.close().unwrap();
        }
    }
}

#[test]
fn what_is_written_today_is_laid_out_like_what_was_kept() {
    for (name, files) in make() {
        let kinds = |files: &Files| -> Vec<String> {
            let mut kinds: Vec<String> =
                files.keys().map(|p| p.to_str().unwrap().split(['0', '-']).next().unwrap().to_owned()).collect();
            kinds.dedup();
            kinds
        };
        assert_eq!(kinds(&files), kinds(&kept(name)), "{name}");
    }
}

/// Sets `format` 7 and `min_reader` 6 at `at` and makes the checksum right again.
fn make_newer(bytes: &mut [u8], is_manifest: bool) {
    let at = if is_manifest { 24 } else { 12 };
    bytes[at..at + 4].copy_from_slice(&[7, 0, 6, 0]);
    if is_manifest {
        let hash = xxhash_rust::xxh3::xxh3_128(&bytes[24..]).to_le_bytes();
        bytes[8..24].copy_from_slice(&hash);
    } else {
        let crc = crc32c::crc32c(&bytes[12..4096]).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
    }
}

/// Opening is refused, with both versions in the message, and no byte has changed.
fn refused_untouched(newer: &Files) {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), newer);
    let e = Database::open(dir.path(), options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Invalid(Subject::Path), "{e}");
    assert!(e.message().contains("format 7") && e.message().contains("format 1"), "{e}");
    for (name, bytes) in newer {
        assert!(fs::read(dir.path().join(name)).unwrap() == *bytes, "{} was touched", name.display());
    }
}

#[test]
fn a_newer_manifest_or_segment_is_refused_untouched_and_both_versions_are_named() {
    let is_manifest = |p: &Path| p.to_str().unwrap().starts_with("MANIFEST-");
    let files = kept("clean");
    let newest =
        files.keys().filter(|p| is_manifest(p)).max_by_key(|p| p.to_str().unwrap()[9..].parse::<u64>().unwrap());
    let segment = files.keys().rfind(|p| p.extension().is_some_and(|e| e == "seg"));
    for victim in [newest, segment].map(Option::unwrap) {
        let mut newer = files.clone();
        make_newer(newer.get_mut(victim).unwrap(), is_manifest(victim));
        refused_untouched(&newer);
    }
}

#[test]
fn a_newer_footer_is_refused_untouched_and_both_versions_are_named() {
    let mut files = kept("clean");
    let hash = |bytes: &[u8]| xxhash_rust::xxh3::xxh3_128(&bytes[24..]).to_le_bytes();
    let footer_of = |bytes: &[u8]| bytes.windows(8).rposition(|w| w == b"NPKDBFTR");
    let (sealed, at) =
        files.iter().find_map(|(p, b)| Some((p.clone(), footer_of(b)?))).expect("a segment with a footer");
    let segment = files.get_mut(&sealed).unwrap();
    let old: [u8; 16] = segment[at + 8..at + 24].try_into().unwrap();
    segment[at + 24..at + 28].copy_from_slice(&[7, 0, 6, 0]);
    let new = hash(&segment[at..]);
    segment[at + 8..at + 24].copy_from_slice(&new);
    // The manifests that list the footer, as the newer version would have written them for older readers.
    for (_, manifest) in files.iter_mut().filter(|(p, _)| p.to_str().unwrap().starts_with("MANIFEST-")) {
        if let Some(entry) = manifest.windows(16).position(|w| w == old) {
            manifest[entry..entry + 16].copy_from_slice(&new);
            let whole = hash(manifest);
            manifest[8..24].copy_from_slice(&whole);
        }
    }
    refused_untouched(&files);
}
