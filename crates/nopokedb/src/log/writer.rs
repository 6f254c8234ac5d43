//! The writer: turns encoded batches into durable frames. One thread at a time owns it.
//!
//! Invariants:
//! 1. `append` returns only after the frames were synced, and publishes them only then: every LSN up to
//!    [`Log::last_lsn`] is on the disk.
//! 2. A group of batches is one write and one sync, and starts and ends on a 4 KiB boundary: no sector ever holds bytes
//!    of two groups, so a torn write cannot touch what was acknowledged.
//! 3. A group starts only after the one before it was synced; a segment gets its first frame only after the SEAL of the
//!    one before it was synced. Hence only the last segment can be torn, and a frame proves what lies before it.
//! 4. After a failed sync, or a failed write that could not be cut back, nothing is written or synced again (poison).
//! 5. A group lies in one segment; a group too long for a segment gets a longer one.
//!
//! Threading: none of its own. `commit` keeps it behind a lock; readers hold the [`Segment`]s.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::encode::Batch;
use super::files::{create_segment, log_dir, segment_path};
use super::format::{
    Chain, DbUuid, FrameKind, PAGE, SEGMENT_HEADER_LEN, Salt, SegmentHeader, SegmentKind, align_up, hash128,
};
use super::frame::FrameView;
use super::group::{Group, Start};
use super::manifest::CollectionEntry;
use super::segment::Segment;
use super::told::{self, Told};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::io::atomic::create_dir_durable;
use crate::io::lock::WriterLock;
use crate::io::vfs::{Beacon, Unheard, Vfs};
use crate::types::{CollectionId, Lsn, SegmentNo};

/// Groups up to this long are written into space that was zeroed before, so that their sync need not also commit a
/// longer file length and new blocks to the file system's journal.
const SMALL_GROUP: u64 = 256 << 10;
/// How far ahead is zeroed at once: as much as the file is long, within these bounds.
const ZERO_AHEAD: (u64, u64) = (64 << 10, 1 << 20);

/// What a log needs to know. Clock and randomness come in here, so that a test can repeat them.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    /// Length of a segment, unless one group needs more.
    pub(crate) segment_bytes: u64,
    /// Where salts and the database's identity come from.
    pub(crate) seed: u64,
    /// The wall clock in Unix milliseconds; only ever shown, never compared.
    pub(crate) now_ms: fn() -> i64,
}

impl LogOptions {
    /// Segments of `segment_bytes`, with the randomness and the clock of `vfs`.
    pub(crate) fn new(vfs: &dyn Vfs, segment_bytes: u64) -> Self {
        LogOptions { segment_bytes, seed: vfs.seed(), now_ms: vfs.wall_clock() }
    }
}

/// Where the next group goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// Offset in the active segment, a multiple of 4 KiB.
    pub(super) end: u64,
    /// The file is zero, and durably so, from `end` to here.
    pub(super) zeroed: u64,
    pub(super) chain: Chain,
    pub(super) next_lsn: Lsn,
    /// Highest LSN that a durable frame says to be durable.
    pub(super) marked: Lsn,
    /// The last frame is a CLEAN_CLOSE.
    pub(super) clean: bool,
}

/// Where a batch came to lie.
#[allow(dead_code)] // a caller that wants only the frames leaves the LSNs alone
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) segment: Arc<Segment>,
    /// Its frames' indexes in the segment.
    pub(crate) frames: Range<usize>,
    pub(crate) collection: CollectionId,
    pub(crate) first_lsn: Lsn,
    /// `first_lsn - 1` for a batch without rows.
    pub(crate) last_lsn: Lsn,
}

impl Placed {
    /// The batch's frames, as they are on disk.
    pub(crate) fn views(&self) -> impl Iterator<Item = Result<FrameView<'_>>> {
        self.frames.clone().map(|i| self.segment.frame(i))
    }
}

/// What the file is to hold behind a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// Zeros, if that spares later syncs work.
    Zeros,
    /// Nothing: the segment is full.
    Nothing,
    /// Nothing, but only once the group was synced: that the file ends here is the proof that it was. (What a failed sync
    /// leaves in the page cache looks the same to the next process as what is on the disk.)
    NothingOnceSynced,
}

/// The log of one database, open for writing.
#[derive(Debug)]
pub(crate) struct Log {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,
    pub(super) db_uuid: DbUuid,
    /// Segments that get no more frames, in LSN order.
    pub(super) sealed: Vec<Arc<Segment>>,
    pub(super) active: Arc<Segment>,
    pub(super) capacity: u64,
    pub(super) tail: Tail,
    pub(super) next_segment: u32,
    pub(super) manifest_number: u64,
    pub(super) collections: Arc<Vec<CollectionEntry>>,
    pub(super) last_compaction_ms: i64,
    pub(super) poison: Option<String>,
    /// Where readers in other processes hear what is acknowledged; `None` in a log that is only read.
    pub(super) beacon: Option<Box<dyn Beacon>>,
    /// What a log that is only read was told last.
    pub(super) heard: Option<Told>,
    /// The directory's lock, which knows whether the directory is still where it was. Not kept alive from here.
    pub(super) home: Weak<WriterLock>,
    /// A compaction could not sync the directory: names in it cannot be relied upon any more.
    pub(super) directory_failed: Arc<AtomicBool>,
}

impl Log {
    /// Makes the log of a new database in `dir`, which is made too if it is missing.
    pub(crate) fn create(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        options: LogOptions,
        collections: &[CollectionEntry],
    ) -> Result<Log> {
        create_dir_durable(&*vfs, dir)?;
        super::inspect::remove_unfinished_creation(&*vfs, dir)?;
        let mut log = Self::begin(vfs, dir, options, collections)?;
        log.publish_first()?;
        Ok(log)
    }

    /// Makes a log that is not a database yet: it becomes one, with what was appended meanwhile, by
    /// [`Log::publish_first`]. Whoever calls this has cleared what was there.
    pub(crate) fn begin(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        options: LogOptions,
        collections: &[CollectionEntry],
    ) -> Result<Log> {
        create_dir_durable(&*vfs, &log_dir(dir))?;
        let db_uuid = random16(&options, 0);
        let header = SegmentHeader {
            kind: SegmentKind::Raw,
            no: SegmentNo(1),
            db_uuid,
            first_lsn: Lsn(1),
            salt: random16(&options, 1),
            prev_chain: [0; 16],
            created_ms: (options.now_ms)(),
            capacity: options.segment_bytes,
        };
        let path = segment_path(dir, header.no);
        let file = create_segment(&*vfs, &path, &header)?;
        vfs.sync_dir(&log_dir(dir)).context("sync the directory", &log_dir(dir))?;
        let region = file.map(header.capacity).context("map", &path)?;
        let capacity = header.capacity;
        let (end, chain, next_lsn) = (SEGMENT_HEADER_LEN, header.prev_chain, Lsn(1));
        let beacon = told::open(&*vfs, dir)?;
        let active = Arc::new(Segment::new(path, file, region, header, &[], end));
        Ok(Log {
            vfs,
            dir: dir.to_owned(),
            options,
            db_uuid,
            sealed: Vec::new(),
            active,
            capacity,
            tail: Tail { end, zeroed: end, chain, next_lsn, marked: Lsn(0), clean: false },
            next_segment: 2,
            manifest_number: 0,
            collections: Arc::new(collections.to_vec()),
            last_compaction_ms: 0,
            poison: None,
            beacon: Some(beacon),
            heard: None,
            home: Weak::new(),
            directory_failed: Arc::default(),
        })
    }

    /// Writes the first manifests of a log that was begun: from here on it is a database.
    pub(crate) fn publish_first(&mut self) -> Result<()> {
        self.publish_manifest(2)
    }

    /// Makes a group of batches durable with one write and one sync, in this order, and says where they are. On an error
    /// nothing of the group is visible; `Full` and `Io` errors leave the log as it was, unless the words say otherwise.
    pub(crate) fn append(&mut self, group: &[Batch]) -> Result<Vec<Placed>> {
        self.check_alive()?;
        let len = align_up(group.iter().map(Batch::len).sum(), PAGE);
        if self.tail.end + len + PAGE > self.capacity {
            self.roll(len)?;
        }
        let first_frame = self.active.frame_count();
        let written = Group::of_batches(self.start(), group);
        self.write(&written, Behind::Zeros)?;
        let mut lsn = self.tail.next_lsn;
        let mut frame = first_frame;
        self.accept(&written, FrameKind::Rows);
        self.tell();
        let placed = group.iter().map(|batch| {
            let (first_lsn, frames) = (lsn, frame..frame + batch.frames.len());
            (lsn, frame) = (lsn.plus(batch.rows()), frames.end);
            let last_lsn = Lsn(lsn.0 - 1);
            let segment = Arc::clone(&self.active);
            Placed { segment, frames, collection: batch.collection, first_lsn, last_lsn }
        });
        Ok(placed.collect())
    }

    /// Leaves word that everything so far is durable, if no frame says so yet. Called when the log has been idle for a
    /// moment, it removes the last doubt whether a damaged last frame had been acknowledged.
    pub(crate) fn watermark(&mut self) -> Result<()> {
        self.check_alive()?;
        if self.tail.marked >= self.last_lsn() {
            return Ok(());
        }
        self.append_control(FrameKind::Watermark)
    }

    /// Ends the log in order: the next opening trusts it without rewriting its tail.
    pub(crate) fn close_clean(&mut self) -> Result<()> {
        self.check_alive()?;
        if self.tail.clean {
            return Ok(());
        }
        self.append_control(FrameKind::CleanClose)
    }

    /// The last LSN given out. All up to it are on the disk: what is not durable gets no LSN.
    pub(crate) fn last_lsn(&self) -> Lsn {
        Lsn(self.tail.next_lsn.0 - 1)
    }

    /// All segments in LSN order, the active one last.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.sealed.iter().chain([&self.active]).map(Arc::clone).collect()
    }

    /// The database's identity, which its caches carry too.
    pub(crate) fn db_uuid(&self) -> DbUuid {
        self.db_uuid
    }

    /// The collections, as the last manifest has them.
    pub(crate) fn collections(&self) -> &[CollectionEntry] {
        &self.collections
    }

    /// Why this log accepts no more writes, if so.
    pub(crate) fn poisoned(&self) -> Option<&str> {
        let failed = self.directory_failed.load(Ordering::Acquire).then_some("the log's directory could not be synced");
        self.poison.as_deref().or(failed)
    }

    /// Where and as what the next group begins.
    pub(super) fn start(&self) -> Start {
        Start {
            offset: self.tail.end,
            chain: self.tail.chain,
            next_lsn: self.tail.next_lsn,
            salt: self.active.header().salt,
            unix_ms: (self.options.now_ms)(),
        }
    }

    fn append_control(&mut self, kind: FrameKind) -> Result<()> {
        let group = Group::without_rows(self.start(), kind, 0);
        let behind = if kind == FrameKind::CleanClose { Behind::NothingOnceSynced } else { Behind::Zeros };
        self.write(&group, behind)?;
        self.accept(&group, kind);
        Ok(())
    }

    /// The group is durable: readers may see it, and the tail moves behind it.
    pub(super) fn accept(&mut self, group: &Group<'_>, kind: FrameKind) {
        if group.is_empty() {
            return;
        }
        group.frames().for_each(|f| self.active.publish(f));
        self.tail.end += group.len;
        self.tail.zeroed = self.tail.zeroed.max(self.tail.end);
        (self.tail.chain, self.tail.next_lsn) = (group.chain, group.next_lsn);
        self.tail.clean = kind == FrameKind::CleanClose;
        if kind != FrameKind::Rows {
            self.tail.marked = self.last_lsn();
        }
    }

    /// Invariant 2: one write and one sync.
    pub(super) fn write(&mut self, group: &Group<'_>, behind: Behind) -> Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        let file = Arc::clone(self.active.file());
        let (at, end) = (self.tail.end, self.tail.end + group.len);
        let mut ahead = self.zeros_wanted(end, group.len, behind);
        let mut written = file.write_all_at(&group.pieces(ahead), at);
        if let Err(e) = &written
            && (ahead > 0 && behind == Behind::Zeros)
            && matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            // There may be room for the group without the zeros.
            self.cut_back(at)?;
            ahead = 0;
            written = file.write_all_at(&group.pieces(ahead), at);
        }
        if behind == Behind::Nothing {
            written = written.and_then(|()| file.set_len(end));
        }
        if let Err(e) = written {
            self.cut_back(at)?;
            return Err(Error::io("commit to", self.active.path(), e));
        }
        if let Err(e) = file.sync_data() {
            return Err(self.poison_by("sync", &e));
        }
        // Bytes of a file without a name are synced and gone all the same.
        if !file.has_name().unwrap_or(true) {
            return Err(self.deleted());
        }
        self.tail.zeroed = self.tail.zeroed.max(end + ahead);
        // If the cut fails, the next opening takes the log for one that was not closed in order, and does more than it must.
        if behind == Behind::NothingOnceSynced && file.set_len(end).is_ok() {
            self.tail.zeroed = end;
        }
        Ok(())
    }

    /// How many zeros to write behind a group of `len` bytes that ends at `end`.
    fn zeros_wanted(&self, end: u64, len: u64, behind: Behind) -> u64 {
        match behind {
            Behind::Zeros if len <= SMALL_GROUP && end > self.tail.zeroed => {
                end.clamp(ZERO_AHEAD.0, ZERO_AHEAD.1).min(self.capacity.saturating_sub(end))
            }
            Behind::NothingOnceSynced if end >= self.tail.zeroed => PAGE,
            _ => 0,
        }
    }

    /// After a failed write and before any sync of it: makes the file end at `at` again, durably, so that nothing of the
    /// failed group can come back. If even that fails the state is unknown, hence poison.
    fn cut_back(&mut self, at: u64) -> Result<()> {
        let file = Arc::clone(self.active.file());
        if let Err(e) = file.set_len(at).and_then(|()| file.sync_data()) {
            return Err(self.poison_by("cut back a failed write in", &e));
        }
        self.tail.zeroed = at;
        Ok(())
    }

    pub(super) fn check_alive(&self) -> Result<()> {
        if self.beacon.is_none() {
            return Err(Error::read_only());
        }
        match self.poisoned() {
            None => Ok(()),
            Some(why) => Err(Error::new(
                ErrorKind::Closed,
                format!("no more writes are accepted since {why}; reads go on. Open the database again to write"),
            )),
        }
    }

    /// Lets the log ask `lock` whether the directory is still where it was.
    pub(crate) fn guard_by(&mut self, lock: &Arc<WriterLock>) {
        self.home = Arc::downgrade(lock);
    }

    /// Refuses to make or replace a file if the directory was moved or deleted: another database may be in its place.
    pub(crate) fn check_in_place(&self) -> Result<()> {
        if self.home.upgrade().is_none_or(|lock| lock.in_place()) {
            return Ok(());
        }
        let words = format!(
            "{} was moved or deleted while it was open: what was acknowledged is where it was moved to. Nothing was written; \
             close this handle, and open the database where it is now",
            self.dir.display()
        );
        Err(Error::new(ErrorKind::Closed, words))
    }

    /// Lets go of all files. What was read from them before stays until its readers are done.
    pub(crate) fn let_go(&mut self) {
        self.poison.get_or_insert_with(|| "it was closed".to_owned());
        self.beacon = self.beacon.take().map(|_| Box::new(Unheard) as Box<dyn Beacon>);
        self.sealed.clear();
        self.active = Arc::new(self.active.without_file());
    }

    fn deleted(&mut self) -> Error {
        let why = format!("{} was deleted while it was open", self.dir.display());
        let words = format!("{why}: this write is gone with it. Close this handle and open the database again");
        self.poison = Some(why);
        Error::new(ErrorKind::Closed, words)
    }

    /// Invariant 4.
    pub(super) fn poison_by(&mut self, action: &str, e: &io::Error) -> Error {
        self.poison(format!("could not {action} {}: {e}", self.active.path().display()))
    }

    pub(super) fn poison(&mut self, why: String) -> Error {
        let message = format!(
            "{why}. Whether this write is durable is unknown: it may or may not be there when the database is opened \
             again. Until then no write is accepted; reads go on"
        );
        self.poison = Some(why);
        Error::new(ErrorKind::Io, message)
    }
}

/// Sixteen bytes that no other call with another `what` gives.
pub(super) fn random16(options: &LogOptions, what: u64) -> Salt {
    let mut input = options.seed.to_le_bytes().to_vec();
    input.extend_from_slice(&what.to_le_bytes());
    input.extend_from_slice(&(options.now_ms)().to_le_bytes());
    hash128(&input)
}
