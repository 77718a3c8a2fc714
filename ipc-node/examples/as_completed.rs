//! Answers in the order in which they arrive, each with its index.
//!
//! `cargo run -p ipc-node --example as_completed`

use std::thread;
use std::time::Duration;

use ipc_node::pool::{Handlers, Pool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut handlers = Handlers::new();
    handlers.add("nap", |ms: u64, _| {
        thread::sleep(Duration::from_millis(ms));
        Ok::<_, String>(ms)
    });
    handlers.work_if_worker();

    let pool = Pool::builder().workers(3).start()?;
    let naps = [300, 100, 200];
    for (place, ms) in pool.map_unordered::<_, u64>("nap", naps) {
        println!("number {place} slept for {} ms", ms?);
    }
    // `map` gives them in the order of the inputs instead.
    for (nap, answer) in naps.into_iter().zip(pool.map::<_, u64>("nap", naps)) {
        assert_eq!(answer?, nap);
    }
    Ok(pool.shutdown()?)
}
