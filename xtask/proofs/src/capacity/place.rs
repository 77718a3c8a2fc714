//! The places of measured queues, and the processes that serve them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use ipc_nats::testing::{TestCluster, TestServer};
use ipc_queue::{ByteQueue, QueueOptions};
use nix::unistd::{SysconfVar, sysconf};

use super::hand::{Hand, Manner, Role, Task};

/// A transport, with its storage.
#[derive(Debug)]
pub enum Place {
    Shm,
    /// Sockets in this folder.
    Unix(PathBuf),
    Nats {
        name: &'static str,
        hosts: String,
        query: &'static str,
        servers: Vec<u32>,
    },
}

/// A queue, removed when dropped.
#[derive(Debug)]
pub struct Spot {
    pub address: String,
    /// The servers whose processor time counts, besides that of senders and receivers.
    servers: Vec<u32>,
    _served: Option<Hand>,
    _queue: Option<ByteQueue>,
}

pub const CLUSTER: &str = "nats, three servers, three replicas, file";

static MADE: AtomicU32 = AtomicU32::new(0);

impl Place {
    pub fn server(server: &TestServer, in_memory: bool) -> Self {
        let (name, query) = if in_memory {
            ("nats, one server, memory", "?storage=memory")
        } else {
            ("nats, one server, file", "")
        };
        Self::Nats {
            name,
            hosts: server.host(),
            query,
            servers: server.process().into_iter().collect(),
        }
    }

    pub fn cluster(cluster: &TestCluster) -> Self {
        Self::Nats {
            name: CLUSTER,
            hosts: cluster.hosts(),
            query: "?replicas=3",
            servers: cluster
                .servers
                .iter()
                .filter_map(TestServer::process)
                .collect(),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Unix(_) => "unix",
            Self::Nats { name, .. } => name,
        }
    }

    /// Returns whether processes other than senders and receivers use processor time.
    pub fn has_servers(&self) -> bool {
        !matches!(self, Self::Shm)
    }

    /// Creates a queue there, with default settings. Over NATS it has room for everything that is
    /// sent.
    pub fn queue(&self) -> Result<Spot> {
        let name = format!("capacity-{}", MADE.fetch_add(1, Ordering::Relaxed));
        match self {
            Self::Shm => Spot::create(format!("shm:capacity/{name}"), &QueueOptions::new(), vec![]),
            Self::Unix(folder) => Spot::serve(&name, folder),
            Self::Nats {
                hosts,
                query,
                servers,
                ..
            } => {
                let address = format!("nats://{hosts}/{name}{query}");
                let options = QueueOptions::new().capacity(1 << 17);
                Spot::create(address, &options, servers.clone())
            }
        }
    }
}

impl Spot {
    fn create(address: String, options: &QueueOptions, servers: Vec<u32>) -> Result<Self> {
        let queue = options.open_bytes(&address);
        let queue = queue.with_context(|| format!("creating {address}"))?;
        Ok(Self {
            address,
            servers,
            _served: None,
            _queue: Some(queue),
        })
    }

    fn serve(name: &str, folder: &Path) -> Result<Self> {
        let socket = folder.join(name).to_string_lossy().into_owned();
        let task = Task {
            role: Role::Serve,
            address: format!("local:{name}"),
            other: socket.clone(),
            bytes: 0,
            for_ms: 0,
            manner: Manner::Single,
            pause_us: 0,
        };
        let server = Hand::start(&task)?;
        Ok(Self {
            address: format!("unix:{socket}"),
            servers: vec![server.process()],
            _served: Some(server),
            _queue: None,
        })
    }

    /// The processor time of its servers so far, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        self.servers.iter().map(|server| cpu_of(*server)).sum()
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        if self._queue.is_some() {
            // A dead server has no queue any more.
            let _ = ipc_queue::remove(&self.address);
        }
    }
}

fn cpu_of(process: u32) -> Result<f64> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("clock ticks")?;
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The fields after the program's name, which may contain spaces: utime and stime are the 12th
    // and 13th.
    let (_, rest) = text.rsplit_once(')').context("a process's state")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks(), ticks());
    let both = user.zip(system).context("a process's times")?;
    Ok((both.0 + both.1) as f64 / per_second as f64)
}
