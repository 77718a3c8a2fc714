//! `cargo xtask sweep`: kills every operation at every instruction that matters.
//!
//! A real process performs one operation under ptrace, an instruction at a time (`actor`, `tracee`). After
//! each instruction that changed the segment or its folder, a copy of both is given to a survivor (`snapshot`,
//! `survivor`): nobody holds the stepped process's locks on the copy, so by the kernel's account that process is dead.
//! The survivor opens the queue, which recovers it, takes everything out, and finds what there was before the
//! operation or what there was to be after it, never anything else; and everything is free. Then the
//! recovery itself is stepped from these snapshots, and judged by the same measure. A sample is confirmed with a
//! real SIGKILL at that very instruction, every other one before the eyes of a survivor who is attached.
//!
//! A stepped process is also stopped at one of its instructions while a survivor works on, until
//! all leases and delays are over and other messages lie where those were that it was about; then
//! it goes on, and must change nothing of them (`stopping`).
//!
//! But for that, one operation is stepped at a time while nobody else does anything: other
//! interleavings are the model's (`ipc-queue/src/shm/model`), other deaths the torture's.

pub mod actor;
mod cases;
pub mod dying;
mod operation;
mod outcome;
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

use operation::{OPERATIONS, Operation, State};
use report::Report;
use run::{Effort, Sweeper, Tally};
use xtask::ending::end;

/// What to sweep, and how thoroughly.
#[derive(Debug, Args)]
pub struct Options {
    /// Only this operation
    #[arg(long, value_name = "NAME")]
    op: Option<String>,

    /// Only this state of it
    #[arg(long, value_name = "NAME", requires = "op")]
    state: Option<String>,

    /// Within a minute: fewer recoveries are stepped, fewer processes really killed
    #[arg(long)]
    quick: bool,

    /// How many sweep at once; as many as there are processors, if not said
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// Say which operations there are, and from which states
    #[arg(long)]
    list: bool,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Everything that can be.
const FULL: Effort = Effort {
    recoveries: usize::MAX,
    kills: 20,
    stops: 40,
};
/// Within a minute: every state is stepped, but only of each operation's first one also what comes after.
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
    let operations: Vec<&Operation> = match &options.op {
        Some(name) => vec![operation::find(name)?],
        None => OPERATIONS.iter().collect(),
    };
    if let Some(state) = &options.state {
        operation::find_state(operations[0].name, state)?;
    }
    let wanted = |state: &State| {
        options
            .state
            .as_ref()
            .is_none_or(|name| *name == state.name)
    };
    let cases = operations.into_iter().flat_map(|operation| {
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
        // Where no bar is to be seen, each.
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
