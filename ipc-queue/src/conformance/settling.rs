//! The promises about the ends of deliveries.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::{Kind, QueueSettings};

use super::{Subject, Trial, content, number_in, settings};
use crate::bytes::{ByteQueue, ByteReceiver, ByteSender};
use crate::control::ControlFailure;
use crate::dead_letter::{DeadLetter, DeadReason};
use crate::delivery::ByteDelivery;
use crate::error::{RecvTimeoutError, SettleError, TryRecvError, TrySendError, Unavailable};
use crate::send_options::SendOptions;
use crate::wait::Wait;

/// An acked message is never delivered again, to any receiver, and its place is free.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_acked_message_is_gone(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(2));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for round in 0..10 {
        for len in [10, 5000] {
            sender.try_send(&content(round, len)).expect("a place");
            receiver
                .try_recv()
                .expect("it was sent")
                .ack()
                .expect("we hold it");
            let (here, there) = (
                receiver.try_recv(),
                trial.open().receiver().try_recv().err(),
            );
            assert_eq!(
                (here.err(), there),
                (Some(TryRecvError::Empty), Some(TryRecvError::Empty))
            );
            assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
        }
    }
    drop((sender, receiver, queue));
    let later = trial.open().receiver().try_recv().err();
    assert_eq!(later, Some(TryRecvError::Empty));
}

/// It is the same message with a higher attempt, counted from 1, for any receiver.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_nacked_message_is_redelivered_with_a_higher_attempt(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(3));
    let receivers = [queue.receiver(), queue.receiver(), trial.open().receiver()];
    for len in [10, 5000] {
        let sent = queue.sender().send_with(
            &content(1, len),
            &SendOptions::new().kind(Kind::Control).wait(Wait::No),
        );
        let id = sent.expect("a place");
        let mut sent_at = None;
        for (attempt, receiver) in (1..5).zip(receivers.iter().cycle()) {
            let delivery = receiver.try_recv().expect("it was returned");
            let metadata = delivery.metadata();
            assert_eq!(
                (metadata.id, metadata.kind, metadata.attempt),
                (id, Kind::Control, attempt)
            );
            assert_eq!(*sent_at.get_or_insert(metadata.sent_at), metadata.sent_at);
            assert_eq!(delivery.payload(), content(1, len));
            delivery.nack().expect("we hold it");
        }
        let last = receivers[0].try_recv().expect("it was returned");
        assert_eq!(last.attempt(), 5);
        last.ack().expect("we hold it");
    }
}

/// This also holds if it is dropped because its holder panicked.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_dropped_delivery_is_a_nack(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(2));
    let receiver = queue.receiver();
    queue.sender().try_send(&content(1, 10)).expect("a place");
    drop(receiver.try_recv().expect("it was sent"));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let delivery = receiver.try_recv().expect("it was returned");
        assert_eq!(delivery.attempt(), 2);
        // Unwinds without the panic hook, so that no message looks like a failure.
        std::panic::resume_unwind(Box::new(number_in(delivery.payload())));
    }));
    assert_eq!(panicked.expect_err("it did").downcast_ref(), Some(&1u64));
    let delivery = trial.open();
    let receiver = delivery.receiver();
    let delivery = receiver.try_recv().expect("it was returned");
    assert_eq!(
        (
            delivery.attempt(),
            queue.transport().stats().unwrap().nacked
        ),
        (3, 2)
    );
    delivery.ack().expect("we hold it");
}

/// Meanwhile it delays no other message. It is redelivered after the delay, to a receiver that
/// waits.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_delayed_nack_is_not_redelivered_early(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        attempt_limit: QueueSettings::MAX_ATTEMPTS,
        ..settings(3)
    });
    let (sender, receiver) = (queue.sender(), queue.receiver());

    // A long delay: the rest of the test runs without this message.
    sender.try_send(&content(1, 10)).expect("a place");
    give_back_after(&receiver, Duration::MAX);
    assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!(queue.transport().stats().unwrap().delayed, 1);

    sender.try_send(&content(2, 5000)).expect("a place");
    // Short delays, polled all the time, so that an early delivery would be seen.
    for tenths in (3..=30).chain([400]) {
        let delay = Duration::from_micros(100 * tenths);
        let given_back = give_back_after(&receiver, delay);
        let delivery = poll(&receiver);
        let waited = given_back.elapsed();
        assert_eq!(number_in(delivery.payload()), 2);
        assert!(
            waited >= delay,
            "delayed by {delay:?}, it was delivered after {waited:?}"
        );
    }
    a_sleeping_receiver_gets_a_delayed_message(subject);
}

fn give_back_after(receiver: &ByteReceiver, delay: Duration) -> Instant {
    let delivery = receiver.recv().expect("a message is there");
    let now = Instant::now();
    delivery.nack_after(delay).expect("we hold it");
    now
}

fn poll(receiver: &ByteReceiver) -> ByteDelivery<'_> {
    loop {
        match receiver.try_recv() {
            Ok(delivery) => return delivery,
            Err(TryRecvError::Empty) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Two receivers return a message with a delay in turn, each while the other one is asleep.
fn a_sleeping_receiver_gets_a_delayed_message(subject: &dyn Subject) {
    const ROUNDS: u8 = 40;
    const DELAY: Duration = Duration::from_millis(3);
    let trial = Trial::new(subject);
    let queue = trial.create(&QueueSettings {
        attempt_limit: QueueSettings::MAX_ATTEMPTS,
        ..settings(1)
    });
    queue.sender().try_send(b"ball").expect("a place");
    let play = || {
        let _alarm = trial.alarm();
        let queue = trial.open();
        let receiver = queue.receiver();
        let mut due = Instant::now();
        while let Ok(delivery) = receiver.recv() {
            assert!(Instant::now() >= due);
            if delivery.attempt() == ROUNDS {
                trial.remove();
                return;
            }
            due = Instant::now() + DELAY;
            delivery.nack_after(DELAY).expect("we hold it");
        }
        assert_eq!(
            receiver.recv().unwrap_err().failure,
            Unavailable::Removed.into()
        );
    };
    thread::scope(|scope| {
        scope.spawn(play);
        scope.spawn(play);
    });
}

const HOUR: Duration = Duration::from_secs(3600);

fn the_dead_letter(queue: &ByteQueue) -> DeadLetter {
    let mut letters = queue.transport().dead_letters().unwrap();
    assert_eq!(
        (letters.len(), queue.transport().stats().unwrap().dead),
        (1, 1)
    );
    letters.remove(0)
}

/// A message gets exactly as many deliveries as the queue's limit, however they end. It keeps its
/// place.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_message_past_its_attempt_limit_is_a_dead_letter(subject: &dyn Subject) {
    for limit in [1, 2, 5] {
        for len in [10, 5000] {
            let trial = Trial::new(subject);
            let queue = trial.create(&QueueSettings {
                attempt_limit: limit,
                ..settings(2)
            });
            let receiver = queue.receiver();
            let sent = queue.sender().send_with(
                &content(1, len),
                &SendOptions::new().kind(Kind::Control).wait(Wait::No),
            );
            let id = sent.expect("a place");
            for attempt in 1..=limit {
                let delivery = receiver.try_recv().expect("its attempts are not used up");
                assert_eq!(delivery.attempt(), attempt);
                match attempt {
                    1 => drop(delivery),
                    // The last nack is not delayed.
                    _ if attempt == limit => delivery.nack_after(HOUR).expect("we hold it"),
                    _ => delivery.nack().expect("we hold it"),
                }
            }
            assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
            let letter = the_dead_letter(&queue);
            assert_eq!((letter.message, letter.kind), (id, Kind::Control));
            assert_eq!(
                (letter.attempts, letter.reason),
                (limit, DeadReason::Nacked)
            );
            assert_eq!(
                (letter.nacks, letter.expiries, letter.crashes),
                (limit, 0, 0)
            );
            assert_eq!(letter.payload, content(1, len));
        }
    }
}

/// The number of its remaining attempts does not matter. Other messages are delivered as before.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_buried_message_is_a_dead_letter(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(3));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for number in [1, 2, 3] {
        sender.try_send(&content(number, 5000)).expect("a place");
    }
    receiver
        .try_recv()
        .expect("it was sent")
        .ack()
        .expect("we hold it");
    let delivery = receiver.try_recv().expect("it was sent");
    let metadata = delivery.metadata();
    delivery.bury().expect("we hold it");
    let third = receiver.try_recv().expect("it was sent");
    assert_eq!(number_in(third.payload()), 3);
    third.ack().expect("we hold it");
    assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
    // Every handle sees the letter.
    let letter = the_dead_letter(&trial.open());
    assert_eq!(
        (letter.message, letter.sent_at),
        (metadata.id, metadata.sent_at)
    );
    assert_eq!((letter.attempts, letter.reason), (1, DeadReason::Buried));
    assert_eq!((letter.nacks, letter.expiries, letter.crashes), (0, 0, 0));
    assert_eq!(number_in(&letter.payload), 2);
}

/// After a requeue, the same message waits in place, so this also works on a full queue; its
/// attempts are counted from 1 again. After a discard, it is gone and its place is free. In a
/// closed queue it stays a dead letter.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_dead_letter_can_be_requeued_or_discarded(subject: &dyn Subject) {
    for len in [10, 5000] {
        for reason in [DeadReason::Buried, DeadReason::Nacked] {
            let trial = Trial::new(subject);
            let queue = trial.create(&QueueSettings {
                attempt_limit: 2,
                ..settings(2)
            });
            let (sender, receiver) = (queue.sender(), queue.receiver());
            let make = || {
                let sent = sender.send_with(
                    &content(1, len),
                    &SendOptions::new().kind(Kind::Control).wait(Wait::No),
                );
                sent.expect("a place");
                kill(&receiver, reason);
                let letter = the_dead_letter(&queue);
                assert_eq!(letter.reason, reason);
                // Checked only if the transport has this information.
                let us = std::process::id();
                assert_eq!(letter.last_worker.unwrap_or(us), us);
                letter
            };
            let transport = queue.transport();

            let discarded = make();
            assert!(transport.discard(discarded.id).unwrap());
            assert!(!transport.discard(discarded.id).unwrap(), "it is gone");
            assert!(!transport.requeue(discarded.id).unwrap(), "it is gone");
            assert_eq!(transport.stats().unwrap().in_use(), 0);

            let letter = make();
            assert!(
                !transport.discard(discarded.id).unwrap(),
                "that is another letter"
            );
            requeued_in_place(&trial, &sender, &receiver, &letter);

            let letter = make();
            queue.transport().close().unwrap();
            let refused = transport.requeue(letter.id).expect_err("it is closed");
            let closed = matches!(refused.failure, ControlFailure::Closed);
            assert!(closed, "{refused}");
            assert_eq!(the_dead_letter(&queue), letter);
        }
    }
}

/// Requeues the letter while another message has the only other place, and acks both.
fn requeued_in_place(
    trial: &Trial<'_>,
    sender: &ByteSender,
    receiver: &ByteReceiver,
    letter: &DeadLetter,
) {
    let queue = trial.open();
    let transport = queue.transport();
    sender.try_send(b"in the way").expect("a place");
    let full = sender.try_send(b"").expect_err("there is no place");
    assert!(matches!(full, TrySendError::Full { .. }), "{full}");
    let other = receiver.try_recv().expect("it was sent");
    assert!(trial.open().transport().requeue(letter.id).unwrap());
    assert!(!transport.requeue(letter.id).unwrap(), "it is gone");
    assert!(transport.dead_letters().unwrap().is_empty());
    let again = receiver.try_recv().expect("it was requeued");
    assert_eq!((again.kind(), again.attempt()), (Kind::Control, 1));
    assert_eq!(
        (again.id(), again.metadata().sent_at),
        (letter.message, letter.sent_at)
    );
    assert_eq!(number_in(again.payload()), 1);
    other.ack().expect("we hold it");
    again.nack().expect("we hold it");
    // Attempts are counted from 1 again.
    let again = receiver.try_recv().expect("it has another attempt");
    assert_eq!(again.attempt(), 2);
    again.ack().expect("we hold it");
    assert_eq!(transport.stats().unwrap().in_use(), 0);
}

/// Makes the next message a dead letter.
fn kill(receiver: &ByteReceiver, reason: DeadReason) {
    while let Ok(delivery) = receiver.try_recv() {
        match reason {
            DeadReason::Buried => delivery.bury().expect("we hold it"),
            _ => delivery.nack().expect("we hold it"),
        }
    }
}

/// The lease does not end early. Afterwards the calls of the former holder fail and change nothing.
/// The payload that it reads does not change until it releases the delivery.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_expired_lease_is_lost_and_its_message_redelivered(subject: &dyn Subject) {
    const LEASE: Duration = Duration::from_millis(20);
    type End = fn(ByteDelivery<'_>) -> bool;
    let ends: [End; 6] = [
        |delivery| is_lost(delivery.ack()),
        |delivery| is_lost(delivery.nack()),
        |delivery| is_lost(delivery.nack_after(HOUR)),
        |delivery| is_lost(delivery.bury()),
        |delivery| is_lost(delivery.extend(HOUR)),
        |delivery| {
            drop(delivery);
            true
        },
    ];
    for len in [10, 5000] {
        for end in ends {
            undisturbed(|| lose_a_lease(subject, LEASE, len, end));
        }
        undisturbed(|| read_on_after_the_lease(subject, LEASE, len));
        a_lease_that_ends_with_the_last_attempt(subject, LEASE, len);
    }
}

fn is_lost(settled: Result<(), SettleError>) -> bool {
    settled.is_err_and(|error| error.is_lease_lost())
}

/// Repeats a trial until it is undisturbed: on a slow machine the trial may lose a lease that it
/// needs.
pub(super) fn undisturbed(trial: impl Fn() -> Result<(), SettleError>) {
    const TRIALS: usize = 50;
    let held = (0..TRIALS).any(|_| trial().is_ok());
    assert!(
        held,
        "no lease was kept long enough to extend it, {TRIALS} times"
    );
}

fn leased(trial: &Trial<'_>, lease: Duration, attempt_limit: u8) -> ByteQueue {
    trial.create(&QueueSettings {
        lease: Some(lease),
        attempt_limit,
        ..settings(3)
    })
}

fn lose_a_lease(
    subject: &dyn Subject,
    lease: Duration,
    len: usize,
    ends_lost: fn(ByteDelivery<'_>) -> bool,
) -> Result<(), SettleError> {
    let trial = Trial::new(subject);
    let queue = leased(&trial, lease, 5);
    let (loser, other) = (queue.receiver(), trial.open());
    let winner = other.receiver();
    queue.sender().try_send(&content(1, len)).expect("a place");
    let started = Instant::now();
    let lost = loser.recv().expect("it was sent");
    let kept = winner.recv().expect("it is delivered again");
    let waited = started.elapsed();
    kept.extend(HOUR)?;
    assert!(
        waited >= lease,
        "a lease of {lease:?} ended after {waited:?}"
    );
    assert_eq!((kept.attempt(), kept.id()), (2, lost.id()));
    assert_eq!(number_in(lost.payload()), number_in(kept.payload()));

    assert!(ends_lost(lost));
    assert_eq!(loser.try_recv().err(), Some(TryRecvError::Empty));
    kept.ack().expect("an hour is not over");
    let stats = queue.transport().stats().unwrap();
    assert_eq!((stats.in_use(), stats.leases_lost, stats.acked), (0, 1, 1));
    assert_eq!((stats.nacked, stats.buried), (0, 0));
    Ok(())
}

fn read_on_after_the_lease(
    subject: &dyn Subject,
    lease: Duration,
    len: usize,
) -> Result<(), SettleError> {
    let trial = Trial::new(subject);
    let queue = leased(&trial, lease, 5);
    let (loser, winner, sender) = (queue.receiver(), queue.receiver(), queue.sender());
    let full = |sender: &ByteSender| {
        (2..10)
            .take_while(|number| sender.try_send(&content(*number, len)).is_ok())
            .count()
    };
    sender.try_send(&content(1, len)).expect("a place");
    let lost = loser.recv().expect("it was sent");
    let kept = winner.recv().expect("it is delivered again");
    kept.extend(HOUR)?;
    kept.ack().expect("an hour is not over");
    // Whether the payload that is still read keeps its place is up to the transport.
    let sent = full(&sender);
    assert!((2..=3).contains(&sent), "{sent} of 3 places");
    assert_eq!(
        number_in(lost.payload()),
        1,
        "the payload being read is unchanged"
    );
    assert!(lost.ack().unwrap_err().is_lease_lost());
    assert_eq!(sent + full(&sender), 3, "no receiver reads any more");
    Ok(())
}

fn a_lease_that_ends_with_the_last_attempt(subject: &dyn Subject, lease: Duration, len: usize) {
    let trial = Trial::new(subject);
    let queue = leased(&trial, lease, 1);
    let (loser, other) = (queue.receiver(), queue.receiver());
    queue.sender().try_send(&content(1, len)).expect("a place");
    let lost = loser.recv().expect("it was sent");
    while queue.transport().dead_letters().unwrap().is_empty() {
        let nothing = other.recv_timeout(Duration::from_millis(1));
        assert!(
            matches!(nothing, Err(RecvTimeoutError::TimedOut { .. })),
            "{nothing:?}"
        );
    }
    let letter = the_dead_letter(&queue);
    assert_eq!((letter.attempts, letter.reason), (1, DeadReason::Expired));
    assert_eq!((letter.nacks, letter.expiries, letter.crashes), (0, 1, 0));
    assert_eq!(letter.payload, content(1, len));
    assert!(lost.ack().unwrap_err().is_lease_lost());
    assert!(queue.transport().discard(letter.id).unwrap());
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
}

/// The lease ends no earlier than the extension, but it does end. Without a lease time-out there is
/// nothing to extend and nothing to lose.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_extended_lease_is_kept(subject: &dyn Subject) {
    const LEASE: Duration = Duration::from_millis(20);
    const LONGER: Duration = Duration::from_millis(60);
    for extension in [LONGER, HOUR, Duration::MAX] {
        undisturbed(|| extend_a_lease(subject, LEASE, extension));
    }

    let trial = Trial::new(subject);
    let queue = trial.create(&settings(1));
    let receiver = queue.receiver();
    queue.sender().try_send(&content(1, 10)).expect("a place");
    let delivery = receiver.try_recv().expect("it was sent");
    delivery.extend(Duration::ZERO).expect("without effect");
    let other = queue.receiver();
    let nothing = other.recv_timeout(LEASE);
    assert!(
        matches!(nothing, Err(RecvTimeoutError::TimedOut { .. })),
        "{nothing:?}"
    );
    delivery.ack().expect("there is no lease to lose");
}

fn extend_a_lease(
    subject: &dyn Subject,
    lease: Duration,
    extension: Duration,
) -> Result<(), SettleError> {
    let trial = Trial::new(subject);
    let queue = leased(&trial, lease, 5);
    let (receiver, other) = (queue.receiver(), trial.open());
    let other = other.receiver();
    queue.sender().try_send(&content(1, 10)).expect("a place");
    let delivery = receiver.recv().expect("it was sent");
    let started = Instant::now();
    delivery.extend(extension)?;
    if extension >= HOUR {
        let nothing = other.recv_timeout(5 * lease);
        assert!(
            matches!(nothing, Err(RecvTimeoutError::TimedOut { .. })),
            "{nothing:?}"
        );
        delivery.ack().expect("an hour is not over");
        return Ok(());
    }
    let again = other.recv().expect("it is delivered again");
    let waited = started.elapsed();
    again.extend(HOUR)?;
    assert!(
        waited >= extension,
        "extended by {extension:?}, it ended after {waited:?}"
    );
    assert_eq!(again.attempt(), 2);
    assert!(delivery.ack().unwrap_err().is_lease_lost());
    again.ack().expect("an hour is not over");
    Ok(())
}
