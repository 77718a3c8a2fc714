//! `cargo xtask table`: writes the README's table of the transports' features, and its picture of
//! `ipc top`.

use std::process::ExitCode;

use anyhow::Result;

use xtask::cargo::{self, cargo};

/// Tests do it, because the declarations come from open queues, and the picture from a view that
/// only the command can draw. Without `IPC_WRITE_TABLE` the tests only check both.
pub fn run() -> Result<ExitCode> {
    const PICTURE: &str = "the_picture_in_the_readme_has_the_present_layout";
    for what in [&["--test", "table"][..], &["--bin", "ipc", PICTURE]] {
        let mut test = cargo(&[&["test", "--package", "ipc-cli"], what].concat());
        cargo::run(test.env("IPC_WRITE_TABLE", "yes"))?;
    }
    Ok(ExitCode::SUCCESS)
}
