//! The one writing connection: batches of the log go in, with the stamp, in one transaction each time.

use std::io;
use std::path::PathBuf;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::connection::{Outcome, Place, Trouble};
use super::files::{self, FileId};
use super::open::{State, create, open_at};
use super::records::Writer;
use super::text::{self, Tokenizers};
use super::{AppliedBatch, MetaRow};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{CollectionId, Lsn};

/// So many free pages (1 MiB) are worth giving back, so many in one transaction.
const SHRINK_PAGES: i64 = 128;
const SHRINK_STEP: i64 = 2_048;

/// The cache, opened for writing.
#[derive(Debug)]
pub(crate) struct MetaStore {
    /// `None` while there is no file that can be used: it could not be opened yet, or it is being begun anew.
    conn: Option<Connection>,
    place: Place,
    state: State,
    /// Where the log ended when the database was opened.
    log_last: Lsn,
    /// Power cannot take back what is stamped up to here: it was checkpointed and synced.
    durable: Lsn,
    /// Which file `conn` has open; another one under its name means that ours was removed.
    file: Option<FileId>,
    /// How documents are cut into words.
    tokenizers: Tokenizers,
    /// What the file must reflect to be of use; see [`MetaStore::require`].
    floor: Lsn,
}

impl MetaStore {
    pub(super) fn new(
        conn: Option<Connection>,
        place: Place,
        state: State,
        log_last: Lsn,
        tokenizers: Tokenizers,
    ) -> MetaStore {
        let file = place.path().filter(|_| conn.is_some()).and_then(files::identity);
        MetaStore { conn, place, state, log_last, durable: Lsn(0), file, tokenizers, floor: Lsn(0) }
    }

    /// Opens the file if that was not possible before.
    pub(super) fn ensure_open(&mut self) -> Result<()> {
        if self.conn.is_none() {
            let floor = self.floor;
            (*self, _) = open_at(&self.place, self.state.uuid, self.log_last, &self.tokenizers)?;
            self.require(floor)?;
        }
        Ok(())
    }

    /// Operations up to here are in.
    pub(crate) fn applied_lsn(&self) -> Lsn {
        self.state.applied
    }

    /// Operations up to here are in and stay in, whatever happens to the power. A cache in memory always starts empty, so
    /// there is nothing that it could come back without.
    pub(super) fn durable_lsn(&self) -> Lsn {
        match self.place {
            Place::File(_) => self.durable,
            Place::Memory(_) => Lsn(u64::MAX),
        }
    }

    pub(super) fn tokenizers(&self) -> &Tokenizers {
        &self.tokenizers
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Applies `rows`, ascending by LSN, and stamps the cache with `upto`, in one transaction. Rows that are in already are
    /// skipped.
    pub(crate) fn apply<'r>(&mut self, rows: impl Iterator<Item = MetaRow<'r>>, upto: Lsn) -> Result<()> {
        let chain = self.state.chain;
        Ok(self.transact(rows.map(Ok), upto, chain)?)
    }

    /// Applies whole batches in one transaction.
    pub(super) fn apply_batches(&mut self, batches: &[Box<dyn AppliedBatch>]) -> Outcome<()> {
        let Some(last) = batches.last() else { return Ok(()) };
        let applied = self.state.applied;
        let rows = batches.iter().filter(|b| b.last_lsn() > applied).flat_map(|b| b.rows());
        let (upto, chain) = (last.last_lsn(), last.chain());
        self.transact(rows, upto, chain)
    }

    fn transact<'r>(
        &mut self,
        rows: impl Iterator<Item = Result<MetaRow<'r>>>,
        upto: Lsn,
        chain: [u8; 16],
    ) -> Outcome<()> {
        let mut last = self.state.applied;
        if upto <= last {
            return Ok(());
        }
        let state = State { applied: upto, chain, clean: false, ..self.state.clone() };
        let tx = Transaction::new_unchecked(self.conn()?, TransactionBehavior::Immediate)?;
        let mut writer = Writer::new(&tx, &self.tokenizers);
        for row in rows {
            let row = row?;
            if row.lsn <= self.state.applied {
                continue;
            }
            if row.lsn <= last || row.lsn > upto {
                return Err(out_of_order(row.lsn, last, upto).into());
            }
            last = row.lsn;
            writer.push(row)?;
        }
        writer.finish()?;
        state.write(&tx)?;
        tx.commit()?;
        self.state = state;
        Ok(())
    }

    /// Removes what is left of `dropped` collections. A replay of a log that still has their rows brings them back, until the next
    /// time.
    pub(super) fn forget(&mut self, dropped: &[CollectionId]) -> Outcome<()> {
        let conn = self.conn()?;
        let ids = |sql: &str| -> Outcome<Vec<u32>> {
            let mut statement = conn.prepare_cached(sql)?;
            let ids = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<u32>>>()?;
            Ok(ids.into_iter().filter(|&id| dropped.contains(&CollectionId(id))).collect())
        };
        let (rows, texts) = (ids("SELECT collection FROM collections")?, ids("SELECT collection FROM texts")?);
        if rows.is_empty() && texts.is_empty() {
            return Ok(());
        }
        let state = State { clean: false, ..self.state.clone() };
        let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        for collection in rows {
            tx.execute("DELETE FROM records WHERE collection = ?1", [collection])?;
            tx.execute("DELETE FROM collections WHERE collection = ?1", [collection])?;
        }
        for collection in texts {
            text::remove(&tx, collection)?;
        }
        state.write(&tx)?;
        tx.commit()?;
        self.state = state;
        Ok(())
    }

    /// Gives free pages back to the file system where they are a quarter of the file and worth the copying. Files that builds
    /// before this one made keep theirs. What a crash leaves is the file before or after, or some pages in between: each
    /// step is a transaction.
    fn shrink(&self) -> Outcome<()> {
        let conn = self.conn()?;
        let number = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i64>(0));
        let is_worth = |free: i64, pages: i64| free >= SHRINK_PAGES && free * 4 >= pages;
        if number("PRAGMA auto_vacuum")? != 2
            || !is_worth(number("PRAGMA freelist_count")?, number("PRAGMA page_count")?)
        {
            return Ok(());
        }
        loop {
            let before = number("PRAGMA freelist_count")?;
            // One page is freed for each row that is asked for.
            let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({SHRINK_STEP})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            drop(rows);
            let after = number("PRAGMA freelist_count")?;
            if after == 0 || after >= before {
                return Ok(());
            }
        }
    }

    /// Copies the write-ahead log into the database and cuts it to nothing, so that the next open is fast.
    pub(super) fn checkpoint(&mut self) -> Outcome<()> {
        self.shrink()?;
        let conn = self.conn()?;
        if !self.state.clean {
            let state = State { clean: true, ..self.state.clone() };
            state.write(conn)?;
            self.state = state;
        }
        let busy: i64 = self.conn()?.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            let e = io::Error::other("another program is reading it; close that and try again");
            return Err(Trouble::Failed(Error::io("checkpoint", &self.name(), e)));
        }
        self.durable = self.state.applied;
        Ok(())
    }

    /// Lets go of the file without touching any by its path, as an ordinary close does with the write-ahead log: another
    /// database's may be there.
    pub(super) fn abandon(&mut self) {
        // A connection is told to leave the log alone when it closes, until `close` says otherwise.
        drop(self.conn.take());
    }

    /// Checkpoints and closes. What fails here is done at the next open.
    pub(super) fn close(&mut self) -> Result<()> {
        let checkpointed = self.checkpoint();
        let conn = self.conn.take();
        if let (Ok(()), Some(conn)) = (&checkpointed, &conn) {
            // The write-ahead log is empty: closing may remove it.
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(Trouble::from)?;
        }
        Ok(checkpointed?)
    }

    /// Begins anew if the cache does not reflect everything up to `floor`, up to where the log was compacted: rows and DELETEs
    /// that have nothing left to kill are gone from there. Compaction waits until the file durably reflects them, so this is
    /// an older file that was put back, or one of a device that forgets what it synced; by replaying what comes after its
    /// stamp it would keep deleted rows for ever. It is removed, for they may be in it. True if it was begun anew.
    pub(crate) fn require(&mut self, floor: Lsn) -> Result<bool> {
        self.floor = floor;
        if self.state.applied >= floor || self.state.applied == Lsn(0) {
            return Ok(false);
        }
        drop(self.conn.take());
        // Should one of these steps fail, whoever writes next opens what is there, and comes by here again.
        self.state = State::fresh(self.state.uuid);
        if let Some(path) = self.place.path() {
            files::discard(path)?;
        }
        self.begin_anew()?;
        Ok(true)
    }

    /// Sets the file aside and begins an empty one.
    pub(super) fn begin_anew(&mut self) -> Outcome<()> {
        let unwanted = self.conn.take().is_some_and(|conn| matches!(self.tokenizers.agree_with(&conn), Ok(false)));
        match &mut self.place {
            // Nothing is wrong with it; it is only cut into other words than are wanted now.
            Place::File(path) if unwanted => files::discard(path)?,
            Place::File(path) => drop(files::quarantine(path)?),
            memory @ Place::Memory(_) => *memory = Place::of(super::MetaLocation::Memory),
        }
        let (conn, state) = create(&self.place, self.state.uuid)?;
        let anew = MetaStore::new(Some(conn), self.place.clone(), state, self.log_last, self.tokenizers.clone());
        *self = MetaStore { floor: self.floor, ..anew };
        Ok(())
    }

    /// The connection, if its file is still the one under its name.
    fn conn(&self) -> Outcome<&Connection> {
        if self.file.is_some() && self.place.path().and_then(files::identity) != self.file {
            return Err(Trouble::Damaged("its file was removed or replaced while it was open".into()));
        }
        let gone = || Trouble::Failed(Error::io("open", &self.name(), io::Error::other("not tried again yet")));
        self.conn.as_ref().ok_or_else(gone)
    }

    fn name(&self) -> PathBuf {
        self.place.path().map_or_else(|| "the metadata in memory".into(), ToOwned::to_owned)
    }

    #[cfg(test)]
    pub(super) fn raw(&self) -> &Connection {
        self.conn.as_ref().unwrap()
    }
}

/// The log's checksums are right and its numbers are not: no version of ours wrote that.
fn out_of_order(row: Lsn, last: Lsn, upto: Lsn) -> Error {
    let message = format!(
        "the log has row {row} after row {last}, among those up to {upto}: its segments were not written by this program. Nothing was \
         changed; restore the directory from a backup"
    );
    Error::new(ErrorKind::Corruption, message)
}
