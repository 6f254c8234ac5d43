//! Reads an old file piece by piece, mostly forwards, never past its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::io::vfs::{OpenMode, Vfs, VfsFile, read_exact_at};

/// Bytes read at once.
const AHEAD: u64 = 1 << 20;

/// A file and the piece of it that was read last.
#[derive(Debug)]
pub(super) struct Window {
    file: Arc<dyn VfsFile>,
    path: PathBuf,
    len: u64,
    at: u64,
    buf: Vec<u8>,
}

impl Window {
    /// Opens `path`; `None` if there is no such file.
    pub(super) fn open(vfs: &dyn Vfs, path: &Path) -> Result<Option<Window>> {
        let file = match vfs.open(path, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context("open", path)?,
        };
        let len = file.len().context("look at", path)?;
        Ok(Some(Window { file, path: path.to_owned(), len, at: 0, buf: Vec::new() }))
    }

    /// The file's length when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The `n` bytes at `at`. A file that ends before them is damaged.
    pub(super) fn bytes(&mut self, at: u64, n: usize) -> Result<&[u8]> {
        let end = at.checked_add(n as u64).filter(|&end| end <= self.len);
        let Some(end) = end else { return Err(self.damaged(self.len, "the file ends too early")) };
        if at < self.at || end > self.at + self.buf.len() as u64 {
            let want = (end - at).max(AHEAD.min(self.len - at));
            self.buf.resize(usize::try_from(want).unwrap_or(n), 0);
            self.at = at;
            if let Err(e) = read_exact_at(&*self.file, &mut self.buf, at) {
                self.buf.clear();
                return Err(match e.kind() {
                    io::ErrorKind::UnexpectedEof => self.damaged(at, "the file became shorter while it was read"),
                    _ => Error::io("read", &self.path, e),
                });
            }
        }
        let from = usize::try_from(at - self.at).expect("inside the buffer");
        Ok(&self.buf[from..from + n])
    }

    /// Damage at `offset` of this file.
    pub(super) fn damaged(&self, offset: u64, what: impl std::fmt::Display) -> Error {
        super::damaged(&self.path, offset, what)
    }
}
