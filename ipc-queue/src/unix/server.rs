//! The server: a socket, its connections, and the queue that they use.
//!
//! One thread accepts, and each connection has its own thread (`connection.rs`). Each thread waits
//! only for its own client. Nothing is buffered for a client that does not read: its thread waits
//! with it. Clients may die at any point, and so may the server. Its socket's file is then left
//! behind, and the next server at that path replaces it.

mod bind;
mod connection;
mod holders;
mod notifying;
mod receiving;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipc_shm::KeptSocket;
use thiserror::Error;

use super::failures::ControlFailed;
use super::frame::{self, Carried};
use super::wire::{Greeting, PROTOCOL, Refusal, Welcome};
use super::wire_error::WireError;
use crate::capability::{Feature, Support};
use crate::contract::Transport;
use crate::control::ControlError;
use crate::readiness::WakeFd;
use bind::Place;
use connection::{Connection, Role};
use holders::Holders;

/// Serves a queue at a socket, until it is dropped.
///
/// ```
/// use std::sync::Arc;
/// use ipc_queue::{Queue, UnixServer};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("jobs.sock");
/// // Here: path = "/run/user/1000/jobs.sock".
/// let jobs = Queue::<String>::open("local:served-jobs")?; // or shm:, which outlives this process
/// let server = UnixServer::bind(&path, Arc::clone(jobs.transport()))?;
///
/// // In any process of the same user that can reach the socket:
/// let jobs = Queue::<String>::open(&format!("unix:{}", path.display()))?;
/// jobs.sender().send("resize".to_owned())?;
/// jobs.receiver().recv()?.ack()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct UnixServer {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// The options of a server.
#[derive(Debug)]
#[must_use]
pub struct UnixServerOptions {
    max_connections: usize,
    handshake_limit: Duration,
    payload: Declared,
    remover: Option<Remover>,
}

/// The payload name that is sent to clients.
#[derive(Debug)]
enum Declared {
    AsTheQueueSays,
    Any,
}

type RemoveQueue = dyn Fn() -> Result<bool, ControlError> + Send + Sync;

/// The callback that removes the served queue.
struct Remover(Box<RemoveQueue>);

/// The reason why a queue is not served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The path cannot be a socket's path.
    #[error("invalid socket path {path:?}: {reason}")]
    Path {
        /// The path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The folder is not safe to serve in.
    #[error("the folder {folder:?} of the socket {reason}: serve in a folder that is yours alone")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A server is already running at that path.
    #[error("another server is running at {path:?}: end it, or choose another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// A file that is not a socket is at that path.
    #[error("{path:?} exists and is not a socket: remove it, or choose another path")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error("cannot serve at {path:?}: {source}")]
    System {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The state that all threads of a server share.
#[derive(Debug)]
struct Shared {
    queue: Arc<dyn Transport>,
    welcome: Welcome,
    max_connections: usize,
    handshake_limit: Duration,
    remover: Option<Remover>,
    /// The socket's file; `None` once it is removed.
    place: Mutex<Option<Place>>,
    connections: Mutex<Connections>,
    holders: Holders,
    /// Wakes the accepting thread.
    stop: Arc<WakeFd>,
    stopping: AtomicBool,
    removed: AtomicBool,
}

#[derive(Debug, Default)]
struct Connections {
    last: u64,
    open: HashMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    socket: Arc<KeptSocket>,
    /// `None`: not started yet.
    thread: Option<JoinHandle<()>>,
}

/// The stack of a connection's thread; generous.
const STACK_BYTES: usize = 512 * 1024;
/// The time for a connection's last answer when the server ends.
const GRACE: Duration = Duration::from_millis(200);
/// The pause if no connection can be accepted, because no descriptor is free.
const BREATH: Duration = Duration::from_millis(50);

impl UnixServer {
    /// Serves `queue` at `path`, to processes of the same user.
    ///
    /// # Errors
    /// [`ServeError`], with one variant for each problem of the path.
    pub fn bind(path: impl AsRef<Path>, queue: Arc<dyn Transport>) -> Result<Self, ServeError> {
        Self::options().bind(path, queue)
    }

    /// Returns the default options.
    pub fn options() -> UnixServerOptions {
        UnixServerOptions {
            max_connections: 512,
            handshake_limit: Duration::from_secs(5),
            payload: Declared::AsTheQueueSays,
            remover: None,
        }
    }

    /// Returns the number of connections: one for each handle in use, and one more for each client.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections().open.len()
    }

    /// Returns whether a client has removed the queue.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.shared.is_removed()
    }
}

impl UnixServerOptions {
    /// Sets the maximum number of connections. More are refused; each has a thread. Default 512.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets the time for a client to introduce itself. Default 5 s.
    pub fn handshake_limit(mut self, time: Duration) -> Self {
        self.handshake_limit = time;
        self
    }

    /// Lets clients open the queue with any payload type. They do not learn the encoding either:
    /// typed clients set it with `QueueOptions::encoding`, or use the default.
    pub fn any_payload(mut self) -> Self {
        self.payload = Declared::Any;
        self
    }

    /// Lets clients remove the queue, by calling `remove`. Default: they cannot.
    pub fn removable(
        mut self,
        remove: impl Fn() -> Result<bool, ControlError> + Send + Sync + 'static,
    ) -> Self {
        self.remover = Some(Remover(Box::new(remove)));
        self
    }

    /// Serves `queue` at `path`.
    ///
    /// # Errors
    /// Those of [`UnixServer::bind`].
    pub fn bind(
        self,
        path: impl AsRef<Path>,
        queue: Arc<dyn Transport>,
    ) -> Result<UnixServer, ServeError> {
        let path = path.as_ref();
        let system = |source| ServeError::System {
            path: path.to_owned(),
            source,
        };
        let stop = WakeFd::new().map_err(system)?;
        let (listener, place) = bind::bind(path)?;
        let shared = Arc::new(Shared {
            welcome: self.welcome(&*queue),
            queue,
            max_connections: self.max_connections,
            handshake_limit: self.handshake_limit,
            remover: self.remover,
            place: Mutex::new(Some(place)),
            connections: Mutex::default(),
            holders: Holders::default(),
            stop,
            stopping: AtomicBool::new(false),
            removed: AtomicBool::new(false),
        });
        let acceptor = Arc::clone(&shared);
        let accepting = thread::Builder::new()
            .name("ipc-serve".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || acceptor.accept(&listener))
            .map_err(system)?;
        Ok(UnixServer {
            shared,
            accepting: Some(accepting),
        })
    }

    fn welcome(&self, queue: &dyn Transport) -> Welcome {
        let payload = match self.payload {
            Declared::AsTheQueueSays => queue.payload().map(str::to_owned),
            Declared::Any => None,
        };
        let capabilities = queue
            .capabilities()
            .with(Feature::ZeroCopy, Support::Unsupported)
            .with(Feature::Snapshot, Support::Unsupported)
            // The kernel closes the connections of dead clients.
            .natively([Feature::DeathNoticed, Feature::Batches]);
        Welcome {
            protocol: PROTOCOL,
            id: queue.id(),
            settings: queue.settings().clone(),
            capabilities,
            payload,
        }
    }
}

/// Removes the socket's file, lets each connection finish its present request, ends the
/// connections, and waits for their threads.
impl Drop for UnixServer {
    fn drop(&mut self) {
        let shared = &*self.shared;
        shared.stopping.store(true, Ordering::SeqCst);
        std::task::Wake::wake_by_ref(&shared.stop);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        shared.leave_place();
        let open = std::mem::take(&mut shared.connections().open);
        let end = |how: Shutdown| {
            for open in open.values() {
                if let Ok(socket) = open.socket.stream() {
                    let _ = socket.shutdown(how);
                }
            }
        };
        end(Shutdown::Read);
        let until = Instant::now() + GRACE;
        let is_running = |open: &Open| {
            open.thread
                .as_ref()
                .is_some_and(|thread| !thread.is_finished())
        };
        while open.values().any(is_running) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        // A client that does not read is not waited for.
        end(Shutdown::Both);
        for thread in open.into_values().filter_map(|open| open.thread) {
            let _ = thread.join();
        }
    }
}

/// Serves a connection that has become a handle. `id` is the number of the request for that.
fn serve_handle(connection: &mut Connection<'_>, role: Role, id: u32) -> Result<(), WireError> {
    match role {
        Role::Sender => sending::serve(connection, id),
        Role::Receiver => receiving::serve(connection, id),
        Role::Notifier(side) => notifying::serve(connection, id, side),
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        let connections = self.connections.lock();
        connections.unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the socket's file, unless another server has replaced it.
    fn leave_place(&self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        drop(place.take());
    }

    fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Removes the queue for a client.
    fn remove(&self) -> Result<bool, ControlFailed> {
        let Some(Remover(remove)) = &self.remover else {
            return Err(ControlFailed::Refused {
                reason:
                    "this server does not let its clients remove the queue: end the server, or \
                         remove the queue where it is"
                        .to_owned(),
            });
        };
        let removed = remove()?;
        self.removed.store(true, Ordering::SeqCst);
        // No other client finds the queue here. Connected clients learn that it was removed.
        self.leave_place();
        Ok(removed)
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        loop {
            let ready = frame::wait_for([listener.as_fd(), self.stop.as_fd()], None);
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let accepted = ready.and_then(|_| listener.accept());
            match accepted {
                Ok((socket, _)) => self.admit(socket),
                // The client gave up, or no descriptor is free. In the second case another
                // connection may end during the pause.
                Err(_) => {
                    let _ = frame::wait_for([self.stop.as_fd()], Some(Instant::now() + BREATH));
                }
            }
        }
    }

    /// Starts a thread for a connection, if it is accepted.
    fn admit(self: &Arc<Self>, socket: UnixStream) {
        let Ok(socket) = KeptSocket::new(socket) else {
            return;
        };
        let socket = Arc::new(socket);
        if let Err(refusal) = self.try_admit(&socket) {
            // The answer fits into the empty buffer of a new connection, so this does not block.
            let _ = refuse(&socket, refusal);
        }
    }

    fn try_admit(self: &Arc<Self>, socket: &Arc<KeptSocket>) -> Result<(), Refusal> {
        let peer = rustix::net::sockopt::socket_peercred(socket);
        let peer = peer.map_err(|_| Refusal::NotOurs)?;
        let uid = peer.uid.as_raw();
        if !super::is_trusted(uid) {
            return Err(Refusal::Stranger { uid });
        }
        let number = self.register(socket)?;
        let socket = Arc::clone(socket);
        let pid = peer.pid.as_raw_pid().unsigned_abs();
        let shared = Arc::clone(self);
        let started = thread::Builder::new()
            .name(format!("ipc-serve-{pid}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Also unregisters if a panic ends the thread.
                let _registered = Registered(&shared, number);
                Connection::new(&shared, &socket, pid, number).run(serve_handle);
            });
        let mut connections = self.connections();
        match started {
            Ok(thread) => {
                // The connection may have ended already.
                if let Some(open) = connections.open.get_mut(&number) {
                    open.thread = Some(thread);
                }
                Ok(())
            }
            Err(_) => {
                connections.open.remove(&number);
                Err(Refusal::NoThread)
            }
        }
    }

    fn register(&self, socket: &Arc<KeptSocket>) -> Result<u64, Refusal> {
        let mut connections = self.connections();
        if connections.open.len() >= self.max_connections {
            let most = u32::try_from(self.max_connections).unwrap_or(u32::MAX);
            return Err(Refusal::TooMany { most });
        }
        connections.last += 1;
        let number = connections.last;
        let socket = Arc::clone(socket);
        let thread = None;
        connections.open.insert(number, Open { socket, thread });
        Ok(number)
    }
}

/// Registers a connection's thread until it is dropped.
struct Registered<'s>(&'s Shared, u64);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.connections().open.remove(&self.1);
    }
}

fn refuse(socket: &KeptSocket, refusal: Refusal) -> Result<(), WireError> {
    let greeting = Greeting::Refused(refusal);
    frame::write(socket, &mut Vec::new(), 0, &greeting, &Carried::None)
}

impl std::fmt::Debug for Remover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remover")
    }
}
