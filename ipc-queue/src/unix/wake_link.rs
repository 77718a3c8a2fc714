//! The connections over which a server's wakes arrive, one for each side of a queue.

use std::sync::{Arc, Mutex};

use super::link::Link;
use crate::notifier::Waiters;

/// The wait queues of one opening.
#[derive(Debug, Default)]
pub(super) struct WaitQueues {
    pub(super) waiters: [Arc<Waiters>; 2],
    pub(super) links: [Mutex<WakeLink>; 2],
}

/// The connection over which the wakes arrive.
#[derive(Debug, Default)]
pub(super) struct WakeLink {
    pub(super) link: Option<Arc<Link>>,
    /// The number of wakes when it was armed last. If no wake has arrived since, it is still armed.
    pub(super) armed_at: Option<u32>,
    /// The wakes of earlier connections, plus one for each connection that ended: its end is also a
    /// reason to check.
    pub(super) earlier: u32,
}

impl WakeLink {
    pub(super) fn hang_up(&mut self) {
        if let Some(link) = self.link.take() {
            self.earlier = self.earlier.wrapping_add(link.wakes()).wrapping_add(1);
        }
        self.armed_at = None;
    }

    pub(super) fn heard(&self) -> u32 {
        let wakes = self.link.as_ref().map_or(0, |link| link.wakes());
        self.earlier.wrapping_add(wakes)
    }
}
