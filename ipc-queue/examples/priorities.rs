//! Urgent messages go first, and no message waits forever.
//!
//! `cargo run -p ipc-queue --example priorities`

use std::time::Duration;

use ipc_queue::{Priority, QueueOptions, SendOptions, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-priorities";
    let options = QueueOptions::new()
        .priorities(true)
        .aging(Duration::from_secs(10));
    let queue = options.open::<String>(address)?;
    let sender = queue.sender();
    for priority in Priority::ALL {
        let how = SendOptions::new().priority(priority);
        sender.send_with(format!("{priority:?}"), &how)?;
    }
    let receiver = queue.receiver();
    for _ in Priority::ALL {
        let delivery = receiver.recv()?;
        println!("{}", delivery.data()); // Urgent, High, Normal, Low
        delivery.ack()?;
    }
    remove(address)?;
    Ok(())
}
