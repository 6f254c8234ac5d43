//! What the tests of durability share: writes as values, the model they lead to, and a database read in every way.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its part, and a test may panic")]

#[cfg(target_os = "linux")]
pub mod volume;
pub mod writer;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nopokedb::{
    Change, Collection, CollectionOptions, Database, Expiry, Filter, Id, Metadata, Metric, NewRow, NewRows, Options,
    Query, Result, WriteBatch,
};

/// Dimension of every vector in these tests.
pub const DIM: usize = 2;
/// The number of the collection every database has; the others are called "c1", "c2", ...
pub const DEFAULT: u8 = 0;
/// Ids from here on stand for text ids in writes and models; see [`id`].
pub const TEXT: u64 = 1 << 60;

/// Whether the long versions are asked for.
pub fn long() -> bool {
    std::env::var("NOPOKEDB_CRASH").is_ok_and(|v| v == "long")
}

/// The seeds of random lives: so many from `from` on, or those of NOPOKEDB_SEED=<n> or <from>..<to>.
pub fn seeds(from: u64, lives: u64) -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var("NOPOKEDB_SEED") else { return from..from + lives };
    let number = |n: &str| n.parse::<u64>().expect("NOPOKEDB_SEED is <n> or <from>..<to>");
    asked.split_once("..").map_or_else(|| number(&asked)..number(&asked) + 1, |(a, b)| number(a)..number(b))
}

/// Everything small, so that short tests meet rolls, graphs and batches of several frames.
pub fn options() -> Options {
    let build = Options { graph_from: Some(8), build_threads: 1, ..Options::new(DIM) };
    Options { metric: Metric::L2, segment_bytes: 64 << 10, frame_bytes: Some(1_500), ..build }
}

/// One write, to the collection numbered first.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// One row under the next automatic id.
    Add(u8, f32),
    /// Rows under the next automatic ids.
    Batch(u8, Vec<f32>),
    /// Rows under given ids.
    Given(u8, Vec<(u64, f32)>),
    /// Vector and metadata of a row, new or not.
    Upsert(u8, u64, f32),
    /// The metadata alone.
    Retag(u8, u64, u32),
    /// A second member of the metadata alone; 0 takes it away.
    Note(u8, u64, u32),
    /// The document alone, of so many bytes.
    Document(u8, u64, usize),
    /// As [`Write::Upsert`], of a row that expires in the year 2200; or that expired in 1970, which nobody sees.
    Expiring(u8, u64, f32, Expires),
    Delete(u8, u64),
    /// Deletes a row, and every byte of it.
    Purge(u8, u64),
    /// All rows with this tag.
    DeleteWhere(u8, u32),
    Create(u8),
    /// Several collections, all or none.
    CreateAll(Vec<u8>),
    Drop(u8),
    /// Several writes to one collection, all or none: [`Write::Add`] and those of single rows.
    Mixed(u8, Vec<Write>),
}

/// The id that `n` stands for.
pub fn id(n: u64) -> Id {
    n.checked_sub(TEXT).map_or(Id::Int(n), |n| Id::Text(format!("the row called {n}").into()))
}

/// The inverse of [`id`].
pub fn number(id: &Id) -> u64 {
    let of_text = |text: &str| TEXT + text.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    id.int().unwrap_or_else(|| of_text(id.text().unwrap()))
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expires {
    InAges,
    Already,
}

impl Expires {
    fn at(self) -> SystemTime {
        match self {
            Expires::InAges => UNIX_EPOCH + Duration::from_secs(7_258_118_400),
            Expires::Already => UNIX_EPOCH + Duration::from_secs(1),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub x: f32,
    pub tag: u32,
    pub note: u32,
    pub document: usize,
    pub expires: Option<SystemTime>,
}

/// A collection as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    pub rows: BTreeMap<u64, Row>,
    /// No id from here on was ever given.
    pub next: u64,
}

/// A database as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Model(pub BTreeMap<u8, Rows>);

impl Default for Model {
    fn default() -> Self {
        Model(BTreeMap::from([(DEFAULT, Rows::default())]))
    }
}

impl Model {
    pub fn of<'a>(writes: impl IntoIterator<Item = &'a Write>) -> Model {
        let mut model = Model::default();
        writes.into_iter().for_each(|w| model.apply(w));
        model
    }

    /// A write that finds nothing to change (its collection was dropped, its row is gone) changes nothing.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::Create(c) => drop(self.0.entry(*c).or_default()),
            Write::CreateAll(all) => all.iter().for_each(|c| self.apply(&Write::Create(*c))),
            Write::Drop(c) => drop(self.0.remove(c)),
            Write::Add(c, x) => self.append(*c, &[*x]),
            Write::Batch(c, xs) => self.append(*c, xs),
            Write::Given(c, rows) => rows.iter().for_each(|(id, x)| self.put(*c, *id, |r| *r = Row::of(*x))),
            Write::Upsert(c, id, x) => self.put(*c, *id, |r| (r.x, r.tag, r.note) = (*x, 1, 0)),
            Write::Retag(c, id, tag) => self.change(*c, *id, |r| (r.tag, r.note) = (*tag, 0)),
            Write::Note(c, id, note) => self.change(*c, *id, |r| r.note = *note),
            Write::Mixed(_, writes) => writes.iter().for_each(|w| self.apply(w)),
            Write::Expiring(c, id, x, when) => {
                self.put(*c, *id, |r| (r.x, r.tag, r.note, r.expires) = (*x, 1, 0, Some(when.at())));
                if *when == Expires::Already {
                    self.apply(&Write::Delete(*c, *id));
                }
            }
            Write::Document(c, id, len) => self.change(*c, *id, |r| r.document = *len),
            Write::DeleteWhere(c, tag) => {
                if let Some(rows) = self.0.get_mut(c) {
                    rows.rows.retain(|_, row| row.tag != *tag);
                }
            }
            Write::Delete(c, id) | Write::Purge(c, id) => {
                if let Some(rows) = self.0.get_mut(c) {
                    rows.rows.remove(id);
                }
            }
        }
    }

    fn append(&mut self, c: u8, xs: &[f32]) {
        let Some(rows) = self.0.get(&c) else { return };
        let first = rows.next;
        (first..).zip(xs).for_each(|(id, x)| self.put(c, id, |r| *r = Row::of(*x)));
    }

    fn put(&mut self, c: u8, id: u64, set: impl FnOnce(&mut Row)) {
        let Some(rows) = self.0.get_mut(&c) else { return };
        set(rows.rows.entry(id).or_default());
        if id < TEXT {
            rows.next = rows.next.max(id + 1);
        }
    }

    fn change(&mut self, c: u8, id: u64, set: impl FnOnce(&mut Row)) {
        if let Some(row) = self.0.get_mut(&c).and_then(|rows| rows.rows.get_mut(&id)) {
            set(row);
        }
    }

    /// The rows of each collection, without what only the model knows.
    pub fn rows(&self) -> BTreeMap<u8, BTreeMap<u64, Row>> {
        self.0.iter().map(|(c, rows)| (*c, rows.rows.clone())).collect()
    }
}

impl Row {
    pub fn of(x: f32) -> Row {
        Row { x, ..Row::default() }
    }
}

pub fn vector(x: f32) -> [f32; DIM] {
    [x, 1.0]
}

pub fn tag(n: u32) -> Option<Metadata> {
    Some(Metadata::from_json(&format!(r#"{{"tag":{n}}}"#)).unwrap())
}

/// A document of so many bytes that no other length gives a prefix of.
pub fn document(len: usize) -> String {
    let mut text = format!("{len:06}");
    text.extend((6..len).map(|i| char::from(b'a' + u8::try_from((i + len) % 26).unwrap())));
    text
}

pub fn name(c: u8) -> String {
    if c == DEFAULT { "default".into() } else { format!("c{c}") }
}

pub fn collection(db: &Database, c: u8) -> Result<Collection> {
    if c == DEFAULT {
        return Ok(db.collection());
    }
    db.open_collection(&name(c), &collection_options())
}

fn collection_options() -> CollectionOptions {
    CollectionOptions { metric: Metric::L2, ..CollectionOptions::new(DIM) }
}

/// Does `write`, once.
pub fn perform(db: &Database, write: &Write) -> Result<()> {
    let on = |c: &u8| match db.collections()?.contains(&name(*c)) {
        true => collection(db, *c),
        false => Err(nopokedb::Error::argument(format!("there is no collection {}", name(*c)))),
    };
    match write {
        Write::Create(c) => collection(db, *c).map(drop),
        Write::CreateAll(all) => {
            let names: Vec<String> = all.iter().map(|c| name(*c)).collect();
            db.create_collections(&names.iter().map(String::as_str).collect::<Vec<_>>(), &collection_options())
                .map(drop)
        }
        Write::Drop(c) => db.drop_collection(&name(*c)).map(drop),
        Write::Add(c, x) => on(c)?.add(&vector(*x), NewRow { metadata: tag(0), ..NewRow::default() }).map(drop),
        Write::Batch(c, xs) => add_many(&on(c)?, xs.iter().copied(), None),
        Write::Given(c, rows) => {
            let ids = rows.iter().map(|r| id(r.0)).collect();
            add_many(&on(c)?, rows.iter().map(|r| r.1), Some(ids))
        }
        Write::Upsert(c, n, _) | Write::Retag(c, n, _) | Write::Document(c, n, _) => {
            on(c)?.upsert(id(*n), change(write))
        }
        Write::Note(c, n, note) => {
            let (set, remove) = noted(*note);
            on(c)?.update(id(*n), set, remove)
        }
        Write::Expiring(c, n, x, when) => {
            let expires = Some(Expiry::At(when.at()));
            on(c)?.upsert(id(*n), Change { expires, ..change(&Write::Upsert(*c, *n, *x)) })
        }
        Write::Mixed(c, writes) => {
            let mut batch = on(c)?.batch();
            writes.iter().try_for_each(|w| gather(&mut batch, w))?;
            batch.commit().map(drop)
        }
        Write::Delete(c, n) => on(c)?.delete(id(*n)).map(drop),
        Write::Purge(c, n) => on(c)?.purge(&[id(*n)]).map(drop),
        Write::DeleteWhere(c, tag) => on(c)?.delete_where(&Filter::field("tag").eq(i64::from(*tag))).map(drop),
    }
}

/// What an upsert of the vector, the metadata or the document changes.
fn change(write: &Write) -> Change {
    match write {
        Write::Upsert(_, _, x) => Change { vector: Some(vector(*x).to_vec()), metadata: tag(1), ..Change::default() },
        Write::Retag(_, _, n) => Change { metadata: tag(*n), ..Change::default() },
        Write::Document(_, _, len) => Change { document: Some(document(*len)), ..Change::default() },
        _ => panic!("{write:?} is not an upsert"),
    }
}

/// What an update sets, and what it removes.
fn noted(note: u32) -> (Metadata, &'static [&'static str]) {
    let text = if note == 0 { "{}".into() } else { format!(r#"{{"note":{note}}}"#) };
    (Metadata::from_json(&text).unwrap(), if note == 0 { &["note"] } else { &[] })
}

/// Takes one more write into a batch.
fn gather(batch: &mut WriteBatch, write: &Write) -> Result<()> {
    match write {
        Write::Add(_, x) => batch.add(&vector(*x), NewRow { metadata: tag(0), ..NewRow::default() }).map(drop),
        Write::Note(_, n, note) => {
            let (set, remove) = noted(*note);
            batch.update(id(*n), set, remove)
        }
        Write::Delete(_, n) => {
            batch.delete(id(*n));
            Ok(())
        }
        Write::Upsert(_, n, _) | Write::Retag(_, n, _) | Write::Document(_, n, _) => {
            batch.upsert(id(*n), change(write))
        }
        _ => panic!("{write:?} is not for batches"),
    }
}

fn add_many(c: &Collection, xs: impl Iterator<Item = f32>, ids: Option<Vec<Id>>) -> Result<()> {
    let vectors: Vec<f32> = xs.flat_map(vector).collect();
    let metadatas = Some(vec![tag(0); vectors.len() / DIM]);
    c.add_many(&vectors, NewRows { ids, metadatas, ..NewRows::default() }).map(drop)
}

/// What a database serves, read in every way there is, each compared with the others.
pub fn served(db: &Database) -> BTreeMap<u8, BTreeMap<u64, Row>> {
    let numbered = |name: &str| if name == "default" { DEFAULT } else { name[1..].parse().unwrap() };
    let names = db.collections().unwrap();
    names.iter().map(|n| (numbered(n), served_by(&collection(db, numbered(n)).unwrap()))).collect()
}

/// The rows of one collection: found by search, by exact search, and one by one.
pub fn served_by(c: &Collection) -> BTreeMap<u64, Row> {
    let mut rows = BTreeMap::new();
    let len = c.len().unwrap();
    if len == 0 {
        assert!(c.is_empty().unwrap());
        assert!(c.query(&vector(0.0), &Query::nearest(1)).is_err());
        return rows;
    }
    let at = 0.25;
    let hits = c.query(&vector(at), &Query::nearest(len + 10)).unwrap();
    let exact = c.query(&vector(at), &Query { exact: true, ..Query::nearest(len + 10) }).unwrap();
    let sorted = |hits: &[nopokedb::Hit]| {
        let mut ids: Vec<u64> = hits.iter().map(|h| number(&h.id)).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(sorted(&hits), sorted(&exact), "search and exact search find different rows");
    assert!(hits.windows(2).all(|w| w[0].distance <= w[1].distance), "hits are not in order");
    for hit in hits {
        let row = c.get(&hit.id).unwrap().expect("a hit can be got");
        assert!(c.contains(&hit.id).unwrap());
        assert_eq!(hit.metadata, row.metadata, "a hit and its row differ");
        assert_eq!((row.vector.len(), row.vector[1]), (DIM, 1.0));
        let (x, distance) = (row.vector[0], (row.vector[0] - at).powi(2));
        assert!((hit.distance - distance).abs() <= distance * 1e-5, "{} is not {distance} away", hit.distance);
        let map = row.metadata.unwrap().to_map();
        let member = |name: &str| map.get(name).map(|n| u32::try_from(n.as_u64().unwrap()).unwrap());
        let text = row.document.unwrap_or_default();
        assert!(text.is_empty() || text == document(text.len()), "a document changed");
        let (tag, note) = (member("tag").unwrap(), member("note").unwrap_or(0));
        let row = Row { x, tag, note, document: text.len(), expires: row.expires_at };
        assert!(rows.insert(number(&hit.id), row).is_none(), "a hit came twice");
    }
    assert_eq!(rows.len(), len, "search and len() disagree");
    rows
}

/// A small generator, so that every run is the same for a seed.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
