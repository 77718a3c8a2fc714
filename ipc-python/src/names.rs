//! Names of queues and namespaces: they are listed and removed.

use ipc_queue::shm::Inspector;
use ipc_queue::{Name, ShmQueue};
use ipc_shm::{Namespace, ProcessIdentity};
use pyo3::prelude::*;

use crate::arguments::NameText;
use crate::errors;
use crate::waiting::resume_watcher;

/// Removes a queue with everything in it. Returns `False` if it does not exist.
#[pyfunction]
pub fn remove(py: Python<'_>, address: NameText) -> PyResult<bool> {
    resume_watcher();
    let removed = py.detach(|| ipc_queue::remove(&address.0));
    removed.map_err(|error| errors::of_control(py, &error))
}

/// Returns the namespaces in shared memory whose names begin with `prefix`.
#[pyfunction]
pub fn namespaces(py: Python<'_>, prefix: &str) -> PyResult<Vec<String>> {
    // Any namespace knows its siblings.
    let any = namespace_of(py, "default")?;
    let siblings = py.detach(|| any.siblings());
    let siblings = siblings.map_err(|error| errors::of_system(py, &error))?;
    let names = siblings.iter().map(|sibling| sibling.name().to_string());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// Returns the queues in a namespace in shared memory.
#[pyfunction]
pub fn queues(py: Python<'_>, namespace: &str) -> PyResult<Vec<String>> {
    let namespace = namespace_of(py, namespace)?;
    let names = py.detach(|| ShmQueue::list(&namespace));
    let names = names.map_err(|error| errors::of_open(py, &error))?;
    Ok(names.iter().map(|name| name.to_string()).collect())
}

/// Removes a queue, unless the kernel's locks show that another process has it open.
#[pyfunction]
pub fn remove_unused(py: Python<'_>, namespace: &str, name: &str) -> PyResult<bool> {
    let namespace = namespace_of(py, namespace)?;
    let name = Name::new(name).map_err(|error| errors::new(py, "BadAddress", &error, &[]))?;
    let inspector = Inspector::open(&namespace, &name);
    let inspector = inspector.map_err(|error| errors::of_open(py, &error))?;
    let us = ProcessIdentity::current();
    let is_other = |process: &ProcessIdentity| *process != us;
    let participants = inspector.participants();
    if participants
        .iter()
        .any(|(participant, gone)| !gone && is_other(&participant.process))
    {
        return Ok(false);
    }
    let removed = ShmQueue::remove(&namespace, &name);
    removed.map_err(|error| errors::of_control(py, &error))
}

fn namespace_of(py: Python<'_>, name: &str) -> PyResult<Namespace> {
    Namespace::new(name).map_err(|error| errors::new(py, "BadAddress", &error, &[]))
}
