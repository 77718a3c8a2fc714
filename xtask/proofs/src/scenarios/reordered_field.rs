//! A release whose type has the same fields in another order is refused by a postcard queue.
//!
//! Postcard writes no names: the fields would be swapped without a trace. The old release's worker
//! continues meanwhile.

use anyhow::{Result, ensure};
use ipc_queue::Encoding;
use serde_json::json;

use super::Outcome;
use super::job_process::{self, Process, Release};
use super::stage::{self, Stage};

const JOBS: u64 = 100;

pub fn play(_: &Stage) -> Result<Outcome> {
    let address = stage::address(stage::JOBS);
    let jobs = job_process::create(&address, Encoding::Postcard)?;
    let worker = Process::worker(Release::First, &address, None)?;
    let sender = Process::sender(Release::First, &address, 0, JOBS)?;
    for refused in [
        Process::worker(Release::Reordered, &address, None)?,
        Process::sender(Release::Reordered, &address, JOBS, JOBS)?,
    ] {
        let complaint = refused.fail()?;
        let tells = |part| complaint.contains(part);
        ensure!(
            tells("-   from: str") && tells("+   from: str"),
            "{complaint}"
        );
    }
    sender.end()?;
    jobs.queue().close()?;
    let done = worker.end()?;
    ensure!(done == (0..JOBS).collect(), "jobs are missing");
    drop(jobs);
    ipc_queue::remove(&address)?;
    Outcome::kept(json!({ "refused": 2, "jobs": JOBS }))
}
