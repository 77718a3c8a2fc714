//! The wait queues of a served queue, one for senders and one for receivers. The server wakes each
//! over a connection of its own.
//!
//! A wake is requested by arming, and each arming yields one wake. So at most one frame arrives
//! unrequested. A notifier thread (see [`notifier`](crate::notifier)) arms before its waiters
//! check. Each check is a round trip to the server.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::{CallError, Client};
use super::frame::Carried;
use super::link::Link;
use super::wake_link::WakeLink;
use super::wire::{Ask, Side};
use crate::notifier::{Notifier, WaitQueue};
use crate::wait::Wait;

#[derive(Debug)]
struct UnixWaitQueue {
    client: Arc<Client>,
    side: Side,
}

pub(super) fn notifier(client: &Arc<Client>, side: Side) -> Notifier {
    let waiters = Arc::clone(&client.wait_queues.waiters[side as usize]);
    let client = Arc::clone(client);
    Notifier::new(waiters, Arc::new(UnixWaitQueue { client, side }))
}

impl UnixWaitQueue {
    fn wire(&self) -> MutexGuard<'_, WakeLink> {
        let wire = self.client.wait_queues.links[self.side as usize].lock();
        wire.unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self, wire: &mut WakeLink) -> Result<(), CallError> {
        let link = match &wire.link {
            Some(link) if link.is_up() => Arc::clone(link),
            _ => self.connect(wire)?,
        };
        let wakes = link.wakes();
        if wire.armed_at == Some(wakes) {
            return Ok(());
        }
        // Set before the request, because the wake may arrive before the answer.
        wire.armed_at = Some(wakes);
        link.call(&Ask::Arm, &Carried::None, Wait::No)?;
        Ok(())
    }

    fn connect(&self, wire: &mut WakeLink) -> Result<Arc<Link>, CallError> {
        wire.hang_up();
        let link = Arc::new(self.client.connect()?);
        link.call(&Ask::BecomeNotifier(self.side), &Carried::None, Wait::No)?;
        wire.link = Some(Arc::clone(&link));
        Ok(link)
    }
}

impl WaitQueue for UnixWaitQueue {
    fn prepare(&self) -> u32 {
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
        // If the connection ends, the next `prepare` counts that.
        let _ = link.wait_for_wake(heard.wrapping_sub(earlier), Instant::now() + limit);
    }

    fn wake_one(&self) {
        let link = self.wire().link.clone();
        if let Some(link) = link {
            link.tell(&Ask::WakeOne);
        }
    }

    fn maintain(&self) {
        // The server does the maintenance.
    }
}
