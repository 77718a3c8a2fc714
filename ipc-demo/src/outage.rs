//! A server that can't be reached for a while: it is restarted, or its cluster elects another
//! leader.

use std::time::{Duration, Instant};

/// The time since which nothing could be sent.
#[derive(Debug, Default)]
pub(crate) struct Outage(Option<Instant>);

/// The reaction to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// The outage has just begun: report it, and retry.
    TellAndRetry,
    Retry,
    GiveUp,
}

/// Longer than an election takes.
const LONGEST: Duration = Duration::from_secs(30);

impl Outage {
    /// Notes that the outage is over.
    pub(crate) fn over(&mut self) {
        self.0 = None;
    }

    /// Notes that a send failed.
    pub(crate) fn failed(&mut self, now: Instant) -> Advice {
        match self.0 {
            None => {
                self.0 = Some(now);
                Advice::TellAndRetry
            }
            Some(since) if now.saturating_duration_since(since) < LONGEST => Advice::Retry,
            Some(_) => Advice::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_reported_once_tolerated_for_a_while_and_then_forgotten() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        assert_eq!(outage.failed(now), Advice::TellAndRetry);
        assert_eq!(outage.failed(now + LONGEST / 2), Advice::Retry);
        outage.over();
        assert_eq!(outage.failed(now + LONGEST), Advice::TellAndRetry);
        assert_eq!(outage.failed(now + 2 * LONGEST), Advice::GiveUp);
    }
}
