//! A job says how far it is, and another is cancelled: `cargo run -p ipc-node --example progress`.

use std::thread;
use std::time::Duration;

use ipc_node::pool::{Handlers, JobError, Pool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut handlers = Handlers::new();
    handlers.add("count", |to: u64, context| {
        for n in 1..=to {
            if context.is_cancelled() {
                return Err(format!("stopped at {n}")); // nobody waits for this any more
            }
            thread::sleep(Duration::from_millis(20));
            context.progress(n, to); // a sign of life, too: a lease would begin anew
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
    endless.cancel(); // its handler is told; if it did not stop, its worker would be killed
    assert_eq!(endless.wait(), Err(JobError::Cancelled));
    Ok(pool.shutdown()?)
}
