//! Requests and replies between programs that do not start each other.
//!
//! `cargo run -p ipc-node --example request -- serve`, in as many terminals as you like, and the
//! same with `-- ask FILE…`. Kill a server: another one replies.

use std::fs;
use std::io;
use std::time::Duration;

use ipc_node::request::{Client, Server};
use serde::{Deserialize, Serialize};

const ADDRESS: &str = "shm:example-request";

#[derive(Serialize, Deserialize)]
struct CountLines {
    file: String,
}

#[derive(Serialize, Deserialize)]
struct Counted {
    lines: usize,
    by: u32,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("serve") => serve(),
        Some("ask") => ask(args),
        _ => anyhow::bail!("usage: request serve | ask FILE…"),
    }
}

fn serve() -> anyhow::Result<()> {
    let server = Server::<CountLines, Counted>::open(ADDRESS)?;
    let by = std::process::id();
    Ok(server.serve(|request| {
        let lines = fs::read_to_string(&request.file)?.lines().count();
        Ok::<_, io::Error>(Counted { lines, by }) // the client gets an error, too
    })?)
}

fn ask(files: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let client = Client::<CountLines, Counted>::open(ADDRESS)?;
    let mut pending = Vec::new();
    for file in files {
        pending.push((file.clone(), client.send(&CountLines { file })?)); // does not wait
    }
    for (file, reply) in pending {
        match reply.wait_timeout(Duration::from_secs(60)) {
            Ok(Counted { lines, by }) => println!("{file}: {lines} lines, counted by {by}"),
            Err(error) => println!("{file}: {error}"),
        }
    }
    Ok(())
}
