//! A message as a file: its content is the payload, and everything that changes is in its name.
//!
//! So each change of a message is one `rename`: a kill leaves the message either as it was before
//! or as it is after.

use std::time::{Duration, SystemTime};

use ipc_proto::codec;
use ipc_queue::{DeadReason, Kind, MessageId, SenderId, Timestamp};
use serde::{Deserialize, Serialize};

/// The state of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// A place that is lent to a sender.
    Writing,
    Ready,
    /// Held by a receiver.
    Leased,
    /// Waiting for the end of its delay.
    Delayed,
    Dead(DeadReason),
}

/// The contents of a file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub state: State,
    /// The end of its lease or its delay, in nanoseconds of the epoch; 0: never.
    pub due: u64,
    /// Its position among the others.
    pub order: u64,
    /// Identifies one loan, or one delivery, of the message.
    pub token: u64,
    /// The handle that has it.
    pub holder: u64,
    pub attempt: u8,
    pub deliveries: u32,
    pub nacks: u8,
    pub expiries: u8,
    pub crashes: u8,
    pub kind: Kind,
    pub id: MessageId,
    pub sent_at: Timestamp,
}

const PREFIX: &str = "message-";

impl Entry {
    /// Creates the entry of a place that is lent to this handle.
    pub fn on_loan(kind: Kind, holder: u64) -> Self {
        Self {
            state: State::Writing,
            due: 0,
            order: 0,
            token: fastrand::u64(..),
            holder,
            attempt: 0,
            deliveries: 0,
            nacks: 0,
            expiries: 0,
            crashes: 0,
            kind,
            id: MessageId::new(SenderId::new(holder), 0),
            sent_at: now(),
        }
    }

    /// Returns the file's name.
    pub fn name(&self) -> String {
        let bytes = codec::encode(self).expect("numbers have an encoding");
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        format!("{PREFIX}{}", digits.collect::<String>())
    }

    /// Parses a name; `None`: it is not the name of a message.
    pub fn of(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(PREFIX)?;
        let bytes = (0..digits.len()).step_by(2);
        let bytes: Option<Vec<u8>> = bytes
            .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
            .collect();
        codec::decode(&bytes?).ok()
    }
}

/// Returns the time of day, which has the same meaning for all processes, and after a reboot.
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Returns the time `delay` from now; the latest possible if that is out of range.
pub fn after(delay: Duration) -> u64 {
    let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
    now().as_nanos().saturating_add(delay)
}
