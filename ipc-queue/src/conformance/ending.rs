//! The promises about the end of a queue: it is closed, or removed.

use std::thread;
use std::time::Duration;

use ipc_proto::QueueSettings;

use super::{Subject, Trial, content, number_in, rounds, settings};
use crate::error::{RecvFailure, RecvTimeoutError, SendFailure, TryRecvError, Unavailable};
use crate::send_options::SendOptions;
use crate::wait::Wait;

const HOUR: Duration = Duration::from_secs(3600);
const A_MOMENT: Duration = Duration::from_millis(2);

/// Senders, including blocked ones, get `Closed`. Receivers still get the messages of the queue,
/// including those that return or were on loan. Then they get `Closed`, including blocked
/// receivers, when all messages are settled except those that they hold themselves.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_closed_queue_refuses_messages_and_drains(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(5));
    let other = trial.open();
    let (sender, receiver, holder) = (queue.sender(), queue.receiver(), other.receiver());
    for number in 1..=3 {
        sender.try_send(&content(number, 8)).expect("a place");
    }
    let mut loan = sender.try_loan(8).expect("a place");
    let given_up = sender.try_loan(8).expect("a place");
    let held = holder.try_recv().expect("it was sent");
    assert_eq!(number_in(held.payload()), 1);
    assert!(!other.transport().is_closed().unwrap());
    queue.transport().close().unwrap();
    queue.transport().close().unwrap();
    assert!(
        other.transport().is_closed().unwrap() && trial.open().transport().is_closed().unwrap()
    );
    sends_are_refused(&other);

    take_what_was_sent(&receiver);
    // A loan, and a message that another receiver holds, may still arrive.
    let not_yet = |receiver: &crate::ByteReceiver| {
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
        let nothing = receiver.recv_timeout(A_MOMENT);
        assert!(
            matches!(nothing, Err(RecvTimeoutError::TimedOut { .. })),
            "{nothing:?}"
        );
    };
    not_yet(&receiver);
    drop(given_up);
    not_yet(&receiver);
    loan.copy_from_slice(&content(4, 8));
    loan.publish().expect("it was lent before the end");
    let fourth = receiver.recv().expect("it was published");
    assert_eq!(number_in(fourth.payload()), 4);
    fourth.ack().expect("we hold it");
    not_yet(&receiver);
    // The holder need not wait for itself.
    assert_eq!(holder.recv().unwrap_err().failure, RecvFailure::Closed);
    held.nack().expect("we hold it");
    let first = receiver.recv().expect("it was returned");
    assert_eq!((number_in(first.payload()), first.attempt()), (1, 2));
    assert_eq!(receiver.recv().unwrap_err().failure, RecvFailure::Closed);
    first.ack().expect("we hold it");
    for receiver in [receiver, holder, trial.open().receiver()] {
        assert_eq!(
            receiver.try_recv().unwrap_err().failure(),
            Some(&RecvFailure::Closed)
        );
        assert_eq!(receiver.recv().unwrap_err().failure, RecvFailure::Closed);
    }
    all_blocked_callers_continue_at_the_end(subject);
}

fn sends_are_refused(queue: &crate::ByteQueue) {
    for wait in [Wait::No, Wait::at_most(HOUR), Wait::Forever] {
        let options = SendOptions::new().wait(wait);
        let refused = queue.sender().send_with(b"more", &options);
        let refused = refused.expect_err("it is closed");
        assert_eq!(refused.failure(), Some(&SendFailure::Closed));
    }
}

/// Buries the second message, and acks the third after a delay.
fn take_what_was_sent(receiver: &crate::ByteReceiver) {
    let second = receiver.recv().expect("it was sent");
    assert_eq!(number_in(second.payload()), 2);
    second.bury().expect("we hold it");
    let third = receiver.recv().expect("it was sent");
    assert_eq!(number_in(third.payload()), 3);
    third.nack_after(A_MOMENT).expect("we hold it");
    let third = receiver.recv().expect("it is delivered again");
    assert_eq!((number_in(third.payload()), third.attempt()), (3, 2));
    third.ack().expect("we hold it");
}

/// The last message of a closed queue ends in various ways while others wait for it.
fn all_blocked_callers_continue_at_the_end(subject: &dyn Subject) {
    for round in 0..rounds(subject, 120) {
        let trial = Trial::new(subject);
        let settings = QueueSettings {
            attempt_limit: 2,
            lease: (round % 6 == 5).then_some(A_MOMENT),
            ..settings(1)
        };
        let queue = trial.create(&settings);
        let (sender, receiver) = (queue.sender(), queue.receiver());
        sender.try_send(&content(1, 8)).expect("a place");
        let blocked_sender = || {
            let _alarm = trial.alarm();
            let refused = trial.open().sender().send(b"more");
            assert_eq!(refused.unwrap_err().failure, SendFailure::Closed);
        };
        let blocked_receiver = || {
            let _alarm = trial.alarm();
            let queue = trial.open();
            let receiver = queue.receiver();
            while let Ok(delivery) = receiver.recv() {
                assert_eq!((number_in(delivery.payload()), delivery.attempt()), (1, 2));
                delivery.ack().expect("we hold it");
            }
            assert_eq!(receiver.recv().unwrap_err().failure, RecvFailure::Closed);
        };
        let held = receiver.recv().expect("it was sent");
        thread::scope(|scope| {
            scope.spawn(blocked_sender);
            if round % 6 < 5 {
                scope.spawn(blocked_receiver);
                scope.spawn(blocked_receiver);
            }
            let _alarm = trial.alarm();
            // Each end happens some tries later. On a busy machine each may cost a slice of time.
            for _ in 0..round / 6 {
                thread::yield_now();
            }
            queue.transport().close().unwrap();
            match round % 6 {
                0 => held.ack().expect("we hold it"),
                1 => held.nack().expect("we hold it"),
                2 => held.nack_after(A_MOMENT).expect("we hold it"),
                3 => held.bury().expect("we hold it"),
                4 => drop(held),
                _ => lose_twice(&trial),
            }
        });
        let end = trial.open().receiver().recv().map(drop);
        assert_eq!(end.unwrap_err().failure, RecvFailure::Closed);
    }
    a_dropped_loan_ends_the_drain(subject);
}

/// The message is lost and delivered again, is lost again, and is then a dead letter.
fn lose_twice(trial: &Trial<'_>) {
    let other = trial.open();
    let other = other.receiver();
    if let Ok(again) = other.recv() {
        let third = trial.open();
        let end = third.receiver().recv().map(drop);
        assert_eq!(end.unwrap_err().failure, RecvFailure::Closed);
        drop(again);
    }
}

/// The last loan of a closed queue is dropped.
fn a_dropped_loan_ends_the_drain(subject: &dyn Subject) {
    for round in 0..rounds(subject, 40) {
        let trial = Trial::new(subject);
        let queue = trial.create(&settings(1));
        let sender = queue.sender();
        let loan = sender.try_loan(8).expect("a place");
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let _alarm = trial.alarm();
                    let end = trial.open().receiver().recv().map(drop);
                    assert_eq!(end.unwrap_err().failure, RecvFailure::Closed);
                });
            }
            let _alarm = trial.alarm();
            for _ in 0..round {
                thread::yield_now();
            }
            queue.transport().close().unwrap();
            drop(loan);
        });
    }
}

/// Every blocked call gets `Removed`, and so does every later call, including the publishing of a
/// loan. An opener of the name then finds nothing, or creates a new queue.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_removed_queue_wakes_and_refuses_all_callers(subject: &dyn Subject) {
    for round in 0..rounds(subject, 50) {
        let (empty, full) = (Trial::new(subject), Trial::new(subject));
        empty.create(&settings(1));
        let in_the_way = full.create(&settings(1)).sender().try_send(b"in the way");
        in_the_way.expect("a place");
        let receivers = [(); 2].map(|()| empty.open());
        let senders = [(); 2].map(|()| full.open());
        thread::scope(|scope| {
            for (receiver, sender) in receivers.iter().zip(&senders) {
                scope.spawn(|| {
                    let end = receiver.receiver().recv().map(drop);
                    assert_eq!(end.unwrap_err().failure, Unavailable::Removed.into());
                });
                scope.spawn(|| {
                    let end = sender.sender().send(b"more");
                    assert_eq!(end.unwrap_err().failure, Unavailable::Removed.into());
                });
            }
            for _ in 0..round {
                thread::yield_now();
            }
            assert!(empty.remove() && full.remove());
        });
    }
    unfinished_work_ends(subject);
}

fn unfinished_work_ends(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let old = trial.create(&settings(4));
    let (sender, receiver) = (old.sender(), old.receiver());
    for number in [1, 2] {
        sender.try_send(&content(number, 5000)).expect("a place");
    }
    let loans = [(); 2].map(|()| sender.try_loan(5000).expect("a place"));
    let held = receiver.try_recv().expect("it was sent");
    assert!(trial.remove());
    let [published, dropped] = loans;
    assert_eq!(
        published.publish().unwrap_err().failure,
        Unavailable::Removed.into()
    );
    drop(dropped);
    // A received payload can be read to its end.
    assert_eq!(number_in(held.payload()), 1);
    drop(held);
    for wait in [Wait::No, Wait::at_most(HOUR), Wait::Forever] {
        let end = receiver.recv_within(wait).expect_err("it is removed");
        assert_eq!(end.failure(), Some(&Unavailable::Removed.into()));
        let refused = sender.send_with(b"more", &SendOptions::new().wait(wait));
        let refused = refused.expect_err("it is removed");
        assert_eq!(refused.failure(), Some(&Unavailable::Removed.into()));
    }
    let new = trial.create(&settings(4));
    assert_eq!(new.receiver().try_recv().err(), Some(TryRecvError::Empty));
    new.sender().try_send(b"anew").expect("a place");
    assert_eq!(
        old.receiver().try_recv().unwrap_err().failure(),
        Some(&Unavailable::Removed.into())
    );
}
