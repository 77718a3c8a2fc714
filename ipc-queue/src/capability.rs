//! Features: the abilities that a transport may lack.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A feature that a transport may support natively, by other means, or not at all.
///
/// Abilities that every transport has are not listed: leases, settling, dead letters, order and
/// back-pressure. See [`transport`](crate::transport).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[repr(u8)]
pub enum Feature {
    /// Payloads are read in the memory where they were written.
    ZeroCopy,
    /// The death of a receiver is noticed at once, not only when its lease ends.
    DeathNoticed,
    /// Several messages are sent, received or acknowledged together: in one step, or with their
    /// requests in flight at the same time.
    Batches,
    /// Urgent messages go first.
    Priorities,
    /// Messages can be delayed.
    Delay,
    /// Messages that are not received in time are dropped.
    Expiry,
    /// A message with a key that was already sent is not sent again.
    Deduplication,
    /// A full queue may drop the message that waited longest.
    DropOldest,
    /// Delivery can be paused and resumed.
    Pause,
    /// All waiting messages can be dropped at once.
    Purge,
    /// The queue can be closed, and a caller can wait until its messages are settled.
    Drain,
    /// The current leases can be listed.
    Leases,
    /// Messages carry headers.
    Headers,
    /// Dead letters keep the reason given with a nack or a burial.
    Reasons,
    /// A delivery can be delayed without using up an attempt.
    Snooze,
    /// The queue can be saved to a file, restored, and moved: see [`snapshot`](crate::snapshot).
    Snapshot,
}

impl Feature {
    /// All features.
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
            Self::Leases => "list of leases",
            Self::Headers => "headers",
            Self::Reasons => "reasons of failures",
            Self::Snooze => "snoozing",
            Self::Snapshot => "saving, restoring and moving",
        })
    }
}

/// The way in which a transport supports a feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Support {
    /// The transport supports it itself.
    Native,
    /// The transport emulates it, at a cost or with limits that its documentation states.
    Emulated,
    /// Not supported: using it fails with [`Unsupported`].
    #[default]
    Unsupported,
}

/// The features of a transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities([Support; Feature::ALL.len()]);

impl Capabilities {
    /// Returns capabilities without optional features. Batches work even then, one message at a
    /// time.
    #[must_use]
    pub const fn none() -> Self {
        Self([Support::Unsupported; Feature::ALL.len()]).with(Feature::Batches, Support::Emulated)
    }

    /// Returns these capabilities with this feature supported as given.
    #[must_use]
    pub const fn with(mut self, feature: Feature, support: Support) -> Self {
        self.0[feature as usize] = support;
        self
    }

    /// Returns these capabilities with all of these features supported natively.
    #[must_use]
    pub const fn natively<const N: usize>(mut self, features: [Feature; N]) -> Self {
        let mut index = 0;
        while index < N {
            self.0[features[index] as usize] = Support::Native;
            index += 1;
        }
        self
    }

    /// Returns the way in which this feature is supported.
    #[must_use]
    pub const fn support(&self, feature: Feature) -> Support {
        self.0[feature as usize]
    }

    /// Returns whether this feature is supported, natively or emulated.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.support(feature) != Support::Unsupported
    }
}

/// The transport, or the queue as it was created, does not support a feature.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{feature}: {reason}")]
#[non_exhaustive]
pub struct Unsupported {
    /// The feature that was requested.
    pub feature: Feature,
    /// The reason, and what to do.
    pub reason: &'static str,
}

impl Unsupported {
    /// Returns the error of a feature that the transport lacks, whatever the settings.
    #[must_use]
    pub const fn by_transport(feature: Feature) -> Self {
        Self {
            feature,
            reason: "this transport does not support it: see Transport::capabilities",
        }
    }

    /// Returns the error of a feature that the queue was created without.
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
    fn a_capability_exists_only_if_it_was_set() {
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
