//! One repetition: starts the processes that play its parts, waits for them within a deadline, and
//! verifies their results.
//!
//! A result only counts if its sums agree: what all senders sent must be what all receivers
//! received.

use std::io::Read;
use std::ops::Add;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::child::Orders;
use crate::part::{BACK, Outcome, Part, THERE};
use crate::payload::Tally;
use crate::player::Player;
use crate::probe::Distance;
use crate::stage::Stage;
use crate::subject::server::Servers;
use crate::subject::{Home, Place};
use crate::switches::Switches;
use crate::work::{Placement, Times, Unit, Work};

/// The result of a repetition.
#[derive(Clone, Copy, Debug)]
pub struct Repetition {
    pub figure: f64,
    pub distance: Distance,
    /// The round trip of a bare cache line, by the probes before and after.
    pub probe_ns: Option<f64>,
    /// The scheduler's counts of all parts during their work.
    pub switches: Switches,
    /// The peak memory of the largest of its processes.
    pub peak_bytes: u64,
    /// The processor time of a message: of the parts, and of the servers if there are any.
    pub cpu_ns: [Option<f64>; 2],
}

/// The time allowed beyond the expected time: for starting, probing, and a busy machine.
const GRACE: Duration = Duration::from_secs(10);
const PROBES: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The variable with the folder of this project's queues: below the repetition's folder.
pub const SHM_DIR: &str = "IPC_SHM_DIR";

/// Runs one repetition.
pub fn measure(
    player: &dyn Player,
    work: Work,
    placement: Placement,
    times: Times,
) -> Result<Repetition> {
    let folder = tempfile::Builder::new()
        .prefix("ipc-bench-")
        .tempdir_in("/dev/shm")?;
    let folder = folder.path();
    Stage::create(folder)?;
    let place = |queue| Place {
        folder: folder.to_owned(),
        queue,
        bytes: work.bytes(),
        capacity: work.capacity(),
    };
    let there = player.create(&place(THERE))?;
    let _back = match work {
        Work::RoundTrip { .. } => Some(player.create(&place(BACK))?),
        _ => None,
    };
    let served = || {
        there
            .downcast_ref::<Servers>()
            .map(Servers::cpu_ns)
            .transpose()
    };
    let before = served()?;
    let outcomes = play(player, parts(work, placement, times), folder)?;
    let servers_ns = served()?.zip(before).map(|(after, before)| after - before);
    verify(&outcomes)?;
    evaluate(work, &outcomes, servers_ns)
}

fn parts(work: Work, placement: Placement, times: Times) -> Vec<Part> {
    let roles = work.roles();
    let count = roles.len();
    let part = |(index, role)| Part {
        work,
        role,
        index,
        count,
        placement,
        times,
    };
    roles.into_iter().enumerate().map(part).collect()
}

fn play(player: &dyn Player, parts: Vec<Part>, folder: &Path) -> Result<Vec<Outcome>> {
    let times = parts[0].times;
    let casts = match player.home() {
        Home::Threads => vec![parts],
        Home::Processes => parts.into_iter().map(|part| vec![part]).collect(),
    };
    let mut company = Company::default();
    for parts in casts {
        company.start(&Orders {
            subject: player.name(),
            folder: folder.to_owned(),
            parts,
        })?;
    }
    let expected = times.warm_up + times.measured + PROBES;
    // Nothing is expected before that, and polling disturbs.
    thread::sleep(expected);
    company.finish(Instant::now() + expected + GRACE)
}

/// The processes of a repetition, killed when dropped.
#[derive(Debug, Default)]
struct Company {
    children: Vec<Child>,
}

impl Company {
    fn start(&mut self, orders: &Orders) -> Result<()> {
        let child = Command::new("/proc/self/exe")
            .args(["part", &serde_json::to_string(orders)?])
            .env(SHM_DIR, orders.folder.join("shm"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting a part")?;
        self.children.push(child);
        Ok(())
    }

    /// Waits for all processes, and reads their results. The failure of one is the failure of all.
    fn finish(&mut self, deadline: Instant) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        while !self.children.is_empty() {
            let mut running = Vec::new();
            for mut child in std::mem::take(&mut self.children) {
                match child.try_wait()? {
                    None => running.push(child),
                    Some(status) if status.success() => outcomes.extend(said(&mut child)?),
                    Some(status) => {
                        self.children.extend(running);
                        bail!("{status}: {}", complaint(&mut child));
                    }
                }
            }
            self.children = running;
            ensure!(Instant::now() < deadline, "hung");
            thread::sleep(LOOK_EVERY);
        }
        Ok(outcomes)
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn said(child: &mut Child) -> Result<Vec<Outcome>> {
    let stdout = child.stdout.take().context("piped")?;
    let said = std::io::read_to_string(stdout)?;
    // Peers may print other lines.
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("unexpected output of a part: {said:?}"))
}

fn complaint(child: &mut Child) -> String {
    let mut complaint = String::new();
    if let Some(stderr) = &mut child.stderr {
        // Output that cannot be read is not shown.
        let _ = stderr.read_to_string(&mut complaint);
    }
    complaint.trim().to_owned()
}

fn verify(outcomes: &[Outcome]) -> Result<()> {
    let (mut sent, mut received) = (Tally::default(), Tally::default());
    for outcome in outcomes {
        sent += outcome.sent;
        received += outcome.received;
    }
    ensure!(sent == received, "sent {sent:?} but received {received:?}");
    ensure!(sent.messages > 0, "nothing was sent");
    Ok(())
}

fn evaluate(work: Work, outcomes: &[Outcome], servers_ns: Option<u64>) -> Result<Repetition> {
    let probes = outcomes.iter().find_map(|outcome| outcome.probes);
    let figure = match work.unit() {
        Unit::Nanoseconds => outcomes.iter().find_map(|outcome| outcome.trip_ns),
        Unit::MessagesPerSecond => rate(outcomes),
        Unit::Share => smallest_share(outcomes),
        _ => None,
    };
    let switches = outcomes.iter().map(|outcome| outcome.switches);
    let messages: u64 = outcomes
        .iter()
        .map(|outcome| outcome.received.messages)
        .sum();
    let of_a_message = |ns: u64| ns as f64 / messages as f64;
    let parts_ns = outcomes.iter().map(|outcome| outcome.cpu_ns).sum();
    Ok(Repetition {
        cpu_ns: [Some(parts_ns), servers_ns].map(|ns| ns.map(of_a_message)),
        figure: figure.context("nothing was measured")?,
        distance: probes.map_or(Distance::None, Distance::of),
        switches: switches.fold(Switches::default(), Add::add),
        peak_bytes: outcomes.iter().map(|it| it.peak_bytes).max().unwrap_or(0),
        probe_ns: probes.map(|[before, after]| f64::midpoint(before, after)),
    })
}

/// Returns the part of its fair share that the receiver with the fewest messages received.
fn smallest_share(outcomes: &[Outcome]) -> Option<f64> {
    let received = outcomes.iter().map(|outcome| outcome.received.messages);
    let senders = outcomes.iter().filter(|it| it.sent.messages > 0).count();
    let receivers = outcomes.len().checked_sub(senders)?;
    let all: u64 = received.clone().sum();
    // Senders have received nothing, so they come first.
    let mut counts: Vec<u64> = received.collect();
    counts.sort_unstable();
    let fewest = *counts.get(senders)?;
    Some(fewest as f64 * receivers as f64 / all as f64)
}

/// Returns the rate: all messages, divided by the time from the first send that counts to the last
/// receipt.
fn rate(outcomes: &[Outcome]) -> Option<f64> {
    let messages: u64 = outcomes.iter().map(|outcome| outcome.measured).sum();
    let began = outcomes.iter().map(|outcome| outcome.began_ns);
    let began = began.filter(|time| *time > 0).min()?;
    let ended = outcomes.iter().map(|outcome| outcome.ended_ns).max()?;
    Some(messages as f64 * 1e9 / ended.checked_sub(began)? as f64)
}
