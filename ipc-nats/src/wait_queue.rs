//! The wait queues of this transport, as the notifier threads of [`ipc_queue::bell`] see them.
//!
//! A handle that blocks for a message waits for the server's answer. A notifier thread, which wakes
//! futures, waits for the news that there may be a message.

use std::sync::Arc;
use std::time::Duration;

use ipc_queue::bell::{Bell, Door};

use crate::event::Event;
use crate::runtime::block_on;
use crate::shared::{Shared, Side};

#[derive(Debug)]
struct NatsDoor {
    shared: Arc<Shared>,
    side: Side,
}

pub(crate) fn bell(shared: &Arc<Shared>, side: Side) -> Bell {
    block_on(shared.subscribe(side));
    let door = NatsDoor {
        shared: Arc::clone(shared),
        side,
    };
    Bell::new(Arc::clone(&shared.listeners[side as usize]), Arc::new(door))
}

impl NatsDoor {
    fn event(&self) -> &Event {
        match self.side {
            Side::Items => &self.shared.items,
            Side::Room => &self.shared.room,
        }
    }
}

impl Door for NatsDoor {
    fn announce(&self) -> u32 {
        self.event().count()
    }

    fn sleep(&self, heard: u32, limit: Duration) {
        self.event().sleep_for(heard, limit);
    }

    /// All that sleep here are woken at once: there is nothing to pass on.
    fn pass_on(&self) {}

    fn look_around(&self) {}

    fn is_for_all(&self) -> bool {
        true
    }
}
