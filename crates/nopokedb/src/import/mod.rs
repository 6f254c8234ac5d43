//! Importing, where it is, a directory that nopokedb 0.5.1 wrote: `hnsw_index.bin` (vectors), `metadata.db` (SQLite) and
//! `oplog.jsonl` (rows of an `add` that had not returned).
//!
//! Invariants:
//! 1. The old files are opened for reading, and never for anything else.
//! 2. Nothing is written before the old files were read and found whole, apart from vectors and metadata themselves.
//! 3. The new log is complete and durable before the manifest that names it: a crash before leaves a directory that is
//!    imported again from the start, a crash after one that is imported.
//! 4. While the file `IMPORTING` is there and no manifest is, the log is an unfinished import's and is thrown away. Without
//!    it a log without a manifest is a database that lost its manifests, which is damage and never imported over.
//! 5. A row has the vector, the metadata and the id that 0.5.1 would have served after opening the directory.
//!
//! hnswlib does not store the space. What can be told is that vectors which are not of length 1 were not stored under
//! cosine; otherwise the caller is believed.
//!
//! Threading: none; the caller holds the directory's lock.

mod copy;
mod hnswlib;
mod json;
mod oplog;
mod report;
mod window;

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use copy::{Copy, Source};
use hnswlib::{Element, OldIndex};
use oplog::Pending;
use window::Window;

use crate::engine::{Stored, check_stored};
use crate::error::{Error, ErrorKind, Result};
use crate::io::atomic::write_atomic;
use crate::io::vfs::Vfs;
use crate::log::{CollectionEntry, IMPORTING, Log, LogOptions, remove_mark, remove_unfinished_import, set_mark};
use crate::meta::OldMetadata;
use crate::options::{Options, narrow};
use crate::types::{Id, Watch};

pub use report::{Ids, Imported};

/// What was imported, in words.
const NOTE: &str = "IMPORT.txt";

/// Imports the old files in `dir`. `entry` is the default collection as `options` would make it. `watch` is told the rows; if it
/// breaks, nothing was imported.
pub(crate) fn run(
    vfs: &Arc<dyn Vfs>,
    dir: &Path,
    options: &Options,
    mut entry: CollectionEntry,
    watch: Watch<'_>,
) -> Result<Imported> {
    let (plan, source) = survey(&**vfs, dir, options)?;
    entry.next_id = plan.next_id;
    if let Some(index) = &source.index {
        entry.m = narrow(options.m.unwrap_or(index.m.clamp(2, 256)));
        entry.ef_construction = narrow(options.ef_construction.unwrap_or(index.ef_construction.clamp(8, 4_096)));
    }
    begin(&**vfs, dir)?;
    let written = write(vfs, dir, options, &entry, (plan, source), watch);
    if written.is_err() {
        // Best effort: room for others. The next opening does the same before it starts again.
        let _ = remove_unfinished_import(&**vfs, dir);
    }
    let imported = written?;
    remove_mark(&**vfs, dir, IMPORTING)?;
    Ok(imported)
}

/// Says that what is in the log from now on is an import that has not finished, and clears what an earlier one left.
fn begin(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    set_mark(vfs, dir, IMPORTING)?;
    remove_unfinished_import(vfs, dir)
}

fn write(
    vfs: &Arc<dyn Vfs>,
    dir: &Path,
    options: &Options,
    entry: &CollectionEntry,
    (plan, source): (Plan, Source),
    watch: Watch<'_>,
) -> Result<Imported> {
    let all = plan.vectors.len();
    let log_options = LogOptions::new(&**vfs, options.segment_bytes);
    let mut log = Log::begin(vfs.clone(), dir, log_options, std::slice::from_ref(entry))?;
    let imported = Copy::new(source, plan, options, &mut log, &mut *watch).run()?;
    log.close_clean()?;
    write_atomic(&**vfs, dir, NOTE, imported.to_string().as_bytes())?;
    log.publish_first()?;
    // There is nothing left to stop.
    let _ = watch(all, all);
    Ok(imported)
}

/// Where each row's vector comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// An element of the index.
    Index(u32),
    /// A line of the log.
    Log,
    /// Nowhere: deleted from the index, while the log has its metadata.
    Nowhere,
}

/// What the old files say, apart from vectors and metadata themselves.
#[derive(Debug)]
struct Plan {
    /// Ids and their vectors' places, ascending.
    vectors: Vec<(u64, From)>,
    next_id: u64,
    imported: Imported,
}

/// Reads the old files and checks all that can be checked without reading vectors and metadata.
fn survey(vfs: &dyn Vfs, dir: &Path, options: &Options) -> Result<(Plan, Source)> {
    let index = Window::open(vfs, &dir.join("hnsw_index.bin"))?;
    let mut index = index.map(OldIndex::open).transpose()?;
    if let Some(index) = &index {
        check_stored(dir, options, Stored { dim: index.dim, metric: options.metric, model: None })?;
    }
    let elements = index.as_mut().map_or(Ok(Vec::new()), OldIndex::elements)?;
    let pending = Pending::read(Window::open(vfs, &dir.join("oplog.jsonl"))?, options.dim)?;
    if let Some(dim) = pending.other_dim.filter(|_| index.is_none() && pending.highest().is_none()) {
        check_stored(dir, options, Stored { dim, metric: options.metric, model: None })?;
    }
    let metadata = OldMetadata::open(vfs, &dir.join("metadata.db"))?;
    let highest = metadata.highest()?;
    Ok((Plan::of(&elements, &pending, highest), Source { index, pending, metadata, dir: dir.to_owned() }))
}

impl Plan {
    fn of(elements: &[Element], pending: &Pending, highest_metadata: Option<i64>) -> Plan {
        let mut imported =
            Imported { skipped_lines: pending.skipped, negative_ids: pending.unusable, ..Imported::default() };
        let mut places: HashMap<u64, From> = HashMap::with_capacity(elements.len());
        // The old log is replayed only where the index has never heard of the id, deleted or not.
        places.extend(pending.ids().map(|id| (id, From::Log)));
        let mut highest = pending.highest().max(highest_metadata.and_then(|id| u64::try_from(id).ok()));
        for element in elements {
            if element.label > Id::MAX_INT {
                imported.negative_ids += 1;
                continue;
            }
            highest = highest.max(Some(element.label));
            imported.deleted += u64::from(element.deleted);
            if !element.deleted {
                places.insert(element.label, From::Index(element.no));
            } else if pending.contains(element.label) {
                places.insert(element.label, From::Nowhere);
            }
        }
        let mut vectors: Vec<(u64, From)> = places.into_iter().collect();
        vectors.sort_unstable_by_key(|(id, _)| *id);
        let next_id = highest.map_or(0, |id| id.saturating_add(1).min(Id::MAX_INT));
        Plan { vectors, next_id, imported }
    }
}

/// Damage in one of the old files.
fn damaged(path: &Path, offset: u64, what: impl Display) -> Error {
    let message = format!(
        "{} is damaged at byte {offset}: {what}. Nothing was imported and nothing was changed; restore the file from a backup",
        path.display()
    );
    Error::new(ErrorKind::Corruption, message)
}
