//! A process's membership in a group, and the health of its members.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipc_node::{Health, JoinError, Node, NodeOptions, Registry};
use ipc_shm::Namespace;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::{LossyText, NameText, Seconds};
use crate::errors;
use crate::waiting::{self, resume_watcher, seconds};

/// A row about a node: name, process id, health, seconds since it joined, seconds since it beat.
type Row = (String, u32, &'static str, f64, f64);

/// A thread that beats without a pause would take a whole core.
const NO_INTERVAL: &str = "interval is 0: use a longer time, or None to beat by hand";

/// This process as a member of a group, under a name. It beats by itself unless `interval` is
/// `None`.
#[pyclass(frozen, module = "ipc_queue._ipc")]
pub struct RawNode {
    /// `None` after it has left.
    node: Mutex<Option<Node>>,
    /// The number of forks before the process that joined.
    forks: u64,
}

impl RawNode {
    fn with_node<T>(&self, py: Python<'_>, ask: impl FnOnce(&Node) -> T) -> PyResult<T> {
        resume_watcher();
        if self.forks != waiting::forks() {
            let text = "this process was forked from the one that joined: join under another name";
            return Err(errors::new(py, "Forked", &text, &[]));
        }
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let node = node.as_ref();
        node.map(ask)
            .ok_or_else(|| errors::new(py, "Closed", &"this node has left its group", &[]))
    }
}

#[pymethods]
impl RawNode {
    /// Joins. `interval` is the time between two beats; `None`: only `beat` beats.
    #[new]
    fn new(
        py: Python<'_>,
        namespace: NameText,
        name: NameText,
        interval: Option<Seconds>,
        timeout: Seconds,
    ) -> PyResult<Self> {
        resume_watcher();
        let namespace = namespace_of(py, &namespace)?;
        let options = NodeOptions::new().timeout(seconds("timeout", timeout)?);
        let options = match interval {
            Some(interval) => match seconds("interval", interval)? {
                Duration::ZERO => return Err(PyValueError::new_err(NO_INTERVAL)),
                interval => options.interval(interval),
            },
            None => options.beat_by_hand(),
        };
        let joined = py.detach(|| options.join(&namespace, &name.0));
        let node = joined.map_err(|error| of_join(py, &error))?;
        Ok(Self {
            node: Mutex::new(Some(node)),
            forks: waiting::forks(),
        })
    }

    /// Records that this process is healthy.
    fn beat(&self, py: Python<'_>) -> PyResult<()> {
        self.with_node(py, Node::beat)
    }

    /// Returns `alive`, `stale`, `dead` or `left`; `None` if no member had the name.
    fn health(
        &self,
        py: Python<'_>,
        name: LossyText,
        timeout: Seconds,
    ) -> PyResult<Option<&'static str>> {
        let timeout: Duration = seconds("timeout", timeout)?;
        let health = self.with_node(py, |node| node.alive(&name.0, timeout))?;
        Ok(health.map(health_name))
    }

    /// The nodes of the group.
    fn peers(&self, py: Python<'_>) -> PyResult<Vec<Row>> {
        let peers = self.with_node(py, Node::peers)?;
        Ok(peers.into_iter().map(row).collect())
    }

    /// Leaves the group.
    fn leave(&self, py: Python<'_>) {
        if self.forks == waiting::forks() {
            let node = self
                .node
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            py.detach(|| drop(node));
        }
    }
}

impl Drop for RawNode {
    fn drop(&mut self) {
        if self.forks != waiting::forks() {
            // In a forked copy the thread does not exist, and the membership is the parent's.
            let node = self.node.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(node.take());
        }
    }
}

/// The nodes of a group, for a process that is not a member.
#[pyfunction]
pub fn nodes(py: Python<'_>, namespace: NameText, timeout: Seconds) -> PyResult<Vec<Row>> {
    let namespace = namespace_of(py, &namespace)?;
    let timeout = seconds("timeout", timeout)?;
    let registry = Registry::look(&namespace);
    let registry = registry.map_err(|error| errors::of_registry(py, &error))?;
    let nodes = registry.map(|registry| registry.nodes(timeout));
    Ok(nodes.unwrap_or_default().into_iter().map(row).collect())
}

/// Removes the table of a group that has no living members. `False`: there is none, or it has some.
#[pyfunction]
pub fn remove_nodes(py: Python<'_>, namespace: NameText) -> PyResult<bool> {
    let namespace = namespace_of(py, &namespace)?;
    let registry = Registry::look(&namespace);
    let registry = registry.map_err(|error| errors::of_registry(py, &error))?;
    if registry.is_none_or(|registry| registry.anybody_there()) {
        return Ok(false);
    }
    let removed = Registry::remove(&namespace);
    removed.map_err(|error| errors::of_system(py, &error))
}

fn namespace_of(py: Python<'_>, NameText(name): &NameText) -> PyResult<Namespace> {
    Namespace::new(name).map_err(|error| errors::new(py, "BadAddress", &error, &[]))
}

fn row(node: ipc_node::NodeInfo) -> Row {
    let joined = node.joined_ago.as_secs_f64();
    let beat = node.last_beat_ago.as_secs_f64();
    (node.name, node.pid, health_name(node.health), joined, beat)
}

fn health_name(health: Health) -> &'static str {
    match health {
        Health::Alive => "alive",
        Health::Stale => "stale",
        Health::Dead => "dead",
        Health::Left => "left",
        _ => "unknown",
    }
}

fn of_join(py: Python<'_>, error: &JoinError) -> PyErr {
    match error {
        JoinError::NameTaken { .. } => errors::new(py, "Exists", error, &[]),
        JoinError::Name(_) => errors::new(py, "BadAddress", error, &[]),
        JoinError::Registry(error) => errors::of_registry(py, error),
        other => errors::of_system(py, other),
    }
}
