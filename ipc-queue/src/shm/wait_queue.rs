//! The wait queues of a queue in shared memory, as notifier threads see them (see
//! [`notifier`](crate::notifier)).

use std::sync::Arc;
use std::time::Duration;

use ipc_shm::wait::{Event, Ticket};
use ipc_shm::watch::{Running, Watched};

use super::tally::Side;
use super::{Hold, ITEMS, ROOM, Shared, blocked};
use crate::notifier::{Notifier, WaitQueue};

/// One of a queue's events, as a wait queue.
#[derive(Debug)]
struct ShmWaitQueue {
    /// Not a [`Hold`]: a notifier thread does not keep the process attached.
    shared: Arc<Shared>,
    event: usize,
}

impl Hold {
    /// Returns the source that wakes waiters when a message is ready.
    pub(super) fn items_notifier(&self) -> Notifier {
        self.notifier(ITEMS)
    }

    /// Returns the source that wakes waiters when a place is free.
    pub(super) fn room_notifier(&self) -> Notifier {
        self.notifier(ROOM)
    }

    fn notifier(&self, event: usize) -> Notifier {
        let wait_queue = ShmWaitQueue {
            shared: Arc::clone(&self.0),
            event,
        };
        Notifier::new(Arc::clone(&self.waiters[event]), Arc::new(wait_queue))
    }
}

impl ShmWaitQueue {
    fn event(&self) -> Event<'_> {
        Event::new(&self.shared.events[self.event])
    }

    fn side(&self) -> Side {
        match self.event {
            ROOM => Side::Send,
            _ => Side::Receive,
        }
    }
}

impl WaitQueue for ShmWaitQueue {
    fn prepare(&self) -> u32 {
        self.event().prepare().count()
    }

    fn sleep(&self, heard: u32, limit: Duration) {
        let _ = self.event().wait(Ticket::of_count(heard), limit);
    }

    fn wake_one(&self) {
        self.event().notify_one();
    }

    fn maintain(&self) {
        let _ = self.shared.maintain(&Running::default());
    }

    fn registered(&self) {
        blocked::add(&self.shared.attachment, self.side());
    }

    fn left(&self) {
        blocked::remove(&self.shared.attachment, self.side());
    }

    fn wakes_all(&self) -> bool {
        // As in `tell_room`: a single woken waiter may not be one that can use the place.
        self.event == ROOM && self.shared.contents.levels.len() > 1
    }
}
