//! A message that no receiver can handle becomes a dead letter, is inspected, and is requeued:
//! `cargo run -p ipc-queue --example dead_letters`.

use ipc_queue::{QueueOptions, TryRecvError, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = "shm:example-dead-letters";
    let queue = QueueOptions::new()
        .attempt_limit(2)
        .open::<String>(address)?;
    let receiver = queue.receiver();
    queue.sender().send("too hard".to_owned())?;
    receiver.recv()?.nack()?; // returned: it is delivered again
    receiver.recv()?.nack()?; // the last attempt
    assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
    for letter in queue.transport().dead_letters()? {
        println!(
            "{} was {:?} after {} attempts",
            letter.message, letter.reason, letter.attempts
        );
        queue.transport().requeue(letter.id)?; // delivered again, from attempt 1
    }
    receiver.recv()?.ack()?;
    remove(address)?;
    Ok(())
}
