//! Long calls that say how far they are: to a function of the caller's, or to a bar on stderr.
//!
//! Invariant: whatever the function raises ends the call and comes out of it; so does Ctrl-C, where there is no function as well.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::errors::{invalid, type_name};

/// How often a call that tells nobody looks whether Ctrl-C was pressed.
const SIGNAL_CHECK: Duration = Duration::from_millis(50);

/// What is told the progress, if anything is.
#[derive(Default)]
pub(crate) struct Progress {
    function: Option<Py<PyAny>>,
    raised: Option<PyErr>,
    looked: Option<Instant>,
}

impl Progress {
    /// `True` is a bar called `what`; `None` and `False` are nothing.
    pub(crate) fn new(what: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Progress> {
        let Some(value) = value else { return Ok(Progress::default()) };
        let py = value.py();
        let function = match value.cast::<PyBool>() {
            Ok(on) if !on.is_true() => return Ok(Progress::default()),
            Ok(_) => py.import("nopokedb.progress")?.getattr("Bar")?.call1((what,))?,
            Err(_) if value.is_callable() => value.clone(),
            Err(_) => {
                let message = format!("progress must be True or a function of (done, total), got {}", type_name(value));
                return Err(invalid(py, message));
            }
        };
        Ok(Progress { function: Some(function.unbind()), ..Progress::default() })
    }

    /// Whether anything is.
    pub(crate) fn is_told(&self) -> bool {
        self.function.is_some()
    }

    /// Says that `done` of `total` are done. The caller holds no lock of Python's.
    pub(crate) fn tell(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        let Some(function) = &self.function else {
            // What is done is not taken back by a signal: it comes when the call returns.
            return if done >= total { ControlFlow::Continue(()) } else { self.listen() };
        };
        let told = Python::attach(|py| {
            py.check_signals()?;
            function.call1(py, (done, total)).map(drop)
        });
        self.unless_raised(told)
    }

    /// Looks whether Ctrl-C was pressed, where there is nothing to tell.
    pub(crate) fn listen(&mut self) -> ControlFlow<()> {
        if self.looked.is_some_and(|at| at.elapsed() < SIGNAL_CHECK) {
            return ControlFlow::Continue(());
        }
        self.looked = Some(Instant::now());
        let heard = Python::attach(|py| py.check_signals());
        self.unless_raised(heard)
    }

    fn unless_raised(&mut self, told: PyResult<()>) -> ControlFlow<()> {
        match told {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.raised = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// The call's outcome, or what the function raised.
    pub(crate) fn outcome<T>(self, outcome: PyResult<T>) -> PyResult<T> {
        self.raised.map_or(outcome, Err)
    }
}
