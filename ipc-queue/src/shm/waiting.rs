//! What blocked senders and receivers do until they can go on.
//!
//! First they look again for a while (`spin`), then they sleep on an event in slices (`ipc_shm::wait`), and look again
//! after each. Where nobody watches for them (`ipc_shm::watch`), they look around for the dead, too. Nobody wakes more than one of several: whoever was woken and finds more
//! than it needs wakes the next.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipc_shm::wait::{Event, Woken, time_left};
use ipc_shm::watch::{self, Running};
use ipc_shm::{DELETED, FileLoss, REMOVED, TRUNCATED};

use super::spin::Spin;
use super::{CLOSED, PAUSED, Shared};
use crate::control::{ControlCall, ControlFailure};
use crate::error::{DrainError, RecvPortError, SendFailure, Unavailable};
use crate::transport::Wait;

/// Why a queue can't be used any more, if so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Removed,
    Deleted,
    Truncated,
    Forked,
    /// Other code of this process closed it.
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
    /// The flags, unless the queue is gone.
    ///
    /// A truncated queue's memory may have been replaced by zeroes that nobody else sees, in one step with the flag.
    /// Zeroes are an empty queue, which takes messages: so whoever claims a cell asks this afterwards. What was
    /// claimed or leased before needs no question: those words are not zero, so no compare-and-swap of them succeeds.
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

    /// For whoever found that this process may not use the queue, whatever others may.
    #[cold]
    pub(super) fn why_not_ours(&self) -> Gone {
        let attachment = &self.attachment;
        match attachment.loss().filter(|_| attachment.is_this_process()) {
            None => Gone::Forked,
            Some(FileLoss::Descriptor(descriptor)) => Gone::DescriptorLost { descriptor },
            // The only other one: it was moved away.
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

    /// Why nothing was received: how long it was waited for, if at all.
    pub(super) fn nothing_came(&self, waited: Option<Duration>) -> RecvPortError {
        match waited {
            Some(waited) => RecvPortError::TimedOut { waited },
            None if matches!(self.usable(), Ok(flags) if flags & PAUSED != 0) => {
                RecvPortError::Paused
            }
            None => RecvPortError::Empty,
        }
    }

    /// Waits until nothing is left in a closed queue but dead letters.
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
        let waited = self.wait_for(self.items(), wait, &spin, look, || false);
        waited.unwrap_or_else(|waited| {
            let stats = self.stats();
            Err(DrainError::TimedOut {
                queue: self.address(),
                waited: waited.unwrap_or_default(),
                left: stats.ready + stats.writing + stats.leased + stats.delayed,
            })
        })
    }

    /// Attempts until something comes of it: first eagerly, then asleep between notifications. The error
    /// says how long it waited; `None`: it was not to wait.
    pub(super) fn wait_for<T>(
        &self,
        event: Event<'_>,
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
        let mut changes = None;
        loop {
            let ticket = event.prepare();
            if let Some(found) = attempt() {
                // One notification may stand for several changes, and only we were woken by it.
                if more() {
                    event.notify_one();
                }
                return Ok(found);
            }
            let Some(left) = time_left(deadline) else {
                return Err(Some(started.elapsed()));
            };
            // Peers came or went: the watcher must watch others now.
            let now = self.attachment.segment().changes().load(Ordering::Relaxed);
            if changes.replace(now) != Some(now) {
                watch::nudge();
            }
            // The watcher does that, if there is one.
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
