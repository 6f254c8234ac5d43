//! Reading a log that another process may be writing: opening it without a byte changed, and keeping up with it.
//!
//! 1. Hear what is acknowledged ([`Told`]); read the manifest it names and the segments that names; keep the rows up to the LSN.
//! 2. From then on, when something new was told: read the frames behind the last one kept, following SEALs, up to the new LSN
//!    ([`Log::follow`]); then take over the new manifest, if there is one ([`Log::adopt`]).
//!
//! Invariants:
//! 1. Only whole batches of acknowledged rows are kept; the place where reading goes on is always behind such a batch. What
//!    stands behind it may still be cut off or written anew by the writer, and is read afresh each time.
//! 2. Mapped bytes are touched only up to there, and no writer cuts a file below that: no SIGBUS.
//! 3. Files that are not where they were expected are an answer, not an error: a recovery puts a new file in the place of the
//!    last segment, a compaction removes what is not read yet. Then it is opened again, or everything is read anew.
//!
//! Threading: the commit lock's holder; other processes write meanwhile.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::files::{read_header, segment_path};
use super::format::{
    FLAG_GROUP_END, FRAME_HEADER_SIZE, FrameKind, PAGE, SEGMENT_HEADER_LEN, SegmentKind, align_up, hash128,
};
use super::frame::FrameMeta;
use super::manifest::{self, Manifest};
use super::scan::{Window, check_frame};
use super::segment::Segment;
use super::survey::{Scanned, find_orphans, follow_seals, open_all_listed, open_listed};
use super::told::Told;
use super::writer::{Log, LogOptions, Placed, Tail};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::io::vfs::{OpenMode, Vfs, VfsFile, read_exact_at};
use crate::types::{Lsn, SegmentNo};

/// How often an opening is tried while the writer changes what it reads, and how long it waits in between.
const TRIES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(5);
/// After so many failures on a directory that did not change meanwhile, it is the directory that is at fault.
const PATIENCE: u32 = 3;

/// What a log that is only read has learnt.
#[derive(Debug)]
pub(crate) enum Followed {
    /// Nothing new.
    Nothing,
    /// Rows that were written since, oldest first, and the manifest to [`Log::adopt`] once they are applied.
    News(Vec<Placed>, Option<Manifest>),
    /// What comes next is not where it was expected: the log has to be read anew.
    Lost,
}

/// Which segments came and went with a manifest.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    pub(crate) opened: Vec<Arc<Segment>>,
    pub(crate) retired: Vec<SegmentNo>,
}

/// What one attempt at reading a directory found.
struct Attempt {
    manifest: Manifest,
    highest_manifest: u64,
    listed: Vec<Arc<Segment>>,
    scanned: Vec<Scanned>,
}

fn attempt(vfs: &dyn Vfs, dir: &Path, told: Option<Told>) -> Result<Attempt> {
    let (manifest, highest_manifest) = match told {
        Some(told) => match manifest::load_number(vfs, dir, told.manifest)? {
            Some(manifest) => (manifest, told.manifest),
            None => manifest::load(vfs, dir)?,
        },
        None => manifest::load(vfs, dir)?,
    };
    let told = told.filter(|told| told.db_uuid == manifest.db_uuid);
    let listed = open_all_listed(vfs, dir, OpenMode::Read, &manifest)?;
    let scanned = follow_seals(vfs, dir, OpenMode::Read, &manifest, listed.last())?;
    let last = scanned.last().expect("following the seals gives at least the segment it starts from");
    let bad = |why: &str| Error::corruption(&last.path, last.scan.stop, format!("{}, though {why}", last.scan.why));
    match told {
        // With a writer at work bytes come and go behind what is acknowledged; with what it told that needs no guessing.
        Some(told) if told.lsn >= last.scan.next_lsn => {
            let why = format!(
                "rows up to {} were acknowledged (if you put back an older copy of the directory, open it for writing once)",
                told.lsn.0
            );
            Err(bad(&why))
        }
        Some(_) => Ok(Attempt { manifest, highest_manifest, listed, scanned }),
        None => {
            if let Some(proof) = last.scan.proven {
                return Err(bad(proof));
            }
            find_orphans(vfs, dir, &manifest, &scanned)?;
            Ok(Attempt { manifest, highest_manifest, listed, scanned })
        }
    }
}

impl Log {
    /// Opens the log in `dir` to be read and followed; changes no byte. The rows are those of one moment since the call.
    pub(crate) fn open_reading(vfs: &Arc<dyn Vfs>, dir: &Path, options: LogOptions) -> Result<Log> {
        let (mut tries, mut patience) = (0, 0);
        loop {
            let before = Told::read(&**vfs, dir)?;
            let found = attempt(&**vfs, dir, before);
            let after = Told::read(&**vfs, dir)?;
            let steady = before == after;
            match found {
                // Either the writer is silent, or what it was told to be at is what was read.
                Ok(a) if steady || before.is_some_and(|b| b.manifest == a.manifest.number) => {
                    return Log::reading(vfs, dir, options, a, before);
                }
                Err(e) if steady && patience == PATIENCE => return Err(e),
                Err(e) if tries == TRIES => return Err(e),
                Ok(_) if tries == TRIES => return Err(too_busy(dir)),
                Err(_) if steady => patience += 1,
                _ => patience = 0,
            }
            tries += 1;
            std::thread::park_timeout(PAUSE);
        }
    }

    /// The log of what was found, up to what was told.
    fn reading(vfs: &Arc<dyn Vfs>, dir: &Path, options: LogOptions, found: Attempt, told: Option<Told>) -> Result<Log> {
        let Attempt { manifest, highest_manifest, listed, mut scanned } = found;
        let upto = told.filter(|told| told.db_uuid == manifest.db_uuid).map_or(Lsn(u64::MAX), |told| told.lsn);
        let kept = |s: &Scanned| s.scan.frames.iter().any(|f| f.kind == FrameKind::Rows && f.lsn_last <= upto);
        scanned.truncate(scanned.iter().rposition(kept).unwrap_or(0) + 1);
        let mut last = scanned.pop().expect("a survey holds at least the active segment");
        cut(&mut last, upto)?;
        let (end, chain, next_lsn) = (last.scan.end, last.scan.chain, last.scan.next_lsn);
        let mut sealed = listed;
        for s in scanned {
            sealed.push(Arc::new(s.into_segment(SEGMENT_HEADER_LEN)?));
        }
        let capacity = last.header.capacity.max(last.scan.len);
        let active = Arc::new(last.into_segment(capacity)?);
        Ok(Log {
            vfs: vfs.clone(),
            dir: dir.to_owned(),
            options,
            db_uuid: manifest.db_uuid,
            sealed,
            active,
            capacity,
            tail: Tail { end, zeroed: end, chain, next_lsn, marked: Lsn(next_lsn.0 - 1), clean: false },
            next_segment: manifest.next_segment,
            manifest_number: highest_manifest,
            collections: manifest.collections,
            last_compaction_ms: manifest.last_compaction_ms,
            poison: None,
            beacon: None,
            heard: told,
            home: Weak::new(),
            directory_failed: Arc::default(),
        })
    }

    /// What was written since the last call, or since the opening.
    pub(crate) fn follow(&mut self) -> Result<Followed> {
        let Some(told) = Told::read(&*self.vfs, &self.dir)? else { return self.unheard() };
        if self.heard == Some(told) {
            return Ok(Followed::Nothing);
        }
        if told.db_uuid != self.db_uuid {
            return self.look_around();
        }
        if told.lsn < self.last_lsn() {
            return Ok(Followed::Lost);
        }
        let manifest = if told.manifest == self.manifest_number {
            None
        } else {
            let manifest = match manifest::load_number(&*self.vfs, &self.dir, told.manifest)? {
                Some(manifest) => manifest,
                None => manifest::load(&*self.vfs, &self.dir)?.0,
            };
            if Told::read(&*self.vfs, &self.dir)? != Some(told) && manifest.number != told.manifest {
                // Two manifests further by now; what was told of this one does not hold for that one.
                return Ok(Followed::News(Vec::new(), None));
            }
            Some(manifest)
        };
        let Some(placed) = self.advance(told.lsn)? else { return Ok(Followed::Lost) };
        self.heard = Some(told);
        if let Some(manifest) = &manifest {
            self.collections.clone_from(&manifest.collections);
            self.manifest_number = told.manifest;
        }
        Ok(Followed::News(placed, manifest))
    }

    /// Nobody has spoken since the machine was started: nothing changes but by hands that we do not know.
    fn unheard(&self) -> Result<Followed> {
        let path = manifest::path_of(&self.dir, self.manifest_number);
        if self.heard.is_none() && self.vfs.kind(&path).context("look at", &path)?.is_some() {
            return Ok(Followed::Nothing);
        }
        self.look_around()
    }

    /// What is told, or not any more, is not about the log that was opened.
    fn look_around(&self) -> Result<Followed> {
        let there = self.vfs.kind(&self.dir).context("look at", &self.dir)?.is_some();
        let manifests = if there { manifest::numbers(&*self.vfs, &self.dir)? } else { Vec::new() };
        if manifests.is_empty() {
            return Err(gone(&self.dir));
        }
        if manifest::load(&*self.vfs, &self.dir)?.0.db_uuid != self.db_uuid {
            return Err(replaced(&self.dir));
        }
        Ok(Followed::Lost)
    }

    /// Publishes the batches up to `upto`; `None` if they are not where they should be.
    fn advance(&mut self, upto: Lsn) -> Result<Option<Vec<Placed>>> {
        let mut placed = Vec::new();
        let mut opened_again = false;
        while self.last_lsn() < upto {
            let before = (self.tail.next_lsn, self.active.no());
            self.read_on(upto, &mut placed)?;
            if (self.tail.next_lsn, self.active.no()) != before {
                opened_again = false;
            } else if opened_again || !self.open_active_again(0)? {
                return Ok(None);
            } else {
                opened_again = true;
            }
        }
        Ok(Some(placed))
    }

    /// Reads the active segment from the tail on, as far as it goes; then goes on to the one its SEAL names.
    fn read_on(&mut self, upto: Lsn, placed: &mut Vec<Placed>) -> Result<()> {
        let (file, path) = (Arc::clone(self.active.file()), self.active.path().to_owned());
        let header = self.active.header().clone();
        let mut window = Window::new(&*file, &path)?;
        let Tail { end: mut at, mut chain, mut next_lsn, .. } = self.tail;
        let mut batch = Vec::new();
        while let Ok((frame, link)) = check_frame(&mut window, &header, at, &chain, next_lsn)? {
            let meta = FrameMeta::new(at, &frame);
            at = frame.end(at);
            (chain, next_lsn) = (link, frame.lsn_last.plus(1));
            match frame.kind {
                FrameKind::Rows => {
                    batch.push(meta);
                    if frame.more() {
                        continue;
                    }
                    if meta.lsn_last > upto {
                        return Ok(());
                    }
                    let frames = std::mem::take(&mut batch);
                    let Some(batch) = self.publish_batch(&frames)? else { return Ok(()) };
                    placed.push(batch);
                    (self.tail.end, self.tail.chain, self.tail.next_lsn) = (at, chain, next_lsn);
                    self.tail.marked = self.last_lsn();
                    if self.last_lsn() == upto {
                        return Ok(());
                    }
                }
                FrameKind::Seal => {
                    let next = SegmentNo(frame.next_segment);
                    if let Some(next) = self.successor(next, &chain, next_lsn)? {
                        self.go_on_to(next);
                    }
                    return Ok(());
                }
                FrameKind::Watermark | FrameKind::CleanClose => {}
            }
        }
        Ok(())
    }

    fn publish_batch(&mut self, frames: &[FrameMeta]) -> Result<Option<Placed>> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(None) };
        let end = last.payload_end();
        if end > self.active.mapped() && !self.open_active_again(end)? {
            return Ok(None);
        }
        let start = self.active.frame_count();
        frames.iter().for_each(|f| self.active.publish(*f));
        Ok(Some(Placed {
            segment: Arc::clone(&self.active),
            frames: start..start + frames.len(),
            collection: first.collection,
            first_lsn: first.lsn_first,
            last_lsn: last.lsn_last,
        }))
    }

    /// Segment `no`, if it is there and goes on where `chain` and `next_lsn` end.
    fn successor(&self, no: SegmentNo, chain: &[u8; 16], next_lsn: Lsn) -> Result<Option<Segment>> {
        let path = segment_path(&self.dir, no);
        let Some(file) = open_if_there(&*self.vfs, &path)? else { return Ok(None) };
        let header = read_header(&*file, &path)?;
        let follows = header.db_uuid == self.db_uuid
            && header.no == no
            && header.kind == SegmentKind::Raw
            && header.prev_chain == *chain
            && header.first_lsn == next_lsn;
        if !follows {
            return Ok(None);
        }
        let capacity = header.capacity.max(file.len().context("read the length of", &path)?);
        let region = file.map(capacity).context("map", &path)?;
        Ok(Some(Segment::new(path, file, region, header, &[], SEGMENT_HEADER_LEN)))
    }

    fn go_on_to(&mut self, next: Segment) {
        let header = next.header();
        let (chain, next_lsn) = (header.prev_chain, header.first_lsn);
        self.capacity = next.mapped();
        self.sealed.push(std::mem::replace(&mut self.active, Arc::new(next)));
        let end = SEGMENT_HEADER_LEN;
        self.tail = Tail { end, zeroed: end, chain, next_lsn, marked: self.tail.marked, clean: false };
    }

    /// Opens the active segment's path anew, mapped up to `need` at least: a recovery may have put another file there, which
    /// begins with the same frames. `false` if there is no such file any more.
    fn open_active_again(&mut self, need: u64) -> Result<bool> {
        let path = self.active.path().to_owned();
        let Some(file) = open_if_there(&*self.vfs, &path)? else { return Ok(false) };
        let header = read_header(&*file, &path)?;
        let len = file.len().context("read the length of", &path)?;
        if header.salt != self.active.header().salt || len < self.tail.end.max(need) {
            return Ok(false);
        }
        let region = file.map(header.capacity.max(len)).context("map", &path)?;
        self.active = Arc::new(self.active.in_file(file, region));
        self.capacity = self.active.mapped();
        Ok(true)
    }

    /// Takes over the segments of a newer manifest, once all rows are applied that were told with it. `None` if they are not
    /// to be had: then the log has to be read anew.
    pub(crate) fn adopt(&mut self, manifest: &Manifest) -> Result<Option<Adopted>> {
        let before = self.segments();
        let known = |no: SegmentNo| before.iter().find(|s| s.no() == no).cloned();
        let (mut sealed, mut adopted) = (Vec::new(), Adopted::default());
        for entry in &manifest.segments {
            if let Some(segment) = known(entry.no) {
                sealed.push(segment);
                continue;
            }
            match open_listed(&*self.vfs, &self.dir, OpenMode::Read, manifest, entry) {
                Ok(segment) => {
                    adopted.opened.push(segment.clone());
                    sealed.push(segment);
                }
                // Compacted away since, or damaged: reading anew will tell.
                Err(_) => return Ok(None),
            }
        }
        let after_listed = |s: &&Arc<Segment>| s.kind() == SegmentKind::Raw && s.no() >= manifest.scan_from;
        sealed.extend(before.iter().filter(after_listed).cloned());
        adopted.retired = before.iter().map(|s| s.no()).filter(|no| sealed.iter().all(|s| s.no() != *no)).collect();
        match sealed.iter().position(|s| s.no() == self.active.no()) {
            Some(at) => self.active = sealed.remove(at),
            None => {
                // All of the active segment was read, and went. No row came after it, so the scan's start is where we are.
                let path = segment_path(&self.dir, manifest.scan_from);
                let Some(file) = open_if_there(&*self.vfs, &path)? else { return Ok(None) };
                let chain = read_header(&*file, &path)?.prev_chain;
                let Some(next) = self.successor(manifest.scan_from, &chain, self.tail.next_lsn)? else {
                    return Ok(None);
                };
                self.go_on_to(next);
                self.sealed.clear();
            }
        }
        self.sealed = sealed;
        Ok(Some(adopted))
    }
}

/// Leaves of a segment that was read only the frames up to that of the last whole batch up to `upto`.
fn cut(last: &mut Scanned, upto: Lsn) -> Result<()> {
    let kept = |f: &FrameMeta| f.kind == FrameKind::Rows && f.lsn_last <= upto;
    let frames = last.scan.frames.iter().rposition(kept).map_or(0, |i| i + 1);
    last.scan.frames.truncate(frames);
    (last.scan.end, last.scan.chain, last.scan.next_lsn) = match last.scan.frames.last() {
        None => (SEGMENT_HEADER_LEN, last.header.prev_chain, last.header.first_lsn),
        Some(frame) => {
            let mut bytes = [0; FRAME_HEADER_SIZE];
            read_exact_at(&*last.file, &mut bytes, frame.offset).context("read", &last.path)?;
            let end = frame.payload_end();
            let end = if frame.flags & FLAG_GROUP_END != 0 { align_up(end, PAGE) } else { end };
            (end, hash128(&bytes), frame.lsn_last.plus(1))
        }
    };
    Ok(())
}

fn open_if_there(vfs: &dyn Vfs, path: &Path) -> Result<Option<Arc<dyn VfsFile>>> {
    match vfs.open(path, OpenMode::Read) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).context("open", path),
    }
}

fn too_busy(dir: &Path) -> Error {
    let words = format!("{} changed all the while it was being opened; try again", dir.display());
    Error::new(ErrorKind::Io, words)
}

/// The refusal to go on with a directory that is not there.
pub(crate) fn gone(dir: &Path) -> Error {
    let words = format!(
        "the database {} is not there any more: it was moved or deleted. Close this handle, and open the database where it is now",
        dir.display()
    );
    Error::new(ErrorKind::Closed, words)
}

/// The refusal to go on with another database.
pub(crate) fn replaced(dir: &Path) -> Error {
    let words = format!(
        "{} is another database now than the one that was opened; close this handle and open it again",
        dir.display()
    );
    Error::new(ErrorKind::Closed, words)
}
