//! Wakes waiters that do not block a thread: futures, and pollers of a descriptor.
//!
//! The design: a blocked handle sleeps at a *wait queue* (code: [`Door`]), where the transport
//! wakes receivers (or senders) one by one. In shared memory that is a futex. A *notifier thread*
//! (code: doorman) sleeps there like any blocked handle, but calls wakers instead of receiving.
//! Each wait queue of an opened queue has at most one, and only while a waiter is registered.
//!
//! So senders pay nothing for notifier threads and know nothing of them. A killed waiter is a
//! killed sleeper, which the event count handles already. No file is needed for waking, so none
//! must be named, protected, and removed after a crash. A FIFO would need all that, and would only
//! save the notifier thread's turn: a few microseconds, while idle. `futex_waitv` would save the
//! threads of many queues, but needs Linux 5.16.
//!
//! A woken waiter must answer. It scans; then it either reports that it found something, or waits
//! again. A report wakes the next waiter, until one finds nothing. A waiter that is dropped instead
//! passes its wake on at once. If a waiter does neither within `ANSWER`, because its executor is
//! busy, the notifier thread passes its wake on. So no waiter withholds a wake from the others. A
//! wake that is lost in a crash costs at most `SLICE`: then all waiters scan.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

/// The wait queue of a transport's blocked receivers, or of its senders.
pub trait Door: Debug + Send + Sync {
    /// Registers an intention to sleep, and returns the number of notifications so far. The number
    /// may wrap. The caller must check its condition again after this call.
    fn announce(&self) -> u32;

    /// Sleeps until the number of notifications differs from `heard`, for at most `limit`. May
    /// return early.
    fn sleep(&self, heard: u32, limit: Duration);

    /// Wakes one sleeper of this wait queue, if there is one.
    fn pass_on(&self);

    /// Does the regular maintenance of a blocked handle: ends expired leases, frees what dead
    /// processes held.
    fn look_around(&self);

    /// Returns whether one notification may concern every sleeper, not only the first.
    fn is_for_all(&self) -> bool {
        false
    }
}

/// The waiters at one wait queue. A transport keeps one of these per wait queue, and all handles of
/// one opening share it.
#[derive(Debug, Default)]
pub struct Listeners {
    state: Mutex<State>,
    /// Notified when a waiter is registered.
    came: Condvar,
}

/// The notification source of a handle: a wait queue and its waiters.
#[derive(Clone, Debug)]
pub struct Bell {
    listeners: Arc<Listeners>,
    door: Arc<dyn Door>,
}

/// A waiter, registered until it is dropped. Passes on a wake that it did not answer.
#[derive(Debug)]
pub(crate) struct Listener {
    bell: Bell,
    key: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The waiters, in the order of their registration.
    entries: BTreeMap<u64, Entry>,
    next_key: u64,
    /// Set while a notifier thread exists.
    attended: bool,
    /// The number of the last notification that was passed to a waiter.
    heard: u32,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    mood: Mood,
}

/// The state of a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Listening,
    /// Woken, and has not answered.
    Rung,
    /// Woken, and did not answer in time: another waiter was woken instead.
    Slow,
}

/// The time for a woken waiter to answer before another is woken.
const ANSWER: Duration = Duration::from_millis(5);
/// The time that a notifier thread sleeps before it wakes all waiters, and stays without a waiter.
const SLICE: Duration = Duration::from_millis(500);
/// The stack of a notifier thread; generous.
const STACK_BYTES: usize = 256 * 1024;

/// A wait queue without notifications: its count grows with time only.
#[derive(Debug)]
struct ClockDoor;

impl ClockDoor {
    const EVERY: Duration = Duration::from_millis(2);

    fn since_first_look() -> Duration {
        static FIRST_LOOK: OnceLock<Instant> = OnceLock::new();
        FIRST_LOOK.get_or_init(Instant::now).elapsed()
    }
}

impl Door for ClockDoor {
    fn announce(&self) -> u32 {
        (Self::since_first_look().as_micros() / Self::EVERY.as_micros()) as u32
    }

    fn sleep(&self, heard: u32, limit: Duration) {
        if self.announce() == heard {
            thread::sleep(Self::EVERY.min(limit));
        }
    }

    fn pass_on(&self) {}

    fn look_around(&self) {}

    fn is_for_all(&self) -> bool {
        true
    }
}

impl Bell {
    /// Creates the notification source of a wait queue.
    #[must_use]
    pub fn new(listeners: Arc<Listeners>, door: Arc<dyn Door>) -> Self {
        Self { listeners, door }
    }

    /// Returns a source that wakes all waiters every few milliseconds, whether or not anything
    /// arrived: for transports without notifications.
    #[must_use]
    pub fn polling() -> Self {
        static LISTENERS: OnceLock<Arc<Listeners>> = OnceLock::new();
        let listeners = LISTENERS.get_or_init(Arc::default);
        Self::new(Arc::clone(listeners), Arc::new(ClockDoor))
    }

    /// Returns a waiter that is not registered yet.
    pub(crate) fn listener(self) -> Listener {
        Listener {
            bell: self,
            key: None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.listeners.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes one waiter, or else a sleeper in another process.
    pub(crate) fn pass_on(&self) {
        let mut state = self.state();
        let next = state.ring(1);
        drop(state);
        if next.is_empty() {
            self.door.pass_on();
        }
        wake(next);
    }

    /// Ensures that a notifier thread exists and is at the wait queue.
    fn attend(&self, state: &mut State) -> io::Result<()> {
        if !state.attended {
            let bell = self.clone();
            thread::Builder::new()
                .name("ipc-doorman".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || bell.stand_at_door())?;
            state.attended = true;
        }
        self.listeners.came.notify_one();
        Ok(())
    }

    /// The notifier thread's loop.
    fn stand_at_door(&self) {
        let mut state = self.state();
        loop {
            if !state.is_anybody_listening() {
                // Leaves the wait queue: a sleeper without waiters would only take wakes away from
                // others.
                state = match self.rest(state) {
                    Some(state) => state,
                    None => return,
                };
                continue;
            }
            let now = self.door.announce();
            let rung = state.hear(now, self.door.is_for_all());
            if !rung.is_empty() {
                drop(state);
                wake(rung);
                state = self.state();
                continue;
            }
            let limit = state.patience();
            drop(state);
            self.door.sleep(now, limit);
            state = self.look_after(now, limit);
        }
    }

    /// Waits until a waiter is registered again. `None`: none was for so long that the thread ends.
    fn rest<'b>(&'b self, state: MutexGuard<'b, State>) -> Option<MutexGuard<'b, State>> {
        let limit = state.patience();
        let rested = self.listeners.came.wait_timeout(state, limit);
        let (mut state, woken) = rested.unwrap_or_else(PoisonError::into_inner);
        if !woken.timed_out() {
            return Some(state);
        }
        if state.entries.is_empty() {
            state.attended = false;
            return None;
        }
        drop(state);
        self.ring_for_the_slow();
        Some(self.state())
    }

    /// Handles the end of a sleep that began at notification number `heard`.
    fn look_after(&self, heard: u32, limit: Duration) -> MutexGuard<'_, State> {
        let now = self.door.announce();
        if now != heard {
            let state = self.state();
            if state.is_anybody_listening() {
                return state;
            }
            // It was for a waiter that has left since.
            drop(state);
            self.door.pass_on();
        } else if limit == ANSWER {
            self.ring_for_the_slow();
        } else {
            self.door.look_around();
            let all = self.state().ring(usize::MAX);
            wake(all);
        }
        self.state()
    }

    /// Wakes another waiter for each that was woken and did not answer.
    fn ring_for_the_slow(&self) {
        let slow = self.state().give_up_waiting_for_answers();
        (0..slow).for_each(|_| self.pass_on());
    }
}

impl Listener {
    /// Registers this waiter: `waker` is woken when it is time to try. Try once more after this.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn listen(&mut self, waker: &Waker) -> io::Result<()> {
        let heard = self.bell.door.announce();
        let mut state = self.bell.state();
        if let Some(entry) = self.key.and_then(|key| state.entries.get_mut(&key))
            && entry.mood == Mood::Listening
        {
            entry.waker.clone_from(waker);
            return Ok(());
        }
        self.bell.attend(&mut state)?;
        if !state.is_anybody_listening() {
            state.heard = heard;
        }
        if let Some(key) = self.key {
            state.entries.remove(&key);
        }
        self.key = Some(state.add(waker.clone()));
        Ok(())
    }

    /// Reports that the caller found what it waited for. Wakes the next waiter, because there may
    /// be more.
    pub(crate) fn found(mut self, more: bool) {
        if self.leave().is_none() {
            return;
        }
        let next = self.bell.state().ring(1);
        wake(next);
        if more {
            self.bell.door.pass_on();
        }
    }

    /// Removes the registration, and returns its state if there was one.
    fn leave(&mut self) -> Option<Mood> {
        let key = self.key.take()?;
        let left = self.bell.state().entries.remove(&key);
        left.map(|entry| entry.mood)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.leave() == Some(Mood::Rung) {
            self.bell.pass_on();
        }
    }
}

impl State {
    fn add(&mut self, waker: Waker) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        let mood = Mood::Listening;
        self.entries.insert(key, Entry { waker, mood });
        key
    }

    fn is_anybody_listening(&self) -> bool {
        let mut moods = self.entries.values().map(|entry| entry.mood);
        moods.any(|mood| mood == Mood::Listening)
    }

    /// Wakes one waiter for each new notification, or all waiters if `is_for_all`.
    fn hear(&mut self, now: u32, is_for_all: bool) -> Vec<Waker> {
        let missed = now.wrapping_sub(std::mem::replace(&mut self.heard, now));
        match missed {
            0 => Vec::new(),
            _ if is_for_all => self.ring(usize::MAX),
            some => self.ring(some as usize),
        }
    }

    /// Marks the next waiters as woken, at most `most`. The caller wakes them after it has released
    /// the lock.
    #[must_use = "wake them"]
    fn ring(&mut self, most: usize) -> Vec<Waker> {
        let listening = self.entries.values_mut();
        let listening = listening.filter(|entry| entry.mood == Mood::Listening);
        let rung = listening.take(most).map(|entry| {
            entry.mood = Mood::Rung;
            entry.waker.clone()
        });
        rung.collect()
    }

    fn patience(&self) -> Duration {
        let mut moods = self.entries.values().map(|entry| entry.mood);
        if moods.any(|mood| mood == Mood::Rung) {
            ANSWER
        } else {
            SLICE
        }
    }

    /// Marks all waiters without an answer as slow, and returns their number.
    fn give_up_waiting_for_answers(&mut self) -> usize {
        let rung = self.entries.values_mut();
        let rung = rung.filter(|entry| entry.mood == Mood::Rung);
        rung.map(|entry| entry.mood = Mood::Slow).count()
    }
}

/// Called without the lock, because an executor may run any code in `wake`, and may drop a waiter.
/// A panic there does not end the notifier thread.
fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    /// A wait queue at which only the notifier thread sleeps.
    #[derive(Debug, Default)]
    struct Porch {
        notifications: Mutex<u32>,
        came: Condvar,
        passed_on: AtomicU32,
    }

    impl Porch {
        fn notify(&self) {
            *self.notifications.lock().unwrap() += 1;
            self.came.notify_all();
        }
    }

    impl Door for Porch {
        fn announce(&self) -> u32 {
            *self.notifications.lock().unwrap()
        }

        fn sleep(&self, heard: u32, limit: Duration) {
            let now = self.notifications.lock().unwrap();
            let _ = self
                .came
                .wait_timeout_while(now, limit, |now| *now == heard)
                .unwrap();
        }

        fn pass_on(&self) {
            self.passed_on.fetch_add(1, Ordering::SeqCst);
        }

        fn look_around(&self) {}
    }

    #[derive(Debug, Default)]
    struct Rung(AtomicBool);

    impl Wake for Rung {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn one_who_is_dropped_after_it_was_rung_passes_that_on() {
        let (porch, rung) = (Arc::new(Porch::default()), Arc::new(Rung::default()));
        let door: Arc<dyn Door> = Arc::clone(&porch) as _;
        let mut listener = Bell::new(Arc::default(), door).listener();
        listener.listen(&Waker::from(Arc::clone(&rung))).unwrap();
        porch.notify();
        while !rung.0.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        drop(listener);
        assert_eq!(porch.passed_on.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn each_notification_rings_another_one() {
        let mut state = State::default();
        for _ in 0..4 {
            let _ = state.add(Waker::from(Arc::new(Rung::default())));
        }
        assert_eq!(state.hear(2, false).len(), 2);
        assert_eq!(state.hear(2, false).len(), 0, "already heard");
        assert_eq!(state.hear(3, true).len(), 2, "the remaining two");
        assert_eq!(state.give_up_waiting_for_answers(), 4);
        assert_eq!(state.give_up_waiting_for_answers(), 0, "replaced once");
    }
}
