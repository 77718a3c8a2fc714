//! `cargo xtask sweep`: kills every operation at every instruction that changes anything.
//!
//! A real process performs one operation under ptrace, one instruction at a time (`actor`,
//! `tracee`). After each instruction that changed the segment or its folder, a survivor gets a copy
//! of both (`snapshot`, `survivor`). No process holds the stepped process's locks on the copy, so
//! the kernel's locks say that it is dead. The survivor opens the queue, which recovers it, and
//! takes everything out. It must find the content from before the operation or from after it, never
//! anything else, and everything must be free. Then the recovery itself is stepped from these
//! snapshots, and judged in the same way. A sample is confirmed with a real SIGKILL at that very
//! instruction, every second one with an attached survivor.
//!
//! A stepped process is also stopped at one of its instructions while a survivor works on, until
//! all leases and delays are over and other messages are in its cells. Then it continues, and must
//! not change these messages (`stopping`).
//!
//! Otherwise one operation is stepped at a time while no other process is active. The model covers
//! other interleavings (`ipc-queue/src/shm/model`), the torture other deaths.

mod actor;
mod cases;
mod dying;
mod operation;
mod operations;
mod outcome;
pub mod peer;
pub mod perform;
mod report;
mod run;
mod scenery;
mod snapshot;
mod stopping;
mod survivor;
mod tracee;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use operation::{Operation, State};
use operations::OPERATIONS;
use report::Report;
use run::{Effort, Sweeper, Tally};
use xtask::ending::end;

/// The operations to sweep, and the thoroughness.
#[derive(Debug, Args)]
pub struct Options {
    /// Only this operation
    #[arg(long, value_name = "NAME")]
    op: Option<String>,

    /// Only this state of it
    #[arg(long, value_name = "NAME", requires = "op")]
    state: Option<String>,

    /// Take about two minutes: step fewer recoveries, kill fewer processes for real
    #[arg(long)]
    quick: bool,

    /// Number of threads that sweep; by default the number of processors
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// List the operations and their states
    #[arg(long)]
    list: bool,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// The full effort.
const FULL: Effort = Effort {
    recoveries: usize::MAX,
    kills: 20,
    stops: 40,
};
/// The effort of `--quick`: every state is stepped, with few kills and stops. Recoveries are
/// stepped only for each operation's first state.
const QUICK: Effort = Effort {
    recoveries: 0,
    kills: 1,
    stops: 2,
};
const QUICK_FIRST: Effort = Effort {
    recoveries: 1,
    kills: 2,
    stops: 12,
};

type Case = (&'static Operation, &'static State);

pub fn run(options: &Options) -> Result<ExitCode> {
    let cases = choose(options)?;
    if options.list {
        report::list(&cases);
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let folder = tempfile::Builder::new()
        .prefix("ipc-sweep-")
        .tempdir_in("/dev/shm")?;
    let tallies = sweep_all(&cases, options, folder.path())?;
    let report = Report::new(tallies, options.quick, started.elapsed());
    end(options.json, &report, &report, report.is_clean())
}

fn choose(options: &Options) -> Result<Vec<Case>> {
    let chosen: Vec<&Operation> = match &options.op {
        Some(name) => vec![operations::find(name)?],
        None => OPERATIONS.iter().collect(),
    };
    if let Some(state) = &options.state {
        operations::find_state(chosen[0].name, state)?;
    }
    let wanted = |state: &State| {
        options
            .state
            .as_ref()
            .is_none_or(|name| *name == state.name)
    };
    let cases = chosen.into_iter().flat_map(|operation| {
        let states = operation.states.iter();
        states.map(move |state| (operation, state))
    });
    Ok(cases.filter(|(_, state)| wanted(state)).collect())
}

/// Sweeps in several threads, each with processes and folders of its own.
fn sweep_all(cases: &[Case], options: &Options, folder: &Path) -> Result<Vec<(Case, Tally)>> {
    let bar = progress_bar(options, cases.len());
    let (next, examined) = (AtomicUsize::new(0), Mutex::default());
    let jobs = options.jobs.map_or_else(
        || thread::available_parallelism().map_or(1, usize::from),
        |jobs| jobs.max(1),
    );
    let mut tallies = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|job| {
                let folder = folder.join(job.to_string());
                let (next, examined, bar) = (&next, &examined, &bar);
                scope.spawn(move || {
                    tracee::prepare_thread(job)?;
                    work(cases, next, Sweeper::new(folder, examined)?, options, bar)
                })
            })
            .collect();
        let tallies = workers.into_iter().map(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| anyhow::bail!("a sweeper panicked"))
        });
        tallies.collect::<Result<Vec<_>>>()
    })?
    .concat();
    bar.finish_and_clear();
    tallies.sort_by_key(|(index, _)| *index);
    Ok(tallies
        .into_iter()
        .map(|(index, tally)| (cases[index], tally))
        .collect())
}

/// Takes cases until none is left.
fn work(
    cases: &[Case],
    next: &AtomicUsize,
    mut sweeper: Sweeper<'_>,
    options: &Options,
    bar: &ProgressBar,
) -> Result<Vec<(usize, Tally)>> {
    let mut tallies = Vec::new();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some((operation, state)) = cases.get(index) else {
            return Ok(tallies);
        };
        bar.set_message(format!("{} {}", operation.name, state.name));
        let effort = match options.quick {
            true if state.name == operation.states[0].name => QUICK_FIRST,
            true => QUICK,
            false => FULL,
        };
        let tally = sweeper.sweep(operation, state, effort)?;
        for violation in &tally.violations {
            bar.suspend(|| eprintln!("violation: {violation}"));
        }
        tallies.push((index, tally));
        bar.inc(1);
        // Without a visible bar, each result is printed.
        if bar.is_hidden() && !options.json {
            let (seconds, done) = (bar.elapsed().as_secs(), bar.position());
            eprintln!(
                "{seconds:4} s  {done}/{}  {} {}",
                cases.len(),
                operation.name,
                state.name
            );
        }
    }
}

fn progress_bar(options: &Options, cases: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:30.cyan} {pos}/{len}  {elapsed}, {eta} left  {msg}");
    let bar = if options.json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(cases as u64)
    };
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
