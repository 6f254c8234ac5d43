//! Named collections.

use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::database::NoPokeDB;
use crate::errors::invalid;
use crate::opened::Named;
use crate::rows;

#[pymethods]
impl NoPokeDB {
    #[doc = include_str!("docs/collection.txt")]
    #[pyo3(signature = (name, dim=None, space=None, *, M=None, ef_construction=None, model=None, tokenizer=None))]
    #[allow(clippy::too_many_arguments, non_snake_case)] // keyword arguments in Python
    fn collection(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        dim: Option<&Bound<'_, PyAny>>,
        space: Option<&Bound<'_, PyAny>>,
        M: Option<&Bound<'_, PyAny>>,
        ef_construction: Option<&Bound<'_, PyAny>>,
        model: Option<&Bound<'_, PyAny>>,
        tokenizer: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<NoPokeDB> {
        let made = Named { name, dim, space, m: M, ef_construction, model, tokenizer };
        Ok(NoPokeDB { opened: OnceLock::from(self.opened(py)?.named(py, &made)?) })
    }

    /// The names of all collections, sorted. The rows of the database itself are the collection `default`.
    ///
    /// Returns
    /// -------
    /// list of str
    ///
    /// Raises
    /// ------
    /// ClosedError
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="collections")
    /// >>> images = db.collection("images", dim=4)
    /// >>> db.collections()
    /// ['default', 'images']
    fn collections(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.opened(py)?.run(py, |o| o.database.collections())
    }

    /// Drop a collection with all its rows; False if there is none of that name. Its handles raise ClosedError from then on.
    ///
    /// Parameters
    /// ----------
    /// name : str
    ///
    /// Returns
    /// -------
    /// bool
    ///
    /// Raises
    /// ------
    /// InvalidError
    ///     `name` is `default`, which holds the rows of the database itself.
    /// ReadOnlyError, StorageFullError, StorageError, ClosedError
    ///
    /// Examples
    /// --------
    /// >>> db = NoPokeDB(dim=2, path="drop_collection")
    /// >>> images = db.collection("images", dim=4)
    /// >>> db.drop_collection("images"), db.drop_collection("images")
    /// (True, False)
    fn drop_collection(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let name = rows::document("name", name)?;
        self.opened(py)?.run(py, |o| o.database.drop_collection(&name))
    }

    #[doc = include_str!("docs/create_collections.txt")]
    #[pyo3(signature = (names, dim, space=None, *, M=None, ef_construction=None, model=None, tokenizer=None))]
    #[allow(clippy::too_many_arguments, non_snake_case)] // keyword arguments in Python
    fn create_collections(
        &self,
        py: Python<'_>,
        names: &Bound<'_, PyAny>,
        dim: &Bound<'_, PyAny>,
        space: Option<&Bound<'_, PyAny>>,
        M: Option<&Bound<'_, PyAny>>,
        ef_construction: Option<&Bound<'_, PyAny>>,
        model: Option<&Bound<'_, PyAny>>,
        tokenizer: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<String>> {
        let opened = self.opened(py)?;
        let made = Named { name: names, dim: Some(dim), space, m: M, ef_construction, model, tokenizer };
        let options = made.options(py, "", None)?;
        if names.is_instance_of::<PyString>() {
            return Err(invalid(
                py,
                "names must be a list of str, got one str; for one collection there is collection()",
            ));
        }
        let names =
            names.try_iter()?.map(|name| rows::document("a name", &name?)).collect::<PyResult<Vec<String>>>()?;
        opened.run(py, |o| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            o.database.create_collections(&names, &options)
        })
    }
}
