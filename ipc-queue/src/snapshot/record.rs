//! A message and a key outside a queue: what a snapshot keeps of each, whatever the layout of
//! segments is.

use ipc_proto::{Headers, Kind, MessageId, Priority, Timestamp};
use serde::{Deserialize, Serialize};

/// A message as it was in its queue. Times are what was left when the snapshot began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredMessage {
    pub(crate) id: MessageId,
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) sent_at: Timestamp,
    pub(crate) state: StoredState,
    /// `None`: it does not expire.
    pub(crate) expires_in_ms: Option<u64>,
    /// The number of its deliveries, snoozed ones included.
    pub(crate) deliveries: u8,
    pub(crate) nacks: u8,
    pub(crate) expiries: u8,
    pub(crate) crashes: u8,
    /// How the last delivery ended, by the number that shared memory has for it.
    pub(crate) last_end: u8,
    /// The process that had it last; 0: not known.
    pub(crate) last_worker: u32,
    /// The signal that ended that process; 0: not known.
    pub(crate) signal: u8,
    /// What the last nack or the burial said.
    pub(crate) reason: String,
    pub(crate) headers: Headers,
    /// In a file it lies behind the record.
    #[serde(skip)]
    pub(crate) payload: Vec<u8>,
}

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StoredState {
    /// For a receiver.
    Ready,
    /// For its time.
    Delayed {
        /// What is left of the delay.
        left_ms: u64,
    },
    /// For somebody to requeue or discard it.
    Dead,
}

/// A key that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredKey {
    pub(crate) key: u64,
    /// The message that was sent with it.
    pub(crate) id: MessageId,
    pub(crate) left_ms: u64,
}
