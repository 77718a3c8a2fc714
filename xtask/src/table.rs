//! `cargo xtask table`: writes the README's table of transports and what each can do.

use std::process::ExitCode;

use anyhow::Result;

use xtask::cargo::{self, cargo};

/// A test makes it, since what is declared is asked of queues that are open; without this it checks.
pub fn run() -> Result<ExitCode> {
    let mut test = cargo(&["test", "--package", "ipc-cli", "--test", "table"]);
    cargo::run(test.env("IPC_WRITE_TABLE", "yes"))?;
    Ok(ExitCode::SUCCESS)
}
