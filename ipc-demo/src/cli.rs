//! The command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use ipc_demo::nats;
use ipc_demo::premises::Transport;

/// Fingerprints files with a coordinator and worker processes that may be killed at any moment.
///
/// Each file is a task. Its content goes to a worker through shared memory. The worker answers with
/// the output of `LC_ALL=C wc` and `sha256sum`. Workers that die are replaced, and their tasks are
/// done again, so the report is always exact. Ctrl-C finishes the tasks that have begun; a second
/// one stops at once.
///
/// With --transport nats everything goes through a NATS server. By default the run starts one on
/// this host, which needs the program nats-server. With --at it uses a server or a cluster of
/// yours. Then workers on other hosts can help: the run prints the command.
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
    /// Lend workers to a run in progress, perhaps on another host
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

    /// Instead of files, run N simulated tasks of 100 ms each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub simulate: Option<u32>,

    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub workers: u8,

    /// Kill (SIGKILL) a worker in the middle of a task, K times
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=200))]
    pub kill_workers: u8,

    /// Transport of the messages
    #[arg(long, value_enum, default_value_t)]
    pub transport: Transport,

    /// For --transport nats: the server to use, nats://HOST:PORT, or a cluster,
    /// nats://HOST:PORT,HOST:PORT?replicas=3; by default the run starts its own
    #[arg(long, value_name = "URL", value_parser = servers)]
    pub at: Option<String>,

    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    pub json: bool,

    /// Draw a timeline of all workers and tasks into this file
    #[arg(long, value_name = "FILE.svg")]
    pub timeline: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct HostOptions {
    /// Address of the run: printed by a run over NATS; otherwise shm:demo-PID/run, where PID is the
    /// coordinator's process
    #[arg(long, value_name = "ADDRESS")]
    pub at: String,

    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub workers: u8,

    /// Name of the workers, followed by a number; by default made from this process
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct ServerOptions {
    /// The process of the run
    pub parent: i32,

    /// Folder for the server's files
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

/// Checks that the text can be the address of NATS servers.
fn servers(text: &str) -> Result<String, String> {
    nats::address(text, "run").map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl RunOptions {
    /// Rejects combinations of options that clap can't check. Ends the program if there is one.
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
