//! `cargo xtask COMMAND`: what there is to do with this workspace. One module per command.
#![forbid(unsafe_code)]

mod cargo;
mod demo;
mod lint;
mod test;
mod torture;

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
        Command::Torture(options) => torture::run(&options),
        Command::TortureActor(options) => torture::actor::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
