//! A socket between the command and a server, at which one request goes wrong.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request does not get to the server, and nothing is answered.
    StallBefore,
    /// The server does what it is asked, and its answer does not come.
    StallAfter,
    /// The connection ends before the server gets the request.
    CutBefore,
    /// The connection ends after the server got the request, before its answer comes.
    CutAfter,
    /// The request is late, by less than the client waits.
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

    /// How long the client waits for an answer: short only where none will come.
    pub fn patience(self) -> &'static str {
        match self {
            Self::StallBefore | Self::StallAfter => "300ms",
            Self::CutBefore | Self::CutAfter | Self::Delay => "30s",
        }
    }
}

/// Passes on what it hears, except the request of that number, counted over all connections.
pub struct Proxy {
    at: PathBuf,
    faulty: Arc<Faulty>,
}

struct Faulty {
    server: PathBuf,
    fault: Fault,
    request: usize,
    requests: AtomicUsize,
    is_reached: AtomicBool,
}

impl Proxy {
    pub fn start(at: &Path, server: &Path, fault: Fault, request: usize) -> Self {
        let listener = UnixListener::bind(at).unwrap();
        let faulty = Arc::new(Faulty {
            server: server.to_owned(),
            fault,
            request,
            requests: AtomicUsize::new(0),
            is_reached: AtomicBool::new(false),
        });
        let shared = Arc::clone(&faulty);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let faulty = Arc::clone(&shared);
                thread::spawn(move || faulty.serve(client));
            }
        });
        Self {
            at: at.to_owned(),
            faulty,
        }
    }

    pub fn address(&self) -> String {
        format!("unix:{}", self.at.display())
    }

    /// Whether the request of that number came.
    pub fn is_reached(&self) -> bool {
        self.faulty.is_reached.load(Ordering::SeqCst)
    }
}

impl Faulty {
    /// One connection. A request is what the client writes at a time: it waits for the answer to
    /// each.
    fn serve(&self, client: UnixStream) {
        let Ok(server) = UnixStream::connect(&self.server) else {
            return;
        };
        let is_deaf = Arc::new(AtomicBool::new(false));
        let (mut answers, mut to_client) =
            (server.try_clone().unwrap(), client.try_clone().unwrap());
        let deaf = Arc::clone(&is_deaf);
        let back = thread::spawn(move || {
            pump(&mut answers, |some| {
                deaf.load(Ordering::SeqCst) || to_client.write_all(some).is_ok()
            });
            // The server ended the connection. A stalled client does not hear that either.
            if !deaf.load(Ordering::SeqCst) {
                let _ = to_client.shutdown(Shutdown::Both);
            }
        });
        let (mut requests, mut to_server) = (&client, &server);
        pump(&mut requests, |some| {
            let number = self.requests.fetch_add(1, Ordering::SeqCst);
            if number != self.request {
                return is_deaf.load(Ordering::SeqCst) || to_server.write_all(some).is_ok();
            }
            self.is_reached.store(true, Ordering::SeqCst);
            self.go_wrong(some, to_server, &is_deaf)
        });
        let _ = (
            client.shutdown(Shutdown::Both),
            server.shutdown(Shutdown::Both),
        );
        let _ = back.join();
    }

    /// Whether the connection goes on.
    fn go_wrong(&self, request: &[u8], mut server: &UnixStream, is_deaf: &AtomicBool) -> bool {
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
