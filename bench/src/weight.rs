//! The cost of depending on this project's queue: the number of crates, and the time to compile
//! them from scratch.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::probe::Distance;
use crate::schedule::{Summary, summarise};
use crate::work::{Placement, Unit};

const PACKAGE: &str = "ipc-queue";

pub fn measure() -> Result<Vec<Summary>> {
    let row = |work: &str, unit, value| {
        let row = (
            work.to_owned(),
            PACKAGE.to_owned(),
            Placement::Unpinned,
            unit,
        );
        summarise(row, Distance::None, &[value])
    };
    Ok(vec![
        row("crates in the normal tree", Unit::Crates, crates()?),
        row("compiling from nothing", Unit::Nanoseconds, compile()?),
    ])
}

/// Returns a Cargo command in the workspace around the bench.
fn cargo(args: &[&str]) -> Result<Command> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(args)
        .current_dir(workspace.context("the bench lies in a workspace")?);
    Ok(command)
}

fn crates() -> Result<f64> {
    let tree = [
        "tree",
        "--package",
        PACKAGE,
        "--edges",
        "normal",
        "--prefix",
        "none",
    ];
    let output = cargo(&tree)?.stderr(Stdio::null()).output()?;
    ensure!(output.status.success(), "cargo tree failed");
    let tree = String::from_utf8_lossy(&output.stdout);
    let name_and_version = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let crates: HashSet<_> = tree.lines().filter_map(name_and_version).collect();
    Ok(crates.len() as f64)
}

/// Returns the nanoseconds of a build; the sources are already there.
fn compile() -> Result<f64> {
    let target = tempfile::Builder::new().prefix("ipc-bench-").tempdir()?;
    let started = Instant::now();
    let status = cargo(&["build", "--quiet", "--package", PACKAGE])?
        .env("CARGO_TARGET_DIR", target.path())
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "{PACKAGE} does not build");
    Ok(started.elapsed().as_nanos() as f64)
}
