//! Revoking the lease of one message, and dropping one message, by its id.
//!
//! Both are transitions that occur anyway. A revoked lease ends like an expired one, and a dropped
//! message like a purged one. Any process may die between any two lines. After a death between the
//! record and the state the message is still held, unless the queue has a lease time-out.
//!
//! A waiting message inside a run is parted from it first. A lease that was taken as a part of a
//! run is refused: only its holder makes single leases of a run (`ring/runs.rs`).
//! Finds the message by a scan of all cells.

use std::sync::atomic::Ordering::SeqCst;

use ipc_proto::MessageId;

use super::memory::{Memory, Word};
use super::recovery::Changed;
use super::ring::Ring;
use super::tally::{Sent, Side};
use super::word::CellKind;
use super::{Shared, events};
use crate::control::ControlFailure;

/// The outcome of [`Ring::revoke`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The lease is over. What changed.
    Done(Changed),
    /// The holder took the message together with others, and has not parted them.
    Together,
}

impl Shared {
    /// Revokes the lease of a message. Returns whether a receiver held it.
    pub(super) fn revoke(&self, message: MessageId) -> Result<bool, ControlFailure> {
        let mut revoked = self.rings().filter_map(|ring| ring.revoke(message));
        match revoked.next() {
            None => Ok(false),
            Some(Revoked::Together) => Err(ControlFailure::Refused {
                reason: TOGETHER.to_owned(),
            }),
            Some(Revoked::Done(changed)) => {
                self.notify(changed);
                self.wake_if_closed();
                Ok(true)
            }
        }
    }

    /// Drops a waiting message. Returns whether one was waiting.
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

const TOGETHER: &str = "its receiver took the message in a batch and holds it with others: wait \
                        until it settles one of them, or end that process";

impl<M: Memory> Ring<M> {
    /// Ends the lease of a message as if its time were up. `None`: no receiver holds it.
    pub fn revoke(&self, message: MessageId) -> Option<Revoked> {
        (0..self.cells()).find_map(|index| self.revoke_in(index, message))
    }

    fn revoke_in(&self, index: u32, message: MessageId) -> Option<Revoked> {
        let cell = self.cell(index);
        loop {
            let word = cell.state().load(SeqCst);
            let seen = self.seen(index);
            let is_it = seen.kind == CellKind::Leased && cell.envelope().id == message;
            // The id belongs to this state only if the state did not change meanwhile.
            if self.seen(index) != seen {
                continue;
            }
            if !is_it {
                return None;
            }
            if seen.to_word() != word || self.begins_at(index).is_none() {
                return Some(Revoked::Together);
            }
            // Its holder has just delayed it, or extended its lease.
            if !self.end_lease(cell, word) {
                let _ = self.put_off_if_noted(cell, word);
                continue;
            }
            // Failed: a sender moved the cell on, or the holder settled. The next round reads
            // which.
            if let Some(kind) = self.time_is_up(cell, word) {
                if kind == CellKind::Ready {
                    self.stray();
                }
                return Some(Revoked::Done(Changed::by_expiry(kind)));
            }
        }
    }

    /// Drops a message that waits for a receiver or for its time. Returns whether there was one.
    pub fn drop_message(&self, message: MessageId) -> bool {
        (0..self.cells()).any(|index| self.drop_message_in(index, message))
    }

    fn drop_message_in(&self, index: u32, message: MessageId) -> bool {
        let cell = self.cell(index);
        loop {
            let word = cell.state().load(SeqCst);
            let seen = self.seen(index);
            let waits = matches!(seen.kind, CellKind::Ready | CellKind::Delayed);
            if !waits || cell.envelope().id != message {
                return false;
            }
            if seen.to_word() != word {
                // Failed: a receiver took a part of the run. The next round reads which.
                self.part_up_to(index);
                continue;
            }
            // Failed: it was taken, or became ready, or a sender moved the cell on.
            if self.drop_waiting(index, word).is_some() {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipc_proto::{Name, QueueSettings};
    use ipc_shm::Namespace;

    use crate::open_request::OpenRequest;
    use crate::shm::{Inspector, ShmQueue};
    use crate::wait::Wait;
    use crate::{ByteDelivery, ByteQueue};

    fn queue(test: &str, lease: Option<Duration>) -> (Namespace, Name, ByteQueue) {
        queue_of(test, lease, 4)
    }

    fn queue_of(test: &str, lease: Option<Duration>, cells: u32) -> (Namespace, Name, ByteQueue) {
        let namespace = Namespace::new(&format!("picking-{}-{test}", std::process::id())).unwrap();
        let name = Name::new("q").unwrap();
        let request = OpenRequest {
            settings: QueueSettings {
                lease,
                expiry_limit: 2,
                ..QueueSettings::with_capacity(cells)
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
            // The bytes that the former holder reads do not change.
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
        // Its place is free again, and the ring continues past it.
        for _ in 0..9 {
            queue.sender().send(b"more").unwrap();
            receiver.recv().unwrap().ack().unwrap();
        }
        ShmQueue::remove(&namespace, &name).unwrap();
    }

    #[test]
    fn any_message_of_a_batch_that_waits_can_be_dropped() {
        for number in 0..5 {
            let (namespace, name, queue) = queue_of("batch", None, 8);
            let (sender, receiver) = (queue.sender(), queue.receiver());
            let payloads: [&[u8]; 5] = [&[0], &[1], &[2], &[3], &[4]];
            sender.send_batch(&payloads).unwrap();
            let first = receiver.recv().unwrap();
            let waits = Inspector::open(&namespace, &name).unwrap().waiting(9);
            let waits = waits.iter().find(|waits| waits.payload == [number]);
            let id = waits.map_or(first.id(), |waits| waits.message);
            let dropped = queue.transport().drop_message(id).unwrap();
            assert_eq!(dropped, number != 0);
            first.ack().unwrap();
            let mut left = receiver.recv_batch(8, Wait::No).unwrap();
            let payloads: Vec<u8> = left.iter().map(|left| left.payload()[0]).collect();
            assert_eq!(payloads, Vec::from_iter((1..5).filter(|it| *it != number)));
            left.ack().unwrap();
            let stats = queue.transport().stats().unwrap();
            assert_eq!((stats.purged, stats.in_use()), (u64::from(dropped), 0));
            ShmQueue::remove(&namespace, &name).unwrap();
        }
    }

    #[test]
    fn a_lease_taken_in_a_batch_is_revoked_once_its_holder_parted_the_batch() {
        let (namespace, name, queue) = queue_of("together", None, 8);
        let receiver = queue.receiver();
        let payloads: [&[u8]; 3] = [b"one", b"two", b"three"];
        queue.sender().send_batch(&payloads).unwrap();
        let mut held = receiver.recv_batch(3, Wait::No).unwrap();
        let ids: Vec<_> = held.iter().map(ByteDelivery::id).collect();
        let inspector = Inspector::open(&namespace, &name).unwrap();
        let leases = inspector.lease_views();
        assert_eq!(Vec::from_iter(leases.iter().map(|it| it.message)), ids);
        for held in held.iter() {
            held.extend(Duration::from_secs(1)).unwrap();
        }
        for id in &ids {
            let refused = queue.transport().revoke(*id).unwrap_err();
            assert!(refused.to_string().contains("in a batch"), "{refused}");
        }
        held.remove(1).ack().unwrap();
        let revoke = |number: usize| queue.transport().revoke(ids[number]).unwrap();
        assert_eq!([revoke(0), revoke(1), revoke(2)], [true, false, true]);
        for held in held.iter() {
            let lost = held.extend(Duration::from_secs(1)).unwrap_err();
            assert!(lost.is_lease_lost());
        }
        assert_eq!(held.ack().unwrap_err().failed, 2);
        let again = receiver.recv_batch(3, Wait::No).unwrap();
        assert_eq!(
            Vec::from_iter(again.iter().map(ByteDelivery::id)),
            [ids[0], ids[2]]
        );
        drop(again);
        ShmQueue::remove(&namespace, &name).unwrap();
    }
}
