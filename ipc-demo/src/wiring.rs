//! Where a run is: its namespace, and in it the two queues between the coordinator and its workers.
//!
//! Whoever dies leaves a namespace behind that the next run removes: see [`remove_dead_runs`].

use anyhow::{Context, Result};
use clap::ValueEnum;
use ipc_node::Registry;
use ipc_queue::transport::OpenMode;
use ipc_queue::{ByteQueue, Queue, QueueOptions, QueueStats};
use ipc_shm::Namespace;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

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

/// A run's namespace, with everything that is in it. Removed when dropped.
#[derive(Debug)]
pub struct Premises {
    transport: Transport,
    namespace: Namespace,
    is_removed: bool,
}

/// Both queues, opened.
#[derive(Debug)]
pub struct Wiring {
    /// Tasks: a header and raw content.
    pub tasks: ByteQueue,
    /// The workers' answers.
    pub results: Queue<Outcome>,
    namespace: Namespace,
}

/// The prefix of every namespace of a run.
const PREFIX: &str = "demo-";
const TASKS: &str = "tasks";
const RESULTS: &str = "results";
/// Answers with a hash state in them travel inline, and none is larger.
const RESULT_BYTES: u32 = 448;

impl Premises {
    /// Those of the coordinator of `namespace`, whose they are from now on.
    #[must_use]
    pub fn new(transport: Transport, namespace: Namespace) -> Self {
        Self {
            transport,
            namespace,
            is_removed: false,
        }
    }

    /// What the messages travel over.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Where the queues and the nodes are.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Removes everything. What is left in shared memory all the same: nothing, unless something is wrong.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(mut self) -> Result<Vec<String>> {
        self.is_removed = true;
        remove(self.transport, &self.namespace)
    }
}

impl Drop for Premises {
    fn drop(&mut self) {
        if !self.is_removed {
            // Something failed before this; whoever hears of it need not hear of this, too.
            let _ = remove(self.transport, &self.namespace);
        }
    }
}

impl Wiring {
    /// Makes the queues of a new run.
    ///
    /// # Errors
    /// When they exist already, or there is no memory for them.
    pub fn create(premises: &Premises, attempt_limit: u8) -> Result<Self> {
        let tasks = QueueOptions::new().attempt_limit(attempt_limit);
        let results = QueueOptions::new()
            .inline_bytes(RESULT_BYTES)
            .max_message_bytes(RESULT_BYTES)
            .pool_bytes(0);
        let namespace = premises.namespace.clone();
        Self::open_with(
            premises.transport,
            namespace,
            [tasks, results].map(|options| options.mode(OpenMode::Create)),
        )
    }

    /// Opens the queues of a run that another process, or thread, made.
    ///
    /// # Errors
    /// When there are none.
    pub fn open(transport: Transport, namespace: Namespace) -> Result<Self> {
        let options = || QueueOptions::new().mode(OpenMode::Open);
        Self::open_with(transport, namespace, [options(), options()])
    }

    fn open_with(
        transport: Transport,
        namespace: Namespace,
        [tasks, results]: [QueueOptions; 2],
    ) -> Result<Self> {
        let address = |name| address(transport, &namespace, name);
        let results = results
            .open(&address(RESULTS))
            .context("opening the queue of results")?;
        // Last: whoever finds tasks finds everything.
        let tasks = tasks
            .open_bytes(&address(TASKS))
            .context("opening the queue of tasks")?;
        Ok(Self {
            tasks,
            results,
            namespace,
        })
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
}

/// The namespace of this process's run.
///
/// # Errors
/// Never: the name is valid.
pub fn namespace_of_run() -> Result<Namespace> {
    Ok(Namespace::new(&format!("{PREFIX}{}", std::process::id()))?)
}

/// Removes what runs left behind whose processes are all gone: they were killed. What there is to say of that.
///
/// # Errors
/// When the folder of all runs can't be used.
pub fn remove_dead_runs(ours: &Namespace) -> Result<Vec<String>> {
    let dead = ours
        .siblings()?
        .into_iter()
        .filter(|run| is_dead(run, ours));
    Ok(dead
        .map(|run| match remove(Transport::Shm, &run) {
            Ok(_) => format!("removed what a killed run left behind: {}", run.name()),
            Err(error) => format!("can't remove what a killed run left behind: {error:#}"),
        })
        .collect())
}

/// Whether nobody is left of a run. `ours` can only be the name of an earlier process of our number.
fn is_dead(run: &Namespace, ours: &Namespace) -> bool {
    let number = run.name().as_str().strip_prefix(PREFIX);
    let Some(Ok(coordinator)) = number.map(str::parse) else {
        return false;
    };
    // By its number first: between its first file and its joining, a run that begins has no nodes.
    let is_gone = || kill(Pid::from_raw(coordinator), None) == Err(Errno::ESRCH);
    // Then by its nodes: a helper may be finishing a task, or its number be one of another PID namespace.
    let nobody_there = || Registry::open(run).is_ok_and(|registry| !registry.anybody_there());
    (run == ours || is_gone()) && nobody_there()
}

/// Removes both queues and the table of nodes: as many of them as possible. What is left all the same.
fn remove(transport: Transport, namespace: &Namespace) -> Result<Vec<String>> {
    let removed =
        [TASKS, RESULTS].map(|name| ipc_queue::remove(&address(transport, namespace, name)));
    Registry::remove(namespace)?;
    for queue in removed {
        queue?;
    }
    let left = std::fs::read_dir(namespace.path());
    Ok(left
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
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
