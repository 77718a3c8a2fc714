//! `cargo xtask COMMAND`: what there is to do with this workspace. One module per command.
#![forbid(unsafe_code)]

mod bench;
mod capacity;
mod cargo;
mod count;
mod demo;
mod ending;
mod lint;
mod mutants;
mod scenarios;
mod sweep;
mod table;
mod test;
mod torture;
mod tsan;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What there is to do with this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the demonstration: fingerprint files with worker processes (`cargo xtask demo -- --help` for its options)
    Demo(demo::Options),
    /// Run every test, and check that none leaves anything behind
    Test(test::Options),
    /// Check formatting, lints, docs and layering
    Lint,
    /// Write the README's table of transports and what each can do
    Table,
    /// Make small wrong changes, one at a time, and see that each is caught by a test
    Mutants(mutants::Options),
    /// Look for data races between threads on one queue (needs a nightly compiler)
    Tsan,
    /// Play integration scenarios with real processes, each of which may be killed, stopped or starved
    Scenarios(scenarios::Options),
    /// One scenario, in a process of its own
    #[command(hide = true)]
    ScenarioPlay(scenarios::Play),
    /// One of the processes in a scenario
    #[command(hide = true)]
    ScenarioPuppet(scenarios::puppet::Options),
    /// A worker of a scenario's pool
    #[command(hide = true)]
    ScenarioPoolWorker(scenarios::pool_worker::Worker),
    /// A process in a scenario that has a pool
    #[command(hide = true)]
    ScenarioPoolSupervisor(scenarios::pool_worker::Supervisor),
    /// Count the instructions that a message takes (needs valgrind)
    Count(count::Options),
    /// Measure the queues beside references and peers (`cargo xtask bench -- --help` for its options)
    Bench(bench::Options),
    /// Measure what one host does, over each transport, and what three servers do: the figures of docs/scaling.md
    Capacity(capacity::Options),
    /// The measurement, optimised
    #[command(hide = true)]
    CapacityMeasure(capacity::Options),
    /// A process that sends or receives in it
    #[command(hide = true)]
    CapacityHand(capacity::hand::Task),
    /// Kill each operation at every instruction that changes anything, and let a survivor judge
    Sweep(sweep::Options),
    /// The process that is stepped
    #[command(hide = true)]
    SweepActor(sweep::actor::Options),
    /// A process that dies before the one that is stepped comes
    #[command(hide = true)]
    SweepPeer(sweep::dying::Options),
    /// Kill, stop and continue senders and receivers at random, then account for every message
    Torture(torture::Options),
    /// One of the tortured
    #[command(hide = true)]
    TortureActor(torture::actor::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Lint => lint::run(),
        Command::Table => table::run(),
        Command::Mutants(options) => mutants::run(&options),
        Command::Tsan => tsan::run(),
        Command::Scenarios(options) => scenarios::run(&options),
        Command::ScenarioPlay(play) => scenarios::play(&play),
        Command::ScenarioPuppet(options) => scenarios::puppet::run(&options),
        Command::ScenarioPoolWorker(worker) => Ok(scenarios::pool_worker::work(&worker)),
        Command::ScenarioPoolSupervisor(options) => scenarios::pool_worker::supervise(&options),
        Command::Count(options) => count::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Capacity(options) => capacity::run(&options),
        Command::CapacityMeasure(options) => capacity::measure(&options),
        Command::CapacityHand(task) => capacity::hand::work(&task),
        Command::Sweep(options) => sweep::run(&options),
        Command::SweepActor(options) => sweep::actor::run(&options),
        Command::SweepPeer(options) => sweep::dying::run(&options),
        Command::Torture(options) => torture::run(&options),
        Command::TortureActor(options) => torture::actor::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
