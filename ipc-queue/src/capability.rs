//! What a transport can do beyond what all can.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Something that a transport may do natively, by other means, or not at all.
///
/// What every transport does, leases, settling, dead letters, order and back-pressure, is no matter of choice and not
/// listed: see [`transport`](crate::transport).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[repr(u8)]
pub enum Feature {
    /// Payloads are written where they are read.
    ZeroCopy,
    /// The death of a receiver is noticed at once, not when its lease ends.
    DeathNoticed,
    /// Several messages are sent or received in one step.
    Batches,
    /// Urgent messages go before others.
    Priorities,
    /// Messages are kept back for a while.
    Delay,
    /// Messages that nobody wanted in time are dropped.
    Expiry,
    /// A message that was sent already, by its key, is not sent again.
    Deduplication,
    /// A full queue may drop what waited longest.
    DropOldest,
    /// Deliveries can be stopped and started again.
    Pause,
    /// All that waits can be dropped.
    Purge,
    /// Sending can end, and the end of what was sent be waited for.
    Drain,
    /// Who holds what can be asked.
    Leases,
    /// Messages carry headers.
    Headers,
    /// What a nack or a burial says is kept in the dead letter.
    Reasons,
    /// A delivery can be put off without losing an attempt.
    Snooze,
    /// The queue can be saved to a file, restored from it, and moved: see [`snapshot`](crate::snapshot).
    Snapshot,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::ZeroCopy,
        Self::DeathNoticed,
        Self::Batches,
        Self::Priorities,
        Self::Delay,
        Self::Expiry,
        Self::Deduplication,
        Self::DropOldest,
        Self::Pause,
        Self::Purge,
        Self::Drain,
        Self::Leases,
        Self::Headers,
        Self::Reasons,
        Self::Snooze,
        Self::Snapshot,
    ];
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero copy",
            Self::DeathNoticed => "death noticed at once",
            Self::Batches => "batches",
            Self::Priorities => "priorities",
            Self::Delay => "delayed messages",
            Self::Expiry => "expiring messages",
            Self::Deduplication => "de-duplication",
            Self::DropOldest => "dropping the oldest",
            Self::Pause => "pausing",
            Self::Purge => "purging",
            Self::Drain => "draining",
            Self::Leases => "who holds what",
            Self::Headers => "headers",
            Self::Reasons => "reasons of failures",
            Self::Snooze => "snoozing",
            Self::Snapshot => "saving, restoring and moving",
        })
    }
}

/// How a transport does something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Support {
    /// By itself.
    Native,
    /// With what it has, at a cost or with limits that its documentation states.
    Emulated,
    /// Not at all: trying is [`Unsupported`].
    #[default]
    Unsupported,
}

/// What a transport can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities([Support; Feature::ALL.len()]);

impl Capabilities {
    /// Nothing beyond what every transport does: batches, at least one by one.
    #[must_use]
    pub const fn none() -> Self {
        Self([Support::Unsupported; Feature::ALL.len()]).with(Feature::Batches, Support::Emulated)
    }

    /// The same, with this.
    #[must_use]
    pub const fn with(mut self, feature: Feature, support: Support) -> Self {
        self.0[feature as usize] = support;
        self
    }

    /// The same, with all of these done natively.
    #[must_use]
    pub const fn natively<const N: usize>(mut self, features: [Feature; N]) -> Self {
        let mut index = 0;
        while index < N {
            self.0[features[index] as usize] = Support::Native;
            index += 1;
        }
        self
    }

    /// How this is done.
    #[must_use]
    pub const fn support(&self, feature: Feature) -> Support {
        self.0[feature as usize]
    }

    /// Whether this can be done.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.support(feature) != Support::Unsupported
    }
}

/// The transport, or this queue as it was created, can't do it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{feature}: {reason}")]
pub struct Unsupported {
    /// What was wanted.
    pub feature: Feature,
    /// Why not, and what to do.
    pub reason: &'static str,
}

impl Unsupported {
    /// Not with this transport, whatever the settings.
    #[must_use]
    pub const fn by_transport(feature: Feature) -> Self {
        Self {
            feature,
            reason: "this transport does not have it: Transport::capabilities says what it has",
        }
    }

    /// Not with these settings.
    #[must_use]
    pub const fn by_settings(feature: Feature) -> Self {
        Self {
            feature,
            reason: "this queue was created without it: see QueueOptions",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_had_only_if_it_was_given() {
        let some = Capabilities::none()
            .natively([Feature::Pause])
            .with(Feature::Drain, Support::Emulated);
        for feature in Feature::ALL {
            let wanted = match feature {
                Feature::Pause => Support::Native,
                Feature::Drain | Feature::Batches => Support::Emulated,
                _ => Support::Unsupported,
            };
            assert_eq!(some.support(feature), wanted, "{feature}");
        }
    }
}
