//! A receiver that holds a job for too long without extending its lease loses it.
//!
//! `cargo run -p ipc-queue --example lease`

use std::thread;
use std::time::Duration;

use ipc_queue::{QueueOptions, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-lease";
    let lease = Duration::from_millis(200);
    let queue = QueueOptions::new().lease(lease).open::<u32>(address)?;
    queue.sender().send_batch([1, 2])?;
    let receiver = queue.receiver();

    let delivery = receiver.recv()?;
    for _ in 0..4 {
        thread::sleep(lease / 2);
        delivery.extend(lease)?; // still working: in total twice as long as the lease
    }
    delivery.ack()?;

    let hung = receiver.recv()?; // hangs …
    let again = queue.receiver();
    let delivery = again.recv()?; // … so the job is delivered again when the lease ends
    println!(
        "{:?} was delivered again, attempt {}",
        delivery.data(),
        delivery.attempt()
    );
    delivery.ack()?;
    assert!(hung.ack().unwrap_err().is_lease_lost());
    remove(address)?;
    Ok(())
}
