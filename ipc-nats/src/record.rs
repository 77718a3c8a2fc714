//! The record of a place: the whole truth about one message.
//!
//! | state | means | changed by, into |
//! |---|---|---|
//! | `Writing` | on loan to a sender | its sender: `Ready`, or gone |
//! | `Ready` | waits to be delivered, from `due` on | a receiver: `Leased`; a process that finds it expired, purges it or drops it to make room: gone |
//! | `Leased` | a receiver has it | its receiver: gone, `Ready` or `Dead`; the next receiver, when the server hands the message out again: `Leased` or `Dead` |
//! | `Dead` | a dead letter; the record carries its payload and its headers | a process that discards it: gone; one that requeues it: `Ready`; a receiver that gets what was published to requeue it: `Leased` |
//!
//! Each change names the sequence of the record that it replaces or deletes. The server refuses it
//! if another change came first. So of two processes that settle the same delivery exactly one
//! succeeds, whatever they believe about leases.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use ipc_proto::{Kind, MessageId, Timestamp};
use ipc_queue::{DeadReason, Metadata};
use serde::{Deserialize, Serialize};

/// Everything about a message except its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) state: State,
    /// The process that wrote this record.
    pub(crate) process: String,
    pub(crate) id: MessageId,
    pub(crate) kind: Kind,
    pub(crate) sent_at: Timestamp,
    /// The earliest time of delivery, in nanoseconds since 1970. 0: at once.
    #[serde(default)]
    pub(crate) due: u64,
    /// The time of expiry, in nanoseconds since 1970. 0: never.
    #[serde(default)]
    pub(crate) expires: u64,
    pub(crate) attempt: u8,
    pub(crate) nacks: u8,
    pub(crate) expiries: u8,
    pub(crate) crashes: u8,
    /// The receiver that has it, or had it last.
    #[serde(default)]
    pub(crate) holder: Option<Holder>,
    #[serde(default)]
    pub(crate) reason: Option<DeadReason>,
    /// The reason from the last nack or burial.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) error: String,
    /// The length of the payload, if it is in the object store.
    #[serde(default)]
    pub(crate) object: Option<u64>,
    /// Its key, if it has one.
    #[serde(default)]
    pub(crate) keyed: Option<Keyed>,
    /// The number of its message in the work queue. 0: the one with which it was sent. Otherwise it
    /// is the sequence of the dead letter for which it was published again. A work message with
    /// another number is a leftover.
    #[serde(default)]
    pub(crate) work: u64,
}

/// The part of a message's record that concerns its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keyed {
    pub(crate) key: u64,
    /// The sequence of the key's record.
    pub(crate) claim: u64,
    pub(crate) since: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Writing,
    Ready,
    Leased,
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// The receiver's handle.
    pub(crate) port: u64,
}

const HEADER: &str = "Ipc-Record";
/// Sequence of a message's record when the message was published.
const PLACE: &str = "Ipc-Place";

impl Record {
    pub(crate) fn new(state: State, process: &str, kind: Kind) -> Self {
        Self {
            state,
            process: process.to_owned(),
            id: MessageId::default(),
            kind,
            sent_at: Timestamp::default(),
            due: 0,
            expires: 0,
            attempt: 0,
            nacks: 0,
            expiries: 0,
            crashes: 0,
            holder: None,
            reason: None,
            error: String::new(),
            object: None,
            keyed: None,
            work: 0,
        }
    }

    /// The record of this dead letter after a requeue. `seq` is its sequence now.
    pub(crate) fn requeued(&self, seq: u64) -> Self {
        Self {
            id: self.id,
            sent_at: self.sent_at,
            object: self.object,
            keyed: self.keyed,
            work: seq,
            ..Self::new(State::Ready, &self.process, self.kind)
        }
    }

    /// `delivery`: the sequence of the record of this delivery.
    pub(crate) fn metadata(&self, delivery: u64) -> Metadata {
        Metadata::new(self.kind, self.id, self.sent_at, self.attempt, delivery)
    }

    pub(crate) fn is_delayed(&self, now: u64) -> bool {
        self.state == State::Ready && self.due > now
    }

    pub(crate) fn is_expired(&self, now: u64) -> bool {
        self.state == State::Ready && self.expires != 0 && self.expires <= now
    }

    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let text = serde_json::to_string(self).expect("a record has an encoding");
        headers.insert(HEADER, text.as_str());
    }

    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(HEADER)?;
        serde_json::from_str(text.as_str()).ok()
    }
}

pub(crate) fn write_place(headers: &mut HeaderMap, seq: u64) {
    headers.insert(PLACE, seq.to_string().as_str());
}

pub(crate) fn read_place(headers: &HeaderMap) -> Option<u64> {
    headers.get(PLACE)?.as_str().parse().ok()
}

/// Nanoseconds since 1970, by this machine's clock.
pub(crate) fn now() -> u64 {
    Timestamp::from(SystemTime::now()).as_nanos()
}

/// The time after this duration from now. 0 means "never" or "at once", so the result for "never"
/// is the last possible moment.
pub(crate) fn after(time: Duration) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let then = since.unwrap_or_default().saturating_add(time);
    u64::try_from(then.as_nanos()).unwrap_or(u64::MAX)
}
