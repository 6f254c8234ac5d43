//! Whatever is damaged: caches are built again in place; of a damaged log everything readable is got into a new directory,
//! the old one is not touched, and what is lost is listed.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::disallowed_methods)] // these tests damage files

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use nopokedb::{
    Change, CollectionOptions, Database, ErrorKind, Id, Metadata, Metric, NewRow, NewRows, Options, Repair, Repaired,
};

const DIM: usize = 16;
const BATCH: u64 = 20;
const BATCHES: u64 = 120;

fn options() -> Options {
    Options { metric: Metric::L2, segment_bytes: 96 << 10, graph_from: Some(200), ..Options::new(DIM) }
}

fn vector(seed: u64) -> Vec<f32> {
    (0..DIM as u64).map(|d| (((seed + 1) * (d + 3)) as f32 * 0.7371).sin()).collect()
}

fn text(id: u64, state: u64) -> Metadata {
    Metadata::from_json(&format!(r#"{{"id":{id},"state":{state}}}"#)).unwrap()
}

type Rows = BTreeMap<u64, u64>;

/// A closed database of several segments: rows of state 0 in batches under ids 0, 1, ... (so that operation n wrote id
/// n - 1), then a few deleted, a few changed, and another collection.
fn build(dir: &Path) -> Rows {
    let db = Database::open(dir, options()).unwrap();
    let c = db.collection();
    let mut rows = Rows::new();
    for n in 0..BATCHES {
        let ids = n * BATCH..(n + 1) * BATCH;
        let vectors: Vec<f32> = ids.clone().flat_map(vector).collect();
        let metadatas = ids.clone().map(|id| Some(text(id, 0))).collect();
        c.add_many(&vectors, NewRows { metadatas: Some(metadatas), ..NewRows::default() }).unwrap();
        rows.extend(ids.map(|id| (id, 0)));
    }
    for id in (11..BATCHES * BATCH).step_by(173) {
        c.delete(Id::Int(id)).unwrap();
        rows.remove(&id);
    }
    for id in (7..BATCHES * BATCH).step_by(191) {
        c.upsert(Id::Int(id), Change { metadata: Some(text(id, 1)), ..Change::default() }).unwrap();
        rows.insert(id, 1);
    }
    let other =
        db.open_collection("other", &CollectionOptions { metric: Metric::Ip, ..CollectionOptions::new(2) }).unwrap();
    other.add(&[1.0, 2.0], NewRow { document: Some("a text".into()), ..NewRow::default() }).unwrap();
    db.wait_indexed(None).unwrap();
    db.close().unwrap();
    rows
}

fn rows(db: &Database) -> Rows {
    let found = db.collection().scroll(None, 1_000_000, None).unwrap();
    let state = |json: &str| json[json.find("state").unwrap() + 7..json.len() - 1].parse().unwrap();
    let row = |row: nopokedb::Record| {
        assert_eq!(row.vector, vector(row.id.int().unwrap()));
        (row.id.int().unwrap(), state(row.metadata.unwrap().as_json()))
    };
    found.into_iter().map(row).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn truth(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let manifests = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let manifests = manifests.filter(|p| p.to_str().unwrap().contains("MANIFEST"));
    segments(dir).into_iter().chain(manifests).map(|p| (p.clone(), fs::read(p).unwrap())).collect()
}

/// A damaged directory: what `damage` makes of one that `build` made.
struct Case {
    room: tempfile::TempDir,
    before: Rows,
}

impl Case {
    fn new(damage: impl FnOnce(&Path)) -> Case {
        // On a busy machine the background has time to compact before the database is closed; the cases are about segments as
        // they were written.
        for _ in 0..100 {
            let room = tempfile::tempdir().unwrap();
            let dir = room.path().join("db");
            let before = build(&dir);
            let segments = segments(&dir);
            if segments.len() >= 4 && segments.iter().all(|path| is_raw(path)) {
                damage(&dir);
                return Case { room, before };
            }
        }
        panic!("every database was compacted while it was made");
    }

    fn dir(&self) -> PathBuf {
        self.room.path().join("db")
    }

    /// Salvages. The rows that are missing, or back in an older state, must lie in what is listed as lost.
    fn salvage(&self) -> (Repaired, BTreeSet<u64>) {
        let (into, untouched) = (self.room.path().join("new"), truth(&self.dir()));
        let refused = Database::repair(self.dir(), &Repair::default()).unwrap_err();
        assert!(refused.kind() == ErrorKind::Corruption && refused.message().contains("into"), "{refused}");
        let repair = Repair { into: Some(into.clone()), metric: Some(Metric::L2), ..Repair::default() };
        let repaired = Database::repair(self.dir(), &repair).unwrap();
        assert_eq!(truth(&self.dir()), untouched, "the damaged log was touched");
        assert!(repaired.path == into && repaired.cause.is_some(), "{repaired:?}");
        let db = Database::open(&into, options()).unwrap();
        assert!(db.check().unwrap().is_ok(), "{}", db.check().unwrap());
        let found = rows(&db);
        let ids: BTreeSet<u64> = self.before.keys().chain(found.keys()).copied().collect();
        let wrong: BTreeSet<u64> = ids.into_iter().filter(|id| self.before.get(id) != found.get(id)).collect();
        let again = Database::repair(self.dir(), &repair).unwrap_err();
        assert!(matches!(again.kind(), ErrorKind::Invalid(_)), "into is not empty any more: {again}");
        (repaired, wrong)
    }

    /// Those of `ids` whose last operation was the one that added them.
    fn added(&self, ids: &BTreeSet<u64>) -> impl Iterator<Item = u64> {
        ids.iter().copied().filter(|id| self.before.get(id) == Some(&0))
    }

    /// Nothing is lost: the directory is as good as it was, or everything is in the new one.
    fn whole(&self) {
        if let Ok(repaired) = Database::repair(self.dir(), &Repair::default()) {
            // The damage lay where no file has anything yet.
            assert!(repaired.lost.is_empty() && repaired.path.ends_with("db"), "{repaired:?}");
            return assert_eq!(rows(&Database::open(self.dir(), options()).unwrap()), self.before);
        }
        let (repaired, wrong) = self.salvage();
        assert!(wrong.is_empty() && repaired.lost.is_empty(), "{wrong:?} {repaired:?}");
    }
}

fn length(path: &Path) -> usize {
    usize::try_from(fs::metadata(path).unwrap().len()).unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Where frames of the default collection with vectors start (docs/FORMAT.md, section 3), and where their vectors do.
fn frames(path: &Path) -> Vec<(usize, usize)> {
    let bytes = fs::read(path).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let rows = |at: &usize| &bytes[*at..at + 4] == b"NPFR" && bytes[at + 8] == 1 && u32_at(at + 36) == 0;
    let starts = (0..bytes.len().saturating_sub(128)).step_by(64).filter(rows).filter(|at| u32_at(at + 116) > 0);
    starts.map(|at| (at, at + 128 + (40 * u32_at(at + 32) + u32_at(at + 112)).next_multiple_of(64))).collect()
}

/// A sealed segment and where the vectors of a frame in it start: those furthest from a segment's start, so that a block before
/// them stays whole if there is one.
fn far_vectors(dir: &Path) -> (PathBuf, usize) {
    let sealed = segments(dir).into_iter().filter(|path| *path != active(dir));
    let all = sealed.flat_map(|path| frames(&path).into_iter().map(move |(_, vectors)| (path.clone(), vectors)));
    all.max_by_key(|(_, vectors)| *vectors).expect("some segments are full")
}

/// The segment that is written to: the youngest that no compaction made.
fn active(dir: &Path) -> PathBuf {
    segments(dir).into_iter().rfind(|path| is_raw(path)).unwrap()
}

/// Whether a segment is as it was written, and not what a compaction made.
fn is_raw(path: &Path) -> bool {
    fs::read(path).unwrap()[36] == 1
}

fn listed(repaired: &Repaired) -> BTreeSet<u64> {
    repaired
        .lost
        .iter()
        .flat_map(|lost| &lost.rows)
        .map(|(collection, id)| {
            assert_eq!(collection, "default");
            id.int().unwrap()
        })
        .collect()
}

#[test]
fn a_damaged_block_costs_the_rows_in_it_and_no_others() {
    let (mut damaged, mut block) = (PathBuf::new(), 0);
    let case = Case::new(|dir| {
        let (path, vectors) = far_vectors(dir);
        flip(&path, vectors + 9);
        (damaged, block) = (path, (vectors + 9) / (64 << 10));
    });
    let (repaired, wrong) = case.salvage();
    let [lost] = &repaired.lost[..] else { panic!("{repaired:?}") };
    assert_eq!((&lost.file, lost.offset / (64 << 10)), (&damaged, block as u64), "{lost:?}");
    assert!(!wrong.is_empty() && wrong.len() as u64 <= BATCH * 40, "a block has room for hundreds of rows: {wrong:?}");
    assert_eq!(listed(&repaired), wrong, "what is listed is what is missing");
    let operations = lost.first_lsn..=lost.last_lsn.unwrap();
    assert!(case.added(&wrong).all(|id| operations.contains(&(id + 1))), "{lost:?} {wrong:?}");
}

#[test]
fn a_damaged_frame_of_the_active_segment_costs_that_frame() {
    let case = Case::new(|dir| {
        let (_, vectors) = *frames(&active(dir)).last().expect("the last writes were changes");
        flip(&active(dir), vectors + 9);
    });
    let (repaired, wrong) = case.salvage();
    let [lost] = &repaired.lost[..] else { panic!("{repaired:?}") };
    assert_eq!(lost.file, active(&case.dir()));
    assert!(!wrong.is_empty() && listed(&repaired) == wrong, "{wrong:?} {repaired:?}");
    assert!(lost.last_lsn.unwrap() - lost.first_lsn < BATCH, "{lost:?}");
}

#[test]
fn a_missing_segment_costs_the_operations_in_it() {
    for which in [0, 2] {
        let sealed = |dir: &Path| segments(dir).into_iter().filter(|path| *path != active(dir)).nth(which);
        let case = Case::new(|dir| fs::remove_file(sealed(dir).unwrap()).unwrap());
        let (repaired, wrong) = case.salvage();
        let [lost] = &repaired.lost[..] else { panic!("{repaired:?}") };
        let operations = lost.first_lsn..=lost.last_lsn.unwrap();
        assert!(!wrong.is_empty() && case.added(&wrong).all(|id| operations.contains(&(id + 1))), "{lost:?} {wrong:?}");
    }
}

#[test]
fn a_segment_cut_short_keeps_what_is_before_the_cut() {
    let case = Case::new(|dir| {
        let bytes = fs::read(&segments(dir)[1]).unwrap();
        fs::write(&segments(dir)[1], &bytes[..bytes.len() / 2]).unwrap();
    });
    let (repaired, wrong) = case.salvage();
    let cut = segments(&case.dir())[1].clone();
    assert!(repaired.lost.iter().all(|lost| lost.file == cut), "{repaired:?}");
    let within = |lsn: u64| repaired.lost.iter().any(|l| (l.first_lsn..=l.last_lsn.unwrap()).contains(&lsn));
    assert!(!wrong.is_empty() && case.added(&wrong).all(|id| within(id + 1)), "{wrong:?} {repaired:?}");
}

#[test]
fn damage_outside_the_rows_costs_nothing() {
    // The header of a sealed segment and of the active one, a footer, and one of each at once.
    Case::new(|dir| flip(&segments(dir)[1], 100)).whole();
    Case::new(|dir| flip(&active(dir), 2_000)).whole();
    Case::new(|dir| flip(&segments(dir)[0], length(&segments(dir)[0]) - 20)).whole();
    let case = Case::new(|dir| {
        flip(&segments(dir)[1], 100);
        flip(&segments(dir)[2], length(&segments(dir)[2]) - 20);
    });
    case.whole();
    let db = Database::open(case.room.path().join("new"), options()).unwrap();
    let other = db.find_collection("other").unwrap().unwrap();
    assert_eq!(other.get(Id::Int(0)).unwrap().unwrap().document.as_deref(), Some("a text"));
    assert_eq!(other.metric(), Metric::Ip);
    let id = db.collection().add(&vector(0), NewRow::default()).unwrap();
    assert_eq!(id, Id::Int(BATCHES * BATCH), "ids go on where they were");
}

#[test]
fn without_any_manifest_the_rows_are_got_all_the_same() {
    let case = Case::new(|dir| {
        let manifests = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        manifests.filter(|p| p.to_str().unwrap().contains("MANIFEST")).for_each(|p| flip(&p, 50));
    });
    let into = Some(case.room.path().join("untold"));
    let untold = Database::repair(case.dir(), &Repair { into, ..Repair::default() }).unwrap_err();
    assert!(untold.message().contains("metric"), "{untold}");
    let (repaired, wrong) = case.salvage();
    // Nothing tells operations that a compaction dropped from lost ones.
    assert!(wrong.is_empty() && repaired.lost.iter().all(|lost| lost.rows.is_empty()), "{wrong:?} {repaired:?}");
}

#[test]
fn caches_are_built_again_in_place() {
    for damaged in ["meta.sqlite", "index", "MANIFEST"] {
        let case = Case::new(|dir| {
            let inside = |p: &PathBuf| p.is_dir().then(|| fs::read_dir(p).unwrap().next().unwrap().unwrap().path());
            let named = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with(damaged);
            let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(named).collect();
            found.sort();
            let path = inside(&found[0]).unwrap_or(found[0].clone());
            flip(&path, length(&path) / 2);
        });
        let repaired = Database::repair(case.dir(), &Repair::default()).unwrap();
        assert!(repaired.path.ends_with("db") && repaired.lost.is_empty() && repaired.cause.is_none(), "{repaired:?}");
        let db = Database::open(case.dir(), options()).unwrap();
        assert!(db.check().unwrap().is_ok(), "{damaged}: {}", db.check().unwrap());
        assert_eq!(rows(&db), case.before);
    }
}

#[test]
fn what_is_no_database_or_is_open_is_refused() {
    let room = tempfile::tempdir().unwrap();
    let e = Database::repair(room.path(), &Repair::default()).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Invalid(_)), "{e}");
    let e = Database::repair(room.path().join("none"), &Repair::default()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io, "{e}");
    let case = Case::new(|_| {});
    let repaired = Database::repair(case.dir(), &Repair::default()).unwrap();
    assert_eq!((repaired.rows, repaired.rebuilt.len()), (case.before.len() as u64 + 1, 0));
}
