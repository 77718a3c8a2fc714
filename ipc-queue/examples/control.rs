//! Pausing, purging and draining a queue while others use it.
//!
//! `cargo run -p ipc-queue --example control`

use std::thread;

use ipc_queue::transport::Wait;
use ipc_queue::{Queue, TryRecvError, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-control";
    let queue = Queue::<u32>::open(address)?;
    let control = queue.transport();
    queue.sender().send_batch(1..=10)?;
    control.pause()?; // for all receivers, at once
    assert_eq!(
        queue.receiver().try_recv().err(),
        Some(TryRecvError::Paused)
    );
    println!("purged {}", control.purge()?);
    queue.sender().send_batch(11..=20)?; // sending goes on
    control.resume()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let receiver = queue.receiver();
            while let Ok(delivery) = receiver.recv() {
                let _ = delivery.ack();
            }
        });
        control.drain(Wait::Forever) // takes no more messages, and waits until all are settled
    })?;
    println!("{} done", control.stats()?.acked);
    remove(address)?;
    Ok(())
}
