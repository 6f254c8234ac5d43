//! A database that is only read: what another process writes, kept up with.
//!
//! The log says what came ([`Followed`]); here memory follows: rows are applied as a commit applies them, rows that a compaction
//! moved are looked for in its new segments, collections come and go. Where the log lost its place, everything is read anew
//! beside what serves, and swapped in.
//!
//! Invariants:
//! 1. No byte of the database is changed, no lock taken.
//! 2. Only acknowledged rows are shown, whole batches of them, and never an older state after a newer one.
//! 3. No answer is older than [`BOUND`]: the background polls every [`POLL`], and a call that finds the last look longer ago than
//!    [`STALE`] looks itself. If that cannot be done the call is an error: nobody reads an old state without knowing.
//! 4. A step that fails half-way has everything read anew ([`Follower::reload`]).
//!
//! Threading: who refreshes holds the commit lock. Searches take no lock, as in a database that is written.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::{CollectionCore, Engine};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::generation::Generation;
use crate::io::lock;
use crate::io::vfs::{EntryKind, Vfs};
use crate::log::{CollectionEntry, DirState, Followed, Log, LogOptions, Manifest, Placed, RowKind, Segment};
use crate::log::{gone, inspect, replaced};
use crate::options::Options;
use crate::recover::{Restoring, index_params, unfinished_repair};
use crate::types::{Lsn, SegmentNo, Slot};
use crate::vectors::rows::{GONE, Loc, SegmentTable};

/// How often the background looks for something new: one small read when there is nothing.
const POLL: Duration = Duration::from_millis(100);
/// A call looks itself when nobody has for so long.
const STALE: Duration = Duration::from_millis(500);
/// Longer than this a failing look is not passed over.
const BOUND: Duration = Duration::from_secs(1);

/// What an engine that follows another process knows besides.
#[derive(Debug)]
pub(crate) struct Follower {
    since: Instant,
    /// When the last look that succeeded began, in milliseconds after `since`.
    looked_ms: AtomicU64,
    /// Memory and log may not agree: read both anew.
    reload: AtomicBool,
    /// How often rows changed their places; a rebuild that sees it change begins again.
    pub(crate) relocations: AtomicU64,
    /// What searches that began earlier may still use.
    retired: Mutex<Vec<Retired>>,
}

/// A generation that was replaced by reading anew, and the segments it may still read.
type Retired = (Arc<Generation>, Vec<Arc<Segment>>);

impl Follower {
    /// Of an engine that was opened just now.
    pub(crate) fn new() -> Self {
        Follower {
            since: Instant::now(),
            looked_ms: AtomicU64::new(0),
            reload: AtomicBool::new(false),
            relocations: AtomicU64::new(0),
            retired: Mutex::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The segments of a log and those that older generations still read.
    fn table(&self, log: &Log) -> SegmentTable {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|(generation, _)| Arc::strong_count(generation) > 1);
        let mut segments = log.segments();
        segments.extend(retired.iter().flat_map(|(_, segments)| segments.iter().cloned()));
        SegmentTable::new(segments)
    }
}

/// Refuses a path that holds no database to read.
pub(crate) fn find_directory(vfs: &dyn Vfs, path: &Path, options: &Options) -> Result<()> {
    match vfs.kind(path).context("look at", path)? {
        Some(EntryKind::Dir) => {}
        None => {
            let why =
                "there is no such directory to read; check the path, or open it without read_only to make a database";
            return Err(Error::path(path, why));
        }
        Some(_) => return Err(Error::path(path, "is a file; give the directory of a database")),
    }
    lock::refuse_network_fs(vfs, path, options.force_network_fs)?;
    match inspect(vfs, path)? {
        DirState::Ours => Ok(()),
        DirState::OldNoPokeDB => {
            Err(Error::path(path, "was written by nopokedb 0.5; open it once without read_only, which imports it"))
        }
        DirState::UnfinishedBackup => Err(Error::path(path, "is a backup that is not finished; take it again")),
        DirState::UnfinishedRepair => Err(unfinished_repair(path)),
        DirState::Empty | DirState::Foreign(_) => {
            let why = "holds no NoPokeDB database to read; check the path, or open it without read_only to make one";
            Err(Error::path(path, why))
        }
    }
}

/// The log of `dir` to read and follow.
pub(crate) fn open_log(vfs: &Arc<dyn Vfs>, dir: &Path, options: &Options) -> Result<Log> {
    Log::open_reading(vfs, dir, LogOptions::new(&**vfs, options.segment_bytes))
}

impl Engine {
    /// Makes everything visible that was acknowledged before this call. Nothing to do for the writer itself.
    pub(crate) fn refresh(&self) -> Result<()> {
        let Some(follower) = &self.follower else { return Ok(()) };
        let mut log = self.lock_log();
        let began = follower.now_ms();
        self.follow(follower, &mut log)?;
        follower.looked_ms.store(began, SeqCst);
        Ok(())
    }

    /// Invariant 3, at the head of every call.
    #[inline]
    pub(crate) fn check_fresh(&self) -> Result<()> {
        let Some(follower) = &self.follower else { return Ok(()) };
        let age = Duration::from_millis(follower.now_ms().saturating_sub(follower.looked_ms.load(SeqCst)));
        if age < STALE {
            return Ok(());
        }
        match self.refresh() {
            // A read that fails once (no descriptor free, say) may succeed the next time.
            Err(e) if e.kind() == ErrorKind::Io && age < BOUND => Ok(()),
            other => other,
        }
    }

    /// The background's round: what came, and memory's upkeep.
    pub(crate) fn follow_round(&self) -> Result<()> {
        self.refresh()?;
        self.with_busy(|busy| {
            self.index_tails(busy)?;
            self.rebuild_collections(busy)?;
            self.repair_worn_graphs(busy)
        })
    }

    /// How long the background of a follower sleeps at most; `None` for a writer's.
    pub(crate) fn poll(&self) -> Option<Duration> {
        self.follower.as_ref().map(|_| POLL)
    }

    fn follow(&self, follower: &Follower, log: &mut Log) -> Result<()> {
        if follower.reload.load(SeqCst) {
            return self.read_anew(follower, log);
        }
        let before = log.last_lsn();
        let followed = log.follow();
        // Rows that the log counted and nobody applied.
        follower.reload.store(followed.is_err() && log.last_lsn() != before, SeqCst);
        match followed? {
            Followed::Nothing => Ok(()),
            Followed::Lost => self.read_anew(follower, log),
            Followed::News(placed, manifest) => {
                follower.reload.store(true, SeqCst);
                if !self.take_in(follower, log, &placed, manifest.as_ref())? {
                    return self.read_anew(follower, log);
                }
                follower.reload.store(false, SeqCst);
                self.background.wake();
                Ok(())
            }
        }
    }

    /// Brings memory to where the log is. `false` if it cannot be done step by step.
    fn take_in(
        &self,
        follower: &Follower,
        log: &mut Log,
        placed: &[Placed],
        manifest: Option<&Manifest>,
    ) -> Result<bool> {
        for entry in manifest.iter().flat_map(|m| m.collections.iter()).filter(|e| !e.is_dropped()) {
            self.applier.tokenizers().set(entry.id, entry.tokenizer);
            if self.collection(entry.id).is_err() {
                let params = index_params(entry, &self.options);
                let generation = Generation::new(&params, &self.common);
                self.insert_collection(Arc::new(CollectionCore::new(entry, 0, generation, Lsn(0))));
            }
        }
        self.segments.store(Arc::new(follower.table(log)));
        self.apply_rows(placed, log.last_lsn())?;
        let Some(manifest) = manifest else { return Ok(true) };
        let Some(adopted) = log.adopt(manifest)? else { return Ok(false) };
        if !(adopted.opened.is_empty() && adopted.retired.is_empty()) {
            follower.relocations.fetch_add(1, SeqCst);
            let mut both: Vec<_> = self.segments.load().iter().cloned().collect();
            both.extend(adopted.opened.iter().cloned());
            self.segments.store(Arc::new(SegmentTable::new(both)));
            if !self.move_rows(&adopted.opened, &adopted.retired)? {
                return Ok(false);
            }
            self.segments.store(Arc::new(follower.table(log)));
        }
        self.forget_dropped(&manifest.collections);
        Ok(true)
    }

    /// Points rows in `retired` segments to where a compaction put them. `false` if a live one is in none of `opened`.
    fn move_rows(&self, opened: &[Arc<Segment>], retired: &[SegmentNo]) -> Result<bool> {
        for segment in opened {
            for table in segment.tables() {
                let table = table?;
                let Ok(collection) = self.collection(table.collection()) else { continue };
                let generation = collection.generation();
                let len = generation.snapshot.load().len;
                for i in 0..table.len() {
                    let entry = table.entry(i)?;
                    let offset = table.vector_offset(&entry)?.filter(|_| entry.kind == RowKind::Put);
                    let slot = generation.rows.slot_of(table.lsn(&entry), len);
                    if let (Some(slot), Some(offset)) = (slot, offset) {
                        generation.rows.relocate(slot, Loc::new(segment.no(), offset));
                    }
                }
            }
        }
        for collection in self.all_collections() {
            let generation = collection.generation();
            let (rows, snapshot) = (&generation.rows, **generation.snapshot.load());
            let mut lost = false;
            for slot in (0..snapshot.len).map(Slot) {
                let loc = rows.loc(slot);
                if loc != GONE && retired.contains(&loc.segment()) {
                    if rows.died(slot) == Lsn(0) {
                        return Ok(false);
                    }
                    if !lost {
                        rows.note_loss();
                        lost = true;
                    }
                    rows.relocate(slot, GONE);
                }
            }
            if lost {
                self.look_at(std::iter::once(collection.id));
            }
        }
        Ok(true)
    }

    /// Takes collections out of memory that the manifest has no more.
    fn forget_dropped(&self, entries: &[CollectionEntry]) {
        let listed: HashSet<_> = entries.iter().filter(|e| !e.is_dropped()).map(|e| e.id).collect();
        for collection in self.all_collections() {
            if !listed.contains(&collection.id) {
                collection.dropped.store(true, SeqCst);
                self.remove_collection(collection.id);
            }
        }
    }

    /// Reads the whole log again, beside what serves, and swaps it in.
    fn read_anew(&self, follower: &Follower, log: &mut Log) -> Result<()> {
        follower.reload.store(true, SeqCst);
        let fresh = open_log(&self.vfs, self.dir(), &self.options);
        if fresh.is_err() && matches!(self.vfs.kind(self.dir()), Ok(None)) {
            return Err(gone(self.dir()));
        }
        let mut fresh = fresh?;
        if fresh.db_uuid() != log.db_uuid() {
            return Err(replaced(self.dir()));
        }
        let old = log.segments();
        let mut both = fresh.segments();
        both.extend(old.iter().cloned());
        self.segments.store(Arc::new(SegmentTable::new(both)));
        let entries = fresh.collections().to_vec();
        let at = Restoring { vfs: &*self.vfs, dir: self.dir(), options: &self.options, common: &self.common };
        let restored = at.collections(&fresh, &entries)?;
        let mut retired = follower.retired.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, collection) in restored {
            match self.collection(id) {
                Ok(present) => {
                    retired.push((present.generation(), old.clone()));
                    present.replace_generation(collection.generation());
                }
                Err(_) => self.insert_collection(collection),
            }
        }
        drop(retired);
        self.forget_dropped(&entries);
        follower.relocations.fetch_add(1, SeqCst);
        std::mem::swap(log, &mut fresh);
        self.segments.store(Arc::new(follower.table(log)));
        follower.reload.store(false, SeqCst);
        self.look_at(entries.iter().map(|e| e.id));
        self.background.wake();
        Ok(())
    }
}
