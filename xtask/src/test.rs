//! `cargo xtask test`: runs every test, and checks that nothing is left behind.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use xtask::cargo::{self, cargo};

/// The tests to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,
}

const SHARED_MEMORY: &str = "/dev/shm";
/// The variable that names the file to which each skipped suite adds a line (`ipc_nats::testing`).
const SKIPPED: &str = "IPC_SKIPPED_SUITES";

pub fn run(options: &Options) -> Result<ExitCode> {
    let before = in_shared_memory()?;
    let mut tests = cargo(&["test", "--workspace", "--all-features"]);
    tests.args(&options.filter);
    let skipped = tempfile::NamedTempFile::new().context("a file for the skipped suites")?;
    tests.env(SKIPPED, skipped.path());
    cargo::run(&mut tests)?;
    let left: Vec<_> = in_shared_memory()?.difference(&before).cloned().collect();
    ensure!(
        left.is_empty(),
        "the tests left in {SHARED_MEMORY}: {left:?}"
    );
    let skipped = std::fs::read_to_string(skipped.path()).context("reading what was skipped")?;
    eprint!("{skipped}");
    eprintln!(
        "all tests passed and left nothing in {SHARED_MEMORY}; suites skipped: {}",
        skipped.lines().count()
    );
    Ok(ExitCode::SUCCESS)
}

fn in_shared_memory() -> Result<BTreeSet<OsString>> {
    let entries =
        std::fs::read_dir(SHARED_MEMORY).with_context(|| format!("listing {SHARED_MEMORY}"))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}
