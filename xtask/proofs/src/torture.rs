//! `cargo xtask torture`: kills, stops and continues senders and receivers at random, then checks
//! the accounts.
//!
//! The messages have delays, expiries and keys, alone and in batches. The queue has priorities and
//! a lease time-out, or neither: only without them are batches also received and acknowledged as
//! runs. Dropping the oldest and purging are left out, because the accounts would miss the dropped
//! messages. The sweep covers these.
//!
//! Every actor is a process. It keeps a log in a file of its own (`log`), which outlives it. A
//! sender notes a message when `send` returned `Ok`. A receiver notes what it is about to ack and,
//! when `ack` returned `Ok`, that it did. In the end the queue is drained and the logs are compared
//! with its content (`verdict`). Nothing accepted may be lost, acked twice or damaged, and
//! everything must be free again. Order is checked on a queue of its own (`orderly`), where it is
//! promised.

pub mod actor;
mod canary;
mod log;
mod orderly;
pub mod payload;
mod verdict;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use ipc_proto::{MessageId, Name, QueueSettings};
use ipc_queue::ShmQueue;
use ipc_queue::transport::{OpenMode, OpenRequest, Transport};
use ipc_shm::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use canary::{Canary, Measured};
use orderly::Orderly;
use verdict::Verdict;

use xtask::ending::end;

/// The duration and the intensity.
#[derive(Debug, Args)]
pub struct Options {
    /// Duration in seconds
    #[arg(long, default_value_t = 10, value_name = "S")]
    seconds: u64,

    /// Stop after this many kills, if that comes first
    #[arg(long, value_name = "N")]
    kills: Option<u64>,

    /// Number of senders and receivers, half of each
    #[arg(long, default_value_t = 6, value_name = "P", value_parser = clap::value_parser!(u16).range(2..=40))]
    processes: u16,

    /// Seed of the random decisions: the same seed makes the same decisions, but not the same
    /// interleaving
    #[arg(long, value_name = "X")]
    seed: Option<u64>,

    /// Settings of the queue [default: the seed decides]
    #[arg(long, value_enum)]
    settings: Option<Settings>,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// The settings of the queue under torture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Settings {
    /// Priorities, and leases that end by time.
    Full,
    /// One priority, and leases without an end: batches are received as runs.
    Plain,
}

impl Settings {
    /// Its name on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Plain => "plain",
        }
    }

    /// Returns whether the queue has priorities.
    pub fn has_priorities(self) -> bool {
        self == Self::Full
    }
}

/// The kinds of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Sends.
    Send,
    /// Receives.
    Receive,
    /// Holds the message of the canary.
    Hold,
    /// Holds the places of the canary.
    HoldRoom,
}

impl Role {
    /// Its name on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Hold => "hold",
            Self::HoldRoom => "hold-room",
        }
    }
}

/// A process that takes longer than this after all trouble is over counts as hung.
pub const BOUND: Duration = Duration::from_secs(10);
/// A lease that stopped receivers exceed.
const LEASE: Duration = Duration::from_millis(150);
/// The window of keys: longer than any stop.
const WINDOW: Duration = Duration::from_secs(3);
const QUEUE: &str = "torture";

pub fn run(options: &Options) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    fastrand::seed(seed);
    let folder = tempfile::Builder::new()
        .prefix("ipc-torture-")
        .tempdir_in("/dev/shm")?;
    let either = [Settings::Full, Settings::Plain][fastrand::usize(..2)];
    let settings = options.settings.unwrap_or(either);
    let mut field = Field::new(folder.path(), options.processes.into(), settings)?;
    let canary = Canary::start(&folder.path().join("shm"))?;
    let bar = progress_bar(options);
    let started = Instant::now();
    let enough = |field: &Field| {
        started.elapsed() >= Duration::from_secs(options.seconds)
            || options.kills.is_some_and(|kills| field.kills >= kills)
    };
    while !enough(&field) {
        field.make_trouble()?;
        bar.set_message(format!("{} kills, {} stops", field.kills, field.stops));
        bar.set_position(started.elapsed().as_secs());
    }
    bar.finish_and_clear();
    let verdict = field.settle(seed, canary.finish()?)?;
    let text = verdict.to_string();
    end(options.json, &verdict, text.trim_end(), verdict.is_clean())
}

/// The queue, the actors, and what happened to them.
struct Field {
    folder: PathBuf,
    settings: Settings,
    namespace: Namespace,
    queue: ShmQueue,
    orderly: Orderly,
    actors: Vec<Actor>,
    incarnations: u64,
    kills: u64,
    stops: u64,
    hung: u64,
    /// Dead letters that were taken out, so that they don't fill the queue.
    dead: HashSet<MessageId>,
}

struct Actor {
    role: Role,
    child: Child,
}

impl Field {
    fn new(folder: &Path, processes: usize, settings: Settings) -> Result<Self> {
        let namespace = Namespace::in_folder(folder.join("shm"), QUEUE)?;
        let queue = open_queue(&namespace, OpenMode::Create, settings)?;
        let orderly = Orderly::start(&namespace)?;
        let mut field = Self {
            folder: folder.to_owned(),
            settings,
            namespace,
            queue,
            orderly,
            actors: Vec::new(),
            incarnations: 0,
            kills: 0,
            stops: 0,
            hung: 0,
            dead: HashSet::new(),
        };
        for number in 0..processes {
            let role = if number % 2 == 0 {
                Role::Send
            } else {
                Role::Receive
            };
            let actor = field.start(role)?;
            field.actors.push(actor);
        }
        Ok(field)
    }

    fn start(&mut self, role: Role) -> Result<Actor> {
        self.incarnations += 1;
        let log = self.folder.join(format!("{}.log", self.incarnations));
        let child = Command::new("/proc/self/exe")
            .arg("torture-actor")
            .arg(role.name())
            .args(["--seed", &fastrand::u64(..).to_string()])
            .args(["--settings", self.settings.name()])
            .arg("--folder")
            .arg(self.folder.join("shm"))
            .arg("--log")
            .arg(log)
            .stdin(Stdio::null())
            .spawn()
            .context("starting an actor")?;
        Ok(Actor { role, child })
    }

    /// Does one harmful thing, and gives it time to matter.
    fn make_trouble(&mut self) -> Result<()> {
        self.check_for_failures()?;
        self.clear_dead_letters()?;
        match fastrand::u32(..100) {
            0..60 => self.kill(&[fastrand::usize(..self.actors.len())])?,
            60..75 => {
                let victims: Vec<usize> = (0..self.actors.len())
                    .filter(|_| fastrand::bool())
                    .collect();
                self.kill(&victims)?;
            }
            75..78 => self.kill(&(0..self.actors.len()).collect::<Vec<_>>())?,
            _ => self.stop_for_a_while(),
        }
        thread::sleep(Duration::from_micros(fastrand::u64(..3_000)));
        Ok(())
    }

    /// An actor ends by itself only if it found a fault.
    fn check_for_failures(&mut self) -> Result<()> {
        for actor in &mut self.actors {
            if let Some(status) = actor.child.try_wait()? {
                bail!("a {:?} actor gave up: {status}; see above", actor.role);
            }
        }
        Ok(())
    }

    fn clear_dead_letters(&mut self) -> Result<()> {
        for letter in self.queue.dead_letters()? {
            self.dead.insert(letter.message);
            self.queue.discard(letter.id)?;
        }
        Ok(())
    }

    fn kill(&mut self, victims: &[usize]) -> Result<()> {
        let pids: Vec<u32> = victims
            .iter()
            .map(|victim| self.actors[*victim].child.id())
            .collect();
        for victim in victims {
            self.actors[*victim].child.kill()?;
        }
        self.await_recovery(&pids)?;
        for victim in victims {
            self.actors[*victim].child.wait()?;
            self.actors[*victim] = self.start(self.actors[*victim].role)?;
            self.kills += 1;
        }
        Ok(())
    }

    /// Waits until the queue no longer names the killed processes.
    fn await_recovery(&mut self, killed: &[u32]) -> Result<()> {
        let deadline = Instant::now() + BOUND;
        while self
            .queue
            .leases()?
            .iter()
            .any(|lease| killed.contains(&lease.pid))
        {
            if Instant::now() > deadline {
                self.hung += 1;
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Stops an actor for a time that may exceed its lease. It may be killed meanwhile, like any
    /// other.
    fn stop_for_a_while(&mut self) {
        let victim = &self.actors[fastrand::usize(..self.actors.len())].child;
        let pid = Pid::from_raw(i32::try_from(victim.id()).expect("process numbers fit"));
        let longest = u64::try_from(2 * LEASE.as_millis()).unwrap_or(300);
        let time = Duration::from_millis(fastrand::u64(1..longest));
        if kill(pid, Signal::SIGSTOP).is_ok() {
            self.stops += 1;
            // It continues even if this process fails. A number that was reused meanwhile still
            // belongs to a child of this run, and continuing a running process does nothing.
            thread::spawn(move || {
                thread::sleep(time);
                let _ = kill(pid, Signal::SIGCONT);
            });
        }
    }

    /// Ends the trouble, drains the queue, and checks the accounts.
    fn settle(mut self, seed: u64, mut canary: Measured) -> Result<Verdict> {
        self.queue.close()?;
        let deadline = Instant::now() + BOUND;
        for actor in &mut self.actors {
            let pid = Pid::from_raw(i32::try_from(actor.child.id()).expect("process numbers fit"));
            while actor.child.try_wait()?.is_none() {
                let _ = kill(pid, Signal::SIGCONT);
                if Instant::now() > deadline {
                    self.hung += 1;
                    actor.child.kill()?;
                    actor.child.wait()?;
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        let came = self.orderly.finish()?;
        let mut verdict = Verdict::reach(&self.folder, &self.queue, self.dead, &came)?;
        verdict.add_trouble(
            (seed, self.settings),
            self.kills,
            self.stops,
            self.hung + canary.hung,
            &mut canary.times,
        );
        drop(self.queue);
        ShmQueue::remove(&self.namespace, &queue_name())?;
        verdict.add_left_behind(&self.folder.join("shm"));
        Ok(verdict)
    }
}

fn queue_name() -> Name {
    Name::new(QUEUE).expect("a valid name")
}

/// Small, so that it is often full and often empty; every path of payloads is used.
fn open_queue(namespace: &Namespace, mode: OpenMode, settings: Settings) -> Result<ShmQueue> {
    let request = OpenRequest {
        mode,
        settings: QueueSettings {
            capacity: 32,
            inline_bytes: 64,
            max_message_bytes: payload::LARGEST,
            pool_bytes: 8 * u64::from(payload::LARGEST),
            attempt_limit: 50,
            crash_limit: 50,
            backoff: ipc_queue::Backoff::None,
            lease: (settings == Settings::Full).then_some(LEASE),
            max_participants: 64,
            priorities: settings.has_priorities(),
            dedup_window: Some(WINDOW),
            dedup_keys: 4096,
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    Ok(ShmQueue::open(namespace, &queue_name(), &request)?)
}

fn progress_bar(options: &Options) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30.red} {pos}/{len} s  {msg}");
    let bar = if options.json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(options.seconds)
    };
    bar.set_length(options.seconds);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
