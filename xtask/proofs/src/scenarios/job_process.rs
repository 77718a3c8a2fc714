//! Programs with typed queues, for scenarios about outages and releases: workers and senders of
//! several releases of a program.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use ipc_queue::{Encoding, Nack, Queue, QueueOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The work of such a process.
#[derive(Clone, Debug, Args)]
pub struct Options {
    #[arg(long)]
    release: Release,

    #[arg(long)]
    address: String,

    /// Send the jobs from this number on, instead of working
    #[arg(long)]
    send_from: Option<u64>,

    /// Number of jobs to send
    #[arg(long, default_value_t = 0)]
    jobs: u64,

    /// Fail jobs while this file does not exist
    #[arg(long)]
    database: Option<PathBuf>,
}

/// The releases of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Release {
    First,
    /// Has one more field.
    Second,
    /// Has one field less.
    Third,
    /// The first one, with its fields in another order.
    Reordered,
}

/// A job of one release.
trait Job: Serialize + DeserializeOwned {
    fn new(n: u64) -> Self;
    /// Its number, if all other fields match it.
    fn check(&self) -> Result<u64>;
}

#[derive(Serialize, Deserialize)]
struct First {
    n: u64,
    from: String,
    to: String,
}

#[derive(Serialize, Deserialize)]
struct Second {
    n: u64,
    width: Option<u64>,
    #[serde(default)]
    from: String,
    to: String,
}

#[derive(Serialize, Deserialize)]
struct Third {
    width: Option<u64>,
    n: u64,
    to: String,
}

#[derive(Serialize, Deserialize)]
struct Reordered {
    n: u64,
    to: String,
    from: String,
}

fn from(n: u64) -> String {
    format!("from {n}")
}

fn to(n: u64) -> String {
    format!("to {n}")
}

impl Job for First {
    fn new(n: u64) -> Self {
        let (from, to) = (from(n), to(n));
        Self { n, from, to }
    }

    fn check(&self) -> Result<u64> {
        ensure!(self.from == from(self.n) && self.to == to(self.n));
        Ok(self.n)
    }
}

impl Job for Second {
    fn new(n: u64) -> Self {
        let (width, from, to) = (Some(n), from(n), to(n));
        Self { n, width, from, to }
    }

    fn check(&self) -> Result<u64> {
        let of_first = self.width.is_none() && self.from == from(self.n);
        let of_second = self.width == Some(self.n) && self.from == from(self.n);
        let of_third = self.width == Some(self.n) && self.from.is_empty();
        ensure!(self.to == to(self.n) && (of_first || of_second || of_third));
        Ok(self.n)
    }
}

impl Job for Third {
    fn new(n: u64) -> Self {
        let (width, to) = (Some(n), to(n));
        Self { width, n, to }
    }

    fn check(&self) -> Result<u64> {
        ensure!(self.to == to(self.n) && self.width.is_none_or(|width| width == self.n));
        Ok(self.n)
    }
}

impl Job for Reordered {
    fn new(n: u64) -> Self {
        let (from, to) = (from(n), to(n));
        Self { n, to, from }
    }

    fn check(&self) -> Result<u64> {
        ensure!(self.from == from(self.n) && self.to == to(self.n));
        Ok(self.n)
    }
}

pub fn run(options: &Options) -> Result<ExitCode> {
    match options.release {
        Release::First => run_as::<First>(options),
        Release::Second => run_as::<Second>(options),
        Release::Third => run_as::<Third>(options),
        Release::Reordered => run_as::<Reordered>(options),
    }
}

fn run_as<J: Job>(options: &Options) -> Result<ExitCode> {
    let queue: Queue<J> = release_of().open(&options.address)?;
    println!("ready");
    match options.send_from {
        Some(first) => {
            let sender = queue.sender();
            for n in first..first + options.jobs {
                sender.send(J::new(n)).map_err(|error| error.failure)?;
            }
        }
        None => work(&queue, options.database.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The worker of the README, with work that may fail.
fn work<J: Job>(queue: &Queue<J>, database: Option<&Path>) -> Result<()> {
    let receiver = queue.receiver();
    loop {
        let job = match receiver.recv() {
            Ok(job) => job,
            Err(error) if error.is_closed() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if database.is_some_and(|file| !file.exists()) {
            job.nack_with(Nack::new().reason("the database is away"))?;
            continue;
        }
        let number = job.data().check().context("a job")?;
        println!("done {number}");
        job.ack()?;
    }
}

/// The options with which all releases open the queue.
fn release_of() -> QueueOptions {
    QueueOptions::new().type_name("Job")
}

/// Creates a queue of the first release, with default settings.
pub fn create(address: &str, encoding: Encoding) -> Result<Box<dyn FirstRelease>> {
    let queue: Queue<First> = release_of().encoding(encoding).open(address)?;
    Ok(Box::new(queue))
}

/// A queue as the first release has it open.
pub trait FirstRelease {
    fn send(&self, n: u64) -> Result<()>;
    fn queue(&self) -> &dyn ipc_queue::transport::Transport;
}

impl FirstRelease for Queue<First> {
    fn send(&self, n: u64) -> Result<()> {
        let sent = self.sender().send(First::new(n));
        sent.map(drop).map_err(|error| error.failure.into())
    }

    fn queue(&self) -> &dyn ipc_queue::transport::Transport {
        &**self.transport()
    }
}

/// A process of a release. Killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// A worker of a release, whose jobs fail while the file does not exist.
    pub fn worker(release: Release, address: &str, database: Option<&Path>) -> Result<Self> {
        let mut command = command(release, address);
        if let Some(file) = database {
            command.arg("--database").arg(file);
        }
        Self::start(command)
    }

    /// A sender of a release.
    pub fn sender(release: Release, address: &str, first: u64, jobs: u64) -> Result<Self> {
        let mut command = command(release, address);
        command.args(["--send-from", &first.to_string()]);
        command.args(["--jobs", &jobs.to_string()]);
        Self::start(command)
    }

    fn start(mut command: Command) -> Result<Self> {
        let child = command.spawn().context("starting a process")?;
        Ok(Self { child })
    }

    /// Waits until it has opened the queue.
    pub fn await_ready(&mut self) -> Result<()> {
        let stdout = self.child.stdout.as_mut().context("it has an output")?;
        // One byte at a time: the rest is read at the end.
        let mut line = String::new();
        BufReader::with_capacity(1, stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "it is not ready: {line:?}");
        Ok(())
    }

    /// Kills it with SIGKILL. Returns the jobs that it had done.
    pub fn kill(mut self) -> Result<BTreeSet<u64>> {
        self.child.kill()?;
        self.child.wait()?;
        self.done()
    }

    /// Waits until it ends, which must be a success. Returns the jobs that it did.
    pub fn end(mut self) -> Result<BTreeSet<u64>> {
        let done = self.done();
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}: {}", self.complaint()?);
        done
    }

    /// Waits until it ends with an error, and returns the error.
    pub fn fail(mut self) -> Result<String> {
        let status = self.child.wait()?;
        ensure!(!status.success(), "it ended well");
        self.complaint()
    }

    fn done(&mut self) -> Result<BTreeSet<u64>> {
        let stdout = self.child.stdout.take().context("it has an output")?;
        let mut done = BTreeSet::new();
        for line in BufReader::new(stdout).lines() {
            if let Some(number) = line?.strip_prefix("done ") {
                done.insert(number.parse()?);
            }
        }
        Ok(done)
    }

    fn complaint(&mut self) -> Result<String> {
        let mut complaint = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut complaint)?;
        }
        Ok(complaint)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(release: Release, address: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let name = release.to_possible_value();
    let name = name.as_ref().map_or("", |value| value.get_name());
    command.args(["scenario-job-process", "--address", address]);
    command.args(["--release", name]);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
