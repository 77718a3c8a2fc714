//! Workers end with the pool's process, even if it is killed, and leave nothing in shared memory.

use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{file, is_gone, said_in, until};
use super::stage::Stage;

const ROUNDS: usize = 5;

pub fn play(_: &Stage) -> Result<Outcome> {
    for _ in 0..ROUNDS {
        let (_folder, file) = file()?;
        let mut supervisor = Command::new("/proc/self/exe")
            .arg("scenario-pool-supervisor")
            .arg("--file")
            .arg(&file)
            .spawn()?;
        let worker = said_in(&file)?;
        supervisor.kill()?;
        supervisor.wait()?;
        until("the worker ends", || is_gone(worker).then_some(()))?;
    }
    // After every scenario there is a check that nothing is left.
    Outcome::kept(json!({ "kills": ROUNDS }))
}
