//! A disk in memory that loses, tears and reorders what was not synced, and fails when told to.
//!
//! # The model
//! Every operation that changes the disk has a number in a journal, so that the disk after a power loss at any point
//! ("right after operation `p`") can be built at any later time, in microseconds. Everything synced before `p` is on it.
//! Of the rest, each of these *parts* survives or not by itself, as a [`Fate`] decides:
//! * the **bytes** of one write, whole or in pieces: by sectors of 512 bytes (first, last, scattered), cut at a byte, or
//!   with the 4 KiB block in which the write begins turned into garbage, neighbours included;
//! * the **growth** of the file that came with a write: bytes without growth are not reached; growth without bytes reads as
//!   zeros, or as garbage;
//! * a **length** set by `set_len`;
//! * a **name** made, renamed or removed (a rename is one part: old or new, never both or neither).
//!
//! Guarantees, and nothing beyond them:
//! 1. A successful sync of a file makes its earlier bytes and lengths durable. It says nothing of the file's name.
//! 2. A successful sync of a directory makes its earlier names durable. It says nothing of what is in the files, nor of
//!    the directory's own name in its parent. A rename between directories belongs to the target's directory.
//! 3. Names survive in any subset (harsher than journaling file systems, which keep an order); [`Fate::ordered_names`]
//!    asks for the kinder model.
//! 4. A failed sync leaves one of the outcomes of [`SyncFailure`]; after it a later sync of the same file promises nothing
//!    for the bytes the failed one was about, and names in a directory whose sync failed never become durable.
//!
//! `tests::` below proves each line of this model, so that a green enumeration means something.
//!
//! # Use
//! [`SimDisk::crash`] gives the disk after a power loss, [`SimDisk::kill`] the disk after the process died (the cache
//! survives, the locks are free, the old handles are dead), [`SimDisk::fail_call`] and [`SimDisk::fail_if`] make calls
//! fail, [`SimDisk::set_quota`] fills the disk. [`crash::Enumeration`] drives all of it.
//!
//! Threading: any number of threads; one mutex. Clones are the same disk.

pub mod crash;
mod fate;
mod fault;
mod image;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use self::fault::Faults;
use self::image::{Cache, Image, Ino, Node, Op, Survival, parent};
use super::mmap::{Region, WeakRegion};
use super::vfs::{Entry, EntryKind, LockGuard, OpenMode, Vfs, VfsFile};

pub use self::fate::{BLOCK, Bounds, Cut, Fate, Holes, Keep, SECTOR, Torn};
pub use self::fault::{Call, CallKind, Fault};
pub use self::image::{Part, SyncFailure};

/// The simulated disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What is not durable at some point, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingPart {
    /// The operation's number.
    pub op: usize,
    /// Which part of it.
    pub part: Part,
    /// The operation in words.
    pub what: String,
}

#[derive(Debug)]
struct State {
    /// What was on the disk when it was made; all of it durable.
    base: Image,
    journal: Vec<Op>,
    now: Cache,
    /// The cache as of an earlier operation, for building crash states in order.
    cursor: (usize, Cache),
    next_ino: Ino,
    /// The process that used this disk was killed.
    dead: bool,
    locks: BTreeSet<PathBuf>,
    reserved: BTreeMap<Ino, u64>,
    mapped: BTreeMap<Ino, Mapped>,
    faults: Faults,
    quota: Option<(u64, i32)>,
    network: Option<String>,
}

/// The regions that show a file.
#[derive(Debug, Default)]
struct Mapped {
    known_len: Arc<AtomicU64>,
    regions: Vec<WeakRegion>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::from_image(Image::default())
    }

    fn from_image(base: Image) -> SimDisk {
        let now = Cache::settled(base.clone());
        SimDisk { state: Arc::new(Mutex::new(State::new(base, Vec::new(), now))) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations changed the disk so far; the number of the next one.
    pub fn ops(&self) -> usize {
        self.state().journal.len()
    }

    /// The points at which the power may fail: before the first operation, and right after each.
    pub fn crash_points(&self) -> std::ops::RangeInclusive<usize> {
        0..=self.ops()
    }

    /// What was not durable right after operation `point - 1`, in order.
    pub fn pending_at(&self, point: usize) -> Vec<PendingPart> {
        let mut state = self.state();
        let cache = state.cache_at(point).clone();
        let describe =
            |p: &image::Pending| PendingPart { op: p.op, part: p.part, what: state.journal[p.op].describe() };
        cache.pending.iter().map(describe).collect()
    }

    /// The disk after losing power at `point`, when `fate` decides over what was pending there.
    ///
    /// # Panics
    /// When there is no such point.
    pub fn crash(&self, point: usize, fate: Fate) -> SimDisk {
        SimDisk::from_image(self.state().cache_at(point).crash(&fate))
    }

    /// As [`SimDisk::crash`] at this moment.
    pub fn crash_now(&self, fate: Fate) -> SimDisk {
        SimDisk::from_image(self.state().now.crash(&fate))
    }

    /// The disk after the process died at this moment without a loss of power: what was written is all there, locks are
    /// free, and what was not durable still is not. Every call on the old disk and its files fails from now on.
    pub fn kill(&self) -> SimDisk {
        let killed = self.kill_at(self.ops());
        self.state().dead = true;
        killed
    }

    /// The disk after the process died at `point`, as [`SimDisk::kill`]; this disk stays usable.
    pub fn kill_at(&self, point: usize) -> SimDisk {
        let mut state = self.state();
        let cache = state.cache_at(point).clone();
        let mut killed = State::new(state.base.clone(), state.journal[..point].to_vec(), cache);
        killed.next_ino = state.next_ino;
        killed.reserved = state.reserved.clone();
        killed.quota = state.quota;
        SimDisk { state: Arc::new(Mutex::new(killed)) }
    }

    /// A hash of the names and contents a process sees now.
    pub fn hash(&self) -> u64 {
        self.state().now.live.hash()
    }

    /// The operations before `point`, and what `fate` makes of those that were pending there.
    pub fn trace(&self, point: usize, fate: &Fate) -> String {
        let mut state = self.state();
        let cache = state.cache_at(point).clone();
        let survival = cache.survival(fate);
        let mut text = String::new();
        for (i, op) in state.journal[..point].iter().enumerate() {
            let fates = cache.pending.iter().zip(&survival).filter(|(p, _)| p.op == i);
            let fates: Vec<String> = fates.map(|(p, s)| format!("{:?} {}", p.part, word(*s))).collect();
            let _ = writeln!(text, "{i:5} {:60} {}", op.describe(), fates.join(", "));
        }
        text
    }

    /// How many calls were made so far, reads included; the number of the next one.
    pub fn calls(&self) -> usize {
        self.state().faults.calls()
    }

    /// Makes call number `call` (as counted by [`SimDisk::calls`]) fail.
    pub fn fail_call(&self, call: usize, fault: Fault) {
        self.fail_if(move |c| (c.number == call).then_some(fault));
    }

    /// Makes every call fail for which `rule` gives a fault.
    pub fn fail_if(&self, rule: impl FnMut(&Call<'_>) -> Option<Fault> + Send + 'static) {
        self.state().faults.add(Box::new(rule));
    }

    /// No more faults.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Limits the disk to `bytes` (contents and reservations), or lifts the limit. A write past it is short, then fails
    /// with ENOSPC.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.state().quota = bytes.map(|b| (b, Errno::NOSPC.raw_os_error()));
    }

    /// As [`SimDisk::set_quota`] with another error, say EDQUOT.
    pub fn set_quota_with(&self, bytes: u64, errno: i32) {
        self.state().quota = Some((bytes, errno));
    }

    /// The bytes that count against the quota.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Pretends to be a network file system, or a local one.
    pub fn set_network(&self, name: Option<&str>) {
        self.state().network = name.map(str::to_string);
    }

    /// Flips one bit on the medium and in the cache. (Where a write is pending over it, the cache still holds good bytes.)
    ///
    /// # Panics
    /// When the file or the byte does not exist.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) {
        let mut state = self.state();
        let ino = state.file(path).expect("flip_bit names a file");
        let at = usize::try_from(byte).expect("fits memory");
        let flipped = state.now.live.content(ino)[at] ^ (1 << bit);
        let op = Op::Damage { ino, path: path.into(), offset: byte, data: Arc::from([flipped]) };
        state.push(op);
        state.show(ino, byte, &[flipped]);
    }

    /// The bytes of a file as a process sees them, without counting as a call.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let ino = state.file(path).ok()?;
        Some(state.now.live.content(ino).to_vec())
    }

    /// Every name a process sees, sorted, without counting as a call.
    pub fn names(&self) -> Vec<PathBuf> {
        self.state().now.live.names.keys().map(|p| p.to_path_buf()).collect()
    }

    /// Begins a call: counts it and asks for a fault.
    fn call(&self, kind: CallKind, path: &Path) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.state();
        if state.dead {
            return Err(Errno::IO.into());
        }
        let fault = state.faults.next(kind, path);
        Ok((state, fault))
    }

    /// Begins a call that either fails without effect or goes on.
    fn plain_call(&self, kind: CallKind, path: &Path) -> io::Result<MutexGuard<'_, State>> {
        match self.call(kind, path)? {
            (state, None) => Ok(state),
            (_, Some(fault)) => Err(fault.error()),
        }
    }

    fn file(&self, path: &Path, ino: Ino, writable: bool) -> Arc<dyn VfsFile> {
        Arc::new(SimFile { disk: self.clone(), path: path.into(), ino, writable })
    }
}

fn word(survival: Survival) -> String {
    match survival {
        Survival::Kept => "kept".into(),
        Survival::Lost => "LOST".into(),
        Survival::Torn(cut) => format!("TORN {cut:?}"),
    }
}

impl State {
    fn new(base: Image, journal: Vec<Op>, now: Cache) -> State {
        let next_ino =
            base.files.keys().copied().chain(base.names.values().filter_map(Node::ino)).max().map_or(1, |i| i + 1);
        State {
            cursor: (0, Cache::settled(base.clone())),
            base,
            journal,
            now,
            next_ino,
            dead: false,
            locks: BTreeSet::new(),
            reserved: BTreeMap::new(),
            mapped: BTreeMap::new(),
            faults: Faults::default(),
            quota: None,
            network: None,
        }
    }

    fn push(&mut self, op: Op) {
        self.now.apply(self.journal.len(), &op);
        self.journal.push(op);
    }

    /// The cache right after operation `point - 1`.
    fn cache_at(&mut self, point: usize) -> &Cache {
        assert!(point <= self.journal.len(), "crash point {point} of {}", self.journal.len());
        if point == self.journal.len() {
            return &self.now;
        }
        if self.cursor.0 > point {
            self.cursor = (0, Cache::settled(self.base.clone()));
        }
        let (at, cache) = &mut self.cursor;
        for op in &self.journal[*at..point] {
            cache.apply(*at, op);
            *at += 1;
        }
        &self.cursor.1
    }

    fn file(&self, path: &Path) -> io::Result<Ino> {
        match self.now.live.node(path) {
            Some(Node::File(ino)) => Ok(ino),
            Some(Node::Dir) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn need_dir(&self, dir: &Path) -> io::Result<()> {
        match self.now.live.node(dir) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<Ino> {
        self.need_dir(parent(path))?;
        let ino = self.next_ino;
        self.next_ino += 1;
        self.push(Op::Create { path: path.into(), ino });
        Ok(ino)
    }

    fn len(&self, ino: Ino) -> u64 {
        self.now.live.content(ino).len() as u64
    }

    fn used(&self) -> u64 {
        let size = |node: &Node| match node {
            Node::File(ino) => self.len(*ino).max(self.reserved.get(ino).copied().unwrap_or(0)),
            Node::Dir => 0,
        };
        self.now.live.names.values().map(size).sum()
    }

    /// How far a file may reach under the quota.
    fn room(&self, ino: Ino) -> u64 {
        let Some((quota, _)) = self.quota else { return u64::MAX };
        let own = self.len(ino).max(self.reserved.get(&ino).copied().unwrap_or(0));
        own + quota.saturating_sub(self.used())
    }

    fn full(&self) -> io::Error {
        io::Error::from_raw_os_error(self.quota.map_or(Errno::NOSPC.raw_os_error(), |(_, errno)| errno))
    }

    /// Brings the regions of a file up to date with `bytes` written at `offset`.
    fn show(&mut self, ino: Ino, offset: u64, bytes: &[u8]) {
        let len = self.len(ino);
        if let Some(mapped) = self.mapped.get_mut(&ino) {
            mapped.regions.retain(|weak| weak.upgrade().inspect(|region| region.write(offset, bytes)).is_some());
            mapped.known_len.store(len, Ordering::Release);
        }
    }

    /// Brings the regions of a file up to date after its contents changed as a whole.
    fn show_all(&mut self, ino: Ino, old_len: u64) {
        if self.mapped.contains_key(&ino) {
            let mut bytes = self.now.live.content(ino).to_vec();
            bytes.resize(bytes.len().max(usize::try_from(old_len).expect("fits memory")), 0);
            self.show(ino, 0, &bytes);
        }
    }
}

impl Vfs for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.plain_call(CallKind::CreateDir, dir)?;
        let mut missing = Vec::new();
        let mut at = dir;
        while state.now.live.node(at).is_none() {
            missing.push(at);
            at = parent(at);
        }
        state.need_dir(at)?;
        missing.iter().rev().for_each(|path| state.push(Op::Mkdir { path: Arc::from(*path) }));
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let kind = if mode == OpenMode::CreateNew { CallKind::Create } else { CallKind::Open };
        let mut state = self.plain_call(kind, path)?;
        let ino = match mode {
            OpenMode::CreateNew if state.now.live.node(path).is_some() => return Err(Errno::EXIST.into()),
            OpenMode::CreateNew => state.create(path)?,
            OpenMode::Read | OpenMode::Write => state.file(path)?,
        };
        drop(state);
        Ok(self.file(path, ino, mode != OpenMode::Read))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.plain_call(CallKind::Rename, from)?;
        let ino = state.file(from)?;
        state.need_dir(parent(to))?;
        if state.now.live.node(to) == Some(Node::Dir) {
            return Err(Errno::ISDIR.into());
        }
        if from != to {
            state.push(Op::Rename { from: from.into(), to: to.into(), ino });
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.plain_call(CallKind::Remove, path)?;
        state.file(path)?;
        state.push(Op::Remove { path: path.into() });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, fault) = self.call(CallKind::SyncDir, dir)?;
        state.need_dir(dir)?;
        match fault {
            None => state.push(Op::SyncDir { path: dir.into() }),
            Some(Fault::Sync(SyncFailure::Persisted, _)) => state.push(Op::SyncDir { path: dir.into() }),
            Some(_) => state.push(Op::SyncDirFailed { path: dir.into() }),
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.plain_call(CallKind::List, dir)?;
        state.need_dir(dir)?;
        let mut entries = Vec::new();
        for (path, node) in state.now.live.names.iter().filter(|(path, _)| parent(path) == dir) {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            entries.push(match node {
                Node::File(ino) => Entry { name, kind: EntryKind::File, len: state.len(*ino) },
                Node::Dir => Entry { name, kind: EntryKind::Dir, len: 0 },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        let state = self.plain_call(CallKind::Kind, path)?;
        Ok(state.now.live.node(path).map(|node| match node {
            Node::File(_) => EntryKind::File,
            Node::Dir => EntryKind::Dir,
        }))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut state = self.plain_call(CallKind::Lock, path)?;
        match state.now.live.node(path) {
            None => _ = state.create(path)?,
            Some(_) => _ = state.file(path)?,
        }
        if !state.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_path_buf() }))
    }

    fn network_file_system(&self, _path: &Path) -> io::Result<Option<String>> {
        Ok(self.state().network.clone())
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: Arc<Path>,
    ino: Ino,
    writable: bool,
}

impl SimFile {
    fn need_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }

    /// Writes as much of `data` as there is room for.
    fn write(&self, state: &mut State, data: &[u8], offset: u64) -> io::Result<()> {
        let room = state.room(self.ino).saturating_sub(offset);
        let fits = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if fits > 0 {
            let part = &data[..fits];
            state.push(Op::Write { ino: self.ino, path: Arc::clone(&self.path), offset, data: part.into() });
            state.show(self.ino, offset, part);
        }
        if fits < data.len() { Err(state.full()) } else { Ok(()) }
    }
}

impl VfsFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.plain_call(CallKind::Read, &self.path)?;
        let bytes = state.now.live.content(self.ino);
        let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_all_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.need_writable()?;
        let data = bufs.concat();
        let (mut state, fault) = self.disk.call(CallKind::Write, &self.path)?;
        match fault {
            None => self.write(&mut state, &data, offset),
            Some(fault) => {
                if let Fault::ShortWrite(n, _) = fault {
                    self.write(&mut state, &data[..n.min(data.len())], offset)?;
                }
                Err(fault.error())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.plain_call(CallKind::Len, &self.path)?.len(self.ino))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.need_writable()?;
        let mut state = self.disk.plain_call(CallKind::SetLen, &self.path)?;
        let old_len = state.len(self.ino);
        if len > state.room(self.ino) {
            return Err(state.full());
        }
        if len < state.reserved.get(&self.ino).copied().unwrap_or(0) {
            state.reserved.remove(&self.ino);
        }
        state.push(Op::SetLen { ino: self.ino, path: Arc::clone(&self.path), len });
        state.show_all(self.ino, old_len);
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.need_writable()?;
        let mut state = self.disk.plain_call(CallKind::Reserve, &self.path)?;
        if len > state.room(self.ino) {
            return Err(state.full());
        }
        let reserved = state.reserved.entry(self.ino).or_default();
        *reserved = len.max(*reserved);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, fault) = self.disk.call(CallKind::Sync, &self.path)?;
        let (ino, path) = (self.ino, Arc::clone(&self.path));
        let Some(fault) = fault else {
            state.push(Op::Sync { ino, path });
            return Ok(());
        };
        let how = if let Fault::Sync(how, _) = fault { how } else { SyncFailure::Forgotten };
        let old_len = state.len(ino);
        state.push(Op::SyncFailed { ino, path, how });
        if how == SyncFailure::Reverted {
            state.show_all(ino, old_len);
        }
        Err(fault.error())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn map(&self, capacity: u64) -> io::Result<Region> {
        let mut state = self.disk.plain_call(CallKind::Map, &self.path)?;
        let content = state.now.live.content(self.ino);
        let (len, bytes) = (content.len() as u64, content.to_vec());
        let mapped = state.mapped.entry(self.ino).or_default();
        mapped.known_len.store(len, Ordering::Release);
        let region = Region::anonymous(capacity, Arc::clone(&mapped.known_len))?;
        region.write(0, &bytes);
        mapped.regions.push(region.downgrade());
        Ok(region)
    }
}

impl Op {
    /// The operation in words.
    fn describe(&self) -> String {
        match self {
            Op::Mkdir { path } => format!("mkdir {}", path.display()),
            Op::Create { path, .. } => format!("create {}", path.display()),
            Op::Rename { from, to, .. } => format!("rename {} -> {}", from.display(), to.display()),
            Op::Remove { path } => format!("remove {}", path.display()),
            Op::Write { path, offset, data, .. } => {
                format!("write {} [{offset}, {})", path.display(), offset + data.len() as u64)
            }
            Op::SetLen { path, len, .. } => format!("set_len {} {len}", path.display()),
            Op::Sync { path, .. } => format!("sync {}", path.display()),
            Op::SyncDir { path } => format!("sync_dir {}", path.display()),
            Op::SyncFailed { path, how, .. } => format!("sync {} FAILED ({how:?})", path.display()),
            Op::SyncDirFailed { path } => format!("sync_dir {} FAILED", path.display()),
            Op::Damage { path, offset, .. } => format!("damage {} at {offset}", path.display()),
        }
    }
}
