//! The calls of `ipc_queue.Queue` that a program makes for each message.
//!
//! They are here, and not in Python, because a call between two Python functions costs as much as a
//! message. Encoding and decoding are Python's: this only skips the codec's own function where
//! `pickle` alone does all the work.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};

use crate::arguments::Seconds;
use crate::delivery::Delivery;
use crate::queue::{Decoding, RawQueue};

/// The base class of `ipc_queue.Queue`.
#[pyclass(subclass, frozen, weakref, module = "ipc_queue._ipc")]
pub struct QueueCalls(OnceLock<Codec>);

/// An open queue with the functions of its codec.
struct Codec {
    raw: Py<RawQueue>,
    encode: Py<PyAny>,
    /// `None` if the content is the bytes themselves.
    decode: Option<Py<PyAny>>,
    /// `pickle.dumps` and `pickle.loads`, if the codec is the package's own for pickles.
    pickle: Option<(Py<PyAny>, Py<PyAny>)>,
}

impl QueueCalls {
    fn codec(&self) -> PyResult<&Codec> {
        let text = "this queue is not open: its class has not called `super().__init__`";
        self.0.get().ok_or_else(|| PyRuntimeError::new_err(text))
    }
}

impl Codec {
    /// Returns one object with the bytes, or a list of several.
    fn encode<'py>(
        &self,
        py: Python<'py>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &self.pickle {
            None if self.decode.is_none() && value.is_exact_instance_of::<PyBytes>() => {
                Ok(value.clone())
            }
            Some((dumps, _)) if is_plain(value) => dumps.bind(py).call1((value, PROTOCOL)),
            _ => self.encode.bind(py).call1((value,)),
        }
    }
}

/// The protocol of pickles, as in `codecs.py`.
const PROTOCOL: u8 = 5;

/// Returns whether a value needs nothing from the codec but `pickle.dumps`.
fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_none()
}

#[pymethods]
impl QueueCalls {
    /// Takes any arguments: they are for the subclass.
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        class: &Bound<'py, PyType>,
        _item: &Bound<'py, PyAny>,
    ) -> Bound<'py, PyType> {
        class.clone()
    }

    /// Sets the queue and its codec's functions, once. `pickle` is the pair `dumps` and `loads`.
    #[pyo3(signature = (raw, encode, decode = None, pickle = None))]
    fn _attach(
        &self,
        raw: Py<RawQueue>,
        encode: Py<PyAny>,
        decode: Option<Py<PyAny>>,
        pickle: Option<(Py<PyAny>, Py<PyAny>)>,
    ) -> PyResult<()> {
        let codec = Codec {
            raw,
            encode,
            decode,
            pickle,
        };
        let text = "this queue is open already";
        self.0.set(codec).map_err(|_| PyRuntimeError::new_err(text))
    }

    /// The codec may refer to the queue.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(codec) = self.0.get() else {
            return Ok(());
        };
        visit.call(&codec.raw)?;
        visit.call(&codec.encode)?;
        visit.call(&codec.decode)
    }

    /// The queue below, without a codec.
    #[getter]
    fn raw(&self, py: Python<'_>) -> PyResult<Py<RawQueue>> {
        Ok(self.codec()?.raw.clone_ref(py))
    }

    /// Send a message. Once this returns, the message survives the death of every process.
    ///
    /// Waits while the queue is full, for at most `timeout` seconds; 0 does not wait. `key` needs a
    /// queue with `dedup_window`: the result is `False` if a message with the key was sent before.
    /// `priority` (`low`, `normal`, `high`, `urgent`) needs a queue with `priorities`. `delay` and
    /// `expires_in` are in seconds. An object that can't be encoded raises here.
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    #[pyo3(signature = (
        value, timeout = None, *, key = None, priority = None, delay = None, expires_in = None,
        headers = None, drop_oldest = false
    ))]
    fn put<'py>(
        &self,
        py: Python<'py>,
        value: &Bound<'py, PyAny>,
        timeout: Option<Seconds>,
        key: Option<Bound<'py, PyAny>>,
        priority: Option<Bound<'py, PyAny>>,
        delay: Option<Bound<'py, PyAny>>,
        expires_in: Option<Bound<'py, PyAny>>,
        headers: Option<Bound<'py, PyAny>>,
        drop_oldest: bool,
    ) -> PyResult<bool> {
        let codec = self.codec()?;
        let raw = codec.raw.get();
        let body = codec.encode(py, value)?;
        let given = [
            ("key", key),
            ("priority", priority),
            ("delay", delay),
            ("expires_in", expires_in),
            ("headers", headers),
        ];
        if !drop_oldest && given.iter().all(|(_, value)| value.is_none()) {
            return match body.cast_exact::<PyList>() {
                Ok(parts) => raw.put_parts(py, parts.iter().collect(), timeout, None),
                Err(_) => raw.put(py, &body, timeout).map(|()| true),
            };
        }
        let options = PyDict::new(py);
        for (name, value) in given {
            if let Some(value) = value {
                options.set_item(name, value)?;
            }
        }
        if drop_oldest {
            options.set_item("drop_oldest", true)?;
        }
        let parts = match body.cast_exact::<PyList>() {
            Ok(parts) => parts.iter().collect(),
            Err(_) => vec![body],
        };
        raw.put_parts(py, parts, timeout, Some(&options))
    }

    /// Send messages in order, at a lower cost than one by one.
    ///
    /// Not atomic: an exception says in `sent` how many were sent. All are encoded before the first
    /// is sent.
    #[pyo3(signature = (values, timeout = None))]
    fn put_many(
        &self,
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        timeout: Option<Seconds>,
    ) -> PyResult<()> {
        let codec = self.codec()?;
        let mut bodies = Vec::with_capacity(values.len().unwrap_or(0));
        for value in values.try_iter()? {
            let body = codec.encode(py, &value?)?;
            bodies.push(match body.cast_exact::<PyList>() {
                Ok(parts) => PyBytes::new(py, b"").call_method1("join", (parts,))?,
                Err(_) => body,
            });
        }
        codec.raw.get().put_batch(py, bodies, timeout)
    }

    /// Receive the next message. Waits for at most `timeout` seconds; 0 does not wait.
    ///
    /// The message is ours until it is settled: by `ack`, `nack`, `snooze` or `bury`, or at the end
    /// of a `with` block. Raises `Empty` if there is none, and `Closed` when the queue is closed
    /// and everything in it is settled.
    #[pyo3(signature = (timeout = None))]
    fn get(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<Delivery> {
        let codec = self.codec()?;
        let decode = codec.decode.as_ref().map(|decode| decode.clone_ref(py));
        codec.raw.get().get(py, timeout, decode)
    }

    /// Receive up to `most` messages: waits for the first, then takes what else is available.
    #[pyo3(signature = (most, timeout = None))]
    fn get_many(
        &self,
        py: Python<'_>,
        most: &Bound<'_, PyAny>,
        timeout: Option<Seconds>,
    ) -> PyResult<Vec<Delivery>> {
        let codec = self.codec()?;
        let decode = codec.decode.as_ref().map(|decode| decode.clone_ref(py));
        codec.raw.get().get_batch(py, most, timeout, decode)
    }

    /// Receive the next message and acknowledge it at once. Return its content.
    ///
    /// For programs that accept to lose what they were working on when they are killed.
    #[pyo3(signature = (timeout = None))]
    fn take(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<Py<PyAny>> {
        let codec = self.codec()?;
        let loads = codec.pickle.as_ref().map(|(_, loads)| loads.bind(py));
        let decode = codec.decode.as_ref().map(|decode| decode.bind(py));
        codec.raw.get().take(py, timeout, decode, false, loads)
    }

    /// Receive up to `most` messages and acknowledge them. Return the list of their contents.
    ///
    /// Waits for the first, then takes what else is available. Nothing is acknowledged before all
    /// of them are decoded. A message that can't be decoded is returned to the queue with the
    /// reason, and ends the list; if it is the first one, this raises. For programs that accept to
    /// lose what they were working on when they are killed.
    #[pyo3(signature = (most, timeout = None))]
    fn take_many(
        &self,
        py: Python<'_>,
        most: &Bound<'_, PyAny>,
        timeout: Option<Seconds>,
    ) -> PyResult<Vec<Py<PyAny>>> {
        let codec = self.codec()?;
        let loads = codec.pickle.as_ref().map(|(_, loads)| loads.bind(py));
        let decode = codec.decode.as_ref().map(|decode| decode.bind(py));
        let decoding = Decoding { decode, loads };
        codec.raw.get().take_batch(py, most, timeout, decoding)
    }
}
