//! `purge`: deleted rows go from every file at once, not when their space is worth a compaction.
//!
//! 1. Go on to another segment, so that what holds the rows can be compacted.
//! 2. Compact each segment that has a dead row, or a DELETE, of the ids, oldest first: a DELETE goes once nothing older is left
//!    that it kills.
//! 3. Build the collection's memory again without dead slots, and remove the index images: codes are copies, if coarse ones.
//! 4. Have SQLite's file made anew from the log, and remove the old one: its free pages, its write-ahead log and its text index
//!    keep what was deleted.
//!
//! Invariants: each step leaves a whole database, so that a crash between any two leaves bytes which doing it again removes; when
//! the call returns, the removals are durable. Only rows written before the call are looked for.
//!
//! Threading: the background worker rests meanwhile; searches and writes go on.

use std::collections::{BTreeSet, HashSet};

use crate::commit::feed::in_lsn_order;
use crate::engine::{CollectionCore, Engine};
use crate::error::{Error, IoContext, Result};
use crate::filter::Filter;
use crate::log::RowKind;
use crate::metadata::view::{Json, Members};
use crate::types::{Lsn, RecordId, SegmentNo};
use crate::vectors::Visibility;

impl Engine {
    /// Takes every byte of the dead rows `records` out of the directory.
    pub(crate) fn purge(&self, collection: &CollectionCore, records: &HashSet<u64>) -> Result<()> {
        let _paused = self.background.pause();
        let upto = {
            let mut log = self.lock_log();
            log.check_in_place()?;
            log.seal_active()?;
            self.publish_segments(&log);
            log.last_lsn()
        };
        self.seal_segments()?;
        // Each compaction takes what is mentioned out of its segment; writers may fill others meanwhile, but above `upto`.
        let mut last = None;
        while let Some(no) = self.mentioned(collection, records, upto)? {
            if last.replace(no) == Some(no) || !self.compact_run(&[no])? {
                return Err(Error::closed());
            }
        }
        if !self.rebuild(collection)? {
            return Err(Error::closed());
        }
        self.remove_images()?;
        self.applier.purge()?;
        self.vfs.sync_dir(self.dir()).context("sync the directory", self.dir())
    }

    /// The records of rows that have expired and pass `filter`, sorted: those that are not deleted yet, and those that were, as long
    /// as the log has them.
    pub(crate) fn expired_passing(&self, collection: &CollectionCore, filter: &Filter) -> Result<Vec<RecordId>> {
        let (now_ms, mut found) = (self.options.clock.now_ms(), BTreeSet::new());
        for segment in in_lsn_order(&self.segments.load()) {
            for table in segment.tables() {
                let table = table?;
                for i in (0..table.len()).filter(|_| table.collection() == collection.id) {
                    let entry = table.entry(i)?;
                    let Some(vector) = table.vector_offset(&entry)? else { continue };
                    if entry.expires_ms == 0 || entry.expires_ms > now_ms {
                        continue;
                    }
                    let members = match segment.text_at_vector(vector)?.metadata.map(Json::of) {
                        Some(Json::Object(members)) => members,
                        _ => Members::empty(),
                    };
                    if filter.holds(members) {
                        found.insert(RecordId(entry.id));
                    }
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The oldest segment that has a dead row, or a DELETE, of one of `records` from up to `upto`.
    fn mentioned(&self, collection: &CollectionCore, records: &HashSet<u64>, upto: Lsn) -> Result<Option<SegmentNo>> {
        let generation = collection.generation();
        let view = generation.view();
        let lives = |lsn| generation.rows.slot_of(lsn, view.snapshot.len).is_some_and(|slot| view.is_live(slot));
        for segment in in_lsn_order(&self.segments.load()) {
            for table in segment.tables() {
                let table = table?;
                for i in (0..table.len()).filter(|_| table.collection() == collection.id) {
                    let entry = table.entry(i)?;
                    let lsn = table.lsn(&entry);
                    if lsn <= upto && records.contains(&entry.id) && (entry.kind == RowKind::Delete || !lives(lsn)) {
                        return Ok(Some(segment.no()));
                    }
                }
            }
        }
        Ok(None)
    }
}
