//! Something that happens again and again, for those who wait for the next time.

use std::time::Duration;

use tokio::sync::watch;

use crate::runtime::block_on;

/// How often something happened.
#[derive(Debug)]
pub(crate) struct Event(watch::Sender<u32>);

impl Event {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn count(&self) -> u32 {
        *self.0.borrow()
    }

    /// It happened: wakes all who wait.
    pub(crate) fn notify(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Until it happened more often than `heard`.
    pub(crate) async fn after(&self, heard: u32) {
        // The sender is ours, so this ends with the condition only.
        let _ = self.0.subscribe().wait_for(|count| *count != heard).await;
    }

    /// Sleeps until it happened more often than `heard`, at most for so long.
    pub(crate) fn sleep_for(&self, heard: u32, limit: Duration) {
        let _ = block_on(async { tokio::time::timeout(limit, self.after(heard)).await });
    }
}
