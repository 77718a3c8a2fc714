//! A hung job of a pool is ended with its worker when its time is up, is not retried, and harms no
//! other job.

use std::time::Duration;

use anyhow::{Result, ensure};
use ipc_node::pool::JobError;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{does_its_work, file, is_gone, pool, said_in, wait};
use super::stage::Stage;

const ROUNDS: usize = 5;

pub fn play(_: &Stage) -> Result<Outcome> {
    let after = Duration::from_millis(100);
    let pool = pool(None).job_timeout(after).start()?;
    for _ in 0..ROUNDS {
        let (_folder, file) = file()?;
        let hung = pool.submit::<_, ()>("hang", &file)?;
        let worker = said_in(&file)?;
        let answer = wait(hung)?;
        ensure!(answer == Err(JobError::TimedOut { after }), "{answer:?}");
        does_its_work(&pool)?;
        ensure!(is_gone(worker), "its worker is still there");
    }
    pool.shutdown()?;
    Outcome::kept(json!({ "hung": ROUNDS, "timeout_ms": after.as_millis() as u64 }))
}
