//! The stored form of messages and keys in a snapshot, independent of the layout of segments.

use ipc_proto::{Headers, Kind, MessageId, Priority, Timestamp};
use serde::{Deserialize, Serialize};

/// A message as it was in its queue. Times are those remaining when the snapshot began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredMessage {
    pub(crate) id: MessageId,
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) sent_at: Timestamp,
    pub(crate) state: StoredState,
    /// `None`: the message does not expire.
    pub(crate) expires_in_ms: Option<u64>,
    /// The number of its deliveries, including snoozed ones.
    pub(crate) deliveries: u8,
    pub(crate) nacks: u8,
    pub(crate) expiries: u8,
    pub(crate) crashes: u8,
    /// The end of the last delivery, as the number used in shared memory.
    pub(crate) last_end: u8,
    /// The pid of the process that had it last; 0: unknown.
    pub(crate) last_worker: u32,
    /// The signal that ended that process; 0: unknown.
    pub(crate) signal: u8,
    /// The reason given with the last nack or the burial.
    pub(crate) reason: String,
    pub(crate) headers: Headers,
    /// In a file, the payload follows the record.
    #[serde(skip)]
    pub(crate) payload: Vec<u8>,
}

/// The state of a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StoredState {
    /// Ready for a receiver.
    Ready,
    /// Delayed.
    Delayed {
        /// The remaining delay.
        left_ms: u64,
    },
    /// A dead letter, until it is requeued or discarded.
    Dead,
}

/// A remembered key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredKey {
    pub(crate) key: u64,
    /// The message that was sent with it.
    pub(crate) id: MessageId,
    pub(crate) left_ms: u64,
}
