//! SQLite connections with every safety setting on, and what SQLite's errors mean to us.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::MetaLocation;
use crate::error::Error;

/// SQLite before 3.51.3 has a bug that corrupts a database when its write-ahead log is reset at the wrong moment.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Pages are large: rows arrive in order, and fewer, larger pages are split less.
const PAGE_BYTES: u32 = 8_192;
/// Page cache of the writer and of each reader, in KiB.
const WRITER_CACHE_KIB: i64 = 16 << 10;
const READER_CACHE_KIB: i64 = 4 << 10;
/// The write-ahead log is copied into the database every so many pages (16 MiB), and cut to that size.
const CHECKPOINT_PAGES: i64 = 2_048;
const WAL_BYTES: i64 = CHECKPOINT_PAGES * PAGE_BYTES as i64;
/// How long to wait for a person's `sqlite3` to let go.
const BUSY_MS: u64 = 1_000;

/// Why an operation on the cache did not work, as far as it decides what to do next.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The file is not what we wrote: set it aside and rebuild.
    Damaged(String),
    /// It may work later (disk full, locked by a person, I/O error), or the log itself could not be read.
    Failed(Error),
}

pub(crate) type Outcome<T> = std::result::Result<T, Trouble>;

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Trouble::Failed(e)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(e: rusqlite::Error) -> Self {
        let Some(code) = e.sqlite_error_code() else {
            // A value of the wrong type or encoding: we never store one.
            return Trouble::Damaged(e.to_string());
        };
        match code {
            ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch
            | ErrorCode::SchemaChanged
            // "no such table": our statements are constant, so the schema is not ours any more.
            | ErrorCode::Unknown => Trouble::Damaged(e.to_string()),
            ErrorCode::SystemIoFailure if is_short_read(&e) => Trouble::Damaged(e.to_string()),
            ErrorCode::DiskFull => Trouble::Failed(Error::io(ACTION, NAME.as_ref(), io::ErrorKind::StorageFull.into())),
            _ => Trouble::Failed(Error::io(ACTION, NAME.as_ref(), io::Error::other(e))),
        }
    }
}

impl From<Trouble> for Error {
    fn from(t: Trouble) -> Self {
        match t {
            Trouble::Failed(e) => e,
            Trouble::Damaged(why) => {
                let why = format!("{why}; it is a cache and is being rebuilt from the log, try again");
                Error::io("use", NAME.as_ref(), io::Error::other(why))
            }
        }
    }
}

const ACTION: &str = "use the metadata cache";
const NAME: &str = "meta.sqlite";

fn is_short_read(e: &rusqlite::Error) -> bool {
    e.sqlite_error().is_some_and(|e| {
        matches!(e.extended_code, rusqlite::ffi::SQLITE_IOERR_SHORT_READ | rusqlite::ffi::SQLITE_IOERR_CORRUPTFS)
    })
}

/// A location that connections can be opened at: each in-memory one has its own name.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(PathBuf),
    Memory(String),
}

impl Place {
    pub(super) fn of(location: MetaLocation) -> Place {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        match location {
            // A name that begins with "file:" would be a URI to SQLite.
            MetaLocation::File(path) if path.is_relative() => Place::File(Path::new(".").join(path)),
            MetaLocation::File(path) => Place::File(path),
            MetaLocation::Memory => {
                Place::Memory(format!("file:/nopokedb-{}?vfs=memdb", NEXT.fetch_add(1, Ordering::Relaxed)))
            }
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Place::File(path) => Some(path),
            Place::Memory(_) => None,
        }
    }

    fn open(&self, flags: OpenFlags) -> Outcome<Connection> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let opened = match self {
            Place::File(path) => Connection::open_with_flags(path, flags),
            Place::Memory(uri) => Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI),
        };
        let conn = opened.map_err(|e| match self.path() {
            Some(path) => {
                let e = format!("{e} (it is a cache of the log; it may be moved away)");
                Trouble::Failed(Error::io("open", path, io::Error::other(e)))
            }
            None => Trouble::from(e),
        })?;
        harden(&conn)?;
        Ok(conn)
    }

    /// The writing connection. Leaves the file as it is; [`begin_writing`] makes it ready.
    pub(super) fn open_writer(&self) -> Outcome<Connection> {
        assert_version();
        let conn = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        // Closing must not write: a database that turns out to be ahead of its log is evidence.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        Ok(conn)
    }

    /// A connection to a file that nobody changes: it locks nothing, and makes no file of its own.
    pub(super) fn open_immutable(&self) -> Outcome<Connection> {
        let Place::File(path) = self else { return self.open_reader() };
        let uri = Place::Memory(format!("{}?immutable=1", as_uri(path)));
        let conn = uri.open(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.pragma_update(None, "query_only", true)?;
        conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        Ok(conn)
    }

    /// A connection that cannot write.
    pub(super) fn open_reader(&self) -> Outcome<Connection> {
        // In memory, read-only connections would each have a database of their own.
        let flags = match self {
            Place::File(_) => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Place::Memory(_) => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        let conn = self.open(flags)?;
        conn.pragma_update(None, "query_only", true)?;
        conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        Ok(conn)
    }
}

/// A path as SQLite's URIs have it.
fn as_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// The bundled library is what is linked, so this cannot fail unless the build is changed.
pub(super) fn assert_version() {
    let version = rusqlite::version_number();
    assert!(version >= OLDEST_SQLITE, "SQLite {} can corrupt its files; 3.51.3 is needed", rusqlite::version());
}

/// A directory from a stranger is safe to open: no code from the schema runs, and sizes are bounded.
pub(super) fn harden(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::from_millis(BUSY_MS))?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, 256 << 20),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 1 << 20),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        conn.set_limit(limit, value)?;
    }
    conn.execute_batch("PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;")
}

/// Makes a writing connection ready. Only now may the file change.
pub(super) fn begin_writing(conn: &Connection, place: &Place) -> Outcome<()> {
    if let Place::Memory(_) = place {
        conn.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")?;
        return Ok(());
    }
    conn.pragma_update(None, "page_size", PAGE_BYTES)?;
    // Of effect on a file without tables: its free pages can be given back later. See `MetaStore::shrink`.
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Trouble::Failed(Error::io(ACTION, NAME.as_ref(), io::Error::other("no write-ahead log here"))));
    }
    conn.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;")?;
    conn.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
    conn.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES, |_| Ok(()))?;
    Ok(())
}
