//! A message as a file: its content is the payload, and all that changes about it is in its name.
//!
//! So each change of a message is one `rename`: whoever is killed leaves it as it was before, or as it is after.

use std::time::{Duration, SystemTime};

use ipc_proto::codec;
use ipc_queue::{DeadReason, Kind, MessageId, SenderId, Timestamp};
use serde::{Deserialize, Serialize};

/// What a message is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// A sender has its place on loan.
    Writing,
    Ready,
    /// A receiver holds it.
    Leased,
    /// Not before its time.
    Delayed,
    Dead(DeadReason),
}

/// What a file's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub state: State,
    /// When its lease or its delay ends, in nanoseconds of the epoch; 0: never.
    pub due: u64,
    /// Its place among the others.
    pub order: u64,
    /// Names one loan, or one delivery, of it.
    pub token: u64,
    /// Which handle has that.
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
    /// A place on loan to that handle.
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

    /// The file's name.
    pub fn name(&self) -> String {
        let bytes = codec::encode(self).expect("numbers have an encoding");
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        format!("{PREFIX}{}", digits.collect::<String>())
    }

    /// What a name says; `None`: it is no message's.
    pub fn of(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(PREFIX)?;
        let bytes = (0..digits.len()).step_by(2);
        let bytes: Option<Vec<u8>> = bytes
            .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
            .collect();
        codec::decode(&bytes?).ok()
    }
}

/// The time of day: it must mean the same to all processes, and after a reboot.
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// The time so long from now; never, if that is beyond what the clock can say.
pub fn after(delay: Duration) -> u64 {
    let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
    now().as_nanos().saturating_add(delay)
}
