//! Jobs with a type, which are tried again after failures, and a worker that stops at Ctrl-C.
//!
//! `cargo run -p ipc-queue --example retries -- work`, in as many terminals as you like, and the
//! same with `-- send FILE…`. Kill a worker with SIGKILL: another one gets its job.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use ipc_queue::{Backoff, Nack, Queue, QueueOptions};
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGINT;

#[derive(Serialize, Deserialize)]
struct CountLines {
    file: String,
}

fn main() -> anyhow::Result<()> {
    let (first, most) = (Duration::from_millis(100), Duration::from_secs(10));
    let backoff = Backoff::Exponential { first, most };
    let options = QueueOptions::new().attempt_limit(8).backoff(backoff);
    let jobs: Queue<CountLines> = options.open("shm:example-retries")?;
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("send") => args.try_for_each(|file| {
            jobs.sender().send(CountLines { file })?; // accepted: survives even our own kill -9
            Ok(())
        }),
        Some("work") => work(&jobs),
        _ => anyhow::bail!("usage: retries work | send FILE…"),
    }
}

fn work(jobs: &Queue<CountLines>) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false)); // finish the job in hand, then leave
    signal_hook::flag::register(SIGINT, Arc::clone(&stop))?;
    let receiver = jobs.receiver();
    while !stop.load(Relaxed) {
        let job = match receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(job) => job,
            // Nothing to do yet, or a message that this program can't read and others may.
            Err(error) if error.is_timeout() || error.is_of_one_message() => continue,
            Err(error) => return Err(error.into()),
        };
        let (file, attempt) = (&job.data().file, job.attempt());
        match fs::read_to_string(file) {
            Ok(text) => {
                println!("{file}: {} lines, attempt {attempt}", text.lines().count());
                job.ack()?;
            }
            Err(error) => {
                println!("{file}: {error}, attempt {attempt}"); // after the last, a dead letter
                job.nack_with(Nack::new().reason(&error.to_string()))?;
            }
        }
    }
    Ok(())
}
