//! Served queues as subjects of the conformance suite: a server for each, and openings that only
//! know its socket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipc_queue::conformance::{Proxied, Proxy, Subject, hold_until_killed};
use ipc_queue::transport::{OpenMode, OpenRequest, Transport};
use ipc_queue::{
    ByteQueue, ControlError, LocalQueue, Name, QueueError, ShmQueue, UnixQueue, UnixServer,
};
use ipc_shm::Namespace;
use tempfile::TempDir;

/// The kind of queue that is served.
pub trait Behind: Clone + Send + Sync + 'static {
    fn new(folder: &TempDir) -> Self;
    fn create(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError>;
    fn remove(&self, name: &Name) -> Result<bool, ControlError>;
}

#[derive(Clone)]
pub struct Local;

#[derive(Clone)]
pub struct Shm(Namespace);

/// Queues with one server each.
pub struct Served<B> {
    behind: B,
    servers: Mutex<HashMap<Name, (UnixServer, PathBuf)>>,
    /// The servers of removed queues, which still answer connected clients.
    former: Mutex<Vec<UnixServer>>,
    folder: TempDir,
}

impl Behind for Local {
    fn new(_: &TempDir) -> Self {
        Self
    }

    fn create(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(LocalQueue::open(name, request)?))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        Ok(LocalQueue::remove(name))
    }
}

impl Behind for Shm {
    fn new(folder: &TempDir) -> Self {
        Self(Namespace::in_folder(folder.path().join("ipc"), "test").unwrap())
    }

    fn create(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(ShmQueue::open(&self.0, name, request)?))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        ShmQueue::remove(&self.0, name)
    }
}

impl<B: Behind> Served<B> {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ipc-queue-test-")
            .tempdir_in("/dev/shm")
            .unwrap();
        Self {
            behind: B::new(&folder),
            servers: Mutex::default(),
            former: Mutex::default(),
            folder,
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }
}

impl<B: Behind> Subject for Served<B> {
    fn open(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        let mut servers = self.servers.lock().unwrap();
        let path = self.path(name);
        if !servers.contains_key(name) && request.mode != OpenMode::Open {
            let queue = self.behind.create(name, request)?;
            let (behind, removed) = (self.behind.clone(), name.clone());
            let options = UnixServer::options().removable(move || behind.remove(&removed));
            let server = options.bind(&path, queue).unwrap();
            servers.insert(name.clone(), (server, path.clone()));
            let opening = OpenRequest {
                mode: OpenMode::Open,
                ..request.clone()
            };
            return Ok(Arc::new(UnixQueue::open(&path, None, &opening)?));
        }
        drop(servers);
        Ok(Arc::new(UnixQueue::open(&path, None, request)?))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        let removed = UnixQueue::remove(&self.path(name), None)?;
        if let Some((server, _)) = self.servers.lock().unwrap().remove(name) {
            self.former.lock().unwrap().push(server);
        }
        Ok(removed)
    }

    fn proxied(&self, name: &Name) -> Option<Proxied> {
        const LIMIT: Option<Duration> = Some(Duration::from_millis(200));
        let path = self.path(name).with_extension("proxy");
        let proxy = Proxy::unix(&path, &self.path(name)).unwrap();
        let opening = OpenRequest {
            mode: OpenMode::Open,
            ..OpenRequest::default()
        };
        let queue = UnixQueue::open(&path, LIMIT, &opening).unwrap();
        Some(Proxied {
            proxy,
            queue: Arc::new(queue),
            remove: Box::new(move || UnixQueue::remove(&path, LIMIT)),
        })
    }

    fn holder(&self, name: &Name) -> Option<Command> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "holder", "--nocapture", "--quiet"]);
        command.env(HOLDER, format!("unix:{}", self.path(name).display()));
        Some(command)
    }
}

/// The environment variable with the queue's address, for a holder.
const HOLDER: &str = "IPC_QUEUE_TEST_UNIX_HOLDER";

pub fn holder() {
    if let Ok(address) = std::env::var(HOLDER) {
        hold_until_killed(&ByteQueue::open(&address).unwrap());
    }
}

impl<B> Drop for Served<B> {
    fn drop(&mut self) {
        self.servers.get_mut().unwrap().clear();
        self.former.get_mut().unwrap().clear();
        let left: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(
            left.is_empty() || std::thread::panicking(),
            "left behind: {left:?}"
        );
    }
}
