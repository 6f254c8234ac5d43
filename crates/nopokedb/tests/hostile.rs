//! Bytes that no version of ours wrote, under right checksums: a directory made by a stranger must be safe to open. The same
//! probes as in `fuzz/`, with mutations that follow from a seed, so that every run of the tests tries some without nightly.
#![allow(clippy::disallowed_methods, reason = "reads the kept files")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::panic;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use nopokedb::testing::probe;
use nopokedb::{Database, NewRows};
use support::{Rng, long, options};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1/clean");

fn kept(name: &str) -> Vec<u8> {
    fs::read(Path::new(KEPT).join(name)).unwrap()
}

/// Some bytes of `seed` changed: a bit, a byte, a number at a limit, a piece copied, a cut.
fn mutated(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(4) {
        if bytes.is_empty() {
            break;
        }
        // Headers decide most, so they are hit most.
        let reach = if rng.chance(70) { bytes.len().min(256) } else { bytes.len() };
        let at = if rng.chance(25) && bytes.len() > 4_352 { 4_096 + rng.below(256) } else { rng.below(reach) };
        let limits = [0u64, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, i64::MAX as u64, u64::MAX];
        let number = limits[rng.below(limits.len())].to_le_bytes();
        let width = [1, 2, 4, 8][rng.below(4)].min(bytes.len() - at);
        match rng.below(10) {
            0..3 => bytes[at] ^= 1 << rng.below(8),
            3..5 => bytes[at] = u8::try_from(rng.below(256)).unwrap(),
            5..8 => bytes[at..at + width].copy_from_slice(&number[..width]),
            8 => {
                let from = rng.below(bytes.len() - width + 1);
                bytes.copy_within(from..from + width, at);
            }
            _ => bytes.truncate(rng.below(bytes.len()).max(at)),
        }
    }
    bytes
}

fn try_mutations(what: &str, seeds: &[Vec<u8>], times: usize, probe: impl Fn(&[u8])) {
    let times = if long() { times * 200 } else { times };
    let mut rng = Rng(11);
    for i in 0..times {
        let bytes = mutated(&seeds[i % seeds.len()], &mut rng);
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| probe(&bytes)));
        if let Err(panic) = outcome {
            let path = std::env::temp_dir().join(format!("hostile-{what}.bin"));
            fs::write(&path, &bytes).unwrap();
            eprintln!("{what}, mutation {i}: the bytes are in {}", path.display());
            panic::resume_unwind(panic);
        }
    }
    println!("hostile-files: {times} {what}");
}

#[test]
fn hostile_frames_are_refused_or_read() {
    let segment = kept("log/00000003.seg");
    let frames: Vec<Vec<u8>> =
        [4_096, 8_192, 12_288].map(|at| segment[at..(at + 4_096).min(segment.len())].to_vec()).into();
    try_mutations("frames", &frames, 20_000, probe::frame);
}

#[test]
fn hostile_rows_are_refused_or_read() {
    let text = br#"{"a":[1,2,{"b":null}],"c":"\u00e9\ud83d\ude00","d":-1.5e300}"#;
    let mut row = vec![1, 1, 2];
    row.extend([&7u64.to_le_bytes()[..], &[0; 4], &[1, 1, 0, 0], &[0; 4]].concat());
    row.extend([&u32::try_from(text.len()).unwrap().to_le_bytes()[..], &[0; 4], &[0; 4], &[0; 8]].concat());
    row.extend_from_slice(text);
    row.resize(400, 0);
    let deep = [&row[..43], "[".repeat(5_000).as_bytes()].concat();
    try_mutations("rows", &[row, deep], 20_000, probe::rows);
}

#[test]
fn hostile_segments_are_refused_or_read() {
    try_mutations("segments", &[kept("log/00000003.seg"), kept("log/00000004.seg")], 200, probe::segment);
}

#[test]
fn hostile_footers_are_refused_or_read() {
    let sealed = kept("log/00000004.seg");
    let at = sealed.windows(8).rposition(|w| w == b"NPKDBFTR").expect("a compact segment has a footer");
    try_mutations("footers", &[sealed[at..].to_vec()], 20_000, probe::footer);
}

#[test]
fn hostile_manifests_are_refused_or_read() {
    try_mutations("manifests", &[kept("MANIFEST-10")], 20_000, probe::manifest);
}

/// An image with a graph, as this version writes it.
fn image() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), options()).unwrap();
    let rows: Vec<f32> = (0..120i16).map(|i| f32::from(i * 37 % 101)).collect();
    db.collection().add_many(&rows, NewRows::default()).unwrap();
    db.wait_indexed(None).unwrap();
    db.close().unwrap();
    let image = fs::read_dir(dir.path().join("index")).unwrap().next().expect("an image").unwrap();
    fs::read(image.path()).unwrap()
}

#[test]
fn the_image_that_fuzzers_begin_with_is_of_this_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/image/kept");
    let fresh = std::env::temp_dir().join("nopokedb-kept-image");
    fs::write(&fresh, image()).unwrap();
    assert!(probe::reads_image(&image()), "what was just written");
    assert!(!probe::reads_image(&kept("index/00000000-0000000000000021.idx")), "an older version's");
    let why = format!("{} is refused at its head; put {} in its place", path.display(), fresh.display());
    assert!(probe::reads_image(&fs::read(path).unwrap()), "{why}");
    fs::remove_file(fresh).unwrap();
}

#[test]
fn hostile_images_are_refused_or_read() {
    // One of each version: those of older ones are refused.
    let images = [image(), kept("index/00000000-0000000000000021.idx")];
    try_mutations("images", &images, 1_000, probe::image);
}

#[test]
fn what_fuzzers_begin_with_and_once_found_is_refused_or_read() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    type Probe = fn(&[u8]);
    let probes: [(&str, Probe); 6] = [
        ("frame", probe::frame),
        ("rows", probe::rows),
        ("segment", probe::segment),
        ("footer", probe::footer),
        ("manifest", probe::manifest),
        ("image", probe::image),
    ];
    for (what, probe) in probes {
        let files: Vec<_> = fs::read_dir(corpus.join(what)).unwrap().collect();
        assert!(!files.is_empty(), "{what}");
        files.into_iter().for_each(|file| probe(&fs::read(file.unwrap().path()).unwrap()));
    }
}

/// How many of the database's own threads have panicked since it was first asked. None of these panics reaches a caller.
fn panics_behind_the_scenes() -> usize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            PANICS.fetch_add(usize::from(thread.name().is_some_and(|name| name.starts_with("nopokedb"))), SeqCst);
            before(info);
        }));
    });
    PANICS.load(SeqCst)
}

#[test]
fn hostile_directories_are_refused_or_served() {
    assert_eq!(panics_behind_the_scenes(), 0);
    let names = ["MANIFEST-10", "MANIFEST-11", "log/00000003.seg", "log/00000004.seg"];
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|n| (*n, kept(n))).collect();
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, &**b)).collect();
    for name in &names[1..] {
        try_mutations(&name.replace('/', "-"), &[kept(name)], 60, |bytes| {
            probe::directory(&borrowed, name, bytes, &options());
        });
    }
    assert_eq!(panics_behind_the_scenes(), 0, "see what was printed");
}
