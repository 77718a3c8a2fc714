//! Messages that are no longer delivered, and the reasons.

use ipc_proto::{Headers, Kind, MessageId, Timestamp};
use serde::{Deserialize, Serialize};

/// A message that was buried or is past its attempt limit, with its payload: bytes, or the value
/// that a typed queue [decodes](crate::Queue::dead_letters).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter<P = Vec<u8>> {
    /// The letter's id, for requeueing or discarding it.
    pub id: DeadLetterId,
    /// The message's id.
    pub message: MessageId,
    /// The message's kind.
    pub kind: Kind,
    /// The time when it was sent.
    pub sent_at: Timestamp,
    /// The number of its deliveries.
    pub attempts: u8,
    /// The end of the last delivery.
    pub reason: DeadReason,
    /// The number of nacks.
    pub nacks: u8,
    /// The number of deliveries that ended because the lease expired.
    pub expiries: u8,
    /// The number of deliveries that ended with the receiver's death.
    pub crashes: u8,
    /// The process that had it last, by its pid in its own PID namespace. `None` if that is
    /// unknown.
    pub last_worker: Option<u32>,
    /// The signal that ended that process, if its parent [reported
    /// it](crate::transport::Transport::note_signal).
    pub signal: Option<u8>,
    /// The reason given with the last nack or the burial. Empty if none was given.
    pub error: String,
    /// The message's headers.
    pub headers: Headers,
    /// The message's payload.
    pub payload: P,
}

impl<P> DeadLetter<P> {
    /// Creates the letter of a message, for transports. It has no attempts, headers or error; set
    /// the fields that are known.
    #[must_use]
    pub fn new(
        id: DeadLetterId,
        (kind, message, sent_at): (Kind, MessageId, Timestamp),
        reason: DeadReason,
        payload: P,
    ) -> Self {
        Self {
            id,
            message,
            kind,
            sent_at,
            attempts: 0,
            reason,
            nacks: 0,
            expiries: 0,
            crashes: 0,
            last_worker: None,
            signal: None,
            error: String::new(),
            headers: Headers::new(),
            payload,
        }
    }

    /// Returns the same letter with its payload converted.
    pub(crate) fn map<Q>(self, change: impl FnOnce(P) -> Q) -> DeadLetter<Q> {
        DeadLetter {
            id: self.id,
            message: self.message,
            kind: self.kind,
            sent_at: self.sent_at,
            attempts: self.attempts,
            reason: self.reason,
            nacks: self.nacks,
            expiries: self.expiries,
            crashes: self.crashes,
            last_worker: self.last_worker,
            signal: self.signal,
            error: self.error,
            headers: self.headers,
            payload: change(self.payload),
        }
    }
}

/// Identifies a dead letter, until it is requeued or discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeadLetterId(pub(crate) u64, pub(crate) u64);

impl DeadLetterId {
    /// Creates the id from the two numbers that its transport uses.
    #[must_use]
    pub const fn new(place: u64, version: u64) -> Self {
        Self(place, version)
    }

    /// Returns the two numbers.
    #[must_use]
    pub const fn parts(self) -> (u64, u64) {
        (self.0, self.1)
    }
}

/// The end of a dead letter's last delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DeadReason {
    /// It was nacked, and a limit was reached.
    Nacked,
    /// Its lease expired, and a limit was reached.
    Expired,
    /// Its receiver died, and a limit was reached.
    Crashed,
    /// The receiver buried it.
    Buried,
    /// The record was lost in a crash.
    Unknown,
}
