//! What the command line means.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use ipc_demo::nats;
use ipc_demo::premises::Transport;

/// Fingerprints files with a coordinator and worker processes that may be killed at any moment.
///
/// Each file is a task; its content goes to a worker through shared memory; the worker answers with what
/// `LC_ALL=C wc` and `sha256sum` print. Workers that die are replaced and their tasks done again: the report
/// is exact whatever happens. Ctrl-C finishes what was begun; a second one stops at once.
///
/// With --transport nats everything goes through a NATS server instead: one of the run's own on this host (it needs the program
/// nats-server), or with --at one that you have, or a cluster. Then workers on other hosts can help: the run says how.
#[derive(Debug, Parser)]
#[command(name = "ipc-demo", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunOptions,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Work for a run that is going on, with workers of your own, perhaps on another host
    Host(HostOptions),
    /// Become the NATS server of a run
    #[command(name = nats::COMMAND, hide = true)]
    NatsServer(ServerOptions),
}

#[derive(Debug, Args)]
pub struct RunOptions {
    /// Files and folders to fingerprint; by default the current folder
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "simulate")]
    pub input: Vec<PathBuf>,

    /// Instead of files, run N made-up tasks of 100 ms each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub simulate: Option<u32>,

    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub workers: u8,

    /// Kill (SIGKILL) a worker in the middle of a task, K times
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=200))]
    pub kill_workers: u8,

    /// What the messages travel over
    #[arg(long, value_enum, default_value_t)]
    pub transport: Transport,

    /// For --transport nats: the server to use, nats://HOST:PORT, or a cluster's, nats://HOST:PORT,HOST:PORT?replicas=3; by
    /// default one of the run's own
    #[arg(long, value_name = "URL", value_parser = servers)]
    pub at: Option<String>,

    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    pub json: bool,

    /// Draw who worked on what when
    #[arg(long, value_name = "FILE.svg")]
    pub timeline: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct HostOptions {
    /// The run's address: what a run over NATS says, or shm:demo-PID/run, with the number of the coordinator's process
    #[arg(long, value_name = "ADDRESS")]
    pub at: String,

    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub workers: u8,

    /// What to call the workers, with a number behind; by default after this process
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct ServerOptions {
    /// The process of the run
    pub parent: i32,

    /// Where to keep things
    pub folder: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  ipc-demo --input /usr/include --kill-workers 5
  ipc-demo --transport nats --kill-workers 5                  with a NATS server of its own
  ipc-demo --transport nats --at nats://server:4222           with one that you have
  ipc-demo host --at nats://server:4222/demo-... --workers 8  on another host: the run says the address

Exit codes:
  0    every task was done
  1    a task was given up, or something else went wrong
  2    bad command line
  3    a file or folder could not be read, or there was no file: the report has the others
  130  interrupted";

/// Something that NATS servers may be at.
fn servers(text: &str) -> Result<String, String> {
    nats::address(text, "run").map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl RunOptions {
    /// What clap can't know: options that do not go together. The program ends if they don't.
    pub fn check(&self) {
        if self.at.is_some() && self.transport != Transport::Nats {
            let text = "--at names NATS servers: it goes with '--transport nats' only";
            Cli::command()
                .error(ErrorKind::ArgumentConflict, text)
                .exit();
        }
    }

    /// The files and folders to fingerprint.
    pub fn paths(&self) -> Vec<PathBuf> {
        if self.input.is_empty() {
            return vec![PathBuf::from(".")];
        }
        self.input.clone()
    }
}
