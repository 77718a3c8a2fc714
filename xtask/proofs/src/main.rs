//! Proofs with real processes, for what a model can't prove. One module per command of
//! `cargo xtask`.
#![forbid(unsafe_code)]

mod scenarios;
mod sweep;
mod torture;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Proofs with real processes.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run integration scenarios with real processes, each of which may be killed, stopped or
    /// starved
    Scenarios(scenarios::Options),
    /// One scenario, in its own process
    #[command(hide = true)]
    ScenarioPlay(scenarios::Play),
    /// A child process of a scenario
    #[command(hide = true)]
    ScenarioPuppet(scenarios::puppet::Options),
    /// A worker of a scenario's pool
    #[command(hide = true)]
    ScenarioPoolWorker(scenarios::pool_worker::Worker),
    /// A process of a scenario that has a pool
    #[command(hide = true)]
    ScenarioPoolSupervisor(scenarios::pool_worker::Supervisor),
    /// A worker or sender of a scenario with typed queues
    #[command(hide = true)]
    ScenarioJobProcess(scenarios::job_process::Options),
    /// Kill each operation at every instruction that changes anything, and let a survivor check the
    /// result
    Sweep(sweep::Options),
    /// The process that is stepped
    #[command(hide = true)]
    SweepActor(sweep::perform::Options),
    /// A process that dies before the stepped one starts
    #[command(hide = true)]
    SweepPeer(sweep::peer::Options),
    /// Kill, stop and continue senders and receivers at random, then account for every message
    Torture(torture::Options),
    /// A process that is killed and stopped at random
    #[command(hide = true)]
    TortureActor(torture::actor::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Scenarios(options) => scenarios::run(&options),
        Command::ScenarioPlay(play) => scenarios::play(&play),
        Command::ScenarioPuppet(options) => scenarios::puppet::run(&options),
        Command::ScenarioPoolWorker(worker) => Ok(scenarios::pool_worker::work(&worker)),
        Command::ScenarioPoolSupervisor(options) => scenarios::pool_worker::supervise(&options),
        Command::ScenarioJobProcess(options) => scenarios::job_process::run(&options),
        Command::Sweep(options) => sweep::run(&options),
        Command::SweepActor(options) => sweep::perform::run(&options),
        Command::SweepPeer(options) => sweep::peer::run(&options),
        Command::Torture(options) => torture::run(&options),
        Command::TortureActor(options) => torture::actor::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
