//! How a delivery ends.

use std::time::Duration;

use ipc_proto::{Backoff, QueueSettings};
use serde::{Deserialize, Serialize};

/// The end of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle<'r> {
    /// The work is done: the message is never delivered again.
    Ack,
    /// The attempt failed: the message is delivered again, or becomes a dead letter if this was its
    /// last attempt.
    Nack {
        /// The delay before the next delivery; `None`: as the queue's [`Backoff`] says.
        delay: Option<Duration>,
        /// The reason. Empty if not given; at most [`MAX_REASON_BYTES`] are kept.
        reason: &'r str,
    },
    /// The message is delayed, then delivered again. This delivery does not count as an attempt.
    Snooze {
        /// The delay before the next delivery.
        delay: Duration,
    },
    /// The message is never delivered again, but is kept as a dead letter.
    Bury {
        /// The reason. Empty if not given.
        reason: &'r str,
    },
}

/// A [`Settle`] that borrows nothing, for another thread or for a server. Reasons are truncated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OwnedSettle {
    Ack,
    Nack {
        delay: Option<Duration>,
        reason: String,
    },
    Snooze {
        delay: Duration,
    },
    Bury {
        reason: String,
    },
}

impl From<Settle<'_>> for OwnedSettle {
    fn from(how: Settle<'_>) -> Self {
        let kept = |reason| shorten_reason(reason).to_owned();
        match how {
            Settle::Ack => Self::Ack,
            Settle::Nack { delay, reason } => Self::Nack {
                delay,
                reason: kept(reason),
            },
            Settle::Snooze { delay } => Self::Snooze { delay },
            Settle::Bury { reason } => Self::Bury {
                reason: kept(reason),
            },
        }
    }
}

impl OwnedSettle {
    pub(crate) fn as_settle(&self) -> Settle<'_> {
        match self {
            Self::Ack => Settle::Ack,
            Self::Nack { delay, reason } => Settle::Nack {
                delay: *delay,
                reason,
            },
            Self::Snooze { delay } => Settle::Snooze { delay: *delay },
            Self::Bury { reason } => Settle::Bury { reason },
        }
    }
}

/// The length, in bytes, to which reasons of failures are truncated.
pub const MAX_REASON_BYTES: usize = 240;

/// Returns the beginning of a reason that is kept: at most [`MAX_REASON_BYTES`].
#[must_use]
pub fn shorten_reason(reason: &str) -> &str {
    ipc_proto::shortened(reason, MAX_REASON_BYTES)
}

/// For transports: returns the delay of a nack after failure number `failures`: the receiver's
/// choice, or else by the queue's settings.
#[must_use]
pub fn nack_delay(settings: &QueueSettings, chosen: Option<Duration>, failures: u8) -> Duration {
    chosen.unwrap_or_else(|| {
        let chance = match settings.backoff {
            Backoff::Exponential { .. } => fastrand::u64(..),
            _ => 0,
        };
        settings.backoff.delay(failures.into(), chance)
    })
}

/// The options of a nack: the delay before the next delivery, and the reason.
///
/// ```
/// use std::time::Duration;
/// use ipc_queue::{Nack, Queue};
///
/// let queue = Queue::<u32>::open("local:retried")?;
/// queue.sender().send(7)?;
/// let receiver = queue.receiver();
/// let job = receiver.recv()?;
/// job.nack_with(Nack::new().after(Duration::ZERO).reason("the database is away"))?;
/// assert_eq!(receiver.recv()?.attempt(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Nack<'r> {
    delay: Option<Duration>,
    reason: &'r str,
}

impl<'r> Nack<'r> {
    /// Creates a nack with the delay of the queue's [`Backoff`], without a
    /// reason.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the delay, rounded up to whole milliseconds. Zero: at once.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Sets the reason. The dead letter keeps the last reason, up to
    /// [`MAX_REASON_BYTES`].
    pub fn reason(mut self, reason: &'r str) -> Self {
        self.reason = reason;
        self
    }
}

impl<'r> From<Nack<'r>> for Settle<'r> {
    fn from(nack: Nack<'r>) -> Self {
        Self::Nack {
            delay: nack.delay,
            reason: nack.reason,
        }
    }
}
