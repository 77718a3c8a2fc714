//! An async worker: `select!` between the next job and Ctrl-C, and many jobs at once.
//!
//! `cargo run -p ipc-queue --example asynchronous -- work`, in as many terminals as you like, and
//! the same with `-- send FILE…`. A job waits for its file. Any other executor works as well.

use std::path::Path;
use std::time::Duration;

use ipc_queue::{OwnedDelivery, Queue, Receiver};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let jobs = Queue::<String>::open("shm:example-asynchronous")?;
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("work") => return work(jobs.receiver()).await,
        Some("send") => {
            let mut sender = jobs.sender();
            for file in args {
                sender.send_async(file).await?; // waits for room, blocks no thread
            }
        }
        _ => anyhow::bail!("usage: asynchronous work | send FILE…"),
    }
    Ok(())
}

async fn work(mut receiver: Receiver<String>) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            // A future that `select!` drops has taken nothing.
            job = receiver.recv_async(), if running.len() < 100 => match job {
                Ok(job) => drop(running.spawn(wait_for_file(job))),
                Err(error) if error.is_of_one_message() => eprintln!("{error}"),
                Err(error) => return Err(error.into()),
            },
            Some(done) = running.join_next() => done??,
            stopped = &mut stop => break stopped?,
        }
    }
    while let Some(done) = running.join_next().await {
        done??; // the jobs in hand; those of a dropped set would return to the queue
    }
    Ok(())
}

async fn wait_for_file(job: OwnedDelivery<String>) -> anyhow::Result<()> {
    println!("{}, attempt {}", job.data(), job.attempt());
    while !Path::new(job.data()).exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{} is there", job.data());
    Ok(job.ack()?) // in any thread
}
