//! A full queue makes senders wait, or returns the message.
//!
//! `cargo run -p ipc-queue --example back_pressure`

use std::thread;
use std::time::Duration;

use ipc_queue::{QueueOptions, TrySendError, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-back-pressure";
    let queue = QueueOptions::new().capacity(2).open::<String>(address)?;
    let sender = queue.sender();
    sender.send("one".to_owned())?;
    sender.send("two".to_owned())?;

    let refused = sender.try_send("three".to_owned()).expect_err("it is full");
    assert!(matches!(refused, TrySendError::Full { capacity: 2, .. }));
    let message = refused.into_inner(); // returned: nothing is lost, nothing is copied
    let late = sender.send_timeout(message, Duration::from_millis(20));
    let message = late.expect_err("nothing is received").into_inner();

    thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.sender().send(message)); // until there is room
        let receiver = queue.receiver();
        for _ in 0..3 {
            let delivery = receiver.recv().expect("there are three");
            println!("{:?}", delivery.data());
            delivery.ack().expect("it is ours");
        }
        waiting.join().expect("no panic").expect("there is room")
    });
    remove(address)?;
    Ok(())
}
