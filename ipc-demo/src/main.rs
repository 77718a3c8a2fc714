//! The command line of the demonstration.
#![forbid(unsafe_code)]

mod cli;
mod show;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use ipc_demo::coordinator::{self, Ending, Finished, Interrupts, Plan};
use ipc_demo::crew;
use ipc_demo::input;
use ipc_demo::source::Job;
use ipc_demo::wiring::{Transport, Wiring};
use ipc_demo::worker::{self, Switches};
use ipc_shm::Namespace;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use cli::{Cli, Command, RunOptions, WorkerOptions};
use show::Show;

/// What the shell expects of a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Worker(options)) => work(&options).map(|()| ExitCode::SUCCESS),
        None => run(&cli.run),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(options: &RunOptions) -> Result<ExitCode> {
    let interrupts = Interrupts::default();
    listen_for_signals(&interrupts)?;
    let mut show = Show::new(options);
    let finished = coordinator::run(plan(options), &interrupts, &mut show)?;
    show.end();
    tell(options, &finished)?;
    if let Some(path) = &options.timeline {
        let title = format!(
            "{} tasks, {} workers",
            finished.report.tasks, options.workers
        );
        std::fs::write(path, finished.timeline.to_svg(&title)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(match (finished.interrupted, &finished.report) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, report) if !report.leaked.is_empty() || report.dead_lettered > 0 => {
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    })
}

fn plan(options: &RunOptions) -> Plan {
    let jobs = match options.simulate {
        Some(count) => (1..=count)
            .map(|number| Job::simulated(format!("task_data_{number}"), Duration::from_millis(100)))
            .collect(),
        None => input::find(&options.paths())
            .into_iter()
            .map(Job::file)
            .collect(),
    };
    Plan {
        jobs,
        workers: options.workers.into(),
        kills: options.kill_workers.into(),
        transport: options.transport,
        ending: if options.simulate.is_some() {
            Ending::Shutdown
        } else {
            Ending::Close
        },
    }
}

fn tell(options: &RunOptions, finished: &Finished) -> Result<()> {
    if options.json {
        println!("{}", finished.report.to_json()?);
        return Ok(());
    }
    print!(
        "{}",
        finished.report.to_text(ipc_demo::report::Look::of_stdout())
    );
    if options.simulate.is_some() {
        print!("{}", show::nodes(&finished.nodes));
    }
    Ok(())
}

/// Counts Ctrl-C and SIGTERM: the first drains, the second kills.
fn listen_for_signals(interrupts: &Interrupts) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("listening for signals")?;
    let interrupts = Arc::clone(interrupts);
    thread::spawn(move || {
        for _ in signals.forever() {
            match interrupts.fetch_add(1, Ordering::Relaxed) {
                0 => eprintln!("finishing what was begun; once more to stop at once"),
                _ => eprintln!("stopping"),
            }
        }
    });
    Ok(())
}

fn work(options: &WorkerOptions) -> Result<()> {
    die_with_parent(options.parent)?;
    let switches = Arc::new(Switches::default());
    stop_on_sigterm(&switches)?;
    let wiring = Wiring::open(Transport::Shm, Namespace::new(&options.namespace)?)?;
    let node = crew::join(&wiring, &options.name)?;
    worker::run(&wiring, &node, &switches)
}

/// Arms the kernel to kill us with our parent, then makes sure that it is still there.
///
/// The signal comes when the *thread* that started us ends; the coordinator starts workers from its main thread.
fn die_with_parent(parent: Option<u32>) -> Result<()> {
    let Some(parent) = parent else {
        return Ok(()); // Started by hand.
    };
    prctl::set_pdeathsig(Signal::SIGKILL).context("arming the parent-death signal")?;
    if getppid().as_raw().cast_unsigned() != parent {
        anyhow::bail!("the coordinator (process {parent}) has ended already");
    }
    Ok(())
}

fn stop_on_sigterm(switches: &Arc<Switches>) -> Result<()> {
    let mut signals = Signals::new([SIGTERM]).context("listening for signals")?;
    let switches = Arc::clone(switches);
    thread::spawn(move || {
        for _ in signals.forever() {
            switches.stop.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}
