//! The place of a run: the namespace of its nodes, and the address of its pool.
//!
//! A killed run leaves a namespace behind that the next run removes: see [`remove_dead_runs`].

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use ipc_node::pool::{Pool, PoolBuilder};
use ipc_node::{JoinError, Node, Registry};
use ipc_queue::transport::OpenMode;
use ipc_queue::{Address, QueueOptions};
use ipc_shm::Namespace;

use crate::{nats, task};

/// The transport of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Threads of one process.
    Local,
    /// Processes that share memory.
    #[default]
    Shm,
    /// Processes that share only sockets, at which the coordinator serves its queues.
    Unix,
    /// Processes, perhaps of several hosts, that share only a NATS server.
    Nats,
}

/// A run's namespace and address, with all of their content. Removed when dropped.
#[derive(Debug)]
pub struct Premises {
    transport: Transport,
    namespace: Namespace,
    address: String,
    /// The run's own server, if there is one.
    server: Option<nats::Server>,
    is_removed: bool,
}

/// The prefix of every namespace of a run.
/// The coordinator's name among the nodes.
const COORDINATOR: &str = "coordinator";
const PREFIX: &str = "demo-";
/// Longer than the time between a run's first file and its joining.
const BEGINNING: Duration = Duration::from_secs(60);
/// The most other runs with this process's number.
const MOST_TURNS: u32 = 100;
/// The name of a run's pool in the run's folder.
const POOL: &str = "run";
/// The folder of a NATS server of the run's own.
const SERVER: &str = "nats";
/// A NATS server detects a worker's death only by this long a silence.
const SILENCE: Duration = Duration::from_secs(2);
/// The environment variable with a worker's namespace of nodes.
const NODES: &str = "IPC_DEMO_NODES";

impl Premises {
    /// The premises of the coordinator of `namespace`, which now own the namespace. With NATS, they
    /// use the servers `at`, or a server of their own.
    ///
    /// # Errors
    /// When a NATS server can't be started, or `at` is not an address of servers.
    pub fn new(transport: Transport, at: Option<&str>, namespace: Namespace) -> Result<Self> {
        let mut server = None;
        let address = locate(transport, at, &namespace, &mut server)
            .inspect_err(|_| drop(remove_folder(&namespace)))?;
        Ok(Self {
            transport,
            namespace,
            address,
            server,
            is_removed: false,
        })
    }

    /// The namespace of the nodes.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The transport of the messages.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The address of the pool.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Checks that all parts of the run's own are well.
    ///
    /// # Errors
    /// When its NATS server has ended.
    pub fn check(&self) -> Result<()> {
        self.server.as_ref().map_or(Ok(()), nats::Server::check)
    }

    /// A builder for the pool there, with this number of workers.
    pub fn pool(&self, workers: usize) -> PoolBuilder {
        let builder = Pool::builder().at(&self.address).workers(workers);
        let nodes = Some(&self.namespace);
        match self.transport {
            Transport::Local => builder.threads(task::handlers(nodes.cloned())),
            Transport::Nats => builder.command(worker(nodes)).keep_alive(SILENCE),
            _ => builder.command(worker(nodes)),
        }
    }

    /// Removes everything. Returns what is still left: nothing, unless something is wrong.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(mut self) -> Result<Vec<String>> {
        self.is_removed = true;
        // The pool has ended, and should have removed them.
        let mut left = queues(&self.address).to_vec();
        left.retain(|queue| exists(queue));
        left.extend(self.clear()?);
        Ok(left)
    }

    fn clear(&mut self) -> Result<Vec<String>> {
        match self.server.take() {
            // With its whole store.
            Some(server) => {
                drop(server);
                remove_folder(&self.namespace)
            }
            None => remove(&self.namespace, &self.address),
        }
    }
}

impl Drop for Premises {
    fn drop(&mut self) {
        if !self.is_removed {
            // An earlier failure led here; its report is enough.
            let _ = self.clear();
        }
    }
}

/// The address of the pool, and the server that was started for it.
fn locate(
    transport: Transport,
    at: Option<&str>,
    namespace: &Namespace,
    server: &mut Option<nats::Server>,
) -> Result<String> {
    let run = namespace.name();
    Ok(match (transport, at) {
        // These names belong to this process's threads: the run is in the name.
        (Transport::Local, _) => format!("local:{run}"),
        (Transport::Shm, _) => format!("shm:{run}/{POOL}"),
        (Transport::Unix, _) => format!("unix:{}/{POOL}", namespace.path().display()),
        // On another host, a process with the same number may also have a run there.
        (Transport::Nats, Some(servers)) => {
            nats::address(servers, &format!("{run}-{:08x}", fastrand::u32(..)))?
        }
        (Transport::Nats, None) => {
            let own = server.insert(nats::Server::start(&namespace.path().join(SERVER))?);
            own.address(run.as_str())
        }
    })
}

/// Becomes the coordinator of a namespace for this process's run.
///
/// Another container that shares the memory may have a process with this number, with a run of its
/// own. The first to join has the name, and the next one takes another.
///
/// # Errors
/// When the table of nodes can't be made or used.
pub fn join_own() -> Result<(Namespace, Node)> {
    for turn in 0.. {
        let namespace = namespace_of_run(turn)?;
        match Node::join(&namespace, COORDINATOR) {
            Err(JoinError::NameTaken { .. }) if turn < MOST_TURNS => {}
            joined => return Ok((namespace, joined?)),
        }
    }
    unreachable!("the loop returns")
}

/// The namespace of this process's run, if no other run has it.
///
/// # Errors
/// Never: the name is valid.
pub fn namespace_of_run(turn: u32) -> Result<Namespace> {
    let process = std::process::id();
    let name = match turn {
        0 => format!("{PREFIX}{process}"),
        _ => format!("{PREFIX}{process}-{turn}"),
    };
    Ok(Namespace::new(&name)?)
}

/// A command that starts this program as a worker, which is a node of that namespace.
#[must_use]
pub fn worker(nodes: Option<&Namespace>) -> Command {
    // Not `current_exe`: after a rebuild its path says "(deleted)".
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ipc-demo").stdout(Stdio::null());
    if let Some(nodes) = nodes {
        command.env(NODES, nodes.name().as_str());
    }
    command
}

/// The namespace in which this worker is a node, if it is one.
#[must_use]
pub fn nodes_of_worker() -> Option<Namespace> {
    Namespace::new(&std::env::var(NODES).ok()?).ok()
}

/// The namespace of the nodes of the run at that address, if it shares memory with this process.
#[must_use]
pub fn nodes_of_run(address: &str) -> Option<Namespace> {
    match address.parse() {
        Ok(Address::Shm { namespace, .. }) => Namespace::new(namespace.as_str()).ok(),
        _ => None,
    }
}

/// Removes the leftovers of killed runs whose processes are all gone. Returns a report.
///
/// # Errors
/// When the folder of all runs can't be used.
pub fn remove_dead_runs() -> Result<Vec<String>> {
    let removed = |run: Namespace| {
        let _claim = claim(&run)?;
        let name = run.name();
        Some(match remove(&run, &format!("shm:{name}/{POOL}")) {
            Ok(_) => format!("removed what a killed run left behind: {name}"),
            Err(error) => format!("can't remove what a killed run left behind: {error:#}"),
        })
    };
    let runs = namespace_of_run(0)?.siblings()?.into_iter();
    Ok(runs.filter(is_of_a_run).filter_map(removed).collect())
}

/// Becomes the coordinator of a run without live processes. No other process does while this is
/// kept.
fn claim(run: &Namespace) -> Option<Node> {
    let registry = Registry::open(run).ok()?;
    // A remote worker may be finishing a task.
    if registry.anybody_there() {
        return None;
    }
    // A run that is just beginning has no nodes yet. If it is taken for a dead one, it still runs,
    // under another name: its coordinator and this process can't both have this one.
    if registry.nodes(Duration::MAX).is_empty() && !is_old(run) {
        return None;
    }
    Node::join(run, COORDINATOR).ok()
}

fn is_old(run: &Namespace) -> bool {
    let made = fs::metadata(run.path()).and_then(|folder| folder.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > BEGINNING))
}

fn is_of_a_run(namespace: &Namespace) -> bool {
    let rest = namespace.name().as_str().strip_prefix(PREFIX);
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    rest.is_some_and(|rest| rest.split('-').all(is_number))
}

/// Removes the queues, the rest of the folder, and the table of nodes: as many of them as possible.
/// Returns what is still left.
fn remove(namespace: &Namespace, address: &str) -> Result<Vec<String>> {
    let removed = Pool::remove(address);
    let left = remove_folder(namespace)?;
    removed?;
    Ok(left)
}

fn remove_folder(namespace: &Namespace) -> Result<Vec<String>> {
    // The store of a server, and sockets of a killed run. Mostly there are none.
    let _ = fs::remove_dir_all(namespace.path().join(SERVER));
    for socket in queues(POOL) {
        let _ = fs::remove_file(namespace.path().join(socket));
    }
    Registry::remove(namespace)?;
    let left = fs::read_dir(namespace.path());
    Ok(left
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

/// The queues of the pool at that address.
fn queues(address: &str) -> [String; 2] {
    let (path, options) = address.split_at(address.find('?').unwrap_or(address.len()));
    ["jobs", "answers"].map(|queue| format!("{path}.{queue}{options}"))
}

fn exists(queue: &str) -> bool {
    let options = QueueOptions::new().mode(OpenMode::Open);
    options.open_bytes(queue).is_ok()
}
