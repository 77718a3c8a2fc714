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
    /// The time was up, and there was no message.
    #[error("queue {queue:?}: no message within {waited:.1?}")]
    TimedOut {
        /// The queue's address, without credentials.
        queue: String,
        /// The time that the call waited; zero if it did not permit a wait.
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
    /// A [`Shutdown`](ipc_proto::Kind::Shutdown) message was received and acknowledged. Only typed
    /// receivers return this; [`recv_any`](crate::Receiver::recv_any) does not.
    #[error("a shutdown message was received; stop receiving")]
    Shutdown,
    /// The place of a received message in shared memory is damaged. The message is a dead letter
    /// now.
    #[error("a message was lost to damaged memory: {reason}")]
    Damaged {
        /// The damage that was found.
        reason: String,
    },
    /// A received message cannot be decoded as a value of the queue's type by this program. It was
    /// returned to the queue, with the error as its reason, for receivers of another version. Past
    /// the queue's attempt limit it is a dead letter.
    #[error("message {id} was returned at attempt {attempt}: {source}")]
    Decode {
        /// The message.
        id: MessageId,
        /// The number of the attempt that failed.
        attempt: u8,
        /// The decoding error.
        source: CodecError,
    },
    /// The queue cannot be used by this process, or not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl RecvFailure {
    /// Returns the failure of a message that was lost to damaged memory.
    #[cfg(target_os = "linux")]
    pub(crate) fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged {
            reason: reason.into(),
        }
    }

    /// Returns whether the failure concerns only one message. If so, the next call continues with
    /// the message after it, and a loop over messages should also continue.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        matches!(self, Self::Decode { .. } | Self::Damaged { .. })
    }

    /// Returns the error of this failure in `queue`, for types that wrap a receiver.
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
    /// Returns whether the error concerns only one message. If so, the next call continues with the
    /// message after it, and a loop over messages should also continue.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        self.failure.is_of_one_message()
    }

    /// Returns whether the queue is closed and drained, so that a worker is done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.failure == RecvFailure::Closed
    }

    /// Returns whether a Shutdown message ended the call, so that this receiver's worker is done.
    #[must_use]
    pub fn is_shutdown(&self) -> bool {
        self.failure == RecvFailure::Shutdown
    }
}

impl TryRecvError {
    /// Returns whether the error concerns only one message. If so, the next call continues with the
    /// message after it, and a loop over messages should also continue.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        self.failure().is_some_and(RecvFailure::is_of_one_message)
    }

    /// Returns whether the queue is closed and drained, so that a worker is done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.failure() == Some(&RecvFailure::Closed)
    }

    /// Returns whether a Shutdown message ended the call, so that this receiver's worker is done.
    #[must_use]
    pub fn is_shutdown(&self) -> bool {
        self.failure() == Some(&RecvFailure::Shutdown)
    }

    /// Returns whether there was no message, or the queue is paused. A later call may succeed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty | Self::Paused)
    }

    /// Returns the cause, if waiting would not help.
    #[must_use]
    pub fn failure(&self) -> Option<&RecvFailure> {
        match self {
            Self::Failed(error) => Some(&error.failure),
            Self::Empty | Self::Paused => None,
        }
    }
}

impl RecvTimeoutError {
    /// Returns whether the error concerns only one message. If so, the next call continues with the
    /// message after it, and a loop over messages should also continue.
    #[must_use]
    pub fn is_of_one_message(&self) -> bool {
        self.failure().is_some_and(RecvFailure::is_of_one_message)
    }

    /// Returns whether the queue is closed and drained, so that a worker is done.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.failure() == Some(&RecvFailure::Closed)
    }

    /// Returns whether a Shutdown message ended the call, so that this receiver's worker is done.
    #[must_use]
    pub fn is_shutdown(&self) -> bool {
        self.failure() == Some(&RecvFailure::Shutdown)
    }

    /// Returns whether the time was up.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// Returns the cause, if waiting would not help.
    #[must_use]
    pub fn failure(&self) -> Option<&RecvFailure> {
        match self {
            Self::Failed(error) => Some(&error.failure),
            Self::TimedOut { .. } => None,
        }
    }
}
