//! Errors of settling deliveries, and of draining.

use std::time::Duration;

use ipc_proto::MessageId;
use thiserror::Error;

use super::Unavailable;
use crate::capability::Unsupported;
use crate::control::ControlError;

/// A delivery that was not settled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("queue {queue:?}: message {message}: {failure}")]
#[non_exhaustive]
pub struct SettleError {
    /// The queue's address, without credentials.
    pub queue: String,
    /// The message.
    pub message: MessageId,
    /// The cause.
    #[source]
    pub failure: SettleFailure,
}

/// The cause of a [`SettleError`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettleFailure {
    /// The transport cannot settle a delivery in this way.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The lease expired: the message was, or will be, delivered to another receiver. Its work may
    /// be done again.
    #[error("the lease was lost: the message was, or will be, delivered again")]
    LeaseLost,
    /// The queue cannot be used by this process, or not now. After
    /// [`Truncated`](Unavailable::Truncated), bytes that were read of the message may have been
    /// zeroes, and the message is not delivered again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl SettleFailure {
    /// Returns the error of this failure of `message` in `queue`.
    #[cold]
    pub(crate) fn of(self, queue: String, message: MessageId) -> SettleError {
        SettleError {
            queue,
            message,
            failure: self,
        }
    }
}

impl SettleError {
    /// Returns whether the lease expired. The message was, or will be, delivered again.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        self.failure == SettleFailure::LeaseLost
    }
}

/// Acks of several deliveries, not all of which succeeded: those of a batch, or those that were in
/// flight.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
#[error("{acked} messages were acknowledged, {failed} were not; the first of these: {first}")]
pub struct BatchAckError {
    /// The number of messages that were acknowledged.
    pub acked: usize,
    /// The number of messages that were not acknowledged.
    pub failed: usize,
    /// The reason why the first of them was not.
    #[source]
    pub first: SettleError,
    /// Why the others were not, in the order of the acks.
    pub others: Vec<SettleError>,
}

impl BatchAckError {
    /// Returns the error of these acks, if at least one failed.
    pub(crate) fn check(acked: usize, failures: Vec<SettleError>) -> Result<(), Self> {
        let failed = failures.len();
        let mut failures = failures.into_iter();
        match failures.next() {
            None => Ok(()),
            Some(first) => Err(Self {
                acked,
                failed,
                first,
                others: failures.collect(),
            }),
        }
    }

    /// Returns why each message was not acknowledged, in the order of the acks.
    pub fn failures(&self) -> impl Iterator<Item = &SettleError> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// A queue that was not drained.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum DrainError {
    /// The time was up. The queue is closed.
    #[error("queue {queue:?}: {left} messages were left after {waited:?}")]
    TimedOut {
        /// The queue's address, without credentials.
        queue: String,
        /// The time that the call waited.
        waited: Duration,
        /// The number of messages that were not settled then, including delayed messages and those
        /// being written.
        left: u64,
    },
    /// The queue could not be closed, or its contents could not be queried.
    #[error(transparent)]
    Control(#[from] ControlError),
}
