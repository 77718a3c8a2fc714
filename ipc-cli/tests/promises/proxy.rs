//! A proxy between the command and a server, which makes one request fail.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request does not reach the server, and nothing is answered.
    StallBefore,
    /// The server executes the request, but its answer does not arrive.
    StallAfter,
    /// The connection ends before the server gets the request.
    CutBefore,
    /// The connection ends after the server gets the request, before the answer arrives.
    CutAfter,
    /// The request is late, but by less than the client's time limit.
    Delay,
}

impl Fault {
    pub const ALL: [Self; 5] = [
        Self::StallBefore,
        Self::StallAfter,
        Self::CutBefore,
        Self::CutAfter,
        Self::Delay,
    ];

    /// Returns how long the client waits for an answer: short only if none will come.
    pub fn patience(self) -> &'static str {
        match self {
            Self::StallBefore | Self::StallAfter => "300ms",
            Self::CutBefore | Self::CutAfter | Self::Delay => "30s",
        }
    }
}

/// Forwards everything except one request, whose number counts over all connections.
pub struct Proxy {
    address: String,
    faulty: Arc<Faulty>,
}

/// A connection over a Unix socket or TCP.
trait Stream: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> Self;
    fn end(&self);
}

impl Stream for UnixStream {
    fn twin(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Stream for TcpStream {
    fn twin(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

struct Faulty {
    fault: Fault,
    request: usize,
    requests: AtomicUsize,
    is_reached: AtomicBool,
}

impl Proxy {
    /// Starts a proxy for a Unix socket.
    pub fn start(at: &Path, server: &Path, fault: Fault, request: usize) -> Self {
        let listener = UnixListener::bind(at).unwrap();
        let (proxy, server) = (
            Self::new(at.display(), fault, request),
            PathBuf::from(server),
        );
        let faulty = Arc::clone(&proxy.faulty);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                faulty.serve(client, UnixStream::connect(&server));
            }
        });
        proxy
    }

    /// Starts a proxy for a TCP port.
    pub fn start_tcp(server: &str, fault: Fault, request: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (proxy, server) = (Self::new(at, fault, request), server.to_owned());
        let faulty = Arc::clone(&proxy.faulty);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                faulty.serve(client, TcpStream::connect(&server));
            }
        });
        proxy
    }

    fn new(address: impl ToString, fault: Fault, request: usize) -> Self {
        Self {
            address: address.to_string(),
            faulty: Arc::new(Faulty {
                fault,
                request,
                requests: AtomicUsize::new(0),
                is_reached: AtomicBool::new(false),
            }),
        }
    }

    /// Returns the proxy's address: a path, or a host and a port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns `true` if the chosen request has arrived.
    pub fn is_reached(&self) -> bool {
        self.faulty.is_reached.load(Ordering::SeqCst)
    }
}

impl Faulty {
    /// Serves one connection. Each write of the client is one request, because it waits for each
    /// answer.
    fn serve<S: Stream>(self: &Arc<Self>, client: S, server: std::io::Result<S>) {
        let Ok(server) = server else {
            return;
        };
        let is_deaf = Arc::new(AtomicBool::new(false));
        let (mut answers, mut to_client) = (server.twin(), client.twin());
        let deaf = Arc::clone(&is_deaf);
        let back = thread::spawn(move || {
            pump(&mut answers, |some| {
                deaf.load(Ordering::SeqCst) || to_client.write_all(some).is_ok()
            });
            // The server ended the connection. A stalled client does not see that either.
            if !deaf.load(Ordering::SeqCst) {
                to_client.end();
            }
        });
        let faulty = Arc::clone(self);
        thread::spawn(move || {
            let (mut requests, mut server) = (client.twin(), server);
            pump(&mut requests, |some| {
                let number = faulty.requests.fetch_add(1, Ordering::SeqCst);
                if number != faulty.request {
                    return is_deaf.load(Ordering::SeqCst) || server.write_all(some).is_ok();
                }
                faulty.is_reached.store(true, Ordering::SeqCst);
                faulty.go_wrong(some, &mut server, &is_deaf)
            });
            client.end();
            server.end();
            let _ = back.join();
        });
    }

    /// Lets the request fail. Returns `true` if the connection continues.
    fn go_wrong(&self, request: &[u8], server: &mut impl Stream, is_deaf: &AtomicBool) -> bool {
        match self.fault {
            Fault::StallBefore => {
                is_deaf.store(true, Ordering::SeqCst);
                true
            }
            Fault::StallAfter => {
                is_deaf.store(true, Ordering::SeqCst);
                server.write_all(request).is_ok()
            }
            Fault::CutBefore => false,
            Fault::CutAfter => {
                is_deaf.store(true, Ordering::SeqCst);
                let _ = server.write_all(request);
                false
            }
            Fault::Delay => {
                thread::sleep(Duration::from_millis(20));
                server.write_all(request).is_ok()
            }
        }
    }
}

fn pump(from: &mut impl Read, mut to: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !to(&buffer[..len]) {
            return;
        }
    }
}
