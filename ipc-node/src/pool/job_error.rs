//! Reasons why a job has no result.

use std::time::Duration;

use thiserror::Error;

/// The reason why a job has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JobError {
    /// The handler returned an error, panicked, or is unknown to the worker.
    #[error("the job failed{}: {message}", at_attempt(*attempts))]
    Failed {
        /// The message of the error or panic.
        message: String,
        /// The number of attempts, including the last one: see [`RetryPolicy`](super::RetryPolicy).
        attempts: u8,
    },
    /// Every worker that had the job died. It is a dead letter now.
    #[error("each of the {attempts} workers that had the job died, the last of {}: {note}", signal_name(*signal))]
    Crashed {
        /// The signal that ended the last one; `None` if it exited by itself.
        signal: Option<i32>,
        /// The number of workers that had it.
        attempts: u8,
        /// What is known about the cause.
        note: String,
    },
    /// It is a dead letter for another reason.
    #[error("the job was given up at attempt {attempts}: {why}")]
    GivenUp {
        /// The number of times that it was begun, or taken.
        attempts: u8,
        /// How the last attempt ended.
        why: String,
    },
    /// It took longer than the pool's job time-out, and its worker was killed.
    #[error("the job was not done within {after:?}; its worker was killed")]
    TimedOut {
        /// The time-out.
        after: Duration,
    },
    /// Its ticket was cancelled.
    #[error("the job was cancelled")]
    Cancelled,
    /// It was not begun in time.
    #[error("the job was not begun within {after:?}")]
    Expired {
        /// The time limit.
        after: Duration,
    },
    /// The pool ended before the job was done.
    #[error("the pool ended before the job was done: {reason}")]
    PoolEnded {
        /// The reason.
        reason: String,
    },
    /// The [stream](super::Pool::map) to which the job belongs did not submit it.
    #[error("the job was not submitted: {reason}")]
    NotSubmitted {
        /// The reason, in the words of [`PoolError`](super::PoolError).
        reason: String,
    },
    /// The answer is not a value of the ticket's type.
    #[error("the answer can't be read as the wanted type: {message}")]
    Decode {
        /// The decoder's message.
        message: String,
    },
}

fn at_attempt(attempts: u8) -> String {
    match attempts {
        0 | 1 => String::new(),
        more => format!(" at attempt {more}, and is not tried again"),
    }
}

fn signal_name(signal: Option<i32>) -> String {
    let Some(number) = signal else {
        return "no signal".to_owned();
    };
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

/// A job's encoded result, or the reason why there is none.
pub(super) type Answer = Result<Vec<u8>, JobError>;
