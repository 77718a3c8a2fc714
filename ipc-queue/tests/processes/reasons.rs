//! Reasons of failures, given by receivers that are killed with SIGKILL while they write.

use ipc_queue::conformance::{content, number_in};
use ipc_queue::{ByteQueue, DeadLetter, DeadReason, Nack, QueueSettings};

use crate::stage::{SMALL, Stage, say, settings, stats};

const MESSAGES: u32 = 6;
const ROUNDS: usize = 40;

/// Returns the reason of a receiver for this attempt at a message: long enough for many steps.
fn reason(number: u64, attempt: u8) -> String {
    format!(
        "message {number} failed at attempt {attempt}, {}",
        "as said ".repeat(20)
    )
}

/// Nacks each message with a reason twice, and buries it the third time.
pub fn fail_for_ever(queue: &ByteQueue) {
    let receiver = queue.receiver();
    loop {
        let delivery = receiver.recv().unwrap();
        let number = number_in(delivery.payload());
        let (attempt, reason) = (delivery.attempt(), reason(number, delivery.attempt()));
        say("at work");
        let settled = match attempt % 3 {
            0 => delivery.bury_with(&reason),
            _ => delivery.nack_with(Nack::new().reason(&reason)),
        };
        settled.unwrap();
    }
}

/// Checks that the letter's reason is a complete one that was given for this message.
fn check(letter: &DeadLetter) {
    let number = number_in(&letter.payload);
    if letter.reason == DeadReason::Buried {
        // The reason was written before the message was buried.
        assert_eq!(letter.error, reason(number, letter.attempts));
        return;
    }
    let mut given = (1..=letter.attempts).map(|attempt| reason(number, attempt));
    let is_one = letter.error.is_empty() || given.any(|given| letter.error == given);
    assert!(is_one, "{letter:?}");
}

#[test]
fn receivers_killed_while_giving_reasons_leave_complete_ones_and_free_slots() {
    let stage = Stage::new(&QueueSettings {
        attempt_limit: 5,
        crash_limit: 4,
        ..settings(MESSAGES)
    });
    let queue = stage.open();
    let transport = queue.transport();
    for number in 0..MESSAGES.into() {
        queue.sender().try_send(&content(number, SMALL)).unwrap();
    }
    let mut buried = 0;
    for round in 0..ROUNDS {
        let mut receiver = stage.start("reasons");
        for _ in 0..=round % 4 {
            receiver.expect("at work");
        }
        receiver.kill();
        for letter in transport.dead_letters().unwrap() {
            check(&letter);
            buried += usize::from(letter.reason == DeadReason::Buried);
            transport.requeue(letter.id).unwrap();
        }
    }
    assert!(buried > ROUNDS / 4, "{buried}");
    // Messages and places of dead processes may be about to be freed.
    let receiver = queue.receiver();
    let mut left = MESSAGES;
    while left > 0 {
        let taken = receiver.recv_timeout(std::time::Duration::from_millis(10));
        left -= u32::from(taken.is_ok_and(|delivery| delivery.ack().is_ok()));
        for letter in transport.dead_letters().unwrap() {
            check(&letter);
            left -= u32::from(transport.discard(letter.id).unwrap());
        }
    }
    for number in 0..MESSAGES.into() {
        queue.sender().try_send(&content(number, SMALL)).unwrap();
        let delivery = receiver.try_recv().unwrap();
        delivery.bury_with(&number.to_string()).unwrap();
    }
    for letter in transport.dead_letters().unwrap() {
        assert_eq!(letter.error, number_in(&letter.payload).to_string());
        assert!(transport.discard(letter.id).unwrap());
    }
    assert_eq!(stats(&queue).in_use(), 0);
    stage.assert_all_free(&queue);
}
