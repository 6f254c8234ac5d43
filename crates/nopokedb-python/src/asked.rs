//! What a query asks for: filters, limits, what hits carry.

use nopokedb::{Diversity, Error, ErrorKind, Filter, Grouping, Id, Include, Query, Subject};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyList, PyString, PyTuple};

use crate::errors::{caused_by, invalid, raise, type_name};
use crate::rerank::Rerank;
use crate::words::Words;
use crate::{ids, json, rows};

/// The arguments of `query` and `query_many`; `None` is the default. Those that are only given by name are listed once, in
/// [`Asked::new`].
#[derive(Default)]
pub(crate) struct Asked<'py> {
    k: Option<Bound<'py, PyAny>>,
    ef: Option<Bound<'py, PyAny>>,
    pub(crate) filter: Option<Bound<'py, PyAny>>,
    min_score: Option<Bound<'py, PyAny>>,
    max_distance: Option<Bound<'py, PyAny>>,
    offset: Option<Bound<'py, PyAny>>,
    include: Option<Bound<'py, PyAny>>,
    exact: Option<Bound<'py, PyAny>>,
    mmr: Option<Bound<'py, PyAny>>,
    group_by: Option<Bound<'py, PyAny>>,
    group_size: Option<Bound<'py, PyAny>>,
    positive: Option<Bound<'py, PyAny>>,
    negative: Option<Bound<'py, PyAny>>,
    rerank: Option<Bound<'py, PyAny>>,
    rerank_factor: Option<Bound<'py, PyAny>>,
    recall: Option<Bound<'py, PyAny>>,
    explain: Option<Bound<'py, PyAny>>,
    words: Words<'py>,
}

impl<'py> Asked<'py> {
    /// What `method` was called with.
    pub(crate) fn new(
        method: &str,
        k: Option<&Bound<'py, PyAny>>,
        ef: Option<&Bound<'py, PyAny>>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Asked<'py>> {
        let mut asked = Asked { k: k.cloned(), ef: ef.cloned(), ..Asked::default() };
        for (name, value) in named.into_iter().flatten() {
            let place = match name.extract::<String>()?.as_str() {
                "where" => &mut asked.filter,
                "min_score" => &mut asked.min_score,
                "max_distance" => &mut asked.max_distance,
                "offset" => &mut asked.offset,
                "include" => &mut asked.include,
                "exact" => &mut asked.exact,
                "mmr" => &mut asked.mmr,
                "group_by" => &mut asked.group_by,
                "group_size" => &mut asked.group_size,
                "positive" => &mut asked.positive,
                "negative" => &mut asked.negative,
                "rerank" => &mut asked.rerank,
                "rerank_factor" => &mut asked.rerank_factor,
                "recall" => &mut asked.recall,
                "explain" if method == "query" => &mut asked.explain,
                "text" => &mut asked.words.text,
                "text_mode" => &mut asked.words.mode,
                "text_syntax" => &mut asked.words.syntax,
                "fusion" => &mut asked.words.fusion,
                "highlight" => &mut asked.words.highlight,
                other => {
                    let message = format!("{method}() got an unexpected keyword argument '{other}'");
                    return Err(PyTypeError::new_err(message));
                }
            };
            *place = Some(value).filter(|value| !value.is_none());
        }
        Ok(asked)
    }

    /// The query, with the beam width `ef` if none is given.
    pub(crate) fn query(&self, ef: usize) -> PyResult<Query> {
        let usual = Query::default();
        let exact = self.exact.as_ref().map_or(Ok(false), |exact| flag("exact", exact))?;
        Ok(Query {
            k: self.k.as_ref().map_or(Ok(usual.k), |k| rows::count("k", 1, k))?,
            ef: match (&self.ef, &self.recall) {
                (Some(ef), _) => Some(rows::count("ef", 1, ef)?),
                (None, Some(_)) => None,
                (None, None) => Some(ef).filter(|_| !exact),
            },
            recall: self.recall.as_ref().map(|recall| number("recall", recall)).transpose()?,
            filter: self.filter.as_ref().map(filter).transpose()?,
            min_score: self.min_score.as_ref().map(|limit| number("min_score", limit)).transpose()?,
            max_distance: self.max_distance.as_ref().map(|limit| number("max_distance", limit)).transpose()?,
            offset: self.offset.as_ref().map_or(Ok(0), |offset| rows::count("offset", 0, offset))?,
            include: include(self.include.as_ref())?,
            exact,
            diversity: self.mmr.as_ref().map_or(Ok(None), diversity)?,
            group: self.group()?,
            positive: self.positive.as_ref().map_or(Ok(Vec::new()), |ids| examples("positive", ids))?,
            text: self.words.text()?,
            fusion: self.words.fusion()?,
            negative: self.negative.as_ref().map_or(Ok(Vec::new()), |ids| examples("negative", ids))?,
        })
    }

    /// Whether the caller wants to know how it was answered.
    pub(crate) fn explains(&self) -> PyResult<bool> {
        self.explain.as_ref().map_or(Ok(false), |explain| flag("explain", explain))
    }

    fn group(&self) -> PyResult<Option<Grouping>> {
        let size = self.group_size.as_ref().map(|size| rows::count("group_size", 1, size)).transpose()?;
        match (&self.group_by, size) {
            (None, None) => Ok(None),
            (Some(field), size) => {
                Ok(Some(Grouping { field: rows::document("group_by", field)?, size: size.unwrap_or(1) }))
            }
            (None, Some(_)) => Err(PyTypeError::new_err("group_size needs group_by: the field to group by")),
        }
    }

    /// What is to put the hits into another order, if anything is.
    pub(crate) fn rerank(&self) -> PyResult<Option<Rerank<'py>>> {
        let factor = self.rerank_factor.as_ref().map(|factor| rows::count("rerank_factor", 1, factor)).transpose()?;
        match (&self.rerank, factor) {
            (None, None) => Ok(None),
            (Some(callable), factor) => Rerank::new(callable, factor).map(Some),
            (None, Some(_)) => Err(PyTypeError::new_err("rerank_factor needs rerank: what to call with the hits")),
        }
    }

    /// Takes out the filters of `query_many` if there is one for each of its vectors.
    pub(crate) fn filter_each(&mut self) -> PyResult<Option<Vec<Option<Filter>>>> {
        let Some(list) = self.filter.take_if(|f| f.is_instance_of::<PyList>() || f.is_instance_of::<PyTuple>()) else {
            return Ok(None);
        };
        let one = |item: PyResult<Bound<'py, PyAny>>| match item? {
            item if item.is_none() => Ok(None),
            item => filter(&item).map(Some),
        };
        list.try_iter()?.map(one).collect::<PyResult<_>>().map(Some)
    }
}

/// A filter: a dict or a string.
pub(crate) fn filter(value: &Bound<'_, PyAny>) -> PyResult<Filter> {
    let py = value.py();
    if let Ok(dict) = value.cast::<PyDict>() {
        let text = json::filter_text(dict).map_err(|(message, cause)| match cause {
            Some(cause) => caused_by(py, refused(py, message), cause),
            None => refused(py, message),
        })?;
        let value = serde_json::from_str(&text).map_err(|e| refused(py, format!("filter is not JSON: {e}")))?;
        return Filter::from_json(&value).map_err(|error| raise(py, error));
    }
    let Ok(text) = value.cast::<PyString>() else {
        return Err(refused(py, format!("a filter must be a dict or a str, got {}", type_name(value))));
    };
    let text = json::text_of(text).map_err(|cause| {
        caused_by(py, refused(py, "the filter holds half of a surrogate pair, which is no character"), cause)
    })?;
    Filter::parse_str(&text).map_err(|error| raise(py, error))
}

/// What hits carry besides id, score and distance: names in any iterable; metadata if nothing is said.
pub(crate) fn include(value: Option<&Bound<'_, PyAny>>) -> PyResult<Include> {
    let Some(value) = value else { return Ok(Include::default()) };
    let mut include = Include::NONE;
    named(value, "\"metadata\", \"document\", \"vector\" and \"snippet\"", |name| {
        if name == "snippet" {
            include.snippet = true;
            return true;
        }
        take(&mut include, name)
    })?;
    Ok(include)
}

/// What rows carry besides the id.
#[derive(Clone, Copy)]
pub(crate) struct Carried {
    pub(crate) include: Include,
    pub(crate) expires_at: bool,
}

/// What rows carry besides the id: names in any iterable; metadata if nothing is said.
pub(crate) fn carried(value: Option<&Bound<'_, PyAny>>) -> PyResult<Carried> {
    let mut carried = Carried { include: Include::default(), expires_at: false };
    let Some(value) = value else { return Ok(carried) };
    carried.include = Include::NONE;
    named(value, "\"metadata\", \"document\", \"vector\" and \"expires_at\"", |name| {
        if name == "expires_at" {
            carried.expires_at = true;
            return true;
        }
        take(&mut carried.include, name)
    })?;
    Ok(carried)
}

/// Takes a name that hits and rows have in common.
fn take(include: &mut Include, name: &str) -> bool {
    match name {
        "metadata" => include.metadata = true,
        "document" => include.document = true,
        "vector" => include.vector = true,
        _ => return false,
    }
    true
}

/// Hands each name to `take`, which says whether it is one of `known`.
fn named(value: &Bound<'_, PyAny>, known: &str, mut take: impl FnMut(&str) -> bool) -> PyResult<()> {
    let refused = |found: &str| invalid(value.py(), format!("include must be a list of some of {known}, got {found}"));
    let items = value.try_iter().ok().filter(|_| !value.is_instance_of::<PyString>());
    let items = items.ok_or_else(|| refused(&value.repr().map_or_else(|_| "?".into(), |r| r.to_string())))?;
    for item in items {
        let item = item?;
        if !item.extract::<String>().is_ok_and(|name| take(&name)) {
            return Err(refused(&item.repr()?.to_string_lossy()));
        }
    }
    Ok(())
}

/// How unlike each other hits are to be: a lambda, or a dict of it and of how many rows to choose from.
fn diversity(value: &Bound<'_, PyAny>) -> PyResult<Option<Diversity>> {
    const USUAL: Diversity = Diversity { lambda: 0.5, fetch: None };
    if let Ok(on) = value.cast::<PyBool>() {
        return Ok(on.is_true().then_some(USUAL));
    }
    let Ok(dict) = value.cast::<PyDict>() else {
        return Ok(Some(Diversity { lambda: number("mmr", value)?, ..USUAL }));
    };
    let mut asked = USUAL;
    for (name, value) in dict {
        match name.extract::<String>().as_deref() {
            Ok("lambda") => asked.lambda = number("the lambda of mmr", &value)?,
            Ok("fetch") if value.is_none() => asked.fetch = None,
            Ok("fetch") => asked.fetch = Some(rows::count("the fetch of mmr", 1, &value)?),
            _ => {
                let message = format!("mmr takes \"lambda\" and \"fetch\", got {}", name.repr()?.to_string_lossy());
                return Err(invalid(value.py(), message));
            }
        }
    }
    Ok(Some(asked))
}

/// The ids of examples.
fn examples(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<Id>> {
    if ids::is_many(value) { ids::ids(value, None) } else { Ok(vec![ids::id(name, value)?]) }
}

/// A limit. Rounded to what scores and distances are, which are f32.
pub(crate) fn number(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f32> {
    let py = value.py();
    let number = value.extract::<f64>();
    #[allow(clippy::cast_possible_truncation)] // beyond f32 is infinite, which no distance passes
    number.map(|number| number as f32).map_err(|cause| {
        caused_by(py, invalid(py, format!("{name} must be a number, got {}", type_name(value))), cause)
    })
}

/// A switch: True or False (or NumPy's).
fn flag(name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = value.py();
    value.extract::<bool>().map_err(|cause| {
        caused_by(py, invalid(py, format!("{name} must be True or False, got {}", type_name(value))), cause)
    })
}

fn refused(py: Python<'_>, message: impl Into<String>) -> PyErr {
    raise(py, Error::new(ErrorKind::Invalid(Subject::Filter), message))
}
