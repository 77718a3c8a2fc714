//! Settings of queues: keyword arguments in Python, `QueueOptions` in Rust.

use std::time::Duration;

use ipc_queue::transport::OpenMode;
use ipc_queue::{Backoff, ByteQueue, QueueError, QueueOptions, QueueSettings};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt};

use crate::arguments::{Seconds, named};
use crate::waiting::seconds;

/// What a Python program requests of the queue that it opens.
#[derive(Clone, Debug)]
pub struct Wanted {
    options: QueueOptions,
    mode: OpenMode,
    /// The payload name of a queue that is created.
    payload: String,
    /// `true` if an existing queue may carry any payloads.
    any_payload: bool,
}

impl Wanted {
    pub fn new(
        mode: &str,
        payload: &str,
        any_payload: bool,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let mode = match mode {
            "open" => OpenMode::Open,
            "create" => OpenMode::Create,
            "open or create" => OpenMode::OpenOrCreate,
            other => {
                let text = format!("mode {other:?}: \"open\", \"create\" or \"open or create\"");
                return Err(PyValueError::new_err(text));
            }
        };
        let mut options = QueueOptions::new();
        for (name, value) in settings.into_iter().flatten() {
            let name = name.extract::<String>()?;
            let what = format!("invalid queue setting: {name}");
            options = with_setting(options, &name, &value)
                .map_err(|error| named(&what, &value, error))?;
        }
        Ok(Self {
            options,
            mode,
            any_payload,
            payload: payload.to_owned(),
        })
    }

    /// First opens an existing queue, whatever its payload name. Creates the queue with the
    /// requested name only if it does not exist.
    pub fn open(&self, address: &str) -> Result<ByteQueue, QueueError> {
        /// Other processes may remove and create the queue between the attempts, more than once.
        const TRIES: usize = 10;
        let named = || self.options.clone().type_name(&self.payload);
        if !self.any_payload {
            return named().mode(self.mode).open_bytes(address);
        }
        let mut tries = 0;
        loop {
            if self.mode != OpenMode::Create {
                match self.options.open_any(address) {
                    Err(QueueError::NotFound { .. }) if self.mode == OpenMode::OpenOrCreate => {}
                    opened => return opened,
                }
            }
            tries += 1;
            match named().mode(self.mode).open_bytes(address) {
                // Another process has just created it.
                Err(QueueError::PayloadDiffers { .. }) if tries < TRIES => {}
                opened => return opened,
            }
        }
    }

    /// Returns the request for a forked copy: it opens the queue that this process has created.
    pub fn reopening(&self) -> Self {
        Self {
            mode: OpenMode::Open,
            any_payload: true,
            ..self.clone()
        }
    }
}

fn with_setting(
    options: QueueOptions,
    name: &str,
    value: &Bound<'_, PyAny>,
) -> PyResult<QueueOptions> {
    let time = || -> PyResult<Duration> { seconds(name, value.extract()?) };
    Ok(match name {
        "capacity" => options.capacity(value.extract()?),
        "inline_bytes" => options.inline_bytes(value.extract()?),
        "max_message_bytes" => options.max_message_bytes(value.extract()?),
        "pool_bytes" => options.pool_bytes(value.extract()?),
        "attempt_limit" => options.attempt_limit(value.extract()?),
        "crash_limit" => options.crash_limit(value.extract()?),
        "expiry_limit" => options.expiry_limit(value.extract()?),
        "backoff" => options.backoff(backoff(value)?),
        "lease" => options.lease(time()?),
        "max_participants" => options.max_participants(value.extract()?),
        "priorities" => options.priorities(value.extract()?),
        "aging" => options.aging(time()?),
        "dedup_window" => options.dedup_window(time()?),
        "dedup_keys" => options.dedup_keys(value.extract()?),
        other => {
            let known = QueueSettings::default().fields().map(|(field, _)| field);
            let text = format!("no setting {other:?} (there are: {})", known.join(", "));
            return Err(PyTypeError::new_err(text));
        }
    })
}

/// 0 or a number of seconds, `(first, most)` for a delay that doubles, or a list of delays.
fn backoff(value: &Bound<'_, PyAny>) -> PyResult<Backoff> {
    if value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>() {
        let delay = seconds("backoff", value.extract()?)?;
        return Ok(if delay.is_zero() {
            Backoff::None
        } else {
            Backoff::Fixed(delay)
        });
    }
    if let Ok((first, most)) = value.extract::<(Seconds, Seconds)>()
        && value.is_instance_of::<pyo3::types::PyTuple>()
    {
        let (first, most) = (seconds("backoff", first)?, seconds("backoff", most)?);
        return Ok(Backoff::Exponential { first, most });
    }
    let delays: Vec<Seconds> = value.extract()?;
    let delays = delays.into_iter().map(|delay| seconds("backoff", delay));
    Ok(Backoff::List(delays.collect::<PyResult<_>>()?))
}

/// The settings of an open queue.
pub fn to_dict<'py>(py: Python<'py>, settings: &QueueSettings) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let time = |time: Duration| time.as_secs_f64();
    dict.set_item("capacity", settings.capacity)?;
    dict.set_item("inline_bytes", settings.inline_bytes)?;
    dict.set_item("max_message_bytes", settings.max_message_bytes)?;
    dict.set_item("pool_bytes", settings.pool_bytes)?;
    dict.set_item("attempt_limit", settings.attempt_limit)?;
    dict.set_item("crash_limit", settings.crash_limit)?;
    dict.set_item("expiry_limit", settings.expiry_limit)?;
    let backoff = match &settings.backoff {
        Backoff::None => 0_f64.into_pyobject(py)?.into_any(),
        Backoff::Fixed(delay) => time(*delay).into_pyobject(py)?.into_any(),
        Backoff::Exponential { first, most } => {
            (time(*first), time(*most)).into_pyobject(py)?.into_any()
        }
        Backoff::List(delays) => {
            let delays: Vec<f64> = delays.iter().copied().map(time).collect();
            delays.into_pyobject(py)?.into_any()
        }
    };
    dict.set_item("backoff", backoff)?;
    dict.set_item("lease", settings.lease.map(time))?;
    dict.set_item("max_participants", settings.max_participants)?;
    dict.set_item("priorities", settings.priorities)?;
    dict.set_item("aging", time(settings.aging))?;
    dict.set_item("dedup_window", settings.dedup_window.map(time))?;
    dict.set_item("dedup_keys", settings.dedup_keys)?;
    Ok(dict)
}
