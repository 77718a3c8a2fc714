//! The command line of the demonstration.
#![forbid(unsafe_code)]

mod cli;
mod show;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use ipc_demo::coordinator::{self, Ending, Finished, Interrupts, Plan};
use ipc_demo::crew::{self, COORDINATOR};
use ipc_demo::input;
use ipc_demo::report::{self, Look};
use ipc_demo::source::Job;
use ipc_demo::wiring::{Transport, Wiring};
use ipc_demo::worker::{self, Switches};
use ipc_node::Registry;
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
        show::say(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

fn run(options: &RunOptions) -> Result<ExitCode> {
    let interrupts = Interrupts::default();
    count_signals(&interrupts)?;
    // Before the work: it would be a pity to find out after it.
    let mut timeline = options.timeline.as_deref().map(create).transpose()?;
    let mut show = Show::new(options);
    let finished = coordinator::run(plan(options), &interrupts, &mut show)?;
    drop(show);
    tell(options, &finished)?;
    if let Some((path, file)) = &mut timeline {
        let title = format!(
            "{} tasks, {} workers",
            finished.report.tasks, options.workers
        );
        file.write_all(finished.timeline.to_svg(&title)?.as_bytes())
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

fn create(path: &Path) -> Result<(&Path, File)> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    Ok((path, file))
}

fn plan(options: &RunOptions) -> Plan {
    let jobs = match options.simulate {
        Some(count) => (1..=count)
            .map(|number| Job::simulated(format!("task_data_{number}"), Duration::from_millis(100)))
            .collect(),
        None => input::find(options.paths())
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

/// Says on stdout what came of it.
fn tell(options: &RunOptions, finished: &Finished) -> Result<()> {
    let mut text = if options.json {
        finished.report.to_json()? + "\n"
    } else {
        finished.report.to_text(Look::of_stdout())
    };
    if options.simulate.is_some() && !options.json {
        text += &report::nodes_to_text(&finished.nodes, Look::of_stdout());
    }
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing the report"),
    }
}

/// Counts Ctrl-C and SIGTERM.
fn count_signals(interrupts: &Interrupts) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("listening for signals")?;
    let interrupts = Arc::clone(interrupts);
    thread::spawn(move || {
        for _ in signals.forever() {
            interrupts.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(())
}

fn work(options: &WorkerOptions) -> Result<()> {
    die_with_parent(options.parent)?;
    // Started as /proc/self/exe, we would be "exe" to `ps` and `top`.
    prctl::set_name(c"ipc-demo").context("naming the process")?;
    let switches = Arc::new(Switches::default());
    stop_on_signals(&switches)?;
    let namespace = Namespace::new(&options.namespace)?;
    let wiring = Wiring::open(Transport::Shm, namespace.clone())?;
    let node = crew::join(&namespace, &options.name)?;
    worker::run(&wiring, &node, &switches)?;
    if node.alive(COORDINATOR, Duration::MAX).is_none() {
        // The run ended, and took its table of nodes with it, just before we joined: this one is our own.
        drop(node);
        Registry::remove(&namespace)?;
    }
    Ok(())
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

/// A worker started by hand may get a Ctrl-C.
fn stop_on_signals(switches: &Arc<Switches>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("listening for signals")?;
    let switches = Arc::clone(switches);
    thread::spawn(move || {
        for _ in signals.forever() {
            switches.stop.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}
