//! Who sent it, which one it is, and when.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One attachment of one process to a queue; drawn at random when it attaches.
///
/// Two senders of one process differ when they attached separately. Zero means "nobody".
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

    /// The number.
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

/// Names one message for ever: its sender and the sender's running number.
///
/// A redelivery keeps the id; a copy that is sent again gets a new one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MessageId {
    /// Who sent it.
    pub sender: SenderId,
    /// The sender's count, from 0.
    pub sequence: u64,
}

impl MessageId {
    /// The id of `sender`'s message number `sequence`.
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

/// Wall-clock time in nanoseconds since the Unix epoch, as the sender's clock had it.
///
/// For people and logs. Clocks of different machines disagree and may jump: nothing in these crates
/// decides anything by a `Timestamp`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Nanoseconds since 1970-01-01 00:00:00 UTC.
    #[inline]
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since 1970-01-01 00:00:00 UTC.
    #[inline]
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

/// Times before 1970 become 1970; times after 2554 become the last one that fits.
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
    fn timestamp_survives_system_time_and_clamps_what_does_not_fit() {
        let timestamp = Timestamp::from_nanos(1_700_000_000_123_456_789);
        assert_eq!(Timestamp::from(SystemTime::from(timestamp)), timestamp);
        assert_eq!(
            Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)),
            Timestamp::from_nanos(0)
        );
    }

    #[test]
    fn ids_read_well_in_a_log() {
        let id = MessageId::new(SenderId::new(0xab), 12);
        assert_eq!(id.to_string(), "00000000000000ab-12");
    }
}
