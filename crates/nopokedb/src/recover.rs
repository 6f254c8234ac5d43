//! Opening a directory: from files to memory.
//!
//! 1. Look before touching: the path, the file system, whose files these are.
//! 2. Take the directory's lock.
//! 3. Survey the log: highest valid manifest, verified segments, torn tail or damage (`log/recover.rs`).
//! 4. Open SQLite: if it is ahead of the log, the device lost acknowledged writes, and nothing is touched. If it is behind what
//!    the log was compacted to, it cannot catch up, and begins anew.
//! 5. Settle the log: the torn tail goes, what is kept is made durable.
//! 6. Read the row tables once and keep, per id, its latest row. That is the database.
//! 7. Load the index image where it fits those rows; the rows it lacks join the tail. A damaged image is set aside.
//! 8. Hand SQLite the frames after its `applied_lsn`.
//!
//! Invariants: nothing is changed before the lock is held and the stored dimension and metric agree with the caller's;
//! what is damaged and is a cache is rebuilt; what is damaged and is the log is an error naming file and offset.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::catalog::DEFAULT_NAME;
use crate::checkpoint::{ImageOf, Images, remove_leftover_images};
use crate::commit::feed::{self, in_lsn_order};
use crate::engine::{CollectionCore, Engine, Parts, Stored, check_stored};
use crate::error::{Error, ErrorKind, IoContext, Result, Subject};
use crate::follower;
use crate::generation::{Apply, Common, Generation, StoredRow};
use crate::import;
use crate::index::{Image, IndexParams};
use crate::io::atomic::create_dir_durable;
use crate::io::lock;
use crate::io::vfs::{EntryKind, Vfs};
use crate::log::{CollectionEntry, DirState, Log, LogOptions, RowKind, SegmentKind, Survey};
use crate::log::{IMPORTING, REPAIRING, claim, inspect, remove_mark};
use crate::meta::{Applier, MetaLocation, MetaStore, Opened, Tokenizers};
use crate::options::{CollectionOptions, Options, narrow};
use crate::types::{CollectionId, Lsn, RecordId, Slot, Watch};
use crate::vectors::ids::IdTable;
use crate::vectors::rows::{GONE, Loc, SegmentTable, SharedSegments};

/// Seed of the graph's level choice: fixed, so that one thread builds the same graph twice.
const SEED: u64 = 0x6E6F_706F_6B65;

/// A directory that a repair did not finish filling.
pub(crate) fn unfinished_repair(path: &Path) -> Error {
    Error::path(path, "holds a repair that was not finished; run repair() into it again, or remove the directory")
}

/// Refuses a path that cannot be a database, and makes the directory if there is none. Changes nothing else.
pub(crate) fn prepare_directory(vfs: &dyn Vfs, path: &Path, options: &Options) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::argument("the path is empty; give a directory, \".\" for the current one"));
    }
    match vfs.kind(path).context("look at", path)? {
        Some(EntryKind::Dir) => {}
        None => create_dir_durable(vfs, path)?,
        Some(_) => return Err(Error::path(path, "is a file; give a directory (it is made if it does not exist)")),
    }
    lock::refuse_network_fs(vfs, path, options.force_network_fs)?;
    match inspect(vfs, path)? {
        DirState::Empty | DirState::Ours | DirState::OldNoPokeDB => Ok(()),
        DirState::UnfinishedBackup => Err(Error::path(
            path,
            "holds a backup that was not finished; run backup() into it again, or remove the directory",
        )),
        DirState::UnfinishedRepair => Err(unfinished_repair(path)),
        DirState::Foreign(names) => {
            let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let why =
                format!("holds files that are not a NoPokeDB database ({shown}); choose an empty or new directory");
            Err(Error::path(path, why))
        }
    }
}

impl Engine {
    /// Opens `dir`, which [`prepare_directory`] has accepted.
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        options: &Options,
        meta: MetaLocation,
        watch: Watch<'_>,
    ) -> Result<Arc<Engine>> {
        let lock = lock::acquire_watched(&*vfs, dir, options.timeout_ms, &mut || watch(0, 0).is_continue())?;
        let log_options = LogOptions::new(&*vfs, options.segment_bytes);
        let mut imported = None;
        let mut found = inspect(&*vfs, dir)?;
        if found == DirState::OldNoPokeDB {
            sync_parent(&*vfs, dir)?;
            imported = Some(import::run(&vfs, dir, options, default_entry(options), watch)?);
            found = DirState::Ours;
        }
        let (mut log, store) = match found {
            DirState::Ours => {
                let survey = Survey::of(&*vfs, dir)?;
                check_default(dir, options, survey.collections())?;
                survey.check_tables()?;
                // A cache that is ahead of the log means lost writes. Settling would remove what may be left of them.
                let tokenizers = tokenizers_of(survey.collections(), options);
                let (mut store, mut opened) = MetaStore::open(meta, survey.db_uuid(), survey.last_lsn(), tokenizers)?;
                let settled = Log::settle(vfs.clone(), dir, log_options, survey)?.0;
                if !matches!(store.require(settled.compacted_to()), Ok(false)) {
                    // What failed here fails again, and is told, when the first rows are applied.
                    opened.applied_lsn = Lsn(0);
                }
                remove_mark(&*vfs, dir, IMPORTING)?;
                remove_mark(&*vfs, dir, REPAIRING)?;
                claim(&*vfs, dir, &settled)?;
                (settled, (store, opened))
            }
            _ => {
                sync_parent(&*vfs, dir)?;
                let log = Log::create(vfs.clone(), dir, log_options, &[default_entry(options)])?;
                let tokenizers = tokenizers_of(log.collections(), options);
                let store = MetaStore::open(meta, log.db_uuid(), log.last_lsn(), tokenizers)?;
                (log, store)
            }
        };
        let entries = log.collections().to_vec();
        let entries = keep_build_parameters(&mut log, entries, options)?;

        let common = Common::new(SegmentTable::new(log.segments()), &options.clock);
        let restoring = Restoring { vfs: &*vfs, dir, options, common: &common };
        let collections = restoring.collections(&log, &entries)?;
        let applier = start_applier(store, &log, &common.segments)?;
        entries.iter().filter(|e| e.is_dropped()).for_each(|e| applier.forget(e.id));
        remove_leftover_images(&*vfs, dir, &collections)?;
        Ok(Engine::assemble(Parts {
            vfs,
            dir: dir.to_owned(),
            options: options.clone(),
            lock: Some(lock),
            log,
            common,
            collections,
            applier,
            imported,
        }))
    }

    /// Opens `dir`, which [`crate::follower::find_directory`] has accepted, to read it and to follow whoever writes it.
    /// What the writer has put into SQLite is at `meta`.
    pub(crate) fn open_reading(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        options: &Options,
        meta: MetaLocation,
    ) -> Result<Arc<Engine>> {
        let log = follower::open_log(&vfs, dir, options)?;
        let entries = log.collections().to_vec();
        check_default(dir, options, &entries)?;
        let common = Common::new(SegmentTable::new(log.segments()), &options.clock);
        let collections = Restoring { vfs: &*vfs, dir, options, common: &common }.collections(&log, &entries)?;
        let (dir, options) = (dir.to_owned(), options.clone());
        let words = "SQLite's cache is the writer's; a handle that was opened to read only has no part in it. Ask the one that writes";
        let why = Error::new(ErrorKind::Invalid(Subject::ReadOnly), words);
        let applier = Applier::absent(&why, meta, log.db_uuid(), tokenizers_of(&entries, &options));
        Ok(Engine::assemble(Parts { vfs, dir, options, lock: None, log, common, collections, applier, imported: None }))
    }
}

/// What collections are brought back with.
pub(crate) struct Restoring<'a> {
    pub(crate) vfs: &'a dyn Vfs,
    pub(crate) dir: &'a Path,
    pub(crate) options: &'a Options,
    /// Holds the log's segments.
    pub(crate) common: &'a Common,
}

impl Restoring<'_> {
    /// The collections of a log in memory, dropped ones left out.
    pub(crate) fn collections(
        &self,
        log: &Log,
        entries: &[CollectionEntry],
    ) -> Result<BTreeMap<CollectionId, Arc<CollectionCore>>> {
        let &Restoring { vfs, dir, options, common } = self;
        let table = SegmentTable::new(log.segments());
        let mut replay = Replay::default();
        replay.read(&table)?;
        let mut collections = BTreeMap::new();
        replay.check_known(dir, entries)?;
        let images = Images::list(vfs, dir)?;
        for entry in entries.iter().filter(|e| !e.is_dropped()) {
            let puts = replay.collections.remove(&entry.id).unwrap_or_default();
            let (database, read_only) = (log.db_uuid(), options.read_only);
            let of = ImageOf { vfs, dir, database, collection: entry.id, read_only };
            let image = of.load(&images, &index_params(entry, options), log.last_lsn())?;
            let core = restore(of, entry, options, &puts, common, (log.last_lsn(), image))?;
            collections.insert(entry.id, Arc::new(core));
        }
        // What is left belongs to dropped collections.
        for put in replay.collections.values().flat_map(|puts| &puts.rows).filter(|put| put.died == Lsn(0)) {
            count_dead(&table, put.loc);
        }
        Ok(collections)
    }
}

/// Stores `M`, `ef_construction` and the tokenizer if the caller gives other ones (the graph and the text index are caches
/// and are built again with them), and the model's name if there is none yet.
fn keep_build_parameters(
    log: &mut Log,
    mut entries: Vec<CollectionEntry>,
    options: &Options,
) -> Result<Vec<CollectionEntry>> {
    let (m, ef_construction) = (options.m.map(narrow), options.ef_construction.map(narrow));
    let mut changed = false;
    for entry in entries.iter_mut().filter(|e| e.id == CollectionId::DEFAULT) {
        // `check_default` has refused another one than stored.
        if entry.model.is_none() && options.model.is_some() {
            (entry.model, changed) = (options.model.clone(), true);
        }
        let stored = (entry.m, entry.ef_construction, entry.tokenizer);
        let tokenizer = options.tokenizer.unwrap_or(entry.tokenizer);
        let wanted = (m.unwrap_or(entry.m), ef_construction.unwrap_or(entry.ef_construction), tokenizer);
        changed |= wanted != stored;
        (entry.m, entry.ef_construction, entry.tokenizer) = wanted;
    }
    if changed {
        log.set_collections(entries.clone())?;
    }
    Ok(entries)
}

/// How each collection's documents are cut into words from now on.
fn tokenizers_of(entries: &[CollectionEntry], options: &Options) -> Tokenizers {
    let tokenizers = Tokenizers::default();
    for entry in entries.iter().filter(|e| !e.is_dropped()) {
        let given = options.tokenizer.filter(|_| entry.id == CollectionId::DEFAULT);
        tokenizers.set(entry.id, given.unwrap_or(entry.tokenizer));
    }
    tokenizers
}

/// Makes the directory's own name durable before anything in it is acknowledged: whoever made the directory, perhaps a
/// process that was killed, may not have. A parent that we may not open is its owner's to sync.
fn sync_parent(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
    match vfs.sync_dir(parent) {
        Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => Err(Error::io("sync the directory", parent, e)),
        _ => Ok(()),
    }
}

/// The entry of a new database's only collection.
pub(crate) fn default_entry(options: &Options) -> CollectionEntry {
    let Options { dim, metric, m, ef_construction, ref model, tokenizer, .. } = *options;
    let made = CollectionOptions { dim, metric, m, ef_construction, model: model.clone(), tokenizer };
    CollectionEntry::new(CollectionId::DEFAULT, DEFAULT_NAME, &made)
}

/// The rows of the log, reduced to the latest of each id.
#[derive(Debug, Default)]
struct Replay {
    collections: BTreeMap<CollectionId, Puts>,
}

/// One collection's PUT rows in LSN order.
#[derive(Debug, Default)]
struct Puts {
    rows: Vec<StoredRow>,
    /// The row that each id has now.
    latest: IdTable,
    next_id: u64,
}

impl Replay {
    /// Reads every frame's row table, in LSN order.
    fn read(&mut self, segments: &SegmentTable) -> Result<()> {
        for segment in in_lsn_order(segments) {
            for table in segment.tables() {
                let table = table?;
                let puts = self.collections.entry(table.collection()).or_default();
                for i in 0..table.len() {
                    let entry = table.entry(i)?;
                    let offset = table.vector_offset(&entry)?.filter(|_| entry.kind == RowKind::Put);
                    let loc = offset.map(|offset| Loc::new(segment.no(), offset));
                    if loc.is_none() && segment.kind() == SegmentKind::Raw {
                        // In a compact segment a DELETE is there because it is needed still.
                        segment.add_dead(1);
                    }
                    if let Some(replaced) = puts.row(RecordId(entry.id), table.lsn(&entry), loc, entry.expires_ms) {
                        count_dead(segments, replaced);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Replay {
    /// A collection is in the manifest before it gets its first row, and stays there when it is dropped: rows of an unknown
    /// one mean that the manifest is not the one that was acknowledged.
    fn check_known(&self, dir: &Path, entries: &[CollectionEntry]) -> Result<()> {
        let known: HashSet<CollectionId> = entries.iter().map(|e| e.id).collect();
        match self.collections.keys().find(|id| !known.contains(id)) {
            None => Ok(()),
            Some(id) => {
                let what = format!("the log holds rows of collection {}, which no intact manifest lists", id.0);
                Err(Error::corruption(dir, 0, what))
            }
        }
    }
}

/// Counts a row among the dead of its segment.
fn count_dead(segments: &SegmentTable, loc: Loc) {
    if let Some(segment) = segments.get(loc.segment()) {
        segment.add_dead(1);
    }
}

impl Puts {
    /// Takes in the next row; returns the place of the row it replaces.
    fn row(&mut self, id: RecordId, lsn: Lsn, loc: Option<Loc>, expires_ms: i64) -> Option<Loc> {
        let replaced = match loc {
            Some(loc) => {
                if !id.is_text() {
                    self.next_id = self.next_id.max(id.0 + 1);
                }
                let place = u32::try_from(self.rows.len()).expect("rows take forty bytes of memory each");
                self.rows.push(StoredRow { id, lsn, loc, died: Lsn(0), expires_ms });
                self.latest.put(id.0, place)
            }
            None => self.latest.remove(id.0),
        };
        let old = &mut self.rows[replaced? as usize];
        old.died = lsn;
        Some(old.loc)
    }
}

/// Refuses options that contradict the default collection as it is stored.
fn check_default(dir: &Path, options: &Options, entries: &[CollectionEntry]) -> Result<()> {
    let default = entries.iter().find(|e| e.id == CollectionId::DEFAULT);
    let default = default.ok_or_else(|| Error::corruption(dir, 0, "the manifest has no default collection"))?;
    let (dim, metric, model) = (usize::from(default.dim), default.metric, default.model.as_deref());
    check_stored(dir, options, Stored { dim, metric, model })
}

/// Hands SQLite what it lacks, without waiting for it.
fn start_applier((store, opened): (MetaStore, Opened), log: &Log, segments: &SharedSegments) -> Result<Applier> {
    let mut replay = feed::replay(segments);
    let applier = Applier::start(store, feed::replay(segments))?;
    if opened.applied_lsn < log.last_lsn() {
        replay(opened.applied_lsn, log.last_lsn(), &mut |batch| {
            applier.submit(batch);
            Ok(())
        })?;
        // The last operations may have been compacted away.
        applier.reach(log.last_lsn());
    }
    Ok(applier)
}

/// What the index of a collection is made of.
pub(crate) fn index_params(entry: &CollectionEntry, options: &Options) -> IndexParams {
    let (m, ef_construction) = (entry.m as usize, entry.ef_construction as usize);
    let mut params = IndexParams::new(usize::from(entry.dim), entry.metric, m, ef_construction);
    params.seed = SEED;
    params.graph_from = options.graph_from.unwrap_or(params.graph_from);
    params
}

/// Brings one collection back: index image where it fits, everything else from the log.
fn restore(
    of: ImageOf<'_>,
    entry: &CollectionEntry,
    options: &Options,
    puts: &Puts,
    common: &Common,
    (last, image): (Lsn, Option<(Lsn, Image)>),
) -> Result<CollectionCore> {
    let params = index_params(entry, options);
    let next_id = entry.next_id.max(puts.next_id);
    let (generation, image_lsn) = match image {
        Some((lsn, image)) if puts.fits(&image.lsns, lsn) => (puts.fill_from(image, &params, common, last)?, lsn),
        Some((lsn, _)) => {
            of.remove(lsn)?;
            (puts.fill(&params, common, last)?, Lsn(0))
        }
        None => (puts.fill(&params, common, last)?, Lsn(0)),
    };
    Ok(CollectionCore::new(entry, next_id, generation, image_lsn))
}

impl Puts {
    /// Whether an image of slots written by `lsns`, up to `last`, has every row that lives.
    fn fits(&self, lsns: &[u64], last: Lsn) -> bool {
        let mut slots = lsns.iter().peekable();
        self.rows.iter().take_while(|p| p.lsn <= last).all(|put| {
            while slots.next_if(|&&lsn| lsn < put.lsn.0).is_some() {}
            put.died > Lsn(0) || slots.peek() == Some(&&put.lsn.0)
        })
    }

    /// A generation that goes on from an image that fits.
    fn fill_from(&self, image: Image, params: &IndexParams, common: &Common, last: Lsn) -> Result<Generation> {
        let lsns = image.lsns.clone();
        let mut rows = self.rows.iter().peekable();
        let generation = Generation::with_image(params, common, image, |slots| {
            slots.reserve(lsns.len());
            for (slot, &lsn) in (0..).map(Slot).zip(&lsns) {
                while rows.next_if(|p| p.lsn.0 < lsn).is_some() {}
                match rows.next_if(|p| p.lsn.0 == lsn) {
                    Some(put) => slots.restore(slot, put),
                    // Dead and compacted away: nobody sees it.
                    None => {
                        let (lsn, id) = (Lsn(lsn), RecordId(0));
                        slots.restore(slot, &StoredRow { id, lsn, loc: GONE, died: lsn, expires_ms: 0 });
                    }
                }
            }
        });
        let len = u32::try_from(lsns.len()).expect("an image's slots were counted as u32");
        let mut apply = generation.applier().after(len);
        self.append(rows, &mut apply, &common.segments, params.dim)?;
        apply.publish(last);
        Ok(generation)
    }

    /// A generation of the rows that live, without a graph yet.
    fn fill(&self, params: &IndexParams, common: &Common, last: Lsn) -> Result<Generation> {
        let generation = Generation::new(params, common);
        let mut apply = generation.applier();
        self.append(self.rows.iter(), &mut apply, &common.segments, params.dim)?;
        apply.publish(last);
        Ok(generation)
    }

    fn append<'a>(
        &self,
        rows: impl Iterator<Item = &'a StoredRow>,
        apply: &mut Apply<'_>,
        segments: &SharedSegments,
        dim: usize,
    ) -> Result<()> {
        let table = segments.load();
        for put in rows.filter(|p| p.died == Lsn(0)) {
            let segment = table.get(put.loc.segment()).expect("the location was read from this table");
            apply.row(put, segment.vector(put.loc.offset(), dim)?)?;
        }
        Ok(())
    }
}
