//! The metadata file of nopokedb 0.5.1 (`metadata.db`): `CREATE TABLE metadata (id INTEGER PRIMARY KEY, data TEXT NOT NULL)`.
//!
//! It is read from a copy in memory, so that neither SQLite's locks nor the rollback of an interrupted transaction touch the
//! old files. Only a file too large for that is opened where it is, for reading.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::connection::{Outcome, Trouble, assert_version, harden};
use super::journal;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::io::vfs::{EntryKind, Vfs, read_file};

/// SQLite takes no larger block into memory.
const IN_MEMORY: u64 = 1 << 30;
/// Where a header says which journal the file is written with, and what says "a rollback journal".
const JOURNAL_MODE: std::ops::Range<usize> = 18..20;
const ROLLBACK: u8 = 1;

/// The old metadata, whole and readable.
#[derive(Debug)]
pub(crate) struct OldMetadata {
    /// `None`: there is no table yet.
    conn: Option<Connection>,
    path: PathBuf,
}

impl OldMetadata {
    /// Reads the file `path` and the journal beside it. A missing file is one without rows.
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path) -> Result<OldMetadata> {
        let beside = |suffix: &str| path.with_file_name(format!("metadata.db{suffix}"));
        let (journal, wal) = (beside("-journal"), beside("-wal"));
        let mut old = OldMetadata { conn: None, path: path.to_owned() };
        if file_len(vfs, &wal)? > 0 {
            let why = "holds changes that SQLite has not moved into metadata.db; run `sqlite3 metadata.db 'PRAGMA \
                       journal_mode=DELETE'` in that directory and open it again";
            return Err(Error::path(&wal, why));
        }
        let len = file_len(vfs, path)?;
        let conn = if len > IN_MEMORY && file_len(vfs, &journal)? == 0 {
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
                .map_err(Trouble::from)
                .and_then(|conn| harden(&conn).map_err(Trouble::from).map(|()| conn))
        } else {
            let mut bytes =
                if len == 0 { Vec::new() } else { read_file(vfs, path, IN_MEMORY).context("read", path)? };
            if file_len(vfs, &journal)? > 0 {
                let kept = read_file(vfs, &journal, IN_MEMORY).context("read", &journal)?;
                journal::roll_back(&mut bytes, &kept)
                    .map_err(|(at, what)| Error::corruption(&journal, at as u64, what))?;
            }
            if bytes.is_empty() {
                return Ok(old);
            }
            // SQLite in memory knows no write-ahead log; there is nothing in it, or we would not be here.
            if let Some(mode) = bytes.get_mut(JOURNAL_MODE) {
                mode.fill(ROLLBACK);
            }
            in_memory(&bytes)
        };
        old.conn = Some(conn.map_err(|e| old.trouble(e))?);
        old.check()?;
        Ok(old)
    }

    /// SQLite has no checksums; this finds what does not hang together.
    fn check(&self) -> Result<()> {
        let Some(conn) = &self.conn else { return Ok(()) };
        let found: Outcome<String> =
            conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(Trouble::from);
        match found.map_err(|e| self.trouble(e))? {
            ok if ok == "ok" => Ok(()),
            why => Err(self.trouble(Trouble::Damaged(why))),
        }
    }

    /// The highest id, if there is any row.
    pub(crate) fn highest(&self) -> Result<Option<i64>> {
        let Some(conn) = &self.conn else { return Ok(None) };
        let highest: Outcome<Option<i64>> =
            conn.query_row("SELECT max(id) FROM metadata", [], |row| row.get(0)).map_err(Trouble::from);
        highest.map_err(|e| self.trouble(e))
    }

    /// Calls `row` with every id and its JSON text, ids ascending.
    pub(crate) fn for_each(&self, row: &mut dyn FnMut(i64, &str) -> Result<()>) -> Result<()> {
        let Some(conn) = &self.conn else { return Ok(()) };
        let mut before = None;
        let mut read = || -> Outcome<()> {
            let mut statement = conn.prepare("SELECT id, data FROM metadata ORDER BY id")?;
            let mut rows = statement.query([])?;
            while let Some(found) = rows.next()? {
                let id: i64 = found.get(0)?;
                let text = found.get_ref(1)?.as_str().map_err(|e| Trouble::Damaged(format!("row {id}: {e}")))?;
                if before.replace(id).is_some_and(|before| before >= id) {
                    return Err(Trouble::Damaged(format!("row {id} is not in its place")));
                }
                row(id, text)?;
            }
            Ok(())
        };
        read().map_err(|e| self.trouble(e))
    }

    fn trouble(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Failed(e) => e,
            Trouble::Damaged(why) => {
                let message = format!(
                    "{} is damaged: {why}. Nothing was imported and nothing was changed; restore the file from a backup",
                    self.path.display()
                );
                Error::new(ErrorKind::Corruption, message)
            }
        }
    }
}

fn file_len(vfs: &dyn Vfs, path: &Path) -> Result<u64> {
    match vfs.kind(path).context("look at", path)? {
        Some(EntryKind::File) => {}
        _ => return Ok(0),
    }
    let file = vfs.open(path, crate::io::vfs::OpenMode::Read).context("open", path)?;
    file.len().context("look at", path)
}

fn in_memory(bytes: &[u8]) -> Outcome<Connection> {
    assert_version();
    let mut conn = Connection::open_in_memory()?;
    harden(&conn)?;
    conn.deserialize_read_exact("main", bytes, bytes.len(), true)?;
    Ok(conn)
}
