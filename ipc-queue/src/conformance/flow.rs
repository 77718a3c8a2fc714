//! The promises about room, waiting, and the end of a queue.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::{Encoding, QueueSettings};

use super::walk::{Focus, walk};
use super::{LARGEST, Subject, Trial, content, number_in, rounds, settings, walks};
use crate::bytes::ByteSender;
use crate::error::{
    RecvFailure, RecvTimeoutError, SendFailure, SendTimeoutError, TryRecvError, TrySendError,
    Unavailable,
};
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

/// Of several blocked receivers, each message wakes one. So does a message that is returned.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_blocked_receiver_continues_when_a_message_arrives(subject: &dyn Subject) {
    a_number_is_passed_back_and_forth(subject);
    each_message_wakes_one_receiver(subject);
    a_returned_message_wakes_a_receiver(subject);
}

/// Each player is asleep, or about to be, when the other one sends.
fn a_number_is_passed_back_and_forth(subject: &dyn Subject) {
    let rounds = u64::from(rounds(subject, 1000));
    let (there, back) = (Trial::new(subject), Trial::new(subject));
    there
        .create(&settings(1))
        .sender()
        .try_send(&content(0, 8))
        .expect("a place");
    back.create(&settings(1));
    let play = |mine: &Trial<'_>, theirs: &Trial<'_>| {
        let _alarms = (mine.alarm(), theirs.alarm());
        let (mine, theirs) = (mine.open(), theirs.open());
        let (receiver, sender) = (mine.receiver(), theirs.sender());
        loop {
            let delivery = receiver.recv().expect("there is a number");
            let number = number_in(delivery.payload());
            delivery.ack().expect("we hold it");
            if number < rounds {
                sender.send(&content(number + 1, 8)).expect("a place");
            }
            if number + 1 >= rounds {
                return;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| play(&there, &back));
        scope.spawn(|| play(&back, &there));
    });
}

/// Each receiver holds its message until all have one. None can take two, so none may stay asleep.
fn each_message_wakes_one_receiver(subject: &dyn Subject) {
    const RECEIVERS: u32 = 3;
    let rounds = rounds(subject, 300);
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(RECEIVERS));
    let all_have_one = Barrier::new(RECEIVERS as usize);
    thread::scope(|scope| {
        for _ in 0..RECEIVERS {
            scope.spawn(|| {
                let _alarm = trial.alarm();
                let queue = trial.open();
                let receiver = queue.receiver();
                for _ in 0..rounds {
                    let delivery = receiver.recv().expect("there is one for each");
                    all_have_one.wait();
                    delivery.ack().expect("we hold it");
                }
            });
        }
        let sender = queue.sender();
        for _ in 0..rounds * RECEIVERS {
            sender.send(b"one for each").expect("a place");
        }
    });
}

/// A player that gets the message returns it, and takes no more until the other one has had it.
fn a_returned_message_wakes_a_receiver(subject: &dyn Subject) {
    let rounds = rounds(subject, 200);
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(1));
    let turns = [const { AtomicU32::new(0) }; 2];
    thread::scope(|scope| {
        for player in 0..2 {
            let (trial, turns) = (&trial, &turns);
            scope.spawn(move || {
                let _alarm = trial.alarm();
                let queue = trial.open();
                let receiver = queue.receiver();
                for turn in 1.. {
                    let Ok(delivery) = receiver.recv() else {
                        return;
                    };
                    if delivery.attempt() == 5 {
                        delivery.ack().expect("we hold it");
                    } else if delivery.attempt() % 2 == 0 {
                        drop(delivery);
                    } else {
                        delivery.nack().expect("we hold it");
                    }
                    turns[player].store(turn, Ordering::SeqCst);
                    // The first player of this turn waits for the other, which must get the message
                    // without help.
                    while turns[1 - player].load(Ordering::SeqCst) < turn
                        && !queue.transport().is_closed().unwrap()
                    {
                        thread::yield_now();
                    }
                }
            });
        }
        let sender = queue.sender();
        for _ in 0..rounds {
            sender.send(b"ball").expect("a place");
        }
        queue.transport().close().unwrap();
    });
}

/// An ack, a dropped loan or a discarded letter frees a place. Of several blocked senders, each
/// free place wakes one.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_blocked_sender_continues_when_a_place_is_free(subject: &dyn Subject) {
    type Freeing = fn(&Trial<'_>, u32);
    let freeings: [Freeing; 3] = [
        |trial, _| {
            let queue = trial.open();
            let receiver = queue.receiver();
            while let Ok(delivery) = receiver.recv() {
                delivery.ack().expect("we hold it");
            }
        },
        |trial, messages| {
            // One letter each time.
            let queue = trial.open();
            let receiver = queue.receiver();
            for _ in 0..messages {
                receiver
                    .recv()
                    .expect("it was sent")
                    .bury()
                    .expect("we hold it");
                for letter in queue.transport().dead_letters().unwrap() {
                    assert!(queue.transport().discard(letter.id).unwrap());
                }
            }
        },
        |trial, _| {
            let queue = trial.open();
            let (sender, receiver) = (queue.sender(), queue.receiver());
            // Sometimes takes the place itself, and frees it again.
            while !queue.transport().is_closed().unwrap() {
                drop(sender.try_loan(LARGEST as usize));
                while let Ok(delivery) = receiver.try_recv() {
                    delivery.ack().expect("we hold it");
                }
            }
        },
    ];
    for freeing in freeings {
        for (capacity, len) in [(1, 10), (1, 5000), (2, 10)] {
            stream(subject, capacity, len, freeing);
        }
    }
    each_free_place_wakes_one_sender(subject);
}

/// Two senders send as fast as places become free.
fn stream(subject: &dyn Subject, capacity: u32, len: usize, freeing: fn(&Trial<'_>, u32)) {
    let each = rounds(subject, 150);
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(capacity));
    thread::scope(|scope| {
        let trial = &trial;
        scope.spawn(move || {
            let _alarm = trial.alarm();
            freeing(trial, 2 * each);
        });
        let senders = [(); 2].map(|()| {
            scope.spawn(move || {
                let _alarm = trial.alarm();
                let sender = trial.open().sender();
                for _ in 0..each {
                    sender.send(&content(1, len)).expect("a place becomes free");
                }
            })
        });
        for sender in senders {
            sender.join().expect("all were sent");
        }
        queue.transport().close().unwrap();
    });
}

/// Each sender holds its place until all have one, so none may stay asleep.
fn each_free_place_wakes_one_sender(subject: &dyn Subject) {
    const SENDERS: u32 = 3;
    let rounds = rounds(subject, 200);
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(SENDERS));
    let all_have_one = Barrier::new(SENDERS as usize);
    thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                let _alarm = trial.alarm();
                let sender = trial.open().sender();
                for round in 0..rounds {
                    let loan = sender.loan(8).expect("a place for each");
                    all_have_one.wait();
                    match round % 3 {
                        0 => drop(loan),
                        _ => drop(loan.publish().expect("the loan held a place")),
                    }
                }
            });
        }
        let receiver = queue.receiver();
        for _ in 0..rounds - rounds.div_ceil(3) {
            for _ in 0..SENDERS {
                receiver
                    .recv()
                    .expect("it was sent")
                    .ack()
                    .expect("we hold it");
            }
        }
    });
}

/// A call does not give up early, and does give up. Even after its deadline it takes what is
/// available.
///
/// # Panics
/// If the subject breaks the promise.
pub fn every_blocking_call_keeps_its_deadline(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(1));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let waits = [0, 1, 5, 30].map(Duration::from_millis);
    for wait in waits {
        let deadline = Instant::now() + wait;
        let nothing = receiver.recv_deadline(deadline).expect_err("it is empty");
        assert!(Instant::now() >= deadline);
        assert!(
            matches!(nothing, RecvTimeoutError::TimedOut { .. }),
            "{nothing}"
        );
    }
    let past = Instant::now();
    sender
        .send_with(b"1", &SendOptions::new().wait(Wait::Until(past)))
        .expect("a place is there");
    for wait in waits {
        let deadline = Instant::now() + wait;
        let full = sender.send_with(b"2", &SendOptions::new().wait(Wait::Until(deadline)));
        assert!(Instant::now() >= deadline);
        assert!(
            matches!(full, Err(SendTimeoutError::TimedOut { .. })),
            "{full:?}"
        );
        let full = sender
            .loan_with(5000, &SendOptions::new().wait(Wait::Until(deadline)))
            .map(drop);
        assert!(
            matches!(full, Err(SendTimeoutError::TimedOut { .. })),
            "{full:?}"
        );
    }
    let delivery = receiver.recv_deadline(past).expect("a message is there");
    delivery.ack().expect("we hold it");
    // A time limit that the clock cannot represent.
    sender
        .send_timeout(b"3", Duration::MAX)
        .expect("a place is there");
    receiver
        .recv_timeout(Duration::MAX)
        .expect("it is there")
        .ack()
        .expect("we hold it");
    a_deadline_is_kept_while_others_are_busy(subject);
}

/// A receiver that is woken again and again by messages that others take still keeps its deadline.
fn a_deadline_is_kept_while_others_are_busy(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _alarm = trial.alarm();
            let (sender, receiver) = (queue.sender(), queue.receiver());
            let is_over = |failure: &SendFailure| {
                [SendFailure::Closed, Unavailable::Removed.into()].contains(failure)
            };
            while !sender
                .try_send(b"mine")
                .is_err_and(|error| error.failure().is_some_and(is_over))
            {
                if let Ok(delivery) = receiver.try_recv() {
                    delivery.ack().expect("we hold it");
                }
            }
        });
        let _alarm = trial.alarm();
        let other = trial.open();
        let receiver = other.receiver();
        for _ in 0..20 {
            let deadline = Instant::now() + A_MOMENT;
            while let Ok(delivery) = receiver.recv_deadline(deadline) {
                delivery.ack().expect("we hold it");
                if Instant::now() >= deadline {
                    break;
                }
            }
            assert!(Instant::now() >= deadline);
        }
        queue.transport().close().unwrap();
    });
}

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
    for wait in [Wait::No, Wait::at_most(HOUR), Wait::Forever] {
        let refused = other
            .sender()
            .send_with(b"more", &SendOptions::new().wait(wait));
        let refused = refused.expect_err("it is closed");
        assert_eq!(refused.failure(), Some(&SendFailure::Closed));
    }

    let second = receiver.recv().expect("it was sent");
    assert_eq!(number_in(second.payload()), 2);
    second.bury().expect("we hold it");
    let third = receiver.recv().expect("it was sent");
    assert_eq!(number_in(third.payload()), 3);
    third.nack_after(A_MOMENT).expect("we hold it");
    let third = receiver.recv().expect("it is delivered again");
    assert_eq!((number_in(third.payload()), third.attempt()), (3, 2));
    third.ack().expect("we hold it");
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
                // The message is lost and delivered again, is lost again, and is then a dead
                // letter.
                _ => {
                    let other = trial.open();
                    let other = other.receiver();
                    if let Ok(again) = other.recv() {
                        let third = trial.open();
                        let end = third.receiver().recv().map(drop);
                        assert_eq!(end.unwrap_err().failure, RecvFailure::Closed);
                        drop(again);
                    }
                }
            }
        });
        let end = trial.open().receiver().recv().map(drop);
        assert_eq!(end.unwrap_err().failure, RecvFailure::Closed);
    }
    a_dropped_loan_ends_the_drain(subject);
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
