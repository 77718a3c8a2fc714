//! The waits of blocked senders and receivers.
//!
//! First a handle tries again for a while (`spin`). Then it sleeps on an event in slices
//! (`ipc_shm::wait`), and tries again after each. If the process has no watcher (`ipc_shm::watch`),
//! the handle also does the maintenance. A notification wakes one of several handles; a woken
//! handle that leaves more than it takes wakes the next.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipc_shm::wait::{Event, Woken, time_left};
use ipc_shm::watch::{self, Running};
use ipc_shm::{DELETED, FileLoss, REMOVED, TRUNCATED};

use super::blocked::Blocked;
use super::spin::Spin;
use super::tally::Side;
use super::{CLOSED, PAUSED, Shared};
use crate::control::{ControlCall, ControlFailure};
use crate::error::{DrainError, RecvPortError, SendFailure, Unavailable};
use crate::wait::Wait;

/// The reason why a queue can no longer be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Removed,
    Deleted,
    Truncated,
    Forked,
    /// Other code in this process closed the descriptor.
    DescriptorLost {
        descriptor: i32,
    },
}

impl From<Gone> for Unavailable {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Removed => Self::Removed,
            Gone::Deleted => Self::Deleted,
            Gone::Truncated => Self::Truncated,
            Gone::Forked => Self::Forked,
            Gone::DescriptorLost { descriptor } => Self::DescriptorLost { descriptor },
        }
    }
}

impl From<Gone> for RecvPortError {
    fn from(gone: Gone) -> Self {
        Unavailable::from(gone).into()
    }
}

impl Shared {
    /// Returns the flags, unless the queue cannot be used.
    ///
    /// A truncated queue's memory may have been replaced by zeroes that no other process sees, in
    /// one step with the flag. Zeroes look like an empty queue that takes messages. So a process
    /// that claims a cell calls this afterwards. Cells claimed or leased before need no check:
    /// their words are not zero, so every compare-and-swap of them fails.
    #[inline(always)]
    pub(super) fn usable(&self) -> Result<u64, Gone> {
        let flags = self.flag().load(Ordering::SeqCst);
        if flags & (REMOVED | TRUNCATED) != 0 {
            return Err(if flags & DELETED != 0 {
                Gone::Deleted
            } else if flags & REMOVED != 0 {
                Gone::Removed
            } else {
                Gone::Truncated
            });
        }
        if !self.attachment.is_ours() {
            return Err(self.why_not_ours());
        }
        Ok(flags)
    }

    /// Returns the reason why this process cannot use the queue, although others may.
    #[cold]
    pub(super) fn why_not_ours(&self) -> Gone {
        let attachment = &self.attachment;
        match attachment.loss().filter(|_| attachment.is_this_process()) {
            None => Gone::Forked,
            Some(FileLoss::Descriptor(descriptor)) => Gone::DescriptorLost { descriptor },
            // The only remaining case: the file was moved away.
            Some(_) => Gone::Deleted,
        }
    }

    #[inline(always)]
    pub(super) fn is_open(&self) -> bool {
        matches!(self.usable(), Ok(flags) if flags & CLOSED == 0)
    }

    pub(super) fn check_open(&self) -> Result<(), SendFailure> {
        match self.usable() {
            Ok(flags) if flags & CLOSED == 0 => Ok(()),
            Ok(_) => Err(SendFailure::Closed),
            Err(gone) => Err(Unavailable::from(gone).into()),
        }
    }

    /// Returns the error of a receive without a message, after a wait of `waited`, if any.
    pub(super) fn nothing_came(&self, waited: Option<Duration>) -> RecvPortError {
        match waited {
            Some(waited) => RecvPortError::TimedOut { waited },
            None if matches!(self.usable(), Ok(flags) if flags & PAUSED != 0) => {
                RecvPortError::Paused
            }
            None => RecvPortError::Empty,
        }
    }

    /// Waits until a closed queue contains only dead letters.
    pub(super) fn wait_until_drained(&self, wait: Wait) -> Result<(), DrainError> {
        let look = || match self.usable() {
            Err(gone) => {
                let failure = ControlFailure::from(Unavailable::from(gone));
                let error = failure.of(self.address(), ControlCall::Drain);
                Some(Err(error.into()))
            }
            Ok(_) => self.is_drained(None).then_some(Ok(())),
        };
        if let Some(end) = look() {
            return end;
        }
        let spin = Spin::default();
        let waited = self.wait_for(self.items(), None, wait, &spin, look, || false);
        waited.unwrap_or_else(|waited| {
            let stats = self.stats();
            Err(DrainError::TimedOut {
                queue: self.address(),
                waited: waited.unwrap_or_default(),
                left: stats.ready + stats.writing + stats.leased + stats.delayed,
            })
        })
    }

    /// Tries until `attempt` returns something: first eagerly, then asleep between notifications.
    /// The error has the length of the wait; `None`: no wait was permitted. A handle that sleeps
    /// counts as one that is blocked on `side`.
    pub(super) fn wait_for<T>(
        &self,
        event: Event<'_>,
        side: Option<Side>,
        wait: Wait,
        spin: &Spin,
        mut attempt: impl FnMut() -> Option<T>,
        more: impl Fn() -> bool,
    ) -> Result<T, Option<Duration>> {
        let deadline = match wait {
            Wait::No => return Err(None),
            Wait::Until(deadline) => Some(deadline),
            Wait::Forever => None,
        };
        let started = Instant::now();
        if let Some(found) = spin.look(&mut attempt) {
            return Ok(found);
        }
        let (mut changes, mut blocked) = (None, None);
        loop {
            let ticket = event.prepare();
            if let Some(found) = attempt() {
                // One notification may stand for several changes, and only this handle was woken by
                // it.
                if more() {
                    event.notify_one();
                }
                return Ok(found);
            }
            let Some(left) = time_left(deadline) else {
                return Err(Some(started.elapsed()));
            };
            // Processes attached or detached, so the watcher must update its watches.
            let now = self.attachment.segment().changes().load(Ordering::Relaxed);
            if changes.replace(now) != Some(now) {
                watch::nudge();
            }
            if blocked.is_none() {
                blocked = side.map(|side| Blocked::new(&self.attachment, side));
            }
            // The watcher does the maintenance below, if there is one.
            if event.wait(ticket, left) == Woken::TimedOut && !watch::is_running() {
                self.attachment.check_file();
                if !self.attachment.is_ours() {
                    continue;
                }
                self.look_around(&Running::default());
                self.look_at_clock();
                self.patrol();
            }
        }
    }
}
