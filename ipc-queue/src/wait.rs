//! How long a call waits.

use std::time::{Duration, Instant};

/// The time limit of a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// No wait.
    No,
    /// Wait until this time.
    Until(Instant),
    /// Wait without a limit.
    #[default]
    Forever,
}

impl Wait {
    /// Returns a wait for at most `time`. It has no limit if the clock cannot represent its end.
    #[must_use]
    pub fn at_most(time: Duration) -> Self {
        Instant::now()
            .checked_add(time)
            .map_or(Self::Forever, Self::Until)
    }

    /// Returns the same wait, but no longer than until `limit`.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub(crate) fn at_most_until(self, limit: Instant) -> Self {
        match self {
            Self::No => Self::No,
            Self::Until(deadline) => Self::Until(deadline.min(limit)),
            Self::Forever => Self::Until(limit),
        }
    }

    /// Returns whether no time is left.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::No => true,
            Self::Until(deadline) => Instant::now() >= deadline,
            Self::Forever => false,
        }
    }
}
