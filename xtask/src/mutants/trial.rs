//! Running tests on the copy, and their verdict on a mutant.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::copy::Copy;
use super::list::{Check, Mutant};
use xtask::cargo::cargo;

/// The verdict on a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "by")]
pub enum Verdict {
    /// Caught by the tests that should catch it; the names of those that failed.
    Caught(Vec<String>),
    /// Caught by the tests that should catch it: they did not end.
    CaughtHanging,
    /// Caught only by other tests.
    CaughtElsewhere(Vec<String>),
    /// Caught by no test.
    Survived,
    /// The change does not compile, so it is not a mutant.
    DoesNotCompile,
}

impl Verdict {
    pub fn is_as_expected(&self) -> bool {
        matches!(self, Self::Caught(_) | Self::CaughtHanging)
    }
}

/// The choice whether a mutant that passes the named tests is tried with all others of their
/// target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Further {
    No,
    Yes,
}

/// The end of a run of tests.
enum Ran {
    Passed,
    /// These tests failed.
    Failed(Vec<String>),
    Hung,
}

/// The targets whose tests are run, and the time that their tests take without a mutant.
pub struct Targets(HashMap<Target, Duration>);

/// A package's test target; `None` is its library.
type Target = (String, Option<String>);

fn target_of(check: &Check) -> Target {
    (check.package.clone(), check.target.clone())
}

impl Targets {
    /// Checks that all tests pass without a mutant, and that the named tests exist.
    pub fn without_mutants(copy: &Copy, mutants: &[Mutant]) -> Result<Self> {
        let mut filters: HashMap<Target, Vec<String>> = HashMap::new();
        for mutant in mutants {
            let check = &mutant.caught_by;
            let filters = filters.entry(target_of(check)).or_default();
            filters.extend(check.tests.iter().cloned());
        }
        let mut times = HashMap::new();
        for (target, filters) in filters {
            let (package, name) = &target;
            let name = name.as_deref().unwrap_or("its library");
            let tests = build(copy, &target)?
                .with_context(|| format!("the tests of {package} ({name}) do not compile"))?;
            let there = String::from_utf8(Command::new(&tests).arg("--list").output()?.stdout)?;
            for filter in &filters {
                ensure!(
                    there.contains(filter.as_str()),
                    "{package} ({name}) has no test {filter:?}"
                );
            }
            let started = Instant::now();
            let ran = run(copy, &tests, package, &filters, WITHOUT_MUTANT)?;
            ensure!(
                matches!(ran, Ran::Passed),
                "the tests of {package} ({name}) fail without any mutant:\n{}",
                fs::read_to_string(copy.output()).unwrap_or_default()
            );
            times.insert(target, started.elapsed());
        }
        Ok(Self(times))
    }

    /// Tries the mutant that is in the copy.
    pub fn try_one(&self, copy: &Copy, check: &Check, further: Further) -> Result<Verdict> {
        let target = target_of(check);
        let limit = SLOWEST_START + 3 * self.0.get(&target).copied().unwrap_or_default();
        let Some(tests) = build(copy, &target)? else {
            return Ok(Verdict::DoesNotCompile);
        };
        let ran = run(copy, &tests, &check.package, &check.tests, limit)?;
        match ran {
            Ran::Failed(by) => return Ok(Verdict::Caught(by)),
            Ran::Hung => return Ok(Verdict::CaughtHanging),
            Ran::Passed if further == Further::No => return Ok(Verdict::Survived),
            Ran::Passed => {}
        }
        Ok(
            match run(copy, &tests, &check.package, &[], WITHOUT_MUTANT)? {
                Ran::Failed(by) => Verdict::CaughtElsewhere(by),
                Ran::Hung => Verdict::CaughtElsewhere(vec!["one that hangs".to_owned()]),
                Ran::Passed => Verdict::Survived,
            },
        )
    }
}

/// The time limit of tests without a mutant, on the busiest machine.
const WITHOUT_MUTANT: Duration = Duration::from_secs(20 * 60);
/// The time added to three times the duration without a mutant.
const SLOWEST_START: Duration = Duration::from_secs(30);

/// Builds a test target of the copy. `None`: it does not compile.
fn build(copy: &Copy, (package, name): &Target) -> Result<Option<PathBuf>> {
    let mut build = cargo(&["test", "--no-run", "--quiet", "--package", package]);
    match name {
        None => build.arg("--lib"),
        Some(name) => build.args(["--test", name]),
    };
    build.arg("--message-format=json").arg("--target-dir");
    build.arg(copy.target()).current_dir(copy.workspace());
    // Each mutant is built once, and then its tests run for seconds.
    build.env("CARGO_INCREMENTAL", "1");
    for setting in [
        "profile.test.package.ipc-queue.opt-level=1",
        "profile.test.debug=false",
        "profile.dev.debug=false",
    ] {
        build.args(["--config", setting]);
    }
    let output = build
        .stderr(Stdio::null())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        return Ok(None);
    }
    let executable = |line: &[u8]| {
        let message: Value = serde_json::from_slice(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    };
    let mut messages = output.stdout.split(|byte| *byte == b'\n');
    let built = messages.find_map(executable);
    let built = built.with_context(|| format!("cargo does not say where it put {package}'s tests"));
    built.map(Some)
}

/// Runs the tests whose names contain one of `filters`, or all.
fn run(
    copy: &Copy,
    tests: &Path,
    package: &str,
    filters: &[String],
    limit: Duration,
) -> Result<Ran> {
    let output = File::create(copy.output())?;
    let mut command = Command::new(tests);
    command.args(filters).stderr(output.try_clone()?);
    command.stdout(output).stdin(Stdio::null());
    command.current_dir(copy.workspace().join(package));
    let started = Instant::now();
    let mut running = command.spawn().context("starting tests")?;
    loop {
        // One failure is enough, even if other tests still run.
        let status = running.try_wait()?;
        let failed = failed(&fs::read_to_string(copy.output()).unwrap_or_default());
        let hangs = started.elapsed() > limit;
        if status.is_none() && (hangs || !failed.is_empty()) {
            running.kill()?;
            running.wait()?;
        }
        match status {
            Some(status) if status.success() => return Ok(Ran::Passed),
            Some(status) if failed.is_empty() => return Ok(Ran::Failed(vec![status.to_string()])),
            _ if !failed.is_empty() => return Ok(Ran::Failed(failed)),
            _ if hangs => return Ok(Ran::Hung),
            _ => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The failed tests in the output so far.
fn failed(said: &str) -> Vec<String> {
    let failed = said.lines().filter_map(|line| {
        let rest = line.strip_prefix("test ")?;
        rest.strip_suffix(" ... FAILED")
    });
    failed.map(str::to_owned).collect()
}
