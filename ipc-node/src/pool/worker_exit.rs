//! Unexpected ends of workers.

use std::time::Duration;

/// A worker that ended unexpectedly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerExit {
    /// Its name.
    pub worker: String,
    /// Its process number.
    pub pid: u32,
    /// The ticket of the job that it had, and for how long it had had it.
    pub job: Option<(u64, Duration)>,
    /// What is known about the cause.
    pub note: String,
}
