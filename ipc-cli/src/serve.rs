//! `serve`: a queue at a socket, for processes that can't share memory with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::{Address, ByteQueue, DrainError, LocalQueue, QueueOptions, UnixServer};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Ended;
use crate::address;
use crate::cli;
use crate::show::Show;

/// Between two looks at whether we are to stop.
const SLICE: Duration = Duration::from_millis(100);

/// Serves until it is told to stop.
pub fn serve(what: &cli::Serve, show: Show) -> Result<Ended> {
    // The first signal asks for the end, the second does not ask.
    let (stop, again) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    for signal in [SIGINT, SIGTERM] {
        let (stop, again) = (Arc::clone(&stop), Arc::clone(&again));
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&again))
            .and_then(|_| signal_hook::flag::register(signal, stop))
            .context("listening to signals")?;
    }
    let path = socket(&what.at)?;
    let address = address::whole(&what.queue);
    let is_ours = matches!(address.parse()?, Address::Local { .. });
    let queue = open(what, &address, is_ours)?;
    let server = options(what, &address, is_ours).bind(&path, Arc::clone(queue.transport()))?;
    let served = json!({ "serves": address, "at": format!("unix:{}", path.display()), "pid": std::process::id() });
    show.say(&served, || {
        format!("{address} is served at unix:{}", path.display())
    })?;
    while !stop.load(Ordering::Relaxed) && !server.is_removed() {
        thread::sleep(SLICE);
    }
    again.store(true, Ordering::Relaxed);
    if server.is_removed() {
        // Whoever removed it is just being told.
        thread::sleep(SLICE);
    }
    if is_ours && !server.is_removed() {
        drain(&queue, show)?;
    }
    drop(server);
    Ok(Ended::Well)
}

fn socket(at: &str) -> Result<PathBuf> {
    match at.parse()? {
        Address::Unix { path, .. } => Ok(path),
        other => bail!("{other} is no socket: serve at unix:/PATH"),
    }
}

fn open(what: &cli::Serve, address: &str, is_ours: bool) -> Result<ByteQueue> {
    if !what.create && !is_ours {
        return address::open(address);
    }
    let mut options = QueueOptions::new().mode(OpenMode::OpenOrCreate);
    if let Some(capacity) = what.capacity {
        options = options.capacity(capacity);
    }
    if let Some(lease) = what.lease {
        options = options.lease(lease);
    }
    if let Some(bytes) = what.max_message_bytes {
        options = options.max_message_bytes(bytes);
    }
    if what.priorities {
        options = options.priorities(true);
    }
    if let Some(window) = what.dedup_window {
        options = options.dedup_window(window);
    }
    if let Some(name) = &what.payload {
        options = options.type_name(name);
    }
    Ok(options.open_bytes(address)?)
}

fn options(what: &cli::Serve, address: &str, is_ours: bool) -> ipc_queue::unix::UnixServerOptions {
    let mut options = UnixServer::options().max_connections(what.max_connections);
    if is_ours && what.payload.is_none() {
        options = options.any_payload();
    }
    if let (true, Ok(Address::Local { name })) = (is_ours, address.parse()) {
        options = options.removable(move || Ok(LocalQueue::remove(&name)));
    }
    options
}

/// What only we hold would be lost with us: takes nothing more, and waits until all of it was settled.
fn drain(queue: &ByteQueue, show: Show) -> Result<()> {
    let (transport, mut said) = (queue.transport(), false);
    loop {
        match transport.drain(Wait::at_most(SLICE)) {
            Ok(()) => return Ok(()),
            Err(DrainError::TimedOut { left, .. }) if !said => {
                said = true;
                show.say(&json!({ "left": left }), || {
                    format!(
                        "{left} messages are left: ends when they are settled, or when told again"
                    )
                })?;
            }
            Err(DrainError::TimedOut { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
