//! The wait queues of a served queue: the server wakes them, over a separate connection for each
//! side.
//!
//! A wake is requested by arming, and each arming yields one wake. So at most one frame arrives
//! unrequested. A notifier thread (see [`bell`](crate::bell)) arms before its waiters check. Each
//! check is a round trip to the server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::{Client, Trouble};
use super::frame::Carried;
use super::link::Link;
use super::wire::{Ask, Side};
use crate::bell::{Bell, Door, Listeners};
use crate::wait::Wait;

/// The wait queues of one opening.
#[derive(Debug, Default)]
pub(super) struct Doors {
    listeners: [Arc<Listeners>; 2],
    bells: [Mutex<Wire>; 2],
}

/// The connection over which the wakes arrive.
#[derive(Debug, Default)]
struct Wire {
    link: Option<Arc<Link>>,
    /// The number of wakes when it was armed last. If no wake has arrived since, it is still armed.
    armed_at: Option<u32>,
    /// The wakes of earlier connections, plus one for each connection that ended: its end is a
    /// reason to check, too.
    earlier: u32,
}

#[derive(Debug)]
struct UnixDoor {
    client: Arc<Client>,
    side: Side,
}

pub(super) fn bell(client: &Arc<Client>, side: Side) -> Bell {
    let listeners = Arc::clone(&client.doors.listeners[side as usize]);
    let client = Arc::clone(client);
    Bell::new(listeners, Arc::new(UnixDoor { client, side }))
}

impl UnixDoor {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        let wire = self.client.doors.bells[self.side as usize].lock();
        wire.unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self, wire: &mut Wire) -> Result<(), Trouble> {
        let link = match &wire.link {
            Some(link) if link.is_up() => Arc::clone(link),
            _ => self.connect(wire)?,
        };
        let rings = link.rings();
        if wire.armed_at == Some(rings) {
            return Ok(());
        }
        // Set before the request, because the wake may arrive before the answer.
        wire.armed_at = Some(rings);
        link.call(&Ask::Arm, &Carried::None, Wait::No)?;
        Ok(())
    }

    fn connect(&self, wire: &mut Wire) -> Result<Arc<Link>, Trouble> {
        wire.hang_up();
        let link = Arc::new(self.client.connect()?);
        link.call(&Ask::BecomeBell(self.side), &Carried::None, Wait::No)?;
        wire.link = Some(Arc::clone(&link));
        Ok(link)
    }
}

impl Wire {
    fn hang_up(&mut self) {
        if let Some(link) = self.link.take() {
            self.earlier = self.earlier.wrapping_add(link.rings()).wrapping_add(1);
        }
        self.armed_at = None;
    }

    fn heard(&self) -> u32 {
        let rings = self.link.as_ref().map_or(0, |link| link.rings());
        self.earlier.wrapping_add(rings)
    }
}

impl Door for UnixDoor {
    fn announce(&self) -> u32 {
        let mut wire = self.wire();
        if self.arm(&mut wire).is_err() {
            // Counts as a wake: a waiter that checks gets the reason.
            wire.hang_up();
            wire.earlier = wire.earlier.wrapping_add(1);
        }
        wire.heard()
    }

    fn sleep(&self, heard: u32, limit: Duration) {
        let (link, earlier) = {
            let wire = self.wire();
            match &wire.link {
                Some(link) if wire.heard() == heard => (Arc::clone(link), wire.earlier),
                _ => return,
            }
        };
        // If the connection ends, the next `announce` counts that.
        let _ = link.wait_for_ring(heard.wrapping_sub(earlier), Instant::now() + limit);
    }

    fn pass_on(&self) {
        let link = self.wire().link.clone();
        if let Some(link) = link {
            link.tell(&Ask::PassOn);
        }
    }

    fn look_around(&self) {
        // The server does the maintenance.
    }
}
