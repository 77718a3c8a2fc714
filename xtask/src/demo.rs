//! `cargo xtask demo`: builds the demonstration and runs it, by default on the workspace's own files.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::cargo;

/// Everything is passed on.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// The demonstration's options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Folders that are no files of the workspace's own.
const NOT_OURS: [&str; 2] = ["target", ".git"];

pub fn run(options: &Options) -> Result<ExitCode> {
    let program = cargo::build("ipc-demo")?;
    let mut demo = Command::new(program);
    demo.args(options.args.iter().filter(|arg| *arg != "--"));
    if !options.args.iter().any(chooses_input) {
        demo.current_dir(cargo::root())
            .arg("--input")
            .args(own_files()?);
    }
    // Replaced, not started: signals and the exit code are its own.
    Err(demo.exec()).context("starting the demonstration")
}

fn chooses_input(arg: &OsString) -> bool {
    let text = arg.to_string_lossy();
    let chooses = [
        "--input",
        "--simulate",
        "--help",
        "-h",
        "--version",
        "-V",
        "worker",
    ];
    chooses
        .iter()
        .any(|word| text == *word || text.starts_with(&format!("{word}=")))
}

fn own_files() -> Result<Vec<PathBuf>> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(cargo::root())
        .context("listing the workspace")?
        .filter_map(|entry| entry.ok().map(|entry| PathBuf::from(entry.file_name())))
        .filter(|name| !NOT_OURS.iter().any(|other| name.as_os_str() == *other))
        .collect();
    names.sort();
    Ok(names)
}
