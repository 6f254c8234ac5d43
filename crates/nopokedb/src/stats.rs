//! Counters of what a database holds and uses, by part.

use crate::engine::Engine;
use crate::error::Result;
use crate::types::CollectionId;

/// What a database holds and uses now. Bytes are bytes; LSNs count row operations since the database was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Live rows.
    pub rows: u64,
    /// Rows the graph covers (dead ones included until it is rebuilt).
    pub graph_rows: u64,
    /// Rows that are scanned because the graph does not cover them (yet).
    pub tail_rows: u64,
    /// Rows that were replaced or deleted, or have expired, and still take a slot.
    pub dead_rows: u64,
    /// Log segments.
    pub segments: u64,
    /// Bytes of the log on the disk.
    pub log_bytes: u64,
    /// Memory of the graph: links and levels.
    pub graph_memory: u64,
    /// Memory of the codes and norms that searches traverse.
    pub codes_memory: u64,
    /// Memory of the per-row columns (ids, locations, LSNs).
    pub rows_memory: u64,
    /// Memory of the map from ids to rows.
    pub ids_memory: u64,
    /// Memory of the columns of the fields that filters ask about.
    pub columns_memory: u64,
    /// Memory of which rows pass the filters used last.
    pub filters_memory: u64,
    /// Memory of where words occur and of documents' lengths, for the searches for words.
    pub texts_memory: u64,
    /// The last write that searches see.
    pub visible_lsn: u64,
    /// The last write that SQLite reflects.
    pub applied_lsn: u64,
    /// Why writes are refused, if they are.
    pub writes_stopped: Option<String>,
    /// What the background worker could not do, if anything; it tries again.
    pub background_error: Option<String>,
    /// What ails the SQLite cache, if anything; it is rebuilt from the log.
    pub sqlite_error: Option<String>,
}

impl Engine {
    /// The counters of one collection and of what it shares with the others.
    pub(crate) fn stats(&self, collection: CollectionId) -> Result<Stats> {
        let generation = self.collection(collection)?.generation();
        let snapshot = generation.view().snapshot;
        let graph_rows = generation.index.graph_len().min(snapshot.len);
        let memory = generation.index.memory();
        let log = self.lock_log();
        let segments = log.segments();
        let log_bytes = segments.iter().map(|s| s.len()).sum();
        let visible_lsn = log.last_lsn().0;
        let poisoned = log.poisoned().map(str::to_owned);
        drop(log);
        let applier = self.applier.stats();
        Ok(Stats {
            rows: u64::from(snapshot.live),
            graph_rows: u64::from(graph_rows),
            tail_rows: u64::from(snapshot.len - graph_rows),
            dead_rows: u64::from(snapshot.len - snapshot.live),
            segments: segments.len() as u64,
            log_bytes,
            graph_memory: memory.graph as u64,
            codes_memory: memory.codes as u64,
            rows_memory: generation.rows.bytes() as u64,
            ids_memory: generation.ids.bytes() as u64,
            columns_memory: generation.filters.column_bytes() as u64,
            filters_memory: generation.filters.bytes() as u64,
            texts_memory: generation.texts.bytes() as u64,
            visible_lsn,
            applied_lsn: applier.applied_lsn.0,
            writes_stopped: self.check_writable().err().map(|e| e.to_string()).or(poisoned),
            background_error: self.background.last_error(),
            sqlite_error: applier.degraded,
        })
    }
}
