//! The command `ipc`.
//!
//! What only looks goes through [`ipc_queue::shm::Inspector`], which can't disturb a queue; the rest opens queues as any
//! program does.
#![forbid(unsafe_code)]

mod address;
mod bridge;
mod cli;
mod control;
mod dlq;
mod doctor;
mod look;
mod nodes;
mod prometheus;
mod serve;
mod show;
mod top;
mod traffic;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use cli::{Cli, Command, Dlq};
use show::Show;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All is done.
    Well,
    /// Something is wrong, and was said.
    NotWell,
    /// There was nothing to receive.
    Empty,
}

fn main() -> ExitCode {
    ipc_nats::register();
    let cli = Cli::parse();
    let show = Show::new(cli.json);
    match run(cli.command, show) {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::NotWell) => ExitCode::from(1),
        Ok(Ended::Empty) => ExitCode::from(3),
        Err(error) if show::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipc: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(command: Command, show: Show) -> Result<Ended> {
    match command {
        Command::Ls { namespace } => look::ls(namespace.as_deref(), show),
        Command::Stat { queue, prometheus } if prometheus => prometheus::stat(&queue),
        Command::Stat { queue, .. } => look::stat(&queue, show),
        Command::Top {
            namespace,
            every,
            once,
            width,
            svg,
        } => top::top(namespace.as_deref(), every, once, width, svg, show),
        Command::Send(send) => traffic::send(&send, show),
        Command::Recv(recv) => traffic::recv(&recv, show),
        Command::Peek { queue, count } => look::peek(&queue, count, show),
        Command::Bridge(what) => bridge::bridge(&what, show),
        Command::Pause { queue } => control::pause(&queue, show),
        Command::Resume { queue } => control::resume(&queue, show),
        Command::Drain { queue, timeout } => control::drain(&queue, timeout, show),
        Command::Purge { queue } => control::purge(&queue, show),
        Command::Dlq(Dlq::Ls { queue }) => dlq::ls(&queue, show),
        Command::Dlq(Dlq::Show { queue, letter }) => dlq::show(&queue, &letter, show),
        Command::Dlq(Dlq::Requeue(which)) => dlq::requeue(&which, show),
        Command::Dlq(Dlq::Drop(which)) => dlq::discard(&which, show),
        Command::Nodes { namespace, timeout } => nodes::nodes(namespace.as_deref(), timeout, show),
        Command::Doctor { repair } => doctor::doctor(repair, show),
        Command::Rm { queues, force } => control::rm(&queues, force, show),
        Command::Serve(serve) => serve::serve(&serve, show),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "ipc", &mut std::io::stdout());
            Ok(Ended::Well)
        }
    }
}
