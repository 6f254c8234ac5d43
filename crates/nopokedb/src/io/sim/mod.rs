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

mod content;
pub mod crash;
mod device;
mod fate;
mod fault;
mod image;
mod state;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use self::content::Content;
use self::image::{Cache, Image, Op, Survival};
use self::state::State;

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

    /// What a crash of `state` leaves.
    fn crashed(state: &State, image: Image) -> SimDisk {
        let disk = SimDisk::from_image(image);
        disk.state().openings = next_life(state.openings);
        disk
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
        let mut state = self.state();
        let image = state.cache_at(point).crash(&fate);
        SimDisk::crashed(&state, image)
    }

    /// As [`SimDisk::crash`] at this moment.
    pub fn crash_now(&self, fate: Fate) -> SimDisk {
        let state = self.state();
        SimDisk::crashed(&state, state.now.crash(&fate))
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
        killed.quota = state.quota;
        killed.openings = next_life(state.openings);
        // Beacons outlive their process, and no loss of power: `crash` starts without.
        killed.told = state.told.iter().filter(|told| told.op <= point).cloned().collect();
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
        let bytes = self.peek(path).expect("flip_bit names a file");
        let flipped = bytes[usize::try_from(byte).expect("a simulated file fits memory")] ^ (1 << bit);
        self.damage(path, byte, &[flipped]);
    }

    /// Puts other bytes on the medium and in the cache, as a misdirected write does.
    ///
    /// # Panics
    /// When the file does not exist.
    pub fn damage(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let ino = state.file(path).expect("damage names a file");
        state.push(Op::Damage { ino, path: path.into(), offset, data: bytes.into() });
        state.show(ino, offset, bytes);
    }

    /// The bytes of a file as a process sees them, without counting as a call.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let ino = state.file(path).ok()?;
        Some(state.now.live.content(ino).map_or_else(Vec::new, Content::to_vec))
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
}

/// Salts after a crash are none that were given before it, and depend on nothing but how many crashes there were.
fn next_life(openings: u64) -> u64 {
    const LIFE: u64 = 1_000_000;
    openings / LIFE * LIFE + LIFE
}

fn word(survival: Survival) -> String {
    match survival {
        Survival::Kept => "kept".into(),
        Survival::Lost => "LOST".into(),
        Survival::Torn(cut) => format!("TORN {cut:?}"),
    }
}
