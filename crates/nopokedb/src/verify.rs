//! `check()`: holds everything that is stored against everything else, and says what it found.
//!
//! What is compared: every block and frame of the log with its checksum, read from the disk again; the manifests with the
//! files they name; every slot with the row it points to; the map of ids with the slots; the graph with its own invariants;
//! every row of SQLite with the row of the log it copies, and their number; the words of the text index with the documents, cut
//! again; the index images with their checksums and the slots.
//!
//! Invariants:
//! 1. Nothing is changed, except that a SQLite file that turns out to be damaged is set aside and built again, as any reader
//!    of it would have it done.
//! 2. What is reported is so: the background worker rests meanwhile, and what a concurrent write may explain is looked at again
//!    under the commit lock.

use std::fmt;
use std::sync::PoisonError;

use crate::checkpoint::Images;
use crate::engine::{CollectionCore, Engine};
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::meta::{MetaRow, Trouble};
use crate::types::{Lsn, RecordId, Slot};
use crate::vectors::Visibility;
use crate::vectors::keys::places;
use crate::vectors::view::View;

/// More problems of one kind than this are counted, not listed.
const SHOWN: usize = 20;

/// What [`Database::check`](crate::Database::check) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Collections that were looked at.
    pub collections: u64,
    /// Log segments read through.
    pub segments: u64,
    /// Bytes of the log that were compared with their checksums.
    pub log_bytes: u64,
    /// Live rows that were compared with what points to them.
    pub rows: u64,
    /// Rows in a graph.
    pub graph_rows: u64,
    /// Rows of SQLite that were compared with the log.
    pub sqlite_rows: u64,
    /// Index images read through.
    pub images: u64,
    /// Everything that is not as it should be, a sentence each. Empty: all is well.
    pub problems: Vec<String>,
    /// Caches that were found damaged and are built again from the log already, a sentence each.
    pub rebuilt: Vec<String>,
    /// The first problem that is the log's own: nothing can be built again from elsewhere.
    pub(crate) log_problem: Option<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Takes over what is wrong with one thing, `wrong`; of very many, the first.
    fn add(&mut self, what: &str, mut wrong: Vec<String>) {
        let more = wrong.len().saturating_sub(SHOWN);
        wrong.truncate(SHOWN);
        self.problems.extend(wrong.into_iter().map(|problem| format!("{what}: {problem}")));
        if more > 0 {
            self.problems.push(format!("{what}: and {more} more problems of this kind"));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { collections, segments, log_bytes, rows, graph_rows, sqlite_rows, images, .. } = self;
        let verdict = match self.problems.len() {
            0 => "ok".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        write!(
            f,
            "{verdict}: {segments} log segments ({log_bytes} bytes), {collections} collections, {rows} rows, \
             {sqlite_rows} of them in SQLite, {graph_rows} in a graph, {images} index images"
        )?;
        self.problems.iter().chain(&self.rebuilt).try_for_each(|p| write!(f, "\n- {p}"))
    }
}

impl Engine {
    /// Checks everything. Takes a time in proportion to the data; searches and writes go on.
    pub(crate) fn verify(&self) -> Result<Report> {
        let _paused = self.background.pause();
        let mut report = Report::default();
        let manifests = self.lock_log().audit_manifests()?;
        report.add("the log", manifests);
        for segment in self.segments.load_full().iter() {
            report.segments += 1;
            match segment.audit() {
                Ok(bytes) => report.log_bytes += bytes,
                Err(e) => {
                    report.log_problem.get_or_insert(e.to_string());
                    report.problems.push(e.to_string());
                }
            }
        }
        let images = Images::list(&*self.vfs, self.dir());
        for collection in self.all_collections() {
            report.collections += 1;
            self.verify_collection(&collection, &images, &mut report);
        }
        if self.follower.is_none() {
            self.verify_sqlite(&mut report);
        }
        Ok(report)
    }

    fn verify_collection(&self, collection: &CollectionCore, images: &Result<Images>, report: &mut Report) {
        let what = format!("collection {:?}", collection.name);
        let generation = collection.generation();
        let rows = self.verify_rows(&generation, report);
        report.add(&what, rows);
        let graph = generation.index.check(&generation.stored());
        report.graph_rows += u64::from(graph.nodes);
        if !graph.is_sound() {
            let wrong = format!(
                "the graph is not sound ({} live rows unreachable, {} bad links): {graph:?}. Searches fill up from an exact \
                 scan; repair() builds it again",
                graph.unreachable,
                graph.dangling + graph.repeated + graph.misplaced + graph.unordered
            );
            report.add(&what, vec![wrong]);
        }
        let found = images.as_ref().map_err(Error::duplicate);
        let found = found.and_then(|listed| self.verify_images(listed, collection));
        let (images, wrong) = found.unwrap_or_else(|e| (0, vec![e.to_string()]));
        report.images += images;
        report.add(&what, wrong);
    }

    /// Every live slot against the bytes it points to, and against the map of ids.
    fn verify_rows(&self, generation: &Generation, report: &mut Report) -> Vec<String> {
        let view = generation.stored();
        let (mut wrong, mut suspects) = (Vec::new(), Vec::new());
        for slot in (0..view.snapshot.len).map(Slot).filter(|&slot| view.is_live(slot)) {
            report.rows += 1;
            let (id, lsn) = (generation.rows.id(slot), generation.rows.lsn(slot));
            let sound = |v: &[f32]| v.len() == generation.rows.dim() && v.iter().all(|x| x.is_finite());
            let looked = view.with_row(slot, |row| {
                Ok((row.id, row.lsn, row.vector.is_some_and(sound), is_number_of(row.id, row.key)))
            });
            match looked {
                Ok(Some(found)) if found == (id, lsn, true, true) => {}
                Ok(Some((other, ..))) if other != id => {
                    wrong.push(format!("row {id} points to the bytes of row {other}"));
                }
                Ok(Some((_, other, ..))) if other != lsn => {
                    wrong.push(format!("row {id} points to an older or newer state of itself"));
                }
                Ok(Some((_, _, true, false))) => {
                    wrong.push(format!("the number of row {id} is not one that its text id leads to"));
                }
                Ok(Some(_)) => wrong.push(format!("the vector of row {id} is not one that could have been stored")),
                Ok(None) => wrong.push(format!("row {id} points to bytes that are gone")),
                Err(e) => wrong.push(e.to_string()),
            }
            if generation.ids.get(id) != Some(slot) {
                suspects.push(slot);
            }
        }
        // A write moves ids a moment before slots; with the lock held there is none.
        let log = self.lock_log();
        for slot in suspects {
            let id = generation.rows.id(slot);
            if generation.rows.died(slot) == Lsn(0) && generation.ids.get(id) != Some(slot) {
                wrong.push(format!("the map of ids does not lead from {id} to its row"));
            }
        }
        let (mapped, live) = (generation.ids.len(), generation.snapshot.load().live as usize);
        drop(log);
        if mapped != live {
            wrong.push(format!("the map of ids has {mapped} entries where {live} rows are live"));
        }
        wrong
    }

    /// The collection's images: how many there are, and what is wrong with them.
    fn verify_images(&self, listed: &Images, collection: &CollectionCore) -> Result<(u64, Vec<String>)> {
        // Whoever writes an image holds this.
        let written = collection.image_lsn.lock().unwrap_or_else(PoisonError::into_inner);
        let (database, last) = {
            let log = self.lock_log();
            (log.db_uuid(), log.last_lsn())
        };
        self.image_of(database, collection).audit(listed, (collection, *written), last)
    }

    /// Compares SQLite with the log, as of one moment for all collections.
    fn verify_sqlite(&self, report: &mut Report) {
        for _ in 0..2 {
            let outcome = self.compare_sqlite();
            match outcome {
                Ok((rows, wrong)) => {
                    report.sqlite_rows = rows;
                    report.add("SQLite's cache", wrong);
                    return;
                }
                Err(Trouble::Damaged(why)) => {
                    report.rebuilt.push(format!("SQLite's cache was damaged ({why}) and is built again from the log"));
                }
                Err(Trouble::Failed(e)) => {
                    report.add("SQLite's cache", vec![e.to_string()]);
                    return;
                }
            }
        }
        report.add("SQLite's cache", vec!["it was damaged again right after it was built again".to_owned()]);
    }

    fn compare_sqlite(&self) -> Result<(u64, Vec<String>), Trouble> {
        // First without the lock: SQLite may be far behind.
        self.wait_applied()?;
        let log = self.lock_log();
        let lsn = log.last_lsn();
        let collections: Vec<_> = self.all_collections().into_iter().map(|c| (c.generation(), c)).collect();
        let views: Vec<_> = collections.iter().map(|(generation, c)| (generation.stored(), generation, c)).collect();
        self.applier.read_once(lsn, |reader| {
            // The reader's state is fixed from its first look on. Nothing was written since `lsn`.
            let applied = reader.applied_lsn()?;
            drop(log);
            let (mut rows, mut wrong) = (0, Vec::new());
            if applied != lsn {
                wrong.push(format!("it says that it reflects operation {applied}, the last one is {lsn}"));
            }
            reader.verify()?;
            for (view, generation, collection) in &views {
                let mut found = 0;
                reader.scan(collection.id, &mut |row| {
                    found += 1;
                    wrong.extend(compare_row(generation, view, row));
                })?;
                rows += found;
                let live = u64::from(view.snapshot.live);
                if found != live {
                    let name = &collection.name;
                    wrong.push(format!("it has {found} rows of collection {name:?}, where {live} are live"));
                }
            }
            Ok((rows, wrong))
        })
    }
}

/// Whether a record's number is one that its key leads to, if it has one (docs/FORMAT.md, section 4).
fn is_number_of(record: RecordId, key: Option<&str>) -> bool {
    key.map_or(!record.is_text(), |text| places(text).any(|place| place == record))
}

/// What differs between a row of SQLite and the row of the log that it copies.
fn compare_row(generation: &Generation, view: &View<'_>, cached: &MetaRow<'_>) -> Option<String> {
    let id = cached.id;
    let live = |&slot: &Slot| view.is_live(slot) && generation.rows.id(slot) == id;
    let Some(slot) = generation.rows.slot_of(cached.lsn, view.snapshot.len).filter(live) else {
        return Some(format!("it has a row {id} (operation {}) that the log does not have any more", cached.lsn));
    };
    let same = view.with_row(slot, |row| {
        Ok((row.key, row.metadata, row.document, row.expires_ms)
            == (cached.key, cached.metadata, cached.document, cached.expires_ms))
    });
    match same {
        Ok(Some(false)) => Some(format!("its row {id} is not what the log has")),
        // What the log cannot give is the log's problem, and was told there.
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_follows_from_its_text_and_an_integer_has_none() {
        for place in places("doc-1") {
            assert!(is_number_of(place, Some("doc-1")));
            assert!(!is_number_of(place, Some("doc-2")) && !is_number_of(place, None));
        }
        assert!(is_number_of(RecordId(7), None) && !is_number_of(RecordId(7), Some("doc-1")));
    }
}
