//! The same pool with threads instead of processes, for a test or a port.
//!
//! `cargo run -p ipc-node --example threads`

use ipc_node::pool::{Handlers, Pool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut handlers = Handlers::new();
    handlers.add("square", |n: u64, _| Ok::<_, String>(n * n));

    // A crash ends the whole program, and no worker can be killed: that needs processes.
    let pool = Pool::builder()
        .at("local:example-pool")
        .threads(handlers)
        .workers(4)
        .start()?;
    let squares = pool.map::<u64, u64>("square", 1..=10);
    let sum: u64 = squares.into_iter().sum::<Result<u64, _>>()?;
    println!("the first ten squares make {sum}");
    Ok(pool.shutdown()?)
}
