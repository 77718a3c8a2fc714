//! What is known about a delivered message besides its payload.

use ipc_proto::{Kind, MessageId, Timestamp};
use serde::{Deserialize, Serialize};

/// Everything known about a delivered message except its payload and its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Metadata {
    /// The message's kind.
    pub kind: Kind,
    /// The message's id.
    pub id: MessageId,
    /// The time when it was sent.
    pub sent_at: Timestamp,
    /// The number of this attempt, counted from 1. Snoozed deliveries do not count, and requeueing
    /// starts again at 1.
    pub attempt: u8,
    /// A number that grows with each delivery of the message, including snoozed and requeued ones.
    /// Not consecutive.
    pub delivery: u64,
}

impl Metadata {
    /// Creates the metadata of a delivery, for transports.
    #[must_use]
    pub const fn new(
        kind: Kind,
        id: MessageId,
        sent_at: Timestamp,
        attempt: u8,
        delivery: u64,
    ) -> Self {
        Self {
            kind,
            id,
            sent_at,
            attempt,
            delivery,
        }
    }
}

/// A fencing token: identifies one delivery of one message. A worker passes it along with a result
/// that it writes downstream. The store refuses a token smaller than the largest it has seen for
/// that message. So a worker that continues after losing its lease cannot overwrite what its
/// successor wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FencingToken {
    /// The queue's number: [`Transport::id`](crate::transport::Transport::id).
    pub queue: u64,
    /// The message's id.
    pub message: MessageId,
    /// The number of its delivery, which grows with each: [`Metadata::delivery`].
    pub delivery: u64,
}
