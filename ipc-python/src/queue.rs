//! A queue of bytes, for any thread of the process that opened it and of its forked copies.
//!
//! A handle belongs to one thread, so each thread has its own. A forked copy of the process opens
//! the queue again at its first operation, because everything that it inherited belongs to its
//! parent.

mod taking;

use std::cell::OnceCell;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteDelivery, ByteQueue, ByteReceiver, ByteSender, DeadLetter, DeadLetterId, DeadReason,
    DrainError, MessageId, OwnedByteDelivery, QueueError, RecvTimeoutError, SendFailure,
    SendOptions, SendTimeoutError, TrySendError,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde::Serialize;
use serde_json::Value;
use thread_local::ThreadLocal;

use crate::arguments::{NameText, Seconds, count};
use crate::delivery::{Delivery, Origin};
use crate::errors;
use crate::options::{headers_dict, send_options};
use crate::payload::{DETACH_FROM, Payload};
use crate::readiness::RawReadiness;
use crate::settings::{self, Wanted};
use crate::waiting::{self, Limit, resume_watcher};
pub use taking::Decoding;

/// An open queue.
#[pyclass(frozen, module = "ipc_queue._ipc", name = "RawQueue")]
pub struct RawQueue {
    address: String,
    wanted: Wanted,
    opened: Opened,
    origin: Origin,
}

/// A queue as one process opened it.
struct Opened {
    queue: ByteQueue,
    /// The number of forks before that process.
    forks: u64,
    handles: ThreadLocal<Handles>,
    /// The same queue as a forked copy of the process opened it.
    successor: OnceLock<Box<Opened>>,
}

/// One thread's handles. Each is created when first needed.
#[derive(Default)]
struct Handles {
    sender: OnceCell<ByteSender>,
    receiver: OnceCell<ByteReceiver>,
}

impl Opened {
    fn new(queue: ByteQueue) -> Self {
        Self {
            queue,
            forks: waiting::forks(),
            handles: ThreadLocal::new(),
            successor: OnceLock::new(),
        }
    }

    fn sender(&self) -> &ByteSender {
        let handles = self.handles.get_or_default();
        handles.sender.get_or_init(|| self.queue.sender())
    }

    fn receiver(&self) -> &ByteReceiver {
        let handles = self.handles.get_or_default();
        handles.receiver.get_or_init(|| self.queue.receiver())
    }
}

impl RawQueue {
    /// Returns the queue as this process has opened it.
    #[inline]
    fn opened(&self, py: Python<'_>) -> PyResult<&Opened> {
        resume_watcher();
        let mut opened = &self.opened;
        while opened.forks != waiting::forks() {
            opened = match opened.successor.get() {
                Some(successor) => successor,
                None => {
                    let queue = py
                        .detach(|| self.wanted.reopening().open(&self.address))
                        .map_err(|error| errors::of_open(py, &error))?;
                    opened
                        .successor
                        .get_or_init(|| Box::new(Opened::new(queue)))
                }
            };
        }
        Ok(opened)
    }

    /// Runs a control call without the interpreter's lock: it may wait for a server.
    fn control<T: Send, E: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&ByteQueue) -> Result<T, E> + Send,
        raise: impl FnOnce(Python<'_>, &E) -> PyErr,
    ) -> PyResult<T> {
        let queue = &self.opened(py)?.queue;
        py.detach(|| call(queue)).map_err(|error| raise(py, &error))
    }

    fn receive(&self, py: Python<'_>, limit: Limit) -> PyResult<OwnedByteDelivery> {
        let opened = self.opened(py)?;
        if self.origin.in_memory {
            match opened.receiver().try_recv() {
                Ok(delivery) => return Ok(delivery.into_owned()),
                Err(error) if !error.is_empty() || limit.is_zero() => {
                    return Err(errors::of_try_recv(py, &error));
                }
                Err(_) => {}
            }
        }
        let attempt = |wait| {
            let received = opened.receiver().recv_within(at_once_if(limit, wait));
            received.map(ByteDelivery::into_owned)
        };
        let started = Instant::now();
        let received = waiting::until(py, limit, attempt, RecvTimeoutError::is_timeout)?;
        received.map_err(|error| errors::of_recv_timeout(py, &since(started, error)))
    }

    fn receive_batch(
        &self,
        py: Python<'_>,
        most: usize,
        limit: Limit,
    ) -> PyResult<Vec<OwnedByteDelivery>> {
        let opened = self.opened(py)?;
        let attempt = |wait| -> Result<Vec<OwnedByteDelivery>, RecvTimeoutError> {
            let receiver = opened.receiver();
            let batch = receiver.recv_batch(most, at_once_if(limit, wait))?;
            Ok(batch.into_iter().map(ByteDelivery::into_owned).collect())
        };
        let started = Instant::now();
        let received = waiting::until(py, limit, attempt, RecvTimeoutError::is_timeout)?;
        received.map_err(|error| errors::of_recv_timeout(py, &since(started, error)))
    }

    fn delivery(
        &self,
        py: Python<'_>,
        held: OwnedByteDelivery,
        decode: &Option<Py<PyAny>>,
    ) -> Delivery {
        let decode = decode.as_ref().map(|decode| decode.clone_ref(py));
        Delivery::new(held, decode, self.origin)
    }
}

#[pymethods]
impl RawQueue {
    /// Opens a queue, or creates it.
    #[new]
    #[pyo3(signature = (
        address, mode = "open or create", payload = "", settings = None, any_payload = false
    ))]
    fn new(
        py: Python<'_>,
        address: NameText,
        mode: &str,
        payload: &str,
        settings: Option<&Bound<'_, PyDict>>,
        any_payload: bool,
    ) -> PyResult<Self> {
        resume_watcher();
        let NameText(address) = address;
        let wanted = Wanted::new(mode, payload, any_payload, settings)?;
        let queue = py
            .detach(|| wanted.open(&address))
            .map_err(|error: QueueError| errors::of_open(py, &error))?;
        Ok(Self {
            origin: Origin {
                in_memory: address.starts_with("shm:") || address.starts_with("local:"),
                forks: waiting::forks(),
            },
            address,
            opened: Opened::new(queue),
            wanted,
        })
    }

    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    /// The name of the queue's payloads: `pickle`, `msgpack:Job` and so on; empty for bytes.
    #[getter]
    fn payload(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let transport = self.opened(py)?.queue.transport();
        Ok(transport.payload().map(str::to_owned))
    }

    #[getter]
    fn settings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        settings::to_dict(py, self.opened(py)?.queue.transport().settings())
    }

    /// Sends a copy of some bytes.
    #[pyo3(signature = (payload, timeout = None))]
    pub fn put(
        &self,
        py: Python<'_>,
        payload: &Bound<'_, PyAny>,
        timeout: Option<Seconds>,
    ) -> PyResult<()> {
        let limit = Limit::new(timeout)?;
        let opened = self.opened(py)?;
        let payload = Payload::of(payload)?;
        let bytes = payload.bytes();
        if bytes.len() <= DETACH_FROM && self.origin.in_memory {
            match opened.sender().try_send(bytes) {
                Ok(_) => return Ok(()),
                Err(error @ TrySendError::Failed(_)) => {
                    return Err(errors::of_try_send(py, &error));
                }
                Err(error) if limit.is_zero() => return Err(errors::of_try_send(py, &error)),
                Err(_) => {}
            }
        }
        let attempt = |wait| {
            let options = SendOptions::new().wait(at_once_if(limit, wait));
            opened.sender().send_with(bytes, &options)
        };
        let sent = waiting::until(py, limit, attempt, SendTimeoutError::is_timeout)?;
        sent.map(drop)
            .map_err(|error| errors::of_send_timeout(py, &error))
    }

    /// Sends one message made of several pieces of bytes, with options. Returns `False` if a
    /// message with its key was sent before.
    #[pyo3(signature = (parts, timeout = None, options = None))]
    pub fn put_parts(
        &self,
        py: Python<'_>,
        parts: Vec<Bound<'_, PyAny>>,
        timeout: Option<Seconds>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<bool> {
        let limit = Limit::new(timeout)?;
        let options = send_options(options)?;
        let opened = self.opened(py)?;
        let parts: Vec<Payload<'_>> = parts.iter().map(Payload::of).collect::<PyResult<_>>()?;
        let parts: Vec<&[u8]> = parts.iter().map(Payload::bytes).collect();
        let attempt = |wait| {
            let options = options.clone().wait(at_once_if(limit, wait));
            send_parts(opened.sender(), &parts, &options)
        };
        let started = Instant::now();
        let sent = waiting::until(py, limit, attempt, SendTimeoutError::is_timeout)?;
        match sent {
            Ok(_) => Ok(true),
            Err(SendTimeoutError::Failed(error))
                if matches!(error.failure, SendFailure::Duplicate { .. }) =>
            {
                Ok(false)
            }
            Err(error) => Err(errors::of_send_timeout(py, &not_sent_since(started, error))),
        }
    }

    /// Sends many messages in order. The attribute `sent` of an error is the number that were sent.
    #[pyo3(signature = (payloads, timeout = None))]
    pub fn put_batch(
        &self,
        py: Python<'_>,
        payloads: Vec<Bound<'_, PyAny>>,
        timeout: Option<Seconds>,
    ) -> PyResult<()> {
        let limit = Limit::new(timeout)?;
        let opened = self.opened(py)?;
        let payloads: Vec<Payload<'_>> =
            payloads.iter().map(Payload::of).collect::<PyResult<_>>()?;
        let payloads: Vec<&[u8]> = payloads.iter().map(Payload::bytes).collect();
        let sent = Mutex::new(0);
        let attempt = |wait| {
            let mut done = sent.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = at_once_if(limit, wait);
            let outcome = opened.sender().send_batch_within(&payloads[*done..], wait);
            outcome.map_err(|failed| {
                *done += failed.sent;
                failed.error
            })
        };
        let outcome = waiting::until(py, limit, attempt, SendTimeoutError::is_timeout)?;
        let sent = *sent.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.map_err(|error| errors::of_batch(py, sent, &error))
    }

    /// Receives the next message. Its `data` is the result of `decode`.
    #[pyo3(signature = (timeout = None, decode = None))]
    pub fn get(
        &self,
        py: Python<'_>,
        timeout: Option<Seconds>,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Delivery> {
        let held = self.receive(py, Limit::new(timeout)?)?;
        Ok(self.delivery(py, held, &decode))
    }

    /// Receives at most `most` messages: waits for the first, then takes what else is available.
    #[pyo3(signature = (most, timeout = None, decode = None))]
    pub fn get_batch(
        &self,
        py: Python<'_>,
        most: &Bound<'_, PyAny>,
        timeout: Option<Seconds>,
        decode: Option<Py<PyAny>>,
    ) -> PyResult<Vec<Delivery>> {
        let most = count("most", most)?;
        let batch = self.receive_batch(py, most, Limit::new(timeout)?)?;
        let deliveries = batch
            .into_iter()
            .map(|held| self.delivery(py, held, &decode));
        Ok(deliveries.collect())
    }

    /// Receives and acks the next message, and returns its bytes or the result of `decode`. A
    /// message that can't be decoded is nacked, or buried if `bury` is true. `loads` decodes what
    /// is a plain pickle.
    #[pyo3(signature = (timeout = None, decode = None, bury = false, loads = None))]
    pub fn take(
        &self,
        py: Python<'_>,
        timeout: Option<Seconds>,
        decode: Option<&Bound<'_, PyAny>>,
        bury: bool,
        loads: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let limit = Limit::new(timeout)?;
        let opened = self.opened(py)?;
        if !self.origin.in_memory {
            let held = self.receive(py, limit)?;
            return self.delivery(py, held, &None).take(py, decode, bury);
        }
        match opened.receiver().try_recv() {
            // Large payloads are decoded in place.
            Ok(delivery) if decode.is_none() || delivery.payload().len() <= DETACH_FROM => {
                let decoding = Decoding { decode, loads };
                return Self::settle_decoded(py, delivery, decoding, bury);
            }
            Ok(delivery) => {
                let held = self.delivery(py, delivery.into_owned(), &None);
                return held.take(py, decode, bury);
            }
            Err(error) if !error.is_empty() || limit.is_zero() => {
                return Err(errors::of_try_recv(py, &error));
            }
            Err(_) => {}
        }
        let held = self.receive(py, limit)?;
        self.delivery(py, held, &None).take(py, decode, bury)
    }

    /// A descriptor that is readable when there may be a message.
    fn recv_readiness(&self, py: Python<'_>) -> PyResult<RawReadiness> {
        let readiness = self.opened(py)?.receiver().readiness();
        RawReadiness::new(py, readiness)
    }

    /// A descriptor that is readable when there may be room.
    fn send_readiness(&self, py: Python<'_>) -> PyResult<RawReadiness> {
        let readiness = self.opened(py)?.sender().readiness();
        RawReadiness::new(py, readiness)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.control(py, |queue| queue.transport().close(), errors::of_control)
    }

    fn reopen(&self, py: Python<'_>) -> PyResult<()> {
        self.control(py, |queue| queue.transport().reopen(), errors::of_control)
    }

    fn is_closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.control(
            py,
            |queue| queue.transport().is_closed(),
            errors::of_control,
        )
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        self.control(py, |queue| queue.transport().pause(), errors::of_control)
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.control(py, |queue| queue.transport().resume(), errors::of_control)
    }

    fn is_paused(&self, py: Python<'_>) -> PyResult<bool> {
        self.control(
            py,
            |queue| queue.transport().is_paused(),
            errors::of_control,
        )
    }

    fn purge(&self, py: Python<'_>) -> PyResult<u64> {
        self.control(py, |queue| queue.transport().purge(), errors::of_control)
    }

    /// Closes the queue, then waits until all messages in it are settled.
    #[pyo3(signature = (timeout = None))]
    fn drain(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<()> {
        let limit = Limit::new(timeout)?;
        let transport = self.opened(py)?.queue.transport();
        let is_time_out = |error: &DrainError| matches!(error, DrainError::TimedOut { .. });
        let attempt = |wait| transport.drain(at_once_if(limit, wait));
        let drained = waiting::until(py, limit, attempt, is_time_out)?;
        drained.map_err(|error| errors::of_drain(py, &error))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.control(py, |queue| queue.transport().stats(), errors::of_control)?;
        to_dict(py, &stats)
    }

    /// Returns the present leases: `(holder, pid, message, attempt)`.
    fn leases(&self, py: Python<'_>) -> PyResult<Vec<(String, u32, String, u8)>> {
        let leases = self.control(py, |queue| queue.transport().leases(), errors::of_control)?;
        let leases = leases.into_iter();
        let tuples = leases.map(|h| (h.holder, h.pid, h.message.to_string(), h.attempt));
        Ok(tuples.collect())
    }

    /// Returns the dead letters, as dictionaries.
    fn dead_letters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let letters = self.control(
            py,
            |queue| queue.transport().dead_letters(),
            errors::of_control,
        )?;
        letters
            .iter()
            .map(|letter| letter_dict(py, letter))
            .collect()
    }

    fn requeue(&self, py: Python<'_>, id: (u64, u64)) -> PyResult<bool> {
        let id = DeadLetterId::new(id.0, id.1);
        self.control(
            py,
            |queue| queue.transport().requeue(id),
            errors::of_control,
        )
    }

    fn discard(&self, py: Python<'_>, id: (u64, u64)) -> PyResult<bool> {
        let id = DeadLetterId::new(id.0, id.1);
        self.control(
            py,
            |queue| queue.transport().discard(id),
            errors::of_control,
        )
    }
}

/// Returns the fields of a flat record by name. New fields appear automatically.
fn to_dict<'py>(py: Python<'py>, record: &impl Serialize) -> PyResult<Bound<'py, PyDict>> {
    let fields =
        serde_json::to_value(record).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let dict = PyDict::new(py);
    for (name, value) in fields.as_object().into_iter().flatten() {
        match value {
            Value::Bool(flag) => dict.set_item(name, flag)?,
            value => dict.set_item(name, value.as_u64())?,
        }
    }
    Ok(dict)
}

/// Turns a time-out of the last slice into one of the whole wait.
fn since(started: Instant, mut error: RecvTimeoutError) -> RecvTimeoutError {
    if let RecvTimeoutError::TimedOut { waited, .. } = &mut error {
        *waited = started.elapsed();
    }
    error
}

/// Like `since`, for a send.
fn not_sent_since(started: Instant, mut error: SendTimeoutError) -> SendTimeoutError {
    if let SendTimeoutError::TimedOut { waited, .. } = &mut error {
        *waited = started.elapsed();
    }
    error
}

/// With a limit of zero the call does not wait, and fails with another error than a time-out.
fn at_once_if(limit: Limit, wait: Wait) -> Wait {
    if limit.is_zero() { Wait::No } else { wait }
}

/// Writes all parts into one loan.
fn send_parts(
    sender: &ByteSender,
    parts: &[&[u8]],
    options: &SendOptions,
) -> Result<MessageId, SendTimeoutError> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut loan = sender.loan_with(length, options)?;
    let mut rest = &mut loan[..];
    for part in parts {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    loan.publish().map_err(SendTimeoutError::Failed)
}

fn letter_dict<'py>(py: Python<'py>, letter: &DeadLetter) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let reason = match letter.reason {
        DeadReason::Nacked => "nacked",
        DeadReason::Expired => "expired",
        DeadReason::Crashed => "crashed",
        DeadReason::Buried => "buried",
        _ => "unknown",
    };
    dict.set_item("id", letter.id.parts())?;
    dict.set_item("message", letter.message.to_string())?;
    dict.set_item("sent_at", letter.sent_at.as_nanos() as f64 / 1e9)?;
    dict.set_item("attempts", letter.attempts)?;
    dict.set_item("reason", reason)?;
    dict.set_item("nacks", letter.nacks)?;
    dict.set_item("expiries", letter.expiries)?;
    dict.set_item("crashes", letter.crashes)?;
    dict.set_item("last_worker", letter.last_worker)?;
    dict.set_item("signal", letter.signal)?;
    dict.set_item("error", &letter.error)?;
    dict.set_item("headers", headers_dict(py, &letter.headers)?)?;
    dict.set_item("payload", PyBytes::new(py, &letter.payload))?;
    Ok(dict)
}
