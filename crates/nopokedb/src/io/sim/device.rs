//! The simulated disk as a [`Vfs`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::image::{Ino, Node, Op, SyncFailure, parent};
use super::state::{State, Told};
use super::{CallKind, Fault, SimDisk};
use crate::io::mmap::Region;
use crate::io::vfs::{Beacon, Entry, EntryKind, LockGuard, OpenMode, Vfs, VfsFile, Word};

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
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.into(), ino, writable: mode != OpenMode::Read }))
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

    fn seed(&self) -> u64 {
        let mut state = self.state();
        state.openings += 1;
        state.openings
    }

    fn wall_clock(&self) -> fn() -> i64 {
        || 1_700_000_000_000
    }

    fn beacon(&self, path: &Path) -> io::Result<Box<dyn Beacon>> {
        Ok(Box::new(SimBeacon { disk: self.clone(), path: path.to_path_buf() }))
    }

    fn told(&self, path: &Path) -> io::Result<Option<Word>> {
        Ok(self.state().told.iter().rev().find(|t| t.path == path).map(|t| t.word))
    }
}

/// Says a word that belongs to the operations before it. It is no operation itself: nothing of it can survive a crash.
#[derive(Debug)]
struct SimBeacon {
    disk: SimDisk,
    path: PathBuf,
}

impl Beacon for SimBeacon {
    fn tell(&self, word: &Word) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.dead {
            return Err(Errno::IO.into());
        }
        let (op, path) = (state.journal.len(), self.path.clone());
        state.told.push(Told { op, path, word: *word });
        Ok(())
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
        let Ok(offset) = usize::try_from(offset) else { return Ok(0) };
        Ok(state.now.live.content(self.ino).map_or(0, |content| content.read(offset, buf)))
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
        state.push(Op::SetLen { ino: self.ino, path: Arc::clone(&self.path), len });
        state.show_all(self.ino, old_len);
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

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.disk.state().now.live.names.values().any(|node| node.ino() == Some(self.ino)))
    }

    fn map(&self, capacity: u64) -> io::Result<Region> {
        let mut state = self.disk.plain_call(CallKind::Map, &self.path)?;
        state.map(self.ino, capacity)
    }
}
