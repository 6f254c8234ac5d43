//! An open directory, and the one place that releases the GIL.
//!
//! Invariant: nothing that runs without the GIL touches a Python object.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nopokedb::{Collection, CollectionOptions, Database, Error, Metric, Options, Result, Tokenizer};
use pyo3::exceptions::{PyTypeError, PyUserWarning};
use pyo3::prelude::*;

use crate::errors::{invalid, raise};
use crate::progress::Progress;
use crate::rows;

/// How often a waiting call looks whether Ctrl-C was pressed.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);

/// What was given to `NoPokeDB(...)`; `None` is the default.
pub(crate) struct Given<'a, 'py> {
    pub(crate) dim: Option<&'a Bound<'py, PyAny>>,
    pub(crate) max_elements: Option<&'a Bound<'py, PyAny>>,
    pub(crate) path: Option<&'a Bound<'py, PyAny>>,
    pub(crate) space: Option<&'a Bound<'py, PyAny>>,
    pub(crate) m: Option<&'a Bound<'py, PyAny>>,
    pub(crate) ef_construction: Option<&'a Bound<'py, PyAny>>,
    pub(crate) ef: Option<&'a Bound<'py, PyAny>>,
    pub(crate) tokenizer: Option<&'a Bound<'py, PyAny>>,
    pub(crate) model: Option<&'a Bound<'py, PyAny>>,
    pub(crate) timeout: f64,
    pub(crate) force: bool,
    pub(crate) read_only: bool,
}

impl Given<'_, '_> {
    fn options(&self, py: Python<'_>) -> PyResult<Options> {
        let mut options = match self.dim {
            Some(dim) => Options::new(rows::count("dim", 1, dim)?),
            None if self.read_only && self.space.is_none() => Options::reading(),
            None => {
                // What Python says of a missing argument.
                let message = "NoPokeDB() needs dim; only with read_only=True may it be left out, and space with it";
                return Err(PyTypeError::new_err(message));
            }
        };
        options.read_only = self.read_only;
        if let Some(space) = self.space {
            options.metric = metric(space)?;
        }
        if let Some(max_elements) = self.max_elements {
            options.max_elements = rows::count("max_elements", 0, max_elements)?;
        }
        options.m = self.m.map(|value| rows::count("M", 2, value)).transpose()?;
        options.ef_construction =
            self.ef_construction.map(|value| rows::count("ef_construction", 8, value)).transpose()?;
        if let Some(ef) = self.ef {
            options.ef = rows::count("ef", 1, ef)?;
        }
        options.tokenizer = self.tokenizer.map(tokenizer).transpose()?;
        options.model = self.model.map(|model| rows::document("model", model)).transpose()?;
        options.timeout_ms = u64::try_from(rows::seconds(py, self.timeout)?.as_millis()).unwrap_or(u64::MAX);
        options.force_network_fs = self.force;
        Ok(options)
    }

    fn path(&self) -> PyResult<PathBuf> {
        let Some(path) = self.path else { return Ok(PathBuf::from("./data")) };
        rows::path(path)
    }
}

pub(crate) fn metric(space: &Bound<'_, PyAny>) -> PyResult<Metric> {
    let name = space.extract::<String>().unwrap_or_else(|_| space.to_string());
    Metric::from_name(&name).ok_or_else(|| {
        let message = format!("unknown space {name:?}; the spaces are \"cosine\", \"l2\" and \"ip\"");
        invalid(space.py(), message)
    })
}

fn tokenizer(given: &Bound<'_, PyAny>) -> PyResult<Tokenizer> {
    let name = given.extract::<String>().unwrap_or_else(|_| given.to_string());
    Tokenizer::from_name(&name).ok_or_else(|| {
        let names = Tokenizer::ALL.map(|t| format!("{:?}", t.name())).join(", ");
        invalid(given.py(), format!("unknown tokenizer {name:?}; the tokenizers are {names}"))
    })
}

/// What was given to `collection(...)`; `None` is what is stored, or the default.
pub(crate) struct Named<'a, 'py> {
    pub(crate) name: &'a Bound<'py, PyAny>,
    pub(crate) dim: Option<&'a Bound<'py, PyAny>>,
    pub(crate) space: Option<&'a Bound<'py, PyAny>>,
    pub(crate) m: Option<&'a Bound<'py, PyAny>>,
    pub(crate) ef_construction: Option<&'a Bound<'py, PyAny>>,
    pub(crate) model: Option<&'a Bound<'py, PyAny>>,
    pub(crate) tokenizer: Option<&'a Bound<'py, PyAny>>,
}

impl Named<'_, '_> {
    /// The options of a collection called `name`, by what is given and what is `stored`.
    pub(crate) fn options(
        &self,
        py: Python<'_>,
        name: &str,
        stored: Option<&Collection>,
    ) -> PyResult<CollectionOptions> {
        let dim = match (self.dim, stored) {
            (Some(dim), _) => rows::count("dim", 1, dim)?,
            (None, Some(stored)) => stored.dim(),
            (None, None) => return Err(invalid(py, format!("there is no collection {name:?}; give dim to make it"))),
        };
        let mut options = CollectionOptions::new(dim);
        match (self.space, stored) {
            (Some(space), _) => options.metric = metric(space)?,
            (None, Some(stored)) => options.metric = stored.metric(),
            (None, None) => {}
        }
        options.m = self.m.map(|value| rows::count("M", 2, value)).transpose()?;
        options.ef_construction =
            self.ef_construction.map(|value| rows::count("ef_construction", 8, value)).transpose()?;
        options.tokenizer = self.tokenizer.map(tokenizer).transpose()?;
        options.model = self.model.map(|model| rows::document("model", model)).transpose()?;
        Ok(options)
    }
}

/// An open directory. Any thread may use it.
pub(crate) struct Opened {
    pub(crate) database: Database,
    pub(crate) collection: Collection,
    /// As it was given, in whatever bytes.
    pub(crate) path: PathBuf,
    /// The beam width of queries that give none.
    pub(crate) ef: AtomicUsize,
    /// Of one of the database's named collections, which lets go of nothing when it is closed.
    pub(crate) name: Option<String>,
    /// Whether a named collection's handle was closed; the database knows by itself.
    closed: AtomicBool,
}

impl Opened {
    pub(crate) fn open(py: Python<'_>, given: &Given<'_, '_>, progress: &mut Progress) -> PyResult<Opened> {
        let (options, path) = (given.options(py)?, given.path()?);
        let ef = AtomicUsize::new(options.ef);
        let mut tell = |done, all| match all {
            // Waiting for another process to let go.
            0 => progress.listen(),
            _ => progress.tell(done, all),
        };
        let database = without_gil(py, || Database::open_watched(&path, options, &mut tell))?;
        if let Some(imported) = database.imported() {
            warn(py, &format!("{}: {}", path.display(), imported.summary()))?;
        }
        let collection = database.collection();
        Ok(Opened { database, collection, path, ef, name: None, closed: AtomicBool::new(false) })
    }

    /// A collection of the same directory, made if there is none.
    pub(crate) fn named(&self, py: Python<'_>, given: &Named<'_, '_>) -> PyResult<Opened> {
        let name = rows::document("name", given.name)?;
        let stored = self.run(py, |o| o.database.find_collection(&name))?;
        let options = given.options(py, &name, stored.as_ref())?;
        let collection = self.run(py, |o| o.database.open_collection(&name, &options))?;
        let (path, ef) = (self.path.clone(), AtomicUsize::new(self.ef.load(Relaxed)));
        Ok(Opened {
            database: self.database.clone(),
            collection,
            path,
            ef,
            name: Some(name),
            closed: AtomicBool::new(false),
        })
    }

    /// Closes the directory, or this handle to one of its collections.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.name.is_some() {
            self.closed.store(true, Relaxed);
            return Ok(());
        }
        without_gil(py, || self.database.close())
    }

    /// This, unless it was closed.
    pub(crate) fn served(&self) -> Result<&Self> {
        if self.closed.load(Relaxed) { Err(Error::closed()) } else { Ok(self) }
    }

    /// Does what may block.
    pub(crate) fn run<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Self) -> Result<T> + Send) -> PyResult<T> {
        without_gil(py, || work(self.served()?))
    }

    /// Waits in slices, so that Ctrl-C is heard.
    pub(crate) fn wait_indexed(
        &self,
        py: Python<'_>,
        timeout: Option<Duration>,
        progress: &mut Progress,
    ) -> PyResult<bool> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = end.map_or(SIGNAL_CHECK, |end| end.saturating_duration_since(Instant::now()));
            let is_done = self.run(py, |o| o.database.wait_indexed(Some(left.min(SIGNAL_CHECK))))?;
            if progress.is_told() {
                let stats = self.run(py, |o| o.collection.stats())?;
                let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                let all = count(stats.graph_rows + stats.tail_rows);
                let done = if is_done { all } else { count(stats.graph_rows) };
                if progress.tell(done, all).is_break() {
                    return Ok(is_done);
                }
            }
            if is_done || end.is_some_and(|end| Instant::now() >= end) {
                return Ok(is_done);
            }
            py.check_signals()?;
        }
    }
}

/// Tells the caller something that happens once and that he should know.
fn warn(py: Python<'_>, message: &str) -> PyResult<()> {
    let message = CString::new(message.replace('\0', " "))?;
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 1)
}

/// The one place that releases the GIL.
pub(crate) fn without_gil<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(py, error))
}
