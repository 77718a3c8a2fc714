//! Where those who wait sleep, as the doormen of [`ipc_queue::bell`] see it.
//!
//! Who blocks for a message waits for the server's answer; a doorman, which wakes futures, for word that there may be one.

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
    block_on(shared.hear(side));
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

    /// All who sleep here are told at once: there is nothing to pass on.
    fn pass_on(&self) {}

    fn look_around(&self) {}

    fn is_for_all(&self) -> bool {
        true
    }
}
