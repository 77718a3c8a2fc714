//! Each job's answer reaches its ticket once, and waiting for a ticket is optional.
//!
//! `cargo run -p ipc-node --example tickets`

use std::time::Duration;

use ipc_node::pool::{Handlers, JobError, Pool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut handlers = Handlers::new();
    handlers.add("length", |text: String, _| Ok::<_, String>(text.len()));
    handlers.add("parse", |text: String, _| text.parse::<i32>());
    handlers.work_if_worker();

    let pool = Pool::builder().workers(2).start()?;
    let length = pool.submit::<_, usize>("length", &"request")?; // returns at once
    let parsed = pool.submit::<_, i32>("parse", &"seven")?;
    // If a job has several answers, for example after a crash, the first one counts.
    println!("length: {}", length.wait()?);
    match parsed.wait_timeout(Duration::from_secs(10)) {
        Ok(Ok(number)) => println!("parsed: {number}"),
        Ok(Err(JobError::Failed { message, .. })) => println!("the handler says: {message}"),
        Ok(Err(error)) => println!("no result: {error}"),
        Err(ticket) => println!("ticket {} takes longer", ticket.number()), // and is still valid
    }
    Ok(pool.shutdown()?)
}
