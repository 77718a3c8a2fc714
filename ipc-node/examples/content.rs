//! Jobs with content that is written in place, where the worker reads it.
//!
//! `cargo run -p ipc-node --example content`

use std::fs::File;
use std::io::Read;

use ipc_node::pool::{Handlers, Pool};
use ipc_queue::transport::Wait;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut handlers = Handlers::new();
    handlers.add("count", |byte: u8, context| {
        let content = context.content(); // no copy: the same memory
        Ok::<_, String>(content.iter().filter(|found| **found == byte).count())
    });
    handlers.work_if_worker();

    let pool = Pool::builder().workers(2).start()?;
    let mut file = File::open("/proc/self/maps")?;
    let ticket =
        pool.submit_with::<_, usize>("count", &b'\n', 64 << 10, Wait::Forever, |room| {
            file.read(room) // how much of the room was needed
        })?;
    println!("{} lines in the beginning of it", ticket.wait()?);
    Ok(pool.shutdown()?)
}
