//! Errors of control calls: all calls on a queue except sending, receiving and settling.
//!
//! A control call returns `Ok` only if the queue answered. A call without an answer is an error,
//! never a zero or an empty list.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::capability::Unsupported;
use crate::error::{QueueError, SendFailure, Unavailable};

/// The error of a control call that did not happen, or whose outcome is unknown.
#[derive(Clone, Debug, Error)]
#[error("queue {queue:?}: {call}: {failure}")]
#[non_exhaustive]
pub struct ControlError {
    /// The queue's address, without credentials.
    pub queue: String,
    /// The call.
    pub call: ControlCall,
    /// The cause.
    #[source]
    pub failure: ControlFailure,
}

/// The name of a control call, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ControlCall {
    /// [`Transport::close`](crate::transport::Transport::close).
    Close,
    /// [`Transport::reopen`](crate::transport::Transport::reopen).
    Reopen,
    /// [`Transport::is_closed`](crate::transport::Transport::is_closed).
    IsClosed,
    /// [`Transport::pause`](crate::transport::Transport::pause).
    Pause,
    /// [`Transport::resume`](crate::transport::Transport::resume).
    Resume,
    /// [`Transport::is_paused`](crate::transport::Transport::is_paused).
    IsPaused,
    /// [`Transport::purge`](crate::transport::Transport::purge).
    Purge,
    /// [`Transport::drain`](crate::transport::Transport::drain).
    Drain,
    /// [`Transport::stats`](crate::transport::Transport::stats).
    Stats,
    /// [`Transport::leases`](crate::transport::Transport::leases).
    Leases,
    /// [`Transport::dead_letters`](crate::transport::Transport::dead_letters).
    DeadLetters,
    /// [`Transport::requeue`](crate::transport::Transport::requeue).
    Requeue,
    /// [`Transport::discard`](crate::transport::Transport::discard).
    Discard,
    /// [`Transport::note_signal`](crate::transport::Transport::note_signal).
    NoteSignal,
    /// [`Transport::forget`](crate::transport::Transport::forget).
    Forget,
    /// [`Transport::revoke`](crate::transport::Transport::revoke).
    Revoke,
    /// [`Transport::drop_message`](crate::transport::Transport::drop_message).
    DropMessage,
    /// Exclusive access to a queue, for a [`snapshot`](crate::snapshot).
    Freeze,
    /// [`remove`](crate::remove()).
    Remove,
}

/// The cause of a [`ControlError`].
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ControlFailure {
    /// The transport, or the queue as it was created, does not support the call.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The queue is closed, and this call puts a message into it.
    #[error("the queue is closed and takes no message: reopen it first")]
    Closed,
    /// The queue is being saved, restored or moved, or such an operation was interrupted.
    #[error("the queue is frozen: {reason}")]
    Frozen {
        /// The operation, and what to do.
        reason: String,
    },
    /// This process cannot use the queue, or not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The server did not answer.
    #[error("no answer to {request:?} after {waited:.1?}: {reason}; {outcome}")]
    Unreachable {
        /// The request that was not answered.
        request: String,
        /// The time that the call waited for the answer.
        waited: Duration,
        /// The transport's description of the failure.
        reason: String,
        /// The known effect of the call.
        outcome: Outcome,
    },
    /// The server or the system refused the call; nothing happened.
    #[error("refused: {reason}")]
    Refused {
        /// The reason, and what to do.
        reason: String,
    },
    /// The queue's memory or records contradict themselves.
    #[error("the queue is damaged: {reason}")]
    Damaged {
        /// The contradiction that was found.
        reason: String,
    },
    /// A copy of a dead letter could not be sent. The dead letter is unchanged.
    #[error("the dead letter stays, because a copy of it could not be sent: {0}")]
    NotSent(#[source] SendFailure),
    /// The queue at this address could not be reached or opened; nothing happened.
    #[error(transparent)]
    Open(Arc<QueueError>),
}

/// The known effect of a call that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The request was not sent: nothing happened.
    NotDone,
    /// The request was sent: the call may have happened, now or later, or in part.
    Unknown,
}

impl ControlError {
    /// Returns whether the call may have happened although it returned an error.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        let unknown = Outcome::Unknown;
        matches!(&self.failure, ControlFailure::Unreachable { outcome, .. } if *outcome == unknown)
    }

    /// Returns the same error, attributed to another call that made this one.
    pub(crate) fn during(mut self, call: ControlCall) -> Self {
        self.call = call;
        self
    }

    /// Returns why the queue at this address could not be reached or opened, if that is the cause.
    #[must_use]
    pub fn open_error(&self) -> Option<&QueueError> {
        match &self.failure {
            ControlFailure::Open(error) => Some(error),
            _ => None,
        }
    }

    /// Returns whether the cause is that the transport, or the queue as created, does not support
    /// the call.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.failure, ControlFailure::Unsupported(_))
    }
}

impl ControlFailure {
    /// Returns the error of `call` on `queue`.
    #[must_use]
    pub fn of(self, queue: impl Into<String>, call: ControlCall) -> ControlError {
        ControlError {
            queue: queue.into(),
            call,
            failure: self,
        }
    }
}

impl From<QueueError> for ControlFailure {
    fn from(error: QueueError) -> Self {
        Self::Open(Arc::new(error))
    }
}

impl fmt::Display for ControlCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Close => "close",
            Self::Reopen => "reopen",
            Self::IsClosed => "is it closed",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::IsPaused => "is it paused",
            Self::Purge => "purge",
            Self::Drain => "drain",
            Self::Stats => "read statistics",
            Self::Leases => "list leases",
            Self::DeadLetters => "list dead letters",
            Self::Requeue => "requeue a dead letter",
            Self::Discard => "discard a dead letter",
            Self::NoteSignal => "note a signal",
            Self::Forget => "forget a key",
            Self::Revoke => "take a lease back",
            Self::DropMessage => "drop a message",
            Self::Freeze => "freeze",
            Self::Remove => "remove",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDone => "nothing was changed",
            Self::Unknown => "the outcome is unknown, so check it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_queue_the_call_the_request_and_the_time() {
        let failure = ControlFailure::Unreachable {
            request: "purge".to_owned(),
            waited: Duration::from_millis(2500),
            reason: "the connection was cut".to_owned(),
            outcome: Outcome::Unknown,
        };
        let error = failure.of("unix:/run/jobs.sock", ControlCall::Purge);
        assert!(error.is_outcome_unknown());
        let text = error.to_string();
        for part in ["unix:/run/jobs.sock", "purge", "2.5s", "cut", "unknown"] {
            assert!(text.contains(part), "{part:?} is missing in {text:?}");
        }
    }
}
