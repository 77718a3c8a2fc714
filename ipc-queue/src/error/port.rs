//! The errors of a transport's ports. The handles turn them into the errors that users see.

use std::time::Duration;

use thiserror::Error;

use super::{
    NoRoom, RecvError, RecvFailure, RecvTimeoutError, SendError, SendFailure, SendTimeoutError,
    TryRecvError, TrySendError, Unavailable,
};

/// For transports: the reason why a [`SendPort`](crate::transport::SendPort) did not send.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendPortError {
    /// Room was missing until the end of the wait. Never after
    /// [`Wait::Forever`](crate::transport::Wait::Forever).
    #[error("{missing}")]
    NoRoom {
        /// The resource that was missing at the end.
        missing: NoRoom,
        /// The time that the port waited; `None` if the call did not permit a wait.
        waited: Option<Duration>,
        /// The number of dead letters in the queue.
        dead: u64,
    },
    /// The message cannot be sent, however long the port waits.
    #[error(transparent)]
    Failed(#[from] SendFailure),
}

/// For transports: a batch of which a [`SendPort`](crate::transport::SendPort) sent only a part.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{sent} messages were sent, then: {error}")]
#[non_exhaustive]
pub struct BatchPortError {
    /// The number of messages that were sent, from the first on.
    pub sent: usize,
    /// The reason why the next was not sent.
    #[source]
    pub error: SendPortError,
}

impl BatchPortError {
    /// Creates the error of a batch of which the first `sent` messages were sent.
    #[must_use]
    pub const fn new(sent: usize, error: SendPortError) -> Self {
        Self { sent, error }
    }
}

/// For transports: the reason why a [`ReceivePort`](crate::transport::ReceivePort) returned no
/// message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvPortError {
    /// There is no message, and the call did not permit a wait.
    #[error("the queue is empty")]
    Empty,
    /// The queue is paused, and the call did not permit a wait.
    #[error("the queue is paused")]
    Paused,
    /// The time was up, and there was no message.
    #[error("no message within {waited:.1?}")]
    TimedOut {
        /// The time that the port waited.
        waited: Duration,
    },
    /// No message can be received, however long the port waits.
    #[error(transparent)]
    Failed(#[from] RecvFailure),
}

impl From<Unavailable> for SendPortError {
    fn from(cause: Unavailable) -> Self {
        Self::Failed(cause.into())
    }
}

impl From<Unavailable> for RecvPortError {
    fn from(cause: Unavailable) -> Self {
        Self::Failed(cause.into())
    }
}

impl SendPortError {
    /// Returns the cause, after a wait without a limit.
    pub(crate) fn into_failure(self) -> SendFailure {
        match self {
            Self::Failed(failure) => failure,
            Self::NoRoom { missing, .. } => Unavailable::transport(missing.to_string()).into(),
        }
    }

    /// Returns the error of a send that waited without a limit.
    #[cold]
    pub(crate) fn into_send<T>(self, queue: String, message: T) -> SendError<T> {
        SendError {
            queue,
            message,
            failure: self.into_failure(),
        }
    }

    /// Returns the error of a send that did not wait.
    #[cold]
    pub(crate) fn into_try_send<T>(self, queue: String, message: T) -> TrySendError<T> {
        match self {
            Self::NoRoom {
                missing: NoRoom::Places { capacity },
                dead,
                ..
            } => TrySendError::Full {
                queue,
                message,
                capacity,
                dead,
            },
            Self::NoRoom {
                missing: NoRoom::Memory { bytes },
                ..
            } => TrySendError::NoMemory {
                queue,
                message,
                bytes,
            },
            Self::NoRoom {
                missing: NoRoom::Key,
                ..
            } => TrySendError::KeyInUse { queue, message },
            Self::Failed(failure) => TrySendError::Failed(SendError {
                queue,
                message,
                failure,
            }),
        }
    }

    /// Returns the error of a send that waited with a limit.
    #[cold]
    pub(crate) fn into_send_timeout<T>(self, queue: String, message: T) -> SendTimeoutError<T> {
        match self {
            Self::NoRoom {
                missing,
                waited,
                dead,
            } => SendTimeoutError::TimedOut {
                queue,
                message,
                waited: waited.unwrap_or_default(),
                missing,
                dead,
            },
            Self::Failed(failure) => SendTimeoutError::Failed(SendError {
                queue,
                message,
                failure,
            }),
        }
    }
}

impl RecvPortError {
    /// Returns the error of a receive that waited without a limit.
    #[cold]
    pub(crate) fn into_recv(self, queue: String) -> RecvError {
        match self {
            Self::Failed(failure) => failure.of(queue),
            other => {
                let never = Unavailable::transport(format!("the transport gave up: {other}"));
                RecvFailure::from(never).of(queue)
            }
        }
    }

    /// Returns the error of a receive that did not wait.
    #[cold]
    pub(crate) fn into_try_recv(self, queue: impl FnOnce() -> String) -> TryRecvError {
        match self {
            Self::Empty | Self::TimedOut { .. } => TryRecvError::Empty,
            Self::Paused => TryRecvError::Paused,
            Self::Failed(failure) => TryRecvError::Failed(failure.of(queue())),
        }
    }

    /// Returns the error of a receive that waited with a limit.
    #[cold]
    pub(crate) fn into_recv_timeout(self, queue: String) -> RecvTimeoutError {
        let waited = match self {
            Self::Failed(failure) => return RecvTimeoutError::Failed(failure.of(queue)),
            Self::Empty | Self::Paused => Duration::ZERO,
            Self::TimedOut { waited } => waited,
        };
        RecvTimeoutError::TimedOut { queue, waited }
    }
}
