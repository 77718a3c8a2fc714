//! The bench's child processes: they play parts, each on a thread, and print the results.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::part::{Outcome, Part};
use crate::stage::Stage;
use crate::subjects;
use crate::work::Placement;

/// The orders for a child process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    pub subject: String,
    pub folder: PathBuf,
    /// The repetition's parts that this process plays, each on a thread.
    pub parts: Vec<Part>,
}

/// Large, because some peers pass messages by value, however large.
const STACK_BYTES: usize = 64 << 20;

/// Plays parts, each on a thread, and prints their results.
pub fn run(orders: &str) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let orders: Orders = serde_json::from_str(orders).context("reading orders")?;
    let player = subjects::all()
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

/// Pins the calling thread to the core of its part.
fn pin(part: &Part) -> Result<()> {
    let nth = match part.placement {
        Placement::Pinned => part.index,
        Placement::Unpinned => return Ok(()),
        Placement::OneCore => 0,
    };
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cores: Vec<usize> = (0..CpuSet::count())
        .filter(|core| allowed.is_set(*core).unwrap_or(false))
        .collect();
    let mut ours = CpuSet::new();
    ours.set(cores[nth % cores.len()])?;
    Ok(sched_setaffinity(Pid::from_raw(0), &ours)?)
}
