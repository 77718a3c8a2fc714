//! The status of a pool's workers and jobs.
//!
//! These are snapshots: the values were right when they were taken.

use std::time::Duration;

/// The status of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// The number that distinguishes it from all other workers that the pool ever had.
    pub number: u64,
    /// Its name, which its replacement also gets.
    pub name: String,
    /// Its process number, in that process's PID namespace.
    pub pid: u32,
    /// `true` if another process started it. A dead remote worker is still listed.
    pub is_remote: bool,
    /// The time since it was started.
    pub age: Duration,
    /// `true` if it accepts jobs.
    pub ready: bool,
    /// The ticket of the job that it has, and for how long it has had it.
    pub job: Option<(u64, Duration)>,
    /// The number of jobs that it has done.
    pub jobs_done: u64,
}

impl WorkerStatus {
    /// Describes a worker that has just started and has no job.
    #[must_use]
    pub const fn new(number: u64, name: String, pid: u32) -> Self {
        Self {
            number,
            name,
            pid,
            is_remote: false,
            age: Duration::ZERO,
            ready: true,
            job: None,
            jobs_done: 0,
        }
    }
}

/// The status of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The workers and their jobs.
    pub workers: Vec<WorkerStatus>,
    /// The number of jobs that no worker has begun.
    pub waiting: u64,
    /// The number of workers that were started as replacements.
    pub restarts: u64,
    /// The number of answers to jobs that already had one: done twice, or no longer wanted.
    pub late_answers: u64,
    /// The number of jobs that a dead pool had left at the address: see
    /// [`leftover_jobs`](super::PoolBuilder::leftover_jobs).
    pub leftover_jobs: u64,
    /// The number of dead letters that the pool keeps: see
    /// [`Pool::dead_letters`](super::Pool::dead_letters).
    pub dead_letters: usize,
    /// The number of dead letters that were dropped because the pool's list was full.
    pub dropped_dead_letters: u64,
    /// The reason why the pool ended, if it has.
    pub ended: Option<String>,
}
