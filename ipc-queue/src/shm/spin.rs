//! The tries of a blocked handle before it sleeps.
//!
//! Polling *is* the contention: a handle that polls takes the cache line that the other side is
//! about to write, and both run in lock-step. So the pause between two tries adapts. After each
//! wait, the handle counts the operations that succeed without waiting. After two or more the pause
//! doubles, because it let work accumulate. After just one it shrinks by a quarter. A stream
//! settles at long pauses, a ping-pong at the shortest. With no pause at all, a try would take the
//! line between a sender's claim and its publication.
//!
//! With fewer cores than handles, spinning keeps the other side off its core. So after some time
//! the handle yields between two tries. The time for spinning adapts, too. It halves with each wait
//! that spinning did not end, down to a few tries. It doubles with each wait that spinning ended or
//! could have ended: one that ended after yields in which nothing else ran.
//!
//! A yield may also give the core to an unrelated program that computes, for a whole time slice of
//! some milliseconds. A handle that sleeps instead runs as soon as it is woken. So after such a
//! yield the next waits do not yield: 16 of them, and twice as many each time that this happens
//! again.

use std::cell::Cell;
use std::time::{Duration, Instant};
use std::{hint, thread};

/// The maximum time of tries without yields: about the cost of a sleep and a wake.
const BUDGET: Duration = Duration::from_micros(30);
/// The maximum number of halvings of the budget: then it is a few tries.
const MOST_HALVINGS: u8 = 5;
/// The time of tries with yields before sleeping. A wake of the other side fits in.
const YIELDING: Duration = Duration::from_micros(60);
/// A yield that took longer let another thread run.
const SWITCH: Duration = Duration::from_micros(2);
/// A yield that took longer cost a time slice: another program computes on this core.
const SLICE: Duration = Duration::from_micros(500);
/// The number of waits that do not yield after that, at first and at most.
const FEWEST_WITHOUT: u16 = 16;
const MOST_WITHOUT: u16 = 4096;
/// The pauses are in `pause` instructions, of about 15 ns each.
const SHORTEST_PAUSE: u16 = 5;
const LONGEST_PAUSE: u16 = 256;
/// The number of pauses between two readings of the clock.
const UNTIMED: u16 = 32;

/// The experience of a handle with its own waits.
#[derive(Debug, Default)]
pub struct Spin {
    /// The part above the shortest pause.
    pause: Cell<u16>,
    /// The number of operations since the last wait.
    streak: Cell<u32>,
    /// The number of times that the budget for spinning is halved.
    halvings: Cell<u8>,
    /// The number of waits that do not yield after the next yield that costs a time slice.
    without: Cell<u16>,
    /// The number of waits from now on that do not yield.
    without_left: Cell<u16>,
}

/// The end of the tries of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Succeeded while spinning.
    Spinning,
    /// Succeeded while yielding.
    Yielding { let_others_run: bool },
    /// Failed: the handle goes to sleep.
    InVain,
}

impl Spin {
    /// Counts an operation that succeeded at once.
    #[inline]
    pub fn hit(&self) {
        self.hits(1);
    }

    /// Counts several such operations.
    #[inline]
    pub fn hits(&self, count: u32) {
        self.streak.set(self.streak.get().saturating_add(count));
    }

    /// Tries for a while. Returns the result, or `None` when it is time to sleep.
    pub fn look<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        self.adapt();
        let started = Instant::now();
        if let Some(found) = self.look_spinning(started, &mut attempt) {
            self.learn(Ended::Spinning);
            return Some(found);
        }
        if !self.may_yield() {
            self.learn(Ended::InVain);
            return None;
        }
        let mut let_others_run = false;
        let mut before = Instant::now();
        let end = before + YIELDING;
        while before < end {
            thread::yield_now();
            let found = attempt();
            let after = Instant::now();
            let_others_run |= after - before > SWITCH;
            self.learn_of_yield(after - before);
            if found.is_some() {
                self.learn(Ended::Yielding { let_others_run });
                return found;
            }
            before = after;
        }
        self.learn(Ended::InVain);
        None
    }

    fn look_spinning<T>(
        &self,
        started: Instant,
        attempt: &mut impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let budget = BUDGET / (1 << self.halvings.get());
        let mut untimed = 0;
        loop {
            (0..SHORTEST_PAUSE + self.pause.get()).for_each(|_| hint::spin_loop());
            if let Some(found) = attempt() {
                return Some(found);
            }
            untimed += SHORTEST_PAUSE + self.pause.get();
            if untimed >= UNTIMED {
                if started.elapsed() > budget {
                    return None;
                }
                untimed = 0;
            }
        }
    }

    /// Returns whether this wait may yield.
    fn may_yield(&self) -> bool {
        let left = self.without_left.get();
        self.without_left.set(left.saturating_sub(1));
        left == 0
    }

    fn learn_of_yield(&self, took: Duration) {
        if took > SLICE {
            let without = self.without.get().max(FEWEST_WITHOUT);
            self.without_left.set(without);
            self.without.set((without * 2).min(MOST_WITHOUT));
        }
    }

    fn adapt(&self) {
        let pause = self.pause.get();
        let adapted = match self.streak.replace(0) {
            0 => pause,
            1 => pause * 3 / 4,
            _ => (pause * 2).clamp(1, LONGEST_PAUSE),
        };
        self.pause.set(adapted);
    }

    fn learn(&self, ended: Ended) {
        let halvings = self.halvings.get();
        self.halvings.set(match ended {
            Ended::Spinning
            | Ended::Yielding {
                let_others_run: false,
            } => halvings.saturating_sub(1),
            Ended::Yielding {
                let_others_run: true,
            }
            | Ended::InVain => (halvings + 1).min(MOST_HALVINGS),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(waits: u32, hits_between: u32) -> u16 {
        let spin = Spin::default();
        for _ in 0..waits {
            (0..hits_between).for_each(|_| spin.hit());
            let _ = spin.look(|| Some(()));
        }
        spin.pause.get()
    }

    #[test]
    fn a_stream_settles_at_long_pauses_and_a_ping_pong_at_none() {
        assert_eq!(after(100, 5), LONGEST_PAUSE);
        assert_eq!(after(100, 1), 0);
    }

    #[test]
    fn after_a_yield_that_cost_a_time_slice_waits_do_not_yield_for_longer_each_time() {
        let spin = Spin::default();
        let waits_without = || (0_u32..).take_while(|_| !spin.may_yield()).count();
        spin.learn_of_yield(YIELDING);
        assert_eq!(waits_without(), 0);
        for expected in [16, 32, 64] {
            spin.learn_of_yield(SLICE * 2);
            assert_eq!(waits_without(), expected);
        }
        (0..20).for_each(|_| spin.learn_of_yield(SLICE * 2));
        assert_eq!(waits_without(), usize::from(MOST_WITHOUT));
    }

    #[test]
    fn waits_that_spinning_did_not_end_shorten_it_and_others_lengthen_it() {
        let spin = Spin::default();
        let learned = |ended, times| {
            (0..times).for_each(|_| spin.learn(ended));
            spin.halvings.get()
        };
        let shared = Ended::Yielding {
            let_others_run: true,
        };
        let alone = Ended::Yielding {
            let_others_run: false,
        };
        assert_eq!(learned(Ended::InVain, 2), 2);
        assert_eq!(learned(shared, 9), MOST_HALVINGS);
        assert_eq!(learned(alone, 1), MOST_HALVINGS - 1);
        assert_eq!(learned(Ended::Spinning, 9), 0);
    }
}
