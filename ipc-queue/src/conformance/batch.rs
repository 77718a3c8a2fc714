//! The promises about batches.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipc_proto::{Kind, MessageId, QueueSettings};

use super::proxy::{Fault, Proxy};
use super::settling::undisturbed;
use super::{LARGEST, Subject, Trial, content, number_in, rounds, settings};
use crate::batch::Batch;
use crate::bytes::{ByteQueue, ByteReceiver};
use crate::capability::Feature;
use crate::delivery::ByteDelivery;
use crate::error::{BatchPortError, NoRoom, SendFailure, SendPortError, SettleError};
use crate::wait::Wait;

/// Returns message number `number`; in rotation, its payload fits its cell or does not.
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

/// Receives the next messages, acks them, and returns their numbers.
fn receive(receiver: &ByteReceiver, most: usize) -> Vec<u64> {
    let mut batch = receiver.recv_batch(most, Wait::No).expect("some are there");
    let numbers = batch
        .iter()
        .map(|delivery| number_in(delivery.payload()))
        .collect();
    batch.ack().expect("we hold them");
    numbers
}

/// A batch is a sequence of messages. They are received in batches of any size or one by one, and
/// settled together or one by one.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_batch_is_sent_and_received_in_order(subject: &dyn Subject) {
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
    // No more than are available, and nothing if nothing is requested.
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
    drop(batch); // Returned.
    assert_eq!(queue.transport().stats().unwrap().ready, 2);
    let mut again = receive(&receiver, 3);
    again.sort_unstable();
    assert_eq!(again, [20, 22]);
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    a_batch_larger_than_the_queue_passes_through(subject);
}

/// The batch waits for room again and again, and wakes the receiver that waits for it.
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

/// The messages sent before the failure stay sent.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_failed_batch_reports_how_many_messages_were_sent(subject: &dyn Subject) {
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

/// The lost one is reported, and the others are still acked.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_batch_is_acked_even_if_one_lease_was_lost(subject: &dyn Subject) {
    undisturbed(|| ack_with_a_lost_lease(subject));
}

fn ack_with_a_lost_lease(subject: &dyn Subject) -> Result<(), SettleError> {
    with_a_lost_lease(subject, |queue, _, mut batch, lost| {
        let error = batch.ack().expect_err("one lease was lost");
        assert_eq!((error.acked, error.failed), (4, 1));
        assert!(error.first.is_lease_lost(), "{error}");
        assert_eq!(error.first.message, lost);
        assert!(error.others.is_empty() && batch.is_empty());
        assert_eq!(queue.transport().stats().expect("it exists").leased, 1);
    })
}

/// Receives a batch of five, of which one lease is lost. `settle` acks it, and is given the id of
/// that message.
pub(super) fn with_a_lost_lease(
    subject: &dyn Subject,
    settle: impl for<'a> FnOnce(&ByteQueue, &'a ByteReceiver, Batch<'a, ByteDelivery<'a>>, MessageId),
) -> Result<(), SettleError> {
    const LEASE: Duration = Duration::from_millis(100);
    const HOUR: Duration = Duration::from_secs(3600);
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        lease: Some(LEASE),
        ..settings(5)
    });
    send(&queue, 0..5, Wait::No).expect("places for all");
    let (receiver, other) = (queue.receiver(), trial.open().receiver());
    let batch = receiver.recv_batch(5, Wait::No).expect("five are there");
    for delivery in batch.iter().filter(|one| number_in(one.payload()) != 2) {
        delivery.extend(HOUR)?;
    }
    let again = other.recv().expect("it comes again");
    again.extend(HOUR)?;
    assert_eq!(number_in(again.payload()), 2);
    settle(&queue, &receiver, batch, again.id());
    let in_use = || queue.transport().stats().expect("it exists").in_use();
    assert_eq!(in_use(), 1);
    other.ack_later(again).expect("an hour is not over");
    other.flush().expect("an hour is not over");
    assert_eq!(in_use(), 0);
    Ok(())
}

/// The faults that end a batch. Anything after them needs a connection that works again.
const CUTS: [Fault; 4] = [
    Fault::CutRequest,
    Fault::CutHalf,
    Fault::CutAnswer,
    Fault::StallAnswer,
];
/// The size of a batch that is cut off.
const CUT: u64 = 40;

/// For a transport with a server, a proxy cuts the connection at each request of a batch in turn.
/// The first messages, as many as the error says, were sent. It is unknown whether any others were
/// sent. Those that were arrive in order, and the others leave nothing in the queue.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_interrupted_batch_reports_how_many_messages_were_sent(subject: &dyn Subject) {
    for fault in CUTS {
        let mut requests = 0;
        while sending_cut_off(subject, fault, requests) {
            requests += 1;
        }
    }
}

/// Returns `false` if there are fewer requests, or if the subject has no server.
fn sending_cut_off(subject: &dyn Subject, fault: Fault, requests: u32) -> bool {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(CUT as u32));
    let Some(proxied) = subject.proxied(&trial.name) else {
        return false;
    };
    proxied.proxy.arm(fault, requests);
    let batch = ByteQueue::over(Arc::clone(&proxied.queue));
    let sent = send(&batch, 0..CUT, Wait::No);
    let has_happened = proxied.proxy.heal();
    let sent = sent.map_or_else(|error| error.sent, |()| CUT as usize);
    let received = receive_all(&queue);
    let place = format!("{fault:?} at request {requests}: {sent} sent, received {received:?}");
    assert!(received.is_sorted_by(|one, next| one < next), "{place}");
    assert!(
        received.iter().copied().take(sent).eq(0..sent as u64),
        "{place}"
    );
    has_happened
}

/// Receives until nothing is left in the queue. Returns the numbers of all messages.
fn receive_all(queue: &ByteQueue) -> Vec<u64> {
    const SLICE: Duration = Duration::from_millis(50);
    let receiver = queue.receiver();
    let mut numbers = Vec::new();
    loop {
        while let Ok(delivery) = receiver.recv_timeout(SLICE) {
            numbers.push(number_in(delivery.payload()));
            delivery.ack().expect("we hold it");
        }
        if queue.transport().stats().expect("it exists").in_use() == 0 {
            return numbers;
        }
    }
}

/// The same for the acks of a batch. Messages with a confirmed ack are gone. Each other one is
/// reported, and may be redelivered.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_interrupted_batch_of_acks_reports_each_failure(subject: &dyn Subject) {
    for fault in CUTS {
        let mut requests = 0;
        while acking_cut_off(subject, fault, requests) {
            requests += 1;
        }
    }
}

fn acking_cut_off(subject: &dyn Subject, fault: Fault, requests: u32) -> bool {
    cut_acks_off(subject, CUT, |receiver, proxy| {
        let mut batch = receiver
            .recv_batch(CUT as usize, Wait::Forever)
            .expect("they are there");
        let held = batch.len();
        proxy.arm(fault, requests);
        let Err(error) = batch.ack() else {
            return Vec::new();
        };
        assert_eq!(error.acked + error.failed, held);
        assert_eq!(error.failed, 1 + error.others.len());
        error.failures().map(|failure| failure.message).collect()
    })
}

/// Sends messages, which `ack` receives and acks through a proxy. It returns those whose acks
/// failed: only they are received again. Returns whether the proxy's fault happened; `false` if the
/// subject has no server.
pub(super) fn cut_acks_off(
    subject: &dyn Subject,
    count: u64,
    ack: impl FnOnce(&ByteReceiver, &Proxy) -> Vec<MessageId>,
) -> bool {
    // Over a transport that does not notice deaths, an unacked message is redelivered after this
    // time.
    const LEASE: Duration = Duration::from_secs(1);
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        lease: Some(LEASE),
        ..settings(count as u32)
    });
    let Some(proxied) = subject.proxied(&trial.name) else {
        return false;
    };
    send(&queue, 0..count, Wait::No).expect("places for all");
    let cut = ByteQueue::over(Arc::clone(&proxied.queue));
    let reported = ack(&cut.receiver(), &proxied.proxy);
    let has_happened = proxied.proxy.heal();
    let failed: HashSet<_> = reported.iter().copied().collect();
    assert_eq!(failed.len(), reported.len(), "reported twice");
    let other = queue.receiver();
    while queue.transport().stats().expect("it exists").in_use() != 0 {
        let Ok(again) = other.recv_timeout(LEASE) else {
            continue;
        };
        let id = again.id();
        assert!(failed.contains(&id), "{id} was acked");
        // The lease may have ended; then the message is redelivered once more.
        let _ = again.ack();
    }
    has_happened
}
