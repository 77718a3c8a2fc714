//! Processes that this process adopted: started by a worker that did not wait for them.
//!
//! PID 1 of a container, or a subreaper, adopts them. They stay zombies until it waits for them.
//! Those in a worker's process group are waited for here. The only child of the program in such a
//! group is the worker, which is left to its `Child`. So no exit status is taken from other code.
//! Processes that a worker starts in another group stay zombies. A pool that is PID 1 warns about
//! that when it starts.

use std::process;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::super::events;
use super::super::state::Shared;

/// The interval of the checks for what a running worker left.
const NOW_AND_THEN: Duration = Duration::from_secs(1);
/// The interval of the checks for what ends with its worker, and below it the time limit for that
/// when the pool ends.
const SOON: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(2);

/// The groups of workers whose members this process may have adopted.
#[derive(Debug)]
pub(super) struct Adopted {
    is_adopting: bool,
    looked_at: Instant,
    /// The groups of workers that ended, until they contain no child of ours.
    left: Vec<Pid>,
}

impl Adopted {
    pub(super) fn new(shared: &Shared) -> Self {
        let is_first = process::id() == 1;
        if is_first {
            events::is_pid_1(&shared.config);
        }
        Self {
            is_adopting: is_first || prctl::get_child_subreaper().unwrap_or(false),
            looked_at: Instant::now(),
            left: Vec::new(),
        }
    }

    /// Records that a worker was reaped. The rest of its group was killed.
    pub(super) fn worker_ended(&mut self, pid: u32) {
        if self.is_adopting {
            self.left.push(Pid::from_raw(pid.cast_signed()));
        }
    }

    /// Returns the time of the next check, if there is one.
    pub(super) fn due(&self) -> Option<Instant> {
        let pause = if self.left.is_empty() {
            NOW_AND_THEN
        } else {
            SOON
        };
        self.is_adopting.then(|| self.looked_at + pause)
    }

    /// Waits for processes that have ended, in the groups of these workers and of former ones.
    pub(super) fn reap(&mut self, workers: impl Iterator<Item = u32>, now: Instant) {
        if self.due().is_none_or(|due| now < due) {
            return;
        }
        self.looked_at = now;
        workers.for_each(reap_beside);
        self.left.retain(|group| !is_reaped(*group));
    }

    /// Waits for the processes that were just killed at the end of the pool, for a limited time.
    pub(super) fn reap_last(&mut self) {
        let deadline = Instant::now() + LAST_LOOK;
        loop {
            self.left.retain(|group| !is_reaped(*group));
            if self.left.is_empty() || Instant::now() >= deadline {
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Waits for processes that have ended in a worker's group, except the worker.
fn reap_beside(worker: u32) {
    let worker = Pid::from_raw(worker.cast_signed());
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // Only peeks first, because a worker's status must be taken by its `Child`.
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) =
        waitid(Id::PGid(worker), flags)
    {
        if pid == worker || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

/// Waits for processes that have ended in a group. Returns `true` if no child of ours is left in
/// it.
///
/// Until then the group's number cannot be reused.
fn is_reaped(group: Pid) -> bool {
    loop {
        match waitpid(Pid::from_raw(-group.as_raw()), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}
