//! Each job's answer comes to its ticket, once, and a ticket can be waited for or not: `cargo run
//! -p ipc-node --example tickets`.

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
    // Of several answers to one job, after a crash say, the first one counts.
    println!("length: {}", length.wait()?);
    match parsed.wait_timeout(Duration::from_secs(10)) {
        Ok(Ok(number)) => println!("parsed: {number}"),
        Ok(Err(JobError::Failed { message, .. })) => println!("the handler says: {message}"),
        Ok(Err(error)) => println!("no result: {error}"),
        Err(ticket) => println!("ticket {} takes longer", ticket.number()), // and is still good
    }
    Ok(pool.shutdown()?)
}
