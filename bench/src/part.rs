//! One side of a repetition: the work of the bench's child processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::payload::Tally;
use crate::stage::Stage;
use crate::subject::{self, Patience, Place, Receiver, Sender, Subject};
use crate::work::{Manner, Placement, Role, Times, Work, alone, one_way, round_trip};
use crate::{clock, probe};

/// The orders for a child process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    pub subject: String,
    pub folder: PathBuf,
    /// The repetition's parts that this process plays, each on a thread.
    pub parts: Vec<Part>,
}

/// One part of a repetition.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Part {
    pub work: Work,
    pub role: Role,
    /// The part's index among all parts, and their number.
    pub index: usize,
    pub count: usize,
    pub placement: Placement,
    pub times: Times,
}

/// The result of a part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub sent: Tally,
    pub received: Tally,
    /// The number of messages sent in the time that counts.
    pub measured: u64,
    /// The start of that time, and the time when the last message had been received.
    pub began_ns: u64,
    pub ended_ns: u64,
    /// The duration of each round trip.
    pub trip_ns: Option<f64>,
    /// The probes before and after, from the part that leads them.
    pub probes: Option<[f64; 2]>,
    /// The peak memory of this process, or of one that it started.
    #[serde(default)]
    pub peak_bytes: u64,
}

/// Large, because some peers pass messages by value, however large.
const STACK_BYTES: usize = 64 << 20;

/// Plays parts, each on a thread, and prints their results.
pub fn run(orders: &str) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let orders: Orders = serde_json::from_str(orders).context("reading orders")?;
    let player = subject::all()
        .into_iter()
        .find(|player| player.name() == orders.subject && player.does(orders.parts[0].work))
        .with_context(|| format!("no subject {}", orders.subject))?;
    let play = |part: &Part| -> Result<Outcome> {
        pin(part)?;
        let stage = Stage::open(&orders.folder, part.count)?;
        player.play(part, &orders.folder, &stage)
    };
    let outcomes: Result<Vec<Outcome>> = std::thread::scope(|scope| {
        let play = &play;
        let threads: Vec<_> = orders
            .parts
            .iter()
            .map(|part| {
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                thread.spawn_scoped(scope, move || play(part))
            })
            .collect::<std::io::Result<_>>()?;
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a part panicked"))?)
            .collect()
    });
    let mut outcomes = outcomes?;
    for outcome in &mut outcomes {
        outcome.peak_bytes = peak_bytes()?;
    }
    println!("{}", serde_json::to_string(&outcomes)?);
    Ok(())
}

/// Returns the peak memory. The system's figure for the process is not used, because it includes
/// the memory of the parent before this program started.
fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|rest| rest.split_whitespace().next());
    let own: u64 = kib.context("no peak")?.parse()?;
    let children = u64::try_from(getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss())?;
    Ok(own.max(children) * 1024)
}

/// Opens the ends, and does the work between two probes.
pub fn play<S: Subject>(subject: &S, part: &Part, folder: &Path, stage: &Stage) -> Result<Outcome> {
    let place = |queue| Place {
        folder: folder.to_owned(),
        queue,
        bytes: part.work.bytes(),
        capacity: part.work.capacity(),
    };
    if part.work.is_opening() {
        stage.meet(1);
        let place = place(THERE);
        return between_probes(part, stage, || match part.work {
            Work::Create => alone::create(subject, &place, part.times),
            Work::Open => alone::open(subject, &place, part.times),
            _ => alone::visit(subject, &place, part.times),
        });
    }
    let [there, back] = match part.role {
        Role::Server => [BACK, THERE],
        Role::Client => [THERE, BACK],
        Role::Sender | Role::Receiver | Role::Both => [THERE, THERE],
    };
    let receive = || match part.role {
        Role::Sender => Ok(None),
        _ => subject
            .receiver(&place(back), patience(part.work))
            .map(Some),
    };
    let send = || match part.role {
        Role::Receiver => Ok(None),
        _ => subject.sender(&place(there)).map(Some),
    };
    let (mut sender, mut receiver);
    if subject.senders_open_first() {
        sender = send()?;
        stage.meet(1);
        receiver = receive()?;
    } else {
        receiver = receive()?;
        stage.meet(1);
        sender = send()?;
    }
    between_probes(part, stage, || {
        act(
            subject.batch(),
            part,
            stage,
            sender.as_mut(),
            receiver.as_mut(),
        )
    })
}

/// Probes, does the work when all parts are ready, and probes again.
pub fn between_probes(
    part: &Part,
    stage: &Stage,
    work: impl FnOnce() -> Result<Outcome>,
) -> Result<Outcome> {
    stage.meet(2);
    let before = probe(part, stage);
    stage.meet(3);
    let mut outcome = work()?;
    stage.meet(4);
    let after = probe(part, stage);
    // No part drops its end while others may still use it.
    stage.meet(5);
    outcome.probes = before.zip(after).map(|(before, after)| [before, after]);
    Ok(outcome)
}

fn patience(work: Work) -> Patience {
    match work {
        Work::OneWay { .. } | Work::Alone { .. } | Work::Visit | Work::Create | Work::Open => {
            Patience::Stream
        }
        Work::RoundTrip {
            manner: Manner::Spinning,
        } => Patience::Spin,
        Work::RoundTrip { .. } => Patience::Block,
    }
}

/// The queues of a repetition.
pub const THERE: &str = "there";
pub const BACK: &str = "back";

fn act<S: Sender, R: Receiver>(
    batch: usize,
    part: &Part,
    stage: &Stage,
    sender: Option<&mut S>,
    receiver: Option<&mut R>,
) -> Result<Outcome> {
    let times = part.times;
    match (part.role, part.work, sender, receiver) {
        (
            Role::Sender,
            Work::OneWay {
                senders,
                receivers,
                bytes,
            },
            Some(sender),
            _,
        ) => {
            let crowd = one_way::Crowd {
                senders,
                receivers,
                index: part.index,
            };
            one_way::send(sender, crowd, batch, bytes, times, stage)
        }
        (Role::Receiver, _, _, Some(receiver)) => {
            one_way::receive(receiver, stage.count_of(part.index))
        }
        (Role::Client, Work::RoundTrip { manner }, Some(sender), Some(receiver)) => {
            round_trip::ask(sender, receiver, manner, times)
        }
        (Role::Server, Work::RoundTrip { manner }, Some(sender), Some(receiver)) => {
            round_trip::answer(sender, receiver, manner)
        }
        (Role::Both, Work::Alone { bytes }, Some(sender), Some(receiver)) => {
            alone::alternate(sender, receiver, batch, bytes, times)
        }
        (role, work, ..) => Err(anyhow!("{role:?} has no part in {work}")),
    }
}

/// Probes the distance. The first part leads, the last one follows.
fn probe(part: &Part, stage: &Stage) -> Option<f64> {
    if part.count == 1 {
        return None;
    }
    if part.index == 0 {
        return Some(probe::lead(stage.probe_line()));
    }
    if part.index + 1 == part.count {
        probe::follow(stage.probe_line());
    }
    None
}

/// Pins the calling thread to the core of its part.
fn pin(part: &Part) -> Result<()> {
    if part.placement == Placement::Unpinned {
        return Ok(());
    }
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cores: Vec<usize> = (0..CpuSet::count())
        .filter(|core| allowed.is_set(*core).unwrap_or(false))
        .collect();
    let mut ours = CpuSet::new();
    ours.set(cores[part.index % cores.len()])?;
    Ok(sched_setaffinity(Pid::from_raw(0), &ours)?)
}

impl Outcome {
    /// Records the end.
    pub fn ended(mut self) -> Self {
        self.ended_ns = clock::now_ns();
        self
    }
}
