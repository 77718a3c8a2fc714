//! `cargo xtask bench`: builds the bench, which is outside of the workspace, and runs it.

mod python;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use xtask::cargo::{self, cargo};

/// All options are passed on.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// The bench's options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let args = cargo::passed_on(&options.args);
    if python::is_wanted(args) {
        return python::run(args);
    }
    let target = cargo::root().join("target/bench");
    // Not `--locked`: a new dependency of the workspace must not stop the bench. Locked versions
    // stay locked.
    let build = ["build", "--release", "--manifest-path", "bench/Cargo.toml"];
    cargo::run(cargo(&build).env("CARGO_TARGET_DIR", &target))?;
    // This process becomes the bench, so signals and the exit code are the bench's own.
    let error = Command::new(target.join("release/bench")).args(args).exec();
    Err(error).context("starting the bench")
}
