//! Errors of sending.

use std::fmt;
use std::time::Duration;

use ipc_proto::{CodecError, MessageId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Unavailable;
use crate::capability::Unsupported;

/// A message that was not sent.
#[derive(Clone, PartialEq, Eq, Error)]
#[error("queue {queue:?}: {failure}")]
#[non_exhaustive]
pub struct SendError<T = ()> {
    /// The queue's address, without credentials.
    pub queue: String,
    /// The value, if it was given by value; `()` if by reference or as bytes.
    pub message: T,
    /// The cause.
    #[source]
    pub failure: SendFailure,
}

/// A message that was not sent by a call that does not wait.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TrySendError<T = ()> {
    /// Every place is taken, counting messages that are leased, delayed or dead.
    #[error(
        "queue {queue:?} holds {capacity} messages and is full{}; wait, receive some, or create it \
         with a larger capacity",
        and_dead(*dead)
    )]
    Full {
        /// The queue's address, without credentials.
        queue: String,
        /// The value, if it was given by value.
        message: T,
        /// The queue's capacity, in messages.
        capacity: u32,
        /// The number of dead letters among them. They leave the queue only when they are requeued
        /// or discarded.
        dead: u64,
    },
    /// There is a free place, but no memory for a payload of this size now.
    #[error(
        "queue {queue:?} has free places, but its payload memory has no room for {bytes} bytes \
         now; wait, receive some, or create it with larger pool_bytes"
    )]
    NoMemory {
        /// The queue's address, without credentials.
        queue: String,
        /// The value, if it was given by value.
        message: T,
        /// The size of the payload.
        bytes: u64,
    },
    /// Another sender is sending a message with the same key. Whether it succeeds is not known yet.
    #[error("queue {queue:?}: another sender is sending a message with the same key; try again")]
    KeyInUse {
        /// The queue's address, without credentials.
        queue: String,
        /// The value, if it was given by value.
        message: T,
    },
    /// The message cannot be sent, with or without waiting.
    #[error(transparent)]
    Failed(SendError<T>),
}

/// A message that was not sent in time.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendTimeoutError<T = ()> {
    /// The time was up, and there was no room.
    #[error("queue {queue:?}: no room{}: {missing}{}", within(*waited), and_dead(*dead))]
    TimedOut {
        /// The queue's address, without credentials.
        queue: String,
        /// The value, if it was given by value.
        message: T,
        /// The time that the call waited; zero if it did not permit a wait.
        waited: Duration,
        /// The resource that was missing at the end.
        missing: NoRoom,
        /// The number of dead letters in the queue. They leave it only when they are requeued or
        /// discarded.
        dead: u64,
    },
    /// The message cannot be sent, however long the call waits.
    #[error(transparent)]
    Failed(SendError<T>),
}

/// The cause of a [`SendError`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendFailure {
    /// The queue remembers the key of this message: message `of` was sent with it.
    #[error("message {of} was sent with the same key")]
    Duplicate {
        /// That message.
        of: MessageId,
    },
    /// The key is empty: every message with it would be a duplicate of the first.
    #[error(
        "the key is empty (is a variable unset?); use a key that distinguishes messages, or none"
    )]
    EmptyKey,
    /// The message would expire before its delay ends, so that no receiver would get it.
    #[error(
        "the message would expire after {expires_in:?} (expires_in), but is not delivered before \
         {delay:?} (delay), so no receiver would get it: use a longer time to live, or a shorter \
         delay"
    )]
    NeverDelivered {
        /// Its delay.
        delay: Duration,
        /// Its time to live.
        expires_in: Duration,
    },
    /// The places for this key are taken by keys that were sent within the window.
    #[error(
        "the queue remembers {keys} keys, each for {window:?}, and has no place for this one; \
         forget some (ipc forget), wait, or move its messages to a queue with more dedup_keys or a \
         shorter dedup_window (ipc move)"
    )]
    KeysFull {
        /// The number of keys that are remembered now: at least the setting `dedup_keys`.
        keys: u64,
        /// The time for which each key is remembered: the setting `dedup_window`.
        window: Duration,
    },
    /// The transport, or the queue as it was created, does not support one of the message's
    /// options.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The payload is larger than the queue accepts.
    #[error(
        "a payload of {bytes} bytes is larger than the {most} that the queue accepts; split it, or \
         create the queue with a larger max_message_bytes"
    )]
    TooLarge {
        /// The size of the payload.
        bytes: usize,
        /// The largest size that the queue accepts.
        most: usize,
    },
    /// The queue is closed: it accepts no message until it is reopened.
    #[error("the queue is closed")]
    Closed,
    /// The shared memory contradicts itself.
    #[error("the queue's memory is damaged: {reason}")]
    Damaged {
        /// The contradiction that was found.
        reason: String,
    },
    /// The value cannot be encoded.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// The queue cannot be used by this process, or not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The resource that a message needs and the queue lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NoRoom {
    /// Every place is taken.
    #[error(
        "all {capacity} places of the queue are taken (receive some, or create it with a larger \
         capacity)"
    )]
    Places {
        /// The queue's capacity, in messages.
        capacity: u32,
    },
    /// There are free places, but no memory for the payload.
    #[error(
        "places are free, but the payload memory has no room for {bytes} bytes (receive some, or \
         create the queue with larger pool_bytes)"
    )]
    Memory {
        /// The size of the payload.
        bytes: u64,
    },
    /// Another sender was sending a message with the same key.
    #[error("another sender is sending a message with the same key (try again)")]
    Key,
}

/// A batch of which only a part was sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("queue {queue:?}: {sent} messages were sent, then: {failure}")]
#[non_exhaustive]
pub struct BatchSendError {
    /// The queue's address, without credentials.
    pub queue: String,
    /// The number of messages that were sent, from the first on.
    pub sent: usize,
    /// The reason why the next was not sent.
    #[source]
    pub failure: SendFailure,
}

/// A batch of which only a part was sent within a time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{sent} messages were sent, then: {error}")]
#[non_exhaustive]
pub struct BatchSendTimeoutError {
    /// The number of messages that were sent, from the first on.
    pub sent: usize,
    /// The reason why the next was not sent.
    #[source]
    pub error: SendTimeoutError,
}

impl SendFailure {
    /// Returns the failure of shared memory that contradicts itself.
    pub(crate) fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged {
            reason: reason.into(),
        }
    }

    /// Returns the error of this failure in `queue`, without a message to return.
    #[cold]
    pub(crate) fn of(self, queue: String) -> SendError {
        SendError {
            queue,
            message: (),
            failure: self,
        }
    }
}

fn within(waited: Duration) -> String {
    match waited {
        Duration::ZERO => String::new(),
        _ => format!(" within {waited:.1?}"),
    }
}

fn and_dead(dead: u64) -> String {
    match dead {
        0 => String::new(),
        _ => format!(
            ", with {dead} dead letters in it, which stay until they are requeued or discarded"
        ),
    }
}

impl<T> SendError<T> {
    /// Returns the value that was not sent.
    pub fn into_inner(self) -> T {
        self.message
    }

    /// Returns whether the cause is that the queue is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.failure == SendFailure::Closed
    }

    /// Returns the same error with another message.
    pub(crate) fn with<U>(self, message: U) -> SendError<U> {
        SendError {
            queue: self.queue,
            message,
            failure: self.failure,
        }
    }
}

impl<T> TrySendError<T> {
    /// Returns the value that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full { message, .. }
            | Self::NoMemory { message, .. }
            | Self::KeyInUse { message, .. } => message,
            Self::Failed(error) => error.message,
        }
    }

    /// Returns whether a later call may succeed because the queue then has room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoMemory { .. })
    }

    /// Returns the cause, if waiting would not help.
    #[must_use]
    pub fn failure(&self) -> Option<&SendFailure> {
        match self {
            Self::Failed(error) => Some(&error.failure),
            _ => None,
        }
    }
}

impl<T> SendTimeoutError<T> {
    /// Returns the value that was not sent.
    pub fn into_inner(self) -> T {
        match self {
            Self::TimedOut { message, .. } => message,
            Self::Failed(error) => error.message,
        }
    }

    /// Returns whether the time was up.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// Returns the cause, if waiting would not help.
    #[must_use]
    pub fn failure(&self) -> Option<&SendFailure> {
        match self {
            Self::Failed(error) => Some(&error.failure),
            Self::TimedOut { .. } => None,
        }
    }
}

// `Debug` without the messages, which need not implement `Debug`.

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("queue", &self.queue)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full {
                queue,
                capacity,
                dead,
                ..
            } => f
                .debug_struct("Full")
                .field("queue", queue)
                .field("capacity", capacity)
                .field("dead", dead)
                .finish_non_exhaustive(),
            Self::NoMemory { queue, bytes, .. } => f
                .debug_struct("NoMemory")
                .field("queue", queue)
                .field("bytes", bytes)
                .finish_non_exhaustive(),
            Self::KeyInUse { queue, .. } => f
                .debug_struct("KeyInUse")
                .field("queue", queue)
                .finish_non_exhaustive(),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl<T> fmt::Debug for SendTimeoutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut {
                queue,
                waited,
                missing,
                dead,
                ..
            } => f
                .debug_struct("TimedOut")
                .field("queue", queue)
                .field("waited", waited)
                .field("missing", missing)
                .field("dead", dead)
                .finish_non_exhaustive(),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}
