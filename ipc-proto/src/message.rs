//! The message: what every transport carries.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{MessageId, SenderId, Timestamp};

/// What a message is for. The numbers are the wire format and never change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// Work, or the result of work.
    #[default]
    Data = 0,
    /// A request to the receiving process itself, such as "report your stats".
    Control = 1,
    /// "I am alive", for transports that share no memory.
    Heartbeat = 2,
    /// "Stop after this."
    Shutdown = 3,
}

/// A message without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Signal {
    /// "I am alive."
    Heartbeat,
    /// "Stop after this."
    Shutdown,
}

impl Kind {
    /// Returns the signal that a message of this kind is; `None` if it carries data.
    #[must_use]
    pub const fn signal(self) -> Option<Signal> {
        match self {
            Self::Data | Self::Control => None,
            Self::Heartbeat => Some(Signal::Heartbeat),
            Self::Shutdown => Some(Signal::Shutdown),
        }
    }
}

impl From<Signal> for Kind {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Heartbeat => Self::Heartbeat,
            Signal::Shutdown => Self::Shutdown,
        }
    }
}

/// A number that names no [`Kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{0} is no message kind: known are 0 (data) to 3 (shutdown); is the sender a later version?"
)]
pub struct UnknownKind(pub u8);

impl TryFrom<u8> for Kind {
    type Error = UnknownKind;

    fn try_from(raw: u8) -> Result<Self, UnknownKind> {
        match raw {
            0 => Ok(Self::Data),
            1 => Ok(Self::Control),
            2 => Ok(Self::Heartbeat),
            3 => Ok(Self::Shutdown),
            _ => Err(UnknownKind(raw)),
        }
    }
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> Self {
        kind as Self
    }
}

/// One message.
///
/// `Data` and `Control` messages carry data; `Heartbeat` and `Shutdown` messages carry none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message<T> {
    /// What it is for.
    pub kind: Kind,
    /// Which one it is, and from whom.
    pub id: MessageId,
    /// When it was sent, by the sender's clock.
    pub timestamp: Timestamp,
    /// How often it was delivered, this time included; 0 before the first delivery.
    pub attempt: u8,
    /// What it says.
    pub data: Option<T>,
}

impl<T> Message<T> {
    /// A `Data` message that was never delivered yet.
    #[must_use]
    pub const fn data(id: MessageId, timestamp: Timestamp, data: T) -> Self {
        Self::new(Kind::Data, id, timestamp, Some(data))
    }

    /// A `Control` message that was never delivered yet.
    #[must_use]
    pub const fn control(id: MessageId, timestamp: Timestamp, data: T) -> Self {
        Self::new(Kind::Control, id, timestamp, Some(data))
    }

    /// A `Heartbeat`.
    #[must_use]
    pub const fn heartbeat(id: MessageId, timestamp: Timestamp) -> Self {
        Self::new(Kind::Heartbeat, id, timestamp, None)
    }

    /// A `Shutdown`.
    #[must_use]
    pub const fn shutdown(id: MessageId, timestamp: Timestamp) -> Self {
        Self::new(Kind::Shutdown, id, timestamp, None)
    }

    const fn new(kind: Kind, id: MessageId, timestamp: Timestamp, data: Option<T>) -> Self {
        Self {
            kind,
            id,
            timestamp,
            attempt: 0,
            data,
        }
    }

    /// Who sent it.
    #[must_use]
    pub const fn sender(&self) -> SenderId {
        self.id.sender
    }

    /// The same message with its data changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Message<U> {
        Message {
            kind: self.kind,
            id: self.id,
            timestamp: self.timestamp,
            attempt: self.attempt,
            data: self.data.map(change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_its_number_and_no_other_number_is_a_kind() {
        for raw in 0..=u8::MAX {
            match Kind::try_from(raw) {
                Ok(kind) => assert_eq!(u8::from(kind), raw),
                Err(error) => assert_eq!((error, raw > 3), (UnknownKind(raw), true)),
            }
        }
    }

    #[test]
    fn map_changes_only_the_data() {
        let id = MessageId::new(SenderId::new(1), 2);
        let message = Message::control(id, Timestamp::from_nanos(3), "four");
        let mapped = message.clone().map(str::len);
        assert_eq!(
            (mapped.kind, mapped.id, mapped.timestamp, mapped.data),
            (message.kind, id, message.timestamp, Some(4))
        );
    }
}
