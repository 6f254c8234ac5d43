//! SQLite as a deletable cache of the log: metadata and documents by id, readable with any `sqlite3`.
//!
//! This folder is the only place that imports rusqlite.
//!
//! Invariants:
//! 1. The log is the database. Nothing here is needed to get a row back; deleting `meta.sqlite` costs a replay.
//! 2. `state.applied_lsn` changes in the same transaction as the rows it covers, so that the file always reflects a whole
//!    prefix of the log, whatever was killed when.
//! 3. Rows are applied in LSN order, and rows at or below `applied_lsn` are skipped: applying twice is applying once.
//! 4. Rows are handed in only after the log's fsync, so `applied_lsn` ahead of the log means that the device lost
//!    acknowledged writes. That is said loudly, and nothing is touched.
//! 5. A damaged file is renamed aside and rebuilt from the log. SQLite has no page checksums, so each row carries its own
//!    hash and each collection its row count: what is read is checked.
//! 6. A failing SQLite never fails or blocks a commit: the log has the rows, and they are applied when it works again.
//!
//! Threading: [`applier::Applier`] owns the one writing connection on its own thread. Readers take read-only connections
//! from a small pool ([`readers::Readers`]) and see whole transactions.

mod applier;
mod connection;
mod elsewhere;
mod files;
mod journal;
mod old;
mod open;
mod queue;
mod readers;
mod records;
mod store;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod text_check;

use std::path::PathBuf;

use crate::error::Result;
use crate::types::{CollectionId, Lsn, RecordId};

pub(crate) use applier::{Applier, Replay};
pub(crate) use connection::{Outcome, Trouble};
pub(crate) use old::OldMetadata;
pub(crate) use open::AHEAD;
pub(crate) use readers::Reader;
#[cfg(test)]
pub(crate) use readers::{Bound, Cell};
pub(crate) use store::MetaStore;
pub(crate) use text::Tokenizers;

/// Where the cache lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetaLocation {
    /// A file, with SQLite's `-wal` and `-shm` beside it.
    File(PathBuf),
    /// In memory, always built from the log: for databases on a simulated disk.
    Memory,
}

/// What an operation of the log does to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    /// The record is now exactly this.
    Put,
    /// The record is gone.
    Delete,
}

/// One operation of the log, as far as this cache is concerned. Borrows from the mapped segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MetaRow<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) collection: CollectionId,
    pub(crate) id: RecordId,
    pub(crate) kind: RowKind,
    pub(crate) key: Option<&'a str>,
    pub(crate) metadata: Option<&'a str>,
    pub(crate) document: Option<&'a str>,
    /// When the record expires, in Unix milliseconds; 0 is never.
    pub(crate) expires_ms: i64,
}

/// Committed rows on their way into SQLite: holds the segment they lie in, and reads them where they are.
pub(crate) trait AppliedBatch: Send {
    /// The last operation in it.
    fn last_lsn(&self) -> Lsn;
    /// The log's hash chain after that operation, for the stamp.
    fn chain(&self) -> [u8; 16] {
        [0; 16]
    }
    /// How many rows it has.
    fn row_count(&self) -> usize;
    /// About how many bytes its keys, metadata and documents have.
    fn byte_count(&self) -> usize;
    /// The rows, ascending by LSN. Damage in the segment surfaces here.
    fn rows<'a>(&'a self) -> Box<dyn Iterator<Item = Result<MetaRow<'a>>> + 'a>;
}

/// What [`MetaStore::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The operations up to here are in; the log's later ones are to be applied next.
    pub(crate) applied_lsn: Lsn,
    /// The log's hash chain at `applied_lsn`, as the batch gave it.
    pub(crate) chain: [u8; 16],
    pub(crate) found: Found,
}

/// The state of the file before it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There was none.
    Fresh,
    /// It was whole.
    Intact,
    /// It was damaged, another database's or of another version: renamed to `to`, and begun anew.
    Quarantined { to: PathBuf, why: String },
    /// It cannot be opened at the moment, and will be when something is applied.
    Unavailable { why: String },
}
