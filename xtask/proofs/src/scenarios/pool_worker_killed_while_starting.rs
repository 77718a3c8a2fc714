//! A pool's worker that is killed before it is ready is replaced, and the waiting job is done.

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{file, pool, said_in, wait};
use super::stage::Stage;

pub fn play(_: &Stage) -> Result<Outcome> {
    let (_folder, file) = file()?;
    let pool = pool(Some(&file)).start()?;
    let ticket = pool.submit::<u64, u64>("square", &3)?;
    kill(Pid::from_raw(said_in(&file)?), Signal::SIGKILL)?;
    let square = wait(ticket)?;
    ensure!(square == Ok(9), "3 squared is {square:?}");
    pool.shutdown()?;
    Outcome::kept(json!({ "kills": 1 }))
}
