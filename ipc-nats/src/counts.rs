//! Counters of a queue.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc_queue::QueueStats;

/// The counts of what this process did to a queue since it first opened it.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<QueueStats>);

impl Counts {
    pub(crate) fn add(&self, change: impl FnOnce(&mut QueueStats)) {
        change(&mut self.lock());
    }

    pub(crate) fn now(&self) -> QueueStats {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, QueueStats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
