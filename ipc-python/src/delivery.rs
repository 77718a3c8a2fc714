//! A received message, until it is settled.
//!
//! Any thread may settle it. Its bytes are exported through the buffer protocol where they lie; as
//! long as somebody has such a view, settling is refused, since the memory becomes another
//! message's.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_queue::{Metadata, Nack, OwnedByteDelivery, SettleError};
use pyo3::exceptions::{PyBufferError, PyStopIteration};
use pyo3::ffi::Py_buffer;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyMemoryView};

use crate::errors;
use crate::queue::headers_dict;
use crate::view;
use crate::waiting::seconds;

/// What is known of the queue that a delivery came from.
#[derive(Clone, Copy)]
pub struct Origin {
    /// It is in shared memory: settling takes nanoseconds and waits for nothing.
    pub in_memory: bool,
    /// Which copy of the process opened it.
    pub forks: u64,
}

/// A message that this process holds until it is settled.
#[pyclass(frozen, module = "ipc_queue", weakref)]
pub struct Delivery {
    state: Mutex<State>,
    metadata: Metadata,
    origin: Origin,
    decode: Option<Py<PyAny>>,
    data: PyOnceLock<Py<PyAny>>,
}

struct State {
    /// `None`: it is settled.
    held: Option<OwnedByteDelivery>,
    /// How many views of its bytes there are.
    views: usize,
}

impl Delivery {
    pub fn new(held: OwnedByteDelivery, decode: Option<Py<PyAny>>, origin: Origin) -> Self {
        let metadata = held.metadata();
        let held = Some(held);
        Self {
            state: Mutex::new(State { held, views: 0 }),
            metadata,
            origin,
            decode,
            data: PyOnceLock::new(),
        }
    }

    /// Never locked while Python code runs, nor while the interpreter's lock is given up.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_held<T>(
        &self,
        py: Python<'_>,
        read: impl FnOnce(&OwnedByteDelivery) -> T,
    ) -> PyResult<T> {
        let state = self.state();
        let held = state.held.as_ref();
        held.map(read).ok_or_else(|| errors::settled(py))
    }

    fn settle(
        &self,
        py: Python<'_>,
        how: impl FnOnce(OwnedByteDelivery) -> Result<(), SettleError> + Send,
    ) -> PyResult<()> {
        let held = {
            let mut state = self.state();
            if state.views > 0 {
                let text = format!(
                    "{} views of this message's bytes exist: release them before settling it",
                    state.views
                );
                return Err(PyBufferError::new_err(text));
            }
            state.held.take().ok_or_else(|| errors::settled(py))?
        };
        let settled = if self.origin.in_memory {
            how(held)
        } else {
            py.detach(|| how(held))
        };
        settled.map_err(|error| errors::of_settle(py, &error))
    }

    fn is_settled(&self) -> bool {
        self.state().held.is_none()
    }

    fn leave(&self, py: Python<'_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.is_settled() {
            return Ok(());
        }
        if error.is_none() {
            return self.settle(py, OwnedByteDelivery::ack);
        }
        let name = error.get_type().name()?;
        let reason = format!("{name}: {}", error.str()?);
        self.settle(py, |held| held.nack_with(Nack::new().reason(&reason)))
    }
}

#[pymethods]
impl Delivery {
    /// The message's content, decoded; a copy, made at the first access.
    #[getter]
    fn data<'py>(slf: &Bound<'py, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let made = this.data.get_or_try_init(py, || -> PyResult<Py<PyAny>> {
            match &this.decode {
                None => Ok(this.tobytes(py)?.into_any().unbind()),
                Some(decode) => decode.call1(py, (slf,)),
            }
        });
        made.map(|data| data.clone_ref(py))
    }

    /// A copy of the message's bytes.
    fn tobytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let (bytes, whole) = self.with_held(py, |held| {
            let bytes = PyBytes::new(py, held.payload());
            (bytes, held.check_whole())
        })?;
        whole.map_err(|error| errors::of_recv(py, &error))?;
        Ok(bytes)
    }

    /// The message's bytes where they lie, read-only. Release the view before settling.
    fn view<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf)
    }

    /// How often the message was delivered, this time included.
    #[getter]
    fn attempt(&self) -> u8 {
        self.metadata.attempt
    }

    /// The message's id, the same at each delivery.
    #[getter]
    fn id(&self) -> String {
        self.metadata.id.to_string()
    }

    /// What the message is for: `data`, `control`, `heartbeat` or `shutdown`.
    #[getter]
    fn kind(&self) -> String {
        format!("{:?}", self.metadata.kind).to_lowercase()
    }

    /// When the message was sent, in seconds since 1970.
    #[getter]
    fn sent_at(&self) -> f64 {
        self.metadata.sent_at.as_nanos() as f64 / 1e9
    }

    /// A number that grows with each delivery of the message: a fencing token.
    #[getter]
    fn token(&self) -> u64 {
        self.metadata.delivery
    }

    /// The message's headers, each a `bytes`.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let headers = self.with_held(py, |held| held.headers().clone())?;
        headers_dict(py, &headers)
    }

    /// Whether it was acked, nacked, put off or buried.
    #[getter]
    fn settled(&self) -> bool {
        self.is_settled()
    }

    /// The work is done: the message is never delivered again.
    fn ack(&self, py: Python<'_>) -> PyResult<()> {
        self.settle(py, OwnedByteDelivery::ack)
    }

    /// The attempt failed: the message is delivered again, after `delay` seconds or as the queue's
    /// back-off says.
    #[pyo3(signature = (reason = "", *, delay = None))]
    fn nack(&self, py: Python<'_>, reason: &str, delay: Option<f64>) -> PyResult<()> {
        let delay: Option<Duration> = delay.map(seconds).transpose()?;
        self.settle(py, |held| {
            let nack = Nack::new().reason(reason);
            held.nack_with(delay.map_or(nack, |delay| nack.after(delay)))
        })
    }

    /// Puts the message off for `delay` seconds. Not an attempt.
    fn snooze(&self, py: Python<'_>, delay: f64) -> PyResult<()> {
        let delay = seconds(delay)?;
        self.settle(py, |held| held.snooze(delay))
    }

    /// The message is never delivered again, but kept as a dead letter.
    #[pyo3(signature = (reason = ""))]
    fn bury(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        self.settle(py, |held| held.bury_with(reason))
    }

    /// Renews the lease: it ends no earlier than `by` seconds from now.
    fn extend(&self, py: Python<'_>, by: f64) -> PyResult<()> {
        let by = seconds(by)?;
        let extended = self.with_held(py, |held| held.extend(by))?;
        extended.map_err(|error| errors::of_settle(py, &error))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.with_held(py, |held| held.payload().len())
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self) -> String {
        let state = if self.is_settled() { "settled" } else { "held" };
        let Metadata { id, attempt, .. } = self.metadata;
        format!("<Delivery of message {id}, attempt {attempt}, {state}>")
    }

    fn __enter__<'py>(slf: Bound<'py, Self>) -> Bound<'py, Self> {
        slf
    }

    /// Acks, or nacks with the exception as the reason, unless it is settled already.
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.leave(py, error)?;
        Ok(false)
    }

    fn __aenter__(slf: Bound<'_, Self>) -> Ready {
        Ready(slf.into_any().unbind())
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<Ready> {
        self.leave(py, error)?;
        Ok(Ready(py.None()))
    }

    /// # Safety
    /// Called by the interpreter with a valid, writable `view`.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let mut state = this.state();
        let held = state.held.as_ref();
        let held = held.ok_or_else(|| errors::settled(slf.py()))?;
        // SAFETY: `view` is the interpreter's. The bytes stay in place until the message is settled,
        // or this object dropped; `settle` refuses while `views` is not zero, and the view has a
        // reference to this object.
        unsafe { view::export(slf.as_any(), held.payload(), view, flags) }?;
        state.views += 1;
        Ok(())
    }

    /// # Safety
    /// Called by the interpreter once for each view that `__getbuffer__` made.
    unsafe fn __releasebuffer__(&self, _view: *mut Py_buffer) {
        self.state().views -= 1;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.origin.in_memory {
            return; // Giving it back takes nanoseconds.
        }
        let held = self.state().held.take();
        if held.is_some() {
            // A server is asked.
            Python::attach(|py| py.detach(|| drop(held)));
        }
    }
}

/// An awaitable that is ready.
#[pyclass(frozen)]
pub struct Ready(Py<PyAny>);

#[pymethods]
impl Ready {
    fn __await__<'py>(slf: Bound<'py, Self>) -> Bound<'py, Self> {
        slf
    }

    fn __iter__<'py>(slf: Bound<'py, Self>) -> Bound<'py, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<()> {
        Err(PyStopIteration::new_err((self.0.clone_ref(py),)))
    }
}
