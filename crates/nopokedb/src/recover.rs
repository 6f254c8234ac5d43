//! Opening a directory: from files to memory.
//!
//! 1. Look before touching: the path, the file system, whose files these are.
//! 2. Take the directory's lock.
//! 3. Open the log: highest valid manifest, verified segments, torn tail dropped or damage reported (`log/recover.rs`).
//! 4. Read the row tables once and keep, per id, its latest row. That is the database.
//! 5. Load the index image where it fits those rows; the rows it lacks join the tail. A damaged image is set aside.
//! 6. Open SQLite; hand it the frames after its `applied_lsn`.
//!
//! Invariants: nothing is changed before the lock is held and the stored dimension and metric agree with the caller's;
//! what is damaged and is a cache is rebuilt; what is damaged and is the log is an error naming file and offset.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::engine::{CollectionCore, Engine, Parts, check_stored};
use crate::error::{Error, IoContext, Result};
use crate::generation::Generation;
use crate::index::IndexParams;
use crate::io::lock;
use crate::io::vfs::{EntryKind, Vfs};
use crate::log::frame::RowKind;
use crate::log::manifest::{self, CollectionEntry, DirState};
use crate::log::writer::{Log, LogOptions};
use crate::meta::applier::{Applier, LogBatch};
use crate::meta::{MetaLocation, MetaStore};
use crate::options::Options;
use crate::types::{CollectionId, Lsn, RecordId};
use crate::vectors::rows::{Loc, SegmentTable, SharedSegments};

/// Seed of the graph's level choice: fixed, so that one thread builds the same graph twice.
const SEED: u64 = 0x6E6F_706F_6B65;

/// Refuses a path that cannot be a database, and makes the directory if there is none. Changes nothing else.
pub(crate) fn prepare_directory(vfs: &dyn Vfs, path: &Path, options: &Options) -> Result<()> {
    match vfs.kind(path).context("look at", path)? {
        Some(EntryKind::Dir) => {}
        None => vfs.create_dir_all(path).context("make the directory", path)?,
        Some(_) => return Err(Error::path(path, "is a file; give a directory (it is made if it does not exist)")),
    }
    if let Some(kind) = vfs.network_file_system(path).context("look at", path)?
        && !options.force_network_fs
    {
        let why = format!(
            "is on a network file system ({kind}), whose locks and fsync cannot be trusted; use a local disk, or force it"
        );
        return Err(Error::path(path, why));
    }
    match manifest::inspect(vfs, path)? {
        DirState::Empty | DirState::Ours => Ok(()),
        DirState::OldNoPokeDb => Err(Error::path(
            path,
            "was written by nopokedb 0.5, which this version cannot import yet; open another directory and add the rows again",
        )),
        DirState::Foreign(names) => {
            let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let why = format!("holds files that are not a NoPokeDB database ({shown}); choose an empty or new directory");
            Err(Error::path(path, why))
        }
    }
}

impl Engine {
    /// Opens `dir`, which [`prepare_directory`] has accepted.
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path, options: &Options, meta: MetaLocation) -> Result<Arc<Engine>> {
        let lock = lock::acquire(&vfs, dir, options.timeout_ms)?;
        let log_options = LogOptions { segment_bytes: options.segment_bytes };
        let log = match manifest::inspect(&*vfs, dir)? {
            DirState::Ours => Log::open(vfs.clone(), dir, log_options)?.0,
            _ => Log::create(vfs.clone(), dir, log_options, &[default_entry(options)])?,
        };
        let entries = log.collections().to_vec();
        let default = entries.iter().find(|e| e.id == CollectionId::DEFAULT);
        let default = default.ok_or_else(|| Error::corruption(dir, 0, "the manifest has no default collection"))?;
        check_stored(dir, options, usize::from(default.dim), default.metric)?;

        let segments: SharedSegments = Arc::new(ArcSwap::from_pointee(SegmentTable::new(log.segments())));
        let mut replay = Replay::default();
        replay.read(&segments.load())?;
        let mut collections = BTreeMap::new();
        for entry in &entries {
            let puts = replay.collections.remove(&entry.id).unwrap_or_default();
            let core = restore(&vfs, dir, entry, options, puts, &segments, log.last_lsn())?;
            collections.insert(entry.id, Arc::new(core));
        }
        let applier = start_applier(meta, &log, &segments.load())?;
        Ok(Engine::assemble(Parts { vfs, dir: dir.to_owned(), options: options.clone(), lock, log, segments, collections, applier }))
    }
}

/// The entry of a new database's only collection.
fn default_entry(options: &Options) -> CollectionEntry {
    #[allow(clippy::cast_possible_truncation)] // Options::validate: dim <= 65,535, m <= 256, ef_construction <= 4,096
    CollectionEntry {
        id: CollectionId::DEFAULT,
        name: "default".into(),
        dim: options.dim as u16,
        metric: options.metric,
        m: options.m.unwrap_or(16) as u16,
        ef_construction: options.ef_construction.unwrap_or(200) as u16,
        next_id: 0,
    }
}

/// The rows of the log, reduced to the latest of each id.
#[derive(Debug, Default)]
struct Replay {
    collections: BTreeMap<CollectionId, Puts>,
}

/// One collection's PUT rows in LSN order.
#[derive(Debug, Default)]
struct Puts {
    rows: Vec<Put>,
    latest: HashMap<u64, usize>,
    next_id: u64,
}

#[derive(Clone, Copy, Debug)]
struct Put {
    id: RecordId,
    lsn: Lsn,
    loc: Loc,
    /// The LSN that replaced or deleted it; 0 while it lives.
    died: Lsn,
}

impl Replay {
    /// Reads every frame's row table, in LSN order.
    fn read(&mut self, segments: &SegmentTable) -> Result<()> {
        let mut ordered: Vec<_> = segments.iter().collect();
        ordered.sort_by_key(|s| s.first_lsn());
        for segment in ordered {
            segment.for_each_frame(|frame| {
                let puts = self.collections.entry(frame.collection()).or_default();
                for row in frame.rows() {
                    let row = row?;
                    let new = (row.kind == RowKind::Put).then(|| row.vector_offset).flatten();
                    puts.row(row.id, row.lsn, new.map(|offset| Loc::new(segment.no(), offset)));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Puts {
    fn row(&mut self, id: RecordId, lsn: Lsn, loc: Option<Loc>) {
        let replaced = match loc {
            Some(loc) => {
                self.next_id = self.next_id.max(id.0 + 1);
                self.rows.push(Put { id, lsn, loc, died: Lsn(0) });
                self.latest.insert(id.0, self.rows.len() - 1)
            }
            None => self.latest.remove(&id.0),
        };
        if let Some(old) = replaced {
            self.rows[old].died = lsn;
        }
    }
}

/// Brings one collection back: index image where it fits, everything else from the log.
fn restore(
    vfs: &Arc<dyn Vfs>,
    dir: &Path,
    entry: &CollectionEntry,
    options: &Options,
    puts: Puts,
    segments: &SharedSegments,
    last: Lsn,
) -> Result<CollectionCore> {
    let params = IndexParams {
        dim: usize::from(entry.dim),
        metric: entry.metric,
        m: options.m.unwrap_or(usize::from(entry.m)),
        ef_construction: options.ef_construction.unwrap_or(usize::from(entry.ef_construction)),
        seed: SEED,
        ..IndexParams::default()
    };
    let next_id = entry.next_id.max(puts.next_id);
    let image = crate::checkpoint::load_image(&**vfs, dir, entry.id, &params, last);
    let restored = image.and_then(|image| Restored::with_image(image, &puts));
    let restored = restored.unwrap_or_else(|| Restored::without_image(&puts));
    let generation = Generation::new(&params, segments);
    let image_lsn = restored.image_lsn;
    restored.fill(&generation, last)?;
    Ok(CollectionCore::new(entry.id, &params, next_id, generation, image_lsn))
}
