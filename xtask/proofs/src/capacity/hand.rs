//! A measured child process (code: `Hand`): sends, receives, answers or serves for a given time,
//! then reports.
//!
//! It opens its queues, prints that it is ready, waits for a line, works, and prints one line. It
//! dies with the process that started it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use ipc_queue::transport::Wait;
use ipc_queue::{Batch, ByteQueue, ByteReceiver, ByteSender, QueueOptions, UnixServer};
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The work of one child.
#[derive(Clone, Debug, Args)]
pub struct Task {
    pub role: Role,
    /// The queue that it sends to or receives from
    pub address: String,
    /// The queue for answers, or the socket to serve at
    #[arg(default_value = "")]
    pub other: String,
    #[arg(long, default_value_t = 64)]
    pub bytes: usize,
    #[arg(long, default_value_t = 0)]
    pub for_ms: u64,
    #[arg(long, value_enum, default_value_t = Manner::Single)]
    pub manner: Manner,
    /// Pause between two sends; if not zero, the time of each message is measured
    #[arg(long, default_value_t = 0)]
    pub pause_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Send,
    Receive,
    /// Sends, and waits for the answer
    Ask,
    Answer,
    Serve,
}

/// The way in which messages are sent, or received and acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Manner {
    /// One by one, each with a wait for its answer
    Single,
    /// One by one, with acks in flight
    InFlight,
    /// In batches
    Batches,
}

/// The report of one child, from its start to its last reading of the clock.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account {
    pub messages: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    /// The median time of sends, transfers or round trips, if measured.
    pub half_us: Option<f64>,
    /// The 99th percentile of these times.
    pub most_us: Option<f64>,
}

/// A child as its parent sees it. Killed when dropped.
#[derive(Debug)]
pub struct Hand {
    child: Child,
    tell: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

/// The number of messages between two readings of the clock. Reading it for each message would slow
/// down a fast queue.
const BETWEEN_LOOKS: u64 = 16;
/// The size of a batch.
pub const BATCH: usize = 32;
/// The time after the end in which receivers make room for senders that are in the middle of a
/// send.
const GRACE: Duration = Duration::from_millis(250);
const READY: &str = "ready";

impl Hand {
    /// Starts a child, and waits until it has opened its queues.
    pub fn start(task: &Task) -> Result<Self> {
        let role = task.role.to_possible_value().context("a visible value")?;
        let manner = task.manner.to_possible_value().context("a visible value")?;
        let mut child = Command::new("/proc/self/exe")
            .args(["capacity-hand", role.get_name(), &task.address, &task.other])
            .args(["--bytes", &task.bytes.to_string()])
            .args(["--for-ms", &task.for_ms.to_string()])
            .args(["--pause-us", &task.pause_us.to_string()])
            .args(["--manner", manner.get_name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting another process")?;
        let tell = child.stdin.take();
        let said = BufReader::new(child.stdout.take().context("it was piped")?);
        let mut hand = Self { child, tell, said };
        match hand.line()?.trim() {
            READY => Ok(hand),
            other => bail!("a process that should be ready says {other:?}"),
        }
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Lets it start its work.
    pub fn go(&mut self) -> Result<()> {
        let tell = self.tell.as_mut().context("it still listens")?;
        Ok(tell.write_all(b"go\n")?)
    }

    /// Waits for its end, and returns its report.
    pub fn account(mut self) -> Result<Account> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("a measured process says {line:?}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs as such a child.
pub fn work(task: &Task) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    ipc_nats::register();
    let account = match task.role {
        Role::Serve => return serve(task),
        Role::Send => send(task)?,
        Role::Receive => receive(task)?,
        Role::Ask => ask(task)?,
        Role::Answer => answer(task)?,
    };
    println!("{}", serde_json::to_string(&account)?);
    Ok(ExitCode::SUCCESS)
}

fn serve(task: &Task) -> Result<ExitCode> {
    let queue = QueueOptions::new().open_bytes(&task.address)?;
    let _server = UnixServer::bind(&task.other, Arc::clone(queue.transport()))?;
    println!("{READY}");
    // Until its parent no longer needs it.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(ExitCode::SUCCESS)
}

fn send(task: &Task) -> Result<Account> {
    let sender = open(&task.address)?.sender();
    let mut payload = vec![b'7'; task.bytes];
    if task.manner == Manner::Batches {
        return send_batches(task, &sender, &payload);
    }
    let pause = Duration::from_micros(task.pause_us);
    let mut shift = Shift::begin(task)?;
    while shift.goes_on()? {
        let stamp = now();
        if let Some(place) = payload.first_chunk_mut() {
            *place = stamp.to_le_bytes();
        }
        sender.send(&payload)?;
        shift.done(|| now() - stamp);
        thread::sleep(pause);
    }
    shift.end()
}

fn send_batches(task: &Task, sender: &ByteSender, payload: &[u8]) -> Result<Account> {
    let batch = [payload; BATCH];
    let mut shift = Shift::begin(task)?;
    while shift.goes_on()? {
        sender.send_batch(&batch)?;
        shift.done_many(BATCH);
    }
    shift.end()
}

fn receive_batches(task: &Task, receiver: &ByteReceiver) -> Result<Account> {
    let mut shift = Shift::begin(task)?;
    let last = shift.end_at + GRACE;
    let mut batch = Batch::new();
    while shift.goes_on()? {
        match receiver.recv_batch_into(&mut batch, BATCH, Wait::Until(last)) {
            Ok(()) => {
                shift.done_many(batch.len());
                batch.ack()?;
            }
            Err(error) if error.is_timeout() => break,
            Err(error) => return Err(error.into()),
        }
    }
    let account = shift.end();
    make_room(receiver, last);
    account
}

fn receive(task: &Task) -> Result<Account> {
    let receiver = open(&task.address)?.receiver();
    if task.manner == Manner::Batches {
        return receive_batches(task, &receiver);
    }
    let mut shift = Shift::begin(task)?;
    let last = shift.end_at + GRACE;
    while shift.goes_on()? {
        let stamp = match receiver.recv_within(Wait::Until(last)) {
            Ok(delivery) => {
                let took = shift.is_timed.then(|| now() - stamp_in(delivery.payload()));
                match task.manner {
                    Manner::InFlight => receiver.ack_later(delivery)?,
                    _ => delivery.ack()?,
                }
                took
            }
            Err(error) if error.is_timeout() => break,
            Err(error) => return Err(error.into()),
        };
        shift.done(|| stamp.unwrap_or_default());
    }
    receiver.flush()?;
    let account = shift.end();
    make_room(&receiver, last);
    account
}

fn make_room(receiver: &ByteReceiver, last: Instant) {
    while Instant::now() < last
        && let Ok(delivery) = receiver.recv_within(Wait::Until(last))
    {
        let _ = delivery.ack();
    }
}

fn ask(task: &Task) -> Result<Account> {
    let (sender, receiver) = (open(&task.address)?.sender(), open(&task.other)?.receiver());
    let payload = vec![b'7'; task.bytes];
    let mut shift = Shift::begin(task)?;
    shift.is_timed = true;
    while shift.goes_on()? {
        let since = now();
        sender.send(&payload)?;
        receiver.recv()?.ack()?;
        shift.done(|| now() - since);
    }
    shift.end()
}

fn answer(task: &Task) -> Result<Account> {
    let (receiver, sender) = (open(&task.address)?.receiver(), open(&task.other)?.sender());
    let shift = Shift::begin(task)?;
    let last = shift.end_at + GRACE;
    // Until no more requests come.
    while let Ok(question) = receiver.recv_within(Wait::Until(last)) {
        sender.send(question.payload())?;
        question.ack()?;
    }
    shift.end()
}

fn open(address: &str) -> Result<ByteQueue> {
    ByteQueue::open(address).with_context(|| format!("opening {address}"))
}

/// The working time of one child.
struct Shift {
    begun_at: Instant,
    end_at: Instant,
    cpu_before: f64,
    is_timed: bool,
    done: u64,
    /// The number of messages at which the clock is read next.
    look_at: u64,
    times_ns: Vec<u64>,
    account: Account,
}

impl Shift {
    /// Reports that everything is ready, and waits for the start.
    fn begin(task: &Task) -> Result<Self> {
        println!("{READY}");
        std::io::stdin().read_line(&mut String::new())?;
        let begun_at = Instant::now();
        Ok(Self {
            begun_at,
            end_at: begun_at + Duration::from_millis(task.for_ms),
            cpu_before: own_cpu()?,
            is_timed: task.pause_us > 0,
            done: 0,
            look_at: 0,
            times_ns: Vec::new(),
            account: Account::default(),
        })
    }

    /// Returns whether there is time for another message. Now and then it reads the clock and
    /// records the progress.
    fn goes_on(&mut self) -> Result<bool> {
        if self.done < self.look_at {
            return Ok(true);
        }
        self.look_at = self.done + BETWEEN_LOOKS;
        let now = Instant::now();
        self.account.messages = self.done;
        self.account.seconds = (now - self.begun_at).as_secs_f64();
        Ok(now < self.end_at)
    }

    fn done(&mut self, took_ns: impl FnOnce() -> u64) {
        self.done += 1;
        if self.is_timed {
            self.times_ns.push(took_ns());
        }
    }

    /// Counts the messages of a batch, whose times are not measured.
    fn done_many(&mut self, messages: usize) {
        self.done += messages as u64;
    }

    fn end(mut self) -> Result<Account> {
        self.account.cpu_seconds = own_cpu()? - self.cpu_before;
        self.times_ns.sort_unstable();
        let share = |percent: usize| {
            let time = self.times_ns.get(self.times_ns.len() * percent / 100);
            time.map(|ns| *ns as f64 / 1000.0)
        };
        (self.account.half_us, self.account.most_us) = (share(50), share(99));
        Ok(self.account)
    }
}

/// The processor time of this process, with all its threads.
fn own_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(us as f64 / 1e6)
}

/// Nanoseconds on a clock that is the same in every process.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    u64::try_from(Duration::from(now).as_nanos()).expect("centuries to go")
}

fn stamp_in(payload: &[u8]) -> u64 {
    payload
        .first_chunk()
        .map_or(0, |place| u64::from_le_bytes(*place))
}
