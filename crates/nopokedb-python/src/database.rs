//! The class `NoPokeDB`: opening, closing, attributes. Its other methods are in `collections.rs`, `reads.rs` and `writes.rs`.
//!
//! Invariants:
//! 1. Every call that may block runs in [`Opened::run`], which releases the GIL around it.
//! 2. The class is frozen: all state is in the engine's handle, which any thread may use, and in one atomic.
//!
//! Arguments are taken as `PyAny`, so that a wrong one raises this package's errors and not PyO3's; the signatures that
//! `help()` shows are therefore written out.

use std::ffi::OsStr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use nopokedb::{Error, ErrorKind, Query};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::{invalid, raise};
use crate::opened::{Given, Opened};
use crate::progress::Progress;
use crate::{answers, ids, rows};

#[doc = include_str!("docs/NoPokeDB.txt")]
#[pyclass(frozen, subclass, weakref, module = "nopokedb", name = "NoPokeDB")]
pub(crate) struct NoPokeDB {
    /// Set by `__init__`, so that subclasses may call it with arguments of their own choice, as Python classes do.
    pub(crate) opened: OnceLock<Opened>,
}

impl NoPokeDB {
    pub(crate) fn opened(&self, py: Python<'_>) -> PyResult<&Opened> {
        let unopened =
            || Error::new(ErrorKind::Closed, "the database was never opened; call super().__init__(dim, ...) first");
        self.opened.get().ok_or_else(|| raise(py, unopened()))
    }
}

#[pymethods]
impl NoPokeDB {
    #[new]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(dim=None, max_elements=10000, path='./data', space='cosine', M=None, ef_construction=None, ef=50, *, \
                          tokenizer=None, model=None, timeout=0, force=False, read_only=False, progress=None)"
    )]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        NoPokeDB { opened: OnceLock::new() }
    }

    #[pyo3(signature = (dim=None, max_elements=None, path=None, space=None, M=None, ef_construction=None, ef=None, *, tokenizer=None, model=None, timeout=0.0, force=false, read_only=false, progress=None))]
    #[allow(clippy::too_many_arguments, non_snake_case)] // the signature of 0.5.1
    fn __init__(
        &self,
        py: Python<'_>,
        dim: Option<&Bound<'_, PyAny>>,
        max_elements: Option<&Bound<'_, PyAny>>,
        path: Option<&Bound<'_, PyAny>>,
        space: Option<&Bound<'_, PyAny>>,
        M: Option<&Bound<'_, PyAny>>,
        ef_construction: Option<&Bound<'_, PyAny>>,
        ef: Option<&Bound<'_, PyAny>>,
        tokenizer: Option<&Bound<'_, PyAny>>,
        model: Option<&Bound<'_, PyAny>>,
        timeout: f64,
        force: bool,
        read_only: bool,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if self.opened.get().is_some() {
            return Err(invalid(py, "this handle is open already; make another one"));
        }
        let given = Given {
            dim,
            max_elements,
            path,
            space,
            m: M,
            ef_construction,
            ef,
            tokenizer,
            model,
            timeout,
            force,
            read_only,
        };
        let mut progress = Progress::new("import", progress)?;
        let opened = Opened::open(py, &given, &mut progress);
        let opened = progress.outcome(opened)?;
        // Of two threads racing here the second one's handle is dropped.
        let _ = self.opened.set(opened);
        Ok(())
    }

    /// Write the caches, so that the next opening is fast. Nothing needs it: rows are safe when `add` returns.
    ///
    /// Raises
    /// ------
    /// ReadOnlyError, StorageError, StorageFullError, ClosedError
    ///     What `add` returned from is safe all the same.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="save").save()
    fn save(&self, py: Python<'_>) -> PyResult<()> {
        self.opened(py)?.run(py, |o| o.database.save())
    }

    /// See at once what other processes wrote.
    ///
    /// With `read_only=True` searches are at most a second behind the process that writes; after this call they see everything
    /// that was acknowledged before it. A handle that writes sees everything anyway.
    ///
    /// Raises
    /// ------
    /// ClosedError
    ///     The handle was closed, or the directory was moved, deleted or replaced by another database.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="refresh")
    /// >>> reader = NoPokeDB(path="refresh", read_only=True)
    /// >>> id = db.add([1, 0])
    /// >>> reader.refresh()
    /// >>> len(reader)
    /// 1
    fn refresh(&self, py: Python<'_>) -> PyResult<()> {
        self.opened(py)?.run(py, |o| o.database.refresh())
    }

    /// Whether the handle was opened with `read_only=True`.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="read_only").read_only
    /// False
    #[getter]
    fn read_only(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.opened(py)?.database.is_read_only())
    }

    /// Write the caches and let the directory go. Closing again does nothing; any other call raises ClosedError.
    ///
    /// Raises
    /// ------
    /// StorageError, StorageFullError
    ///     A cache could not be written. The directory is let go all the same, and nothing that `add` returned from is lost.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="close")
    /// >>> db.close()
    /// >>> db.add([1, 0])
    /// Traceback (most recent call last):
    ///     ...
    /// nopokedb.ClosedError: the database is closed; open it again
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.opened.get() {
            Some(opened) => opened.close(py),
            None => Ok(()),
        }
    }

    /// Wait until the search graph holds every row that is visible now, and was mended where many rows were deleted. Searches
    /// never need it: rows that are not in the graph yet are scanned.
    ///
    /// Parameters
    /// ----------
    /// timeout : float, optional
    ///     Seconds; None waits as long as it takes. Ctrl-C ends the waiting.
    /// progress : True or callable, optional
    ///     True draws a bar on stderr; a function is called with (rows in the graph, rows). What it raises ends the waiting.
    ///
    /// Returns
    /// -------
    /// bool
    ///     False if the timeout passed first.
    ///
    /// Raises
    /// ------
    /// InvalidError
    ///     `timeout` is no number of seconds.
    /// StorageError, ClosedError
    ///     The background worker failed, or the handle was closed meanwhile.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="wait_indexed")
    /// >>> ids = db.add_many(np.random.rand(100, 2))
    /// >>> db.wait_indexed(timeout=30)
    /// True
    #[pyo3(signature = (timeout=None, *, progress=None))]
    fn wait_indexed(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let timeout = timeout.map(|timeout| rows::seconds(py, timeout)).transpose()?;
        let mut progress = Progress::new("wait_indexed", progress)?;
        let outcome = self.opened(py)?.wait_indexed(py, timeout, &mut progress);
        progress.outcome(outcome)
    }

    /// Counters of what the database holds and uses: rows, bytes of the log, memory by part.
    ///
    /// Returns
    /// -------
    /// dict
    ///     `rows` (live), `graph_rows`, `tail_rows` (scanned, not in the graph yet), `dead_rows`, `segments`, `log_bytes`,
    ///     `graph_memory`, `codes_memory`, `rows_memory`, `ids_memory`, `columns_memory`, `filters_memory`, `texts_memory`
    ///     (bytes; the last three are what filters and searches for words keep), `visible_lsn`, `applied_lsn` (writes that searches see, and that SQLite reflects), and `writes_stopped`, `background_error`, `sqlite_error` (a sentence
    ///     each, or None).
    ///
    /// Raises
    /// ------
    /// ClosedError
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="stats")
    /// >>> ids = db.add_many([[1, 0], [0, 1]])
    /// >>> db.stats()["rows"]
    /// 2
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.opened(py)?.run(py, |o| o.collection.stats())?;
        answers::stats(py, &stats)
    }

    /// Length of every vector.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=3, path="dim").dim
    /// 3
    #[getter]
    fn dim(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.opened(py)?.collection.dim())
    }

    /// How distance is measured: 'cosine', 'l2' or 'ip'.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="space", space="l2").space
    /// 'l2'
    #[getter]
    fn space(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.opened(py)?.collection.metric().name())
    }

    /// How documents are cut into words for full-text search: 'unicode61', 'porter' or 'trigram'.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="tokenizer").tokenizer
    /// 'unicode61'
    #[getter]
    fn tokenizer(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.opened(py)?.collection.tokenizer().name())
    }

    /// The name of the model that makes the vectors, if it was given once.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="model", model="minilm").model
    /// 'minilm'
    #[getter]
    fn model(&self, py: Python<'_>) -> PyResult<Option<&str>> {
        Ok(self.opened(py)?.collection.model())
    }

    /// The directory, as it was given.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="path").path
    /// 'path'
    #[getter]
    fn path(&self, py: Python<'_>) -> PyResult<&OsStr> {
        Ok(self.opened(py)?.path.as_os_str())
    }

    /// Links per row of the search graph.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="M", M=24).M
    /// 24
    #[getter]
    #[pyo3(name = "M")]
    fn m(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.opened(py)?.collection.m())
    }

    /// Beam width while the search graph is built.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="ef_construction").ef_construction
    /// 200
    #[getter]
    fn ef_construction(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.opened(py)?.collection.ef_construction())
    }

    /// Beam width of the queries of this handle that do not give one. May be set.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="ef")
    /// >>> db.ef = 80
    /// >>> db.ef
    /// 80
    #[getter]
    fn ef(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.opened(py)?.ef.load(Relaxed))
    }

    #[setter]
    fn set_ef(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let ef = rows::count("ef", 1, value)?;
        Query { ef: Some(ef), ..Query::default() }.validate().map_err(|error| raise(py, error))?;
        self.opened(py)?.ef.store(ef, Relaxed);
        Ok(())
    }

    /// The hint given at opening, or the number of rows where that is larger.
    ///
    /// Examples
    /// --------
    /// >>> NoPokeDB(dim=2, path="max_elements", max_elements=50).max_elements
    /// 50
    #[getter]
    fn max_elements(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.opened(py)?.collection.max_elements())
    }

    /// How many rows there are.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.opened(py)?.served().and_then(|o| o.collection.len()).map_err(|error| raise(py, error))
    }

    /// A handle is true, also to a database without rows: `if db:` asks whether there is one.
    fn __bool__(&self) -> bool {
        true
    }

    /// Whether there is a row of that id.
    fn __contains__(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<bool> {
        let opened = self.opened(py)?;
        match ids::sought(id) {
            Ok(Some(id)) => opened.served().and_then(|o| o.collection.contains(id)).map_err(|error| raise(py, error)),
            // What is no id is in no database.
            Ok(None) | Err(_) => Ok(false),
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let Some(opened) = self.opened.get() else { return "NoPokeDB(not opened)".into() };
        let Opened { collection, path, name, .. } = opened;
        let name = name.as_ref().map_or_else(String::new, |name| format!("collection={name:?}, "));
        let rows = opened.served().and_then(|o| o.collection.len());
        let rows = rows.map_or_else(|_| "closed".into(), |rows| format!("rows={rows}"));
        let path = path.to_string_lossy();
        format!("NoPokeDB('{path}', {name}{rows}, dim={}, space='{}')", collection.dim(), collection.metric())
    }
}

impl Drop for NoPokeDB {
    /// A handle that was never closed closes here, which may write files: other threads go on meanwhile.
    fn drop(&mut self) {
        if let Some(opened) = self.opened.take() {
            let mut opened = Some(opened);
            Python::try_attach(|py| py.detach(|| drop(opened.take())));
        }
    }
}
