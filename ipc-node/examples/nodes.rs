//! Which nodes exist, their health, and what they have done, even after a crash.
//!
//! `cargo run -p ipc-node --example nodes`

use std::process::Command;
use std::thread;
use std::time::Duration;

use ipc_node::{Node, Registry};
use ipc_shm::Namespace;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let namespace = Namespace::new("example-nodes")?;
    if std::env::args().nth(1).as_deref() == Some("child") {
        let node = Node::join(&namespace, "resizer")?; // beats in the background
        node.counters().sent(512);
        loop {
            thread::park();
        }
    }
    let node = Node::join(&namespace, "watcher")?;
    let mut child = Command::new("/proc/self/exe").arg("child").spawn()?;
    let timeout = Duration::from_secs(10); // a node without a heartbeat for longer is stale
    while node.alive("resizer", timeout).is_none() {
        thread::yield_now();
    }
    child.kill()?; // SIGKILL: no node can say goodbye
    child.wait()?;
    for peer in node.peers() {
        let (sent, beats) = (peer.stats.messages_sent, peer.stats.beats);
        println!(
            "{}: {:?}, {sent} sent, {beats} beats",
            peer.name, peer.health
        );
    }
    drop(node);
    Registry::remove(&namespace)?;
    Ok(())
}
