//! The wait queues of this transport, as the notifier threads of [`ipc_queue::notifier`] see them.
//!
//! A handle that blocks for a message waits for the server's answer. A notifier thread, which wakes
//! futures, waits for the news that there may be a message.

use std::sync::Arc;
use std::time::Duration;

use ipc_queue::notifier::{Notifier, WaitQueue};

use crate::event::Event;
use crate::runtime::block_on;
use crate::shared::{Shared, Side};

#[derive(Debug)]
struct NatsWaitQueue {
    shared: Arc<Shared>,
    side: Side,
}

pub(crate) fn notifier(shared: &Arc<Shared>, side: Side) -> Notifier {
    block_on(shared.subscribe(side));
    let wait_queue = NatsWaitQueue {
        shared: Arc::clone(shared),
        side,
    };
    Notifier::new(
        Arc::clone(&shared.waiters[side as usize]),
        Arc::new(wait_queue),
    )
}

impl NatsWaitQueue {
    fn event(&self) -> &Event {
        match self.side {
            Side::Items => &self.shared.items,
            Side::Room => &self.shared.room,
        }
    }
}

impl WaitQueue for NatsWaitQueue {
    fn prepare(&self) -> u32 {
        self.event().count()
    }

    fn sleep(&self, heard: u32, limit: Duration) {
        self.event().sleep_for(heard, limit);
    }

    /// All that sleep here are woken at once: there is nothing to pass on.
    fn wake_one(&self) {}

    fn maintain(&self) {}

    fn wakes_all(&self) -> bool {
        true
    }
}
