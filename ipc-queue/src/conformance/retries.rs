//! The promises about failures: the delays and limits of redelivery, and the data that survives it,
//! including headers.

use std::time::{Duration, Instant};

use ipc_proto::{Backoff, QueueSettings};

use super::{Subject, Trial, settings};
use crate::bytes::ByteQueue;
use crate::capability::Feature;
use crate::dead_letter::{DeadLetter, DeadReason};
use crate::delivery::ByteDelivery;
use crate::error::{SendFailure, SettleFailure, TryRecvError};
use crate::send_options::SendOptions;
use crate::settle::MAX_REASON_BYTES;
use crate::settle::Nack;
use crate::wait::Wait;

const SHORT: Duration = Duration::from_millis(60);
/// If a transport has not noticed the end of a lease of `SHORT` after this many waits of `SHORT`,
/// it never will.
const LOOKS: usize = 100;

/// # Panics
/// If the subject breaks the promise.
pub fn a_nack_is_delayed_by_the_queues_backoff(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        backoff: Backoff::List(vec![SHORT, SHORT * 2]),
        ..settings(2)
    });
    let receiver = queue.receiver();
    queue.sender().try_send(b"job").expect("there is room");
    let mut delivery = receiver.try_recv().expect("it was sent");
    for delay in [SHORT, SHORT * 2, SHORT * 2] {
        let nacked_at = Instant::now();
        delivery.nack().expect("we hold it");
        delivery = receiver.recv().expect("it is delivered again");
        assert!(nacked_at.elapsed() >= delay, "it was delivered early");
    }
    // The receiver's choice overrides the policy.
    delivery.nack_after(Duration::ZERO).expect("we hold it");
    let last = receiver.try_recv().expect("it is there at once");
    assert_eq!(last.attempt(), 5);
    last.ack().expect("we hold it");
}

/// # Panics
/// If the subject breaks the promise.
pub fn expired_leases_have_a_separate_limit(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        lease: Some(SHORT),
        expiry_limit: 2,
        attempt_limit: 9,
        ..settings(2)
    });
    let receiver = queue.receiver();
    queue.sender().try_send(b"job").expect("there is room");
    let first = receiver.recv().expect("it was sent");
    let second = receiver.recv().expect("the first lease ends");
    assert_eq!((first.attempt(), second.attempt()), (1, 2));
    let letters = || queue.transport().dead_letters().expect("it exists");
    // Some transports check deadlines only while a handle waits.
    for _ in 0..LOOKS {
        if !letters().is_empty() {
            break;
        }
        assert!(receiver.recv_timeout(SHORT).is_err(), "it is a dead letter");
    }
    let letter = only_letter(&queue);
    assert_eq!((letter.reason, letter.attempts), (DeadReason::Expired, 2));
    assert_eq!(letter.expiries, 2);
}

/// # Panics
/// If the subject breaks the promise.
pub fn headers_travel_with_their_message(subject: &dyn Subject) {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(4));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let options = SendOptions::new()
        .header("traceparent", TRACE)
        .and_then(|options| options.header("bytes", [0, 255, 10]))
        .expect("these are headers");
    if refuses(&queue, &options, Feature::Headers) {
        return;
    }
    for len in [0, 10, 5000] {
        let payload = super::content(1, len);
        let sent = sender.send_with(&payload, &options.clone().wait(Wait::No));
        let id = sent.expect("there is room");
        sender.try_send(b"without").expect("there is room");
        let same = |delivery: &ByteDelivery<'_>| {
            assert_eq!(delivery.headers(), options.headers, "{len} bytes");
            assert_eq!((delivery.payload(), delivery.id()), (&payload[..], id));
        };
        let first = receiver.try_recv().expect("it was sent");
        same(&first);
        let without = receiver.try_recv().expect("it was sent");
        assert!(without.headers().is_empty());
        without.ack().expect("we hold it");
        first.nack().expect("we hold it");
        let again = receiver.try_recv().expect("it was returned");
        same(&again);
        again.bury().expect("we hold it");
        let letter = only_letter(&queue);
        assert_eq!(
            (&letter.headers, &letter.payload),
            (&options.headers, &payload)
        );
        let requeued = queue.transport().requeue(letter.id);
        assert!(requeued.expect("the queue is open"));
        let last = receiver.try_recv().expect("it was requeued");
        same(&last);
        last.ack().expect("we hold it");
    }
}

/// # Panics
/// If the subject breaks the promise.
pub fn a_reason_is_kept_in_the_dead_letter(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        attempt_limit: 2,
        ..settings(2)
    });
    if !queue.transport().capabilities().has(Feature::Reasons) {
        return; // The reason is accepted but not kept.
    }
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let too_long = "é".repeat(MAX_REASON_BYTES);
    for (len, reason) in [(10, "no such file: a.png"), (5000, ""), (0, &too_long)] {
        let payload = super::content(1, len);
        sender.try_send(&payload).expect("there is room");
        for reason in ["the database is away", reason] {
            let delivery = receiver.try_recv().expect("it is there");
            let nack = Nack::new().reason(reason);
            delivery.nack_with(nack).expect("we hold it");
        }
        let letter = only_letter(&queue);
        assert!(reason.starts_with(&letter.error), "{:?}", letter.error);
        assert!(letter.error.len() + 1 >= reason.len().min(MAX_REASON_BYTES));
        assert_eq!(letter.payload, payload);
        let discarded = queue.transport().discard(letter.id);
        assert!(discarded.expect("it exists"));
    }
    sender.try_send(b"buried").expect("there is room");
    let delivery = receiver.try_recv().expect("it is there");
    delivery.bury_with("not an image").expect("we hold it");
    assert_eq!(only_letter(&queue).error, "not an image");
}

/// # Panics
/// If the subject breaks the promise.
pub fn a_snooze_does_not_count_as_an_attempt(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        attempt_limit: 2,
        ..settings(2)
    });
    let receiver = queue.receiver();
    queue.sender().try_send(b"not yet").expect("there is room");
    if !queue.transport().capabilities().has(Feature::Snooze) {
        let delivery = receiver.try_recv().expect("it was sent");
        match delivery.snooze(SHORT).map_err(|error| error.failure) {
            Err(SettleFailure::Unsupported(what)) => assert_eq!(what.feature, Feature::Snooze),
            other => panic!("{other:?}"),
        }
        return;
    }
    let mut tokens = Vec::new();
    for _ in 0..4 {
        let delivery = receiver.recv().expect("it is delivered again");
        assert_eq!(delivery.attempt(), 1);
        tokens.push(delivery.token());
        let snoozed_at = Instant::now();
        delivery.snooze(SHORT).expect("we hold it");
        let early = receiver.try_recv();
        assert!(snoozed_at.elapsed() >= SHORT || early.is_err());
        match early {
            // Dropping it would nack it.
            Ok(delivery) => delivery.snooze(Duration::ZERO).expect("we hold it"),
            Err(error) => assert_eq!(error, TryRecvError::Empty),
        }
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    let delivery = receiver.recv().expect("it is delivered again");
    delivery.nack().expect("we hold it");
    let last = receiver.recv().expect("it has another attempt");
    assert_eq!(last.attempt(), 2);
    last.nack().expect("we hold it");
    assert_eq!(only_letter(&queue).attempts, 2);
}

fn only_letter(queue: &ByteQueue) -> DeadLetter {
    let letters = queue.transport().dead_letters();
    let mut letters = letters.expect("the queue exists");
    assert_eq!(letters.len(), 1, "{letters:?}");
    letters.remove(0)
}

/// Returns true if the transport does not declare the feature, after checking that it refuses it.
fn refuses(queue: &ByteQueue, options: &SendOptions, feature: Feature) -> bool {
    if queue.transport().capabilities().has(feature) {
        return false;
    }
    let sent = queue
        .sender()
        .send_with(b"", &options.clone().wait(Wait::No));
    let refused = sent.expect_err("the transport does not declare it");
    match refused.failure() {
        Some(SendFailure::Unsupported(what)) => assert_eq!(what.feature, feature),
        _ => panic!("{refused:?}"),
    }
    true
}
