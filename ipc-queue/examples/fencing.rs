//! A worker that continues after losing its lease cannot overwrite what its successor wrote.
//!
//! `cargo run -p ipc-queue --example fencing`

use std::collections::HashMap;
use std::time::Duration;

use ipc_queue::{FencingToken, MessageId, QueueOptions, remove};

/// The store of results. It refuses the result of a delivery that is older than one it has seen.
#[derive(Default)]
struct Store(HashMap<MessageId, (FencingToken, &'static str)>);

impl Store {
    fn write(&mut self, token: FencingToken, result: &'static str) -> bool {
        let is_stale = self
            .0
            .get(&token.message)
            .is_some_and(|(seen, _)| *seen > token);
        if !is_stale {
            self.0.insert(token.message, (token, result));
        }
        !is_stale
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-fencing";
    let queue = QueueOptions::new()
        .lease(Duration::from_millis(20))
        .open::<String>(address)?;
    queue.sender().send("job".to_owned())?;
    let (slow, quick) = (queue.receiver(), queue.receiver());
    let mut store = Store::default();

    let first = slow.recv()?; // takes longer than its lease …
    let second = quick.recv()?; // … so another receiver has it now
    assert!(store.write(second.token(), "the successor's"));
    second.ack()?;
    assert!(!store.write(first.token(), "too late"));
    assert!(first.ack().unwrap_err().is_lease_lost());
    println!("kept: {:?}", store.0.values().next());
    remove(address)?;
    Ok(())
}
