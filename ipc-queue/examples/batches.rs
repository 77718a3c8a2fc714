//! Many small messages at once, each settled separately.
//!
//! `cargo run -p ipc-queue --example batches`

use ipc_queue::transport::Wait;
use ipc_queue::{Queue, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-batches";
    let queue = Queue::<u32>::open(address)?;
    queue.sender().send_batch(1..=100)?;
    let receiver = queue.receiver();
    let mut sum = 0;
    while let Ok(batch) = receiver.recv_batch(32, Wait::No) {
        for delivery in batch {
            sum += *delivery.data();
            delivery.ack()?;
        }
    }
    println!("{sum}"); // 5050
    remove(address)?;
    Ok(())
}
