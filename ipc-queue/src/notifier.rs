//! Wakes waiters that do not block a thread: futures, and pollers of a descriptor.
//!
//! The design: a blocked handle sleeps at a *wait queue*, where the transport
//! wakes receivers (or senders) one by one. In shared memory that is a futex. A *notifier thread*
//! sleeps there like any blocked handle, but calls wakers instead of receiving.
//! Each wait queue of an opened queue has at most one, and only while a waiter is registered.
//!
//! So senders pay nothing for notifier threads and know nothing of them. A killed waiter is a
//! killed sleeper, which the event count handles already. No file is needed for waking, so none
//! must be named, protected, and removed after a crash. A FIFO would need all that, and would only
//! save the notifier thread's turn: a few microseconds, while idle. With `futex_waitv` one thread
//! could wait at many queues, but it needs Linux 5.16.
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
pub trait WaitQueue: Debug + Send + Sync {
    /// Registers an intention to sleep, and returns the number of notifications so far. The number
    /// may wrap. The caller must check its condition again after this call.
    fn prepare(&self) -> u32;

    /// Sleeps until the number of notifications differs from `heard`, for at most `limit`. May
    /// return early.
    fn sleep(&self, heard: u32, limit: Duration);

    /// Wakes one sleeper of this wait queue, if there is one.
    fn wake_one(&self);

    /// Does the regular maintenance of a blocked handle: ends expired leases, frees what dead
    /// processes held.
    fn maintain(&self);

    /// Called when a waiter registers, for statistics.
    fn registered(&self) {}

    /// Called when a waiter leaves, for statistics.
    fn left(&self) {}

    /// Returns whether one notification may concern every sleeper, not only the first.
    fn wakes_all(&self) -> bool {
        false
    }
}

/// The waiters at one wait queue. A transport keeps one of these per wait queue, and all handles of
/// one opening share it.
#[derive(Debug, Default)]
pub struct Waiters {
    state: Mutex<State>,
    /// Notified when a waiter is registered.
    registered: Condvar,
}

/// The notification source of a handle: a wait queue and its waiters.
#[derive(Clone, Debug)]
pub struct Notifier {
    waiters: Arc<Waiters>,
    wait_queue: Arc<dyn WaitQueue>,
}

/// A waiter, registered until it is dropped. Passes on a wake that it did not answer.
#[derive(Debug)]
pub(crate) struct Waiter {
    notifier: Notifier,
    key: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The waiters, in the order of their registration.
    entries: BTreeMap<u64, Entry>,
    next_key: u64,
    /// Set while a notifier thread exists.
    has_thread: bool,
    /// The number of the last notification that was passed to a waiter.
    heard: u32,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    state: WaiterState,
}

/// The state of a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaiterState {
    Waiting,
    /// Woken, and has not answered.
    Woken,
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
struct ClockWaitQueue;

impl ClockWaitQueue {
    const EVERY: Duration = Duration::from_millis(2);

    fn since_first_look() -> Duration {
        static FIRST_LOOK: OnceLock<Instant> = OnceLock::new();
        FIRST_LOOK.get_or_init(Instant::now).elapsed()
    }
}

impl WaitQueue for ClockWaitQueue {
    fn prepare(&self) -> u32 {
        (Self::since_first_look().as_micros() / Self::EVERY.as_micros()) as u32
    }

    fn sleep(&self, heard: u32, limit: Duration) {
        if self.prepare() == heard {
            thread::sleep(Self::EVERY.min(limit));
        }
    }

    fn wake_one(&self) {}

    fn maintain(&self) {}

    fn wakes_all(&self) -> bool {
        true
    }
}

impl Notifier {
    /// Creates the notification source of a wait queue.
    #[must_use]
    pub fn new(waiters: Arc<Waiters>, wait_queue: Arc<dyn WaitQueue>) -> Self {
        Self {
            waiters,
            wait_queue,
        }
    }

    /// Returns a source that wakes all waiters every few milliseconds, whether or not anything
    /// arrived: for transports without notifications.
    #[must_use]
    pub fn polling() -> Self {
        static LISTENERS: OnceLock<Arc<Waiters>> = OnceLock::new();
        let waiters = LISTENERS.get_or_init(Arc::default);
        Self::new(Arc::clone(waiters), Arc::new(ClockWaitQueue))
    }

    /// Returns a waiter that is not registered yet.
    pub(crate) fn waiter(self) -> Waiter {
        Waiter {
            notifier: self,
            key: None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.waiters.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes one waiter, or else a sleeper in another process.
    pub(crate) fn wake_one(&self) {
        let mut state = self.state();
        let next = state.wake(1);
        drop(state);
        if next.is_empty() {
            self.wait_queue.wake_one();
        }
        wake(next);
    }

    /// Ensures that a notifier thread exists and is at the wait queue.
    fn ensure_thread(&self, state: &mut State) -> io::Result<()> {
        if !state.has_thread {
            let notifier = self.clone();
            thread::Builder::new()
                .name("ipc-notifier".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || notifier.run())?;
            state.has_thread = true;
        }
        self.waiters.registered.notify_one();
        Ok(())
    }

    /// The notifier thread's loop.
    fn run(&self) {
        let mut state = self.state();
        loop {
            if !state.has_waiting() {
                // Leaves the wait queue: a sleeper without waiters would only take wakes away from
                // others.
                state = match self.idle(state) {
                    Some(state) => state,
                    None => return,
                };
                continue;
            }
            let now = self.wait_queue.prepare();
            let woken = state.hear(now, self.wait_queue.wakes_all());
            if !woken.is_empty() {
                drop(state);
                wake(woken);
                state = self.state();
                continue;
            }
            let limit = state.limit();
            drop(state);
            self.wait_queue.sleep(now, limit);
            state = self.after_sleep(now, limit);
        }
    }

    /// Waits until a waiter is registered again. `None`: none was for so long that the thread ends.
    fn idle<'b>(&'b self, state: MutexGuard<'b, State>) -> Option<MutexGuard<'b, State>> {
        let limit = state.limit();
        let rested = self.waiters.registered.wait_timeout(state, limit);
        let (mut state, woken) = rested.unwrap_or_else(PoisonError::into_inner);
        if !woken.timed_out() {
            return Some(state);
        }
        if state.entries.is_empty() {
            state.has_thread = false;
            return None;
        }
        drop(state);
        self.replace_slow();
        Some(self.state())
    }

    /// Handles the end of a sleep that began at notification number `heard`.
    fn after_sleep(&self, heard: u32, limit: Duration) -> MutexGuard<'_, State> {
        let now = self.wait_queue.prepare();
        if now != heard {
            let state = self.state();
            if state.has_waiting() {
                return state;
            }
            // The notification was for a waiter that has left since.
            drop(state);
            self.wait_queue.wake_one();
        } else if limit == ANSWER {
            self.replace_slow();
        } else {
            self.wait_queue.maintain();
            let all = self.state().wake(usize::MAX);
            wake(all);
        }
        self.state()
    }

    /// Wakes another waiter for each that was woken and did not answer.
    fn replace_slow(&self) {
        let slow = self.state().mark_slow();
        (0..slow).for_each(|_| self.wake_one());
    }
}

impl Waiter {
    /// Registers this waiter: `waker` is woken when it is time to try. Try once more after this.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn register(&mut self, waker: &Waker) -> io::Result<()> {
        let heard = self.notifier.wait_queue.prepare();
        let mut state = self.notifier.state();
        if let Some(entry) = self.key.and_then(|key| state.entries.get_mut(&key))
            && entry.state == WaiterState::Waiting
        {
            entry.waker.clone_from(waker);
            return Ok(());
        }
        self.notifier.ensure_thread(&mut state)?;
        if !state.has_waiting() {
            state.heard = heard;
        }
        match self.key {
            Some(key) => drop(state.entries.remove(&key)),
            None => self.notifier.wait_queue.registered(),
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
        let next = self.notifier.state().wake(1);
        wake(next);
        if more {
            self.notifier.wait_queue.wake_one();
        }
    }

    /// Removes the registration, and returns its state if there was one.
    fn leave(&mut self) -> Option<WaiterState> {
        let key = self.key.take()?;
        self.notifier.wait_queue.left();
        let left = self.notifier.state().entries.remove(&key);
        left.map(|entry| entry.state)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.leave() == Some(WaiterState::Woken) {
            self.notifier.wake_one();
        }
    }
}

impl State {
    fn add(&mut self, waker: Waker) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        let state = WaiterState::Waiting;
        self.entries.insert(key, Entry { waker, state });
        key
    }

    fn has_waiting(&self) -> bool {
        let mut states = self.entries.values().map(|entry| entry.state);
        states.any(|state| state == WaiterState::Waiting)
    }

    /// Wakes one waiter for each new notification, or all waiters if `wakes_all`.
    fn hear(&mut self, now: u32, wakes_all: bool) -> Vec<Waker> {
        let missed = now.wrapping_sub(std::mem::replace(&mut self.heard, now));
        match missed {
            0 => Vec::new(),
            _ if wakes_all => self.wake(usize::MAX),
            some => self.wake(some as usize),
        }
    }

    /// Marks the next waiters as woken, at most `most`. The caller wakes them after it has released
    /// the lock.
    #[must_use = "wake them"]
    fn wake(&mut self, most: usize) -> Vec<Waker> {
        let waiting = self.entries.values_mut();
        let waiting = waiting.filter(|entry| entry.state == WaiterState::Waiting);
        let woken = waiting.take(most).map(|entry| {
            entry.state = WaiterState::Woken;
            entry.waker.clone()
        });
        woken.collect()
    }

    fn limit(&self) -> Duration {
        let mut states = self.entries.values().map(|entry| entry.state);
        if states.any(|state| state == WaiterState::Woken) {
            ANSWER
        } else {
            SLICE
        }
    }

    /// Marks all waiters without an answer as slow, and returns their number.
    fn mark_slow(&mut self) -> usize {
        let woken = self.entries.values_mut();
        let woken = woken.filter(|entry| entry.state == WaiterState::Woken);
        woken.map(|entry| entry.state = WaiterState::Slow).count()
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
    struct TestWaitQueue {
        notifications: Mutex<u32>,
        registered: Condvar,
        passed_on: AtomicU32,
    }

    impl TestWaitQueue {
        fn notify(&self) {
            *self.notifications.lock().unwrap() += 1;
            self.registered.notify_all();
        }
    }

    impl WaitQueue for TestWaitQueue {
        fn prepare(&self) -> u32 {
            *self.notifications.lock().unwrap()
        }

        fn sleep(&self, heard: u32, limit: Duration) {
            let now = self.notifications.lock().unwrap();
            let _ = self
                .registered
                .wait_timeout_while(now, limit, |now| *now == heard)
                .unwrap();
        }

        fn wake_one(&self) {
            self.passed_on.fetch_add(1, Ordering::SeqCst);
        }

        fn maintain(&self) {}
    }

    #[derive(Debug, Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_waiter_dropped_after_its_wake_passes_it_on() {
        let (wait_queue, woken) = (
            Arc::new(TestWaitQueue::default()),
            Arc::new(Woken::default()),
        );
        let mut waiter = Notifier::new(Arc::default(), Arc::clone(&wait_queue) as _).waiter();
        waiter.register(&Waker::from(Arc::clone(&woken))).unwrap();
        wait_queue.notify();
        while !woken.0.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        drop(waiter);
        assert_eq!(wait_queue.passed_on.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn each_notification_wakes_another_waiter() {
        let mut state = State::default();
        for _ in 0..4 {
            let _ = state.add(Waker::from(Arc::new(Woken::default())));
        }
        assert_eq!(state.hear(2, false).len(), 2);
        assert_eq!(state.hear(2, false).len(), 0, "already heard");
        assert_eq!(state.hear(3, true).len(), 2, "the remaining two");
        assert_eq!(state.mark_slow(), 4);
        assert_eq!(state.mark_slow(), 0, "replaced once");
    }
}
