//! Sending many messages in one call.
//!
//! The sender may die between any two lines: what it published by then was sent, the first of the batch; the rest was not.

use ipc_proto::Kind;
use ipc_shm::clock;

use super::{Lack, LevelSender, Whence};
use crate::error::{BatchFailure, SendFailure};
use crate::shm::memory::RingWord;
use crate::shm::payload::Writable;
use crate::shm::ring::TOGETHER;
use crate::transport::Wait;

impl LevelSender {
    pub(in crate::shm) fn send_all(
        &self,
        payloads: &[&[u8]],
        kind: Kind,
        wait: Wait,
    ) -> Result<(), BatchFailure> {
        let mut sent = 0;
        let mut failure = None;
        while sent < payloads.len() && failure.is_none() {
            let before = sent;
            failure = self.send_some(payloads, &mut sent, kind, wait).err();
            let bytes = payloads[before..sent].iter().map(|payload| payload.len());
            self.sent((sent - before) as u64, bytes.sum());
        }
        failure.map_or(Ok(()), |failure| Err(BatchFailure { sent, failure }))
    }

    /// Waits for the first place, then sends what there is room for: claims, then fills, then publishes. So the lines of many
    /// cells are on their way at once, where a locked instruction between any two would wait for each.
    fn send_some(
        &self,
        payloads: &[&[u8]],
        sent: &mut usize,
        kind: Kind,
        wait: Wait,
    ) -> Result<(), SendFailure> {
        let payloads = &payloads[*sent..];
        let payloads = &payloads[..payloads.len().min(TOGETHER)];
        let mut places = Vec::with_capacity(payloads.len());
        self.level
            .ring
            .fetch_batch(RingWord::Tail, &self.cursor.borrow(), payloads.len() as u32);
        places.push(self.lend(payloads[0].len(), kind, wait)?);
        let mut end = Ok(());
        for payload in &payloads[1..] {
            match self.try_lend(payload.len(), kind) {
                Ok(place) => places.push(place),
                Err(lack) => {
                    end = match lack {
                        Lack::Over(failure) => Err(failure),
                        Lack::Place | Lack::Memory | Lack::Key => Ok(()),
                    };
                    break;
                }
            }
        }
        for (place, payload) in places.iter_mut().zip(payloads) {
            place.bytes_mut().copy_from_slice(payload);
        }
        self.publish_all(places, sent, kind)?;
        end
    }

    /// Publishes in this order. Once one was stepped over, those behind it move to the end behind it.
    fn publish_all(
        &self,
        places: Vec<Writable<'_>>,
        sent: &mut usize,
        kind: Kind,
    ) -> Result<(), SendFailure> {
        let now = clock::wall();
        let mut places = places.into_iter();
        let mut whence = Whence::InTurn;
        for place in &mut places {
            let stamp = self.stamp(now);
            let published = match whence {
                Whence::InTurn => self.publish(place, kind, stamp),
                Whence::AtEnd => {
                    // It stays where it is if there is no room.
                    self.describe(&place, stamp);
                    let (chunk, len) = (place.chunk(), place.len());
                    self.publish_at_end(place.into_claim(), chunk, len, kind, stamp)
                }
            };
            match published {
                Ok(now) => whence = now,
                Err(failure) => {
                    places.for_each(|place| self.give_back(place.into_claim()));
                    return Err(failure);
                }
            }
            *sent += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use ipc_proto::{Name, QueueSettings};
    use ipc_shm::Namespace;

    use super::*;
    use crate::error::RecvError;
    use crate::send_options::SendOptions;
    use crate::shm::ShmQueue;
    use crate::shm::memory::Word;
    use crate::shm::word::{CellKind, State};
    use crate::transport::{OpenRequest, Transport};

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
            loan.fill(7);
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
            delivery.ack().unwrap();
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
            assert!(matches!(damaged, Err(RecvError::Damaged(_))), "{damaged:?}");
            let letter = queue.dead_letters().unwrap().remove(0);
            let expected = format!("cell {index} has headers that can't be decoded");
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
        let places = [0, 1, 2].map(|number| {
            let mut place = sender.lend(1, Kind::Data, Wait::No).unwrap();
            place.bytes_mut()[0] = number;
            place
        });

        // As a receiver that found something behind the second.
        let cell = sender.level.ring.cell(places[0].claim().index()).state();
        let word = cell.load(SeqCst);
        let over = State::from_word(word).stepped_over().to_word();
        cell.swap_if(word, over, SeqCst).unwrap();
        let mut sent = 0;
        sender
            .publish_all(places.into(), &mut sent, Kind::Data)
            .unwrap();

        assert_eq!(sent, 3);
        let receiver = queue.shm_receiver();
        for number in 0..3 {
            let delivery = receiver.receive(Wait::No).unwrap();
            assert_eq!(delivery.payload(), [number]);
            delivery.ack().unwrap();
        }
        assert!(ShmQueue::remove(&namespace, &name).unwrap());
    }
}
