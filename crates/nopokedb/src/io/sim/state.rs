//! What the simulated disk keeps behind its mutex.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::fault::Faults;
use super::image::{Cache, Image, Ino, Node, Op, parent};
use crate::io::mmap::{Region, WeakRegion};
use crate::io::vfs::Word;

#[derive(Debug)]
pub(super) struct State {
    /// What was on the disk when it was made; all of it durable.
    pub(super) base: Image,
    pub(super) journal: Vec<Op>,
    pub(super) now: Cache,
    /// The cache as of an earlier operation, for building crash states in order.
    pub(super) cursor: (usize, Cache),
    pub(super) next_ino: Ino,
    /// The process that used this disk was killed.
    pub(super) dead: bool,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) mapped: BTreeMap<Ino, Mapped>,
    pub(super) faults: Faults,
    pub(super) quota: Option<(u64, i32)>,
    pub(super) network: Option<String>,
    /// What beacons said, oldest first.
    pub(super) told: Vec<Told>,
    /// How many salts were asked for so far; a crash goes on with the next million.
    pub(super) openings: u64,
}

/// What a beacon said.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// After how many operations.
    pub(super) op: usize,
    pub(super) path: PathBuf,
    pub(super) word: Word,
}

/// The regions that show a file.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    pub(super) known_len: Arc<AtomicU64>,
    pub(super) regions: Vec<WeakRegion>,
}

impl State {
    pub(super) fn new(base: Image, journal: Vec<Op>, now: Cache) -> State {
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
            mapped: BTreeMap::new(),
            faults: Faults::default(),
            quota: None,
            network: None,
            told: Vec::new(),
            openings: 0,
        }
    }

    pub(super) fn push(&mut self, op: Op) {
        self.now.apply(self.journal.len(), &op);
        self.journal.push(op);
    }

    /// The cache right after operation `point - 1`.
    pub(super) fn cache_at(&mut self, point: usize) -> &Cache {
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

    pub(super) fn file(&self, path: &Path) -> io::Result<Ino> {
        match self.now.live.node(path) {
            Some(Node::File(ino)) => Ok(ino),
            Some(Node::Dir) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn need_dir(&self, dir: &Path) -> io::Result<()> {
        match self.now.live.node(dir) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Ino> {
        self.need_dir(parent(path))?;
        let ino = self.next_ino;
        self.next_ino += 1;
        self.push(Op::Create { path: path.into(), ino });
        Ok(ino)
    }

    pub(super) fn len(&self, ino: Ino) -> u64 {
        self.now.live.len(ino) as u64
    }

    pub(super) fn used(&self) -> u64 {
        let size = |node: &Node| match node {
            Node::File(ino) => self.len(*ino),
            Node::Dir => 0,
        };
        self.now.live.names.values().map(size).sum()
    }

    /// How far a file may reach under the quota.
    pub(super) fn room(&self, ino: Ino) -> u64 {
        let Some((quota, _)) = self.quota else { return u64::MAX };
        let own = self.len(ino);
        own + quota.saturating_sub(self.used())
    }

    pub(super) fn full(&self) -> io::Error {
        io::Error::from_raw_os_error(self.quota.map_or(Errno::NOSPC.raw_os_error(), |(_, errno)| errno))
    }

    /// Brings the regions of a file up to date with `bytes` written at `offset`.
    pub(super) fn show(&mut self, ino: Ino, offset: u64, bytes: &[u8]) {
        let len = self.len(ino);
        if let Some(mapped) = self.mapped.get_mut(&ino) {
            mapped.regions.retain(|weak| weak.upgrade().inspect(|region| region.write(offset, bytes)).is_some());
            mapped.known_len.store(len, Ordering::Release);
        }
    }

    /// Brings the regions of a file up to date after its contents changed as a whole.
    pub(super) fn show_all(&mut self, ino: Ino, old_len: u64) {
        let Some(mapped) = self.mapped.get_mut(&ino) else { return };
        let content = self.now.live.content(ino);
        let len = content.map_or(0, |c| c.len() as u64);
        let cut = vec![0; usize::try_from(old_len.saturating_sub(len)).expect("a simulated file fits memory")];
        mapped.known_len.store(len, Ordering::Release);
        for region in mapped.regions.iter().filter_map(WeakRegion::upgrade) {
            content.iter().flat_map(|c| c.pieces()).for_each(|(offset, piece)| region.write(offset, piece));
            region.write(len, &cut);
        }
    }

    /// Maps a file.
    pub(super) fn map(&mut self, ino: Ino, capacity: u64) -> io::Result<Region> {
        let len = self.len(ino);
        let mapped = self.mapped.entry(ino).or_default();
        mapped.known_len.store(len, Ordering::Release);
        let region = Region::anonymous(capacity, Arc::clone(&mapped.known_len))?;
        let content = self.now.live.content(ino);
        content.iter().flat_map(|c| c.pieces()).for_each(|(offset, piece)| region.write(offset, piece));
        mapped.regions.push(region.downgrade());
        Ok(region)
    }
}
