//! Measurements of this project's queue alone: the growth of its costs, its idle costs, and its
//! recovery time.
//!
//! They run in a separate process, whose queues are in the run's folder. Helpers are further
//! processes.

pub mod footprint;
mod scale;
pub mod silence;
pub mod sockets;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use ipc_queue::{ByteQueue, QueueOptions};
use serde::{Deserialize, Serialize};

use crate::clock::now_ns;
use crate::probe::Distance;
use crate::repetition::SHM_DIR;
use crate::schedule::{Summary, summarise};
use crate::work::{Placement, SMALL, Unit};

/// A quantity that was measured several times.
#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    work: String,
    subject: String,
    unit: Unit,
    values: Vec<f64>,
}

/// The action of a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Helper {
    /// Attaches to the queue.
    Attach,
    /// Blocks in a receive.
    Wait,
    /// Holds all messages.
    Hold,
}

impl Helper {
    fn name(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Wait => "wait",
            Self::Hold => "hold",
        }
    }
}

/// The prefix of the names of all works about growth.
pub const SCALE: &str = "time per message";
const PASSES: usize = 5;
const LEASES: usize = 1000;
const IDLE: Duration = Duration::from_secs(1);
const ADDRESS: &str = "shm:bench/own";

/// Runs all these measurements in another process.
pub fn measure() -> Result<Vec<Summary>> {
    let folder = tempfile::Builder::new()
        .prefix("ipc-bench-")
        .tempdir_in("/dev/shm")?;
    let output = Command::new("/proc/self/exe")
        .arg("own-part")
        .env(SHM_DIR, folder.path().join("shm"))
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{complaint}");
    Ok(summaries(serde_json::from_slice(&output.stdout)?))
}

fn summaries(samples: Vec<Sample>) -> Vec<Summary> {
    let summary = |sample: Sample| {
        let row = (
            sample.work,
            sample.subject,
            Placement::Unpinned,
            sample.unit,
        );
        summarise(row, Distance::None, &sample.values)
    };
    samples.into_iter().map(summary).collect()
}

/// Runs in the other process.
pub fn run() -> Result<()> {
    // First, because it is about a process that has had no queue before.
    let mut samples = footprint::samples()?;
    samples.extend(scale::samples()?);
    samples.push(recovery()?);
    samples.extend(idle()?);
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}

fn fill(queue: &ByteQueue, messages: usize) -> Result<()> {
    let sender = queue.sender();
    for _ in 0..messages {
        sender.send(&[0; SMALL])?;
    }
    Ok(())
}

/// Receives messages and keeps them until this process ends.
fn hold(queue: &ByteQueue, messages: usize) -> Result<()> {
    let receiver = queue.receiver();
    for _ in 0..messages {
        std::mem::forget(receiver.recv()?);
    }
    std::mem::forget(receiver);
    Ok(())
}

/// Measures the time from the SIGKILL of a process that held 1,000 messages until another process
/// has received all of them.
fn recovery() -> Result<Sample> {
    let mut values = Vec::new();
    for _ in 0..PASSES {
        let queue = QueueOptions::new().inline_bytes(64).open_bytes(ADDRESS)?;
        fill(&queue, LEASES)?;
        let mut holder = Company::start(Helper::Hold)?;
        let before = now_ns();
        holder.0.kill()?;
        let receiver = queue.receiver();
        for _ in 0..LEASES {
            receiver.recv()?.ack()?;
        }
        values.push((now_ns() - before) as f64);
        drop((receiver, queue, holder));
        ipc_queue::remove(ADDRESS)?;
    }
    Ok(Sample {
        work: format!("recovery, {LEASES} leases of a killed process"),
        subject: "shm".to_owned(),
        unit: Unit::Nanoseconds,
        values,
    })
}

/// Measures the usage of a blocked receiver while no message arrives, in a small queue and in the
/// largest.
fn idle() -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for capacity in [1024, 1 << 20] {
        samples.extend(idle_in(capacity)?);
    }
    Ok(samples)
}

fn idle_in(capacity: u32) -> Result<Vec<Sample>> {
    let options = QueueOptions::new().capacity(capacity).inline_bytes(64);
    let queue = options.open_bytes(ADDRESS)?;
    let company = Company::start(Helper::Wait)?;
    let process = company.0.id();
    thread::sleep(Duration::from_millis(200));
    let (mut wakes, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..PASSES {
        let before = usage(process)?;
        let started = Instant::now();
        thread::sleep(IDLE);
        let (after, seconds) = (usage(process)?, started.elapsed().as_secs_f64());
        wakes.push((after.0 - before.0) as f64 / seconds);
        cpu.push((after.1 - before.1) as f64 / seconds);
    }
    let memory = own_memory(process)?;
    drop((company, queue));
    ipc_queue::remove(ADDRESS)?;
    let sample = |what: &str, unit, values| Sample {
        work: format!("idle: {what}"),
        subject: format!("shm, receiver blocked, capacity {capacity}"),
        unit,
        values,
    };
    Ok(vec![
        sample("wake-ups", Unit::WakeUpsPerSecond, wakes),
        sample("CPU time", Unit::NanosecondsPerSecond, cpu),
        sample("memory beside the segment", Unit::Bytes, vec![memory]),
    ])
}

/// Returns how often a process's threads went to sleep, and for how many nanoseconds they ran.
fn usage(process: u32) -> Result<(u64, u64)> {
    let (mut switches, mut nanoseconds) = (0, 0);
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        switches += number_in(&task.join("status"), "voluntary_ctxt_switches:")?;
        let times = std::fs::read_to_string(task.join("schedstat"))?;
        let ran = times.split_whitespace().next().context("empty")?;
        nanoseconds += ran.parse::<u64>()?;
    }
    Ok((switches, nanoseconds))
}

/// Returns the memory that a process shares with no other.
fn own_memory(process: u32) -> Result<f64> {
    let kib = number_in(Path::new(&format!("/proc/{process}/status")), "RssAnon:")?;
    Ok((kib * 1024) as f64)
}

fn number_in(file: &Path, label: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let rest = text.lines().find_map(|line| line.strip_prefix(label));
    let number = rest.and_then(|rest| rest.split_whitespace().next());
    Ok(number.context("no such line")?.parse()?)
}

/// A helper process, killed when dropped.
pub struct Company(Child);

impl Company {
    pub fn process(&self) -> u32 {
        self.0.id()
    }

    /// Starts a helper, and returns when it is ready.
    fn start(helper: Helper) -> Result<Self> {
        company(&mut program(&["own-helper", helper.name()]))
    }
}

/// This program, with these arguments.
fn program(args: &[impl AsRef<OsStr>]) -> Command {
    let mut program = Command::new("/proc/self/exe");
    program.args(args);
    program
}

/// Starts a helper, and returns when it is ready.
fn company(program: &mut Command) -> Result<Company> {
    let mut child = program
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let stdout = child.stdout.take().context("piped")?;
    BufReader::new(stdout).read_line(&mut said)?;
    ensure!(said == "ready\n", "unexpected output of a helper: {said:?}");
    Ok(Company(child))
}

fn start_all(helper: Helper, count: usize) -> Result<Vec<Company>> {
    (0..count).map(|_| Company::start(helper)).collect()
}

impl Drop for Company {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs in a helper's process.
pub fn help(helper: Helper) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let queue = QueueOptions::new().open_bytes(ADDRESS)?;
    if helper == Helper::Hold {
        hold(&queue, LEASES)?;
    }
    println!("ready");
    if helper == Helper::Wait {
        queue.receiver().recv()?.ack()?;
    }
    loop {
        thread::park();
    }
}
