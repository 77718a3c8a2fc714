//! Sending many messages in one call.
//!
//! The sender may die between any two lines. The messages that it published by then were sent: a
//! first part of the batch. The others were not.

use ipc_proto::{Kind, Timestamp};
use ipc_shm::clock;

use super::LevelSender;
use crate::error::{BatchPortError, SendFailure};
use crate::shm::ring::{Claim, Few, Run, RunPublication, TOGETHER};
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
                // A large payload is sent alone: several claimed chunks would leave the cache
                // before they are read. So is the first one that finds no room, because only `send`
                // waits.
                Ok(0) => match self.send(payload, kind, || wait) {
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

    /// Sends the first few small payloads as one run, as far as cells are free in FIFO order.
    fn send_together(&self, payloads: &[&[u8]], kind: Kind) -> Result<usize, BatchPortError> {
        let is_small = |payload: &&&[u8]| payload.len() <= self.most_inline;
        let count = payloads.iter().take(TOGETHER).take_while(is_small).count();
        if count == 0 {
            return Ok(0);
        }
        let (shared, ring) = (&*self.shared, &self.level.ring);
        let claimed = ring.claim_run(shared.seat, &mut self.cursor.borrow_mut(), count);
        let Some(run) = claimed else {
            return Ok(0);
        };
        // Checked after the claim: see `claim_now`.
        if !shared.is_open() {
            self.give_back_run(run);
            return Ok(0);
        }
        self.spin.hits(run.len() as u32);
        self.fill_and_publish(run, payloads, kind)
    }

    #[inline(always)]
    fn fill_and_publish(
        &self,
        run: Run,
        payloads: &[&[u8]],
        kind: Kind,
    ) -> Result<usize, BatchPortError> {
        let ring = &self.level.ring;
        let payloads = &payloads[..run.len()];
        let sent_at = clock::wall();
        let first = self.sequence.get();
        let mut bytes = 0;
        for (number, payload) in payloads.iter().enumerate() {
            ring.begin_in(&run, number, kind);
            let place = self
                .level
                .payloads
                .writable(run.claim(number), None, payload.len());
            let mut place = match place {
                Ok(place) => place,
                Err((_, bad)) => {
                    self.give_back_run(run);
                    let error = SendFailure::damaged(bad.reason).into();
                    return Err(BatchPortError { sent: 0, error });
                }
            };
            place.bytes_mut().copy_from_slice(payload);
            self.describe(&place, self.stamp(sent_at));
            ring.end_in(&run, number);
            bytes += payload.len();
        }
        match ring.publish_run(run) {
            RunPublication::Done => {}
            RunPublication::SteppedOver(claims) => {
                self.sequence.set(first);
                self.publish_all_at_end(claims, payloads, kind, sent_at)?;
            }
            RunPublication::Lost => {
                let error = self.lost().into();
                return Err(BatchPortError { sent: 0, error });
            }
        }
        self.sent(payloads.len() as u64, bytes);
        Ok(payloads.len())
    }

    /// Moves each message of a run to the end, in order, because receivers stepped over the run.
    #[cold]
    fn publish_all_at_end(
        &self,
        claims: Few<Claim>,
        payloads: &[&[u8]],
        kind: Kind,
        sent_at: Timestamp,
    ) -> Result<(), BatchPortError> {
        let mut claims = claims.into_iter();
        let mut bytes = 0;
        for (sent, payload) in payloads.iter().enumerate() {
            let Some(claim) = claims.next() else { break };
            // With the same stamp as before.
            let stamp = self.stamp(sent_at);
            let published = self.publish_at_end(claim, None, payload.len(), kind, stamp);
            if let Err(failure) = published {
                claims.for_each(|claim| self.give_back(claim));
                self.sent(sent as u64, bytes);
                let error = failure.into();
                return Err(BatchPortError { sent, error });
            }
            bytes += payload.len();
        }
        Ok(())
    }

    #[cold]
    fn give_back_run(&self, run: Run) {
        self.level.ring.abandon_run(run);
        self.shared.tell_room();
        self.shared.wake_if_closed();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    use ipc_proto::{Name, QueueSettings};
    use ipc_shm::Namespace;

    use super::*;
    use crate::batch::Batch;
    use crate::contract::{SendPort, Transport};
    use crate::delivery::ByteDelivery;
    use crate::error::{RecvFailure, RecvPortError, SendPortError};
    use crate::open_request::OpenRequest;
    use crate::send_options::SendOptions;
    use crate::shm::ShmQueue;
    use crate::shm::memory::{Memory, RingWord, Word};
    use crate::shm::word::{CellKind, Lap, Position, State};

    /// Steps over a cell that is being written, as a receiver does that found a message behind it.
    fn step_over(sender: &LevelSender, index: u32) {
        let cell = sender.level.ring.cell(index).state();
        let word = cell.load(SeqCst);
        let over = State::from_word(word).stepped_over().to_word();
        cell.swap_if(word, over, SeqCst).unwrap();
    }

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
            // The one that is being written.
            let ring = &sender.level.ring;
            let is_written = |index: &u32| {
                let word = ring.cell(*index).state().load(SeqCst);
                State::from_word(word).kind == CellKind::Writing
            };
            let index = (0..ring.cells()).find(is_written).unwrap();
            step_over(sender, index);
            loan.publish().unwrap();
            let delivery = receiver.receive(|| Wait::No).unwrap();
            assert_eq!(delivery.reading().payload(), vec![7; len]);
            assert_eq!(delivery.reading().headers(), options.headers);
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
        // One more than there is room for, and then bytes that are not a header.
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
            let damaged = receiver.receive(|| Wait::No).map(drop);
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

    /// Creates a queue with a few places, in a folder of its own.
    fn queue_of(capacity: u32) -> (tempfile::TempDir, ShmQueue) {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let namespace = Namespace::in_folder(folder.path().join("root"), "batch").unwrap();
        let request = OpenRequest {
            settings: QueueSettings {
                capacity,
                ..QueueSettings::default()
            },
            ..OpenRequest::default()
        };
        let queue = ShmQueue::open(&namespace, &Name::new("q").unwrap(), &request).unwrap();
        (folder, queue)
    }

    #[test]
    fn what_is_published_late_stands_behind_what_was_sent_before() {
        let (_folder, queue) = queue_of(3);
        let (handle, receiver) = (queue.shm_sender(), queue.shm_receiver());
        let sender = handle.at(0);
        // The first cell is several laps ahead of the others.
        handle.send(b"again", Kind::Data, || Wait::No).unwrap();
        for _ in 0..2 {
            let delivery = ByteDelivery::from(receiver.receive(|| Wait::No).unwrap());
            delivery.nack_after(Duration::ZERO).unwrap();
        }
        let delivery = ByteDelivery::from(receiver.receive(|| Wait::No).unwrap());
        delivery.ack().unwrap();

        let lend = || sender.loan(1, Kind::Data, Wait::No).unwrap();
        let [mut early, _filler, mut far] = [(); 3].map(|()| lend());
        far.bytes_mut()[0] = 1;
        far.publish().unwrap();
        early.bytes_mut()[0] = 2;
        // There is no room at the end.
        step_over(sender, 1);
        early.publish().unwrap();
        for expected in [1, 2] {
            let delivery = ByteDelivery::from(receiver.receive(|| Wait::No).unwrap());
            assert_eq!(delivery.payload(), [expected]);
            delivery.ack().unwrap();
        }
    }

    #[test]
    fn each_cell_of_a_run_begins_a_new_occupancy() {
        let (_folder, queue) = queue_of(4);
        let (handle, receiver) = (queue.shm_sender(), queue.shm_receiver());
        let ring = &handle.at(0).level.ring;
        let mut before = [None; 4];
        for _ in 0..3 {
            handle
                .send_batch(&[b"a", b"b", b"c", b"d"], Kind::Data, Wait::No)
                .unwrap();
            let now = [0, 1, 2, 3].map(|index| Some(ring.cell(index).occupancy()));
            assert!(
                now.iter().zip(before).all(|(now, before)| *now != before),
                "{now:?}"
            );
            before = now;
            let mut batch: Batch<'_, ByteDelivery<'_>> = Batch::new();
            receiver.receive_batch(4, Wait::No, &mut *batch).unwrap();
            batch.ack().unwrap();
        }
    }

    #[test]
    fn an_owned_delivery_is_in_no_run_any_more() {
        let (_folder, queue) = queue_of(4);
        let (handle, receiver) = (queue.shm_sender(), queue.shm_receiver());
        let ring = &handle.at(0).level.ring;
        let payloads: [&[u8]; 3] = [b"a", b"b", b"c"];
        handle.send_batch(&payloads, Kind::Data, Wait::No).unwrap();
        let mut batch: Batch<'_, ByteDelivery<'_>> = Batch::new();
        receiver.receive_batch(3, Wait::No, &mut *batch).unwrap();
        let state = |index| State::from_word(ring.cell(index).state().load(SeqCst));
        assert_eq!(state(0).len(), 3);
        let owned = batch.remove(1).into_owned();
        let states = [0, 1, 2].map(|index| (state(index).kind, state(index).len()));
        assert_eq!(states, [(CellKind::Leased, 1); 3]);
        std::thread::scope(|scope| {
            scope.spawn(|| owned.ack().unwrap());
            batch.ack().unwrap();
        });
        assert_eq!(queue.stats().unwrap().in_use(), 0);
    }

    #[test]
    fn a_damaged_hint_into_a_run_is_not_believed() {
        let (_folder, queue) = queue_of(4);
        let handle = queue.shm_sender();
        let sender = handle.at(0);
        let ring = &sender.level.ring;
        let mut cursor = sender.cursor.borrow_mut();
        let run = ring.claim_run(sender.shared.seat, &mut cursor, 3).unwrap();
        drop(cursor);
        for number in 0..3 {
            ring.begin_in(&run, number, Kind::Data);
            ring.end_in(&run, number);
        }
        let into = Position::new(Lap::default(), 1).to_word();
        ring.memory().ring_word(RingWord::Head).store(into, SeqCst);
        let receiver = queue.shm_receiver();
        let received = receiver.receive(|| Wait::No).map(drop);
        assert!(
            matches!(received, Err(RecvPortError::Empty)),
            "{received:?}"
        );
        let mut batch: Vec<ByteDelivery<'_>> = Vec::new();
        let received = receiver.receive_batch(4, Wait::No, &mut batch);
        assert!(
            matches!(received, Err(RecvPortError::Empty)),
            "{received:?}"
        );

        let payloads: [&[u8]; 3] = [&[0], &[1], &[2]];
        assert_eq!(sender.fill_and_publish(run, &payloads, Kind::Data), Ok(3));
        receiver.receive_batch(4, Wait::No, &mut batch).unwrap();
        let payloads: Vec<_> = batch.iter().map(ByteDelivery::payload).collect();
        assert_eq!(payloads, [[0], [1], [2]]);
    }

    #[test]
    fn what_was_sent_singly_joins_no_run_and_room_that_was_left_is_claimed() {
        let (_folder, queue) = queue_of(8);
        let (handle, receiver) = (queue.shm_sender(), queue.shm_receiver());
        let mut batch: Batch<'_, ByteDelivery<'_>> = Batch::new();
        for round in 0..20_u8 {
            let first = [round, 0];
            let rest: Vec<[u8; 2]> = (1..8).map(|number| [round, number]).collect();
            handle.send(&first, Kind::Data, || Wait::No).unwrap();
            let rest: Vec<&[u8]> = rest.iter().map(|payload| &payload[..]).collect();
            let (some, others) = rest.split_at(usize::from(round) % 7);
            handle.send_batch(some, Kind::Data, Wait::No).unwrap();
            handle.send_batch(others, Kind::Data, Wait::No).unwrap();
            let full = handle.send(b"more", Kind::Data, || Wait::No);
            assert!(
                matches!(full, Err(SendPortError::NoRoom { .. })),
                "{full:?}"
            );
            receiver
                .receive_batch(1 + usize::from(round) % 3, Wait::No, &mut *batch)
                .unwrap();
            receiver.receive_batch(8, Wait::No, &mut *batch).unwrap();
            for (number, delivery) in (0..).zip(batch.iter()) {
                assert_eq!(delivery.payload(), [round, number]);
            }
            assert_eq!(batch.len(), 8);
            batch.ack().unwrap();
            assert_eq!(queue.stats().unwrap().in_use(), 0);
        }
    }

    fn steps_over_the_first_of_three(capacity: u32) {
        let (_folder, queue) = queue_of(capacity);
        let handle = queue.shm_sender();
        let sender = handle.at(0);
        let ring = &sender.level.ring;
        let mut cursor = sender.cursor.borrow_mut();
        let run = ring.claim_run(sender.shared.seat, &mut cursor, 3).unwrap();
        drop(cursor);
        let first = run.claim(0).index();

        // A message is behind the second.
        step_over(sender, first);
        let payloads: [&[u8]; 3] = [&[0], &[1], &[2]];
        let sent = sender.fill_and_publish(run, &payloads, Kind::Data);
        assert_eq!(sent, Ok(3));
        let more = u8::from(capacity > 3);
        if more > 0 {
            sender.send(&[3], Kind::Data, || Wait::No).unwrap();
        }
        let receiver = queue.shm_receiver();
        for number in 0..3 + more {
            let delivery = receiver.receive(|| Wait::No).unwrap();
            assert_eq!(delivery.reading().payload(), [number]);
            ByteDelivery::from(delivery).ack().unwrap();
        }
    }
}
