//! `cargo xtask test`: runs every test, and checks that nothing is left behind.
//!
//! Cargo builds the tests; each suite is then run here, one after the other, with a line that says
//! what it is and how long it took. A suite's output is shown only when it fails.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use xtask::cargo::cargo;

/// The tests to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,

    /// Leave out the suites that take longest; about three minutes when everything is built
    #[arg(long)]
    quick: bool,
}

/// The tests of one file, or of one crate's library.
struct Suite {
    package: String,
    target: String,
    program: PathBuf,
    /// The folder in which cargo would run it.
    folder: PathBuf,
}

/// The result of a suite.
#[derive(Default)]
struct Report {
    passed: u64,
    failed: u64,
    /// The end of the output of a suite that failed.
    output: String,
}

const SHARED_MEMORY: &str = "/dev/shm";
/// The variable that names the file to which each skipped suite adds a line (`ipc_nats::testing`).
const SKIPPED: &str = "IPC_SKIPPED_SUITES";

/// The tests that `--quick` leaves out, and why: the package, the target, and the prefix of the
/// tests' names; empty for all.
const SLOW: [(&str, &str, &str, &str); 7] = [
    (
        "ipc-queue",
        "bad_memory",
        "",
        "a segment damaged in every place",
    ),
    (
        "ipc-queue",
        "ipc_queue",
        "shm::model::",
        "every interleaving of the model",
    ),
    ("ipc-nats", "", "", "needs servers"),
    (
        "ipc-demo",
        "pipeline",
        "",
        "the demonstration, killed again and again",
    ),
    (
        "ipc-cli",
        "promises",
        "",
        "every command under every kind of trouble",
    ),
    ("proofs", "", "", "scenarios with many processes"),
    (
        "xtask",
        "instructions",
        "",
        "counts instructions under valgrind",
    ),
];

pub fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let before = in_shared_memory()?;
    let skipped = tempfile::NamedTempFile::new().context("a file for the skipped suites")?;
    let suites = build()?;
    let mut failed = Vec::new();
    let mut passed = 0;
    for (number, suite) in suites.iter().enumerate() {
        let place = format!("[{:>2}/{}]", number + 1, suites.len() + 1);
        let name = format!("{} {}", suite.package, suite.target);
        if let Some(why) = suite.left_out(options) {
            eprintln!("{place} {name:<32} left out: {why}");
            continue;
        }
        let command = suite.command(options, skipped.path());
        let report = watched(&place, &name, command)?;
        passed += report.passed;
        if report.failed > 0 || !report.output.is_empty() {
            eprintln!("{}", report.output);
            failed.push(name);
        }
    }
    let place = format!("[{0}/{0}]", suites.len() + 1);
    if options.quick {
        eprintln!(
            "{place} {:<32} left out by --quick",
            "examples in documentation"
        );
    } else {
        let mut examples = cargo(&[
            "test",
            "--workspace",
            "--all-features",
            "--doc",
            "--quiet",
            "--no-fail-fast",
        ]);
        examples.args(&options.filter).env(SKIPPED, skipped.path());
        let report = watched(&place, "examples in documentation", examples)?;
        passed += report.passed;
        if report.failed > 0 || !report.output.is_empty() {
            eprintln!("{}", report.output);
            failed.push("examples in documentation".to_owned());
        }
    }
    let left: Vec<_> = in_shared_memory()?.difference(&before).cloned().collect();
    let skipped = std::fs::read_to_string(skipped.path()).context("reading what was skipped")?;
    eprint!("{skipped}");
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    ensure!(
        left.is_empty(),
        "the tests left in {SHARED_MEMORY}: {left:?}"
    );
    eprintln!(
        "{passed} tests passed in {} and left nothing in {SHARED_MEMORY}; suites skipped: {}",
        shown(started.elapsed()),
        skipped.lines().count()
    );
    Ok(ExitCode::SUCCESS)
}

/// Builds all tests, while cargo shows its progress.
fn build() -> Result<Vec<Suite>> {
    eprintln!("building the tests");
    let mut build = cargo(&["test", "--workspace", "--all-features", "--no-run"]);
    build.arg("--message-format=json-render-diagnostics");
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let mut suites: Vec<Suite> = messages.filter_map(suite).collect();
    suites.sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    ensure!(!suites.is_empty(), "cargo named no test");
    Ok(suites)
}

/// Returns the suite that a message of cargo describes, if any.
fn suite(message: &[u8]) -> Option<Suite> {
    let message: Value = serde_json::from_slice(message).ok()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_owned();
    Some(Suite {
        package: folder.file_name()?.to_string_lossy().into_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        program: message["executable"].as_str()?.into(),
        folder,
    })
}

impl Suite {
    /// Returns the reason why the whole suite is left out, if it is.
    fn left_out(&self, options: &Options) -> Option<&'static str> {
        let mut slow = self.slow_parts(options);
        slow.find_map(|(tests, why)| tests.is_empty().then_some(why))
    }

    /// The parts that `--quick` leaves out, and why.
    fn slow_parts(&self, options: &Options) -> impl Iterator<Item = (&'static str, &'static str)> {
        let slow = SLOW.iter().filter(move |(package, target, ..)| {
            let is_it = *package == self.package && [&self.target, ""].contains(target);
            options.quick && is_it
        });
        slow.map(|(_, _, tests, why)| (*tests, *why))
    }

    /// Returns the command that runs it.
    fn command(&self, options: &Options, skipped: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder).env(SKIPPED, skipped);
        command.env("CARGO_MANIFEST_DIR", &self.folder);
        if let Some(cargo) = std::env::var_os("CARGO") {
            command.env("CARGO", cargo);
        }
        command.args(&options.filter);
        for (tests, _) in self.slow_parts(options) {
            command.args(["--skip", tests]);
        }
        command
    }
}

/// Runs a suite to its end, and reports the result.
fn watched(place: &str, name: &str, mut command: Command) -> Result<Report> {
    let started = Instant::now();
    let is_terminal = std::io::stderr().is_terminal();
    if is_terminal {
        eprint!("{place} {name:<32} …\r");
        std::io::stderr().flush()?;
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name}"))?;
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let [stdout, stderr] = text;
    let mut report = Report::default();
    for line in stdout
        .lines()
        .filter(|line| line.starts_with("test result: "))
    {
        report.passed += count(line, "passed");
        report.failed += count(line, "failed");
    }
    let took = shown(started.elapsed());
    if output.status.success() {
        eprintln!("{place} {name:<32} {:>4} passed  {took:>7}", report.passed);
    } else {
        eprintln!("{place} {name:<32} FAILED       {took:>7}");
        report.output = format!("{stdout}\n{stderr}\n{name}: {}", output.status);
    }
    Ok(report)
}

/// The number before a word in a line such as `test result: ok. 3 passed; 0 failed; …`.
fn count(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().unwrap_or_default();
    let number = before.split_whitespace().last();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn shown(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

fn in_shared_memory() -> Result<BTreeSet<OsString>> {
    let entries =
        std::fs::read_dir(SHARED_MEMORY).with_context(|| format!("listing {SHARED_MEMORY}"))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_read() {
        let line = "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured";
        assert_eq!((count(line, "passed"), count(line, "failed")), (12, 1));
    }

    #[test]
    fn only_test_programs_are_suites() {
        let message = r#"{"profile":{"test":true},"manifest_path":"/a/ipc-shm/Cargo.toml",
            "target":{"name":"processes"},"executable":"/t/processes-1"}"#;
        let found = suite(message.as_bytes()).unwrap();
        assert_eq!((&*found.package, &*found.target), ("ipc-shm", "processes"));
        assert!(suite(br#"{"profile":{"test":false}}"#).is_none());
        assert!(suite(b"").is_none());
    }
}
