//! Where a run is: the namespace of its nodes, and the address of its pool.
//!
//! Whoever dies leaves a namespace behind that the next run removes: see [`remove_dead_runs`].

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

use crate::coordinator::COORDINATOR;
use crate::{nats, task};

/// What the messages travel over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Threads of one process.
    Local,
    /// Processes that share memory.
    #[default]
    Shm,
    /// Processes that share nothing but sockets, at which the coordinator serves its queues.
    Unix,
    /// Processes, perhaps of several hosts, that share nothing but a NATS server.
    Nats,
}

/// A run's namespace and address, with everything that is there. Removed when dropped.
#[derive(Debug)]
pub struct Premises {
    transport: Transport,
    namespace: Namespace,
    address: String,
    /// If the run has one of its own.
    server: Option<nats::Server>,
    is_removed: bool,
}

/// The prefix of every namespace of a run.
const PREFIX: &str = "demo-";
/// Longer than a run takes from its first file to its joining.
const BEGINNING: Duration = Duration::from_secs(60);
/// How many others may have runs by the number of this process.
const MOST_TURNS: u32 = 100;
/// What a run's pool is called in the run's folder.
const POOL: &str = "run";
/// The folder there of a NATS server of its own.
const SERVER: &str = "nats";
/// A NATS server doesn't see a worker die, but that nothing is heard of it.
const SILENCE: Duration = Duration::from_secs(2);
/// Tells a worker in which namespace it is a node.
const NODES: &str = "IPC_DEMO_NODES";

impl Premises {
    /// Those of the coordinator of `namespace`, whose they are from now on; for NATS `at` these servers, or one of its own.
    ///
    /// # Errors
    /// When a NATS server can't be started, or that is none.
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

    /// Where the nodes are.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What the messages travel over.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Where the pool is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether all that is of the run's own is well.
    ///
    /// # Errors
    /// When its NATS server has ended.
    pub fn check(&self) -> Result<()> {
        self.server.as_ref().map_or(Ok(()), nats::Server::check)
    }

    /// How the pool is to be started there, with so many workers.
    pub fn pool(&self, workers: usize) -> PoolBuilder {
        let builder = Pool::builder().at(&self.address).workers(workers);
        let nodes = Some(&self.namespace);
        match self.transport {
            Transport::Local => builder.threads(task::handlers(nodes.cloned())),
            Transport::Nats => builder.command(worker(nodes)).keep_alive(SILENCE),
            _ => builder.command(worker(nodes)),
        }
    }

    /// Removes everything. What is left all the same: nothing, unless something is wrong.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(mut self) -> Result<Vec<String>> {
        self.is_removed = true;
        // The pool has ended, and should have taken them with it.
        let mut left = queues(&self.address).to_vec();
        left.retain(|queue| exists(queue));
        left.extend(self.clear()?);
        Ok(left)
    }

    fn clear(&mut self) -> Result<Vec<String>> {
        match self.server.take() {
            // With all that it has.
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
            // Something failed before this; whoever hears of it need not hear of this, too.
            let _ = self.clear();
        }
    }
}

/// Where the pool is to be; a server that was started for it.
fn locate(
    transport: Transport,
    at: Option<&str>,
    namespace: &Namespace,
    server: &mut Option<nats::Server>,
) -> Result<String> {
    let run = namespace.name();
    Ok(match (transport, at) {
        // Names of this process's threads: the run is in the name.
        (Transport::Local, _) => format!("local:{run}"),
        (Transport::Shm, _) => format!("shm:{run}/{POOL}"),
        (Transport::Unix, _) => format!("unix:{}/{POOL}", namespace.path().display()),
        // Elsewhere a process of our number may have a run there, too.
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
/// Another container that shares the memory may have a process of our number, with a run of its
/// own: the first to join has the name, and the next takes another.
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

/// The namespace that this process's run has, if nobody else has it.
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

/// This program again, as a worker that is a node of that namespace.
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

/// Where this worker is a node, if it is one.
#[must_use]
pub fn nodes_of_worker() -> Option<Namespace> {
    Namespace::new(&std::env::var(NODES).ok()?).ok()
}

/// Where the nodes are of the run at that address, if it shares memory with us.
#[must_use]
pub fn nodes_of_run(address: &str) -> Option<Namespace> {
    match address.parse() {
        Ok(Address::Shm { namespace, .. }) => Namespace::new(namespace.as_str()).ok(),
        _ => None,
    }
}

/// Removes what runs left behind whose processes are all gone: they were killed. What there is to say of that.
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

/// Becomes the coordinator of a run that nobody is left of. Nobody else does while this is kept.
fn claim(run: &Namespace) -> Option<Node> {
    let registry = Registry::open(run).ok()?;
    // A helper may be finishing a task.
    if registry.anybody_there() {
        return None;
    }
    // Nobody ever joined a run that is just beginning. If it is taken for a dead one, it still runs,
    // under another name: its coordinator and we can't both have this one.
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

/// Removes the queues, what else is in the folder, and the table of nodes: as many of them as possible. What is left all the same.
fn remove(namespace: &Namespace, address: &str) -> Result<Vec<String>> {
    let removed = Pool::remove(address);
    let left = remove_folder(namespace)?;
    removed?;
    Ok(left)
}

fn remove_folder(namespace: &Namespace) -> Result<Vec<String>> {
    // What a server stored, and sockets of a run that was killed. Mostly there are none.
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

/// Where the queues are of the pool at that address.
fn queues(address: &str) -> [String; 2] {
    let (path, options) = address.split_at(address.find('?').unwrap_or(address.len()));
    ["jobs", "answers"].map(|queue| format!("{path}.{queue}{options}"))
}

fn exists(queue: &str) -> bool {
    let options = QueueOptions::new().mode(OpenMode::Open);
    options.open_bytes(queue).is_ok()
}
