//! A job that kills every worker of a pool ends as a dead letter, and the other jobs are done.

use anyhow::{Result, ensure};
use ipc_node::pool::JobError;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{pool, wait};
use super::stage::Stage;

const LIMIT: u8 = 3;
const OTHERS: u64 = 100;

pub fn play(_: &Stage) -> Result<Outcome> {
    let pool = pool(None).workers(2).attempt_limit(LIMIT).start()?;
    let poison = pool.submit::<_, ()>("crash", &())?;
    let squares = pool.map::<u64, u64>("square", 0..OTHERS);
    let right = squares.into_iter().eq((0..OTHERS).map(|n| Ok(n * n)));
    ensure!(right, "some other job suffered");
    let answer = wait(poison)?;
    let Err(JobError::Crashed {
        signal, attempts, ..
    }) = answer
    else {
        anyhow::bail!("the poison's answer is {answer:?}");
    };
    ensure!((signal, attempts) == (Some(6), LIMIT), "{answer:?}");
    let letters = pool.dead_letters().len();
    ensure!(letters == 1, "{letters} dead letters");
    pool.shutdown()?;
    Outcome::kept(json!({ "crashes": attempts, "others": OTHERS }))
}
