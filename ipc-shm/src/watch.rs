//! A thread that notices the deaths of peers, so that sleeping threads need not wake up for it.
//!
//! Each process has one such thread for everything it is attached to. The thread sleeps in `poll`
//! on the pidfds of all peers. It calls [`Watched::maintain`] at once when a peer ends, and at
//! least every [`SLICE`]. Peers without a pidfd here (another PID namespace) are checked every 20
//! ms. The thread is only an accelerator: every user of a segment eventually does the same work. So
//! the thread may be stopped, or killed with its process.
//!
//! Other code can close the thread's own descriptors by mistake, so they are checked (see
//! `descriptor`). A lost pidfd is opened again. A watcher that lost its wake-up pipe is replaced by
//! a new one, which takes over its subjects.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use crate::descriptor::WakePipe;
use crate::events;
use crate::fork::Generation;
use crate::liveness::{Coverage, ProcessIdentity};

pub use crate::liveness::Running;
use crate::wait::SLICE;

/// An object with peers to watch.
pub trait Watched: Send + Sync {
    /// Returns the processes whose death matters.
    fn peers(&self) -> Vec<ProcessIdentity>;

    /// Frees what dead processes held, and does all work that is due. Returns the latest time for
    /// the next call.
    ///
    /// The processes in `running` need not be checked with the kernel. A process that ended since
    /// is found right after the call.
    fn maintain(&self, running: &Running) -> Option<Instant>;
}

/// Watches `subject` until it is dropped.
///
/// If no thread can be started, nothing is watched. Deaths are then noticed up to one slice later.
pub fn watch(subject: Weak<dyn Watched>) {
    let mut subjects = vec![subject];
    loop {
        let watcher = watcher();
        watcher.subjects().append(&mut subjects);
        watcher.resume();
        watcher.nudge();
        if !watcher.is_unreachable.load(Ordering::SeqCst) {
            return;
        }
        // The watcher's successor may have taken the subjects before ours was added.
        subjects.append(&mut watcher.subjects());
    }
}

/// Returns `true` if this process's watcher has a thread. That thread runs at least every
/// [`SLICE`].
#[must_use]
pub fn is_running() -> bool {
    watcher().runs.load(Ordering::Relaxed)
}

/// Ends this process's watcher thread and waits for its end. For programs that are about to fork
/// and must have a single thread then.
///
/// Meanwhile blocked handles check for deaths by themselves, every half second. [`resume`] starts
/// the thread again, and so does [`watch`].
pub fn pause() {
    let Some(watcher) = current().filter(|watcher| watcher.generation.is_current()) else {
        return;
    };
    // The mutex is held until the thread has ended, so that no other thread can resume meanwhile.
    let mut thread = watcher.thread();
    watcher.is_paused.store(true, Ordering::SeqCst);
    watcher.nudge();
    if let Some(thread) = thread.take() {
        let _ = thread.join();
    }
}

/// Restarts the thread that [`pause`] ended.
pub fn resume() {
    if let Some(watcher) = current().filter(|watcher| watcher.generation.is_current()) {
        watcher.resume();
    }
}

/// Makes the watcher check now, because a peer joined or left.
pub fn nudge() {
    watcher().nudge();
}

/// The interval of the checks while some peers have no pidfd.
const POLL_UNWATCHABLE: Duration = Duration::from_millis(20);

struct Watcher {
    generation: Generation,
    subjects: Mutex<Vec<Weak<dyn Watched>>>,
    wake: Option<Arc<WakePipe>>,
    /// Set and cleared by the watcher's thread; read by [`is_running`].
    runs: AtomicBool,
    /// Set by [`pause`]: the thread must end. Cleared by the thread that starts the next one.
    is_paused: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Set once, by the first thread that finds `wake` closed by other code. Another watcher then
    /// takes over.
    is_unreachable: AtomicBool,
}

/// The newest watcher. Written by [`watcher`] only. Its Release publishes the new `Watcher`.
static CURRENT: AtomicPtr<Watcher> = AtomicPtr::new(std::ptr::null_mut());

/// Returns the newest watcher. It may be a copy from the process that this one was forked from.
fn current() -> Option<&'static Watcher> {
    let current = CURRENT.load(Ordering::Acquire);
    // SAFETY: null, or a leaked box that is never freed and only ever shared.
    unsafe { current.as_ref() }
}

/// Returns the watcher of this process. A forked child creates a new one and forgets its parent's.
/// A process whose watcher can no longer be woken also creates a new one, and keeps the subjects.
fn watcher() -> &'static Watcher {
    loop {
        let current = CURRENT.load(Ordering::Acquire);
        // SAFETY: null, or a leaked box that is never freed and only ever shared.
        let known = unsafe { current.as_ref() };
        let ours = known.filter(|watcher| watcher.generation.is_current());
        if let Some(watcher) = ours.filter(|watcher| !watcher.is_unreachable.load(Ordering::SeqCst))
        {
            return watcher;
        }
        let fresh = Box::into_raw(Box::new(Watcher::new()));
        match CURRENT.compare_exchange(current, fresh, Ordering::AcqRel, Ordering::Acquire) {
            // Success: this thread replaced the old watcher, so it starts the new one.
            Ok(_) => {
                // SAFETY: created above and now published, so never freed.
                let watcher: &'static Watcher = unsafe { &*fresh };
                if let Some(unreachable) = ours {
                    watcher.subjects().append(&mut unreachable.subjects());
                }
                watcher.start();
                return watcher;
            }
            // Failure: another thread replaced the watcher first. Look at its watcher instead.
            // SAFETY: created above and not published, so no other thread knows it.
            Err(_) => drop(unsafe { Box::from_raw(fresh) }),
        }
    }
}

impl Watcher {
    fn new() -> Self {
        Self {
            generation: Generation::current(),
            subjects: Mutex::new(Vec::new()),
            wake: WakePipe::new().ok(),
            runs: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            thread: Mutex::default(),
            is_unreachable: AtomicBool::new(false),
        }
    }

    fn start(&'static self) {
        // Signals are left to the program's own threads, except those that this thread's own
        // instructions cause.
        let before = SigSet::thread_get_mask();
        let mut others = SigSet::all();
        let own = [
            Signal::SIGBUS,
            Signal::SIGSEGV,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGTRAP,
        ];
        own.into_iter().for_each(|signal| others.remove(signal));
        let _ = others.thread_set_mask();
        let started = thread::Builder::new()
            .name("ipc-watch".to_owned())
            .spawn(|| self.run());
        match started {
            Ok(thread) => *self.thread() = Some(thread),
            Err(error) => events::no_watcher(&error),
        }
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
    }

    /// Starts the thread if it was paused.
    fn resume(&'static self) {
        if !self.is_paused.load(Ordering::SeqCst) {
            return;
        }
        let thread = self.thread();
        // Only one of several resuming threads clears the flag, so only one starts the thread.
        if self.is_paused.swap(false, Ordering::SeqCst) {
            drop(thread);
            self.start();
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nudge(&self) {
        if let Some(wake) = &self.wake
            && !wake.notify()
        {
            self.give_up();
        }
    }

    /// Replaces this watcher, because it can no longer be woken.
    fn give_up(&self) {
        // Only the first thread that sets the flag creates the successor.
        if !self.is_unreachable.swap(true, Ordering::SeqCst) {
            let _ = watcher();
        }
    }

    fn subjects(&self) -> MutexGuard<'_, Vec<Weak<dyn Watched>>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        self.runs.store(true, Ordering::Relaxed);
        let mut running = Running::default();
        // When `is_unreachable` is set, the next watcher takes over all subjects, including new
        // ones.
        while !self.is_unreachable.load(Ordering::SeqCst) {
            if self.is_paused.load(Ordering::SeqCst) {
                self.runs.store(false, Ordering::Relaxed);
                return;
            }
            let live: Vec<Arc<dyn Watched>> = {
                let mut subjects = self.subjects();
                subjects.retain(|subject| subject.strong_count() > 0);
                subjects.iter().filter_map(Weak::upgrade).collect()
            };
            let idle = live.is_empty();
            let due = live
                .iter()
                .filter_map(|subject| subject.maintain(&running))
                .min();
            // Asked after `maintain`, which may have freed the slots of some peers.
            let peers: Vec<_> = live.iter().flat_map(|subject| subject.peers()).collect();
            // Not held while this thread sleeps, because the last reference must be the subject's
            // owner's.
            drop(live);
            let all_watched = running.update(&peers);
            let limit = match (idle, all_watched) {
                // A new subject wakes this thread, if there is a pipe to wake it.
                (true, _) if self.wake.is_some() => None,
                (true, _) | (false, Coverage::Full) => Some(SLICE),
                (false, Coverage::Partial) => Some(POLL_UNWATCHABLE),
            };
            let due = due.map(|due| due.saturating_duration_since(Instant::now()));
            self.sleep(&running, limit.into_iter().chain(due).min());
            // `update` opens a lost pidfd again.
            running.forget_ended();
        }
    }

    /// Sleeps until a peer ends, [`nudge`] is called, or the time is up.
    fn sleep(&self, running: &Running, limit: Option<Duration>) {
        let wake = self.wake.as_deref().map(AsFd::as_fd);
        let mut fds: Vec<_> = running
            .pidfds()
            .chain(wake)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = limit.map_or(PollTimeout::NONE, |limit| {
            // Rounded up, because waking just before the time would mean waking twice.
            PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut fds, timeout);
        if let Some(wake) = &self.wake
            && !(wake.clear() && wake.is_intact())
        {
            self.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::liveness::has_ended;

    struct Subject {
        child: Mutex<Option<Child>>,
        peer: ProcessIdentity,
        seen: Mutex<Sender<bool>>,
    }

    impl Watched for Subject {
        fn peers(&self) -> Vec<ProcessIdentity> {
            vec![self.peer]
        }

        fn maintain(&self, running: &Running) -> Option<Instant> {
            let ended = self.peer.pidfd().is_ok_and(|fd| has_ended(&fd));
            let known = ended && !running.contains(&self.peer);
            let _ = self.seen.lock().unwrap().send(known);
            None
        }
    }

    fn subject() -> (Arc<Subject>, Receiver<bool>) {
        let child = Command::new("sleep").arg("100").spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let start = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(19)
            .unwrap();
        let peer = ProcessIdentity {
            pid: child.id(),
            start_ticks: start.parse().unwrap(),
            ..ProcessIdentity::current()
        };
        let (sender, receiver) = channel();
        let subject = Subject {
            child: Mutex::new(Some(child)),
            peer,
            seen: Mutex::new(sender),
        };
        (Arc::new(subject), receiver)
    }

    #[test]
    fn a_paused_watcher_has_no_thread_and_a_resumed_one_notices_deaths() {
        let (subject, seen) = subject();
        let watching: Weak<dyn Watched> = Arc::downgrade(&subject) as _;
        watch(watching);
        while !is_running() {
            thread::yield_now();
        }
        pause();
        // Other tests in this process may call `watch`, which resumes the thread.
        let mut child = subject.child.lock().unwrap().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        resume();
        while !seen.recv().unwrap() && subject.peer.pidfd().is_ok() {}
        assert!(current().is_some_and(|watcher| watcher.thread().is_some()));
    }

    #[test]
    fn a_death_is_noticed_and_a_dropped_subject_is_released() {
        let (subject, seen) = subject();
        let weak = Arc::downgrade(&subject);
        watch(weak.clone());
        assert!(!seen.recv().unwrap());
        let mut child = subject.child.lock().unwrap().take().unwrap();
        child.kill().unwrap();
        while !seen.recv().unwrap() {}
        child.wait().unwrap();
        drop(subject);
        nudge();
        // The channel closes when the watcher drops the last reference.
        while seen.recv().is_ok() {}
        assert!(weak.upgrade().is_none());
    }
}
