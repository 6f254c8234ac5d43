//! The text index of each collection: an FTS5 table of its documents' words, written with the records.
//!
//! Invariants:
//! 1. `text_<collection>` has exactly the documents of that collection in `records`, under the same numbers, in the same
//!    transaction. It keeps no second copy of the text (a contentless table): what is deleted is deleted by its number.
//! 2. Each collection has a table of its own, so that its word counts are its own, its tokenizer is its own, and a search
//!    meets no other collection's rows. It is made with the first document; collections without documents cost nothing.
//! 3. What callers want searched never becomes SQL. It becomes FTS5's query language only when they say that it is that.
//!
//! Ranking is not FTS5's (see `text/rank.rs`): this room writes words and reads them back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, PoisonError, RwLock};

use rusqlite::{Connection, OptionalExtension};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::MetaRow;
use super::connection::{Outcome, Trouble};
use super::open::schema_of;
use super::readers::Reader;
use super::records::signed;
use crate::types::{CollectionId, Lsn, Tokenizer};

/// How each collection's documents are cut into words; shared with whoever makes collections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokenizers(Arc<RwLock<BTreeMap<u32, Tokenizer>>>);

impl Tokenizers {
    /// Says how `collection` does it from now on.
    pub(crate) fn set(&self, collection: CollectionId, tokenizer: Tokenizer) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(collection.0, tokenizer);
    }

    /// How `collection` does it.
    pub(crate) fn get(&self, collection: CollectionId) -> Tokenizer {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&collection.0).copied().unwrap_or_default()
    }

    /// Whether the text indexes of a file are cut as they are wanted now. Those of dropped collections do not matter.
    pub(super) fn agree_with(&self, conn: &Connection) -> Outcome<bool> {
        let wanted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(stored(conn)?.iter().all(|(collection, has)| wanted.get(collection).is_none_or(|want| want == has)))
    }
}

/// The arguments that FTS5 knows a tokenizer by.
fn arguments(tokenizer: Tokenizer) -> &'static str {
    match tokenizer {
        Tokenizer::Unicode61 => "unicode61 remove_diacritics 2",
        Tokenizer::Porter => "porter unicode61 remove_diacritics 2",
        Tokenizer::Trigram => "trigram remove_diacritics 1",
    }
}

/// What makes the text index of `collection`.
fn create_sql(collection: u32, tokenizer: Tokenizer) -> String {
    format!(
        "CREATE VIRTUAL TABLE text_{collection} USING fts5(document, content='', contentless_delete=1, tokenize='{}'); \
         CREATE VIRTUAL TABLE text_{collection}_words USING fts5vocab('text_{collection}', 'instance');",
        arguments(tokenizer)
    )
}

/// Removes the text index of `collection`.
pub(super) fn remove(conn: &Connection, collection: u32) -> Outcome<()> {
    conn.execute_batch(&format!("DROP TABLE text_{collection}_words; DROP TABLE text_{collection};"))?;
    conn.execute("DELETE FROM texts WHERE collection = ?1", [collection])?;
    Ok(())
}

fn hash(collection: u32, tokenizer: Tokenizer) -> i64 {
    signed(xxh3_64_with_seed(tokenizer.name().as_bytes(), u64::from(collection)))
}

/// Which collections have a text index, and how it is cut.
fn stored(conn: &Connection) -> Outcome<BTreeMap<u32, Tokenizer>> {
    let mut statement = conn.prepare("SELECT collection, tokenizer, hash FROM texts")?;
    let mut rows = statement.query([])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (collection, name) = (row.get(0)?, row.get::<_, String>(1)?);
        let tokenizer =
            Tokenizer::from_name(&name).filter(|&t| row.get(2).is_ok_and(|h: i64| h == hash(collection, t)));
        let unknown = || Trouble::Damaged(format!("the tokenizer of collection {collection}"));
        found.insert(collection, tokenizer.ok_or_else(unknown)?);
    }
    Ok(found)
}

/// Has FTS5 look at the file as it is now. Its part of a check relies on what a connection remembers of an earlier state;
/// only beginning a search makes it look.
pub(super) fn refresh(conn: &Connection) -> Outcome<()> {
    for collection in stored(conn)?.keys() {
        conn.query_row(&format!("SELECT 1 FROM text_{collection} WHERE rowid = 0"), [], |_| Ok(())).optional()?;
    }
    Ok(())
}

/// Every object that a file of ours has: those of the fixed schema `base`, and of the text indexes it says it has.
pub(super) fn expected_schema(conn: &Connection, base: &str) -> Outcome<Vec<String>> {
    let model = Connection::open_in_memory()?;
    model.execute_batch(base)?;
    let mut objects = schema_of(&model)?;
    let has_texts = schema_of(conn)?.iter().any(|object| object.starts_with("table texts:"));
    let stored = if has_texts { stored(conn)? } else { BTreeMap::new() };
    for tokenizer in Tokenizer::ALL.into_iter().filter(|t| stored.values().any(|s| s == t)) {
        let model = Connection::open_in_memory()?;
        model.execute_batch(&create_sql(0, tokenizer))?;
        let made = schema_of(&model)?;
        for collection in stored.iter().filter(|(_, t)| **t == tokenizer).map(|(c, _)| c) {
            objects.extend(made.iter().map(|object| object.replace("text_0", &format!("text_{collection}"))));
        }
    }
    objects.sort();
    Ok(objects)
}

/// Writes documents' words inside one transaction.
pub(super) struct TextWriter<'c> {
    conn: &'c Connection,
    tokenizers: Tokenizers,
    /// Which collections have a text index, as far as this transaction met them.
    met: BTreeMap<u32, Option<Tokenizer>>,
}

impl<'c> TextWriter<'c> {
    pub(super) fn new(conn: &'c Connection, tokenizers: &Tokenizers) -> Self {
        TextWriter { conn, tokenizers: tokenizers.clone(), met: BTreeMap::new() }
    }

    /// Takes in the document of a row that is new in `records`, if it has one.
    pub(super) fn insert(&mut self, row: &MetaRow<'_>) -> Outcome<()> {
        let Some(document) = row.document else { return Ok(()) };
        let collection = row.collection.0;
        let tokenizer = match self.index_of(collection)? {
            Some(tokenizer) => tokenizer,
            None => self.create(row.collection)?,
        };
        let padding = padding(tokenizer);
        let sql = format!("INSERT INTO text_{collection}(rowid, document) VALUES (?1, ?2 || '{padding}')");
        self.conn.prepare_cached(&sql)?.execute((signed(row.lsn.0), document))?;
        Ok(())
    }

    /// Takes out the document that operation `lsn` wrote.
    pub(super) fn delete(&mut self, collection: u32, lsn: i64) -> Outcome<()> {
        if self.index_of(collection)?.is_some() {
            let sql = format!("DELETE FROM text_{collection} WHERE rowid = ?1");
            self.conn.prepare_cached(&sql)?.execute([lsn])?;
        }
        Ok(())
    }

    fn index_of(&mut self, collection: u32) -> Outcome<Option<Tokenizer>> {
        if let Some(&known) = self.met.get(&collection) {
            return Ok(known);
        }
        let known = tokenizer_of(self.conn, collection)?;
        self.met.insert(collection, known);
        Ok(known)
    }

    fn create(&mut self, collection: CollectionId) -> Outcome<Tokenizer> {
        let tokenizer = self.tokenizers.get(collection);
        self.conn.execute_batch(&create_sql(collection.0, tokenizer))?;
        let values = (collection.0, tokenizer.name(), hash(collection.0, tokenizer));
        self.conn.execute("INSERT INTO texts VALUES (?1, ?2, ?3)", values)?;
        self.met.insert(collection.0, Some(tokenizer));
        Ok(tokenizer)
    }
}

/// After each document cut into trigrams: every character then begins one, so that words of one or two characters are found
/// as beginnings of trigrams, also where a document ends.
const TRIGRAM_PADDING: &str = "  ";

/// What is written behind each document before it is cut.
fn padding(tokenizer: Tokenizer) -> &'static str {
    match tokenizer {
        Tokenizer::Trigram => TRIGRAM_PADDING,
        Tokenizer::Unicode61 | Tokenizer::Porter => "",
    }
}

fn tokenizer_of(conn: &Connection, collection: u32) -> Outcome<Option<Tokenizer>> {
    let mut statement = conn.prepare_cached("SELECT tokenizer FROM texts WHERE collection = ?1")?;
    let name: Option<String> = statement.query_row([collection], |row| row.get(0)).optional()?;
    let unknown = || Trouble::Damaged(format!("the tokenizer of collection {collection}"));
    name.map(|name| Tokenizer::from_name(&name).ok_or_else(unknown)).transpose()
}

/// Something that documents are searched for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Term {
    /// A word as the tokenizer cuts it.
    Word(String),
    /// Characters in a row, three or more; trigrams only.
    Run(String),
    /// One or two characters; trigrams only.
    Short(String),
}

impl Reader<'_> {
    /// How the documents of `collection` are cut; `None` if there are none.
    pub(crate) fn text_tokenizer(&self, collection: CollectionId) -> Outcome<Option<Tokenizer>> {
        tokenizer_of(self.conn(), collection.0)
    }

    /// How many words each document has that was written after `after`, in order.
    pub(crate) fn text_lengths(
        &self,
        collection: CollectionId,
        after: Lsn,
        each: &mut dyn FnMut(Lsn, u32),
    ) -> Outcome<()> {
        let sql = format!("SELECT id, sz FROM text_{}_docsize WHERE id > ?1 ORDER BY id", collection.0);
        let mut statement = self.conn().prepare_cached(&sql)?;
        let mut rows = statement.query([signed(after.0)])?;
        while let Some(row) = rows.next()? {
            let words = row.get_ref(1)?.as_blob().ok().and_then(varint);
            let words = words.ok_or_else(|| Trouble::Damaged("the length of a document".into()))?;
            each(lsn(row.get(0)?), words);
        }
        Ok(())
    }

    /// The documents that have `term`, in order: once for each time it occurs, if it is a word; else once or more.
    pub(crate) fn text_occurrences(
        &self,
        collection: CollectionId,
        term: &Term,
        each: &mut dyn FnMut(Lsn),
    ) -> Outcome<()> {
        let table = format!("text_{}", collection.0);
        let (sql, values) = match term {
            Term::Word(word) => (format!("SELECT doc FROM {table}_words WHERE term = ?1"), vec![word.clone()]),
            Term::Run(run) => (format!("SELECT rowid FROM {table} WHERE {table} MATCH ?1"), vec![quoted(run)]),
            Term::Short(short) => (
                format!("SELECT DISTINCT doc FROM {table}_words WHERE term >= ?1 AND term < ?2 ORDER BY doc"),
                vec![short.clone(), format!("{short}{}", char::MAX)],
            ),
        };
        let mut statement = self.conn().prepare_cached(&sql)?;
        let mut rows = statement.query(rusqlite::params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            each(lsn(row.get(0)?));
        }
        Ok(())
    }

    /// The documents that match an expression of FTS5's query language, with FTS5's own bm25, higher for better. The
    /// expression was checked by [`Scratch::check`].
    pub(crate) fn text_match(
        &self,
        collection: CollectionId,
        expression: &str,
        each: &mut dyn FnMut(Lsn, f64),
    ) -> Outcome<()> {
        let table = format!("text_{}", collection.0);
        let sql = format!("SELECT rowid, -bm25({table}) FROM {table} WHERE {table} MATCH ?1");
        let mut statement = self.conn().prepare_cached(&sql)?;
        let mut rows = statement.query([expression])?;
        while let Some(row) = rows.next()? {
            each(lsn(row.get(0)?), row.get(1)?);
        }
        Ok(())
    }
}

/// Reads a table of words ("instance" of FTS5's vocabulary) from front to back: document, word, place.
pub(super) fn every_word(conn: &Connection, table: &str, each: &mut dyn FnMut(i64, &[u8], i64)) -> Outcome<()> {
    let mut statement = conn.prepare_cached(&format!("SELECT doc, term, offset FROM {table}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let word = row.get_ref(1)?.as_bytes().map_err(rusqlite::Error::from)?;
        each(row.get(0)?, word, row.get(2)?);
    }
    Ok(())
}

/// A phrase of FTS5's query language that means these characters and nothing else.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn lsn(id: i64) -> Lsn {
    Lsn(u64::from_ne_bytes(id.to_ne_bytes()))
}

/// The first number of a blob of SQLite's variable-length integers.
fn varint(bytes: &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for &byte in bytes.iter().take(8) {
        number = number << 7 | u64::from(byte & 0x7F);
        if byte < 0x80 {
            return u32::try_from(number).ok();
        }
    }
    None
}

/// A small FTS5 table in memory that cuts single texts as a collection's index does: queries, and hits to be quoted from.
#[derive(Debug)]
pub(crate) struct Scratch {
    conn: Connection,
    tokenizer: Tokenizer,
}

impl Scratch {
    pub(super) fn new(tokenizer: Tokenizer) -> Outcome<Scratch> {
        let conn = Connection::open_in_memory()?;
        conn.execute_batch(&format!(
            "CREATE VIRTUAL TABLE s USING fts5(document, tokenize='{}'); \
             CREATE VIRTUAL TABLE words USING fts5vocab(s, 'instance');",
            arguments(tokenizer)
        ))?;
        Ok(Scratch { conn, tokenizer })
    }

    pub(super) fn tokenizer(&self) -> Tokenizer {
        self.tokenizer
    }

    /// What `text` asks for, each once. Nothing if it has no letter and no digit.
    pub(crate) fn terms(&self, text: &str) -> Outcome<Vec<Term>> {
        let mut terms = BTreeSet::new();
        if self.tokenizer != Tokenizer::Trigram {
            terms.extend(self.words(text)?.into_iter().map(Term::Word));
            return Ok(terms.into_iter().collect());
        }
        for run in text.split_whitespace() {
            let characters = run.chars().count();
            if characters >= 3 {
                terms.insert(Term::Run(run.to_owned()));
            } else if let Some(first) = self.words(&format!("{run}{TRIGRAM_PADDING}"))?.first() {
                terms.insert(Term::Short(first.trim_end_matches(' ').to_owned()));
            }
        }
        Ok(terms.into_iter().collect())
    }

    /// The words of `text` in the order of their first place.
    fn words(&self, text: &str) -> Outcome<Vec<String>> {
        let undone = self.conn.unchecked_transaction()?;
        undone.prepare_cached("INSERT INTO s(rowid, document) VALUES (1, ?1)")?.execute([text])?;
        let mut statement = undone.prepare_cached("SELECT term FROM words GROUP BY term ORDER BY min(offset)")?;
        let words = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(words)
    }

    /// Which of `documents` have which of `terms`, that are words: once for each time, by the term's position, and for each
    /// term in ascending order of the documents' numbers.
    pub(crate) fn occurrences<'t>(
        &self,
        documents: &[(u32, String)],
        terms: impl Iterator<Item = &'t Term>,
        each: &mut dyn FnMut(usize, u32),
    ) -> Outcome<()> {
        let undone = self.conn.unchecked_transaction()?;
        let mut insert = undone.prepare_cached("INSERT INTO s(rowid, document) VALUES (?1, ?2)")?;
        documents.iter().try_for_each(|(number, text)| insert.execute((number, text)).map(drop))?;
        let mut select = undone.prepare_cached("SELECT doc FROM words WHERE term = ?1")?;
        for (i, term) in terms.enumerate() {
            let Term::Word(word) = term else { continue };
            let mut rows = select.query([word])?;
            while let Some(row) = rows.next()? {
                each(i, row.get(0)?);
            }
        }
        Ok(())
    }

    /// Every word of `documents`, as a collection's index has them: number, word, place.
    pub(super) fn each_word(&self, documents: &[(i64, String)], each: &mut dyn FnMut(i64, &[u8], i64)) -> Outcome<()> {
        let undone = self.conn.unchecked_transaction()?;
        let sql = format!("INSERT INTO s(rowid, document) VALUES (?1, ?2 || '{}')", padding(self.tokenizer));
        let mut insert = undone.prepare_cached(&sql)?;
        documents.iter().try_for_each(|(number, text)| insert.execute((number, text)).map(drop))?;
        every_word(&undone, "words", each)
    }

    /// Why `expression` is not of FTS5's query language, if it is not.
    pub(crate) fn check(&self, expression: &str) -> Result<(), String> {
        let run = || {
            let mut statement = self.conn.prepare_cached("SELECT count(*) FROM s WHERE s MATCH ?1")?;
            statement.query_row([expression], |row| row.get::<_, i64>(0))
        };
        run().map(drop).map_err(|e| e.to_string())
    }

    /// The part of `document`, up to `words` words long, that has most of what `expression` asks for, with that between
    /// `marks`; `None` if nothing of it is there.
    pub(crate) fn snippet(
        &self,
        document: &str,
        expression: &str,
        marks: (&str, &str),
        words: u32,
    ) -> Outcome<Option<String>> {
        let undone = self.conn.unchecked_transaction()?;
        undone.prepare_cached("INSERT INTO s(rowid, document) VALUES (1, ?1)")?.execute([document])?;
        let mut statement = undone.prepare_cached("SELECT snippet(s, 0, ?2, ?3, '…', ?4) FROM s WHERE s MATCH ?1")?;
        Ok(statement.query_row((expression, marks.0, marks.1, words), |row| row.get(0)).optional()?)
    }
}

/// An expression of FTS5's query language that matches any word of `text`; `None` if it has none.
pub(crate) fn any_word_of(text: &str, tokenizer: Tokenizer) -> Option<String> {
    let trigram = tokenizer == Tokenizer::Trigram;
    let pieces = text.split(|c: char| if trigram { c.is_whitespace() } else { !c.is_alphanumeric() });
    let mut expression = String::new();
    for piece in pieces.filter(|piece| piece.chars().count() >= if trigram { 3 } else { 1 }) {
        let or = if expression.is_empty() { "" } else { " OR " };
        // Writing to a String cannot fail.
        let _ = write!(expression, "{or}{}", quoted(piece));
    }
    (!expression.is_empty()).then_some(expression)
}
