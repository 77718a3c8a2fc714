//! The promises about futures.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use super::{Subject, Trial, content, number_in, rounds, settings};
use crate::block_on::block_on;
use crate::bytes::ByteReceiver;
use crate::error::TryRecvError;

const ROUNDS: u32 = 1000;

/// Polls a receive once, which registers its waiter, and drops it.
fn poll_once(receiver: &mut ByteReceiver) -> bool {
    let mut future = pin!(receiver.recv_async());
    let waker = Waker::noop();
    future
        .as_mut()
        .poll(&mut Context::from_waker(waker))
        .is_ready()
}

/// Futures and blocking handles pass a number back and forth.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_async_receiver_continues_when_a_message_arrives(subject: &dyn Subject) {
    let rounds = u64::from(rounds(subject, ROUNDS));
    let (there, back) = (Trial::new(subject), Trial::new(subject));
    let first = there.create(&settings(1)).sender().try_send(&content(0, 8));
    first.expect("a place");
    back.create(&settings(1));
    let play = |mine: &Trial<'_>, theirs: &Trial<'_>, blocks: bool| {
        let _alarms = (mine.alarm(), theirs.alarm());
        let (mut receiver, sender) = (mine.open().receiver(), theirs.open().sender());
        loop {
            let number = if blocks {
                let delivery = receiver.recv().expect("there is a number");
                let number = number_in(delivery.payload());
                delivery.ack().expect("we hold it");
                number
            } else {
                let delivery = block_on(receiver.recv_async()).expect("there is a number");
                let number = number_in(delivery.payload());
                delivery.ack().expect("we hold it");
                number
            };
            if number <= rounds {
                sender.send(&content(number + 1, 8)).expect("a place");
            }
            if number >= rounds {
                return;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| play(&there, &back, false));
        scope.spawn(|| play(&back, &there, false));
    });
    let (there, back) = (Trial::new(subject), Trial::new(subject));
    let first = there.create(&settings(1)).sender().try_send(&content(0, 8));
    first.expect("a place");
    back.create(&settings(1));
    thread::scope(|scope| {
        scope.spawn(|| play(&there, &back, true));
        scope.spawn(|| play(&back, &there, false));
    });
}

/// A dropped future has taken nothing, its delivery returns to the queue, and it passes on its
/// wake-up.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_dropped_async_receive_loses_nothing(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(4));
    let (sender, mut receiver) = (queue.sender(), queue.receiver());
    for round in 0..rounds(subject, 100).into() {
        assert!(!poll_once(&mut receiver), "nothing is there");
        sender.try_send(&content(round, 10)).expect("a place");
        // The delivery is dropped.
        assert!(poll_once(&mut receiver), "it was sent");
        let delivery = receiver.try_recv().expect("it was returned");
        assert_eq!(
            (number_in(delivery.payload()), delivery.attempt()),
            (round, 2)
        );
        delivery.ack().expect("we hold it");
    }
    another_waiter_continues_when_one_is_dropped(subject);
}

/// Two futures wait, and one is dropped whenever it is woken: the other one continues.
fn another_waiter_continues_when_one_is_dropped(subject: &dyn Subject) {
    let rounds = u64::from(rounds(subject, ROUNDS));
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _alarm = trial.alarm();
            let mut receiver = trial.open().receiver();
            for number in 0..rounds {
                let delivery = block_on(receiver.recv_async()).expect("it comes");
                assert_eq!(number_in(delivery.payload()), number);
                delivery.ack().expect("we hold it");
            }
        });
        let (sender, mut fickle) = (queue.sender(), queue.receiver());
        let _alarm = trial.alarm();
        for number in 0..rounds {
            let waker = Waker::noop();
            let mut future = Box::pin(fickle.recv_async());
            let polled = future.as_mut().poll(&mut Context::from_waker(waker));
            assert!(
                !matches!(polled, Poll::Ready(Ok(_))),
                "it was taken before the next was sent"
            );
            sender.send(&content(number, 10)).expect("a place");
            drop(future);
            while queue.transport().stats().unwrap().acked <= number {
                thread::yield_now();
            }
        }
    });
}

/// Two senders share one place.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_async_sender_continues_when_a_place_is_free(subject: &dyn Subject) {
    let rounds = u64::from(rounds(subject, ROUNDS));
    let trial = Trial::new(subject);
    trial.create(&settings(1));
    thread::scope(|scope| {
        for handle in 0..2 {
            let trial = &trial;
            scope.spawn(move || {
                let _alarm = trial.alarm();
                let mut sender = trial.open().sender();
                for _ in 0..rounds {
                    let sent = block_on(sender.send_async(&content(handle, 10)));
                    sent.expect("the queue is there");
                }
            });
        }
        let _alarm = trial.alarm();
        let queue = trial.open();
        let receiver = queue.receiver();
        for _ in 0..2 * rounds {
            receiver
                .recv()
                .expect("it comes")
                .ack()
                .expect("we hold it");
        }
        let nothing = receiver.try_recv().err();
        assert_eq!(nothing, Some(TryRecvError::Empty));
    });
}
