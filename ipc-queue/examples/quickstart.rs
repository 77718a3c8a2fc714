//! Start it without arguments to send, and with `work` in as many terminals as you like to work.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use ipc_queue::{Queue, RecvTimeoutError};

fn main() -> anyhow::Result<()> {
    let jobs = Queue::<String>::open("shm:jobs")?; // any process, the same queue
    if std::env::args().nth(1).as_deref() != Some("work") {
        for n in 1..=10 {
            jobs.sender().send(format!("job {n}"))?; // accepted: survives even our own kill -9
        }
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false)); // Ctrl-C: finish the job in hand, then leave
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop))?;
    let receiver = jobs.receiver();
    while !stop.load(Relaxed) {
        match receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(job) => {
                println!("{}, attempt {}", job.data(), job.attempt());
                job.ack()?; // killed before this? then another worker gets the job
            }
            Err(RecvTimeoutError::TimedOut { .. }) => {} // nothing to do yet
            Err(error) if error.is_of_one_message() => eprintln!("{error}"), // not a String
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
