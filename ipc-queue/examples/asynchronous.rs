//! Futures on any executor, without a runtime of this crate.
//!
//! `cargo run -p ipc-queue --example asynchronous`

use ipc_queue::{Queue, remove};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let address = "shm:example-asynchronous";
    let queue = Queue::<u32>::open(address)?;
    let mut sender = queue.sender();
    let sending = tokio::spawn(async move {
        for n in 1..=3 {
            sender.send_async(n).await.expect("it is open"); // waits for room, blocks no thread
        }
    });
    let mut receiver = queue.receiver();
    for _ in 1..=3 {
        let delivery = receiver.recv_async().await?; // dropped before it is ready, it loses nothing
        println!("{:?}", delivery.data());
        delivery.ack()?; // may be done from any thread
    }
    sending.await?;
    remove(address)?;
    Ok(())
}
