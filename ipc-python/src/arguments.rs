//! Arguments from Python: what is wrong with one says its name and its value.

use std::fmt::Display;

use pyo3::exceptions::{PyBufferError, PyOverflowError, PyTypeError, PyUnicodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::errors;

/// The most characters of a value that an error shows.
const SHOWN: usize = 80;

/// Names the argument, or the setting, in an error about its type or its range.
///
/// Other errors, such as those of a value's own methods, stay as they are.
pub fn named(what: &dyn Display, value: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let py = value.py();
    if error.is_instance_of::<PyTypeError>(py) {
        return PyTypeError::new_err(format!("{what}: {}", error.value(py)));
    }
    if error.is_instance_of::<PyBufferError>(py) {
        return PyBufferError::new_err(format!("{what}: {}", error.value(py)));
    }
    if error.is_instance_of::<PyUnicodeError>(py) {
        return PyValueError::new_err(format!("{what}: {}", error.value(py)));
    }
    let text = || format!("{what} is {}, which is out of range", shown(value));
    if error.is_instance_of::<PyOverflowError>(py) {
        return errors::new(py, "BadSettings", &text(), &[]);
    }
    if error.is_instance_of::<PyValueError>(py) {
        return errors::new(py, "BadSettings", error.value(py), &[]);
    }
    error
}

/// A number of things. One that is too large for this machine means as many as there are.
pub fn count(what: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let error = match value.extract() {
        Ok(count) => return Ok(count),
        Err(error) => error,
    };
    let py = value.py();
    if !error.is_instance_of::<PyOverflowError>(py) {
        return Err(named(&what, value, error));
    }
    if value.lt(0)? {
        let text = format!("{what} is {}, which is less than 0", shown(value));
        return Err(PyValueError::new_err(text));
    }
    Ok(usize::MAX)
}

/// A number of seconds. One that is too large for a float is infinite.
#[derive(Clone, Copy)]
pub struct Seconds(pub f64);

impl<'py> FromPyObject<'_, 'py> for Seconds {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract() {
            Ok(seconds) => Ok(Self(seconds)),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                let is_past = object.lt(0)?;
                Ok(Self(if is_past {
                    f64::NEG_INFINITY
                } else {
                    f64::INFINITY
                }))
            }
            Err(error) => Err(error),
        }
    }
}

/// Any text. Characters that are not Unicode are replaced.
#[derive(Default)]
pub struct LossyText(pub String);

impl<'py> FromPyObject<'_, 'py> for LossyText {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let text = object.cast::<PyString>()?;
        Ok(Self(text.to_string_lossy().into_owned()))
    }
}

/// The name or the address of something.
pub struct NameText(pub String);

impl<'py> FromPyObject<'_, 'py> for NameText {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let Ok(text) = object.cast::<PyString>() else {
            let kind = object.get_type().name()?;
            let text = format!("a name or an address is a str, not {kind}");
            return Err(PyTypeError::new_err(text));
        };
        match text.to_cow() {
            Ok(text) => Ok(Self(text.into_owned())),
            Err(_) => {
                let text = format!(
                    "{:?} has characters that are not Unicode",
                    text.to_string_lossy()
                );
                Err(errors::new(py, "BadAddress", &text, &[]))
            }
        }
    }
}

fn shown(value: &Bound<'_, PyAny>) -> String {
    // The text of a huge number may be refused, as too long.
    let text = value.repr().map(|text| text.to_string_lossy().into_owned());
    let text = text.unwrap_or_else(|_| "a huge value".to_owned());
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
