//! Processes that are stopped with SIGSTOP: alive to the kernel, but doing nothing.

use std::time::Duration;

use ipc_queue::conformance::content;
use ipc_queue::{ByteQueue, DeadReason, QueueSettings, TrySendError};

use crate::stage::{
    HOUR, LARGEST, PATIENCE, Puppet, SMALL, Stage, expect_message, next_dead_letter, settings,
    stats,
};

const LEASE: Duration = Duration::from_millis(50);

fn holder_of(stage: &Stage, number: u64, attempt: u8) -> Puppet {
    let mut holder = stage.puppet();
    holder.tell("receive");
    assert!(holder.hear().starts_with("blocking"));
    holder.expect(&format!("got {number}, attempt {attempt}"));
    holder
}

/// Sends and receives a thousand messages, in order, through `places` places.
fn others_go_on(queue: &ByteQueue, places: u64) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for batch in 0..1000 / places {
        let numbers = || (1000 + batch * places..).take(usize::try_from(places).unwrap());
        for number in numbers() {
            let len = if number % 7 == 0 { LARGEST } else { SMALL };
            sender.try_send(&content(number, len)).unwrap();
        }
        let refused = sender.try_send(b"one more");
        assert!(
            matches!(refused, Err(TrySendError::Full { .. })),
            "{refused:?}"
        );
        for number in numbers() {
            expect_message(&receiver, number, 1).ack().unwrap();
        }
    }
}

#[test]
fn a_stopped_receiver_delays_only_its_own_message() {
    for len in [SMALL, LARGEST] {
        let stage = Stage::new(&settings(4));
        let queue = stage.open();
        queue.sender().try_send(&content(1, len)).unwrap();
        let mut stopped = holder_of(&stage, 1, 1);
        stopped.stop();
        others_go_on(&queue, 3);
        stopped.go_on();
        stopped.act("read", "read 1");
        stopped.act("ack", "done");
        stage.assert_all_free(&queue);
    }
}

#[test]
fn a_stopped_sender_delays_only_its_own_message() {
    for len in [SMALL, LARGEST] {
        let stage = Stage::new(&settings(4));
        let queue = stage.open();
        let mut stopped = stage.puppet();
        stopped.act(&format!("loan {len}"), "lent");
        stopped.stop();
        others_go_on(&queue, 3);
        stopped.go_on();
        stopped.act("publish 1", "sent");
        expect_message(&queue.receiver(), 1, 1).ack().unwrap();
        stage.assert_all_free(&queue);
    }
}

#[test]
fn a_stopped_holder_whose_lease_expired_gets_lease_lost() {
    for (len, how) in [
        (SMALL, "ack"),
        (LARGEST, "nack"),
        (LARGEST, "bury"),
        (SMALL, "extend 5"),
    ] {
        let stage = Stage::new(&leased(3));
        let queue = stage.open();
        let receiver = queue.receiver();
        queue.sender().try_send(&content(1, len)).unwrap();
        let mut stopped = holder_of(&stage, 1, 1);
        stopped.stop();
        let again = expect_message(&receiver, 1, 2);
        again.extend(HOUR).unwrap();
        again.ack().unwrap();
        // The payload that it reads is not touched while the others continue.
        assert_eq!((stats(&queue).quarantined, stats(&queue).in_use()), (1, 1));
        others_go_on(&queue, 2);
        stopped.go_on();
        stopped.act("read", "read 1");
        stopped.act(how, "LeaseLost");
        if how == "extend 5" {
            stopped.act("ack", "LeaseLost");
        }
        assert_eq!(stats(&queue).quarantined, 0);
        stage.assert_all_free(&queue);
    }
}

fn leased(capacity: u32) -> QueueSettings {
    QueueSettings {
        lease: Some(LEASE),
        ..settings(capacity)
    }
}

#[test]
fn a_stopped_holder_that_is_killed_later_leaves_its_place_free() {
    let stage = Stage::new(&leased(2));
    let queue = stage.open();
    queue.sender().try_send(&content(1, LARGEST)).unwrap();
    let stopped = holder_of(&stage, 1, 1);
    stopped.stop();
    let receiver = queue.receiver();
    let again = expect_message(&receiver, 1, 2);
    again.extend(HOUR).unwrap();
    again.ack().unwrap();
    assert_eq!(stats(&queue).quarantined, 1);
    stopped.kill();
    stage.assert_all_free(&queue);
}

#[test]
fn a_message_held_too_long_twice_becomes_a_dead_letter() {
    let stage = Stage::new(&leased(2));
    let queue = stage.open();
    let sender = queue.sender();
    sender.try_send(&content(1, LARGEST)).unwrap();
    let mut first = holder_of(&stage, 1, 1);
    first.stop();
    let second = holder_of(&stage, 1, 2);
    second.stop();
    let letter = next_dead_letter(&queue);
    assert_eq!((letter.attempts, letter.reason), (2, DeadReason::Expired));
    assert_eq!((letter.nacks, letter.expiries, letter.crashes), (0, 2, 0));
    assert_eq!(letter.payload, content(1, LARGEST));
    // After the discard, its place is kept until both release it: one by settling, one by dying.
    assert!(queue.transport().discard(letter.id).unwrap());
    assert_eq!((stats(&queue).quarantined, stats(&queue).dead), (1, 0));
    first.go_on();
    first.act("read", "read 1");
    first.act("ack", "LeaseLost");
    assert_eq!(stats(&queue).quarantined, 1);
    sender.try_send(&content(2, LARGEST)).unwrap();
    let refused = sender.try_send(b"one more");
    assert!(
        matches!(
            refused,
            Err(TrySendError::Full {
                capacity: 2,
                dead: 0,
                ..
            })
        ),
        "{refused:?}"
    );
    second.kill();
    sender.send_timeout(&content(3, LARGEST), PATIENCE).unwrap();
    let receiver = queue.receiver();
    for number in [2, 3] {
        let delivery = receiver.recv_timeout(PATIENCE).unwrap();
        assert_eq!(delivery.payload(), content(number, LARGEST));
        delivery.ack().unwrap();
    }
    stage.assert_all_free(&queue);
}
