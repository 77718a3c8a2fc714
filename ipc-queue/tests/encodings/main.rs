//! Encodings of typed queues: which programs may open a queue, what happens to messages that cannot
//! be read, and old and new programs side by side, as real processes.
#![cfg(target_os = "linux")]

mod opening;
mod undecodable;
mod upgrade;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipc_queue::{QueueOptions, UnixServer};

/// A separate queue at an address of one transport, removed at the end.
struct Place {
    address: String,
    /// For `unix`: the address of the queue that is served, and the socket's folder.
    served: Option<(String, tempfile::TempDir)>,
    server: Option<UnixServer>,
}

impl Place {
    fn new(scheme: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let address = match scheme {
            "local" => format!("local:encodings-{number}"),
            "shm" => format!("shm:encodings-{pid}/q{number}"),
            "unix" => {
                let folder = tempfile::tempdir().unwrap();
                let socket = folder.path().join("queue.sock");
                return Self {
                    address: format!("unix:{}", socket.display()),
                    served: Some((format!("local:encodings-{number}"), folder)),
                    server: None,
                };
            }
            other => panic!("no test for {other}"),
        };
        Self {
            address,
            served: None,
            server: None,
        }
    }

    /// Returns one place of each transport.
    fn all() -> [Self; 3] {
        ["local", "shm", "unix"].map(Self::new)
    }

    /// Returns the address at which the queue is created, and later served.
    fn origin(&self) -> &str {
        let served = self.served.as_ref();
        served.map_or(&self.address, |(origin, _)| origin)
    }

    /// Creates the queue, and serves it if the place needs that.
    fn create<T: serde::Serialize + serde::de::DeserializeOwned>(
        &mut self,
        options: &QueueOptions,
    ) {
        let queue = options.open::<T>(self.origin()).unwrap();
        if self.served.is_some() {
            let path = self.address.strip_prefix("unix:").unwrap();
            let server = UnixServer::bind(path, Arc::clone(queue.transport()));
            self.server = Some(server.unwrap());
        } else if self.address.starts_with("local:") {
            // A `local:` queue exists only while this process has it open.
            std::mem::forget(queue);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = ipc_queue::remove(self.origin());
    }
}

/// Not a test, unless this binary was started as another test's process.
#[test]
fn role() {
    if let Ok(role) = std::env::var(upgrade::ROLE) {
        upgrade::play(&role);
    }
}
