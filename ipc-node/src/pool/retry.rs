//! The number of attempts at a job.
//!
//! The policy travels with each job, so remote workers also follow it. A worker returns a job whose
//! attempt failed to the queue, with the reason, and the queue delivers it again after the backoff.
//! The queue itself counts deaths of workers (`crash_limit`).

use ipc_queue::{Backoff, QueueSettings};
use serde::{Deserialize, Serialize};

/// The number of attempts at a job, by the kind of failure, and the pauses between them.
///
/// By default an error or a panic of the handler is the job's answer: a function does not run twice
/// unless its program asks for that. The death of a worker says nothing about the job, so the job
/// goes to another worker. Three workers may die over a job. For handlers with effects that must
/// not be repeated, also set that limit to one, with [`crashes`](Self::crashes).
///
/// With `errors(12)` and the default backoff a job outlasts an outage of a minute:
///
/// ```no_run
/// use ipc_node::pool::{Pool, RetryPolicy};
///
/// let pool = Pool::builder().retry(RetryPolicy::new().errors(12)).start()?;
/// # Ok::<(), ipc_node::pool::PoolError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct RetryPolicy {
    attempts: Attempts,
    pub(super) crashes: u8,
    backoff: Backoff,
}

/// The attempt at which a failure becomes the job's answer, by the kind of failure. Part of each
/// job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempts {
    pub errors: u8,
    pub panics: u8,
}

/// One attempt for errors and panics; three workers may die; the default backoff of queues.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: Attempts::default(),
            crashes: 3,
            backoff: Backoff::default(),
        }
    }
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            errors: 1,
            panics: 1,
        }
    }
}

impl RetryPolicy {
    /// Returns the default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of attempts after which an error of the handler is the job's answer. Before
    /// that, the job is tried again. Default 1, at most 200.
    pub fn errors(mut self, attempts: u8) -> Self {
        self.attempts.errors = attempts.clamp(1, MOST);
        self
    }

    /// Like [`errors`](Self::errors), for panics. Default 1, at most 200.
    pub fn panics(mut self, attempts: u8) -> Self {
        self.attempts.panics = attempts.clamp(1, MOST);
        self
    }

    /// Sets the number of workers that may die over a job before it becomes a dead letter. Other
    /// failed attempts do not count here. Default 3, at most 50.
    ///
    /// Some transports do not distinguish a death from a returned job (`unix:`, threads). There the
    /// limit applies to all attempts together: this number plus the larger one of the others, minus
    /// one.
    pub fn crashes(mut self, workers: u8) -> Self {
        self.crashes = workers.clamp(1, MOST_CRASHES);
        self
    }

    /// Sets the pause before a job is tried again after an error or a panic, by the number of its
    /// failures. Default: [`Backoff::default`]. A job whose worker died is tried again at once.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    pub(super) fn attempts(&self) -> Attempts {
        self.attempts
    }

    /// Returns the settings of the job queue with this policy.
    pub(super) fn applied_to(&self, settings: QueueSettings) -> QueueSettings {
        let given_back = self.attempts.errors.max(self.attempts.panics) - 1;
        QueueSettings {
            // Workers count their own failures, so the queue's limit is higher than theirs.
            attempt_limit: given_back + self.crashes,
            crash_limit: self.crashes,
            // Without retries, a job is returned only by the death of a worker that is a thread or
            // behind a socket.
            backoff: match given_back {
                0 => Backoff::None,
                _ => self.backoff.clone(),
            },
            ..settings
        }
    }
}

/// The sum of both stays below the maximum limit of a queue.
const MOST: u8 = 200;
const MOST_CRASHES: u8 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_policy_makes_settings_that_a_queue_takes() {
        let policy = RetryPolicy::new().errors(255).panics(255).crashes(255);
        let settings = policy.applied_to(QueueSettings::default());
        assert_eq!((settings.attempt_limit, settings.crash_limit), (249, 50));
        settings.validate().unwrap();
    }

    #[test]
    fn without_retries_a_queue_of_jobs_has_no_back_off() {
        let settings = RetryPolicy::new().applied_to(QueueSettings::default());
        assert_eq!((settings.attempt_limit, settings.crash_limit), (3, 3));
        assert_eq!(settings.backoff, Backoff::None);
    }
}
