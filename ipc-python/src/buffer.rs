//! Plain shared memory under a lock that every process shares.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_shm::{AccessError, LockError, Namespace, SharedBuffer};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::ffi::Py_buffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arguments::{NameText, Seconds, count};
use crate::errors;
use crate::payload::Payload;
use crate::view::{self, Access};
use crate::waiting::{resume_watcher, seconds};

/// Bytes that several processes share. Each read and each write is atomic.
#[pyclass(frozen, module = "ipc_queue._ipc")]
pub struct RawBuffer {
    buffer: SharedBuffer,
    /// Orders this process's threads: the lock between processes must not be taken twice by one
    /// process.
    turn: Mutex<()>,
}

impl RawBuffer {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl RawBuffer {
    /// Connects to a buffer, or makes one if `size` is given.
    #[new]
    #[pyo3(
        signature = (namespace, name, size = None, timeout = Seconds(5.0)),
        text_signature = "(namespace, name, size=None, timeout=5.0)"
    )]
    fn new(
        py: Python<'_>,
        namespace: NameText,
        name: NameText,
        size: Option<Bound<'_, PyAny>>,
        timeout: Seconds,
    ) -> PyResult<Self> {
        resume_watcher();
        let size = size.map(|size| count("size", &size)).transpose()?;
        let timeout: Duration = seconds("timeout", timeout)?;
        let namespace = Namespace::new(&namespace.0)
            .map_err(|error| errors::new(py, "BadAddress", &error, &[]))?;
        let opened = py.detach(|| match size {
            Some(size) => {
                SharedBuffer::open_or_create(&namespace, &name.0, size).map(|(buffer, _)| buffer)
            }
            None => SharedBuffer::connect(&namespace, &name.0),
        });
        let mut buffer = opened.map_err(|error| errors::of_buffer(py, &error))?;
        buffer.set_timeout(timeout);
        let turn = Mutex::new(());
        Ok(Self { buffer, turn })
    }

    fn __len__(&self) -> usize {
        self.buffer.len()
    }

    /// Returns a copy of `size` bytes at `offset`; without `size`, of all bytes from there.
    #[pyo3(signature = (offset, size = None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: &Bound<'_, PyAny>,
        size: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let offset = place("offset", offset)?;
        let size = match size {
            Some(size) => place("size", size)?,
            None => self.buffer.len().saturating_sub(offset),
        };
        let read = py.detach(|| {
            let _turn = self.turn();
            self.buffer.read_to_vec(offset, size)
        });
        let bytes = read.map_err(|error| of_access(py, &error))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Copies bytes to `offset`. No reader sees only a part of them.
    fn write(
        &self,
        py: Python<'_>,
        offset: &Bound<'_, PyAny>,
        bytes: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let offset = place("offset", offset)?;
        let payload = Payload::of(bytes)?;
        let bytes = payload.bytes();
        let written = py.detach(|| {
            let _turn = self.turn();
            self.buffer.write_at(offset, bytes)
        });
        written.map_err(|error| of_access(py, &error))
    }

    /// Accepts bytes whose writer was killed halfway as they are, and returns their range.
    fn accept_torn(&self, py: Python<'_>) -> PyResult<Option<(usize, usize)>> {
        let accepted = py.detach(|| {
            let _turn = self.turn();
            self.buffer.accept_torn()
        });
        let range = accepted.map_err(|error| of_lock(py, &error))?;
        Ok(range.map(|range| (range.start, range.end)))
    }

    /// # Safety
    /// Called by the interpreter with a valid, writable `view`.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut Py_buffer,
        flags: std::ffi::c_int,
    ) -> PyResult<()> {
        let buffer = &slf.get().buffer;
        let bytes = (buffer.as_ptr().as_ptr().cast_const(), buffer.len());
        // SAFETY: `view` is the interpreter's. The bytes are a mapping that stays as long as
        // `buffer`, which this object owns and never replaces, and the view has a reference to this
        // object. Any process and thread with a view may write them at any time; only agreement
        // between them orders the writes. No Rust reference to them is ever made: `read` and
        // `write` copy from and to the pointer, by atomics. So processes that race without such an
        // agreement get mixed bytes, as with `multiprocessing.shared_memory`.
        unsafe { view::export(slf.as_any(), bytes, Access::Writable, view, flags) }
    }

    /// Returns the ids of the processes that use the buffer now.
    fn users(&self) -> Vec<u32> {
        let users = self.buffer.users().into_iter();
        users.map(|user| user.process.pid).collect()
    }
}

/// Removes a buffer. Returns `False` if it does not exist.
#[pyfunction]
pub fn remove_buffer(py: Python<'_>, namespace: NameText, name: NameText) -> PyResult<bool> {
    let namespace =
        Namespace::new(&namespace.0).map_err(|error| errors::new(py, "BadAddress", &error, &[]))?;
    let removed = SharedBuffer::remove(&namespace, &name.0);
    removed.map_err(|error| errors::of_buffer(py, &error))
}

/// An offset or a size. A negative one is outside.
fn place(what: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    count(what, value).map_err(
        |error| match error.is_instance_of::<PyValueError>(value.py()) {
            true => PyIndexError::new_err(error.value(value.py()).to_string()),
            false => error,
        },
    )
}

fn of_access(py: Python<'_>, error: &AccessError) -> PyErr {
    match error {
        AccessError::OutOfRange { .. } => PyIndexError::new_err(error.to_string()),
        AccessError::Torn { .. } => errors::new(py, "Torn", error, &[]),
        AccessError::Lock(error) => of_lock(py, error),
        other => errors::new(py, "Error", other, &[]),
    }
}

fn of_lock(py: Python<'_>, error: &LockError) -> PyErr {
    let name = match error {
        LockError::TimedOut { .. } => "LockTimedOut",
        LockError::Removed { .. } | LockError::Deleted { .. } => "Removed",
        LockError::ForkedChild { .. } => "Forked",
        LockError::DescriptorLost { .. } => "DescriptorLost",
        LockError::Truncated { .. } | LockError::Damaged { .. } => "Damaged",
        _ => "Error",
    };
    errors::new(py, name, error, &[])
}
