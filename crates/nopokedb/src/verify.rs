//! `check()`: holds everything that is stored against everything else, and says what it found.
//!
//! What is compared: every block of the sealed log with its checksum and every frame with its hash; every slot with the row
//! it points to; the map of ids with the slots; the graph with its own invariants; SQLite's rows with their hashes and their
//! number with the live rows. Damage of a cache is repaired on the way or by the next opening; damage of the log is named
//! with file and offset.
//!
//! Invariant: nothing is changed, except that a damaged SQLite file is set aside and rebuilt.

use std::fmt;

use crate::engine::{CollectionCore, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::types::Slot;
use crate::vectors::Visibility;

/// What [`Database::check`](crate::Database::check) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Log segments read through.
    pub segments: u64,
    /// Bytes of the log that were compared with their checksums.
    pub log_bytes: u64,
    /// Live rows that were compared with what points to them.
    pub rows: u64,
    /// Rows in a graph.
    pub graph_rows: u64,
    /// Everything that is not as it should be, a sentence each. Empty: all is well.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { segments, log_bytes, rows, graph_rows, problems } = self;
        let verdict = if self.is_ok() { "ok".to_owned() } else { format!("{} problems", problems.len()) };
        write!(f, "{verdict}: {segments} log segments ({log_bytes} bytes), {rows} rows, {graph_rows} in a graph")?;
        problems.iter().try_for_each(|p| write!(f, "\n- {p}"))
    }
}

impl Engine {
    /// Checks everything. Takes a time in proportion to the data; searches and writes go on.
    pub(crate) fn verify(&self) -> Result<Report> {
        let mut report = Report::default();
        for segment in self.segments.load_full().iter() {
            report.segments += 1;
            report.log_bytes += segment.len();
            let frames = segment.frames().try_for_each(|frame| frame?.rows().try_for_each(|row| row.map(drop)));
            if let Err(e) = segment.verify_all().and(frames) {
                report.problems.push(e.to_string());
            }
        }
        for collection in self.all_collections() {
            self.verify_collection(&collection, &mut report);
        }
        Ok(report)
    }

    fn verify_collection(&self, collection: &CollectionCore, report: &mut Report) {
        let generation = collection.generation();
        let view = generation.view();
        let mut wrong = Vec::new();
        for slot in (0..view.snapshot.len).map(Slot).filter(|&slot| view.is_live(slot)) {
            report.rows += 1;
            let (id, lsn) = (generation.rows.id(slot), generation.rows.lsn(slot));
            match view.with_row(slot, |row| Ok((row.id, row.lsn))) {
                Ok(Some(found)) if found == (id, lsn) => {}
                Ok(Some((other, _))) => wrong.push(format!("row {id} points to the bytes of row {other}")),
                Ok(None) => wrong.push(format!("row {id} points to bytes that are gone")),
                Err(e) => wrong.push(e.to_string()),
            }
        }
        let graph = generation.index.check(&view);
        report.graph_rows += u64::from(graph.nodes);
        if !graph.is_sound() {
            wrong
                .push(format!("the graph is not sound: {graph:?}; remove the directory index/ to have it built again"));
        }
        if let Err(e) = self.verify_sqlite(collection) {
            wrong.push(format!("SQLite's cache: {e}"));
        }
        report.problems.extend(wrong.into_iter().map(|problem| format!("collection {:?}: {problem}", collection.name)));
    }

    /// Compares SQLite with memory at one moment: writes wait meanwhile.
    fn verify_sqlite(&self, collection: &CollectionCore) -> Result<()> {
        let log = self.lock_log();
        let lsn = log.last_lsn();
        self.applier.verify(lsn)?;
        let (cached, live) = (self.applier.count(lsn, collection.id)?, collection.generation().ids.len() as u64);
        drop(log);
        if cached == live {
            return Ok(());
        }
        let message = format!("it has {cached} rows where {live} are live; delete meta.sqlite to have it built again");
        Err(Error::new(ErrorKind::Corruption, message))
    }
}
