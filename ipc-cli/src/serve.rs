//! `serve`: serves a queue at a socket, for processes that can't share memory with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::unix::UnixServerOptions;
use ipc_queue::{Address, ByteQueue, DrainError, LocalQueue, QueueOptions, UnixServer};
use serde_json::json;

use crate::address;
use crate::cli;
use crate::exit::Exit;
use crate::show::Show;
use crate::signals::EndSignals;

/// Time between two checks whether to stop.
const SLICE: Duration = Duration::from_millis(100);

/// Serves until a signal asks the command to end.
pub fn serve(what: &cli::Serve, show: &Show) -> Result<()> {
    let path = socket(&what.at)?;
    let address = address::whole(&what.queue);
    let parsed: Address = address.parse()?;
    if matches!(&parsed, Address::Unix { path: other, .. } if *other == path) {
        return Err(Exit::Refused.error(format!("{address} can't be served at its own address")));
    }
    let is_ours = matches!(parsed, Address::Local { .. });
    let queue = open(what, &address, is_ours)?;
    // Signals are caught before there can be clients, and so messages in a `local:` queue.
    let end = EndSignals::listen()?;
    let server = options(what, parsed).bind(&path, Arc::clone(queue.transport()))?;
    let at = format!("unix:{}", path.display());
    let served = json!({ "serves": address, "at": at, "pid": std::process::id() });
    show.say(&served, || format!("{address} is served at {at}"));
    // A program that waits for this line would otherwise wait forever.
    show.finish()?;
    while !end.is_asked() && !server.is_removed() {
        thread::sleep(SLICE);
    }
    if server.is_removed() {
        // Leaves time for the reply to the client that removed the queue.
        thread::sleep(SLICE);
    }
    if is_ours && !server.is_removed() {
        drain(&queue, show)?;
    }
    drop(server);
    Ok(())
}

fn socket(at: &str) -> Result<PathBuf> {
    match at.parse()? {
        Address::Unix { path, .. } => Ok(path),
        other => Err(Exit::Usage.error(format!("{other} is not a socket: serve at unix:/PATH"))),
    }
}

fn open(what: &cli::Serve, address: &str, is_ours: bool) -> Result<ByteQueue> {
    if !what.create && !is_ours {
        return address::open_to_stay(address);
    }
    let options = what
        .settings
        .apply(QueueOptions::new())
        .mode(OpenMode::OpenOrCreate);
    if is_ours {
        return Ok(options.open_bytes(address)?);
    }
    Ok(options.open_bytes(address::shared(address)?.to_string())?)
}

fn options(what: &cli::Serve, address: Address) -> UnixServerOptions {
    let mut options = UnixServer::options().max_connections(what.max_connections);
    if let Address::Local { name } = address {
        if what.settings.type_name.is_none() {
            options = options.any_payload();
        }
        options = options.removable(move || Ok(LocalQueue::remove(&name)));
    }
    options
}

/// A queue that only this process holds would be lost with it. So this closes the queue and waits
/// until everything in it is settled.
fn drain(queue: &ByteQueue, show: &Show) -> Result<()> {
    let (transport, mut said) = (queue.transport(), false);
    loop {
        match transport.drain(Wait::at_most(SLICE)) {
            Ok(()) => return Ok(()),
            Err(DrainError::TimedOut { left, .. }) if !said => {
                said = true;
                show.say(&json!({ "left": left }), || {
                    left_in_words(left, matches!(transport.is_paused(), Ok(true)))
                });
            }
            Err(DrainError::TimedOut { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn left_in_words(left: u64, is_paused: bool) -> String {
    let paused = match is_paused {
        true => "; the queue is paused: they are delivered only after ipc resume",
        false => "",
    };
    format!(
        "{left} messages are left: ends when they are settled, or when asked a second time{paused}"
    )
}
