//! What a query searches the documents for.

use nopokedb::{Fusion, Text, TextMode, TextSyntax};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::asked::number;
use crate::errors::{invalid, type_name};
use crate::rows;

/// The arguments about words; `None` is the default.
#[derive(Default)]
pub(crate) struct Words<'py> {
    pub(crate) text: Option<Bound<'py, PyAny>>,
    pub(crate) mode: Option<Bound<'py, PyAny>>,
    pub(crate) syntax: Option<Bound<'py, PyAny>>,
    pub(crate) fusion: Option<Bound<'py, PyAny>>,
    pub(crate) highlight: Option<Bound<'py, PyAny>>,
}

impl Words<'_> {
    /// The words, if there are any.
    pub(crate) fn text(&self) -> PyResult<Option<Text>> {
        let Some(text) = &self.text else { return self.without_text() };
        let mut words = Text::new(rows::document("text", text)?);
        if let Some(mode) = &self.mode {
            words.mode = one_of("text_mode", mode, &[("any", TextMode::Any), ("all", TextMode::All)])?;
        }
        if let Some(syntax) = &self.syntax {
            words.syntax = one_of("text_syntax", syntax, &[("plain", TextSyntax::Plain), ("fts5", TextSyntax::Fts5)])?;
        }
        if let Some(marks) = &self.highlight {
            words.marks = marks.extract::<(String, String)>().map_err(|_| {
                let got = type_name(marks);
                invalid(
                    marks.py(),
                    format!("highlight must be two str, what to put before and after a word, got {got}"),
                )
            })?;
        }
        Ok(Some(words))
    }

    fn without_text(&self) -> PyResult<Option<Text>> {
        let given = [
            ("text_mode", &self.mode),
            ("text_syntax", &self.syntax),
            ("highlight", &self.highlight),
            ("fusion", &self.fusion),
        ];
        match given.into_iter().find_map(|(name, value)| value.as_ref().map(|value| (name, value))) {
            Some((name, value)) => {
                Err(invalid(value.py(), format!("{name} says what to do with text; give text as well")))
            }
            None => Ok(None),
        }
    }

    /// How the orders by words and by vectors become one.
    pub(crate) fn fusion(&self) -> PyResult<Fusion> {
        let Some(fusion) = &self.fusion else { return Ok(Fusion::default()) };
        let Ok(dict) = fusion.cast::<PyDict>() else {
            return one_of("fusion", fusion, &[("rrf", Fusion::default())]);
        };
        let (mut constant, mut vector, mut text) = (None, None, None);
        for (name, value) in dict {
            let place = match name.extract::<String>().as_deref() {
                Ok("k") => &mut constant,
                Ok("vector") => &mut vector,
                Ok("text") => &mut text,
                _ => return Err(unknown_fusion(fusion)),
            };
            *place = Some(number("a number in fusion", &value)?);
        }
        match (constant, vector, text) {
            (Some(k), None, None) => Ok(Fusion::Rrf { k }),
            (None, Some(vector), Some(text)) => Ok(Fusion::Weights { vector, text }),
            _ => Err(unknown_fusion(fusion)),
        }
    }
}

fn unknown_fusion(fusion: &Bound<'_, PyAny>) -> PyErr {
    let shown = fusion.repr().map_or_else(|_| "?".into(), |repr| repr.to_string());
    let message = format!("fusion must be \"rrf\", {{\"k\": 60}} or {{\"vector\": 0.7, \"text\": 0.3}}, got {shown}");
    invalid(fusion.py(), message)
}

fn one_of<T: Copy>(name: &str, value: &Bound<'_, PyAny>, choices: &[(&str, T)]) -> PyResult<T> {
    let given = value.cast::<PyString>().ok().map(ToString::to_string);
    let found = choices.iter().find(|(choice, _)| given.as_deref() == Some(*choice));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
        let shown = value.repr().map_or_else(|_| "?".into(), |repr| repr.to_string());
        match name {
            "fusion" => unknown_fusion(value),
            _ => invalid(value.py(), format!("{name} must be {}, got {shown}", names.join(" or "))),
        }
    })
}
