//! Backoff: the delay before a failed message is delivered again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The delay before a returned message is delivered again, by the number of its failures.
///
/// Part of a queue's settings. A receiver may choose another delay for one message. There is no
/// delay if the receiver died or its lease expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backoff {
    /// No delay.
    None,
    /// The same delay after each failure.
    Fixed(Duration),
    /// A delay that doubles with each failure, from `first` to `most`. Each delay is shortened at
    /// random by up to a half. So messages that failed together do not come back together.
    Exponential {
        /// The delay after the first failure.
        first: Duration,
        /// The longest delay.
        most: Duration,
    },
    /// One delay for each failure; the last one also applies to all further failures. 1 to 6
    /// delays.
    List(Vec<Duration>),
}

impl Backoff {
    /// The maximum number of delays in a [`List`](Self::List).
    pub const MAX_LIST: usize = 6;
    /// The longest delay.
    pub const MAX_DELAY: Duration = Duration::from_secs(7 * 24 * 3600);

    /// Returns the delay after the failure with this number, counted from 1. `chance` is a random
    /// number that decides by how much an exponential delay is shortened.
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
                // `off` is up to a half of the delay, scaled by the upper 32 bits of `chance`.
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

    /// Returns `true` if there is never a delay.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Returns all configured delays, for validation.
    pub(crate) fn delays(&self) -> Vec<Duration> {
        match self {
            Self::None => Vec::new(),
            Self::Fixed(delay) => vec![*delay],
            Self::Exponential { first, most } => vec![*first, *most],
            Self::List(delays) => delays.clone(),
        }
    }
}

/// 100 ms, doubled with each failure, up to one minute.
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
        // The worst case: every delay is shortened by a half. The last attempt is made after all
        // delays.
        let waited: Duration = (1..u32::from(settings.attempt_limit))
            .map(|failures| settings.backoff.delay(failures, u64::MAX))
            .sum();
        assert!(waited > Duration::from_secs(60), "{waited:?}");
    }

    #[test]
    fn a_list_repeats_its_last_delay() {
        let list = Backoff::List([1, 5].map(Duration::from_secs).into());
        let waits = [1, 2, 3, 9].map(|failures| list.delay(failures, 0).as_secs());
        assert_eq!(waits, [1, 5, 5, 5]);
    }

    #[test]
    fn an_exponential_delay_stops_at_its_maximum_and_never_overflows() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(200, 0), Duration::from_secs(60));
        assert!(backoff.delay(u32::MAX, u64::MAX) >= Duration::from_secs(30));
    }
}
