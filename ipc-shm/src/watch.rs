//! Notices deaths, so that nobody who sleeps has to.
//!
//! One thread per process watches over everything the process is attached to. It sleeps in `poll` on
//! the pidfds of all peers; when one ends it calls [`Watched::look`] at once, and in any case every
//! [`SLICE`]. Peers that have no pidfd here (another PID namespace) are looked at every 20 ms.
//! The thread is an accelerator: everything it does, anybody who uses the segment also does in time, so
//! it may be stopped or killed with its process.
//!
//! Its own descriptors can be closed by mistake like all others, and are checked (see
//! `descriptor`). A pidfd that was lost is opened anew. A watcher that lost the pipe by which it is
//! woken is replaced, with its subjects.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use crate::descriptor::{Kept, Notifier};
use crate::events;
use crate::fork::Generation;
use crate::liveness::{NoPidfd, ProcessIdentity, has_ended};
use crate::wait::SLICE;

/// Something with peers to watch over.
pub trait Watched: Send + Sync {
    /// The processes whose death matters.
    fn peers(&self) -> Vec<ProcessIdentity>;

    /// Frees what the dead held and does whatever is due. When to come back at the latest.
    ///
    /// `running` spares it asking the kernel about those processes. Who ended since is looked for at once afterwards.
    fn look(&self, running: &Running) -> Option<Instant>;
}

/// The peers that had not ended when the watcher woke up.
#[derive(Debug, Default)]
pub struct Running {
    pidfds: HashMap<ProcessIdentity, Kept>,
}

impl Running {
    /// Whether this process is one of them; if not, who knows.
    #[must_use]
    pub fn contains(&self, process: &ProcessIdentity) -> bool {
        self.pidfds.contains_key(process)
    }
}

/// Watches over `subject` until it is dropped.
///
/// If no thread can be started, nothing is watched: deaths are then noticed a slice later.
pub fn watch(subject: Weak<dyn Watched>) {
    let mut subjects = vec![subject];
    loop {
        let watcher = watcher();
        watcher.subjects().append(&mut subjects);
        watcher.resume();
        watcher.nudge();
        if !watcher.is_deaf.load(Ordering::SeqCst) {
            return;
        }
        // Its successor may have taken its subjects before ours was among them.
        subjects.append(&mut watcher.subjects());
    }
}

/// Whether this process's watcher has a thread, which looks at least every [`SLICE`].
#[must_use]
pub fn is_running() -> bool {
    watcher().runs.load(Ordering::Relaxed)
}

/// Ends this process's watcher thread, and waits for that: for programs that are about to fork and
/// must have one thread then.
///
/// Meanwhile, blocked handles look for deaths by themselves, every half second.
/// [`resume`] starts the thread again, and so does [`watch`].
pub fn pause() {
    let Some(watcher) = current().filter(|watcher| watcher.generation.is_current()) else {
        return;
    };
    // Locked until the thread has ended, so that no one resumes in between.
    let mut thread = watcher.thread();
    watcher.is_paused.store(true, Ordering::SeqCst);
    watcher.nudge();
    if let Some(thread) = thread.take() {
        let _ = thread.join();
    }
}

/// Starts the thread again that [`pause`] ended.
pub fn resume() {
    if let Some(watcher) = current().filter(|watcher| watcher.generation.is_current()) {
        watcher.resume();
    }
}

/// Makes the watcher look again now: peers came or went.
pub fn nudge() {
    watcher().nudge();
}

const POLL_UNWATCHABLE: Duration = Duration::from_millis(20);

struct Watcher {
    generation: Generation,
    subjects: Mutex<Vec<Weak<dyn Watched>>>,
    wake: Option<Arc<Notifier>>,
    /// Raised and lowered by its thread.
    runs: AtomicBool,
    /// Raised by [`pause`]: the thread is to end. Lowered by whoever starts the next one.
    is_paused: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Raised, once, by whoever finds that `wake` was closed by other code: another watcher takes
    /// over.
    is_deaf: AtomicBool,
}

static CURRENT: AtomicPtr<Watcher> = AtomicPtr::new(std::ptr::null_mut());

/// The watcher that was made last, perhaps by the process that this one was forked from.
fn current() -> Option<&'static Watcher> {
    let current = CURRENT.load(Ordering::Acquire);
    // SAFETY: null, or a leaked box that is never freed and only ever shared.
    unsafe { current.as_ref() }
}

/// The watcher of this process. A forked child makes its own and forgets its parent's; so does a
/// process whose watcher can't be woken any more, but it keeps the subjects.
fn watcher() -> &'static Watcher {
    loop {
        let current = CURRENT.load(Ordering::Acquire);
        // SAFETY: null, or a leaked box that is never freed and only ever shared.
        let known = unsafe { current.as_ref() };
        let ours = known.filter(|watcher| watcher.generation.is_current());
        if let Some(watcher) = ours.filter(|watcher| !watcher.is_deaf.load(Ordering::SeqCst)) {
            return watcher;
        }
        let fresh = Box::into_raw(Box::new(Watcher::new()));
        match CURRENT.compare_exchange(current, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: made above and now published, so never freed.
                let watcher: &'static Watcher = unsafe { &*fresh };
                if let Some(deaf) = ours {
                    watcher.subjects().append(&mut deaf.subjects());
                }
                watcher.start();
                return watcher;
            }
            // SAFETY: made above and not published: nobody else knows it.
            Err(_) => drop(unsafe { Box::from_raw(fresh) }),
        }
    }
}

impl Watcher {
    fn new() -> Self {
        Self {
            generation: Generation::current(),
            subjects: Mutex::new(Vec::new()),
            wake: Notifier::new().ok(),
            runs: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            thread: Mutex::default(),
            is_deaf: AtomicBool::new(false),
        }
    }

    fn start(&'static self) {
        // Signals are for the program's own threads; but not those that an instruction of this one causes.
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
            Err(error) => events::nobody_watches(&error),
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

    /// For whoever found that it can't be woken.
    fn give_up(&self) {
        if !self.is_deaf.swap(true, Ordering::SeqCst) {
            let _ = watcher();
        }
    }

    fn subjects(&self) -> MutexGuard<'_, Vec<Weak<dyn Watched>>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        self.runs.store(true, Ordering::Relaxed);
        let mut running = Running::default();
        // Its subjects, also those that came since, are the next one's.
        while !self.is_deaf.load(Ordering::SeqCst) {
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
                .filter_map(|subject| subject.look(&running))
                .min();
            // After `look`, which may have freed some.
            let peers: Vec<_> = live.iter().flat_map(|subject| subject.peers()).collect();
            // Not held while we sleep: whoever drops the last other reference must be the last.
            drop(live);
            let all_watched = running.update(&peers);
            let limit = match (idle, all_watched) {
                // Whoever comes wakes us, if they can.
                (true, _) if self.wake.is_some() => None,
                (true, _) | (false, Sight::Full) => Some(SLICE),
                (false, Sight::Partial) => Some(POLL_UNWATCHABLE),
            };
            let due = due.map(|due| due.saturating_duration_since(Instant::now()));
            self.sleep(&running, limit.into_iter().chain(due).min());
            // One that was lost is opened anew by `update`.
            running
                .pidfds
                .retain(|_, pidfd| pidfd.is_intact() && !has_ended(pidfd));
        }
    }

    /// Until a peer ends, somebody nudges, or it is time.
    fn sleep(&self, running: &Running, limit: Option<Duration>) {
        let wake = self.wake.as_deref().map(AsFd::as_fd);
        let mut fds: Vec<_> = running
            .pidfds
            .values()
            .map(AsFd::as_fd)
            .chain(wake)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = limit.map_or(PollTimeout::NONE, |limit| {
            // Rounded up: waking just before the time would mean waking twice.
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

pub(crate) enum Sight {
    Full,
    Partial,
}

impl Running {
    /// Opens pidfds for new peers and closes those of former ones.
    pub(crate) fn update(&mut self, peers: &[ProcessIdentity]) -> Sight {
        self.pidfds.retain(|peer, _| peers.contains(peer));
        let mut sight = Sight::Full;
        for peer in peers {
            if self.contains(peer) {
                continue;
            }
            match peer.pidfd() {
                Ok(fd) if !has_ended(&fd) => match Kept::anonymous(fd) {
                    Ok(fd) => drop(self.pidfds.insert(*peer, fd)),
                    Err(_) => sight = Sight::Partial,
                },
                // It ended after `look` looked, or it can't be watched: come back soon. Not with what is readable: polled
                // again it would keep us spinning until it is recovered.
                Ok(_) | Err(NoPidfd::Gone | NoPidfd::Unwatchable) => sight = Sight::Partial,
            }
        }
        sight
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    struct Subject {
        child: Mutex<Option<Child>>,
        peer: ProcessIdentity,
        seen: Mutex<Sender<bool>>,
    }

    impl Watched for Subject {
        fn peers(&self) -> Vec<ProcessIdentity> {
            vec![self.peer]
        }

        fn look(&self, running: &Running) -> Option<Instant> {
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
    fn a_paused_watcher_has_no_thread_and_a_resumed_one_sees_deaths() {
        let (subject, seen) = subject();
        let watching: Weak<dyn Watched> = Arc::downgrade(&subject) as _;
        watch(watching);
        while !is_running() {
            thread::yield_now();
        }
        pause();
        // Other tests of this process may watch something, which resumes it.
        let mut child = subject.child.lock().unwrap().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        resume();
        while !seen.recv().unwrap() && subject.peer.pidfd().is_ok() {}
        assert!(current().is_some_and(|watcher| watcher.thread().is_some()));
    }

    #[test]
    fn a_death_is_seen_and_a_dropped_subject_is_let_go() {
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
        // The channel closes when the watcher lets go of the last reference.
        while seen.recv().is_ok() {}
        assert!(weak.upgrade().is_none());
    }
}
