//! Rows of the log into rows of SQLite: one statement for many new rows, single steps for the rest.
//!
//! Invariants:
//! 1. Rows are written in the order they come, which is LSN order.
//! 2. A run of puts goes in as one plain INSERT of [`CHUNK`] rows. If any of their ids exists, SQLite undoes that one
//!    statement and the run is written row by row, replacing.
//! 3. A row's document goes into its collection's text index in the same transaction (`text.rs`).
//! 4. The counts in `collections` follow every insert and delete, from the number of rows SQLite says it changed.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::connection::Outcome;
use super::text::{TextWriter, Tokenizers};
use super::{MetaRow, RowKind};

/// Rows in one INSERT: most of the gain of many rows per statement, at 512 parameters.
const CHUNK: usize = 64;
const COLUMNS: usize = 8;

const INSERT_ONE: &str = "INSERT INTO records VALUES (?,?,?,?,?,?,?,?)";
const DELETE: &str = "DELETE FROM records WHERE collection = ?1 AND id = ?2 RETURNING lsn, document IS NOT NULL";
const COUNT: &str = "INSERT INTO collections VALUES (?1, ?2, ?3) \
                     ON CONFLICT (collection) DO UPDATE SET rows = excluded.rows, hash = excluded.hash";

/// A 64-bit number as SQLite's signed integer, bit for bit.
pub(super) fn signed(n: u64) -> i64 {
    i64::from_ne_bytes(n.to_ne_bytes())
}

/// The hash in a row of `records`.
pub(super) fn row_hash(row: &MetaRow<'_>) -> i64 {
    let texts = [row.key, row.metadata, row.document];
    let mut head = [0; 32];
    head[..8].copy_from_slice(&row.lsn.0.to_le_bytes());
    head[8..16].copy_from_slice(&row.id.0.to_le_bytes());
    head[16..24].copy_from_slice(&row.expires_ms.to_le_bytes());
    head[24..28].copy_from_slice(&row.collection.0.to_le_bytes());
    for (flag, text) in head[28..].iter_mut().zip(texts) {
        *flag = u8::from(text.is_some());
    }
    let seed = xxh3_64_with_seed(&head, 0);
    signed(texts.iter().flatten().fold(seed, |hash, text| xxh3_64_with_seed(text.as_bytes(), hash)))
}

/// The hash in a row of `collections`.
pub(super) fn count_hash(collection: u32, rows: i64) -> i64 {
    signed(xxh3_64_with_seed(&rows.to_le_bytes(), u64::from(collection)))
}

/// Writes rows inside one transaction.
pub(super) struct Writer<'c, 'r> {
    conn: &'c Connection,
    /// Puts that wait for their chunk to fill.
    pending: Vec<MetaRow<'r>>,
    many: Option<CachedStatement<'c>>,
    /// How many rows each collection has gained.
    gained: BTreeMap<u32, i64>,
    texts: TextWriter<'c>,
}

impl<'c, 'r> Writer<'c, 'r> {
    pub(super) fn new(conn: &'c Connection, tokenizers: &Tokenizers) -> Self {
        let texts = TextWriter::new(conn, tokenizers);
        Writer { conn, pending: Vec::with_capacity(CHUNK), many: None, gained: BTreeMap::new(), texts }
    }

    /// Takes the next operation.
    pub(super) fn push(&mut self, row: MetaRow<'r>) -> Outcome<()> {
        if row.kind == RowKind::Delete {
            self.flush()?;
            return self.delete(&row);
        }
        self.pending.push(row);
        if self.pending.len() == CHUNK { self.flush() } else { Ok(()) }
    }

    /// Writes what waits, and the counts.
    pub(super) fn finish(mut self) -> Outcome<()> {
        self.flush()?;
        for (&collection, &gained) in &self.gained {
            if gained == 0 {
                continue;
            }
            let rows = count(self.conn, collection)? + gained;
            let values = (collection, rows, count_hash(collection, rows));
            self.conn.prepare_cached(COUNT)?.execute(values)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.len() < CHUNK || !self.insert_chunk(&pending)? {
            for row in &pending {
                self.put(row)?;
            }
        }
        self.pending = pending;
        self.pending.clear();
        Ok(())
    }

    /// Inserts a full chunk, unless one of its ids is there already.
    fn insert_chunk(&mut self, rows: &[MetaRow<'_>]) -> Outcome<bool> {
        if self.many.is_none() {
            let sql = format!("INSERT INTO records VALUES {}", ["(?,?,?,?,?,?,?,?)"; CHUNK].join(","));
            self.many = Some(self.conn.prepare_cached(&sql)?);
        }
        let Some(statement) = &mut self.many else { return Ok(false) };
        for (i, row) in rows.iter().enumerate() {
            bind(statement, i * COLUMNS, row)?;
        }
        if !unless_exists(statement.raw_execute())? {
            return Ok(false);
        }
        for row in rows {
            *self.gained.entry(row.collection.0).or_default() += 1;
            self.texts.insert(row)?;
        }
        Ok(true)
    }

    fn put(&mut self, row: &MetaRow<'_>) -> Outcome<()> {
        let mut insert = self.conn.prepare_cached(INSERT_ONE)?;
        bind(&mut insert, 0, row)?;
        if !unless_exists(insert.raw_execute())? {
            self.delete(row)?;
            insert.raw_execute()?;
        }
        *self.gained.entry(row.collection.0).or_default() += 1;
        self.texts.insert(row)
    }

    fn delete(&mut self, row: &MetaRow<'_>) -> Outcome<()> {
        let mut delete = self.conn.prepare_cached(DELETE)?;
        let gone = delete.query_row((row.collection.0, signed(row.id.0)), |row| Ok((row.get(0)?, row.get(1)?)));
        let Some((lsn, has_document)) = gone.optional()? else { return Ok(()) };
        *self.gained.entry(row.collection.0).or_default() -= 1;
        if has_document { self.texts.delete(row.collection.0, lsn) } else { Ok(()) }
    }
}

/// False if the row exists.
fn unless_exists(executed: rusqlite::Result<usize>) -> rusqlite::Result<bool> {
    match executed {
        Ok(_) => Ok(true),
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Ok(false),
        Err(e) => Err(e),
    }
}

fn bind(statement: &mut CachedStatement<'_>, base: usize, row: &MetaRow<'_>) -> rusqlite::Result<()> {
    statement.raw_bind_parameter(base + 1, signed(row.lsn.0))?;
    statement.raw_bind_parameter(base + 2, row.collection.0)?;
    statement.raw_bind_parameter(base + 3, signed(row.id.0))?;
    statement.raw_bind_parameter(base + 4, row.key)?;
    statement.raw_bind_parameter(base + 5, row.metadata)?;
    statement.raw_bind_parameter(base + 6, row.document)?;
    statement.raw_bind_parameter(base + 7, (row.expires_ms != 0).then_some(row.expires_ms))?;
    statement.raw_bind_parameter(base + 8, row_hash(row))
}

/// How many rows `collection` has.
pub(super) fn count(conn: &Connection, collection: u32) -> Outcome<i64> {
    let mut statement = conn.prepare_cached("SELECT rows, hash FROM collections WHERE collection = ?1")?;
    let mut rows = statement.query([collection])?;
    let Some(row) = rows.next()? else { return Ok(0) };
    let (count, hash) = (row.get(0)?, row.get::<_, i64>(1)?);
    if hash != count_hash(collection, count) {
        return Err(super::connection::Trouble::Damaged(format!("the row count of collection {collection}")));
    }
    Ok(count)
}
