//! The same program over another transport, chosen by its address alone: `cargo run -p ipc-queue
//! --example transports -- local:jobs`, or `shm:jobs`. Prints the features of the transport.

use ipc_queue::{Feature, Queue, remove};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = std::env::args().nth(1);
    let address = given.as_deref().unwrap_or("shm:example-transports");
    let queue = Queue::<String>::open(address)?;
    queue.sender().send("hello".to_owned())?;
    let receiver = queue.receiver();
    let delivery = receiver.recv()?;
    println!("{:?} over {address}", delivery.data());
    delivery.ack()?;
    // The contract (`ipc_queue::transport`) is common to all. Optional features are declared.
    let can = queue.transport().capabilities();
    for feature in Feature::ALL {
        println!("  {feature}: {:?}", can.support(feature));
    }
    remove(address)?;
    Ok(())
}
