//! The `tracing` events of a pool, one function each, with their fields. `queue` is the job queue
//! of the pool.
//!
//! Jobs that end well have no event of their own. A worker has a span named `job` around each job
//! that it runs, which contains the handler's own events. The durations of jobs go to `metrics`, if
//! that is enabled.

use std::time::Duration;

use ipc_queue::{ControlError, DeadLetter};

use super::job_error::JobError;
use super::leftovers::LeftoverJobs;
use super::wire::{Job, WorkerConfig};

/// The target of all events.
const TARGET: &str = "ipc_node";

pub(super) fn worker_started(config: &WorkerConfig, pid: u32) {
    tracing::info!(target: TARGET, queue = config.jobs(), pid, "worker started");
}

pub(super) fn worker_ready(config: &WorkerConfig, pid: u32) {
    tracing::info!(target: TARGET, queue = config.jobs(), pid, "worker ready");
}

/// The worker exited with success.
pub(super) fn worker_ended(config: &WorkerConfig, pid: u32) {
    tracing::info!(target: TARGET, queue = config.jobs(), pid, "worker ended");
}

/// `ticket`: the job that the worker had, if any. `note`: what is known about the cause. A SIGKILL
/// of unknown origin was probably sent by the kernel, which was out of memory.
pub(super) fn worker_died(
    config: &WorkerConfig,
    pid: u32,
    signal: Option<i32>,
    ticket: Option<u64>,
    note: &str,
) {
    tracing::warn!(
        target: TARGET,
        queue = config.jobs(),
        pid,
        signal,
        ticket,
        note,
        "worker died"
    );
}

/// The next worker starts after a pause.
pub(super) fn backing_off(config: &WorkerConfig, pause: Duration) {
    tracing::info!(target: TARGET, queue = config.jobs(), pause = ?pause, "worker starts later");
}

/// A job was answered without a result.
pub(super) fn job_without_result(config: &WorkerConfig, ticket: u64, error: &JobError) {
    let how = match error {
        JobError::Failed { .. } => "failed",
        JobError::Crashed { .. } => "crashed",
        JobError::TimedOut { .. } => "timed out",
        JobError::Cancelled => "cancelled",
        JobError::Expired { .. } => "expired",
        _ => "given up",
    };
    tracing::warn!(
        target: TARGET,
        queue = config.jobs(),
        ticket,
        how,
        error = %error,
        "job without result"
    );
}

/// An attempt at a job failed, and the job is tried again later.
pub(super) fn job_retries(config: &WorkerConfig, ticket: u64, attempt: u8, error: &str) {
    tracing::info!(
        target: TARGET,
        queue = config.jobs(),
        ticket,
        attempt,
        error,
        "job is tried again"
    );
}

pub(super) fn draining(config: &WorkerConfig) {
    tracing::info!(target: TARGET, queue = config.jobs(), "pool drains");
}

pub(super) fn ended(config: &WorkerConfig, reason: &str) {
    tracing::info!(target: TARGET, queue = config.jobs(), reason, "pool ended");
}

/// The span around one job. Only in a worker.
pub(super) fn span(job: &Job<'_>, attempt: u8) -> tracing::Span {
    tracing::info_span!(
        target: TARGET,
        "job",
        handler = job.handler,
        ticket = job.ticket,
        attempt
    )
}

/// A worker answered a job that it had for the time `took`.
pub(super) fn answered(config: &WorkerConfig, took: Duration) {
    tracing::trace!(target: TARGET, queue = config.jobs(), took = ?took, "job answered");
    #[cfg(feature = "metrics")]
    {
        let labels = [
            ("messaging.system", "ipc".to_owned()),
            ("messaging.operation.name", "process".to_owned()),
            ("messaging.destination.name", config.jobs()),
        ];
        metrics::histogram!("messaging.process.duration", &labels).record(took.as_secs_f64());
    }
}

/// The pool's list of dead letters is full, and this many of the oldest were dropped.
pub(super) fn dead_letters_dropped(config: &WorkerConfig, letters: u64) {
    tracing::warn!(target: TARGET, queue = config.jobs(), letters, "dead letters dropped");
}

/// A dead pool left jobs at the address. `held`: the number of those that some worker still has.
pub(super) fn leftover_jobs(
    config: &WorkerConfig,
    waiting: &[DeadLetter],
    dead: &[DeadLetter],
    held: u64,
    what: LeftoverJobs,
) {
    tracing::warn!(
        target: TARGET,
        queue = config.jobs(),
        waiting = waiting.len(),
        dead = dead.len(),
        held,
        what = ?what,
        "a dead pool left jobs"
    );
}

/// The pool ended, but its queues still exist, or may.
pub(super) fn queues_left(config: &WorkerConfig, error: &ControlError) {
    tracing::warn!(target: TARGET, queue = config.jobs(), error = %error, "queues left behind");
}

/// This process adopts what its workers leave behind, and does not wait for all of it.
pub(super) fn is_pid_1(config: &WorkerConfig) {
    tracing::warn!(
        target: TARGET,
        queue = config.jobs(),
        "this process is PID 1: programs that workers start in process groups of their own stay \
         zombies when they end; run it under an init (docker run --init)"
    );
}
