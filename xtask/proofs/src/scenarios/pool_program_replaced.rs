//! Workers run the pool's program, even after its file was replaced or removed, as by a rebuild.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{file, is_gone, said_in, until};
use super::stage::Stage;

pub fn play(_: &Stage) -> Result<Outcome> {
    let (folder, file) = file()?;
    let (ours, program) = (std::env::current_exe()?, folder.path().join("program"));
    if fs::hard_link(&ours, &program).is_err() {
        fs::copy(&ours, &program).context("a copy of this program")?;
    }
    let mut supervisor = Command::new(&program)
        .args(["scenario-pool-supervisor", "--again", "--file"])
        .arg(&file)
        .spawn()?;
    let first = said_in(&file)?;
    fs::remove_file(&program)?;
    fs::write(&program, "something else")?;
    fs::remove_file(&file)?;
    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    let second = said_in(&file)?;
    ensure!(second != first, "the killed worker said something");
    supervisor.kill()?;
    supervisor.wait()?;
    until("the worker ends", || is_gone(second).then_some(()))?;
    Outcome::kept(json!({ "kills": 2 }))
}
