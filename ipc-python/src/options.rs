//! Options of a send and headers of a message: keyword arguments in Python, `SendOptions` in Rust.

use std::time::Duration;

use ipc_queue::{Headers, OverflowPolicy, Priority, SendOptions};
use pyo3::exceptions::{PyBufferError, PyTypeError, PyUnicodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMapping, PyString};

use crate::arguments::named;
use crate::payload::Payload;
use crate::waiting::seconds;

pub fn send_options(given: Option<&Bound<'_, PyDict>>) -> PyResult<SendOptions> {
    let mut options = SendOptions::new();
    for (name, value) in given.into_iter().flatten() {
        let name = name.extract::<String>()?;
        options = with_option(options, &name, &value).map_err(|error| {
            let says_enough = !is_about_form(&error, &value);
            if says_enough {
                error
            } else {
                named(&name, &value, error)
            }
        })?;
    }
    Ok(options)
}

/// Returns whether an error is about the type of a value or its characters.
fn is_about_form(error: &PyErr, value: &Bound<'_, PyAny>) -> bool {
    let py = value.py();
    error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyUnicodeError>(py)
        || error.is_instance_of::<PyBufferError>(py)
}

fn with_option(
    mut options: SendOptions,
    name: &str,
    value: &Bound<'_, PyAny>,
) -> PyResult<SendOptions> {
    let time = || -> PyResult<Duration> { seconds(name, value.extract()?) };
    Ok(match name {
        "priority" => options.priority(priority(value)?),
        "delay" => options.delay(time()?),
        "expires_in" => options.expires_in(time()?),
        "key" => match value.cast::<PyString>() {
            Ok(text) => options.key(text.to_cow()?.as_bytes()),
            Err(_) => options.key(Payload::of(value)?.bytes()),
        },
        "headers" => {
            options.headers = headers(value)?;
            options
        }
        "drop_oldest" if value.extract()? => {
            options.overflow = OverflowPolicy::DropOldest;
            options
        }
        "drop_oldest" => options,
        other => return Err(PyTypeError::new_err(format!("no option {other:?}"))),
    })
}

fn priority(value: &Bound<'_, PyAny>) -> PyResult<Priority> {
    Ok(match &value.extract::<String>()?[..] {
        "low" => Priority::Low,
        "normal" => Priority::Normal,
        "high" => Priority::High,
        "urgent" => Priority::Urgent,
        other => {
            let text = format!("priority {other:?}: \"low\", \"normal\", \"high\" or \"urgent\"");
            return Err(PyValueError::new_err(text));
        }
    })
}

/// Takes any mapping.
fn headers(given: &Bound<'_, PyAny>) -> PyResult<Headers> {
    let mut headers = Headers::new();
    let given = given.cast::<PyMapping>()?;
    for item in given.items()? {
        let (name, value): (String, Bound<'_, PyAny>) = item.extract()?;
        let inserted = match value.cast::<PyString>() {
            Ok(text) => headers.insert(&name, text.to_cow()?.as_bytes()),
            Err(_) => headers.insert(&name, Payload::of(&value)?.bytes()),
        };
        inserted.map_err(|error| PyValueError::new_err(error.to_string()))?;
    }
    Ok(headers)
}

/// The headers of a message.
pub fn headers_dict<'py>(py: Python<'py>, headers: &Headers) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in headers.iter() {
        dict.set_item(name, PyBytes::new(py, value))?;
    }
    Ok(dict)
}
