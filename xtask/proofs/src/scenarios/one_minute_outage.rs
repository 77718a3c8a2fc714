//! Jobs outlast an outage of a minute, with the default settings of a queue.
//!
//! Two workers return each job while a resource is away. Jobs arrive all the time. This scenario
//! really takes a minute, plus the time of the last back-off.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipc_queue::Encoding;
use serde_json::json;

use super::Outcome;
use super::job_process::{self, Process, Release};
use super::stage::{self, Stage};

const OUTAGE: Duration = Duration::from_secs(60);
/// The longest time between the end of the outage and the last job's next attempt.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Jobs sent in each second of the outage.
const PER_SECOND: u64 = 5;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let address = stage::address(stage::JOBS);
    let database = stage.folder().join("database");
    let jobs = job_process::create(&address, Encoding::default())?;
    let worker = || Process::worker(Release::First, &address, Some(&database));
    let workers = [worker()?, worker()?];
    let began_at = Instant::now();
    let mut sent = 0;
    while began_at.elapsed() < OUTAGE {
        for _ in 0..PER_SECOND {
            jobs.send(sent)?;
            sent += 1;
        }
        thread::sleep(Duration::from_secs(1));
    }
    let failures = jobs.queue().stats()?.nacked;
    fs::write(&database, "")?;
    let ended_at = Instant::now();
    loop {
        let stats = jobs.queue().stats()?;
        ensure!(stats.dead == 0, "dead letters: {stats:?}");
        if stats.acked == sent {
            break;
        }
        let late = ended_at.elapsed() > LONGEST_BACKOFF + stage::PROMPT;
        ensure!(!late, "jobs are left: {stats:?}");
        thread::sleep(Duration::from_millis(10));
    }
    let took = ended_at.elapsed();
    jobs.queue().close()?;
    let mut done = 0;
    for worker in workers {
        done += worker.end()?.len() as u64;
    }
    ensure!(done == sent, "{done} of {sent} jobs were done");
    fs::remove_file(&database)?;
    drop(jobs);
    ipc_queue::remove(&address)?;
    Outcome::kept(json!({
        "jobs": sent,
        "failed_attempts": failures,
        "last_done_after_s": took.as_secs(),
    }))
}
