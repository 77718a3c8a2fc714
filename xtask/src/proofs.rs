//! `cargo xtask scenarios`, `sweep` and `torture`: builds the crate `proofs`, optimised, and runs
//! it.
//!
//! The crate is separate so that the other commands need not wait until its many dependencies are
//! compiled.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use xtask::cargo;

/// All options are passed on.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// The command's options: see --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// # Errors
/// When the crate does not build or can't be started.
pub fn run(command: &str, options: &Options) -> Result<ExitCode> {
    let program = cargo::build("proofs", &[])?;
    // This process becomes the program, so signals and the exit code are its own.
    let error = Command::new(program)
        .arg(command)
        .args(cargo::passed_on(&options.args))
        .exec();
    Err(error).context("starting the proofs")
}
