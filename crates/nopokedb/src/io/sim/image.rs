//! What the simulated disk holds: names, file contents, the journal of operations, and which of them are durable.
//!
//! A [`Cache`] is a page cache over a platter: `live` is what a running process sees, `durable` is what surely outlives
//! a power loss, and `pending` lists, in order, the parts of operations that are in the first and not in the second. The
//! running disk and the enumeration of its crash states drive the same [`Cache::apply`], so they cannot disagree.
//!
//! Invariants:
//! 1. `live` is `durable` with every pending part applied in order, unless a sync has failed.
//! 2. Contents and names are shared copy-on-write: a crash state copies only the files that have pending parts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::content::Content;
use super::fate::{Cut, Fate, Holes, noise};

/// A file's identity, apart from its names.
pub(super) type Ino = u32;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(Ino),
    Dir,
}

impl Node {
    pub(super) fn ino(&self) -> Option<Ino> {
        match self {
            Node::File(ino) => Some(*ino),
            Node::Dir => None,
        }
    }
}

/// Names and contents at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) names: Arc<BTreeMap<Arc<Path>, Node>>,
    pub(super) files: Arc<BTreeMap<Ino, Arc<Content>>>,
}

impl Image {
    pub(super) fn node(&self, path: &Path) -> Option<Node> {
        if is_root(path) { Some(Node::Dir) } else { self.names.get(path).copied() }
    }

    /// A file's bytes; `None` while nothing was ever written to it.
    pub(super) fn content(&self, ino: Ino) -> Option<&Content> {
        self.files.get(&ino).map(|content| &**content)
    }

    pub(super) fn len(&self, ino: Ino) -> usize {
        self.content(ino).map_or(0, Content::len)
    }

    fn content_mut(&mut self, ino: Ino) -> &mut Content {
        Arc::make_mut(Arc::make_mut(&mut self.files).entry(ino).or_default())
    }

    fn apply_name(&mut self, op: &Op) {
        let names = Arc::make_mut(&mut self.names);
        match op {
            Op::Mkdir { path } => _ = names.insert(Arc::clone(path), Node::Dir),
            Op::Create { path, ino } => _ = names.insert(Arc::clone(path), Node::File(*ino)),
            Op::Remove { path } => _ = names.remove(path),
            Op::Rename { from, to, ino } => {
                // After a crash `from` may have been taken by a later file whose creation survived: leave that one.
                if names.get(from) == Some(&Node::File(*ino)) {
                    names.remove(from);
                }
                names.insert(Arc::clone(to), Node::File(*ino));
            }
            _ => {}
        }
    }

    /// Removes the names below directories that are not there.
    fn drop_orphans(&mut self) {
        let lost: Vec<Arc<Path>> = self
            .names
            .keys()
            .filter(|p| p.ancestors().skip(1).any(|dir| self.node(dir) != Some(Node::Dir)))
            .cloned()
            .collect();
        if !lost.is_empty() {
            let names = Arc::make_mut(&mut self.names);
            lost.iter().for_each(|path| _ = names.remove(path));
        }
    }

    /// A hash over names and contents.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for (path, node) in self.names.iter() {
            hasher.update(path.as_os_str().as_encoded_bytes());
            let content = match node {
                Node::Dir => 0,
                Node::File(ino) => self.files.get(ino).map_or(1, |c| c.hash()),
            };
            hasher.update(&[0]);
            hasher.update(&content.to_le_bytes());
        }
        hasher.digest()
    }
}

/// The parent of everything, which always exists.
fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none()
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// How a sync fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFailure {
    /// ext4 and XFS: the cache keeps showing the new bytes but believes them written; no later sync writes them.
    Forgotten,
    /// Btrfs: the file shows its old contents again.
    Reverted,
    /// The bytes reached the medium although the sync said otherwise.
    Persisted,
}

/// One operation that changed the disk or its durability.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Mkdir {
        path: Arc<Path>,
    },
    Create {
        path: Arc<Path>,
        ino: Ino,
    },
    Rename {
        from: Arc<Path>,
        to: Arc<Path>,
        ino: Ino,
    },
    Remove {
        path: Arc<Path>,
    },
    Write {
        ino: Ino,
        path: Arc<Path>,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        ino: Ino,
        path: Arc<Path>,
        len: u64,
    },
    Sync {
        ino: Ino,
        path: Arc<Path>,
    },
    SyncDir {
        path: Arc<Path>,
    },
    SyncFailed {
        ino: Ino,
        path: Arc<Path>,
        how: SyncFailure,
    },
    SyncDirFailed {
        path: Arc<Path>,
    },
    /// The medium changed by itself.
    Damage {
        ino: Ino,
        path: Arc<Path>,
        offset: u64,
        data: Arc<[u8]>,
    },
}

impl Op {
    /// The operation in words.
    pub(super) fn describe(&self) -> String {
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

/// One part of an operation that a power loss may take or leave by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The bytes of a write (which may also be torn).
    Data,
    /// The file's growth that came with a write: without it the bytes past the old end are not reached.
    Growth,
    /// The new length set by `set_len`.
    Length,
    /// A name made, changed or removed.
    Name,
}

#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Index in the journal.
    pub(super) op: usize,
    pub(super) part: Part,
    /// A sync failed over it: the cache will never write it again.
    forgotten: bool,
    what: Op,
}

/// This file carries words for error messages and nothing else: what is done to it counts as durable at once, so that it
/// does not multiply the states.
const MESSAGES_ONLY: &str = "LOCK.info";

/// A page cache over a platter.
#[derive(Clone, Debug, Default)]
pub(super) struct Cache {
    pub(super) live: Image,
    durable: Image,
    pub(super) pending: Vec<Pending>,
    /// Directories whose sync failed once: their names never become durable any more.
    failed_dirs: BTreeSet<Arc<Path>>,
}

impl Cache {
    /// A cache in which everything is durable.
    pub(super) fn settled(image: Image) -> Self {
        Cache { live: image.clone(), durable: image, pending: Vec::new(), failed_dirs: BTreeSet::new() }
    }

    /// Does what operation number `seq` does.
    pub(super) fn apply(&mut self, seq: usize, op: &Op) {
        self.apply_live(seq, op);
        match op {
            Op::Write { ino, path, .. } | Op::SetLen { ino, path, .. } if path.ends_with(MESSAGES_ONLY) => {
                self.settle_file(*ino);
            }
            Op::Create { path, .. } if path.ends_with(MESSAGES_ONLY) => {
                self.pending.pop();
                self.durable.apply_name(op);
            }
            _ => {}
        }
    }

    fn apply_live(&mut self, seq: usize, op: &Op) {
        match op {
            Op::Mkdir { .. } | Op::Create { .. } | Op::Rename { .. } | Op::Remove { .. } => {
                self.live.apply_name(op);
                self.push(seq, Part::Name, op);
            }
            Op::Write { ino, offset, data, .. } => {
                let content = self.live.content_mut(*ino);
                let grows = to_index(*offset) + data.len() > content.len();
                content.put(to_index(*offset), data);
                if !data.is_empty() {
                    self.push(seq, Part::Data, op);
                }
                if grows {
                    self.push(seq, Part::Growth, op);
                }
            }
            Op::SetLen { ino, len, .. } => {
                self.live.content_mut(*ino).set_len(to_index(*len));
                self.push(seq, Part::Length, op);
            }
            Op::Sync { ino, .. } => self.settle_file(*ino),
            Op::SyncDir { path } => self.settle_dir(path),
            Op::SyncFailed { ino, how, .. } => self.fail_sync(*ino, *how),
            Op::SyncDirFailed { path } => _ = self.failed_dirs.insert(Arc::clone(path)),
            Op::Damage { ino, offset, data, .. } => {
                for image in [&mut self.live, &mut self.durable] {
                    if to_index(*offset) + data.len() <= image.len(*ino) {
                        image.content_mut(*ino).put(to_index(*offset), data);
                    }
                }
            }
        }
    }

    fn push(&mut self, op: usize, part: Part, what: &Op) {
        self.pending.push(Pending { op, part, forgotten: false, what: what.clone() });
    }

    fn settle_file(&mut self, ino: Ino) {
        let (mine, rest) = std::mem::take(&mut self.pending).into_iter().partition(|p: &Pending| p.ino() == Some(ino));
        self.pending = rest;
        let mine: Vec<Pending> = mine;
        if mine.is_empty() {
            return;
        }
        let survives = |p: &Pending| if p.forgotten { Survival::Lost } else { Survival::Kept };
        rebuild(self.durable.content_mut(ino), mine.iter().map(|p| (p, survives(p))), Holes::Zeros);
    }

    fn settle_dir(&mut self, dir: &Path) {
        if self.failed_dirs.contains(dir) {
            return;
        }
        let durable = &mut self.durable;
        self.pending.retain(|p| {
            let here = p.dir() == Some(dir);
            if here {
                durable.apply_name(&p.what);
            }
            !here
        });
    }

    fn fail_sync(&mut self, ino: Ino, how: SyncFailure) {
        match how {
            SyncFailure::Persisted => self.settle_file(ino),
            SyncFailure::Forgotten => {
                let lost = |p: &&mut Pending| p.ino() == Some(ino) && p.part == Part::Data;
                self.pending.iter_mut().filter(lost).for_each(|p| p.forgotten = true);
            }
            SyncFailure::Reverted => {
                self.pending.retain(|p| p.ino() != Some(ino));
                let old = self.durable.files.get(&ino).cloned().unwrap_or_default();
                Arc::make_mut(&mut self.live.files).insert(ino, old);
            }
        }
    }

    /// What is on the platter when the power fails now and `fate` decides over what is pending.
    pub(super) fn crash(&self, fate: &Fate) -> Image {
        let survival = self.survival(fate);
        let mut image = self.durable.clone();
        let mut dirs_changed = false;
        let mut done: Vec<Ino> = Vec::new();
        for (i, p) in self.pending.iter().enumerate() {
            match p.ino() {
                None if survival[i] == Survival::Kept => image.apply_name(&p.what),
                None => dirs_changed |= matches!(p.what, Op::Mkdir { .. }),
                Some(ino) if done.contains(&ino) => {}
                Some(ino) => {
                    done.push(ino);
                    let mine = self.pending.iter().zip(&survival).skip(i).filter(|(p, _)| p.ino() == Some(ino));
                    let touched = fate.holes == Holes::Noise || mine.clone().any(|(_, s)| *s != Survival::Lost);
                    if touched {
                        rebuild(image.content_mut(ino), mine.map(|(p, s)| (p, *s)), fate.holes);
                    }
                }
            }
        }
        if dirs_changed {
            image.drop_orphans();
        }
        image
    }

    /// What becomes of each pending part.
    pub(super) fn survival(&self, fate: &Fate) -> Vec<Survival> {
        let mut lost_dirs: Vec<&Path> = Vec::new();
        let decide = |(i, p): (usize, &Pending)| match fate.torn {
            Some(torn) if torn.unit == i && p.part == Part::Data => Survival::Torn(torn.cut),
            _ if fate.keep.keeps(i) => Survival::Kept,
            _ => Survival::Lost,
        };
        let mut survival: Vec<Survival> = self.pending.iter().enumerate().map(decide).collect();
        if fate.ordered_names {
            for (p, s) in self.pending.iter().zip(&mut survival) {
                let Some(dir) = p.dir() else { continue };
                if lost_dirs.contains(&dir) {
                    *s = Survival::Lost;
                } else if *s == Survival::Lost {
                    lost_dirs.push(dir);
                }
            }
        }
        survival
    }
}

/// What becomes of one pending part in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survival {
    Kept,
    Lost,
    Torn(Cut),
}

impl Pending {
    /// The file this is about; `None` for a name.
    pub(super) fn ino(&self) -> Option<Ino> {
        match &self.what {
            Op::Write { ino, .. } | Op::SetLen { ino, .. } => Some(*ino),
            _ => None,
        }
    }

    /// The directory whose sync makes this durable; `None` for what a file's sync does.
    fn dir(&self) -> Option<&Path> {
        match &self.what {
            Op::Mkdir { path } | Op::Create { path, .. } | Op::Remove { path } | Op::Rename { to: path, .. } => {
                Some(parent(path))
            }
            _ => None,
        }
    }

    /// Where and how long a write is.
    pub(super) fn extent(&self) -> Option<(u64, usize)> {
        match &self.what {
            Op::Write { offset, data, .. } => Some((*offset, data.len())),
            _ => None,
        }
    }
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file fits memory")
}

/// Turns a file's durable bytes into what a crash leaves, given what becomes of each pending part.
fn rebuild<'a>(content: &mut Content, parts: impl Iterator<Item = (&'a Pending, Survival)>, holes: Holes) {
    let old_len = content.len();
    let mut len = old_len;
    for (p, survival) in parts {
        match (&p.what, p.part) {
            (Op::Write { offset, data, .. }, Part::Data) => match survival {
                Survival::Kept => content.put(to_index(*offset), data),
                Survival::Lost => lose(content, *offset, data.len(), old_len, holes),
                Survival::Torn(cut) => {
                    lose(content, *offset, data.len(), old_len, holes);
                    cut.kept(*offset, data.len(), |from, to| content.put(to_index(*offset) + from, &data[from..to]));
                    if let Some((start, end)) = cut.shredded(*offset, data.len()) {
                        content.put(to_index(start), &noise(start, end));
                    }
                }
            },
            (Op::Write { offset, data, .. }, Part::Growth) if survival == Survival::Kept => {
                len = len.max(to_index(*offset) + data.len());
            }
            (Op::SetLen { len: set, .. }, Part::Length) if survival == Survival::Kept => {
                len = to_index(*set);
                content.set_len(content.len().min(len));
            }
            _ => {}
        }
    }
    content.set_len(len);
}

/// A write whose bytes did not reach the medium: new space may hold what was there before the file was.
fn lose(content: &mut Content, offset: u64, len: usize, old_len: usize, holes: Holes) {
    if holes == Holes::Noise {
        let from = offset.max(old_len as u64);
        content.put(to_index(from), &noise(from, offset + len as u64));
    }
}
