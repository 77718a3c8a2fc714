//! Waiting for another process, and waking it.
//!
//! An event count in one futex word: the lowest bit says "somebody may be asleep", the rest counts
//! wake-ups. Waiting is: [`prepare`](Event::prepare), look once more at what is waited for, then
//! [`wait`](Event::wait); a notification between the two makes the wait return at once. Notifying costs
//! one load while nobody sleeps.
//!
//! The bit is a flag and not a count because a killed waiter would leave a count too high for ever; a
//! stale flag costs two needless system calls. It stays up while anybody may sleep: a notification that
//! finds nobody asleep lowers it, and then wakes whoever fell asleep meanwhile. Lowered any earlier, say by
//! the notification that wakes the first of two sleepers, it would hide the second from the next one.
//!
//! A process that is killed or stopped after it was woken, or between lowering the flag and waking, takes
//! that one wake-up with it: others sleep on until their slice ends, or until the death is noticed, which
//! wakes everybody. So a waiter must look again after every return, also a timed-out one.
//!
//! Event counts: <https://www.1024cores.net/home/lock-free-algorithms/eventcounts>.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest that anybody sleeps before looking again for itself. Bounds the harm that a wake-up lost
/// in a crash can do, at two wake-ups a second.
pub const SLICE: Duration = Duration::from_millis(500);

/// An event count on a shared word. Zero is a valid start.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Written by waiters (flag raised) and notifiers (count raised; flag lowered if nobody sleeps).
    word: &'a AtomicU32,
}

/// What the word was when the waiter announced itself.
#[derive(Clone, Copy, Debug)]
#[must_use = "look once more at what is waited for, then wait with it"]
pub struct Ticket(u32);

impl Ticket {
    /// How many notifications there had been, modulo 2³¹.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0 >> 1
    }

    /// The ticket of a waiter that announced itself after `count` notifications.
    pub const fn of_count(count: u32) -> Self {
        Self(count << 1 | ASLEEP)
    }
}

/// Why a wait returned. Whatever the reason, look again before waiting again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A notification, a signal, or nothing at all.
    Perhaps,
    /// The time was up.
    TimedOut,
}

const ASLEEP: u32 = 1;
const ONE_MORE: u32 = 2;

impl<'a> Event<'a> {
    /// The event count in `word`.
    #[must_use]
    pub const fn new(word: &'a AtomicU32) -> Self {
        Self { word }
    }

    /// Announces a waiter. What is waited for must be looked at again after this, with a `SeqCst` load.
    #[inline]
    pub fn prepare(self) -> Ticket {
        Ticket(self.word.fetch_or(ASLEEP, Ordering::SeqCst) | ASLEEP)
    }

    /// Sleeps until notified, at most for `limit` and never past [`SLICE`].
    pub fn wait(self, ticket: Ticket, limit: Duration) -> Woken {
        futex_wait(self.word, ticket.0, limit.min(SLICE))
    }

    /// Wakes one waiter, if any. What it waits for must have been written before, by a `SeqCst`
    /// read-modify-write.
    #[inline]
    pub fn notify_one(self) {
        if self.word.load(Ordering::SeqCst) & ASLEEP != 0 {
            self.wake_one();
        }
    }

    /// Wakes all waiters.
    pub fn notify_all(self) {
        // Also without the flag: whoever fell asleep while it was being lowered is woken by this.
        self.word.fetch_add(ONE_MORE, Ordering::SeqCst);
        futex_wake(self.word, i32::MAX);
    }

    #[cold]
    fn wake_one(self) {
        self.word.fetch_add(ONE_MORE, Ordering::SeqCst);
        if futex_wake(self.word, 1) == 0 {
            self.lower_flag();
        }
    }

    /// Nobody slept a moment ago.
    fn lower_flag(self) {
        let word = self.word.load(Ordering::SeqCst);
        // Odd plus one: flag lowered, count raised. If the word changed meanwhile, another notifier is
        // at it: a flag left up does no harm.
        let lowered = word.wrapping_add(1);
        if word & ASLEEP != 0
            && self
                .word
                .compare_exchange(word, lowered, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            // Whoever fell asleep between the two has no flag to be seen by: let them raise it again.
            futex_wake(self.word, i32::MAX);
        }
    }
}

/// The time left until `deadline`, or `None` when it has passed. No deadline: as good as for ever.
#[must_use]
pub fn time_left(deadline: Option<Instant>) -> Option<Duration> {
    match deadline {
        None => Some(Duration::MAX),
        Some(deadline) => {
            Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
        }
    }
}

fn futex_wait(word: &AtomicU32, expected: u32, limit: Duration) -> Woken {
    let timeout = libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    // SAFETY: `word` and `timeout` are live references for the whole call; the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
        )
    };
    match result {
        0 => Woken::Perhaps,
        _ if nix::errno::Errno::last() == nix::errno::Errno::ETIMEDOUT => Woken::TimedOut,
        _ => Woken::Perhaps,
    }
}

/// How many were woken.
fn futex_wake(word: &AtomicU32, sleepers: i32) -> i64 {
    // SAFETY: `word` is a live reference; the kernel uses its address only as a key.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, sleepers) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;
    use crate::testing::threads_asleep_on;

    /// As `wait`, but so long that a time-out means a lost wake-up, however busy the machine is.
    fn sleep(event: Event<'_>, ticket: Ticket) -> Woken {
        futex_wait(event.word, ticket.0, 100 * SLICE)
    }

    #[test]
    fn a_notification_between_looking_and_waiting_is_not_lost() {
        let word = AtomicU32::new(0);
        let event = Event::new(&word);
        for notify in [Event::notify_one, Event::notify_all] {
            let ticket = event.prepare();
            notify(event);
            assert_eq!(event.wait(ticket, SLICE), Woken::Perhaps);
        }
    }

    #[test]
    fn an_unheard_wait_ends_with_its_limit() {
        let word = AtomicU32::new(0);
        let event = Event::new(&word);
        let ticket = event.prepare();
        assert_eq!(
            event.wait(ticket, Duration::from_millis(1)),
            Woken::TimedOut
        );
    }

    #[test]
    fn handing_a_number_to_and_fro_never_stalls() {
        const ROUNDS: u64 = 2_000;
        let (there, back) = (AtomicU32::new(0), AtomicU32::new(0));
        let number = AtomicU64::new(0);
        let turn = |parity: u64, mine: Event<'_>, theirs: Event<'_>| {
            while number.load(Ordering::SeqCst) < ROUNDS {
                let ticket = mine.prepare();
                let now = number.load(Ordering::SeqCst);
                if now % 2 == parity {
                    number.fetch_add(1, Ordering::SeqCst);
                    theirs.notify_one();
                } else if now < ROUNDS {
                    assert_eq!(sleep(mine, ticket), Woken::Perhaps);
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| turn(0, Event::new(&there), Event::new(&back)));
            scope.spawn(|| turn(1, Event::new(&back), Event::new(&there)));
        });
    }

    #[test]
    fn notify_all_reaches_sleepers_whose_flag_was_lowered() {
        let word = AtomicU32::new(0);
        let event = Event::new(&word);
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| sleep(event, event.prepare()));
            while threads_asleep_on(&[&word]) < 1 {
                thread::yield_now();
            }
            // By a notifier that was killed before it woke anybody.
            word.fetch_and(!ASLEEP, Ordering::SeqCst);
            event.notify_all();
            assert_eq!(sleeper.join().unwrap(), Woken::Perhaps);
        });
    }

    #[test]
    fn whoever_fell_asleep_while_the_flag_was_lowered_is_woken() {
        let word = AtomicU32::new(0);
        let event = Event::new(&word);
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| sleep(event, event.prepare()));
            while threads_asleep_on(&[&word]) < 1 {
                thread::yield_now();
            }
            // By a notifier that found nobody asleep a moment ago.
            event.lower_flag();
            assert_eq!(sleeper.join().unwrap(), Woken::Perhaps);
        });
    }

    #[test]
    fn two_notifications_in_a_row_wake_two_sleepers() {
        for _ in 0..100 {
            let word = AtomicU32::new(0);
            let event = Event::new(&word);
            thread::scope(|scope| {
                let sleepers = [(); 2].map(|()| scope.spawn(|| sleep(event, event.prepare())));
                while threads_asleep_on(&[&word]) < 2 {
                    thread::yield_now();
                }
                event.notify_one();
                event.notify_one();
                for sleeper in sleepers {
                    assert_eq!(sleeper.join().unwrap(), Woken::Perhaps);
                }
            });
        }
    }
}
