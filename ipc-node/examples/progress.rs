//! A job reports its progress, and another is cancelled.
//!
//! `cargo run -p ipc-node --example progress`

use std::thread;
use std::time::Duration;

use ipc_node::pool::{Handlers, JobError, Pool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut handlers = Handlers::new();
    handlers.add("count", |to: u64, context| {
        for n in 1..=to {
            if context.is_cancelled() {
                return Err(format!("stopped at {n}")); // no caller waits for this any more
            }
            thread::sleep(Duration::from_millis(20));
            context.progress(n, to); // also a sign of life: it would restart a lease
        }
        Ok(to)
    });
    handlers.work_if_worker();

    let pool = Pool::builder()
        .workers(2)
        .on_progress(|ticket, done, of| println!("job {ticket}: {done} of {of}"))
        .start()?;
    let short = pool.submit::<_, u64>("count", &3_u64)?;
    let endless = pool.submit::<_, u64>("count", &u64::MAX)?;
    println!("counted to {}", short.wait()?);
    endless.cancel(); // its handler is told; if it does not stop, its worker is killed
    assert_eq!(endless.wait(), Err(JobError::Cancelled));
    Ok(pool.shutdown()?)
}
