//! A pool's worker that is killed while it waits for a job is replaced, and no job is affected.

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{does_its_work, pool, until};
use super::stage::Stage;

/// Less than the pool's limit for workers that die without a job.
const ROUNDS: u64 = 4;

pub fn play(_: &Stage) -> Result<Outcome> {
    let pool = pool(None).start()?;
    for _ in 0..ROUNDS {
        does_its_work(&pool)?;
        let idle = until("a worker is idle", || {
            let workers = pool.status().ok()?.workers;
            let idle = workers.iter().find(|worker| worker.job.is_none())?;
            i32::try_from(idle.pid).ok()
        })?;
        kill(Pid::from_raw(idle), Signal::SIGKILL)?;
    }
    does_its_work(&pool)?;
    pool.shutdown()?;
    Outcome::kept(json!({ "kills": ROUNDS }))
}
