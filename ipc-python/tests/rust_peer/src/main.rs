//! A Rust program at the other end of a Python program's queues: `rust-peer COMMAND QUEUE
//! ENCODING`.

use std::error::Error;
use std::io::{self, Read};

use ipc_queue::{Encoding, Queue, QueueOptions};
use serde::{Deserialize, Serialize};

/// The same type as in the Python test.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    path: String,
    size: Size,
    tags: Vec<String>,
    ratio: f64,
    note: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Size {
    width: u32,
    height: u32,
}

/// The answer to a job.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    path: String,
    pixels: u64,
    attempt: u8,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, address, encoding] = &arguments[..] else {
        return Err("rust-peer work|send|hold QUEUE msgpack|json|postcard".into());
    };
    let encoding = match &encoding[..] {
        "json" => Encoding::Json,
        "postcard" => Encoding::Postcard,
        _ => Encoding::MessagePack,
    };
    let options = QueueOptions::new().encoding(encoding);
    let jobs: Queue<Job> = options.open(address)?;
    match &command[..] {
        "work" => work(&jobs, &options.open(format!("{address}-done"))?),
        "send" => send(&jobs),
        _ => hold(&jobs),
    }
}

/// Answers jobs until the queue is closed and drained.
fn work(jobs: &Queue<Job>, done: &Queue<Done>) -> Result<(), Box<dyn Error>> {
    let (receiver, sender) = (jobs.receiver(), done.sender());
    loop {
        let delivery = match receiver.recv() {
            Ok(delivery) => delivery,
            Err(error) if error.is_closed() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let job = delivery.data();
        sender.send(Done {
            path: job.path.clone(),
            pixels: u64::from(job.size.width) * u64::from(job.size.height),
            attempt: delivery.attempt(),
        })?;
        delivery.ack()?;
    }
}

/// Sends a hundred jobs, then waits to be killed.
fn send(jobs: &Queue<Job>) -> Result<(), Box<dyn Error>> {
    let sender = jobs.sender();
    for n in 0..100_u32 {
        sender.send(Job {
            path: format!("{n}.jpg"),
            size: Size {
                width: n,
                height: 2,
            },
            tags: vec!["ä".to_owned()],
            ratio: f64::from(n) / 8.0,
            note: (n % 2 == 0).then(|| "even".to_owned()),
        })?;
    }
    wait("sent")
}

/// Takes one job, then waits to be killed.
fn hold(jobs: &Queue<Job>) -> Result<(), Box<dyn Error>> {
    let receiver = jobs.receiver();
    let delivery = receiver.recv()?;
    wait(&delivery.data().path)
}

fn wait(word: &str) -> Result<(), Box<dyn Error>> {
    println!("{word}");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
