//! Identifiers and timestamps: the sender of a message, its number, and when it was sent.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The id of one attachment of a process to a queue, drawn at random when it attaches.
///
/// Two attachments of one process have different ids. Zero stands for "no sender".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SenderId(u64);

impl SenderId {
    /// Wraps a number that the caller drew at random.
    #[inline]
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The permanent id of one message: its sender, and a number that the sender counts up.
///
/// A redelivery keeps the id. A copy that is sent again gets a new id.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MessageId {
    /// The sender.
    pub sender: SenderId,
    /// The sender's message count, from 0.
    pub sequence: u64,
}

impl MessageId {
    /// Returns the id of message number `sequence` from `sender`.
    #[inline]
    #[must_use]
    pub const fn new(sender: SenderId, sequence: u64) -> Self {
        Self { sender, sequence }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sender, self.sequence)
    }
}

/// Wall-clock time by the sender's clock, in nanoseconds since the Unix epoch.
///
/// Meant for people and logs. Clocks of different machines disagree and may jump, so these crates
/// base no decision on a `Timestamp`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Creates a timestamp from nanoseconds since 1970-01-01 00:00:00 UTC.
    #[inline]
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since 1970-01-01 00:00:00 UTC.
    #[inline]
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

/// Times before 1970 become 1970. Times after 2554 become the last representable time.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_nanos(timestamp.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_round_trips_through_system_time_and_clamps_earlier_times() {
        let timestamp = Timestamp::from_nanos(1_700_000_000_123_456_789);
        assert_eq!(Timestamp::from(SystemTime::from(timestamp)), timestamp);
        assert_eq!(
            Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)),
            Timestamp::from_nanos(0)
        );
    }

    #[test]
    fn an_id_prints_as_a_padded_sender_and_a_sequence() {
        let id = MessageId::new(SenderId::new(0xab), 12);
        assert_eq!(id.to_string(), "00000000000000ab-12");
    }
}
