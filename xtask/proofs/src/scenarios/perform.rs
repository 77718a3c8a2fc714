//! Runs one scenario in a process of its own, ensures that it ends, and cleans up.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use super::stage::FOLDER_VARIABLE;
use super::{Outcome, Report, Scenario};

/// A scenario that takes longer is broken.
const LIMIT: Duration = Duration::from_secs(60);
/// Except for this one, which waits for longer than that.
const SLOWEST: (&str, Duration) = ("one-minute-outage", Duration::from_secs(180));
/// The time that remaining processes may take to die.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Runs one scenario in a process of its own, and cleans up.
pub fn perform(scenario: &'static Scenario) -> Result<Report> {
    let folder = tempfile::Builder::new()
        .prefix("ipc-scenario-")
        .tempdir_in("/dev/shm")?;
    let started = Instant::now();
    let outcome = perform_in(scenario, folder.path());
    let seconds = (started.elapsed().as_secs_f64() * 1e3).round() / 1e3;
    let mut report = Report {
        name: scenario.name,
        ok: outcome.is_ok(),
        seconds,
        figures: json!({}),
        skipped: None,
        error: None,
    };
    match outcome {
        Ok(Outcome::Kept(figures)) => report.figures = figures,
        Ok(Outcome::Skipped(reason)) => report.skipped = Some(reason),
        Err(error) => report.error = Some(format!("{error:#}")),
    }
    Ok(report)
}

fn perform_in(scenario: &Scenario, folder: &Path) -> Result<Outcome> {
    let mut player = Command::new("/proc/self/exe")
        .args(["scenario-play", scenario.name, "--folder"])
        .arg(folder)
        .env(FOLDER_VARIABLE, folder.join("ipc"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting a scenario")?;
    let group = Pid::from_raw(i32::try_from(player.id()).expect("process numbers fit"));
    let limit = match scenario.name == SLOWEST.0 {
        true => SLOWEST.1,
        false => LIMIT,
    };
    let status = await_end(&mut player, limit);
    let left = clear(group);
    let outcome = judge(&mut player, status?)?;
    left?;
    let files = std::fs::read_dir(folder)?.count();
    ensure!(files == 0, "{files} files are left in its folder");
    Ok(outcome)
}

fn await_end(player: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = player.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > limit {
            player.kill()?;
            player.wait()?;
            bail!("it did not end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Reaps the remaining processes of a process group. An error if one must be killed.
fn clear(group: Pid) -> Result<()> {
    let everybody = Pid::from_raw(-group.as_raw());
    let started = Instant::now();
    let mut killed = false;
    loop {
        match waitpid(everybody, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => break,
            Ok(WaitStatus::StillAlive) if !killed && started.elapsed() > LAST_BREATH => {
                killed = true;
                killpg(group, Signal::SIGKILL)?;
            }
            Ok(WaitStatus::StillAlive) => thread::sleep(Duration::from_micros(200)),
            Ok(_) => {}
            Err(errno) => return Err(errno).context("reaping"),
        }
    }
    ensure!(!killed, "processes were left");
    Ok(())
}

/// The result that the scenario's process reports.
fn judge(player: &mut Child, status: ExitStatus) -> Result<Outcome> {
    let (mut said, mut complaint) = (String::new(), String::new());
    if let Some(stdout) = &mut player.stdout {
        stdout.read_to_string(&mut said)?;
    }
    if let Some(stderr) = &mut player.stderr {
        stderr.read_to_string(&mut complaint)?;
    }
    if let Some(signal) = status.signal() {
        let signal = Signal::try_from(signal).map_or("a signal", Signal::as_str);
        bail!("its process was ended by {signal}: {}", complaint.trim());
    }
    if !status.success() {
        let complaint = complaint.trim();
        bail!("{}", complaint.strip_prefix("error: ").unwrap_or(complaint));
    }
    serde_json::from_str(&said).with_context(|| format!("it said {said:?}"))
}
