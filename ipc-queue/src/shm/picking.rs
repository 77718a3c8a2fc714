//! One message, picked by its id: its lease taken back, or the message dropped.
//!
//! Both are transitions that others make, too: a lease that is taken back ends like one whose time
//! is up, and a message that is dropped like one that is purged. Either process may die between any
//! two lines: whoever noted that a lease is over and died before the state says so took nothing
//! back, and the holder of a queue without lease time-outs still has the message.
//! Finds the message by a scan of all cells.

use std::sync::atomic::Ordering::SeqCst;

use ipc_proto::MessageId;

use super::memory::{Memory, Word};
use super::recovery::Changed;
use super::ring::Ring;
use super::tally::{Sent, Side};
use super::word::{CellKind, State};
use super::{Shared, events};

impl Shared {
    /// Takes a message's lease back. Whether a receiver had it.
    pub(super) fn revoke(&self, message: MessageId) -> bool {
        let mut revoked = self.rings().filter_map(|ring| ring.revoke(message));
        let Some(changed) = revoked.next() else {
            return false;
        };
        self.notify(changed);
        self.wake_if_closed();
        true
    }

    /// Drops a message that waits. Whether one waited.
    pub(super) fn drop_message(&self, message: MessageId) -> bool {
        let dropped = self.rings().any(|ring| ring.drop_message(message));
        if dropped {
            self.shared_lane(Side::Send).add(Sent::Purged, 1);
            self.tell_room();
            self.wake_if_closed();
            events::purged(self, 1);
        }
        dropped
    }
}

impl<M: Memory> Ring<M> {
    /// Ends the lease of a message as if its time were up. `None`: no receiver has it.
    fn revoke(&self, message: MessageId) -> Option<Changed> {
        (0..self.cells()).find_map(|index| self.revoke_in(index, message))
    }

    fn revoke_in(&self, index: u32, message: MessageId) -> Option<Changed> {
        let cell = self.cell(index);
        loop {
            let word = cell.state().load(SeqCst);
            let state = State::from_word(word);
            let is_it = state.kind == CellKind::Leased && cell.envelope().id == message;
            // The id is the message's only if the cell did not change hands meanwhile.
            if cell.state().load(SeqCst) != word {
                continue;
            }
            if !is_it {
                return None;
            }
            // Its holder put it off, or extended its lease just now.
            if !self.end_lease(cell, word) {
                let _ = self.put_off_if_noted(cell, word);
                continue;
            }
            // Failed: a sender moved the cell on, or the holder settled: look which.
            if let Some(kind) = self.time_is_up(cell, word) {
                if kind == CellKind::Ready {
                    self.stray();
                }
                return Some(Changed::by_expiry(kind));
            }
        }
    }

    /// Drops a message that waits for a receiver or for its time. Whether there was one.
    fn drop_message(&self, message: MessageId) -> bool {
        (0..self.cells()).any(|index| {
            let cell = self.cell(index);
            loop {
                let word = cell.state().load(SeqCst);
                let kind = State::from_word(word).kind;
                let waits = matches!(kind, CellKind::Ready | CellKind::Delayed);
                if !waits || cell.envelope().id != message {
                    return false;
                }
                // Failed: it was taken, or became ready, or a sender moved the cell on.
                if self.drop_waiting(index, word).is_some() {
                    return true;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipc_proto::{Name, QueueSettings};
    use ipc_shm::Namespace;

    use crate::ByteQueue;
    use crate::shm::ShmQueue;
    use crate::transport::OpenRequest;

    fn queue(test: &str, lease: Option<Duration>) -> (Namespace, Name, ByteQueue) {
        let namespace = Namespace::new(&format!("picking-{}-{test}", std::process::id())).unwrap();
        let name = Name::new("q").unwrap();
        let request = OpenRequest {
            settings: QueueSettings {
                lease,
                expiry_limit: 2,
                ..QueueSettings::with_capacity(4)
            },
            ..OpenRequest::default()
        };
        let queue = ShmQueue::open(&namespace, &name, &request).unwrap();
        (namespace, name, ByteQueue::over(std::sync::Arc::new(queue)))
    }

    #[test]
    fn a_lease_that_was_taken_back_is_lost_and_the_message_comes_again() {
        for (test, lease) in [("none", None), ("hour", Some(Duration::from_secs(3600)))] {
            let (namespace, name, queue) = queue(test, lease);
            let (stuck, other) = (queue.receiver(), queue.receiver());
            let id = queue.sender().send(b"one").unwrap();
            assert!(!queue.transport().revoke(id).unwrap());
            let held = stuck.recv().unwrap();
            assert!(queue.transport().revoke(id).unwrap());
            assert!(
                held.extend(Duration::from_secs(1))
                    .unwrap_err()
                    .is_lease_lost()
            );
            let again = other.recv().unwrap();
            assert_eq!((again.id(), again.attempt()), (id, 2));
            // What the former holder reads stays as it is.
            assert_eq!(held.payload(), b"one");
            assert!(held.ack().unwrap_err().is_lease_lost());
            again.ack().unwrap();
            let stats = queue.transport().stats().unwrap();
            assert_eq!((stats.acked, stats.expiries, stats.in_use()), (1, 1, 0));
            ShmQueue::remove(&namespace, &name).unwrap();
        }
    }

    #[test]
    fn a_message_whose_lease_is_taken_back_too_often_is_a_dead_letter() {
        let (namespace, name, queue) = queue("limit", None);
        let receiver = queue.receiver();
        let id = queue.sender().send(b"one").unwrap();
        for _ in 0..3 {
            let Ok(held) = receiver.try_recv() else { break };
            assert!(queue.transport().revoke(id).unwrap());
            assert!(held.ack().unwrap_err().is_lease_lost());
        }
        assert_eq!(queue.transport().stats().unwrap().dead, 1);
        ShmQueue::remove(&namespace, &name).unwrap();
    }

    #[test]
    fn one_message_that_waits_can_be_dropped_and_what_is_held_can_not() {
        let (namespace, name, queue) = queue("drop", None);
        let ids = [b"one", b"two"].map(|payload| queue.sender().send(payload).unwrap());
        let receiver = queue.receiver();
        let held = receiver.recv().unwrap();
        let drop_message = |id| queue.transport().drop_message(id).unwrap();
        assert_eq!(ids.map(drop_message), [false, true]);
        held.ack().unwrap();
        let stats = queue.transport().stats().unwrap();
        assert_eq!((stats.purged, stats.in_use()), (1, 0));
        // Its place is free again, and the ring goes on over it.
        for _ in 0..9 {
            queue.sender().send(b"more").unwrap();
            receiver.recv().unwrap().ack().unwrap();
        }
        ShmQueue::remove(&namespace, &name).unwrap();
    }
}
