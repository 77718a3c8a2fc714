//! The wait queues of a queue in shared memory, as notifier threads see them (see
//! [`bell`](crate::bell)).

use std::sync::Arc;
use std::time::Duration;

use ipc_shm::wait::{Event, Ticket};
use ipc_shm::watch::{Running, Watched};

use super::{Hold, ITEMS, ROOM, Shared};
use crate::bell::{Bell, Door};

/// One of a queue's events, as a wait queue.
#[derive(Debug)]
struct ShmDoor {
    /// Not a [`Hold`]: a notifier thread does not keep the process attached.
    shared: Arc<Shared>,
    event: usize,
}

impl Hold {
    /// Returns the source that wakes waiters when a message is ready.
    pub(super) fn items_bell(&self) -> Bell {
        self.bell(ITEMS)
    }

    /// Returns the source that wakes waiters when a place is free.
    pub(super) fn room_bell(&self) -> Bell {
        self.bell(ROOM)
    }

    fn bell(&self, event: usize) -> Bell {
        let door = ShmDoor {
            shared: Arc::clone(&self.0),
            event,
        };
        Bell::new(Arc::clone(&self.listeners[event]), Arc::new(door))
    }
}

impl ShmDoor {
    fn event(&self) -> Event<'_> {
        Event::new(&self.shared.events[self.event])
    }
}

impl Door for ShmDoor {
    fn announce(&self) -> u32 {
        self.event().prepare().count()
    }

    fn sleep(&self, heard: u32, limit: Duration) {
        let _ = self.event().wait(Ticket::of_count(heard), limit);
    }

    fn pass_on(&self) {
        self.event().notify_one();
    }

    fn look_around(&self) {
        let _ = self.shared.maintain(&Running::default());
    }

    fn is_for_all(&self) -> bool {
        // As in `tell_room`: a single woken waiter may not be one that can use the place.
        self.event == ROOM && self.shared.contents.levels.len() > 1
    }
}
