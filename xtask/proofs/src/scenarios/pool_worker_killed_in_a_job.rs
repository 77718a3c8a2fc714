//! A pool's worker that is killed in a job costs that job an attempt; another does it, and the
//! caller never notices.

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{does_its_work, file, pool, said_in, wait};
use super::stage::Stage;

const ROUNDS: u64 = 20;

pub fn play(_: &Stage) -> Result<Outcome> {
    let pool = pool(None).start()?;
    for _ in 0..ROUNDS {
        let (_folder, file) = file()?;
        let ticket = pool.submit::<_, u8>("hang once", &file)?;
        kill(Pid::from_raw(said_in(&file)?), Signal::SIGKILL)?;
        let attempt = wait(ticket)?;
        ensure!(attempt == Ok(2), "it was done at attempt {attempt:?}");
    }
    does_its_work(&pool)?;
    let restarts = pool.status()?.restarts;
    ensure!(restarts == ROUNDS, "{restarts} workers were replaced");
    pool.shutdown()?;
    Outcome::kept(json!({ "kills": ROUNDS, "restarts": restarts }))
}
