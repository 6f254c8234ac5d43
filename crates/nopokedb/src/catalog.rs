//! The collections of a database: named sets of rows, each with its own dimension and metric, in one log.
//!
//! Invariants:
//! 1. A collection's number is given once. The entry of a dropped collection stays in the table, nameless, so that its
//!    number, and with it its rows in the log, never come to life again.
//! 2. The table changes under the commit lock and is durable (a new manifest) before memory follows.
//! 3. Names are the caller's and never part of a path.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::engine::{CollectionCore, Engine};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::generation::Generation;
use crate::log::{CollectionEntry, Log};
use crate::options::{CollectionOptions, narrow};
use crate::recover::index_params;
use crate::types::{CollectionId, Lsn, Tokenizer};

/// The name of the collection every database has.
pub(crate) const DEFAULT_NAME: &str = "default";
/// The longest name, in bytes.
const MAX_NAME: usize = 255;

impl CollectionEntry {
    /// The entry of a new collection, of options that were found valid.
    pub(crate) fn new(id: CollectionId, name: &str, options: &CollectionOptions) -> Self {
        CollectionEntry {
            id,
            name: name.to_owned(),
            dim: u16::try_from(options.dim).unwrap_or(u16::MAX),
            metric: options.metric,
            m: narrow(options.m.unwrap_or(16)),
            ef_construction: narrow(options.ef_construction.unwrap_or(200)),
            next_id: 0,
            model: options.model.clone(),
            tokenizer: options.tokenizer.unwrap_or_default(),
        }
    }

    /// Whether the collection was dropped.
    pub(crate) fn is_dropped(&self) -> bool {
        self.name.is_empty()
    }
}

impl Engine {
    /// The collection called `name`; made with `options` if there is none.
    pub(crate) fn open_collection(&self, name: &str, options: &CollectionOptions) -> Result<Arc<CollectionCore>> {
        if let Some(collection) = self.find_collection(name) {
            check_stored(&collection, options)?;
            self.keep_model(&collection, options.model.as_deref())?;
            self.keep_tokenizer(&collection, options.tokenizer)?;
            return Ok(collection);
        }
        check_name(name)?;
        options.validate()?;
        self.check_writable()?;
        let mut log = self.lock_log();
        // Somebody may have made it while this thread waited for the lock.
        if let Some(collection) = self.find_collection(name) {
            drop(log);
            check_stored(&collection, options)?;
            self.keep_model(&collection, options.model.as_deref())?;
            self.keep_tokenizer(&collection, options.tokenizer)?;
            return Ok(collection);
        }
        let made = self.make_collections(&mut log, &[name], options)?;
        made.into_iter().next().ok_or_else(|| Error::argument(format!("no collection {name:?} was made")))
    }

    /// Makes those of `names` that do not exist yet with `options`, all or none, and says which they are.
    pub(crate) fn create_collections(&self, names: &[&str], options: &CollectionOptions) -> Result<Vec<String>> {
        names.iter().try_for_each(|name| check_name(name))?;
        options.validate()?;
        self.check_writable()?;
        let mut log = self.lock_log();
        let (mut seen, mut missing) = (HashSet::new(), Vec::new());
        for name in names.iter().copied().filter(|name| seen.insert(*name)) {
            match self.find_collection(name) {
                Some(stored) => check_stored(&stored, options)?,
                None => missing.push(name),
            }
        }
        let made = self.make_collections(&mut log, &missing, options)?;
        Ok(made.iter().map(|made| made.name.clone()).collect())
    }

    /// Makes collections that do not exist, with one change of the table. Under the commit lock.
    fn make_collections(
        &self,
        log: &mut Log,
        names: &[&str],
        options: &CollectionOptions,
    ) -> Result<Vec<Arc<CollectionCore>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut entries = self.current_entries(log.collections());
        let first = entries.iter().map(|e| e.id.0 + 1).max().unwrap_or(0);
        let new: Vec<CollectionEntry> =
            (first..).zip(names).map(|(id, name)| CollectionEntry::new(CollectionId(id), name, options)).collect();
        entries.extend_from_slice(&new);
        log.set_collections(entries)?;
        let made = new.iter().map(|entry| {
            self.applier.tokenizers().set(entry.id, entry.tokenizer);
            let generation = Generation::new(&index_params(entry, &self.options), &self.common);
            let core = Arc::new(CollectionCore::new(entry, 0, generation, Lsn(0)));
            self.insert_collection(core.clone());
            core
        });
        Ok(made.collect())
    }

    /// Stores the name of a model where there is none yet.
    pub(crate) fn keep_model(&self, collection: &CollectionCore, given: Option<&str>) -> Result<()> {
        let Some(given) = given.filter(|_| collection.model.get().is_none() && self.follower.is_none()) else {
            return Ok(());
        };
        self.check_writable()?;
        let mut log = self.lock_log();
        let mut entries = self.current_entries(log.collections());
        entries.iter_mut().filter(|e| e.id == collection.id).for_each(|e| e.model = Some(given.to_owned()));
        // Somebody may have named one while this thread waited for the lock.
        if collection.model.get().is_none() {
            log.set_collections(entries)?;
            let _ = collection.model.set(given.to_owned());
        }
        Ok(())
    }

    /// Stores the tokenizer if the caller gives another one. The text index is built again when it is next asked.
    fn keep_tokenizer(&self, collection: &CollectionCore, wanted: Option<Tokenizer>) -> Result<()> {
        let tokenizers = self.applier.tokenizers();
        let Some(wanted) = wanted.filter(|&wanted| wanted != tokenizers.get(collection.id)) else { return Ok(()) };
        self.check_writable()?;
        let mut log = self.lock_log();
        let mut entries = self.current_entries(log.collections());
        entries.iter_mut().filter(|e| e.id == collection.id).for_each(|e| e.tokenizer = wanted);
        log.set_collections(entries)?;
        tokenizers.set(collection.id, wanted);
        Ok(())
    }

    /// Drops the collection called `name` with all its rows; `false` if there is none.
    pub(crate) fn drop_collection(&self, name: &str) -> Result<bool> {
        if name == DEFAULT_NAME {
            return Err(Error::argument(
                "the default collection cannot be dropped; delete its rows, or remove the directory",
            ));
        }
        self.check_writable()?;
        let mut log = self.lock_log();
        let Some(collection) = self.find_collection(name) else { return Ok(false) };
        let mut entries = self.current_entries(log.collections());
        for entry in entries.iter_mut().filter(|e| e.id == collection.id) {
            entry.name.clear();
            entry.model = None;
        }
        log.set_collections(entries)?;
        collection.dropped.store(true, SeqCst);
        self.remove_collection(collection.id);
        self.applier.forget(collection.id);
        collection.generation().abandon();
        drop(log);
        self.background.wake();
        Ok(true)
    }

    /// The names of all collections, sorted.
    pub(crate) fn collection_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.all_collections().iter().map(|c| c.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// The log's table of collections with the ids that were given out since it was written.
    pub(crate) fn current_entries(&self, entries: &[CollectionEntry]) -> Vec<CollectionEntry> {
        let mut entries = entries.to_vec();
        self.with_collections(|collections| {
            for entry in &mut entries {
                if let Some(collection) = collections.get(&entry.id) {
                    entry.next_id = entry.next_id.max(collection.reservations.next_id());
                }
            }
        });
        entries
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::argument(format!("a collection's name has 1 to {MAX_NAME} bytes, got {}", name.len())));
    }
    Ok(())
}

/// Refuses options that contradict what is stored, naming both.
fn check_stored(stored: &CollectionCore, options: &CollectionOptions) -> Result<()> {
    let what = format!("collection {:?}", stored.name);
    if stored.dim != options.dim {
        let made = stored.model.get().map_or(String::new(), |m| format!(" (made with {m:?})"));
        let message =
            format!("{what} holds vectors of dimension {}{made}, but was opened with dim={}", stored.dim, options.dim);
        return Err(Error::new(ErrorKind::Invalid(Subject::Dimension), message));
    }
    if stored.metric != options.metric {
        let (has, given) = (stored.metric.name(), options.metric.name());
        return Err(Error::argument(format!("{what} uses space {has:?}, but was opened with {given:?}")));
    }
    match (stored.model.get(), &options.model) {
        (Some(has), Some(given)) if has != given => {
            Err(Error::argument(format!("{what} holds vectors of the model {has:?}, but was opened with {given:?}")))
        }
        _ => Ok(()),
    }
}
