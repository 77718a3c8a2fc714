//! The message that every transport carries.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{MessageId, SenderId, Timestamp};

/// The purpose of a message. The numbers are part of the wire format and never change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// Work, or the result of work.
    #[default]
    Data = 0,
    /// A request to the receiving process itself, such as "report your stats".
    Control = 1,
    /// A sign of life, for transports without shared memory.
    Heartbeat = 2,
    /// A request to stop after this message.
    Shutdown = 3,
}

/// A message without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Signal {
    /// A sign of life.
    Heartbeat,
    /// A request to stop after this message. One receiver gets it: send one for each, or close the
    /// queue to stop all.
    Shutdown,
}

impl Kind {
    /// Returns the matching signal, or `None` if messages of this kind carry data.
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

/// A number that is not a [`Kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("unknown message kind {0} (expected 0-3); was it sent by a newer version?")]
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
/// `Data` and `Control` messages carry data. `Heartbeat` and `Shutdown` messages do not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message<T> {
    /// The purpose of the message.
    pub kind: Kind,
    /// The sender and the sender's number for this message.
    pub id: MessageId,
    /// The time of sending, by the sender's clock.
    pub timestamp: Timestamp,
    /// The number of deliveries so far, including this one; 0 before the first delivery.
    pub attempt: u8,
    /// The payload; `None` for kinds that carry no data.
    pub data: Option<T>,
}

impl<T> Message<T> {
    /// Creates a `Data` message that has not been delivered yet.
    #[must_use]
    pub const fn data(id: MessageId, timestamp: Timestamp, data: T) -> Self {
        Self::new(Kind::Data, id, timestamp, Some(data))
    }

    /// Creates a `Control` message that has not been delivered yet.
    #[must_use]
    pub const fn control(id: MessageId, timestamp: Timestamp, data: T) -> Self {
        Self::new(Kind::Control, id, timestamp, Some(data))
    }

    /// Creates a `Heartbeat` message.
    #[must_use]
    pub const fn heartbeat(id: MessageId, timestamp: Timestamp) -> Self {
        Self::new(Kind::Heartbeat, id, timestamp, None)
    }

    /// Creates a `Shutdown` message.
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

    /// Returns the sender.
    #[must_use]
    pub const fn sender(&self) -> SenderId {
        self.id.sender
    }

    /// Returns the same message with its data changed.
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
    fn every_kind_round_trips_through_its_number_and_other_numbers_are_refused() {
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
