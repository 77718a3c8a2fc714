//! Errors of receiving.

use std::time::Duration;

use ipc_proto::{CodecError, MessageId};
use thiserror::Error;

use super::Unavailable;

/// No message was received.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("queue {queue:?}: {failure}")]
#[non_exhaustive]
pub struct RecvError {
    /// The queue's address, without credentials.
    pub queue: String,
    /// The cause.
    #[source]
    pub failure: RecvFailure,
}

/// No message was received by a call that does not wait.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// There is no message now.
    #[error("the queue is empty")]
    Empty,
    /// The queue is paused: there may be messages, but none is delivered until it is resumed.
    #[error("the queue is paused")]
    Paused,
    /// No message can be received, with or without waiting.
    #[error(transparent)]
    Failed(#[from] RecvError),
}

/// No message was received in time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvTimeoutError {
    /// The time was up before there was a message.
    #[error("queue {queue:?}: no message within {waited:.1?}")]
    TimedOut {
        /// The queue's address, without credentials.
        queue: String,
        /// How long the call waited; zero if it was told not to.
        waited: Duration,
    },
    /// No message can be received, however long the call waits.
    #[error(transparent)]
    Failed(#[from] RecvError),
}

/// The cause of a [`RecvError`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvFailure {
    /// The queue is closed, and everything in it is settled, except what this receiver's process
    /// holds.
    #[error("the queue is closed and drained")]
    Closed,
    /// A [`Shutdown`](ipc_proto::Kind::Shutdown) message came, and was acknowledged. Only typed
    /// receivers return this; [`recv_any`](crate::Receiver::recv_any) does not.
    #[error("a shutdown message came; stop receiving")]
    Shutdown,
    /// A message came whose place in shared memory is damaged. It is a dead letter now.
    #[error("a message was lost to damaged memory: {reason}")]
    Damaged {
        /// What was found.
        reason: String,
    },
    /// A message came that this program cannot read as a value of the queue's type. It was returned
    /// to the queue, with the error as its reason, for receivers of another version. Past the
    /// queue's attempt limit it is a dead letter.
    #[error("message {id} was returned at attempt {attempt}: {source}")]
    Decode {
        /// The message.
        id: MessageId,
        /// The number of the attempt that failed.
        attempt: u8,
        /// What is wrong with the message.
        source: CodecError,
    },
    /// The queue cannot be used by this process, or not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl RecvFailure {
    /// A message was lost to damaged memory: what was found.
    pub(crate) fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged {
            reason: reason.into(),
        }
    }

    /// Whether the failure concerns one message only: the next call goes on behind it, and a loop
    /// over messages should go on too.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        matches!(self, Self::Decode { .. } | Self::Damaged { .. })
    }

    /// The error of this failure in `queue`, for types that wrap a receiver.
    #[cold]
    #[must_use]
    pub fn of(self, queue: impl Into<String>) -> RecvError {
        RecvError {
            queue: queue.into(),
            failure: self,
        }
    }
}

impl RecvError {
    /// Whether the error concerns one message only: the next call goes on behind it, and a loop over
    /// messages should go on too.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        self.failure.is_of_one_message()
    }

    /// Whether the queue is closed and drained, so that a worker is done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.failure == RecvFailure::Closed
    }
}

impl TryRecvError {
    /// Whether the error concerns one message only: the next call goes on behind it, and a loop over
    /// messages should go on too.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        self.failure().is_some_and(RecvFailure::is_of_one_message)
    }

    /// Whether the queue is closed and drained, so that a worker is done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.failure() == Some(&RecvFailure::Closed)
    }

    /// Whether there was no message, or the queue is paused: a later call may succeed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty | Self::Paused)
    }

    /// The cause, if waiting would not help.
    #[must_use]
    pub fn failure(&self) -> Option<&RecvFailure> {
        match self {
            Self::Failed(error) => Some(&error.failure),
            Self::Empty | Self::Paused => None,
        }
    }
}

impl RecvTimeoutError {
    /// Whether the error concerns one message only: the next call goes on behind it, and a loop over
    /// messages should go on too.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        self.failure().is_some_and(RecvFailure::is_of_one_message)
    }

    /// Whether the queue is closed and drained, so that a worker is done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.failure() == Some(&RecvFailure::Closed)
    }

    /// Whether the time was up before there was a message.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// The cause, if waiting would not help.
    #[must_use]
    pub fn failure(&self) -> Option<&RecvFailure> {
        match self {
            Self::Failed(error) => Some(&error.failure),
            Self::TimedOut { .. } => None,
        }
    }
}
