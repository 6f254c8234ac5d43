//! Python bindings of NoPokeDB: translation only. A rule that could be broken here and not in Rust is in the wrong crate.
//!
//! | file | what it translates |
//! |---|---|
//! | `database.rs` | the class `NoPokeDB`: opening, closing, collections, attributes |
//! | `reads.rs`, `writes.rs` | its methods that ask, and those that change rows |
//! | `batch.rs` | several writes as one; single keys of metadata |
//! | `upkeep.rs` | checking what is stored, copying it, mending it |
//! | `opened.rs` | opening a directory; the one place that releases the GIL |
//! | `errors.rs` | error kinds to exceptions, in one table |
//! | `vectors.rs` | arrays and lists to rows of float32 |
//! | `asked.rs` | what a query asks for: filters, limits, what hits carry |
//! | `progress.rs` | how far a long call is |
//! | `rerank.rs` | hits in the order of the caller's own function |
//! | `words.rs` | what a query searches documents for |
//! | `expiry.rs` | when rows expire |
//! | `ids.rs` | ids, and what is done where they exist |
//! | `rows.rs` | counts, seconds, documents, lists of metadata |
//! | `json/` | dicts to metadata and back |
//! | `answers.rs` | hits, rows and counters to dicts |
//!
//! Free-threaded Python is not declared: the wheel is abi3, and no race check of the bindings has been made.

// The docstrings in docs/ are written for Python's help() and doctest, not as Markdown.
#![allow(clippy::doc_lazy_continuation, clippy::doc_markdown)]

mod answers;
mod asked;
mod batch;
mod collections;
mod database;
mod errors;
mod expiry;
mod ids;
mod json;
mod opened;
mod progress;
mod reads;
mod rerank;
mod rows;
mod upkeep;
mod vectors;
mod words;
mod writes;

use pyo3::prelude::*;

/// The compiled half of the package `nopokedb`.
#[pymodule(gil_used = true)]
fn _nopokedb(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", python_version())?;
    module.add_class::<database::NoPokeDB>()?;
    module.add_class::<batch::Batch>()?;
    module.add_class::<upkeep::CheckReport>()?;
    module.add_class::<upkeep::BackupReport>()?;
    module.add_class::<upkeep::RepairReport>()?;
    module.add_function(wrap_pyfunction!(upkeep::repair, module)?)?;
    errors::register(module)
}

/// This crate's version as Python spells it: `1.0.0-alpha.1` is `1.0.0a1`, as the wheel's name says too.
fn python_version() -> String {
    env!("CARGO_PKG_VERSION").replace("-alpha.", "a").replace("-beta.", "b").replace("-rc.", "rc")
}
