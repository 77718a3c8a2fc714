//! The promises about calls that wait for a message or for room.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{LARGEST, Subject, Trial, content, number_in, rounds, settings};
use crate::error::{RecvTimeoutError, SendFailure, SendTimeoutError, Unavailable};
use crate::send_options::SendOptions;
use crate::wait::Wait;

const A_MOMENT: Duration = Duration::from_millis(2);

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
