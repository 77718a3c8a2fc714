//! A message with a key is sent once, however often its sender tries.
//!
//! `cargo run -p ipc-queue --example once`

use std::time::Duration;

use ipc_queue::{QueueOptions, SendOptions, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-once";
    let queue = QueueOptions::new()
        .dedup_window(Duration::from_secs(3600))
        .open::<String>(address)?;
    let sender = queue.sender();
    let keyed = SendOptions::new().key("order 17");
    let first = sender.send_with("two cats, one dog".to_owned(), &keyed)?;
    let again = sender.send_with("two cats, one dog".to_owned(), &keyed)?; // a retry
    assert_eq!(first, again);
    println!("sent {} message", queue.transport().stats()?.sent);
    remove(address)?;
    Ok(())
}
