//! The promises about acks in flight.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Waker};

use ipc_proto::MessageId;

use super::batch::{cut_acks_off, with_a_lost_lease};
use super::proxy::Fault;
use super::settling::undisturbed;
use super::{Subject, Trial, content, settings};
use crate::ack_window::MAX_ACKS_IN_FLIGHT;
use crate::block_on::block_on;
use crate::bytes::{ByteQueue, ByteReceiver};
use crate::delivery::ByteDelivery;
use crate::error::{BatchAckError, SettleError};
use crate::owned::OwnedByteDelivery;
use crate::wait::Wait;

/// More than can be in flight.
const MANY: usize = MAX_ACKS_IN_FLIGHT + 30;

fn send(queue: &ByteQueue, count: usize) {
    let messages: Vec<_> = (0..count as u64)
        .map(|number| content(number, 20))
        .collect();
    let payloads: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let sent = queue.sender().send_batch(&payloads);
    sent.expect("places for all");
}

fn in_use(queue: &ByteQueue) -> u64 {
    queue.transport().stats().expect("it exists").in_use()
}

/// Acks one by one, as a batch, and from owned deliveries. After the flush the messages are gone.
///
/// # Panics
/// If the subject breaks the promise.
pub fn acks_in_flight_are_confirmed_by_flush(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(MANY as u32));
    let receiver = queue.receiver();
    receiver.flush().expect("nothing is in flight");

    send(&queue, MANY);
    for number in 0..MANY {
        let delivery = receiver.recv().expect("it was sent");
        receiver.ack_later(delivery).expect("we hold it");
        let in_flight = receiver.acks_in_flight();
        assert!(
            in_flight <= MAX_ACKS_IN_FLIGHT.min(number + 1),
            "{in_flight}"
        );
    }
    receiver.flush().expect("we held them");
    assert_eq!((receiver.acks_in_flight(), in_use(&queue)), (0, 0));

    send(&queue, MANY);
    for most in [MAX_ACKS_IN_FLIGHT, MANY] {
        let mut batch = receiver.recv_batch(most, Wait::No).expect("they were sent");
        receiver.ack_batch_later(&mut batch).expect("we hold them");
        assert!(batch.is_empty() && receiver.acks_in_flight() <= MAX_ACKS_IN_FLIGHT);
    }
    receiver.flush().expect("we held them");
    assert_eq!(in_use(&queue), 0);

    send(&queue, MANY);
    let mut all = receiver.recv_batch(MANY, Wait::No).expect("they were sent");
    let owned = all.pop().expect("there are many").into_owned();
    receiver.ack_batch_later(&mut all).expect("we hold them");
    receiver.ack_later(owned.into()).expect("we hold it");
    assert!(receiver.acks_in_flight() <= MAX_ACKS_IN_FLIGHT);
    receiver.flush().expect("we held them");
    let stats = queue.transport().stats().expect("it exists");
    assert_eq!((stats.in_use(), stats.acked), (0, 3 * MANY as u64));
}

/// The same without blocking the thread.
///
/// # Panics
/// If the subject breaks the promise.
pub fn acks_in_flight_are_confirmed_by_flush_async(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(MANY as u32));
    let mut receiver = queue.receiver();
    block_on(receiver.flush_async()).expect("nothing is in flight");
    send(&queue, MANY);
    for count in [1, MANY - 1] {
        for _ in 0..count {
            let delivery = block_on(receiver.recv_async()).expect("it was sent");
            receiver.ack_later(delivery.into()).expect("we hold it");
        }
        block_on(receiver.flush_async()).expect("we held them");
        let left = (MANY - 1) as u64 * u64::from(count == 1);
        assert_eq!((receiver.acks_in_flight(), in_use(&queue)), (0, left));
    }
}

/// For a transport with a server, a proxy stalls the answers. A call after the dropped one reports
/// each message whose ack was not confirmed.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_dropped_async_flush_hides_no_failure(subject: &dyn Subject) {
    type Next = fn(&mut ByteReceiver, OwnedByteDelivery) -> Result<(), BatchAckError>;
    let calls: [Next; 3] = [
        |receiver, _| receiver.flush(),
        |receiver, _| block_on(receiver.flush_async()),
        |receiver, last| receiver.ack_later(last.into()),
    ];
    for next in calls {
        drop_async_flush(subject, next);
    }
}

fn drop_async_flush(
    subject: &dyn Subject,
    next: impl FnOnce(&mut ByteReceiver, OwnedByteDelivery) -> Result<(), BatchAckError>,
) {
    const COUNT: usize = 10;
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(COUNT as u32));
    let Some(proxied) = subject.proxied(&trial.name) else {
        return;
    };
    send(&queue, COUNT);
    let cut = ByteQueue::over(Arc::clone(&proxied.queue));
    let mut receiver = cut.receiver();
    let held = receive_all(&receiver, COUNT).into_iter();
    let mut held: Vec<_> = held.map(ByteDelivery::into_owned).collect();
    let last = held.pop().expect("there are some");
    proxied.proxy.arm(Fault::StallAnswer, 0);
    for delivery in held {
        receiver.ack_later(delivery.into()).expect("it is sent");
    }
    let mut flush = Box::pin(receiver.flush_async());
    let polled = flush.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "confirmed without an answer");
    drop(flush);
    assert_eq!(receiver.acks_in_flight(), COUNT - 1);

    let error = next(&mut receiver, last).expect_err("there was no answer");
    proxied.proxy.heal();
    let failed: HashSet<_> = error.failures().map(|failure| failure.message).collect();
    assert_eq!(failed.len(), error.failed, "reported twice");
    // An ack that was sent now may be in flight.
    let _ = receiver.flush();
    assert_eq!(receiver.acks_in_flight(), 0);
}

/// The failure is reported once, by the call that finds it.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_lost_lease_is_reported_by_flush(subject: &dyn Subject) {
    undisturbed(|| flush_with_a_lost_lease(subject));
}

fn flush_with_a_lost_lease(subject: &dyn Subject) -> Result<(), SettleError> {
    with_a_lost_lease(subject, |_, receiver, batch, lost| {
        let failures = ack_later(receiver, batch);
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(failures[0].is_lease_lost(), "{}", failures[0]);
        assert_eq!(failures[0].message, lost);
        receiver.flush().expect("it was reported");
    })
}

/// Acks all of them, then flushes. Returns the failures that were reported.
fn ack_later<'a>(
    receiver: &ByteReceiver,
    deliveries: impl IntoIterator<Item = ByteDelivery<'a>>,
) -> Vec<SettleError> {
    let mut failures = Vec::new();
    let mut note = |acked: Result<(), BatchAckError>| {
        if let Err(error) = acked {
            assert_eq!(error.failed, error.failures().count());
            failures.extend(error.failures().cloned());
        }
    };
    for delivery in deliveries {
        note(receiver.ack_later(delivery));
    }
    note(receiver.flush());
    failures
}

/// For a transport with a server, a proxy cuts or stalls the connection at each request of the acks
/// in turn. Each message with a confirmed ack is gone. Each other one is reported by its id, and
/// may be delivered again.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_interrupted_flush_reports_each_failure(subject: &dyn Subject) {
    const FAULTS: [Fault; 5] = [
        Fault::CutRequest,
        Fault::CutHalf,
        Fault::CutAnswer,
        Fault::StallRequest,
        Fault::StallAnswer,
    ];
    for fault in FAULTS {
        let mut requests = 0;
        while flush_interrupted(subject, fault, requests) {
            requests += 1;
        }
    }
}

/// Returns `false` if there are fewer requests, or if the subject has no server.
fn flush_interrupted(subject: &dyn Subject, fault: Fault, requests: u32) -> bool {
    const COUNT: u64 = 10;
    cut_acks_off(subject, COUNT, |receiver, proxy| {
        let held = receive_all(receiver, COUNT as usize);
        let all: HashSet<MessageId> = held.iter().map(ByteDelivery::id).collect();
        proxy.arm(fault, requests);
        let failures = ack_later(receiver, held);
        let failed: Vec<_> = failures.iter().map(|failure| failure.message).collect();
        let place = format!("{fault:?} at request {requests}");
        assert!(failed.iter().all(|id| all.contains(id)), "{place}");
        if requests == 0 && matches!(fault, Fault::StallRequest | Fault::StallAnswer) {
            assert!(!failed.is_empty(), "{place}: confirmed without an answer");
        }
        assert_eq!(receiver.acks_in_flight(), 0, "{place}");
        failed
    })
}

/// For a transport with a server, a proxy delays the acks.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_dropped_receiver_confirms_its_acks(subject: &dyn Subject) {
    const COUNT: usize = 10;
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(COUNT as u32));
    send(&queue, COUNT);
    let proxied = subject.proxied(&trial.name);
    let slow = proxied
        .as_ref()
        .map(|proxied| ByteQueue::over(Arc::clone(&proxied.queue)));
    let receiver = slow.as_ref().unwrap_or(&queue).receiver();
    let held = receive_all(&receiver, COUNT);
    if let Some(proxied) = &proxied {
        proxied.proxy.arm(Fault::Delay, 0);
    }
    for delivery in held {
        receiver.ack_later(delivery).expect("we hold it");
    }
    drop(receiver);
    let stats = queue.transport().stats().expect("it exists");
    assert_eq!((stats.in_use(), stats.nacked), (0, 0));
}

fn receive_all(receiver: &ByteReceiver, count: usize) -> Vec<ByteDelivery<'_>> {
    let mut held = Vec::new();
    while held.len() < count {
        let batch = receiver.recv_batch(count - held.len(), Wait::Forever);
        held.extend(batch.expect("they are there"));
    }
    held
}
