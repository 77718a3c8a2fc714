//! What a pool says of its workers and its jobs.
//!
//! Snapshots: values that were right when they were taken.

use std::time::{Duration, Instant};

use super::state::Worker;

/// What one worker is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// What tells it from all others that the pool has or had.
    pub number: u64,
    /// What it is called; whoever comes in its place, too.
    pub name: String,
    /// Its process, in that process's PID namespace.
    pub pid: u32,
    /// Whether another process has started it. One that died is still listed.
    pub is_guest: bool,
    /// Since when.
    pub age: Duration,
    /// Whether it takes jobs.
    pub ready: bool,
    /// The ticket of the job that it has, and for how long it has had it.
    pub job: Option<(u64, Duration)>,
    /// How many it has done.
    pub jobs_done: u64,
}

/// A worker that ended and was not told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What it was called.
    pub worker: String,
    /// Its process.
    pub pid: u32,
    /// The ticket of the job that it had, and for how long it had had it.
    pub job: Option<(u64, Duration)>,
    /// What is known of why.
    pub note: String,
}

impl Loss {
    pub(super) fn of(worker: &Worker, note: &str) -> Self {
        let now = Instant::now();
        Self {
            worker: worker.name.clone(),
            pid: worker.pid,
            job: worker.running.map(|job| (job.ticket, job.time(now))),
            note: note.to_owned(),
        }
    }
}

/// What a pool is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Who works, and on what.
    pub workers: Vec<WorkerStatus>,
    /// Jobs that no worker has begun with.
    pub waiting: u64,
    /// Workers that were started in the places of others.
    pub restarts: u64,
    /// Answers to jobs that had one: done twice, or no longer wanted.
    pub late_answers: u64,
    /// Jobs that a dead pool had left at the address: see
    /// [`leftover_jobs`](super::PoolBuilder::leftover_jobs).
    pub leftover_jobs: u64,
    /// Dead letters that the pool keeps: see [`Pool::dead_letters`](super::Pool::dead_letters).
    pub dead_letters: usize,
    /// Dead letters that were dropped because the pool's list of them was full.
    pub dropped_dead_letters: u64,
    /// Why it ended, if it has.
    pub ended: Option<String>,
}
