//! Messages that will not be delivered any more, and why.

use ipc_proto::{Headers, Kind, MessageId, Timestamp};
use serde::{Deserialize, Serialize};

/// A message past its attempt limit, or buried, with its payload: bytes, or what a typed queue
/// [decodes](crate::Queue::dead_letters).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter<P = Vec<u8>> {
    /// What to call it when requeueing or discarding it.
    pub id: DeadLetterId,
    /// Which message it was.
    pub message: MessageId,
    /// What it was for.
    pub kind: Kind,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// How often it was delivered.
    pub attempts: u8,
    /// How the last delivery ended.
    pub reason: DeadReason,
    /// How many deliveries were given back.
    pub nacks: u8,
    /// How many ended with the lease.
    pub expiries: u8,
    /// How many ended with the receiver's death.
    pub crashes: u8,
    /// The process that had it last, by its number in its own PID namespace; `None` if that is not known.
    pub last_worker: Option<u32>,
    /// The signal that ended that process, if whoever started it [said so](crate::transport::Transport::note_signal).
    pub signal: Option<u8>,
    /// What the last nack or the burial said went wrong; empty if nothing was said.
    pub error: String,
    /// Its headers.
    pub headers: Headers,
    /// Its payload.
    pub payload: P,
}

impl<P> DeadLetter<P> {
    /// The same with its payload changed.
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

/// Names a dead letter while it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeadLetterId(pub(crate) u64, pub(crate) u64);

impl DeadLetterId {
    /// The id that a transport knows by these two numbers.
    #[must_use]
    pub const fn new(place: u64, version: u64) -> Self {
        Self(place, version)
    }

    /// The two numbers.
    #[must_use]
    pub const fn parts(self) -> (u64, u64) {
        (self.0, self.1)
    }
}

/// How a dead letter's last delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DeadReason {
    /// It was given back once too often.
    Nacked,
    /// Its lease expired once too often.
    Expired,
    /// Its receiver died once too often.
    Crashed,
    /// Its receiver buried it.
    Buried,
    /// The record was lost in a crash.
    Unknown,
}
