//! The cache as a process sees it that only reads: another one writes it, or nobody does.
//!
//! Invariants:
//! 1. Nothing of it is changed but SQLite's own `-shm`. While no writer has it open, which shows in that there is no `-wal`, it is
//!    opened as immutable: nothing is made then, not even a lock.
//! 2. What was read of an immutable file counts only if the file was the same before and after, and was not written just before
//!    it was looked at: a writer that came meanwhile shows.
//! 3. No connection outlives a read: it would keep the writer from closing its file cleanly.
//!
//! Threading: any thread; reads share nothing.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::connection::{Outcome, Place, Trouble};
use super::files::{self, FileId, Seen};
use super::open::{SCHEMA, State, schema_of};
use super::readers::Reader;
use super::{MetaLocation, text};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::types::Lsn;

/// How long a read waits for what is acknowledged already and on its way into the file.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_millis(2);
/// Files carry the time of their last change in steps of some milliseconds: one changed within this may change unseen.
const STEP: Duration = Duration::from_millis(50);
/// How often a read is tried on a file that seems damaged: it may just be replaced.
const ATTEMPTS: u32 = 3;

/// Somebody else's cache.
#[derive(Debug)]
pub(super) struct Elsewhere {
    place: Place,
    path: PathBuf,
    uuid: [u8; 16],
    /// The file whose tables were last found to be ours.
    known: Mutex<Option<FileId>>,
}

impl Elsewhere {
    /// The cache in the file `path` of the database `uuid`.
    pub(super) fn new(path: &Path, uuid: [u8; 16]) -> Elsewhere {
        let path = path.to_owned();
        Elsewhere { place: Place::of(MetaLocation::File(path.clone())), path, uuid, known: Mutex::new(None) }
    }

    /// Reads a state that has everything up to `lsn`.
    pub(super) fn read<T>(&self, lsn: Lsn, mut f: impl FnMut(&Reader<'_>) -> Outcome<T>) -> Result<T> {
        let (began, mut damaged) = (Instant::now(), 0);
        loop {
            match self.attempt(lsn, &mut f) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) if began.elapsed() < PATIENCE => {}
                Ok(None) => return Err(self.behind(lsn)),
                Err(Trouble::Failed(e)) => return Err(e),
                Err(Trouble::Damaged(why)) => {
                    damaged += 1;
                    if damaged == ATTEMPTS {
                        let why = format!(
                            "{} cannot be read here: {why}. It is a cache, which the process that writes builds again when it \
                             meets this; ask there, or open the database once without read_only",
                            self.path.display()
                        );
                        return Err(Error::io("use", &self.path, std::io::Error::other(why)));
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// One try; `None` if there is not yet what is wanted.
    fn attempt<T>(&self, lsn: Lsn, f: &mut impl FnMut(&Reader<'_>) -> Outcome<T>) -> Outcome<Option<T>> {
        let Some(before) = files::look(&self.path)? else { return Err(self.missing().into()) };
        let age = SystemTime::now().duration_since(before.modified).unwrap_or_default();
        if !before.has_wal && age < STEP {
            return Ok(None);
        }
        let conn = if before.has_wal { self.place.open_reader()? } else { self.place.open_immutable()? };
        let tx = conn.unchecked_transaction()?;
        self.check_tables(&before, &tx)?;
        let state = State::read(&tx)?;
        if state.uuid != self.uuid {
            return Err(Trouble::Damaged("it belongs to another database".into()));
        }
        if state.applied < lsn {
            return if before.has_wal { Ok(None) } else { Err(self.behind(lsn).into()) };
        }
        let value = f(&Reader::new(&tx))?;
        let same = before.has_wal || files::look(&self.path)? == Some(before);
        Ok(Some(value).filter(|_| same))
    }

    /// Refuses a file whose tables are not ours: what they are called is part of our statements.
    fn check_tables(&self, seen: &Seen, conn: &rusqlite::Connection) -> Outcome<()> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.file.is_some() && *known() == seen.file {
            return Ok(());
        }
        if schema_of(conn)? != text::expected_schema(conn, SCHEMA)? {
            return Err(Trouble::Damaged("its tables are not the ones this version makes".into()));
        }
        *known() = seen.file;
        Ok(())
    }

    fn missing(&self) -> Error {
        self.unusable("is not there")
    }

    fn behind(&self, lsn: Lsn) -> Error {
        self.unusable(&format!("does not have what was written up to operation {lsn}"))
    }

    fn unusable(&self, why: &str) -> Error {
        let message = format!(
            "words are searched for in {}, which {why}: it is a cache that only the process that writes keeps up to date. \
             Open the database once without read_only, which builds it from the log",
            self.path.display()
        );
        Error::new(ErrorKind::Invalid(Subject::ReadOnly), message)
    }
}
