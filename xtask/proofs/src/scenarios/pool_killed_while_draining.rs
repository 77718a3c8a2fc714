//! A pool that is killed because it drains for too long leaves no worker behind. Such a kill
//! happens if an outer time-out is shorter than the pool's.

use std::fs;
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{file, is_gone, said_in, until};
use super::stage::Stage;

const ROUNDS: usize = 3;

pub fn play(_: &Stage) -> Result<Outcome> {
    for _ in 0..ROUNDS {
        let (_folder, file) = file()?;
        let mut supervisor = Command::new("/proc/self/exe")
            .args(["scenario-pool-supervisor", "--drains", "--file"])
            .arg(&file)
            .spawn()?;
        let worker = said_in(&file)?;
        kill(Pid::from_raw(supervisor.id().try_into()?), Signal::SIGTERM)?;
        let status = format!("/proc/{}/status", supervisor.id());
        until("the signal is delivered", || {
            let status = fs::read_to_string(&status).ok()?;
            let mut pending = status.lines().filter(|line| line.contains("Pnd:"));
            pending
                .all(|line| line.ends_with("0000000000000000"))
                .then_some(())
        })?;
        supervisor.kill()?;
        supervisor.wait()?;
        until("the worker ends", || is_gone(worker).then_some(()))?;
    }
    // After every scenario there is a check that nothing is left.
    Outcome::kept(json!({ "kills": ROUNDS }))
}
