//! Opening the cache: is this file ours, whole, and no further than the log?

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::connection::{Outcome, Place, Trouble, begin_writing};
use super::files;
use super::records::signed;
use super::store::MetaStore;
use super::text::{self, Tokenizers};
use super::{Found, MetaLocation, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::types::Lsn;

pub(super) const SCHEMA: &str = include_str!("schema.sql");
/// What it means that the file is ahead of the log, in words that a repair knows again.
pub(crate) const AHEAD: &str = "the device lost acknowledged writes";
const SCHEMA_VERSION: i64 = 2;

/// The one row of the table `state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) uuid: [u8; 16],
    pub(super) applied: Lsn,
    pub(super) chain: [u8; 16],
    /// Nothing was written since the last whole checkpoint.
    pub(super) clean: bool,
}

impl State {
    pub(super) fn fresh(uuid: [u8; 16]) -> State {
        State { uuid, applied: Lsn(0), chain: [0; 16], clean: false }
    }

    fn hash(&self) -> i64 {
        let head = [self.uuid, self.chain].concat();
        let seed = self.applied.0 ^ (u64::from(self.clean) << 63);
        signed(xxh3_64_with_seed(&head, seed))
    }

    /// Writes the row; part of every transaction.
    pub(super) fn write(&self, conn: &Connection) -> Outcome<()> {
        let mut statement = conn.prepare_cached("REPLACE INTO state VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)")?;
        let (uuid, chain) = (hex(self.uuid), hex(self.chain));
        statement.execute((SCHEMA_VERSION, uuid, signed(self.applied.0), chain, self.clean, self.hash()))?;
        Ok(())
    }

    /// Reads the row, and refuses it if a bit of it has changed.
    pub(super) fn read(conn: &Connection) -> Outcome<State> {
        let mut statement = conn.prepare_cached("SELECT * FROM state WHERE one = 1")?;
        let (state, version, hash) = statement.query_row([], |row| {
            let state = State {
                uuid: unhex(row.get_ref("db_uuid")?.as_str()?),
                applied: Lsn(u64::from_ne_bytes(row.get::<_, i64>("applied_lsn")?.to_ne_bytes())),
                chain: unhex(row.get_ref("chain")?.as_str()?),
                clean: row.get("clean")?,
            };
            Ok((state, row.get::<_, i64>("schema_version")?, row.get::<_, i64>("hash")?))
        })?;
        if hash != state.hash() {
            return Err(Trouble::Damaged("the row in state does not match its hash".into()));
        }
        if version != SCHEMA_VERSION {
            return Err(Trouble::Damaged(format!("its schema is version {version}, this build's is {SCHEMA_VERSION}")));
        }
        Ok(state)
    }
}

fn hex(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}

fn unhex(text: &str) -> [u8; 16] {
    u128::from_str_radix(text, 16).unwrap_or(0).to_be_bytes()
}

impl MetaStore {
    /// Opens the cache of the database `uuid`, whose log ends at `log_last`. A file that is damaged, another database's or
    /// of another version is renamed aside and begun anew. If SQLite cannot work at the moment (a full disk, say), the
    /// cache is opened later, by whoever writes to it: nobody's database fails to open for the sake of a cache.
    ///
    /// # Errors
    /// [`ErrorKind::Corruption`] if the file is ahead of the log; then nothing was touched.
    pub(crate) fn open(
        location: MetaLocation,
        uuid: [u8; 16],
        log_last: Lsn,
        tokenizers: Tokenizers,
    ) -> Result<(MetaStore, Opened)> {
        let place = Place::of(location);
        match open_at(&place, uuid, log_last, &tokenizers) {
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Full) => {
                let found = Found::Unavailable { why: e.message().to_owned() };
                let state = State::fresh(uuid);
                let opened = Opened { applied_lsn: Lsn(0), chain: state.chain, found };
                Ok((MetaStore::new(None, place, state, log_last, tokenizers), opened))
            }
            opened => opened,
        }
    }
}

/// Opens the cache at `place`, now.
pub(super) fn open_at(
    place: &Place,
    uuid: [u8; 16],
    log_last: Lsn,
    tokenizers: &Tokenizers,
) -> Result<(MetaStore, Opened)> {
    let begin = |found: Found| {
        let (conn, state) = create(place, uuid)?;
        let opened = Opened { applied_lsn: Lsn(0), chain: state.chain, found };
        Ok((MetaStore::new(Some(conn), place.clone(), state, log_last, tokenizers.clone()), opened))
    };
    let Some(path) = place.path() else { return begin(Found::Fresh) };
    if !files::exists(path)? {
        files::remove_companions(path)?;
        return begin(Found::Fresh);
    }
    match existing(place, uuid, log_last) {
        // Its text is cut in another way than is wanted now: nothing of it is worth keeping beside the file that replaces it.
        Ok(Some((conn, _))) if !tokenizers.agree_with(&conn)? => {
            drop(conn);
            files::discard(path)?;
            begin(Found::Fresh)
        }
        Ok(Some((conn, state))) => {
            let opened = Opened { applied_lsn: state.applied, chain: state.chain, found: Found::Intact };
            Ok((MetaStore::new(Some(conn), place.clone(), state, log_last, tokenizers.clone()), opened))
        }
        Ok(None) => begin(Found::Fresh),
        Err(Trouble::Failed(e)) => Err(e),
        Err(Trouble::Damaged(why)) => begin(Found::Quarantined { to: files::quarantine(path)?, why }),
    }
}

/// An empty cache at `place`, where there is no file or an empty one.
pub(super) fn create(place: &Place, uuid: [u8; 16]) -> Outcome<(Connection, State)> {
    let conn = place.open_writer()?;
    begin_writing(&conn, place)?;
    let state = State::fresh(uuid);
    let tx = conn.unchecked_transaction()?;
    tx.execute_batch(SCHEMA)?;
    state.write(&tx)?;
    tx.commit()?;
    Ok((conn, state))
}

/// The existing file's connection and state if it is ours, whole, and not ahead of the log; `None` if it is empty, which
/// is what a kill before the first transaction leaves.
fn existing(place: &Place, uuid: [u8; 16], log_last: Lsn) -> Outcome<Option<(Connection, State)>> {
    let path = place.path().unwrap_or("".as_ref());
    let has_wal = files::has_wal(path);
    let conn = place.open_writer()?;
    let found = schema_of(&conn)?;
    if found.is_empty() {
        return Ok(None);
    }
    if found != text::expected_schema(&conn, SCHEMA)? {
        return Err(Trouble::Damaged("its tables are not the ones this version makes".into()));
    }
    let state = State::read(&conn)?;
    if state.uuid != uuid {
        return Err(Trouble::Damaged("it belongs to another database".into()));
    }
    if state.applied > log_last {
        return Err(Trouble::Failed(Error::new(
            ErrorKind::Corruption,
            format!(
                "{} has every operation up to {}, but the log ends at {log_last}: {AHEAD}, or an older log was put back. \
                 Nothing was changed. Restore the newer log; or, to go on without the lost writes, remove that file (it is a \
                 cache) and open again",
                path.display(),
                state.applied
            ),
        )));
    }
    if has_wal || !state.clean {
        quick_check(&conn)?;
    }
    begin_writing(&conn, place)?;
    Ok(Some((conn, state)))
}

/// SQLite's own check of its pages.
pub(super) fn quick_check(conn: &Connection) -> Outcome<()> {
    text::refresh(conn)?;
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(Trouble::Damaged(verdict)) }
}

/// Every object of the schema, as the SQL that made it.
pub(super) fn schema_of(conn: &Connection) -> Outcome<Vec<String>> {
    let mut statement = conn.prepare("SELECT type || ' ' || name || ': ' || ifnull(sql, '') FROM sqlite_schema")?;
    let mut objects = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    objects.sort();
    Ok(objects)
}
