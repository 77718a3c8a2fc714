//! Sending many messages in one call.
//!
//! The sender may die between any two lines: what it published by then was sent, the first of the batch; the rest was not.

use ipc_proto::Kind;
use ipc_shm::clock;

use super::{LevelSender, Stamp, Whence};
use crate::error::{BatchPortError, SendFailure};
use crate::shm::payload::Writable;
use crate::shm::ring::{Claim, Few, SMALL_BYTES, TOGETHER};
use crate::wait::Wait;

impl LevelSender {
    pub(in crate::shm) fn send_all(
        &self,
        payloads: &[&[u8]],
        kind: Kind,
        wait: Wait,
    ) -> Result<(), BatchPortError> {
        let mut sent = 0;
        while let Some(payload) = payloads.get(sent) {
            match self.send_together(&payloads[sent..], kind) {
                // What is large goes alone: several claimed chunks would leave the cache before they are read. So does the first for which there is no room: for it we wait.
                Ok(0) => match self.send(payload, kind, wait) {
                    Ok(_) => sent += 1,
                    Err(error) => return Err(BatchPortError { sent, error }),
                },
                Ok(more) => sent += more,
                Err(BatchPortError { sent: more, error }) => {
                    let sent = sent + more;
                    return Err(BatchPortError { sent, error });
                }
            }
        }
        Ok(())
    }

    /// Sends the first few small payloads, as far as cells are free in FIFO order: claims all, then
    /// fills and publishes each. So the lines of many cells are on their way at once,
    /// where a locked instruction between any two would wait for each.
    fn send_together(&self, payloads: &[&[u8]], kind: Kind) -> Result<usize, BatchPortError> {
        let most = self.most_inline.min(SMALL_BYTES);
        let is_small = |payload: &&&[u8]| payload.len() <= most;
        let count = payloads.iter().take(TOGETHER).take_while(is_small).count();
        if count == 0 {
            return Ok(0);
        }
        let (shared, ring) = (&*self.shared, &self.level.ring);
        let mut cursor = self.cursor.borrow_mut();
        let claims = ring.claim_batch(shared.seat, kind, &mut cursor, count);
        if claims.is_empty() {
            return Ok(0);
        }
        drop(cursor);
        // Only now: see `claim_now`.
        if !shared.is_open() {
            claims.into_iter().for_each(|claim| self.give_back(claim));
            return Ok(0);
        }
        self.spin.hits(claims.len() as u32);
        self.fill_and_publish(claims, payloads, kind)
    }

    #[inline(always)]
    fn fill_and_publish(
        &self,
        claims: Few<Claim>,
        payloads: &[&[u8]],
        kind: Kind,
    ) -> Result<usize, BatchPortError> {
        let count = claims.len();
        let sent_at = clock::wall();
        let mut bytes = 0;
        let mut whence = Whence::InTurn;
        // Where an error leaves the rest of the claims: given back.
        let mut claims = claims.into_iter();
        for (sent, payload) in payloads[..count].iter().enumerate() {
            let Some(claim) = claims.next() else { break };
            let stamp = self.stamp(sent_at);
            let published = match self.writable(claim, None, payload.len()) {
                Ok(mut place) => {
                    place.bytes_mut().copy_from_slice(payload);
                    self.publish_behind(place, kind, stamp, whence)
                }
                Err(lack) => Err(self.failure(lack)),
            };
            match published {
                Ok(now) => whence = now,
                Err(failure) => {
                    claims.for_each(|claim| self.give_back(claim));
                    self.sent(sent as u64, bytes);
                    let error = failure.into();
                    return Err(BatchPortError { sent, error });
                }
            }
            bytes += payload.len();
        }
        self.sent(count as u64, bytes);
        Ok(count)
    }

    /// Publishes the next of a batch. Once one of it was stepped over, those behind it move to the end behind it.
    #[inline(always)]
    fn publish_behind(
        &self,
        place: Writable<'_>,
        kind: Kind,
        stamp: Stamp,
        whence: Whence,
    ) -> Result<Whence, SendFailure> {
        match whence {
            Whence::InTurn => self.publish(place, kind, stamp),
            Whence::AtEnd => {
                // It stays where it is if there is no room.
                self.describe(&place, stamp);
                let (chunk, len) = (place.chunk(), place.len());
                self.publish_at_end(place.into_claim(), chunk, len, kind, stamp)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use ipc_proto::{Name, QueueSettings};
    use ipc_shm::Namespace;

    use super::*;
    use crate::contract::Transport;
    use crate::delivery::ByteDelivery;
    use crate::error::{RecvFailure, RecvPortError};
    use crate::open_request::OpenRequest;
    use crate::send_options::SendOptions;
    use crate::shm::ShmQueue;
    use crate::shm::memory::Word;
    use crate::shm::word::{CellKind, State};

    #[test]
    fn a_batch_of_which_the_first_was_stepped_over_keeps_its_order() {
        for capacity in [1024, 4, 3] {
            steps_over_the_first_of_three(capacity);
        }
    }

    #[test]
    fn headers_move_with_a_message_that_was_stepped_over() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let namespace = Namespace::in_folder(folder.path().join("root"), "headers").unwrap();
        let name = Name::new("q").unwrap();
        let queue = ShmQueue::open(&namespace, &name, &OpenRequest::default()).unwrap();
        let (handle, receiver) = (queue.shm_sender(), queue.shm_receiver());
        let sender = handle.at(0);
        let options = SendOptions::new().header("a", "value").unwrap();
        for len in [0, 10, 5000] {
            let mut loan = sender.loan_with(len, &options, Wait::No).unwrap();
            loan.bytes_mut().fill(7);
            // As a receiver that found something behind it.
            let ring = &sender.level.ring;
            let is_written = |index: &u32| {
                let word = ring.cell(*index).state().load(SeqCst);
                State::from_word(word).kind == CellKind::Writing
            };
            let index = (0..ring.cells()).find(is_written).unwrap();
            let cell = ring.cell(index).state();
            let word = cell.load(SeqCst);
            let over = State::from_word(word).stepped_over().to_word();
            cell.swap_if(word, over, SeqCst).unwrap();
            loan.publish().unwrap();
            let delivery = receiver.receive(Wait::No).unwrap();
            assert_eq!(delivery.payload(), vec![7; len]);
            assert_eq!(delivery.headers(), options.headers);
            ByteDelivery::from(delivery).ack().unwrap();
        }
        assert!(ShmQueue::remove(&namespace, &name).unwrap());
    }

    #[test]
    fn headers_that_are_none_make_a_dead_letter_that_says_so() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let namespace = Namespace::in_folder(folder.path().join("root"), "damaged").unwrap();
        let name = Name::new("q").unwrap();
        let queue = ShmQueue::open(&namespace, &name, &OpenRequest::default()).unwrap();
        let (handle, receiver) = (queue.shm_sender(), queue.shm_receiver());
        let sender = handle.at(0);
        let options = SendOptions::new().header("a", "value").unwrap();
        let mut place = sender.lend_with_headers(0, &options, Wait::No).unwrap();
        // One more than there is room for, and then something that is no header.
        for trailer in [u16::MAX.to_le_bytes(), [1, 0]] {
            let index = place.claim().index();
            let mut all = sender
                .writable(place.into_claim(), None, trailer.len())
                .map_err(|lack| sender.failure(lack))
                .unwrap();
            all.bytes_mut().copy_from_slice(&trailer);
            let place_then = all.cut(0);
            let stamp = sender.stamp(clock::wall());
            sender.describe_all(&place_then, stamp, true);
            sender
                .publish_described(place_then, Kind::Data, stamp)
                .unwrap();
            let damaged = receiver.receive(Wait::No).map(drop);
            assert!(
                matches!(
                    damaged,
                    Err(RecvPortError::Failed(RecvFailure::Damaged { .. }))
                ),
                "{damaged:?}"
            );
            let letter = queue.dead_letters().unwrap().remove(0);
            let expected = format!("cell {index} has headers that cannot be decoded");
            assert_eq!(letter.error, expected);
            assert!(queue.discard(letter.id).unwrap());
            place = sender.lend_with_headers(0, &options, Wait::No).unwrap();
        }
        sender.give_back(place.into_claim());
        assert!(ShmQueue::remove(&namespace, &name).unwrap());
    }

    fn steps_over_the_first_of_three(capacity: u32) {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let namespace = Namespace::in_folder(folder.path().join("root"), "batch").unwrap();
        let name = Name::new("q").unwrap();
        let request = OpenRequest {
            settings: QueueSettings {
                capacity,
                ..QueueSettings::default()
            },
            ..OpenRequest::default()
        };
        let queue = ShmQueue::open(&namespace, &name, &request).unwrap();
        let handle = queue.shm_sender();
        let sender = handle.at(0);
        let ring = &sender.level.ring;
        let mut cursor = sender.cursor.borrow_mut();
        let claims = ring.claim_batch(sender.shared.seat, Kind::Data, &mut cursor, 3);
        drop(cursor);
        let first = claims.iter().next().unwrap().index();

        // As a receiver that found something behind the second.
        let cell = ring.cell(first).state();
        let word = cell.load(SeqCst);
        let over = State::from_word(word).stepped_over().to_word();
        cell.swap_if(word, over, SeqCst).unwrap();
        let payloads: [&[u8]; 3] = [&[0], &[1], &[2]];
        let sent = sender.fill_and_publish(claims, &payloads, Kind::Data);
        assert_eq!(sent, Ok(3));
        let receiver = queue.shm_receiver();
        for number in 0..3 {
            let delivery = receiver.receive(Wait::No).unwrap();
            assert_eq!(delivery.payload(), [number]);
            ByteDelivery::from(delivery).ack().unwrap();
        }
        assert!(ShmQueue::remove(&namespace, &name).unwrap());
    }
}
