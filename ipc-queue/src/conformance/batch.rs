//! The promises about batches.

use std::thread;
use std::time::Duration;

use ipc_proto::Kind;

use super::{LARGEST, Subject, Trial, content, number_in, rounds, settings};
use crate::bytes::{ByteQueue, ByteReceiver};
use crate::capability::Feature;
use crate::error::{BatchPortError, NoRoom, SendFailure, SendPortError};
use crate::transport::Wait;

/// Message number `number`, of a size that fits its place, or not, by turns.
fn message(number: u64) -> Vec<u8> {
    content(number, if number.is_multiple_of(3) { 2_000 } else { 50 })
}

fn send(
    queue: &ByteQueue,
    numbers: impl Iterator<Item = u64>,
    wait: Wait,
) -> Result<(), BatchPortError> {
    let messages: Vec<_> = numbers.map(message).collect();
    let payloads: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let port = queue.transport().sender();
    port.send_batch(&payloads, Kind::Data, wait)
}

/// The numbers of the next messages, acked.
fn receive(receiver: &ByteReceiver, most: usize) -> Vec<u64> {
    let mut batch = receiver.recv_batch(most, Wait::No).expect("some are there");
    let numbers = batch
        .iter()
        .map(|delivery| number_in(delivery.payload()))
        .collect();
    batch.ack().expect("we hold them");
    numbers
}

/// A batch is so many messages in a row; received in batches of any size, or one by one; settled together, or
/// one by one.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_batch_is_sent_and_received_in_its_order(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(20));
    assert!(
        queue.transport().capabilities().has(Feature::Batches),
        "at least one by one every transport has batches"
    );
    let receiver = queue.receiver();
    send(&queue, 0..20, Wait::No).expect("places for all");
    assert_eq!(receive(&receiver, 7), (0..7).collect::<Vec<_>>());
    let single = receiver.try_recv().expect("more are there");
    assert_eq!(number_in(single.payload()), 7);
    single.ack().expect("we hold it");
    // No more than there are, and nothing of no messages.
    assert_eq!(receive(&receiver, 100), (8..20).collect::<Vec<_>>());
    assert!(
        receiver
            .recv_batch(0, Wait::No)
            .expect("nothing asked for")
            .is_empty()
    );
    let nothing = receiver.recv_batch(3, Wait::No);
    assert!(nothing.unwrap_err().is_timeout());
    send(&queue, 0..0, Wait::No).expect("nothing to send");

    send(&queue, 20..23, Wait::No).expect("places for all");
    let mut batch = receiver.recv_batch(3, Wait::No).expect("three are there");
    batch.remove(1).ack().expect("we hold it");
    drop(batch); // Given back.
    assert_eq!(queue.transport().stats().unwrap().ready, 2);
    let mut again = receive(&receiver, 3);
    again.sort_unstable();
    assert_eq!(again, [20, 22]);
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    a_batch_larger_than_the_queue_passes_through(subject);
}

/// It waits for room again and again, and wakes whoever waits for it.
fn a_batch_larger_than_the_queue_passes_through(subject: &dyn Subject) {
    let messages = u64::from(rounds(subject, 2_000));
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(3));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _alarm = trial.alarm();
            send(&trial.open(), 0..messages, Wait::Forever).expect("room for all in time");
        });
        let _alarm = trial.alarm();
        let receiver = queue.receiver();
        let mut received = Vec::new();
        while received.len() < messages as usize {
            let batch = receiver.recv_batch(2, Wait::Forever).expect("more to come");
            for delivery in batch {
                received.push(number_in(delivery.payload()));
                delivery.ack().expect("we hold it");
            }
        }
        assert_eq!(received, (0..messages).collect::<Vec<_>>());
    });
}

/// What was sent stays sent.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_batch_that_can_not_be_sent_says_how_much_of_it_was(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(3));
    let full = send(&queue, 0..5, Wait::No).expect_err("three places");
    let error = SendPortError::NoRoom {
        missing: NoRoom::Places { capacity: 3 },
        waited: None,
        dead: 0,
    };
    assert_eq!(full, BatchPortError { sent: 3, error });
    let late = send(&queue, 5..7, Wait::at_most(Duration::from_millis(2)));
    let late = late.expect_err("no place at all");
    assert_eq!(late.sent, 0);
    assert!(
        matches!(
            late.error,
            SendPortError::NoRoom {
                waited: Some(_),
                ..
            }
        ),
        "{late}"
    );
    assert_eq!(receive(&queue.receiver(), 3), [0, 1, 2]);

    let (small, huge) = (message(7), vec![0; LARGEST as usize + 1]);
    let payloads: [&[u8]; 3] = [&small, &huge, &small];
    let large = queue
        .sender()
        .send_batch(&payloads)
        .expect_err("the second does not fit");
    let failure = SendFailure::TooLarge {
        bytes: huge.len(),
        most: LARGEST as usize,
    };
    assert_eq!((large.sent, large.failure), (1, failure));
    assert_eq!(receive(&queue.receiver(), 3), [7]);
    queue.transport().close().unwrap();
    let closed = send(&queue, 8..9, Wait::Forever).expect_err("it is closed");
    let error = SendFailure::Closed.into();
    assert_eq!(closed, BatchPortError { sent: 0, error });
    assert_eq!(queue.transport().stats().unwrap().sent, 4);
}
