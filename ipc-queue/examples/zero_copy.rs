//! Written where it is read, whatever its size: `cargo run -p ipc-queue --example zero_copy`.

use std::fs::File;
use std::io::Read;

use ipc_queue::{ByteQueue, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-zero-copy";
    let queue = ByteQueue::open(address)?;
    let sender = queue.sender();
    let mut loan = sender.loan(100_000)?; // memory of the queue, and a place in it
    File::open("/dev/urandom")?.read_exact(&mut loan)?; // the kernel writes into it …
    loan.publish()?; // … dropped instead, it would be as if it had never been

    let receiver = queue.receiver();
    let delivery = receiver.recv()?;
    let ones: u32 = delivery
        .payload()
        .iter()
        .map(|byte| byte.count_ones())
        .sum();
    println!("{ones} of {} bits are ones", 8 * delivery.payload().len()); // … and we read it there
    delivery.ack()?;
    remove(address)?;
    Ok(())
}
