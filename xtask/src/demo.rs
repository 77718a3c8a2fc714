//! `cargo xtask demo`: builds the demonstration and runs it, by default on the workspace's own
//! files.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use xtask::cargo;

/// All options are passed on.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// The demonstration's options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Folders whose files are not the workspace's own.
const NOT_OURS: [&str; 2] = ["target", ".git"];

pub fn run(options: &Options) -> Result<ExitCode> {
    let args = cargo::passed_on(&options.args);
    eprintln!("building the demonstration, which takes a minute or two the first time");
    let features: &[&str] = match needs_nats(args) {
        true => &[],
        false => &["--no-default-features"],
    };
    let program = cargo::build("ipc-demo", features)?;
    let mut demo = Command::new(program);
    demo.args(args);
    if !chooses_input(args) {
        demo.arg("--input").args(own_files()?);
    }
    // This process becomes the demonstration, so signals and the exit code are its own.
    Err(demo.exec()).context("starting the demonstration")
}

/// Returns whether these arguments choose an input, or ask for no work at all.
fn chooses_input(args: &[OsString]) -> bool {
    let commands = ["host", "help"];
    let options = ["--input", "--simulate", "--help", "-h", "--version", "-V"];
    let chooses = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        let name = arg.split('=').next().unwrap_or_default();
        options.contains(&name)
    };
    let first = args.first().map(|arg| arg.to_string_lossy());
    first.is_some_and(|first| commands.contains(&&*first)) || args.iter().any(chooses)
}

/// Returns whether a run with these arguments goes through a NATS server: its client takes long to
/// compile.
fn needs_nats(args: &[OsString]) -> bool {
    args.iter()
        .any(|arg| arg.to_string_lossy().contains("nats"))
}

/// The workspace's own files: relative paths in its own folder, absolute ones elsewhere.
fn own_files() -> Result<Vec<PathBuf>> {
    let here = std::env::current_dir().context("finding the current folder")?;
    let root = if here == cargo::root() {
        Path::new("")
    } else {
        cargo::root()
    };
    let entries = std::fs::read_dir(cargo::root()).context("listing the workspace")?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .filter(|name| !NOT_OURS.iter().any(|other| name == other))
        .map(|name| root.join(name))
        .collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_over_nats_compiles_its_client() {
        let needs =
            |args: &[&str]| needs_nats(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(!needs(&[]) && !needs(&["--transport", "unix"]));
        assert!(needs(&["--transport", "nats"]) && needs(&["--transport=nats"]));
        assert!(needs(&["host", "--at", "nats://server:4222/run"]));
    }

    #[test]
    fn only_a_run_without_inputs_gets_the_workspaces_files() {
        let chooses =
            |args: &[&str]| chooses_input(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(!chooses(&[]) && !chooses(&["--json", "--timeline", "host"]));
        assert!(chooses(&["--json", "--input", "x"]) && chooses(&["--simulate=3"]));
        assert!(chooses(&["-h"]) && chooses(&["host", "--at", "x"]));
    }
}
