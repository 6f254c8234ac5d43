//! What changes the manifest: footers of full segments, collections, and compacted segments in the place of others.
//!
//! Invariants:
//! 1. A file is removed only after the two highest manifests, both durable, do not name it.
//! 2. A footer is written only over bytes whose frame hashes were checked in the same pass: it never blesses damage.
//!
//! Threading: [`write_footer`] needs no lock, only one caller per segment; the methods of [`Log`] are its owner's.

use std::sync::Arc;

use super::files::{log_dir, remove_if_there};
use super::footer::{BLOCK, Footer, block_hash};
use super::format::SegmentKind;
use super::manifest::{self, CollectionEntry, Manifest, SegmentEntry};
use super::scan::scan;
use super::segment::{FooterRef, Segment};
use super::writer::Log;
use crate::error::{IoContext, Result};
use crate::io::vfs::VfsFile;
use crate::types::SegmentNo;

/// Writes and syncs the footer of a full raw segment. Run it in the background after a roll, then call
/// [`Log::publish_footers`]. Doing it twice, or failing half-way, does no harm.
pub(crate) fn write_footer(segment: &Segment) -> Result<()> {
    if segment.footer().is_some() {
        return Ok(());
    }
    let scan = scan(&**segment.file(), segment.path(), segment.header())?;
    if scan.successor.is_none() || scan.end != segment.end() {
        return Err(segment.damaged(scan.stop, scan.why));
    }
    let blocks = hash_blocks(&**segment.file(), segment, scan.end)?;
    let last_lsn = segment.last_lsn();
    let footer = Footer { covered: scan.end, last_lsn, last_chain: scan.chain, frames: scan.frames, blocks };
    let at = append_footer(&**segment.file(), segment, &footer)?;
    segment.attach_footer(footer, at);
    Ok(())
}

fn append_footer(file: &dyn VfsFile, segment: &Segment, footer: &Footer) -> Result<FooterRef> {
    let (bytes, hash) = footer.encode();
    let file_len = footer.covered + bytes.len() as u64;
    let written = file
        .write_all_at(&[&bytes], footer.covered)
        .and_then(|()| file.set_len(file_len))
        .and_then(|()| file.sync_data());
    written.context("write the footer of", segment.path())?;
    Ok(FooterRef { offset: footer.covered, file_len, hash })
}

fn hash_blocks(file: &dyn VfsFile, segment: &Segment, end: u64) -> Result<Vec<u64>> {
    let mut buf = vec![0; usize::try_from(BLOCK).expect("64 KiB fits in memory")];
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(buf.len()).min(buf.len());
        let n = file.read_at(&mut buf[..want], at).context("read", segment.path())?;
        if n < want {
            return Err(segment.damaged(at, "the file became shorter while it was read"));
        }
        blocks.push(block_hash(&buf[..want]));
        at += want as u64;
    }
    Ok(blocks)
}

impl Log {
    /// Full segments that have no footer yet, oldest first.
    pub(crate) fn without_footer(&self) -> Vec<Arc<Segment>> {
        self.sealed.iter().filter(|s| s.footer().is_none()).map(Arc::clone).collect()
    }

    /// Lists the footers that were written meanwhile in a new manifest, so that the next opening need not read those
    /// segments. `dead_rows` says how many rows of a segment are dead, as a hint for later.
    pub(crate) fn publish_footers(&mut self, dead_rows: &dyn Fn(SegmentNo) -> u64) -> Result<()> {
        self.publish_with(1, dead_rows)
    }

    /// Changes the table of collections, for good once this returns.
    pub(crate) fn set_collections(&mut self, collections: Vec<CollectionEntry>) -> Result<()> {
        // Only what makes it longer: dropping, and opening what an earlier version made, must go on.
        if collections.len() > self.collections.len() {
            manifest::check_table(&collections)?;
        }
        let before = std::mem::replace(&mut self.collections, Arc::new(collections));
        if let Err(e) = self.publish_manifest(1) {
            self.collections = before;
            return Err(e);
        }
        // From here on the change stands: the highest manifest has it, whatever becomes of the second copy, which only
        // guards against damage to the first. Saying "refused" would be wrong after the next opening. The next manifest
        // makes up for a copy that failed; a failed sync of the directory has poisoned the log by itself.
        let _ = self.publish_manifest(1);
        Ok(())
    }

    /// Puts the segment `new` (or nothing) in the place of the adjacent sealed segments `old`, for good, and then removes
    /// the old files. Readers that hold an old [`Segment`] keep its bytes until they let go. `collections` carries the
    /// next ids, since rows that are gone no longer show which were used.
    pub(crate) fn replace_segments(
        &mut self,
        old: &[SegmentNo],
        new: Option<Arc<Segment>>,
        collections: Vec<CollectionEntry>,
        dead_rows: &dyn Fn(SegmentNo) -> u64,
    ) -> Result<()> {
        self.check_alive()?;
        let range = self.adjacent(old)?;
        let (sealed_before, collections_before) = (self.sealed.clone(), self.collections.clone());
        let compacted_before = self.last_compaction_ms;
        let removed: Vec<_> = self.sealed.splice(range, new).collect();
        self.collections = Arc::new(collections);
        self.last_compaction_ms = (self.options.now_ms)();
        if let Err(e) = self.publish_with(2, dead_rows) {
            // The new segment stays, unlisted or listed by a manifest that may be the highest: both sets are on disk.
            (self.sealed, self.collections) = (sealed_before, collections_before);
            self.last_compaction_ms = compacted_before;
            return Err(e);
        }
        for segment in removed {
            // A file that cannot be removed now is not listed, so the next opening removes it.
            let _ = remove_if_there(&*self.vfs, segment.path());
        }
        if let Err(e) = self.vfs.sync_dir(&log_dir(&self.dir)) {
            // The replacement stands, but no new name in this directory can be relied upon any more.
            self.poison(format!("could not sync the directory {}: {e}", log_dir(&self.dir).display()));
        }
        Ok(())
    }

    /// Writes `copies` manifests of the present state.
    pub(crate) fn publish_manifest(&mut self, copies: u32) -> Result<()> {
        self.publish_with(copies, &|_| 0)
    }

    /// Writes `copies` manifests of the present state, then removes all but the two highest.
    fn publish_with(&mut self, copies: u32, dead_rows: &dyn Fn(SegmentNo) -> u64) -> Result<()> {
        self.check_alive()?;
        self.check_in_place()?;
        for _ in 0..copies {
            // A number is used once, even if writing it fails: the file may be there all the same.
            self.manifest_number += 1;
            let stored = manifest::store(&*self.vfs, &self.dir, &self.manifest(dead_rows));
            match stored {
                Ok(()) => {}
                // After a failed sync of the directory no name in it can be relied upon any more, a new segment's included.
                Err(failed) if failed.unsure => return Err(self.poison(failed.error.message().to_owned())),
                Err(failed) => return Err(failed.error),
            }
        }
        self.tell();
        // The change stands: not to find the old manifests is no reason to call it refused. The next one removes them.
        for number in manifest::numbers(&*self.vfs, &self.dir).unwrap_or_default().into_iter().skip(2) {
            // An old manifest that stays is never the highest.
            let _ = remove_if_there(&*self.vfs, &manifest::path_of(&self.dir, number));
        }
        Ok(())
    }

    pub(super) fn manifest(&self, dead_rows: &dyn Fn(SegmentNo) -> u64) -> Manifest {
        let listed = |s: &&Arc<Segment>| s.kind() == SegmentKind::Compact || s.footer().is_some();
        let entries = self.sealed.iter().take_while(listed).filter_map(|s| {
            Some(SegmentEntry {
                no: s.no(),
                kind: s.kind(),
                first_lsn: s.first_lsn(),
                last_lsn: s.last_lsn(),
                footer: s.footer()?,
                rows: s.rows(),
                dead_rows: dead_rows(s.no()),
            })
        });
        let segments: Vec<_> = entries.collect();
        let scan_from = self.sealed.get(segments.len()).unwrap_or(&self.active).no();
        Manifest {
            number: self.manifest_number,
            db_uuid: self.db_uuid,
            created_ms: (self.options.now_ms)(),
            scan_from,
            next_segment: self.next_segment,
            last_compaction_ms: self.last_compaction_ms,
            segments,
            collections: self.collections.clone(),
        }
    }
}
