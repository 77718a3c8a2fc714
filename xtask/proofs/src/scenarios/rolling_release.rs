//! Two releases of a program share a queue, twice: a field is added, then another is removed.
//!
//! Workers of the old release are killed with SIGKILL while those of the new one work. Senders of
//! the old release continue after that. Each job is decoded as it was sent.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use ipc_queue::Encoding;
use serde_json::json;

use super::Outcome;
use super::job_process::{self, FirstRelease, Process, Release};
use super::stage::{self, Stage};

const JOBS: u64 = 1000;
const KILLS: u64 = 4;
const RELEASES: [Release; 3] = [Release::First, Release::Second, Release::Third];

pub fn play(_: &Stage) -> Result<Outcome> {
    let address = stage::address(stage::JOBS);
    let jobs = job_process::create(&address, Encoding::default())?;
    let (mut sent, mut done) = (0, BTreeSet::new());
    let mut send = |release| {
        sent += JOBS;
        Process::sender(release, &address, sent - JOBS, JOBS)
    };
    let worker = |release| Process::worker(release, &address, None);
    let mut workers = [worker(RELEASES[0])?, worker(RELEASES[0])?];
    send(RELEASES[0])?.end()?;
    for pair in RELEASES.windows(2) {
        let [old, new] = *pair else { continue };
        let senders = [send(old)?, send(new)?];
        for place in &mut workers {
            // Both releases work.
            let mut next = worker(new)?;
            next.await_ready()?;
            until_more_is_done(&*jobs)?;
            done.extend(std::mem::replace(place, next).kill()?);
        }
        for sender in senders {
            sender.end()?;
        }
    }
    jobs.queue().close()?;
    for worker in workers {
        done.extend(worker.end()?);
    }
    ensure!(done == (0..sent).collect(), "jobs are missing");
    let stats = jobs.queue().stats()?;
    // A worker that is killed right after an ack has not counted it.
    let is_well = stats.in_use() == 0 && stats.buried == 0 && stats.acked + KILLS >= sent;
    ensure!(is_well, "{stats:?}");
    drop(jobs);
    ipc_queue::remove(&address)?;
    Outcome::kept(json!({ "releases": RELEASES.len(), "jobs": sent, "kills": KILLS }))
}

/// Waits until some more jobs are done, or none are left.
fn until_more_is_done(jobs: &dyn FirstRelease) -> Result<()> {
    let before = jobs.queue().stats()?.acked;
    stage::until("jobs are done", || {
        let stats = jobs.queue().stats()?;
        Ok(stats.acked > before + 50 || stats.in_use() == 0)
    })
    .map(drop)
}
