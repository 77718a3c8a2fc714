//! A queue that is served at a socket, beside what the same socket does without a queue.
//!
//! The references are a bare request and reply, and a stream of frames that acknowledges each
//! batch. The stream carries each message once. A served queue carries it to the server, and from
//! there to the receiver, and is asked for a third time to ack it.
//!
//! Batches are sent by one thread, and received and acked by another, as the acks of one batch and
//! the receive of the next are in flight together.
//!
//! One process is the client of both. Each server is another process; the served queue is in shared
//! memory.

use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use ipc_queue::transport::Wait;
use ipc_queue::{Batch, ByteQueue, ByteReceiver, ByteSender, QueueOptions, UnixServer};

use super::{Company, PASSES, Sample, company, program, summaries};
use crate::clock::now_ns;
use crate::payload;
use crate::repetition::SHM_DIR;
use crate::schedule::Summary;
use crate::work::{SMALL, Unit};

/// The name of the work of single requests.
pub const REQUEST: &str = "socket: one request, 64 B";
/// The name of the work of messages that are sent, received and acked.
pub const MESSAGES: &str = "socket: messages, 64 B";
pub const OWN_REQUEST: &str = "unix, mean of send, receive and ack";
pub const BARE: &str = "bare request and reply";
pub const OWN_BATCHES: &str = "unix, batches of 32";
pub const FRAMED: &str = "framed stream, each batch of 32 acked";

/// A server that a helper process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Served {
    Queue,
    /// Replies to each request.
    Bare,
    /// Reads frames, and acks each batch.
    Framed,
}

const BATCH: usize = 32;
/// The number of batches of one pass; single messages take a quarter of them.
const BATCHES: usize = 1000;
const REPLY: [u8; 8] = [1; 8];

/// Measures in this process.
pub fn measure() -> Result<Vec<Summary>> {
    let folder = tempfile::Builder::new()
        .prefix("ipc-bench-")
        .tempdir_in("/dev/shm")?;
    let servers = [Served::Queue, Served::Bare, Served::Framed];
    let started = servers.map(|served| start(served, &socket(served, folder.path())));
    let _running: Vec<_> = started.into_iter().collect::<Result<_>>()?;
    let open = |served| UnixStream::connect(socket(served, folder.path()));
    let queue = format!("unix:{}", socket(Served::Queue, folder.path()).display());
    let queue = ByteQueue::open(queue)?;
    let mut client = Client {
        sender: queue.sender(),
        receiver: queue.receiver(),
        bare: open(Served::Bare)?,
        framed: open(Served::Framed)?,
    };
    let mut samples = Samples::default();
    // In turn, so that changes of the machine affect all alike.
    for _ in 0..PASSES {
        client.singles(&mut samples)?;
        client.bare(&mut samples)?;
        client.acks_in_flight(&mut samples)?;
        client.batches(&mut samples)?;
        client.framed(&mut samples)?;
    }
    Ok(summaries(samples.0))
}

fn socket(served: Served, folder: &Path) -> PathBuf {
    folder.join(format!("{served:?}"))
}

/// Starts a server at a socket. Its queue, if it has one, is in the socket's folder.
pub fn start(served: Served, socket: &Path) -> Result<Company> {
    let name = served.to_possible_value().expect("a visible value");
    let path = socket.to_string_lossy();
    let folder = socket.parent().context("a socket in a folder")?;
    let mut helper = program(&["socket-helper", name.get_name(), &path]);
    company(helper.env(SHM_DIR, folder.join("shm")))
}

#[derive(Default)]
struct Samples(Vec<Sample>);

impl Samples {
    fn add(&mut self, work: &str, subject: &str, unit: Unit, value: f64) {
        let known = |sample: &&mut Sample| sample.work == work && sample.subject == subject;
        match self.0.iter_mut().find(known) {
            Some(sample) => sample.values.push(value),
            None => self.0.push(Sample {
                work: work.to_owned(),
                subject: subject.to_owned(),
                unit,
                values: vec![value],
            }),
        }
    }

    fn add_request(&mut self, subject: &str, total_ns: u64, requests: usize) {
        let each = total_ns as f64 / requests as f64;
        self.add(REQUEST, subject, Unit::Nanoseconds, each);
    }

    fn add_rate(&mut self, subject: &str, messages: usize, began_ns: u64) {
        let seconds = (now_ns() - began_ns) as f64 / 1e9;
        let rate = messages as f64 / seconds;
        self.add(MESSAGES, subject, Unit::MessagesPerSecond, rate);
    }
}

struct Client {
    sender: ByteSender,
    receiver: ByteReceiver,
    bare: UnixStream,
    framed: UnixStream,
}

impl Client {
    /// Sends, receives and acks, each with one request.
    fn singles(&self, samples: &mut Samples) -> Result<()> {
        const COUNT: usize = BATCHES * BATCH / 4;
        let mut bytes = [0; SMALL];
        let mut took = [0; 3];
        let began = now_ns();
        for number in 0..COUNT {
            payload::fill(&mut bytes, number as u64);
            let start = now_ns();
            self.sender.send(&bytes)?;
            let sent = now_ns();
            let delivery = self.receiver.recv()?;
            let received = now_ns();
            std::hint::black_box(payload::sum(delivery.payload()));
            let read = now_ns();
            delivery.ack()?;
            took[0] += sent - start;
            took[1] += received - sent;
            took[2] += now_ns() - read;
        }
        samples.add_rate("unix", COUNT, began);
        for (subject, ns) in ["unix, send", "unix, receive", "unix, ack"]
            .iter()
            .zip(took)
        {
            samples.add_request(subject, ns, COUNT);
        }
        samples.add_request(OWN_REQUEST, took.iter().sum(), 3 * COUNT);
        Ok(())
    }

    fn bare(&mut self, samples: &mut Samples) -> Result<()> {
        const COUNT: usize = BATCHES * BATCH / 4;
        let (mut bytes, mut reply) = ([0; SMALL], REPLY);
        let mut took = 0;
        for number in 0..COUNT {
            payload::fill(&mut bytes, number as u64);
            let start = now_ns();
            self.bare.write_all(&bytes)?;
            self.bare.read_exact(&mut reply)?;
            took += now_ns() - start;
        }
        samples.add_request(BARE, took, COUNT);
        Ok(())
    }

    /// Like `singles`, without a wait for each ack.
    fn acks_in_flight(&self, samples: &mut Samples) -> Result<()> {
        const COUNT: usize = BATCHES * BATCH / 4;
        let mut bytes = [0; SMALL];
        let began = now_ns();
        for number in 0..COUNT {
            payload::fill(&mut bytes, number as u64);
            self.sender.send(&bytes)?;
            let delivery = self.receiver.recv()?;
            std::hint::black_box(payload::sum(delivery.payload()));
            self.receiver.ack_later(delivery)?;
        }
        self.receiver.flush()?;
        samples.add_rate("unix, acks in flight", COUNT, began);
        Ok(())
    }

    /// One thread sends, and this one receives and acks.
    fn batches(&self, samples: &mut Samples) -> Result<()> {
        let began = now_ns();
        let sender = self.sender.clone();
        let sent = thread::spawn(move || send_batches(&sender));
        let mut left = BATCHES * BATCH;
        let mut batch = Batch::new();
        while left > 0 {
            self.receiver
                .recv_batch_into(&mut batch, BATCH.min(left), Wait::Forever)?;
            left -= batch.len();
            for delivery in &batch {
                std::hint::black_box(payload::sum(delivery.payload()));
            }
            self.receiver.ack_batch_later(&mut batch)?;
        }
        self.receiver.flush()?;
        samples.add_rate(OWN_BATCHES, BATCHES * BATCH, began);
        match sent.join() {
            Ok(sent) => sent,
            Err(_) => bail!("the sender panicked"),
        }
    }

    fn framed(&mut self, samples: &mut Samples) -> Result<()> {
        let mut buffer = [0; BATCH * SMALL];
        let mut stream = BufWriter::new(&self.framed);
        let began = now_ns();
        for batch in 0..BATCHES {
            fill(&mut buffer, batch);
            for payload in buffer.chunks_exact(SMALL) {
                stream.write_all(&(SMALL as u32).to_le_bytes())?;
                stream.write_all(payload)?;
            }
            stream.flush()?;
            stream.get_mut().read_exact(&mut [0; REPLY.len()])?;
        }
        samples.add_rate(FRAMED, BATCHES * BATCH, began);
        Ok(())
    }
}

fn send_batches(sender: &ByteSender) -> Result<()> {
    let mut buffer = [0; BATCH * SMALL];
    for batch in 0..BATCHES {
        fill(&mut buffer, batch);
        let (payloads, _) = buffer.as_chunks::<SMALL>();
        let mut slices = [&[][..]; BATCH];
        for (slice, payload) in slices.iter_mut().zip(payloads) {
            *slice = payload;
        }
        sender.send_batch(&slices)?;
    }
    Ok(())
}

fn fill(buffer: &mut [u8], batch: usize) {
    for (bytes, number) in buffer.chunks_exact_mut(SMALL).zip(batch * BATCH..) {
        payload::fill(bytes, number as u64);
    }
}

/// Runs in a helper's process.
pub fn serve(served: Served, path: &Path) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if served == Served::Queue {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let address = format!("shm:bench/{}", name.to_lowercase());
        let queue = QueueOptions::new().open_bytes(address)?;
        let _server = UnixServer::bind(path, Arc::clone(queue.transport()))?;
        println!("ready");
        loop {
            thread::park();
        }
    }
    let listener = UnixListener::bind(path)?;
    println!("ready");
    let (stream, _) = listener.accept()?;
    match served {
        Served::Framed => acknowledge_batches(&stream),
        _ => reply_to_each(stream),
    }
}

fn reply_to_each(mut stream: UnixStream) -> Result<()> {
    let mut bytes = [0; SMALL];
    while stream.read_exact(&mut bytes).is_ok() {
        std::hint::black_box(payload::sum(&bytes));
        stream.write_all(&REPLY)?;
    }
    Ok(())
}

fn acknowledge_batches(stream: &UnixStream) -> Result<()> {
    let (mut frames, mut answers) = (BufReader::new(stream), stream);
    let (mut length, mut bytes) = ([0; 4], [0; SMALL]);
    for number in 1.. {
        if frames.read_exact(&mut length).is_err() {
            break;
        }
        let length = u32::from_le_bytes(length) as usize;
        let payload = bytes.get_mut(..length).context("a frame is too long")?;
        frames.read_exact(payload)?;
        std::hint::black_box(payload::sum(payload));
        if number % BATCH == 0 {
            answers.write_all(&REPLY)?;
        }
    }
    Ok(())
}
