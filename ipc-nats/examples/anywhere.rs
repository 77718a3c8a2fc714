//! The same program over any transport: its queue is where the address says.
//!
//! `cargo run -p ipc-nats --example anywhere -- ADDRESS work`, in as many terminals as you like,
//! and the same with `-- ADDRESS send FILE…`. The address may be `nats://127.0.0.1/files` after
//! `nats-server -js`, `unix:/run/user/1000/files.sock` after `ipc serve files --at` that address,
//! or `shm:files`.

use std::fs;

use ipc_queue::{Nack, Queue};

fn main() -> anyhow::Result<()> {
    ipc_nats::register(); // from here on, nats:// is an address like any other
    let mut args = std::env::args().skip(1);
    let (Some(address), Some(task)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: anywhere ADDRESS work | send FILE…");
    };
    let jobs = Queue::<String>::open(address)?;
    if task == "send" {
        for file in args {
            jobs.sender().send(file)?;
        }
        return Ok(());
    }
    let receiver = jobs.receiver();
    loop {
        let job = match receiver.recv() {
            Ok(job) => job,
            Err(error) if error.is_closed() => return Ok(()), // and everything is done
            Err(error) if error.is_of_one_message() => continue,
            Err(error) => return Err(error.into()),
        };
        match fs::read_to_string(job.data()) {
            Ok(text) => {
                let lines = text.lines().count();
                println!("{}: {lines} lines, attempt {}", job.data(), job.attempt());
                job.ack()?; // killed before this? then another worker gets the job
            }
            Err(error) => job.nack_with(Nack::new().reason(&error.to_string()))?,
        }
    }
}
