//! The limits of a pool and its workers, and the callbacks of its owner.

use std::time::Duration;

use super::dead_letters::DeadLetterLimit;
use super::restart::{Backoff, Intensity, RestartPolicy};
use super::retry::RetryPolicy;
use super::worker_exit::WorkerExit;

/// Called with a job's ticket number and its progress.
pub(super) type OnProgress = dyn Fn(u64, u64, u64) + Send + Sync;
/// Called when a worker ended unexpectedly.
pub(super) type OnWorkerExit = dyn Fn(WorkerExit) + Send + Sync;

/// The limits of a pool and its workers.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub workers: usize,
    /// Workers are started when there are jobs for them.
    pub on_demand: bool,
    pub restart: RestartPolicy,
    pub intensity: Intensity,
    pub backoff: Backoff,
    pub startup: Duration,
    pub job: Option<Duration>,
    pub grace: Duration,
    pub drain: Duration,
    pub max_jobs: u64,
    pub max_memory: Option<u64>,
    pub sigterm_drains: bool,
    pub dead_letters: DeadLetterLimit,
    pub retry: RetryPolicy,
}
