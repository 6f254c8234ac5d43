//! What an owner of data asks for now and then: is it whole, is there a copy, can it be mended?

use nopokedb::{Backup, Database, Repair, Repaired, Report};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::database::NoPokeDB;
use crate::ids;
use crate::opened::{metric, without_gil};
use crate::rows;

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
///
/// Examples
/// --------
/// >>> db = NoPokeDB(dim=2, path="CheckReport")
/// >>> id = db.add([1, 0])
/// >>> report = db.check()
/// >>> bool(report), report.collections, report.rows, report.problems, report.rebuilt
/// (True, 1, 1, [], [])
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

/// What `backup()` did.
///
/// Attributes
/// ----------
/// lsn : int
///     The backup holds every operation up to this one, and none after it (`stats()["visible_lsn"]` counts the same).
/// files_copied, bytes_copied : int
///     What was written.
/// files_kept : int
///     Files that an earlier backup into the same directory had brought already.
///
/// Examples
/// --------
/// >>> db = NoPokeDB(dim=2, path="BackupReport")
/// >>> id = db.add([1, 0])
/// >>> report = db.backup("BackupReport-copy")
/// >>> report.lsn, report.files_kept, report.files_copied > 0, report.bytes_copied > 0
/// (1, 0, True, True)
#[pyclass(frozen, get_all, module = "nopokedb")]
pub(crate) struct BackupReport {
    lsn: u64,
    files_copied: u64,
    bytes_copied: u64,
    files_kept: u64,
}

#[pymethods]
impl BackupReport {
    fn __repr__(&self) -> String {
        let BackupReport { lsn, files_copied, bytes_copied, files_kept } = self;
        format!(
            "<BackupReport up to operation {lsn}: {files_copied} files copied ({bytes_copied} bytes), {files_kept} kept>"
        )
    }
}

impl From<Backup> for BackupReport {
    fn from(backup: Backup) -> Self {
        let Backup { lsn, files_copied, bytes_copied, files_kept, .. } = backup;
        BackupReport { lsn, files_copied, bytes_copied, files_kept }
    }
}

#[pymethods]
impl NoPokeDB {
    /// Copy the database, all collections, as it is now into a directory, while it is open and written to. Into the
    /// directory of an earlier backup only what is new is copied. To restore, open the directory (or a copy of it): it is a
    /// database like any other, and no target of further backups from then on.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     A new or empty directory, or one that was backed up to before.
    ///
    /// Returns
    /// -------
    /// BackupReport
    ///     `lsn`, `files_copied`, `bytes_copied`, `files_kept`.
    ///
    /// Raises
    /// ------
    /// InvalidError
    ///     The directory is this database, holds another one, a later state or other files, or was opened since it was
    ///     backed up to.
    /// LockedError
    ///     The directory is open.
    /// CorruptionError
    ///     What is to be copied is damaged. The earlier backup is still there, as it is after any error or crash.
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="backup")
    /// >>> ids = db.add_many([[1, 0], [0, 1]])
    /// >>> db.backup("backup-copy").lsn
    /// 2
    /// >>> id = db.add([1, 1])
    /// >>> with NoPokeDB(dim=2, path="backup-copy") as restored:
    /// ...     len(restored)
    /// 2
    fn backup(&self, py: Python<'_>, path: &Bound<'_, PyAny>) -> PyResult<BackupReport> {
        let path = rows::path(path)?;
        self.opened(py)?.run(py, |o| o.database.backup(path)).map(BackupReport::from)
    }

    /// Hold everything that is stored against everything else: the log's checksums, the manifests, every row and id, the
    /// search graph, SQLite's rows, the index images. Takes a time in proportion to the data, all collections included;
    /// searches and writes go on.
    ///
    /// Returns
    /// -------
    /// CheckReport
    ///     True if nothing is wrong. `problems` are sentences that name the file where there is one. A damaged SQLite file
    ///     is built again on the way (`rebuilt` says so); `nopokedb.repair` mends the rest.
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

/// What `nopokedb.repair` did. True if nothing is lost.
///
/// Attributes
/// ----------
/// path : str
///     The directory to use from now on: the new one, or the old one if its log is whole.
/// cause : str or None
///     What is wrong with the log, if something is.
/// rebuilt : list of str
///     What was wrong with caches that were built again.
/// rows : int
///     Live rows in `path`.
/// lost : list of dict
///     What could not be read: `file`, `offset`, `first_lsn`, `last_lsn` (None: nothing tells), `rows` (the known
///     ones, as (collection, id): missing in `path`, or back in an older state), `why`.
///
/// Examples
/// --------
/// >>> with NoPokeDB(dim=2, path="RepairReport") as db:
/// ...     id = db.add([1, 0])
/// >>> report = nopokedb.repair("RepairReport")
/// >>> bool(report), report.cause, report.rows, report.lost, report.path.endswith("RepairReport")
/// (True, None, 1, [], True)
#[pyclass(frozen, module = "nopokedb")]
pub(crate) struct RepairReport {
    report: Repaired,
}

#[pymethods]
impl RepairReport {
    #[getter]
    fn path(&self) -> String {
        self.report.path.to_string_lossy().into_owned()
    }

    #[getter]
    fn cause(&self) -> Option<&str> {
        self.report.cause.as_deref()
    }

    #[getter]
    fn rebuilt(&self) -> Vec<String> {
        self.report.rebuilt.clone()
    }

    #[getter]
    fn rows(&self) -> u64 {
        self.report.rows
    }

    #[getter]
    fn lost<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for lost in &self.report.lost {
            let dict = PyDict::new(py);
            dict.set_item("file", lost.file.to_string_lossy())?;
            dict.set_item("offset", lost.offset)?;
            dict.set_item("first_lsn", lost.first_lsn)?;
            dict.set_item("last_lsn", lost.last_lsn)?;
            let rows: Vec<_> =
                lost.rows.iter().map(|(collection, id)| (&**collection, ids::to_python(py, id))).collect();
            dict.set_item("rows", rows)?;
            dict.set_item("why", &lost.why)?;
            list.append(dict)?;
        }
        Ok(list)
    }

    fn __bool__(&self) -> bool {
        self.report.lost.is_empty()
    }

    fn __repr__(&self) -> String {
        let Repaired { path, rebuilt, rows, lost, .. } = &self.report;
        let (path, rebuilt, lost) = (path.display(), rebuilt.len(), lost.len());
        format!("<RepairReport {path}: {rows} rows, {rebuilt} caches rebuilt, {lost} parts of the log lost>")
    }
}

/// Repair the database in a directory, which must not be open elsewhere. Damaged caches are built again in place. If the
/// log itself is damaged, everything readable goes to the new directory `into`, under the same ids, and what is lost is
/// listed; the old directory is left as it is.
///
/// Parameters
/// ----------
/// path : str or os.PathLike
/// into : str or os.PathLike, optional
///     A new or empty directory. Not used if the log is whole.
/// space : {'cosine', 'l2', 'ip'}, optional
///     How the default collection measures distance; needed only if not even a manifest is left that tells it.
///
/// Returns
/// -------
/// RepairReport
///     True if nothing is lost.
///
/// Raises
/// ------
/// CorruptionError
///     The log is damaged, and no `into` is given.
/// InvalidError
///     `path` is no database, or `into` is not empty.
///
/// Examples
/// --------
/// >>> import nopokedb
/// >>> with NoPokeDB(dim=2, path="repair") as db:
/// ...     ids = db.add_many([[1, 0], [0, 1]])
/// >>> report = nopokedb.repair("repair", into="repaired")
/// >>> report.path.endswith("repair"), report.rows, report.lost
/// (True, 2, [])
#[pyfunction]
#[pyo3(signature = (path, into=None, *, space=None))]
pub(crate) fn repair(
    py: Python<'_>,
    path: &Bound<'_, PyAny>,
    into: Option<&Bound<'_, PyAny>>,
    space: Option<&Bound<'_, PyAny>>,
) -> PyResult<RepairReport> {
    let path = rows::path(path)?;
    let (into, metric) = (into.map(rows::path).transpose()?, space.map(metric).transpose()?);
    let report = without_gil(py, || Database::repair(path, &Repair { into, metric, ..Repair::default() }))?;
    Ok(RepairReport { report })
}
