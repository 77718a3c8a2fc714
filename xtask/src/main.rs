//! `cargo xtask COMMAND`: the commands of this workspace. One module per command.
#![forbid(unsafe_code)]

mod bench;
mod count;
mod demo;
mod lint;
mod mutants;
mod proofs;
mod python;
mod table;
mod test;
mod tsan;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The commands of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the demonstration: fingerprint files with worker processes (`cargo xtask demo -- --help`
    /// for its options)
    Demo(demo::Options),
    /// Run every test, and check that none leaves anything behind
    Test(test::Options),
    /// Check formatting, lints, docs and layering
    Lint,
    /// Write the README's table of transports and what each can do, and its picture of `ipc top`
    Table,
    /// Make small wrong changes, one at a time, and check that a test catches each
    Mutants(mutants::Options),
    /// Build the Python package, install it under target/, check it and run its tests
    Python(python::Options),
    /// Look for data races between threads on one queue (needs a nightly compiler)
    Tsan,
    /// Run integration scenarios with real processes, each of which may be killed, stopped or
    /// starved
    Scenarios(proofs::Options),
    /// Count the instructions that a message takes (needs valgrind)
    Count(count::Options),
    /// Measure the queues beside references and peers (`cargo xtask bench -- --help` for its
    /// options)
    Bench(bench::Options),
    /// Kill each operation at every instruction that changes anything, and let a survivor check the
    /// result
    Sweep(proofs::Options),
    /// Kill, stop and continue senders and receivers at random, then account for every message
    Torture(proofs::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Lint => lint::run(),
        Command::Table => table::run(),
        Command::Mutants(options) => mutants::run(&options),
        Command::Python(options) => python::run(&options),
        Command::Tsan => tsan::run(),
        Command::Scenarios(options) => proofs::run("scenarios", &options),
        Command::Count(options) => count::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Sweep(options) => proofs::run("sweep", &options),
        Command::Torture(options) => proofs::run("torture", &options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
