//! Waiting for another process, and waking it.
//!
//! An event count in one futex word. The lowest bit says that a thread may be asleep; the other
//! bits count notifications. A waiter calls [`prepare`](Event::prepare), checks its condition once
//! more, then calls [`wait`](Event::wait). A notification between the two makes `wait` return at
//! once. While no thread sleeps, a notification costs one load.
//!
//! | the word | by |
//! |---|---|
//! | flag set | a waiter, before it sleeps |
//! | count raised | a notifier that finds the flag set, or that notifies all |
//! | flag cleared, count raised | a notifier that found no thread asleep; it then wakes all |
//!
//! The bit is a flag and not a count of waiters, because a killed waiter would leave a count too
//! high forever. A stale flag costs two needless system calls. The flag stays set while any thread
//! may sleep. A notifier that finds no thread asleep clears it, and then wakes the threads that
//! fell asleep meanwhile. The flag must not be cleared earlier: if the notification that wakes the
//! first of two sleepers cleared it, the next notification would not see the second.
//!
//! A process may be killed or stopped after it was woken, or between clearing the flag and waking.
//! That loses one wake-up. The other waiters sleep until the end of their slice, or until the death
//! is noticed, which wakes them all. So a waiter must check its condition after every return, even
//! after a time-out.
//!
//! Event counts: <https://www.1024cores.net/home/lock-free-algorithms/eventcounts>.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The maximum time that a thread sleeps before it checks its condition. Limits the harm of a
/// wake-up lost in a crash, at the cost of two wake-ups a second.
pub const SLICE: Duration = Duration::from_millis(500);

/// An event count on a shared word. Its initial value is 0.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Changed by waiters and notifiers, see the table above. The count also publishes what a
    /// notifier wrote before.
    word: &'a AtomicU32,
}

/// The value of the word when the waiter prepared to wait.
#[derive(Clone, Copy, Debug)]
#[must_use = "check the condition once more, then wait with the ticket"]
pub struct Ticket(u32);

impl Ticket {
    /// Returns the number of notifications so far, modulo 2³¹.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0 >> 1
    }

    /// Returns the ticket of a waiter that prepared to wait after `count` notifications.
    pub const fn of_count(count: u32) -> Self {
        Self(count << 1 | ASLEEP)
    }
}

/// The reason why a wait returned. Check the condition in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A notification, a signal, or a spurious wake-up.
    Perhaps,
    /// The time limit passed.
    TimedOut,
}

const ASLEEP: u32 = 1;
const ONE_MORE: u32 = 2;

impl<'a> Event<'a> {
    /// Returns the event count in `word`.
    #[must_use]
    pub const fn new(word: &'a AtomicU32) -> Self {
        Self { word }
    }

    /// Prepares to wait. The caller must then check its condition again, with a `SeqCst` load.
    #[inline]
    pub fn prepare(self) -> Ticket {
        Ticket(self.word.fetch_or(ASLEEP, Ordering::SeqCst) | ASLEEP)
    }

    /// Sleeps until notified, for at most `limit` and at most [`SLICE`].
    pub fn wait(self, ticket: Ticket, limit: Duration) -> Woken {
        futex_wait(self.word, ticket.0, limit.min(SLICE))
    }

    /// Wakes one waiter, if there is one. The caller must have written the waiter's condition
    /// before, by a `SeqCst` read-modify-write.
    #[inline]
    pub fn notify_one(self) {
        if self.word.load(Ordering::SeqCst) & ASLEEP != 0 {
            self.wake_one();
        }
    }

    /// Wakes all waiters.
    pub fn notify_all(self) {
        // Regardless of the flag: this also wakes a thread that fell asleep while the flag was
        // being cleared.
        self.word.fetch_add(ONE_MORE, Ordering::SeqCst);
        futex_wake(self.word, i32::MAX);
    }

    #[cold]
    fn wake_one(self) {
        self.word.fetch_add(ONE_MORE, Ordering::SeqCst);
        if futex_wake(self.word, 1) == 0 {
            self.clear_flag();
        }
    }

    /// Clears the flag after no thread was found asleep.
    fn clear_flag(self) {
        let word = self.word.load(Ordering::SeqCst);
        // The word is odd, so adding one clears the flag and raises the count.
        let cleared = word.wrapping_add(1);
        // Success: the flag is clear. Failure: another notifier changed the word, and a flag that
        // stays set does no harm.
        if word & ASLEEP != 0
            && self
                .word
                .compare_exchange(word, cleared, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            // A thread that fell asleep before the flag was cleared is now invisible. Wake it, so
            // that it sets the flag again.
            futex_wake(self.word, i32::MAX);
        }
    }
}

/// Returns the time left until `deadline`, or `None` when it has passed. Without a deadline:
/// `Duration::MAX`.
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
    // SAFETY: `word` and `timeout` are live references for the whole call, and the kernel only
    // reads them.
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

/// Returns the number of threads woken.
fn futex_wake(word: &AtomicU32, sleepers: i32) -> i64 {
    // SAFETY: `word` is a live reference, and the kernel uses its address only as a key.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, sleepers) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;
    use crate::testing::threads_asleep_on;

    /// Like `wait`, but with a limit so long that a time-out means a lost wake-up, however busy the
    /// machine is.
    fn sleep(event: Event<'_>, ticket: Ticket) -> Woken {
        futex_wait(event.word, ticket.0, 100 * SLICE)
    }

    #[test]
    fn a_notification_between_the_check_and_the_wait_is_not_lost() {
        let word = AtomicU32::new(0);
        let event = Event::new(&word);
        for notify in [Event::notify_one, Event::notify_all] {
            let ticket = event.prepare();
            notify(event);
            assert_eq!(event.wait(ticket, SLICE), Woken::Perhaps);
        }
    }

    #[test]
    fn a_wait_without_a_notification_ends_at_its_limit() {
        let word = AtomicU32::new(0);
        let event = Event::new(&word);
        let ticket = event.prepare();
        assert_eq!(
            event.wait(ticket, Duration::from_millis(1)),
            Woken::TimedOut
        );
    }

    #[test]
    fn passing_a_number_back_and_forth_never_stalls() {
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
    fn notify_all_wakes_sleepers_whose_flag_was_cleared() {
        let word = AtomicU32::new(0);
        let event = Event::new(&word);
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| sleep(event, event.prepare()));
            while threads_asleep_on(&[&word]) < 1 {
                thread::yield_now();
            }
            // Simulates a notifier that was killed before it woke a thread.
            word.fetch_and(!ASLEEP, Ordering::SeqCst);
            event.notify_all();
            assert_eq!(sleeper.join().unwrap(), Woken::Perhaps);
        });
    }

    #[test]
    fn a_thread_that_fell_asleep_while_the_flag_was_cleared_is_woken() {
        let word = AtomicU32::new(0);
        let event = Event::new(&word);
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| sleep(event, event.prepare()));
            while threads_asleep_on(&[&word]) < 1 {
                thread::yield_now();
            }
            // Simulates a notifier that just found no thread asleep.
            event.clear_flag();
            assert_eq!(sleeper.join().unwrap(), Woken::Perhaps);
        });
    }

    #[test]
    fn two_consecutive_notifications_wake_two_sleepers() {
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
