//! How eagerly a blocked handle looks again before it sleeps.
//!
//! Polling *is* the contention: who polls takes the cache line that the other side is about to write, and
//! both run in lock-step. So the pause between two looks adapts. When a wait ends, count how many
//! operations then succeed without waiting: two or more, and the pause doubles, for it let work batch up;
//! just one, and it shrinks by a quarter. A stream settles at long pauses, a ping-pong at the shortest: none at all would
//! take the line between a sender's claim and its publication.

use std::cell::Cell;
use std::hint;
use std::time::{Duration, Instant};

/// How long to look again and again before sleeping: about what a sleep and a wake-up cost.
const BUDGET: Duration = Duration::from_micros(30);
/// In `pause` instructions, of some 15 ns each.
const SHORTEST_PAUSE: u32 = 5;
const LONGEST_PAUSE: u32 = 256;
/// Pauses between two readings of the clock.
const UNTIMED: u32 = 32;

/// What a handle learned about its own waits.
#[derive(Debug, Default)]
pub struct Spin {
    /// Beyond the shortest.
    pause: Cell<u32>,
    /// Operations since the last wait.
    streak: Cell<u32>,
}

impl Spin {
    /// Notes an operation that succeeded at once.
    #[inline]
    pub fn hit(&self) {
        self.streak.set(self.streak.get().saturating_add(1));
    }

    /// Looks again for a while; what it found, or `None` when it is time to sleep.
    pub fn look<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        self.adapt();
        let started = Instant::now();
        let mut untimed = 0;
        loop {
            (0..SHORTEST_PAUSE + self.pause.get()).for_each(|_| hint::spin_loop());
            if let Some(found) = attempt() {
                return Some(found);
            }
            untimed += SHORTEST_PAUSE + self.pause.get();
            if untimed >= UNTIMED {
                if started.elapsed() > BUDGET {
                    return None;
                }
                untimed = 0;
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(waits: u32, hits_between: u32) -> u32 {
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
}
