//! The decision to start a worker again, or to give up.
//!
//! A worker that dies over a job is replaced at once: the job is the likely cause, and its attempts
//! are limited. A worker that dies without a job, or never becomes ready, is replaced after a
//! pause, which doubles each time. When that happens too often within a time, the pool gives up,
//! because it would go on forever.
//!
//! Reads no clock.

use std::time::{Duration, Instant};

/// The policy for replacing workers that end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartPolicy {
    /// Always, until too many end without a job: see [`Intensity`].
    #[default]
    OnCrash,
    /// Never: the pool ends with its last worker.
    Never,
}

/// The number of workers that may end without a job within a time before the pool gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// The number of deaths that is too high.
    pub deaths: usize,
    /// The time in which they are counted.
    pub within: Duration,
}

/// Five within ten seconds.
impl Default for Intensity {
    fn default() -> Self {
        Self {
            deaths: 5,
            within: Duration::from_secs(10),
        }
    }
}

/// The pause before a worker is started again. It doubles with each death without a job, from the
/// first to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first death.
    pub first: Duration,
    /// The longest pause, after any number of deaths.
    pub longest: Duration,
}

/// 10 ms to 5 s.
impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(10),
            longest: Duration::from_secs(5),
        }
    }
}

/// The deaths so far.
#[derive(Debug)]
pub(super) struct Restarts {
    intensity: Intensity,
    backoff: Backoff,
    /// The times of deaths without a job, as far back as they matter.
    deaths: Vec<Instant>,
    /// The number of such deaths in a row.
    in_a_row: u32,
}

impl Restarts {
    pub(super) fn new(intensity: Intensity, backoff: Backoff) -> Self {
        Self {
            intensity,
            backoff,
            deaths: Vec::new(),
            in_a_row: 0,
        }
    }

    /// Records that a worker is well, so the next pause is the first one again.
    pub(super) fn worked(&mut self) {
        self.in_a_row = 0;
    }

    /// Records the death of a worker without a job. Returns the pause before the next start, or
    /// `None` if there were too many deaths.
    pub(super) fn died_idle(&mut self, now: Instant) -> Option<Duration> {
        let within = self.intensity.within;
        self.deaths
            .retain(|death| now.saturating_duration_since(*death) < within);
        self.deaths.push(now);
        if self.deaths.len() >= self.intensity.deaths {
            return None;
        }
        let pause = self
            .backoff
            .first
            .saturating_mul(1 << self.in_a_row.min(20));
        self.in_a_row += 1;
        Some(pause.min(self.backoff.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn restarts(deaths: usize) -> Restarts {
        let within = 10 * SECOND;
        let backoff = Backoff {
            first: SECOND,
            longest: 5 * SECOND,
        };
        Restarts::new(Intensity { deaths, within }, backoff)
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_restart_after_success() {
        let (mut restarts, start) = (restarts(100), Instant::now());
        let mut pauses = [1, 2, 4, 5, 5].map(|s| Some(s * SECOND)).into_iter();
        for _ in 0..5 {
            assert_eq!(restarts.died_idle(start), pauses.next().flatten());
        }
        restarts.worked();
        assert_eq!(restarts.died_idle(start), Some(SECOND));
    }

    #[test]
    fn too_many_deaths_count_only_within_the_period() {
        let (mut often, start) = (restarts(3), Instant::now());
        assert!(often.died_idle(start).is_some());
        assert!(often.died_idle(start + SECOND).is_some());
        assert_eq!(often.died_idle(start + 2 * SECOND), None);
        let mut seldom = restarts(3);
        for tens in 0..9 {
            assert!(seldom.died_idle(start + tens * 5 * SECOND).is_some());
        }
    }
}
