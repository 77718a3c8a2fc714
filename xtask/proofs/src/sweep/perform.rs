//! The process of an actor: performs the operation that its command line names, under ptrace.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::prctl;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::unistd::alarm;

use super::actor::Play;
use super::operations;

/// The arguments of an actor.
#[derive(Debug, Args)]
pub struct Options {
    operation: String,
    state: String,
    #[arg(long)]
    folder: PathBuf,
    /// Length of leases in milliseconds; by default so long that none ends by itself
    #[arg(long)]
    lease_ms: Option<u64>,
}

/// After this time a signal ends any wait of the operation. Stepping takes a second or two.
const PATIENCE_SECONDS: u32 = 300;

/// Runs the operation that the command line names.
pub fn run(options: &Options) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    ptrace::traceme().context("asking to be traced")?;
    raise(Signal::SIGSTOP)?;
    alarm::set(PATIENCE_SECONDS);
    let mut play = Play::new(&options.folder)?;
    if let Some(millis) = options.lease_ms {
        play.set_lease(Duration::from_millis(millis));
    }
    // The watcher starts, finds nothing to watch, and sleeps.
    play.look()?;
    operations::find_state(&options.operation, &options.state)?.perform(&play)?;
    bail!("{} {} has no end", options.operation, options.state)
}
