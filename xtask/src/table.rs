//! `cargo xtask table`: writes the README's table of the transports' features.

use std::process::ExitCode;

use anyhow::Result;

use xtask::cargo::{self, cargo};

/// A test does it, because the declarations come from open queues. Without `IPC_WRITE_TABLE` the
/// test only checks the table.
pub fn run() -> Result<ExitCode> {
    let mut test = cargo(&["test", "--package", "ipc-cli", "--test", "table"]);
    cargo::run(test.env("IPC_WRITE_TABLE", "yes"))?;
    Ok(ExitCode::SUCCESS)
}
