//! A received message, until it is settled.
//!
//! Any thread may settle it. Its bytes are exported in place through the buffer protocol. As long
//! as such a view exists, settling is refused, because it would free the memory for another
//! message.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ipc_queue::{Metadata, Nack, OwnedByteDelivery, SettleError};
use pyo3::exceptions::{PyBufferError, PyStopIteration};
use pyo3::ffi::Py_buffer;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView};

use crate::arguments::{LossyText, Seconds};
use crate::errors::{self, reason};
use crate::options::headers_dict;
use crate::view::{self, Access};
use crate::waiting::seconds;

/// Facts about the queue that a delivery came from.
#[derive(Clone, Copy)]
pub struct Origin {
    /// `true` if the queue is in memory: trying and settling take nanoseconds and never wait.
    pub in_memory: bool,
    /// The number of forks before the process that opened it.
    pub forks: u64,
}

/// A message that this process holds until it is settled.
#[pyclass(frozen, module = "ipc_queue", weakref)]
pub struct Delivery {
    state: Mutex<State>,
    metadata: Metadata,
    origin: Origin,
    decode: Option<Py<PyAny>>,
    data: OnceLock<Py<PyAny>>,
}

struct State {
    /// `None` once it is settled.
    held: Option<OwnedByteDelivery>,
    /// The number of views of its bytes.
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
            data: OnceLock::new(),
        }
    }

    /// Never locked while Python code runs, nor while the interpreter's lock is released.
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

    /// Decodes the content and acks the message. If decoding fails, nacks or buries it.
    pub fn take(
        self,
        py: Python<'_>,
        decode: Option<&Bound<'_, PyAny>>,
        bury: bool,
    ) -> PyResult<Py<PyAny>> {
        let slf = Bound::new(py, self)?;
        let this = slf.get();
        let data = match decode {
            None => this.tobytes(py).map(Bound::into_any),
            Some(decode) => decode.call1((&slf,)),
        };
        let settled = match &data {
            Ok(_) => this.settle(py, OwnedByteDelivery::ack),
            Err(error) if bury => {
                let reason = reason(py, error);
                this.settle(py, |held| held.bury_with(&reason))
            }
            Err(error) => {
                let reason = reason(py, error);
                this.settle(py, |held| held.nack_with(Nack::new().reason(&reason)))
            }
        };
        let data = data?;
        settled.map(|()| data.unbind())
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
        let reason = reason(py, &PyErr::from_value(error.clone()));
        self.settle(py, |held| held.nack_with(Nack::new().reason(&reason)))
    }
}

#[pymethods]
impl Delivery {
    /// The decoded content of the message: a copy, made at the first access.
    #[getter]
    fn data<'py>(slf: &Bound<'py, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        if let Some(data) = this.data.get() {
            return Ok(data.clone_ref(py));
        }
        // Not under a lock, because decoding runs any code. Another thread may be first.
        let made = match &this.decode {
            None => this.tobytes(py)?.into_any().unbind(),
            Some(decode) => decode.call1(py, (slf,))?,
        };
        let data = this.data.get_or_init(|| made);
        Ok(data.clone_ref(py))
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

    /// A read-only view of the message's bytes, without a copy. Release the view before settling.
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

    /// Returns `True` if it was acked, nacked, snoozed or buried.
    #[getter]
    fn settled(&self) -> bool {
        self.is_settled()
    }

    /// Reports that the work is done: the message is never delivered again.
    fn ack(&self, py: Python<'_>) -> PyResult<()> {
        self.settle(py, OwnedByteDelivery::ack)
    }

    /// Reports that the attempt failed. The message is delivered again, after `delay` seconds or
    /// the queue's backoff.
    #[pyo3(
        signature = (reason = LossyText::default(), *, delay = None),
        text_signature = "($self, reason='', *, delay=None)"
    )]
    fn nack(&self, py: Python<'_>, reason: LossyText, delay: Option<Seconds>) -> PyResult<()> {
        let delay: Option<Duration> = delay.map(|delay| seconds("delay", delay)).transpose()?;
        self.settle(py, |held| {
            let nack = Nack::new().reason(&reason.0);
            held.nack_with(delay.map_or(nack, |delay| nack.after(delay)))
        })
    }

    /// Delays the message by `delay` seconds. This does not count as an attempt.
    fn snooze(&self, py: Python<'_>, delay: Seconds) -> PyResult<()> {
        let delay = seconds("delay", delay)?;
        self.settle(py, |held| held.snooze(delay))
    }

    /// Makes the message a dead letter: it is kept, but never delivered again.
    #[pyo3(
        signature = (reason = LossyText::default()),
        text_signature = "($self, reason='')"
    )]
    fn bury(&self, py: Python<'_>, reason: LossyText) -> PyResult<()> {
        self.settle(py, |held| held.bury_with(&reason.0))
    }

    /// Extends the lease, which then ends no earlier than `by` seconds from now.
    fn extend(&self, py: Python<'_>, by: Seconds) -> PyResult<()> {
        let by = seconds("by", by)?;
        let extended = self.with_held(py, |held| held.extend(by))?;
        extended.map_err(|error| errors::of_settle(py, &error))
    }

    /// The content may refer to this delivery.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.data.get())?;
        visit.call(&self.decode)
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
        let payload = held.payload();
        let bytes = (payload.as_ptr(), payload.len());
        // SAFETY: `view` is the interpreter's. The bytes stay in place until the message is
        // settled, or this object dropped; `settle` refuses while `views` is not zero, and the view
        // has a reference to this object.
        unsafe { view::export(slf.as_any(), bytes, Access::ReadOnly, view, flags) }?;
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
            return; // Returning it takes nanoseconds.
        }
        let held = self.state().held.take();
        if held.is_some() {
            // This waits for a server.
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
