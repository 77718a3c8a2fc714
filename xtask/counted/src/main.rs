//! Performs one operation some thousand times. `cargo xtask count` runs this under callgrind, which
//! counts the instructions in [`measured_send`] or [`measured_receive`] and nowhere else.
//!
//! Depends only on the queue, so that it builds quickly. Its queues are where `IPC_SHM_DIR` says.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteQueue, ByteReceiver, ByteSender, Encoding, Queue, QueueOptions, Receiver, Sender,
};
use serde::{Deserialize, Serialize};

/// Messages in a round: they all fit the queue.
const ROUND: usize = 512;
const ROUNDS: usize = 8;
const BATCH: usize = 32;
const SMALL: usize = 64;
const ADDRESS: &str = "shm:counted/q";

/// An operation that is performed `ROUND` times.
trait Operation {
    fn send(&self) -> Result<()>;
    fn receive(&self) -> Result<()>;
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name] = &args[..] else {
        bail!("which operation?");
    };
    let operation = operation(name)?;
    // One-time work is not counted: first calls, first touches of pages.
    operation.send()?;
    operation.receive()?;
    for _ in 0..ROUNDS {
        measured_send(&*operation)?;
        measured_receive(&*operation)?;
    }
    println!("{}", ROUNDS * ROUND);
    Ok(())
}

/// Its end differs from that of the next function. Otherwise the compiler would merge the two, or
/// turn the call into a jump.
#[inline(never)]
fn measured_send(operation: &dyn Operation) -> Result<()> {
    let done = operation.send();
    black_box("sent");
    done
}

#[inline(never)]
fn measured_receive(operation: &dyn Operation) -> Result<()> {
    let done = operation.receive();
    black_box("received");
    done
}

fn operation(name: &str) -> Result<Box<dyn Operation>> {
    let options = QueueOptions::new().capacity(1024).inline_bytes(64);
    let bytes = |options: QueueOptions, len| Bytes::open(&options, len);
    Ok(match name {
        "inline" => Box::new(bytes(options, SMALL)?),
        "leased" => Box::new(bytes(options.lease(Duration::from_secs(60)), SMALL)?),
        // Just too large for the cell. So the chunk is counted, but hardly the copy, whose code
        // differs between processors.
        "chunked" => Box::new(bytes(options.max_message_bytes(4096), 2 * SMALL)?),
        "loaned" => Box::new(Loaned(bytes(options, SMALL)?)),
        "batch" => Box::new(Batched::by(Ack::Each, bytes(options, SMALL)?)),
        "batch-acked" => Box::new(Batched::by(Ack::Whole, bytes(options, SMALL)?)),
        "chunked-batch" => {
            let queue = bytes(options.max_message_bytes(4096), 2 * SMALL)?;
            Box::new(Batched::by(Ack::Whole, queue))
        }
        "typed" => Box::new(Typed::open(&options, Encoding::default())?),
        "postcard" => Box::new(Typed::open(&options, Encoding::Postcard)?),
        _ => bail!("no operation {name}"),
    })
}

struct Bytes {
    sender: ByteSender,
    receiver: ByteReceiver,
    payload: Vec<u8>,
}

impl Bytes {
    fn open(options: &QueueOptions, len: usize) -> Result<Self> {
        let queue: ByteQueue = options.open_bytes(ADDRESS)?;
        Ok(Self {
            sender: queue.sender(),
            receiver: queue.receiver(),
            payload: vec![7; len],
        })
    }
}

impl Operation for Bytes {
    fn send(&self) -> Result<()> {
        for _ in 0..ROUND {
            self.sender.send(&self.payload)?;
        }
        Ok(())
    }

    fn receive(&self) -> Result<()> {
        for _ in 0..ROUND {
            let delivery = self.receiver.recv()?;
            ensure!(delivery.payload()[0] == 7, "what was sent");
            delivery.ack()?;
        }
        Ok(())
    }
}

/// Sends by loan.
struct Loaned(Bytes);

impl Operation for Loaned {
    fn send(&self) -> Result<()> {
        for _ in 0..ROUND {
            let mut loan = self.0.sender.loan(self.0.payload.len())?;
            loan[0] = 7;
            loan.publish()?;
        }
        Ok(())
    }

    fn receive(&self) -> Result<()> {
        self.0.receive()
    }
}

/// Sends and receives many messages in one call.
struct Batched {
    queue: Bytes,
    ack: Ack,
}

/// How the messages of a batch are acknowledged.
enum Ack {
    Each,
    Whole,
}

impl Batched {
    fn by(ack: Ack, queue: Bytes) -> Self {
        Self { queue, ack }
    }
}

impl Operation for Batched {
    fn send(&self) -> Result<()> {
        let batch = [&self.queue.payload[..]; BATCH];
        for _ in 0..ROUND / BATCH {
            self.queue.sender.send_batch(&batch)?;
        }
        Ok(())
    }

    fn receive(&self) -> Result<()> {
        for _ in 0..ROUND / BATCH {
            let mut batch = self.queue.receiver.recv_batch(BATCH, Wait::Forever)?;
            match self.ack {
                Ack::Each => {
                    for delivery in batch {
                        ensure!(delivery.payload()[0] == 7, "what was sent");
                        delivery.ack()?;
                    }
                }
                Ack::Whole => {
                    let as_sent = batch.iter().all(|delivery| delivery.payload()[0] == 7);
                    ensure!(as_sent, "what was sent");
                    batch.ack()?;
                }
            }
        }
        Ok(())
    }
}

/// The value of a typed message: five fields, together as large as a small message.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Job {
    id: u64,
    offset: u64,
    len: u64,
    due: u64,
    parts: [u64; 4],
}

/// Encodes and decodes.
struct Typed {
    sender: Sender<Job>,
    receiver: Receiver<Job>,
}

impl Typed {
    fn open(options: &QueueOptions, encoding: Encoding) -> Result<Self> {
        let options = options.clone().inline_bytes(256);
        let queue: Queue<Job> = options.encoding(encoding).open(ADDRESS)?;
        Ok(Self {
            sender: queue.sender(),
            receiver: queue.receiver(),
        })
    }
}

impl Operation for Typed {
    fn send(&self) -> Result<()> {
        for number in 0..ROUND as u64 {
            self.sender.send(Job {
                id: number,
                offset: number << 16,
                len: 1 << 16,
                due: u64::MAX - number,
                parts: [number; 4],
            })?;
        }
        Ok(())
    }

    fn receive(&self) -> Result<()> {
        for number in 0..ROUND as u64 {
            let delivery = self.receiver.recv()?;
            ensure!(delivery.data().id == number, "what was sent");
            delivery.ack()?;
        }
        Ok(())
    }
}
