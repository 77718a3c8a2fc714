//! The two queues between the coordinator and its workers, by transport and name.

use anyhow::{Context, Result};
use clap::ValueEnum;
use ipc_node::Registry;
use ipc_queue::transport::OpenMode;
use ipc_queue::{ByteQueue, Queue, QueueOptions, QueueStats};
use ipc_shm::Namespace;

use crate::task::Outcome;

/// What the messages travel over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Threads of one process.
    Local,
    /// Processes that share memory.
    #[default]
    Shm,
}

/// Both queues, opened.
#[derive(Debug)]
pub struct Wiring {
    /// Tasks: a header and raw content.
    pub tasks: ByteQueue,
    /// The workers' answers.
    pub results: Queue<Outcome>,
    transport: Transport,
    namespace: Namespace,
}

/// The prefix of every namespace of a run.
const PREFIX: &str = "demo-";
const TASKS: &str = "tasks";
const RESULTS: &str = "results";
/// Answers with a hash state in them travel inline.
const RESULT_BYTES: u32 = 448;

impl Wiring {
    /// Makes the queues of a new run.
    ///
    /// # Errors
    /// When they exist already, or there is no memory for them.
    pub fn create(transport: Transport, namespace: Namespace, attempt_limit: u8) -> Result<Self> {
        Self::open_as(transport, namespace, OpenMode::Create, Some(attempt_limit))
    }

    /// Opens the queues of a run that another process made.
    ///
    /// # Errors
    /// When there are none.
    pub fn open(transport: Transport, namespace: Namespace) -> Result<Self> {
        Self::open_as(transport, namespace, OpenMode::Open, None)
    }

    fn open_as(
        transport: Transport,
        namespace: Namespace,
        mode: OpenMode,
        attempt_limit: Option<u8>,
    ) -> Result<Self> {
        let mut options = [
            QueueOptions::new().mode(mode),
            QueueOptions::new().mode(mode),
        ];
        if let Some(limit) = attempt_limit {
            let [tasks, results] = options;
            options = [
                tasks.attempt_limit(limit),
                results.inline_bytes(RESULT_BYTES),
            ];
        }
        let address = |name| address(transport, &namespace, name);
        let tasks = options[0]
            .open_bytes(&address(TASKS))
            .context("opening the queue of tasks")?;
        let results = options[1]
            .open(&address(RESULTS))
            .context("opening the queue of results")?;
        Ok(Self {
            tasks,
            results,
            transport,
            namespace,
        })
    }

    /// Both queues again, for another thread.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn again(&self) -> Result<Self> {
        Self::open(self.transport, self.namespace.clone())
    }

    /// Where the queues and the nodes are.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The statistics of the two queues: tasks, results.
    #[must_use]
    pub fn stats(&self) -> (QueueStats, QueueStats) {
        (
            self.tasks.transport().stats(),
            self.results.transport().stats(),
        )
    }

    /// Removes both queues and the table of nodes. What is left in shared memory under these names: nothing,
    /// unless something is wrong.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(transport: Transport, namespace: &Namespace) -> Result<Vec<String>> {
        for name in [TASKS, RESULTS] {
            ipc_queue::remove(&address(transport, namespace, name))?;
        }
        Registry::remove(namespace)?;
        let left = std::fs::read_dir(namespace.path())
            .into_iter()
            .flatten()
            .flatten();
        Ok(left
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect())
    }
}

/// The namespace of this process's run.
///
/// # Errors
/// Never: the name is valid.
pub fn namespace_of_run() -> Result<Namespace> {
    Ok(Namespace::new(&format!("{PREFIX}{}", std::process::id()))?)
}

/// Removes what runs left behind whose processes are all gone: they were killed.
///
/// # Errors
/// When the system refuses.
pub fn remove_dead_runs(current: &Namespace) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for namespace in current.siblings()? {
        if !namespace.name().as_str().starts_with(PREFIX) || namespace == *current {
            continue;
        }
        // A run's first act is to join its namespace: no live node, no run.
        let dead = Registry::open(&namespace).is_ok_and(|registry| !registry.anybody_there());
        if dead {
            Wiring::remove(Transport::Shm, &namespace)?;
            removed.push(namespace.name().to_string());
        }
    }
    Ok(removed)
}

fn address(transport: Transport, namespace: &Namespace, name: &str) -> String {
    match transport {
        // Names of this process's threads: the run is in the name.
        Transport::Local => format!("local:{}.{name}", namespace.name()),
        Transport::Shm => format!("shm:{}/{name}", namespace.name()),
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Shm => "shm",
        })
    }
}
