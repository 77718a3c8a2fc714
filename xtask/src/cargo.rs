//! Running cargo, and where the workspace is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The workspace's folder.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in the workspace")
}

/// A cargo command in the workspace's folder.
pub fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).current_dir(root());
    command
}

/// Runs a command to its end.
///
/// # Errors
/// When it can't be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let what = describe(command);
    eprintln!("$ {what}");
    let status = command
        .status()
        .with_context(|| format!("starting {what}"))?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

/// Runs a command to its end for what it prints. Whether it succeeded, and its stdout.
///
/// # Errors
/// When it can't be started.
pub fn output(command: &mut Command) -> Result<(bool, String)> {
    let what = describe(command);
    let output = command
        .output()
        .with_context(|| format!("starting {what}"))?;
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    ))
}

/// Builds a binary of the workspace, optimised. Its path.
///
/// # Errors
/// When it does not build.
pub fn build(package: &str) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "--quiet", "--package", package]);
    let status = build.status().context("starting cargo")?;
    ensure!(status.success(), "{package} does not build");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release").join(package))
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
