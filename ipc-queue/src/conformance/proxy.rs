//! A proxy between a client and its server that fails at a chosen request.
//!
//! Each run of bytes that the client writes counts as one request. The test chooses one by its
//! number, and a [`Fault`] to apply to it. The proxy forwards bytes only, no descriptors.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The effect on a request, or on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Neither the request nor anything after it reaches the server until [`Proxy::heal`].
    StallRequest,
    /// The server gets the request, but none of its answers reaches a client until [`Proxy::heal`].
    StallAnswer,
    /// The connection ends before the server gets the request.
    CutRequest,
    /// The connection ends after the server has got the first half of the request.
    CutHalf,
    /// The connection ends after the server has got the request.
    CutAnswer,
    /// The request reaches the server some milliseconds later.
    Delay,
}

/// A listening proxy. It ends with its process.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    /// The file, which is removed with the proxy.
    socket: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    healed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The fault, and the number of requests before it.
    armed: Option<(Fault, u32)>,
    has_happened: bool,
    /// The direction in which nothing passes.
    stalled: Option<Direction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

const DELAY: Duration = Duration::from_millis(20);

impl Fault {
    /// All faults.
    pub const ALL: [Self; 6] = [
        Self::StallRequest,
        Self::StallAnswer,
        Self::CutRequest,
        Self::CutHalf,
        Self::CutAnswer,
        Self::Delay,
    ];
}

impl Proxy {
    /// Listens on a new socket at `path` for the server at `target`.
    ///
    /// # Errors
    /// The errors of binding the socket.
    pub fn unix(path: &Path, target: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let (shared, target) = (Arc::<Shared>::default(), target.to_owned());
        let proxy = Self {
            shared: Arc::clone(&shared),
            socket: Some(path.to_owned()),
        };
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if let Ok(server) = UnixStream::connect(&target) {
                    connect(&shared, client, server);
                }
            }
        });
        Ok(proxy)
    }

    /// Listens on a free port of this machine for the server at `target`.
    ///
    /// # Errors
    /// The errors of binding the port.
    pub fn tcp(target: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let proxy = Self {
            shared: Arc::clone(&shared),
            socket: None,
        };
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if let Ok(server) = TcpStream::connect(target) {
                    connect(&shared, client, server);
                }
            }
        });
        Ok((proxy, address))
    }

    /// Lets `requests` requests pass from now on, and applies `fault` to the next.
    pub fn arm(&self, fault: Fault, requests: u32) {
        let mut state = self.shared.state();
        state.armed = Some((fault, requests));
        state.has_happened = false;
    }

    /// Lets everything pass again. Returns whether the fault has happened.
    pub fn heal(&self) -> bool {
        let mut state = self.shared.state();
        state.armed = None;
        state.stalled = None;
        self.shared.healed.notify_all();
        state.has_happened
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.heal();
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn connect(shared: &Arc<Shared>, client: impl Stream, server: impl Stream) {
    let (Ok(client_too), Ok(server_too)) = (client.again(), server.again()) else {
        return;
    };
    let (requests, answers) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || requests.forward_requests(client_too, server_too));
    thread::spawn(move || answers.forward_answers(server, client));
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward_requests(&self, mut client: impl Stream, mut server: impl Stream) {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = client.read(&mut bytes) {
            let fault = self.next_fault();
            match fault {
                Some(Fault::CutRequest) => break,
                Some(Fault::CutHalf) => {
                    let _ = server.write_all(&bytes[..count / 2]);
                    break;
                }
                Some(Fault::Delay) => thread::sleep(DELAY),
                _ => {}
            }
            self.wait_while_stalled(Direction::ToServer);
            if server.write_all(&bytes[..count]).is_err() || fault == Some(Fault::CutAnswer) {
                break;
            }
        }
        client.end();
        server.end();
    }

    fn forward_answers(&self, mut server: impl Stream, mut client: impl Stream) {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = server.read(&mut bytes) {
            self.wait_while_stalled(Direction::ToClient);
            if client.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        client.end();
        server.end();
    }

    /// Returns the fault for the request that has just arrived.
    fn next_fault(&self) -> Option<Fault> {
        let mut state = self.state();
        match &mut state.armed {
            Some((_, requests @ 1..)) => {
                *requests -= 1;
                None
            }
            Some((fault, 0)) => {
                let fault = *fault;
                state.armed = None;
                state.has_happened = true;
                state.stalled = match fault {
                    Fault::StallRequest => Some(Direction::ToServer),
                    Fault::StallAnswer => Some(Direction::ToClient),
                    _ => None,
                };
                Some(fault)
            }
            None => None,
        }
    }

    fn wait_while_stalled(&self, direction: Direction) {
        let mut state = self.state();
        while state.stalled == Some(direction) {
            let woken = self.healed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A connection of either kind.
trait Stream: Read + Write + Send + Sized + 'static {
    fn again(&self) -> io::Result<Self>;
    fn end(&self);
}

impl Stream for UnixStream {
    fn again(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Stream for TcpStream {
    fn again(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}
