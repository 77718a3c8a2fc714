//! How long a message waits after a failure, before it is delivered again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The delay before a message that a receiver gave back is delivered again, by the number of its failures.
///
/// Part of a queue's settings; a receiver may choose another delay for one message. A message whose receiver
/// died, or let its lease end, comes back at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backoff {
    /// No delay.
    None,
    /// The same delay after each failure.
    Fixed(Duration),
    /// A delay that doubles with each failure, from `first` to `most`. Each delay is shortened at random by up to a
    /// half, so that messages that failed together do not come back together.
    Exponential {
        /// The delay after the first failure.
        first: Duration,
        /// The longest delay.
        most: Duration,
    },
    /// A delay for each failure; the last one also for all further failures. 1 to 6 delays.
    List(Vec<Duration>),
}

impl Backoff {
    /// The most delays of a [`List`](Self::List).
    pub const MAX_LIST: usize = 6;
    /// The longest delay.
    pub const MAX_DELAY: Duration = Duration::from_secs(7 * 24 * 3600);

    /// The delay after the failure with this number, counted from 1. `chance`, any number, decides how much an
    /// exponential delay is shortened.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ipc_proto::Backoff;
    ///
    /// let backoff = Backoff::Exponential {
    ///     first: Duration::from_millis(100),
    ///     most: Duration::from_secs(60),
    /// };
    /// let third = backoff.delay(3, 0);
    /// assert_eq!(third, Duration::from_millis(400));
    /// assert!(backoff.delay(3, u64::MAX) >= third / 2);
    /// ```
    #[must_use]
    pub fn delay(&self, failures: u32, chance: u64) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Fixed(delay) => *delay,
            Self::Exponential { first, most } => {
                let doublings = failures.saturating_sub(1).min(31);
                let delay = first.saturating_mul(1 << doublings).min(*most);
                // The upper half of 64 random bits, as a fraction of the half that may be taken off.
                let off = ((delay / 2).as_nanos() * u128::from(chance >> 32)) >> 32;
                delay.saturating_sub(Duration::from_nanos(u64::try_from(off).unwrap_or(0)))
            }
            Self::List(delays) => {
                let last = delays.len().saturating_sub(1);
                let index = (failures.saturating_sub(1) as usize).min(last);
                delays.get(index).copied().unwrap_or_default()
            }
        }
    }

    /// Whether there is never a delay.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// All delays that it names, for checking.
    pub(crate) fn delays(&self) -> Vec<Duration> {
        match self {
            Self::None => Vec::new(),
            Self::Fixed(delay) => vec![*delay],
            Self::Exponential { first, most } => vec![*first, *most],
            Self::List(delays) => delays.clone(),
        }
    }
}

/// 100 ms, doubled with each failure, to at most a minute.
impl Default for Backoff {
    fn default() -> Self {
        Self::Exponential {
            first: Duration::from_millis(100),
            most: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QueueSettings;

    #[test]
    fn the_defaults_outlast_an_outage_of_a_minute() {
        let settings = QueueSettings::default();
        // At worst: every delay is shortened by a half. The last attempt is made after all delays.
        let waited: Duration = (1..u32::from(settings.attempt_limit))
            .map(|failures| settings.backoff.delay(failures, u64::MAX))
            .sum();
        assert!(waited > Duration::from_secs(60), "{waited:?}");
    }

    #[test]
    fn a_list_goes_on_with_its_last_delay() {
        let list = Backoff::List([1, 5].map(Duration::from_secs).into());
        let waits = [1, 2, 3, 9].map(|failures| list.delay(failures, 0).as_secs());
        assert_eq!(waits, [1, 5, 5, 5]);
    }

    #[test]
    fn delays_grow_to_their_limit_and_never_overflow() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(200, 0), Duration::from_secs(60));
        assert!(backoff.delay(u32::MAX, u64::MAX) >= Duration::from_secs(30));
    }
}
