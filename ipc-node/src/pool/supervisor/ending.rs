//! The end of a pool without workers, and its reason.
//!
//! A pool is drained when every ticket is answered. Any other end has a reason, which `shutdown`
//! returns as an error. The tickets decide first, and only then the state of the queue.

use std::time::{Duration, Instant};

use super::super::{RestartPolicy, events};
use super::{DRAINED, Slot, Supervisor};

/// The wait for answers that are in no queue any more. After that they count as lost.
const LOST: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Begins to drain, once, and closes the job queue, as often as necessary.
    pub(super) fn drain(&mut self, now: Instant) {
        let is_begun = self.drain_by.is_some();
        if is_begun && self.not_closed.is_none() {
            return;
        }
        if !is_begun {
            events::draining(&self.shared.config);
            self.drain_by = now.checked_add(self.shared.limits.drain);
        }
        self.not_closed = self.shared.queues.jobs.transport().close().err();
    }

    /// Returns why the pool could not be drained in time.
    pub(super) fn why_drain_failed(&self) -> String {
        let limit = self.shared.limits.drain;
        let unanswered = self.shared.tickets.unanswered();
        let stats = self.shared.queues.jobs.transport().stats();
        let trouble = self.not_closed.clone().or_else(|| stats.err());
        let what = match unanswered {
            0 => format!("its workers had not ended after {limit:?} of draining"),
            _ => format!("{unanswered} jobs were not answered within {limit:?} of draining"),
        };
        match trouble {
            Some(error) => format!("{what}: {error}"),
            None => what,
        }
    }

    /// Returns the reason for the end of a pool without workers. If jobs are waiting, starts a
    /// worker instead.
    pub(super) fn end_without_workers(&mut self, draining: bool, now: Instant) -> Option<String> {
        let nobody = self.places.iter().all(|slot| matches!(slot, Slot::Done));
        if !nobody || !self.ended.is_empty() {
            self.alone_since = None;
            return None;
        }
        if self.shared.is_remote() {
            return Some(DRAINED.to_owned());
        }
        let unanswered = self.shared.tickets.unanswered();
        if draining && unanswered == 0 {
            return Some(DRAINED.to_owned());
        }
        let left = format!("its last worker ended, and {unanswered} jobs were not answered");
        if !draining || self.shared.limits.restart == RestartPolicy::Never {
            return Some(left);
        }
        let since = *self.alone_since.get_or_insert(now);
        // A queue that does not answer is tried again, until draining has taken too long.
        let stats = self.shared.queues.jobs.transport().stats().ok()?;
        if stats.ready + stats.delayed > 0 {
            self.places[0] = Slot::Empty(now);
            return None;
        }
        // A job that a remote worker has, or that is being written, ends in one way or another.
        let is_somewhere = stats.leased + stats.writing + stats.dead > 0;
        let is_lost = now.saturating_duration_since(since) >= LOST;
        (is_lost && !is_somewhere).then_some(left)
    }

    /// Returns the reason for the end, corrected if a ticket is unanswered after all.
    pub(super) fn reason_for_end(&self, reason: String) -> String {
        match self.shared.tickets.unanswered() {
            unanswered @ 1.. if reason == DRAINED => {
                format!("it was drained, but {unanswered} jobs were not answered")
            }
            _ => reason,
        }
    }
}
