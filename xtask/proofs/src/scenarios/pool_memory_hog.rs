//! A pool's worker that exceeds its memory limit is killed, its job reports why, and the next
//! worker continues.

use anyhow::{Result, ensure};
use ipc_node::pool::JobError;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{does_its_work, pool, wait};
use super::stage::Stage;

const MOST: u64 = 128 << 20;
const EATEN_MIB: usize = 256;

pub fn play(_: &Stage) -> Result<Outcome> {
    let pool = pool(None).attempt_limit(1).max_memory_bytes(MOST).start()?;
    let answer = wait(pool.submit::<_, ()>("eat", &EATEN_MIB)?)?;
    let Err(JobError::Crashed { note, .. }) = &answer else {
        anyhow::bail!("the hog's answer is {answer:?}");
    };
    ensure!(note.contains("bytes of memory"), "{note}");
    does_its_work(&pool)?;
    pool.shutdown()?;
    Outcome::kept(json!({ "most_mib": MOST >> 20, "eaten_mib": EATEN_MIB }))
}
