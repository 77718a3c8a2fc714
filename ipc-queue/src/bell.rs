//! Waking those who wait without a thread: futures, and whoever polls a descriptor.
//!
//! The design: whoever blocks sleeps at a *door*, the place where the transport wakes receivers (or senders) one by one:
//! over shared memory a futex. A *doorman*, one thread for each door of an opened queue, there only while somebody listens
//! at it, sleeps at the door like any blocked handle, and calls wakers instead of receiving. So senders pay nothing for it
//! and know nothing of it; a killed listener is a killed sleeper, which the event count copes with already; there is no
//! file to ring with, hence none to name, protect, and remove after a crash. A FIFO would save the doorman's turn (a few
//! microseconds, only while idle) for all that; `futex_waitv` would save the threads of many queues, but needs Linux 5.16.
//!
//! Who is woken must answer: look, then say that it found something (then the next is woken, too, until one finds
//! nothing) or listen again. One that is dropped instead passes its ring on at once; one that does neither
//! within [`ANSWER`], because its executor is busy, has it passed on by the doorman. So nobody sits on another's wake-up.
//! What is lost in a crash costs a slice: then all listeners look for themselves.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

/// Where a transport's blocked receivers, or senders, sleep.
pub trait Door: Debug + Send + Sync {
    /// Says that somebody is about to sleep; how many notifications there were so far. The number may wrap. What is waited
    /// for must be looked at again after this.
    fn announce(&self) -> u32;

    /// Sleeps until there were more notifications than `heard`, at most for `limit`; may return early.
    fn sleep(&self, heard: u32, limit: Duration);

    /// Wakes one who sleeps here, if anybody does.
    fn pass_on(&self);

    /// Does what a blocked handle does now and then: ends leases, frees what the dead held.
    fn look_around(&self);

    /// Whether one notification may concern any sleeper, and not just the first.
    fn is_for_all(&self) -> bool {
        false
    }
}

/// The listeners at one door. Transports keep one for each door, which all handles of one opening share.
#[derive(Debug, Default)]
pub struct Listeners {
    state: Mutex<State>,
    /// Somebody began to listen.
    came: Condvar,
}

/// What a handle listens at: a door and its listeners.
#[derive(Clone, Debug)]
pub struct Bell {
    listeners: Arc<Listeners>,
    door: Arc<dyn Door>,
}

/// One who listens, until dropped. Passes on what it was rung for and did not answer.
#[derive(Debug)]
pub(crate) struct Listener {
    bell: Bell,
    key: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Those who listen, first come first.
    entries: BTreeMap<u64, Entry>,
    next_key: u64,
    /// Whether a doorman is there.
    attended: bool,
    /// Up to which notification somebody was rung for each.
    heard: u32,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    mood: Mood,
}

/// How it is with a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Listening,
    /// Rung, and has not answered.
    Rung,
    /// Rung, and did not answer in time: somebody else was rung in its stead.
    Slow,
}

/// How long one who was rung may take to look before somebody else is.
const ANSWER: Duration = Duration::from_millis(5);
/// How long a doorman sleeps before everybody looks for themselves; and stays when nobody listens.
const SLICE: Duration = Duration::from_millis(500);
/// What a doorman's thread needs, generously.
const STACK_BYTES: usize = 256 * 1024;

/// Where nobody is notified of anything, except of the time.
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
    /// The bell of a door.
    #[must_use]
    pub fn new(listeners: Arc<Listeners>, door: Arc<dyn Door>) -> Self {
        Self { listeners, door }
    }

    /// One that rings for everybody every few milliseconds, whether or not anything came: for transports that can't tell.
    #[must_use]
    pub fn polling() -> Self {
        static LISTENERS: OnceLock<Arc<Listeners>> = OnceLock::new();
        let listeners = LISTENERS.get_or_init(Arc::default);
        Self::new(Arc::clone(listeners), Arc::new(ClockDoor))
    }

    /// Somebody who may listen.
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

    /// Rings one listener, or else wakes somebody elsewhere.
    pub(crate) fn pass_on(&self) {
        let mut state = self.state();
        let next = state.ring(1);
        drop(state);
        if next.is_empty() {
            self.door.pass_on();
        }
        wake(next);
    }

    /// Makes sure that a doorman is there, and not away from the door.
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

    /// The doorman.
    fn stand_at_door(&self) {
        let mut state = self.state();
        loop {
            if !state.is_anybody_listening() {
                // Away from the door: a sleeper with nobody to ring would only be in the others' way.
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

    /// Waits until somebody listens again; `None`: nobody did for so long that the doorman left.
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

    /// After a sleep that began when there had been `heard` notifications.
    fn look_after(&self, heard: u32, limit: Duration) -> MutexGuard<'_, State> {
        let now = self.door.announce();
        if now != heard {
            let state = self.state();
            if state.is_anybody_listening() {
                return state;
            }
            // It was for somebody who left meanwhile.
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

    /// Rings somebody in the stead of each who was rung and did not answer.
    fn ring_for_the_slow(&self) {
        let slow = self.state().give_up_waiting_for_answers();
        (0..slow).for_each(|_| self.pass_on());
    }
}

impl Listener {
    /// Listens from now on: `waker` is woken when it is time to look. Look once more after this.
    ///
    /// # Errors
    /// No thread can be started.
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

    /// Found what it listened for: others may find some, too.
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

    /// How it was, if it ever listened.
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

    /// For each notification that was not heard yet, one listener, or all.
    fn hear(&mut self, now: u32, is_for_all: bool) -> Vec<Waker> {
        let missed = now.wrapping_sub(std::mem::replace(&mut self.heard, now));
        match missed {
            0 => Vec::new(),
            _ if is_for_all => self.ring(usize::MAX),
            some => self.ring(some as usize),
        }
    }

    /// Marks the next listeners as rung, at most `most`; to be woken without the lock.
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

    /// How many had not answered.
    fn give_up_waiting_for_answers(&mut self) -> usize {
        let rung = self.entries.values_mut();
        let rung = rung.filter(|entry| entry.mood == Mood::Rung);
        rung.map(|entry| entry.mood = Mood::Slow).count()
    }
}

/// Without the lock: an executor may do anything in there, also drop a listener. Whatever it does is not the doorman's end.
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

    /// A door at which nobody sleeps but the doorman.
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
        assert_eq!(state.hear(2, false).len(), 0, "heard before");
        assert_eq!(state.hear(3, true).len(), 2, "the rest of them");
        assert_eq!(state.give_up_waiting_for_answers(), 4);
        assert_eq!(state.give_up_waiting_for_answers(), 0, "replaced once");
    }
}
