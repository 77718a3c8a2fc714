//! Delayed messages, and messages that expire: `cargo run -p ipc-queue --example later`.

use std::time::{Duration, Instant};

use ipc_queue::{Queue, SendOptions, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-later";
    let queue = Queue::<String>::open(address)?;
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let tenth = Duration::from_millis(100);
    let started = Instant::now();
    sender.send_with(
        "wanted now or never".to_owned(),
        &SendOptions::new().expires_in(tenth),
    )?;
    sender.send_with(
        "a reminder".to_owned(),
        &SendOptions::new().delay(2 * tenth),
    )?;
    std::thread::sleep(tenth + tenth / 2); // the first was not received in time
    let delivery = receiver.recv()?;
    println!("{:?} after {:?}", delivery.data(), started.elapsed());
    delivery.ack()?;
    println!("{} expired", queue.transport().stats()?.expired);
    remove(address)?;
    Ok(())
}
