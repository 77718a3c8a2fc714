//! A pool's worker that reports progress keeps its job, however long that takes; one that hangs
//! loses it to another.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::Outcome;
use super::pool_worker::{file, pool, wait};
use super::stage::Stage;

/// Long enough for a worker that is not scheduled for a while.
const LEASE: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_millis(2500);

pub fn play(_: &Stage) -> Result<Outcome> {
    let pool = pool(None).workers(2).lease(LEASE).start()?;
    let (_folder, file) = file()?;
    let hung = pool.submit::<_, u8>("hang once", &file)?;
    let long = pool.submit::<_, u8>("report", &LONG)?;
    let attempt = wait(long)?;
    ensure!(attempt == Ok(1), "who works was robbed: {attempt:?}");
    let attempt = wait(hung)?;
    ensure!(attempt == Ok(2), "who hangs kept the job: {attempt:?}");
    Outcome::kept(json!({ "lease_ms": 1000, "worked_ms": 2500 }))
}
