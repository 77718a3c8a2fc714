//! A repeated event, for tasks and threads that wait for its next occurrence.

use std::time::Duration;

use tokio::sync::watch;

use crate::runtime::block_on;

/// The number of times that it happened.
#[derive(Debug)]
pub(crate) struct Event(watch::Sender<u32>);

impl Event {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn count(&self) -> u32 {
        *self.0.borrow()
    }

    /// Counts one occurrence, and wakes all waiters.
    pub(crate) fn notify(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until it has happened more often than `heard`.
    pub(crate) async fn after(&self, heard: u32) {
        // This value owns the sender, so the wait ends only with the condition.
        let _ = self.0.subscribe().wait_for(|count| *count != heard).await;
    }

    /// Sleeps until it has happened more often than `heard`, for at most `limit`.
    pub(crate) fn sleep_for(&self, heard: u32, limit: Duration) {
        let _ = block_on(async { tokio::time::timeout(limit, self.after(heard)).await });
    }
}
