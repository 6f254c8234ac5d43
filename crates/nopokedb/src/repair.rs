//! `repair()`: damaged caches are built again in place; of a damaged log everything readable goes to a new directory, and what
//! does not is listed.
//!
//! Invariants:
//! 1. A damaged log is never written to. It may be read better one day, by somebody else, or after a copy from a dying disk. So
//!    the log is read before it is opened, and opened only if nothing of it is lost.
//! 2. The new directory has the mark `REPAIRING` first and its manifest last: what was cut off half-way is not taken for a
//!    database, and the next repair into it starts afresh.
//! 3. A row counts as lost only if its last known state is: one that was written again, or deleted, later is not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::remove_all;
use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::io::atomic::create_dir_durable;
use crate::io::lock;
use crate::io::vfs::Vfs;
use crate::log::{
    CollectionEntry, DirState, FrameBuilder, Log, LogOptions, Loss, NewRowRef, REPAIRING, RowKind, RowView, Salvage,
};
use crate::log::{inspect, remove_mark, remove_unfinished_repair, set_mark};
use crate::meta::AHEAD;
use crate::options::Options;
use crate::recover::{default_entry, unfinished_repair};
use crate::types::{CollectionId, Id, Lsn, Metric, RecordId};

/// A group of the new log is written when it has this many rows.
const GROUP_ROWS: u32 = 10_000;

/// How to repair.
#[derive(Clone, Debug, Default)]
pub struct Repair {
    /// Where to put what can be read of a damaged log: a new or empty directory. Without one, damage of the log is an error.
    pub into: Option<PathBuf>,
    /// The distance of the default collection, if not even a manifest is left that tells it.
    pub metric: Option<Metric>,
    /// As [`Options::force_network_fs`].
    pub force_network_fs: bool,
}

/// What [`Database::repair`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// The directory to use from now on: the new one, or the old one if its log is whole.
    pub path: PathBuf,
    /// What was wrong with the log, if something was.
    pub cause: Option<String>,
    /// The caches that were built again, a sentence each.
    pub rebuilt: Vec<String>,
    /// Live rows in `path`.
    pub rows: u64,
    /// What of the log could not be read. Empty: nothing is lost.
    pub lost: Vec<Lost>,
}

/// A part of the log that cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The damaged file.
    pub file: PathBuf,
    /// The first byte that does not check.
    pub offset: u64,
    /// The first operation that may be lost, and the last; `None` if nothing tells how far it went.
    pub first_lsn: u64,
    /// See `first_lsn`.
    pub last_lsn: Option<u64>,
    /// The rows, as (collection, id), of which the last known operation is lost: they are missing in the new directory, or
    /// back in an older state. What is not known to have been there is not listed. A text id may not be readable any more:
    /// it is given as `text id number` and the number that stands for it in the log.
    pub rows: Vec<(String, Id)>,
    /// What does not check.
    pub why: String,
}

/// Repairs the database in `dir`.
pub(crate) fn repair(vfs: &Arc<dyn Vfs>, dir: &Path, repair: &Repair, open: &Open<'_>) -> Result<Repaired> {
    match inspect(&**vfs, dir)? {
        DirState::Ours => {}
        DirState::UnfinishedRepair => return Err(unfinished_repair(dir)),
        _ => return Err(Error::path(dir, "is not a NoPokeDB database, so there is nothing to repair")),
    }
    let found = {
        let _locked = lock::acquire(&**vfs, dir, 0)?;
        Salvage::of(&**vfs, dir)?
    };
    let cause = match (found.losses.first(), options_of(&found, repair)) {
        (Some(Loss { file, offset, why, .. }), _) => format!("{} is damaged at byte {offset}: {why}", file.display()),
        (None, None) => format!("{}: no manifest is readable", dir.display()),
        (None, Some(options)) => match in_place(&**vfs, dir, options, open) {
            Ok(Ok(repaired)) => return Ok(repaired),
            Ok(Err(problem)) => problem,
            // The log is whole as far as it goes; what to do about the rest is the caller's to say.
            Err(e) if e.message().contains(AHEAD) => return Err(e),
            Err(e) if e.kind() == ErrorKind::Corruption => e.message().to_owned(),
            Err(e) => return Err(e),
        },
    };
    let Some(into) = &repair.into else {
        let message = format!(
            "{cause}. This is the log, which nothing can be built again from: restore a backup, or call repair with a new \
             directory, into, that gets everything readable"
        );
        return Err(Error::new(ErrorKind::Corruption, message));
    };
    if into == dir || !matches!(inspect(&**vfs, into)?, DirState::Empty | DirState::UnfinishedRepair) {
        return Err(Error::path(into, "is not empty; give a new directory for what can be read"));
    }
    let _locked = lock::acquire(&**vfs, dir, 0)?;
    let mut repaired = salvage(vfs, into, repair, found)?;
    repaired.cause = Some(cause);
    Ok(repaired)
}

/// Opens a directory, on whatever disk.
pub(crate) type Open<'a> = dyn Fn(&Path, Options) -> Result<Database> + 'a;

/// The options that the stored ones do not contradict.
fn options_of(found: &Salvage, repair: &Repair) -> Option<Options> {
    let default = found.collections.as_ref()?.iter().find(|c| c.id == CollectionId::DEFAULT)?;
    let force_network_fs = repair.force_network_fs;
    Some(Options { metric: default.metric, force_network_fs, ..Options::new(usize::from(default.dim)) })
}

/// Checks a directory that opens, and builds damaged caches again; `Err` inside says what is wrong with the log.
fn in_place(vfs: &dyn Vfs, dir: &Path, options: Options, open: &Open<'_>) -> Result<Result<Repaired, String>> {
    let db = open(dir, options.clone())?;
    let report = db.check()?;
    let (mut rebuilt, rows) = (report.rebuilt, report.rows);
    if let Some(problem) = report.log_problem {
        return Ok(Err(problem));
    }
    if !report.problems.is_empty() {
        db.rebuild_caches()?;
        db.close()?;
        // The next opening builds the indexes from the log.
        remove_all(vfs, &dir.join("index"))?;
        let db = open(dir, options)?;
        db.wait_applied()?;
        db.wait_indexed(None)?;
        let again = db.check()?;
        if let Some(problem) = again.problems.first() {
            return Ok(Err(problem.clone()));
        }
        db.close()?;
        rebuilt.extend(report.problems);
    } else {
        db.close()?;
    }
    Ok(Ok(Repaired { path: dir.to_owned(), rebuilt, rows, ..Repaired::default() }))
}

/// The latest operation on each row.
type Latest = HashMap<(CollectionId, u64), (Lsn, RowKind)>;

fn salvage(vfs: &Arc<dyn Vfs>, into: &Path, repair: &Repair, salvage: Salvage) -> Result<Repaired> {
    let (mut latest, mut dims) = (Latest::new(), HashMap::new());
    salvage.each_row(&mut |collection, dim, row| {
        dims.entry(collection).or_insert(dim);
        let last = latest.entry((collection, row.id.0)).or_insert((row.lsn, row.kind));
        if row.lsn >= last.0 {
            *last = (row.lsn, row.kind);
        }
        Ok(())
    })?;
    let mut collections = match &salvage.collections {
        Some(collections) => collections.clone(),
        None => made_up(&dims, repair.metric)?,
    };
    for entry in &mut collections {
        let counted = |(collection, id): &&(CollectionId, u64)| *collection == entry.id && !RecordId(*id).is_text();
        let ids = latest.keys().filter(counted).map(|(_, id)| id + 1);
        entry.next_id = entry.next_id.max(ids.max().unwrap_or(0));
    }
    create_dir_durable(&**vfs, into)?;
    lock::refuse_network_fs(&**vfs, into, repair.force_network_fs)?;
    let options = LogOptions::new(&**vfs, Options::new(1).segment_bytes);
    let _locked = lock::acquire(&**vfs, into, 0)?;
    // Invariant 2.
    set_mark(&**vfs, into, REPAIRING)?;
    remove_unfinished_repair(&**vfs, into)?;
    let mut log = Log::begin(Arc::clone(vfs), into, options, &collections)?;
    let rows = write(&salvage, &mut log, &collections, &latest)?;
    log.close_clean()?;
    log.publish_first()?;
    remove_mark(&**vfs, into, REPAIRING)?;
    let lost = salvage.losses.into_iter().map(|loss| lost(loss, &collections, &latest)).collect();
    Ok(Repaired { path: into.to_owned(), rows, lost, ..Repaired::default() })
}

/// Collections of which only rows are left.
fn made_up(dims: &HashMap<CollectionId, u16>, metric: Option<Metric>) -> Result<Vec<CollectionEntry>> {
    let Some(metric) = metric else {
        return Err(Error::argument(
            "no manifest is readable, so nothing tells how distance is measured; give the metric as well",
        ));
    };
    let mut ids: Vec<CollectionId> = dims.keys().copied().chain([CollectionId::DEFAULT]).collect();
    ids.sort_unstable_by_key(|id| id.0);
    ids.dedup();
    let entry = |id: CollectionId| {
        let dim = dims.get(&id).copied().unwrap_or(1);
        let plain = default_entry(&Options { metric, ..Options::new(usize::from(dim)) });
        let name = if id == CollectionId::DEFAULT { plain.name } else { format!("collection-{}", id.0) };
        CollectionEntry { id, name, ..plain }
    };
    Ok(ids.into_iter().map(entry).collect())
}

/// Writes the rows that live to the new log.
fn write(salvage: &Salvage, log: &mut Log, collections: &[CollectionEntry], latest: &Latest) -> Result<u64> {
    let mut rows = 0;
    let mut builder: Option<FrameBuilder> = None;
    salvage.each_row(&mut |collection, dim, row| {
        let known = collections.iter().any(|c| c.id == collection && c.dim == dim && !c.is_dropped());
        let last = latest.get(&(collection, row.id.0)) == Some(&(row.lsn, RowKind::Put));
        if !known || !last || row.vector.is_none() {
            return Ok(());
        }
        let full = |b: &FrameBuilder| b.collection() != collection || b.rows() >= GROUP_ROWS;
        if let Some(done) = builder.take_if(|b| full(b)) {
            log.append(&[done.finish()])?;
        }
        let RowView { kind, id, key, metadata, document, vector, expires_ms, .. } = *row;
        let new = NewRowRef { kind, id, key, metadata, document, vector, expires_ms };
        builder.get_or_insert_with(|| FrameBuilder::new(collection, dim)).push(&new)?;
        rows += 1;
        Ok(())
    })?;
    if let Some(done) = builder {
        log.append(&[done.finish()])?;
    }
    Ok(rows)
}

/// The id of a row that may not be readable.
fn shown(id: RecordId) -> Id {
    if id.is_text() { Id::from(format!("text id number {id}")) } else { Id::Int(id.0) }
}

/// A loss with the rows that nothing later says more about.
fn lost(loss: Loss, collections: &[CollectionEntry], latest: &Latest) -> Lost {
    let name = |id: CollectionId| collections.iter().find(|c| c.id == id).map_or(String::new(), |c| c.name.clone());
    let is_last = |(collection, id, lsn): &(CollectionId, RecordId, Lsn)| {
        latest.get(&(*collection, id.0)).is_none_or(|(later, _)| later < lsn)
    };
    Lost {
        file: loss.file,
        offset: loss.offset,
        first_lsn: loss.first.0,
        last_lsn: loss.last.map(|lsn| lsn.0),
        rows: loss.rows.into_iter().filter(is_last).map(|(collection, id, _)| (name(collection), shown(id))).collect(),
        why: loss.why,
    }
}
