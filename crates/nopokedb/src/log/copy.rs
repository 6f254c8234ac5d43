//! A copy of the log as of one moment, in another directory: what a backup is made of.
//!
//! Invariants:
//! 1. In the target a segment's number stands for one content for ever. Sealed segments keep theirs; the copy of the active
//!    one gets a number that the source used for nothing else. So what is there with the right length, header and footer is
//!    not copied again, and nothing that a manifest of the target names is ever replaced.
//! 2. Files first, each complete and synced under its name; then the manifest, twice; only then what it does not name goes.
//!    A crash leaves the backup that was there before, or the new one, and files that neither names.
//! 3. [`BACKUP`] is in the target as long as nobody but a backup has written there: then, and only then, what no manifest
//!    names is what an interrupted backup left. Whoever opens the directory for writing removes it first.
//! 4. What is copied is checked on the way: damage of the source does not get into a backup.
//!
//! Threading: [`Log::freeze`] is the owner's; [`Frozen::copy`] needs no lock but the target's.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::files::{log_dir, read_header, remove_if_there, segment_no_in, segment_path};
use super::footer::{BLOCK, Footer, block_hash};
use super::format::{SEGMENT_HEADER_LEN, SegmentHeader};
use super::inspect::{DirState, inspect};
use super::manifest::{self, CollectionEntry, Manifest};
use super::scan::scan;
use super::segment::{FooterRef, Segment};
use super::writer::Log;
use crate::error::{Error, IoContext, Result};
use crate::io::atomic::{self, create_dir_durable, remove_leftovers, write_atomic};
use crate::io::vfs::{OpenMode, Vfs, VfsFile, read_exact_at};
use crate::types::{Lsn, SegmentNo};

/// Says that only backups have written in a directory. Its contents are for people.
pub(crate) const BACKUP: &str = "BACKUP";
/// Bytes copied at once, where there are no blocks.
const COPY: usize = 1 << 20;

/// A log as of one moment. Its files stay readable as long as this is held, whatever is compacted away meanwhile.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// Everything up to here is in it, and nothing after it.
    pub(crate) lsn: Lsn,
    manifest: Manifest,
    sealed: Vec<(Arc<Segment>, FooterRef)>,
    active: Arc<Segment>,
    active_end: u64,
}

/// What was copied, and what was there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) kept: u64,
}

impl Log {
    /// The log as it is now, with these collections; `None` if a full segment has no footer yet.
    pub(crate) fn freeze(&mut self, collections: Vec<CollectionEntry>) -> Result<Option<Frozen>> {
        self.check_alive()?;
        let with_footer = |s: &Arc<Segment>| s.footer().map(|at| (Arc::clone(s), at));
        let Some(sealed) = self.sealed.iter().map(with_footer).collect() else { return Ok(None) };
        let tail = self.allocate_segment()?;
        // Invariant 1: from now on not even another opening of the source uses that number.
        self.publish_manifest(2)?;
        let manifest = Manifest { collections: Arc::new(collections), scan_from: tail, ..self.manifest(&|_| 0) };
        let (active, active_end) = (Arc::clone(&self.active), self.active.end());
        Ok(Some(Frozen { lsn: self.last_lsn(), manifest, sealed, active, active_end }))
    }
}

impl Frozen {
    /// Brings the directory `dir`, which is locked, to this state.
    ///
    /// # Errors
    /// `Invalid` when `dir` is not a backup of this database, or one of another or a later history of it; nothing was
    /// changed then. `Corruption` when the source is damaged, `Full`, `Io`: what was backed up before is still there.
    pub(crate) fn copy(&self, vfs: &dyn Vfs, dir: &Path) -> Result<Copied> {
        let before = Before::look(vfs, dir)?;
        before.check(self, vfs, dir)?;
        if !before.marked {
            let words = format!("a backup of the database {:032x}\n", u128::from_be_bytes(self.manifest.db_uuid));
            write_atomic(vfs, dir, BACKUP, words.as_bytes())?;
        }
        create_dir_durable(vfs, &log_dir(dir))?;
        let mut copied = Copied::default();
        for (segment, at) in &self.sealed {
            if is_there(vfs, dir, segment, *at)? {
                copied.kept += 1;
                continue;
            }
            copied.count(copy_sealed(vfs, dir, segment, *at)?);
        }
        copied.count(self.copy_tail(vfs, dir)?);
        for number in [before.highest + 1, before.highest + 2] {
            let manifest = Manifest { number, ..self.manifest.clone() };
            manifest::store(vfs, dir, &manifest)?;
            copied.count(manifest.encode().len() as u64);
        }
        self.remove_others(vfs, dir)?;
        Ok(copied)
    }

    /// The active segment up to now, under a number of its own. Frames do not know their segment's number; that the same
    /// salt and the same chain go on in two files harms nobody, for no database ever sees both.
    fn copy_tail(&self, vfs: &dyn Vfs, dir: &Path) -> Result<u64> {
        let header = SegmentHeader { no: self.manifest.scan_from, ..self.active.header().clone() };
        let path = segment_path(dir, header.no);
        let mut outcome = Ok(());
        replace(vfs, dir, header.no, |file| {
            file.write_all_at(&[&header.encode()], 0)?;
            let (mut buf, mut at) = (vec![0; COPY], SEGMENT_HEADER_LEN);
            while at < self.active_end {
                let want = usize::try_from(self.active_end - at).unwrap_or(COPY).min(COPY);
                // What is missing at the end of the file is padding, which is zeros.
                let n = self.active.file().read_at(&mut buf[..want], at)?;
                buf[n..want].fill(0);
                file.write_all_at(&[&buf[..want]], at)?;
                at += want as u64;
            }
            outcome = scan(file, &path, &header).and_then(|found| match found.end {
                end if end == self.active_end => Ok(()),
                _ => Err(self.active.damaged(found.stop, found.why)),
            });
            stop_on(&outcome)
        })
        .map_err(|e| outcome.err().unwrap_or(e))?;
        Ok(self.active_end)
    }

    /// Removes what the two highest manifests, which are alike now, do not name.
    fn remove_others(&self, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
        for number in manifest::numbers(vfs, dir)?.into_iter().skip(2) {
            remove_if_there(vfs, &manifest::path_of(dir, number))?;
        }
        let folder = log_dir(dir);
        // A manifest that comes back after a crash must find its files.
        vfs.sync_dir(dir).context("sync the directory", dir)?;
        let named = |no: SegmentNo| no == self.manifest.scan_from || self.manifest.segments.iter().any(|s| s.no == no);
        for entry in vfs.list(&folder).context("list", &folder)? {
            if segment_no_in(&entry.name).is_some_and(|no| !named(no)) {
                remove_if_there(vfs, &folder.join(&entry.name))?;
            }
        }
        remove_leftovers(vfs, &folder);
        remove_leftovers(vfs, dir);
        vfs.sync_dir(&folder).context("sync the directory", &folder)
    }
}

impl Copied {
    fn count(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What is in the target.
struct Before {
    /// Only backups have written there.
    marked: bool,
    manifests: Vec<Manifest>,
    highest: u64,
}

impl Before {
    fn look(vfs: &dyn Vfs, dir: &Path) -> Result<Before> {
        let marked = vfs.kind(&dir.join(BACKUP)).context("look at", dir)?.is_some();
        let numbers = manifest::numbers(vfs, dir)?;
        let highest = numbers.first().copied().unwrap_or(0);
        let manifests = match numbers.is_empty() {
            true => Vec::new(),
            // The first is there, or it says what is wrong; of the others those that are whole.
            false => [Ok(manifest::load(vfs, dir)?.0)]
                .into_iter()
                .chain(numbers.into_iter().map(|number| manifest::read(vfs, dir, number)))
                .filter_map(Result::ok)
                .collect(),
        };
        Ok(Before { marked, manifests, highest })
    }

    /// Refuses a target that holds something else than an earlier state of the same history.
    fn check(&self, new: &Frozen, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
        let Some(current) = self.manifests.first() else {
            if !self.marked && inspect(vfs, dir)? == DirState::Ours {
                let why = "holds a log whose manifests are lost; choose another directory for this backup";
                return Err(Error::path(dir, why));
            }
            return Ok(());
        };
        if current.db_uuid != new.manifest.db_uuid {
            return Err(Error::path(dir, "holds another database; choose another directory for this backup"));
        }
        if !self.marked {
            let why = "was opened since the last backup into it, so it is a database of its own now; choose another \
                       directory for this backup";
            return Err(Error::path(dir, why));
        }
        let lsn = lsn_of(vfs, dir, current)?;
        if lsn > new.lsn {
            let why = format!(
                "holds a later state (operation {lsn}) than this database (operation {}); choose another directory for \
                 this backup",
                new.lsn
            );
            return Err(Error::path(dir, why));
        }
        let named = |no| self.manifests.iter().any(|m| m.scan_from == no || m.segments.iter().any(|s| s.no == no));
        let is_other = |segment: &Segment, at| Ok(named(segment.no()) && !is_there(vfs, dir, segment, at)?);
        let mut others = new.sealed.iter().map(|(segment, at)| is_other(segment, *at));
        let other = others.find(|other: &Result<bool>| !matches!(other, Ok(false))).transpose()?;
        if other.is_some() || named(new.manifest.scan_from) {
            let why = "holds another history of this database; choose another directory for this backup";
            return Err(Error::path(dir, why));
        }
        Ok(())
    }
}

/// The last operation of the backup in `dir`.
fn lsn_of(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest) -> Result<Lsn> {
    let path = segment_path(dir, manifest.scan_from);
    let file = vfs.open(&path, OpenMode::Read).context("open", &path)?;
    let header = read_header(&*file, &path)?;
    Ok(Lsn(scan(&*file, &path, &header)?.next_lsn.0.saturating_sub(1)))
}

/// Whether `dir` has this very segment: the footer has a hash of every block.
fn is_there(vfs: &dyn Vfs, dir: &Path, segment: &Segment, at: FooterRef) -> Result<bool> {
    let path = segment_path(dir, segment.no());
    let file = match vfs.open(&path, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.context("open", &path)?,
    };
    if file.len().context("read the length of", &path)? != at.file_len {
        return Ok(false);
    }
    let header = read_header(&*file, &path).is_ok_and(|header| header == *segment.header());
    let mut footer = vec![0; usize::try_from(at.file_len - at.offset).unwrap_or(0)];
    read_exact_at(&*file, &mut footer, at.offset).context("read", &path)?;
    Ok(header && footer.get(8..24) == Some(&at.hash) && Footer::decode(&footer).is_ok())
}

/// Copies a sealed segment, each block checked.
fn copy_sealed(vfs: &dyn Vfs, dir: &Path, segment: &Segment, at: FooterRef) -> Result<u64> {
    let from = segment.file();
    let mut bytes = vec![0; usize::try_from(at.file_len - at.offset).unwrap_or(0)];
    read_exact_at(&**from, &mut bytes, at.offset).context("read", segment.path())?;
    let footer = Footer::decode(&bytes).map_err(|what| segment.damaged(at.offset, what))?;
    if bytes[8..24] != at.hash {
        return Err(segment.damaged(at.offset, "the footer is not the one that the manifest lists"));
    }
    let mut outcome = Ok(());
    replace(vfs, dir, segment.no(), |file| {
        let mut buf = vec![0; usize::try_from(BLOCK).expect("64 KiB fits in memory")];
        for (start, expected) in (0..).step_by(buf.len()).zip(&footer.blocks) {
            let want = usize::try_from(BLOCK.min(footer.covered - start)).expect("at most a block");
            read_exact_at(&**from, &mut buf[..want], start)?;
            if block_hash(&buf[..want]) != *expected {
                outcome = Err(segment.damaged(start, "this block of 64 KiB does not match its checksum"));
                return stop_on(&outcome);
            }
            file.write_all_at(&[&buf[..want]], start)?;
        }
        file.write_all_at(&[&bytes], at.offset)
    })
    .map_err(|e| outcome.err().unwrap_or(e))?;
    Ok(at.file_len)
}

fn replace(vfs: &dyn Vfs, dir: &Path, no: SegmentNo, fill: impl FnOnce(&dyn VfsFile) -> io::Result<()>) -> Result<()> {
    let path = segment_path(dir, no);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(atomic::replace(vfs, &log_dir(dir), &name, fill)?)
}

/// Stops a replacement whose true error is kept elsewhere.
fn stop_on(outcome: &Result<()>) -> io::Result<()> {
    if outcome.is_ok() { Ok(()) } else { Err(io::Error::other("the copy stopped")) }
}

/// Makes a backup a database like any other, once it was opened for writing: removes what an interrupted backup left, which
/// is whatever `log` does not use, and then the mark.
pub(crate) fn claim(vfs: &dyn Vfs, dir: &Path, log: &Log) -> Result<()> {
    let mark = dir.join(BACKUP);
    if vfs.kind(&mark).context("look at", &mark)?.is_none() {
        return Ok(());
    }
    let (used, folder) = (log.segments(), log_dir(dir));
    for entry in vfs.list(&folder).context("list", &folder)? {
        if segment_no_in(&entry.name).is_some_and(|no| used.iter().all(|s| s.no() != no)) {
            remove_if_there(vfs, &folder.join(&entry.name))?;
        }
    }
    vfs.sync_dir(&folder).context("sync the directory", &folder)?;
    remove_if_there(vfs, &mark)?;
    vfs.sync_dir(dir).context("sync the directory", dir)
}
