//! `cargo xtask tsan`: threads on one queue, under ThreadSanitizer.
//!
//! Needs a nightly compiler, and says so if there is none. The standard library stays as it is,
//! without instrumentation. ThreadSanitizer sees its locks and channels only through the C library.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use xtask::cargo;

const FLAGS: &str = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer";

pub fn run() -> Result<ExitCode> {
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc", "-vV"]);
    let Ok(found) = nightly.stderr(Stdio::null()).output() else {
        return Ok(skipped("no rustup"));
    };
    let version = String::from_utf8_lossy(&found.stdout).into_owned();
    let Some(host) = version.lines().find_map(|line| line.strip_prefix("host: ")) else {
        return Ok(skipped(
            "no nightly compiler: rustup toolchain install nightly",
        ));
    };
    let mut test = Command::new("rustup");
    test.args(["run", "nightly", "cargo", "test", "--package", "ipc-queue"]);
    test.args(["--test", "threads", "--target", host]);
    // A separate folder: with other flags cargo would rebuild everything each time.
    test.args(["--target-dir", "target/tsan"]);
    test.current_dir(cargo::root());
    // Cargo runs this program with its own choice of compiler.
    test.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    test.env("RUSTFLAGS", FLAGS);
    let suppressed = cargo::root().join("xtask/tsan.supp");
    let options = format!("suppressions={}", suppressed.display());
    test.env("TSAN_OPTIONS", options);
    cargo::run(&mut test)?;
    eprintln!("no data race was found");
    Ok(ExitCode::SUCCESS)
}

fn skipped(why: &str) -> ExitCode {
    eprintln!("skipped: {why}");
    ExitCode::SUCCESS
}
