//! A descriptor for an event loop, which tells it when to try the queue again.

use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use ipc_queue::Readiness;
use pyo3::prelude::*;

use crate::errors;

/// A descriptor that is readable when the queue should be tried again.
#[pyclass(frozen, module = "ipc_queue._ipc")]
pub struct RawReadiness {
    readiness: Mutex<Readiness>,
}

impl RawReadiness {
    pub fn new(py: Python<'_>, made: std::io::Result<Readiness>) -> PyResult<Self> {
        let readiness = made.map_err(|error| errors::of_system(py, &error))?;
        Ok(Self {
            readiness: Mutex::new(readiness),
        })
    }
}

#[pymethods]
impl RawReadiness {
    fn fileno(&self) -> i32 {
        let readiness = self.readiness.lock();
        readiness
            .unwrap_or_else(PoisonError::into_inner)
            .as_raw_fd()
    }

    /// Makes it unreadable until there is something new. Look once more after this.
    fn arm(&self, py: Python<'_>) -> PyResult<()> {
        let mut readiness = self
            .readiness
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        readiness
            .arm()
            .map_err(|error| errors::of_system(py, &error))
    }
}
