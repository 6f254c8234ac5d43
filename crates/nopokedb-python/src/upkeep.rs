//! What an owner of data asks for now and then: is it whole?

use nopokedb::Report;
use pyo3::prelude::*;

use crate::database::NoPokeDB;

/// What `check()` found. True if nothing is wrong; `print` it to read it.
///
/// Attributes
/// ----------
/// ok : bool
///     Whether `problems` is empty.
/// problems : list of str
///     Everything that is not as it should be, a sentence each.
/// rebuilt : list of str
///     Caches that were found damaged and are built again from the log already.
/// collections, segments, log_bytes, rows, graph_rows, sqlite_rows, images : int
///     How much was looked at.
#[pyclass(frozen, module = "nopokedb")]
pub(crate) struct CheckReport {
    #[pyo3(get)]
    ok: bool,
    #[pyo3(get)]
    problems: Vec<String>,
    #[pyo3(get)]
    rebuilt: Vec<String>,
    #[pyo3(get)]
    collections: u64,
    #[pyo3(get)]
    segments: u64,
    #[pyo3(get)]
    log_bytes: u64,
    #[pyo3(get)]
    rows: u64,
    #[pyo3(get)]
    graph_rows: u64,
    #[pyo3(get)]
    sqlite_rows: u64,
    #[pyo3(get)]
    images: u64,
    /// As the engine words it.
    text: String,
}

#[pymethods]
impl CheckReport {
    fn __bool__(&self) -> bool {
        self.ok
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!("<CheckReport {}>", self.text)
    }
}

impl From<Report> for CheckReport {
    fn from(report: Report) -> Self {
        CheckReport {
            ok: report.is_ok(),
            text: report.to_string(),
            collections: report.collections,
            segments: report.segments,
            log_bytes: report.log_bytes,
            rows: report.rows,
            graph_rows: report.graph_rows,
            sqlite_rows: report.sqlite_rows,
            images: report.images,
            problems: report.problems,
            rebuilt: report.rebuilt,
        }
    }
}

#[pymethods]
impl NoPokeDB {
    /// Hold everything that is stored against everything else: the log's checksums, the manifests, every row and id, the
    /// search graph, SQLite's rows, the index images. Takes a time in proportion to the data, all collections included;
    /// searches and writes go on.
    ///
    /// Returns
    /// -------
    /// CheckReport
    ///     True if nothing is wrong. `problems` are sentences that name the file where there is one. A damaged SQLite file
    ///     is built again on the way (`rebuilt` says so); opening again, or restoring a backup, mends the rest.
    ///
    /// Raises
    /// ------
    /// StorageError
    ///     The directory cannot be read at all.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="check")
    /// >>> ids = db.add_many([[1, 0], [0, 1]])
    /// >>> report = db.check()
    /// >>> report.ok, report.rows, report.problems
    /// (True, 2, [])
    /// >>> print(report)
    /// ok: 1 log segments (...
    fn check(&self, py: Python<'_>) -> PyResult<CheckReport> {
        self.opened(py)?.run(py, |o| o.database.check()).map(CheckReport::from)
    }
}
