//! A queue for processes that cannot share memory with it. `cargo run -p ipc-queue --example
//! served` serves it. Then run `cargo run -p ipc-queue --example served -- work`, any number of
//! times, also in a container that sees the socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipc_queue::{Queue, UnixServer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_else(|| "/run".into());
    let socket = PathBuf::from(folder).join("example-served.sock"); // in a folder of this user only
    if std::env::args().nth(1).as_deref() == Some("work") {
        let jobs = Queue::<String>::open(format!("unix:{}", socket.display()))?;
        let receiver = jobs.receiver();
        loop {
            let job = receiver.recv()?;
            println!("{}, attempt {}", job.data(), job.attempt());
            job.ack()?; // after a kill before this, another worker gets the job
        }
    }
    let jobs = Queue::<String>::open("shm:example-served")?; // or local:, which ends with us
    let _server = UnixServer::bind(&socket, Arc::clone(jobs.transport()))?; // until dropped
    for n in 1.. {
        jobs.sender().send(format!("job {n}"))?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
