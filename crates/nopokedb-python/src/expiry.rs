//! When rows expire: `ttl=` and `expires_at=`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nopokedb::Expiry;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyString};

use crate::errors::{caused_by, invalid};
use crate::rows::{each, shown};

/// The expiry of one row; `None` if neither is given.
pub(crate) fn one(ttl: Option<&Bound<'_, PyAny>>, expires_at: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Expiry>> {
    match (ttl, expires_at) {
        (None, None) => Ok(None),
        (Some(ttl), None) => after("ttl", ttl).map(Some),
        (None, Some(at)) => instant("expires_at", at).map(Some),
        (Some(ttl), Some(_)) => Err(invalid(ttl.py(), "ttl and expires_at say the same; give one of them")),
    }
}

/// The expiries of `n` rows: one for all, or a list of one for each.
pub(crate) fn many(
    n: usize,
    ttl: Option<&Bound<'_, PyAny>>,
    expires_at: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<Vec<Option<Expiry>>>> {
    let (name, list, relative) = match (ttl, expires_at) {
        (Some(ttl), None) if is_list(ttl) => ("ttl", ttl, true),
        (None, Some(at)) if is_list(at) => ("expires_at", at, false),
        _ => return Ok(one(ttl, expires_at)?.map(|expiry| vec![Some(expiry); n])),
    };
    let convert = |i: usize, item: &Bound<'_, PyAny>| {
        let name = format!("{name}[{i}]");
        match item.is_none() {
            true => Ok(None),
            false => if relative { after(&name, item) } else { instant(&name, item) }.map(Some),
        }
    };
    each(list, name, Some(n), convert).map(Some)
}

fn is_list(value: &Bound<'_, PyAny>) -> bool {
    let one =
        value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyDict>();
    !one && value.try_iter().is_ok()
}

/// A number of seconds or a timedelta.
fn after(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Expiry> {
    let py = value.py();
    let seconds = match value.getattr_opt(intern!(py, "total_seconds"))? {
        Some(total) => total.call0()?.extract::<f64>().ok(),
        None => number(value),
    };
    match seconds {
        Some(seconds) if seconds == f64::INFINITY => Ok(Expiry::Never),
        Some(seconds) if seconds >= 0.0 => {
            Ok(Expiry::After(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)))
        }
        _ => {
            let wanted = "must be a number of seconds, 0 or more, or a timedelta";
            Err(invalid(py, format!("{name} {wanted}, got {}", shown(value))))
        }
    }
}

/// A datetime (one without a time zone is local time, as everywhere in Python) or seconds since 1970.
fn instant(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Expiry> {
    let py = value.py();
    let seconds = match value.getattr_opt(intern!(py, "timestamp"))? {
        Some(timestamp) => {
            let seconds = timestamp.call0().map_err(|cause| {
                let message =
                    format!("{name} lies outside of the calendar of local time, give it a time zone: {}", shown(value));
                caused_by(py, invalid(py, message), cause)
            })?;
            seconds.extract::<f64>().ok()
        }
        None => number(value),
    };
    match seconds {
        Some(seconds) if seconds == f64::INFINITY => Ok(Expiry::Never),
        Some(seconds) if !seconds.is_nan() => {
            let since = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
            // A float is seldom the microsecond that it stands for, and may lie just below it.
            let nearest = |since: Duration| Duration::new(since.as_secs(), since.subsec_micros() * 1_000);
            let since = since.checked_add(Duration::from_nanos(500)).map_or(since, nearest);
            let last = || invalid(py, format!("{name} lies too far ahead; float(\"inf\") is never"));
            UNIX_EPOCH.checked_add(since).ok_or_else(last).map(|at: SystemTime| Expiry::At(at))
        }
        _ => {
            let wanted = "must be a datetime or a number of seconds since 1970";
            Err(invalid(py, format!("{name} {wanted}, got {}", shown(value))))
        }
    }
}

fn number(value: &Bound<'_, PyAny>) -> Option<f64> {
    if value.is_instance_of::<PyBool>() || value.is_instance_of::<PyString>() {
        return None;
    }
    value.extract::<f64>().ok()
}
