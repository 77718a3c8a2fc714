//! A payload of any size that is written where it is read.
//!
//! `cargo run -p ipc-queue --example zero_copy`

use std::fs::File;
use std::io::Read;

use ipc_queue::{ByteQueue, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-zero-copy";
    let queue = ByteQueue::open(address)?;
    let sender = queue.sender();
    let mut loan = sender.loan(100_000)?; // memory of the queue, and a place in it
    File::open("/dev/urandom")?.read_exact(&mut loan)?; // the kernel writes into it …
    loan.publish()?; // … if dropped instead, nothing would be sent

    let receiver = queue.receiver();
    let delivery = receiver.recv()?;
    let ones: u32 = delivery
        .payload()
        .iter()
        .map(|byte| byte.count_ones())
        .sum();
    println!("{ones} of {} bits are ones", 8 * delivery.payload().len()); // … and we read it
    delivery.ack()?;
    remove(address)?;
    Ok(())
}
