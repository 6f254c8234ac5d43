//! Reading the cache: whole transactions, and nothing whose hash does not match.
//!
//! Threading: any thread. A reader has a connection to itself while it reads; a few idle ones are kept.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(test)]
use rusqlite::ToSql;
#[cfg(test)]
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row};

use super::connection::{Outcome, Place, Trouble};
use super::open::{State, quick_check};
use super::records::{count, count_hash, row_hash, signed};
use super::{MetaRow, RowKind};
use crate::types::{CollectionId, Lsn, RecordId};

/// Idle connections kept: more readers at once than this open their own and close it.
const IDLE: usize = 4;

/// A record as the cache has it.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetaRecord {
    pub(crate) lsn: Lsn,
    pub(crate) key: Option<String>,
    pub(crate) metadata: Option<String>,
    pub(crate) document: Option<String>,
    pub(crate) expires_ms: i64,
}

/// A value for a `?` of a statement.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bound {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

#[cfg(test)]
impl ToSql for Bound {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Bound::Null => ValueRef::Null,
            Bound::Integer(i) => ValueRef::Integer(*i),
            Bound::Real(r) => ValueRef::Real(*r),
            Bound::Text(t) => ValueRef::Text(t.as_bytes()),
        }))
    }
}

/// A value of a result row.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
}

/// Read-only connections to one place.
#[derive(Debug)]
pub(super) struct Readers {
    pool: Mutex<Pool>,
}

#[derive(Debug)]
struct Pool {
    place: Place,
    /// Counts the files that have been at `place`: a connection to an earlier one is not taken back.
    generation: u64,
    idle: Vec<Connection>,
}

impl Readers {
    pub(super) fn new(place: Place) -> Self {
        Readers { pool: Mutex::new(Pool { place, generation: 0, idle: Vec::new() }) }
    }

    /// Runs `f` on one consistent state of the cache.
    pub(super) fn with<T>(&self, f: impl FnOnce(&Reader<'_>) -> Outcome<T>) -> Outcome<T> {
        let (generation, idle, place) = {
            let mut pool = self.lock();
            (pool.generation, pool.idle.pop(), pool.place.clone())
        };
        let conn = idle.map_or_else(|| place.open_reader(), Ok)?;
        let result = {
            let tx = conn.unchecked_transaction()?;
            f(&Reader { conn: &tx })
        };
        let mut pool = self.lock();
        if result.is_ok() && pool.generation == generation && pool.idle.len() < IDLE {
            pool.idle.push(conn);
        }
        result
    }

    /// Where they read.
    pub(super) fn place(&self) -> Place {
        self.lock().place.clone()
    }

    /// There is another file now, or none: closes what is idle.
    pub(super) fn move_to(&self, place: Place) {
        let mut pool = self.lock();
        pool.generation += 1;
        pool.idle.clear();
        pool.place = place;
    }

    /// Counts the files that were read from.
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One consistent state of the cache.
#[derive(Debug)]
pub(crate) struct Reader<'c> {
    conn: &'c Connection,
}

const COLUMNS: &str = "lsn, collection, id, key, metadata, document, expires_ms, hash";

impl<'c> Reader<'c> {
    /// Reads through `conn`, which is in a transaction.
    pub(super) fn new(conn: &'c Connection) -> Self {
        Reader { conn }
    }
}

impl Reader<'_> {
    pub(super) fn conn(&self) -> &Connection {
        self.conn
    }

    /// The operations up to here are in this state.
    pub(crate) fn applied_lsn(&self) -> Outcome<Lsn> {
        Ok(State::read(self.conn)?.applied)
    }

    /// The record `id` of `collection`.
    #[cfg(test)]
    pub(crate) fn get(&self, collection: CollectionId, id: RecordId) -> Outcome<Option<MetaRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM records WHERE collection = ?1 AND id = ?2");
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = statement.query((collection.0, signed(id.0)))?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let row = checked(row)?;
        Ok(Some(MetaRecord {
            lsn: row.lsn,
            key: row.key.map(Into::into),
            metadata: row.metadata.map(Into::into),
            document: row.document.map(Into::into),
            expires_ms: row.expires_ms,
        }))
    }

    /// How many records `collection` has.
    pub(crate) fn count(&self, collection: CollectionId) -> Outcome<u64> {
        Ok(u64::try_from(count(self.conn, collection.0)?).unwrap_or(0))
    }

    /// Shows every record of `collection` to `each`, in no particular order. Fails, perhaps after having shown some, if a
    /// row does not match its hash or there are more or fewer than there should be.
    pub(crate) fn scan(&self, collection: CollectionId, each: &mut dyn FnMut(&MetaRow<'_>)) -> Outcome<()> {
        let expected = self.count(collection)?;
        let all: i64 = self.conn.query_row("SELECT ifnull(sum(rows), 0) FROM collections", [], |row| row.get(0))?;
        // The "+" keeps SQLite from the index: walking the table is better when most of its rows are wanted.
        let most = signed(expected).saturating_mul(2) >= all;
        let sql = format!("SELECT {COLUMNS} FROM records WHERE {}collection = ?1", if most { "+" } else { "" });
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = statement.query([collection.0])?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            each(&checked(row)?);
            found += 1;
        }
        if found == expected {
            return Ok(());
        }
        Err(Trouble::Damaged(format!("collection {} has {found} of its {expected} rows", collection.0)))
    }

    /// Checks everything there is to check.
    pub(crate) fn verify(&self) -> Outcome<()> {
        quick_check(self.conn)?;
        let mut statement = self.conn.prepare("SELECT collection, rows, hash FROM collections")?;
        let mut rows = statement.query([])?;
        let mut total = 0;
        while let Some(row) = rows.next()? {
            let (collection, rows): (u32, i64) = (row.get(0)?, row.get(1)?);
            if row.get::<_, i64>(2)? != count_hash(collection, rows) {
                return Err(Trouble::Damaged(format!("the row count of collection {collection}")));
            }
            self.scan(CollectionId(collection), &mut |_| {})?;
            self.verify_text(CollectionId(collection))?;
            total += rows;
        }
        let all: i64 = self.conn.query_row("SELECT count(*) FROM records", [], |row| row.get(0))?;
        if all == total {
            return Ok(());
        }
        Err(Trouble::Damaged(format!("{all} rows where the collections have {total}")))
    }

    /// Runs a query whose text is ours: values come in through `bounds` only.
    #[cfg(test)]
    pub(crate) fn select(&self, sql: &str, bounds: &[Bound], each: &mut dyn FnMut(&[Cell<'_>])) -> Outcome<()> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query(rusqlite::params_from_iter(bounds))?;
        while let Some(row) = rows.next()? {
            let mut cells = Vec::with_capacity(columns);
            for i in 0..columns {
                cells.push(match row.get_ref(i)? {
                    ValueRef::Integer(n) => Cell::Integer(n),
                    ValueRef::Real(r) => Cell::Real(r),
                    ValueRef::Text(_) => Cell::Text(row.get_ref(i)?.as_str().map_err(rusqlite::Error::from)?),
                    ValueRef::Null | ValueRef::Blob(_) => Cell::Null,
                });
            }
            each(&cells);
        }
        Ok(())
    }
}

/// The row, if it matches its hash.
fn checked<'a>(row: &'a Row<'_>) -> Outcome<MetaRow<'a>> {
    let text =
        |i: usize| -> Outcome<Option<&'a str>> { Ok(row.get_ref(i)?.as_str_or_null().map_err(rusqlite::Error::from)?) };
    let number = |i: usize| -> Outcome<u64> { Ok(u64::from_ne_bytes(row.get::<_, i64>(i)?.to_ne_bytes())) };
    let found = MetaRow {
        lsn: Lsn(number(0)?),
        collection: CollectionId(row.get(1)?),
        id: RecordId(number(2)?),
        kind: RowKind::Put,
        key: text(3)?,
        metadata: text(4)?,
        document: text(5)?,
        expires_ms: row.get::<_, Option<i64>>(6)?.unwrap_or(0),
    };
    if row_hash(&found) == row.get::<_, i64>(7)? {
        return Ok(found);
    }
    Err(Trouble::Damaged(format!("the row of operation {} does not match its hash", found.lsn)))
}
