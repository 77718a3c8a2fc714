//! Workers live as long as their pool, not as long as the thread that started it.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use serde_json::json;

use super::Outcome;
use super::pool_worker::{does_its_work, pool};
use super::stage::Stage;

pub fn play(_: &Stage) -> Result<Outcome> {
    let start = || {
        let pool = pool(None).start()?;
        does_its_work(&pool)?;
        anyhow::Ok(pool)
    };
    let pool = thread::spawn(start)
        .join()
        .map_err(|_| anyhow!("the thread panicked"))??;
    let before = pool.status()?;
    for _ in 0..20 {
        does_its_work(&pool)?;
    }
    let after = pool.status()?;
    let pid = |status: &ipc_node::pool::PoolStatus| status.workers.first().map(|one| one.pid);
    ensure!(
        after.restarts == 0 && pid(&after) == pid(&before),
        "its worker died with the thread: {after:?}"
    );
    pool.shutdown()?;
    Outcome::kept(json!({ "restarts": after.restarts }))
}
