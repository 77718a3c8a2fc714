//! Running cargo, and finding the workspace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The folders of the workspace's members that are checked.
pub const CRATES: [&str; 9] = [
    "ipc-proto",
    "ipc-shm",
    "ipc-queue",
    "ipc-nats",
    "ipc-node",
    "ipc-cli",
    "ipc-demo",
    "xtask",
    "xtask/proofs",
];

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

/// Runs a command to its end, and captures its output. Returns whether it succeeded, and its
/// stdout.
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

/// The arguments for another program, without the `--` that may precede them.
#[must_use]
pub fn passed_on(args: &[OsString]) -> &[OsString] {
    match args.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => args,
    }
}

/// Builds an optimised binary of the workspace, while cargo shows its progress. Returns the
/// binary's path, in whatever target folder cargo uses.
///
/// # Errors
/// When it does not build.
pub fn build(package: &str, options: &[&str]) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "--package", package]);
    build.args(["--bin", package, "--message-format=json-render-diagnostics"]);
    build.args(options);
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "{package} does not build");
    let executable = |line: &[u8]| {
        let message: Value = serde_json::from_slice(line).ok()?;
        let is_it = message["target"]["name"] == package;
        message["executable"]
            .as_str()
            .filter(|_| is_it)
            .map(PathBuf::from)
    };
    let mut messages = output.stdout.split(|byte| *byte == b'\n');
    let built = messages.find_map(executable);
    built.with_context(|| format!("cargo does not say where it put {package}"))
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
