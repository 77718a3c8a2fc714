//! The promises about room: what a queue takes, what it refuses, and what it counts.

use std::thread;
use std::time::Duration;

use ipc_proto::{Encoding, QueueSettings};

use super::walk::{Focus, walk};
use super::{LARGEST, Subject, Trial, content, number_in, settings, walks};
use crate::block_on::block_on;
use crate::bytes::ByteSender;
use crate::error::{SendFailure, TryRecvError, TrySendError, Unavailable};
use crate::loan::OwnedLoan;
use crate::queue::Queue;
use crate::send_options::SendOptions;
use crate::wait::Wait;

/// A send succeeds exactly if the queue contains fewer messages than its capacity, whatever their
/// states, and whatever happened before.
///
/// # Panics
/// If the subject breaks the promise.
pub fn capacity_is_exact(subject: &dyn Subject) {
    for capacity in [1, 2, 3, 5, 17] {
        every_state_takes_a_place(subject, capacity);
        for seed in 0..walks(subject, 60) {
            walk(subject, capacity, seed, Focus::Places);
        }
    }
}

fn every_state_takes_a_place(subject: &dyn Subject, capacity: u32) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(capacity));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let ready = |sender: &ByteSender| fill(sender, capacity);
    assert_eq!(ready(&sender), capacity, "new");
    let held: Vec<_> = (0..capacity)
        .map(|_| receiver.try_recv().expect("it was sent"))
        .collect();
    assert_eq!(ready(&sender), 0, "all leased");
    held.into_iter()
        .for_each(|delivery| delivery.nack_after(HOUR).expect("we hold it"));
    assert_eq!(ready(&trial.open().sender()), 0, "all delayed");

    let trial = Trial::new(subject);
    let queue = trial.create(&settings(capacity));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let loans: Vec<_> = (0..capacity)
        .map(|_| sender.try_loan(10).expect("a place"))
        .collect();
    assert_eq!(ready(&queue.sender()), 0, "all being written");
    drop(loans);
    assert_eq!(ready(&sender), capacity, "all returned");
    for _ in 0..capacity {
        receiver
            .try_recv()
            .expect("it was sent")
            .bury()
            .expect("we hold it");
    }
    assert_eq!(ready(&sender), 0, "all dead");
    for (gone, letter) in (1..).zip(queue.transport().dead_letters().unwrap()) {
        assert!(queue.transport().discard(letter.id).unwrap());
        assert_eq!(ready(&sender), 1, "{gone} discarded");
    }
}

/// Sends until the queue is full. Returns the number of messages that it took.
fn fill(sender: &ByteSender, capacity: u32) -> u32 {
    let mut taken = 0;
    loop {
        match sender.try_send(b"one more") {
            Ok(_) => taken += 1,
            Err(failure) => {
                let full = matches!(failure, TrySendError::Full { capacity: said, .. } if said == capacity);
                assert!(full, "{failure}");
                return taken;
            }
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const A_MOMENT: Duration = Duration::from_millis(2);

/// The value is returned unchanged, with the reason, and nothing of it is in the queue.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_failed_send_returns_the_message(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let bytes = trial.create(&settings(1));
    let queue: Queue<Vec<u8>> = Queue::over(bytes.clone(), Encoding::default());
    let sender = queue.sender();
    let first = content(1, 100);
    sender.try_send(&first).expect("a place");
    let (second, huge) = (content(2, 100), content(3, LARGEST as usize));

    let full = sender.try_send(second.clone()).expect_err("it is full");
    assert!(
        matches!(
            &full,
            TrySendError::Full {
                capacity: 1,
                dead: 0,
                ..
            }
        ),
        "{full}"
    );
    assert!(full.into_inner() == second);
    let late = sender
        .send_timeout(second.clone(), A_MOMENT)
        .expect_err("it stays full");
    assert!(late.is_timeout(), "{late}");
    assert!(late.into_inner() == second);
    // Its encoding is larger than the largest payload.
    let large = sender.send(huge.clone()).expect_err("it does not fit");
    assert!(large.message == huge);
    assert!(
        matches!(large.failure, SendFailure::TooLarge { .. }),
        "{large}"
    );
    queue.close().unwrap();
    let closed = sender.send(second.clone()).expect_err("it is closed");
    assert!(closed.message == second);
    assert_eq!(closed.failure, SendFailure::Closed);

    let receiver = queue.receiver();
    let delivery = receiver.try_recv().expect("the first was sent");
    assert_eq!(delivery.data(), &first);
    delivery.ack().expect("we hold it");
    assert_eq!(queue.transport().stats().unwrap().sent, 1);
    trial.remove();
    let removed = sender.send(second.clone()).expect_err("it is removed");
    assert!(removed.message == second);
    assert_eq!(removed.failure, Unavailable::Removed.into());
}

/// The refusal comes at once, with or without a free place, however long the sender would wait for
/// one.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_oversized_payload_is_refused_with_the_limit(subject: &dyn Subject) {
    let (inline_only, with_memory) = (100, LARGEST);
    for most in [inline_only, with_memory] {
        let trial = Trial::new(subject);
        let queue = trial.create(&QueueSettings {
            max_message_bytes: most,
            ..settings(1)
        });
        let most = most as usize;
        let sender = queue.sender();
        let refused = |wait: Wait| {
            for bytes in [most + 1, most + 2, 4 * most, usize::MAX] {
                let refused = sender
                    .loan_with(bytes, &SendOptions::new().wait(wait))
                    .map(drop);
                let large = SendFailure::TooLarge { bytes, most };
                assert_eq!(refused.unwrap_err().failure(), Some(&large));
            }
        };
        refused(Wait::No);
        sender
            .try_send(&content(1, most))
            .expect("it is not too large");
        for wait in [Wait::No, Wait::at_most(HOUR), Wait::Forever] {
            refused(wait);
        }
        let receiver = queue.receiver();
        let delivery = receiver.try_recv().expect("it was sent");
        assert_eq!(number_in(delivery.payload()), 1);
        delivery.ack().expect("we hold it");
    }
}

/// A loan holds a place and memory. No receiver sees the message before it is published.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_loan_holds_a_place_until_it_is_published_or_dropped(subject: &dyn Subject) {
    for capacity in [1, 2, 3, 8] {
        for len in [10, LARGEST as usize] {
            let trial = Trial::new(subject);
            let queue = trial.create(&settings(capacity));
            let (sender, receiver) = (queue.sender(), queue.receiver());
            for round in 0..5 {
                let mut loans = Vec::new();
                while let Ok(loan) = sender.try_loan(len) {
                    loans.push(loan);
                }
                assert_eq!(loans.len(), capacity as usize, "round {round}");
                assert_eq!(
                    queue.transport().stats().unwrap().writing,
                    u64::from(capacity)
                );
                assert_eq!(fill(&trial.open().sender(), capacity), 0);
                assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));

                drop(loans.pop());
                let other = queue.sender();
                let mut loan = other.try_loan(len).expect("the place of the one dropped");
                loan.copy_from_slice(&content(7, len));
                loan.publish().expect("the loan held a place");
                assert_eq!(fill(&sender, capacity), 0);
                let delivery = receiver.try_recv().expect("it was published");
                assert_eq!(number_in(delivery.payload()), 7);
                delivery.ack().expect("we hold it");

                for (number, mut loan) in (0..).zip(loans) {
                    loan.copy_from_slice(&content(number, len));
                    loan.publish().expect("the loan held a place");
                }
                // In any order, because these loans overlapped.
                let mut numbers = Vec::new();
                while let Ok(delivery) = receiver.try_recv() {
                    numbers.push(number_in(delivery.payload()));
                    delivery.ack().expect("we hold it");
                }
                numbers.sort_unstable();
                assert!(numbers.into_iter().eq(0..u64::from(capacity) - 1));
                assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
            }
        }
    }
}

/// It is filled and published by another thread, after the sender and the queue's handle are gone.
/// Dropped, it frees its place.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_owned_loan_outlives_its_sender(subject: &dyn Subject) {
    for len in [0, 10, LARGEST as usize] {
        let trial = Trial::new(subject);
        trial.create(&settings(2));
        let lend = |number| {
            let sender = trial.open().sender();
            let mut loan = sender.try_loan(len).expect("a place");
            let half = len / 2;
            loan[..half].copy_from_slice(&content(number, len)[..half]);
            loan.into_owned()
        };
        let (first, second, receiver) = (lend(1), lend(2), trial.open().receiver());
        assert_eq!(fill(&trial.open().sender(), 2), 0, "both places are lent");
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
        let fill_half = |loan: &mut OwnedLoan, number| {
            let half = len / 2;
            loan[half..].copy_from_slice(&content(number, len)[half..]);
        };
        let publish = |mut loan: OwnedLoan, number, is_async| {
            fill_half(&mut loan, number);
            let sent = match is_async {
                false => loan.publish(),
                true => block_on(loan.publish_async()),
            };
            sent.expect("the loan held a place")
        };
        for (number, loan, is_async) in [(1, first, false), (2, second, true)] {
            let id = thread::scope(|scope| {
                let publishing = scope.spawn(move || publish(loan, number, is_async));
                publishing.join().expect("it does not panic")
            });
            let delivery = receiver.recv().expect("it was published");
            assert_eq!(delivery.id(), id);
            assert!(delivery.payload() == content(number, len));
            delivery.ack().expect("we hold it");
        }
        // The handles stay, because the end of an opening would free its places too.
        let queue = trial.open();
        let sender = queue.sender();
        let lend = || sender.try_loan(len).expect("a place").into_owned();
        let both = [lend(), lend()];
        let dropping = thread::spawn(move || drop(both));
        dropping.join().expect("it does not panic");
        assert_eq!(queue.transport().stats().expect("it exists").in_use(), 0);
        assert_eq!(fill(&queue.sender(), 2), 2, "both places are free");
    }
}

/// Every message sent is acked, or is in the queue, or was a letter that was dropped. Every
/// delivery was acked, nacked, buried or lost, or is held. Every handle sees the same figures, even
/// after the handles that counted are gone.
///
/// # Panics
/// If the subject breaks the promise.
pub fn counts_add_up(subject: &dyn Subject) {
    for capacity in [1, 2, 3, 17] {
        for seed in 0..walks(subject, 60) {
            walk(subject, capacity, seed, Focus::Counts);
        }
    }
}
