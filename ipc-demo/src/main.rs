//! The command line of the demonstration.
#![forbid(unsafe_code)]

mod cli;
mod show;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use ipc_demo::plan::{Ending, Finished, Interrupts, Plan};
use ipc_demo::report::{self, Look};
use ipc_demo::source::Job;
use ipc_demo::{coordinator, input, nats, premises, task};
use ipc_node::pool::Pool;
use nix::sys::prctl;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use cli::{Cli, Command, HostOptions, RunOptions};
use show::Show;

/// The exit code that the shell expects of a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;
/// The exit code if an input could not be read, or there was none.
const NOT_READ: u8 = 3;

fn main() -> ExitCode {
    // A worker is started as /proc/self/exe, so `ps` and `top` would show it as "exe".
    let _ = prctl::set_name(c"ipc-demo");
    #[cfg(feature = "nats")]
    ipc_nats::register();
    task::handlers(premises::nodes_of_worker()).work_if_worker();
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Host(options)) => host(&options).map(|()| ExitCode::SUCCESS),
        Some(Command::NatsServer(options)) => {
            nats::become_server(options.parent, &options.folder).map(|()| ExitCode::SUCCESS)
        }
        None => run(&cli.run),
    };
    outcome.unwrap_or_else(|error| {
        show::say(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

fn run(options: &RunOptions) -> Result<ExitCode> {
    options.check();
    let interrupts = Interrupts::default();
    count_signals(&interrupts)?;
    // Before the work, so that an unwritable file fails at once.
    let mut timeline = options.timeline.as_deref().map(create).transpose()?;
    let mut show = Show::new(options);
    let finished = coordinator::run(plan(options), &interrupts, &mut show)?;
    drop(show);
    tell(options, &finished)?;
    if finished.report.tasks == 0 {
        let paths = options.paths();
        let paths: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        show::say(&format!("error: no file at or below {}", paths.join(", ")));
    }
    if let Some((path, file)) = &mut timeline {
        let title = format!(
            "{} tasks, {} workers",
            finished.report.tasks, options.workers
        );
        file.write_all(finished.timeline.to_svg(&title)?.as_bytes())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(exit_code(&finished))
}

fn exit_code(finished: &Finished) -> ExitCode {
    let report = &finished.report;
    let is_unread = |file: &report::FileReport| file.outcome.is_err();
    if finished.interrupted {
        ExitCode::from(INTERRUPTED)
    } else if !report.leaked.is_empty() || report.dead_lettered > 0 {
        ExitCode::FAILURE
    } else if report.tasks == 0 || report.files.iter().any(is_unread) {
        ExitCode::from(NOT_READ)
    } else {
        ExitCode::SUCCESS
    }
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
        at: options.at.clone(),
        ending: if options.simulate.is_some() {
            Ending::Shutdown
        } else {
            Ending::Close
        },
    }
}

/// Prints the result on stdout.
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
        // The reader has closed the pipe.
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
            if interrupts.fetch_add(1, Ordering::Relaxed) == 1 {
                thread::spawn(end_at_any_rate);
            }
        }
    });
    Ok(())
}

/// Ends the process even if a server that does not answer blocks the clean-up. Workers, and the
/// run's own server, end with this process.
fn end_at_any_rate() {
    const AT_ONCE: Duration = Duration::from_secs(5);
    thread::sleep(AT_ONCE);
    show::say("the queues do not answer, and are left as they are");
    process::exit(INTERRUPTED.into());
}

/// Lends workers to another process's run, until that run ends.
fn host(options: &HostOptions) -> Result<()> {
    let nodes = premises::nodes_of_run(&options.at);
    let own_name = || format!("host{}", process::id());
    let remote_workers = Pool::builder()
        .at(&options.at)
        .workers(options.workers.into())
        .worker_name(&options.name.clone().unwrap_or_else(own_name))
        .command(premises::worker(nodes.as_ref()))
        .on_worker_exit(|loss| show::say(&format!("{} was lost ({})", loss.worker, loss.note)))
        .join()
        .with_context(|| format!("joining the run at {}", options.at))?;
    Ok(remote_workers.wait()?)
}
