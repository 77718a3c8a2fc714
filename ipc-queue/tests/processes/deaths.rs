//! Processes that are killed with SIGKILL.

use ipc_queue::conformance::content;
use ipc_queue::{DeadReason, QueueSettings, SendTimeoutError, TryRecvError, TrySendError};

use crate::stage::{
    LARGEST, PATIENCE, SMALL, Stage, expect_message, next_dead_letter, settings, stats,
};

#[test]
fn receiver_killed_before_ack_redelivers_once() {
    for len in [SMALL, LARGEST] {
        let stage = Stage::new(&settings(2));
        let queue = stage.open();
        let receiver = queue.receiver();
        queue.sender().try_send(&content(1, len)).unwrap();
        let mut holder = stage.puppet();
        holder.tell("receive");
        assert!(holder.hear().starts_with("blocking"));
        holder.expect("got 1, attempt 1");
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
        holder.kill();
        expect_message(&receiver, 1, 2).ack().unwrap();
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
        let stats = stats(&queue);
        assert_eq!((stats.received, stats.redelivered, stats.acked), (2, 1, 1));
        stage.assert_all_free(&queue);
    }
}

#[test]
fn a_message_whose_receivers_always_die_becomes_a_dead_letter_with_its_reason() {
    const LIMIT: u8 = 4;
    let stage = Stage::new(&QueueSettings {
        attempt_limit: LIMIT,
        ..settings(2)
    });
    let queue = stage.open();
    queue.sender().try_send(&content(1, LARGEST)).unwrap();
    // One of them returned it before the others died.
    let mut polite = stage.puppet();
    polite.tell("receive");
    assert!(polite.hear().starts_with("blocking"));
    polite.expect("got 1, attempt 1");
    polite.act("nack", "done");
    let mut last_worker = None;
    for attempt in 2..=LIMIT {
        let mut holder = stage.puppet();
        last_worker = u32::try_from(holder.pid().as_raw()).ok();
        holder.tell("receive");
        assert!(holder.hear().starts_with("blocking"));
        holder.expect(&format!("got 1, attempt {attempt}"));
        holder.kill();
    }
    let letter = next_dead_letter(&queue);
    assert_eq!(letter.last_worker, last_worker);
    assert_eq!(
        (letter.attempts, letter.reason),
        (LIMIT, DeadReason::Crashed)
    );
    assert_eq!(
        (letter.nacks, letter.expiries, letter.crashes),
        (1, 0, LIMIT - 1)
    );
    assert_eq!(letter.payload, content(1, LARGEST));
    assert!(queue.transport().requeue(letter.id).unwrap());
    expect_message(&queue.receiver(), 1, 1).ack().unwrap();
    stage.assert_all_free(&queue);
}

#[test]
fn deaths_of_receivers_have_a_separate_limit() {
    let stage = Stage::new(&QueueSettings {
        attempt_limit: 9,
        crash_limit: 2,
        ..settings(2)
    });
    let queue = stage.open();
    queue.sender().try_send(&content(1, SMALL)).unwrap();
    for (attempt, is_killed) in [(1, true), (2, false), (3, false), (4, true)] {
        let mut holder = stage.puppet();
        holder.tell("receive");
        assert!(holder.hear().starts_with("blocking"));
        holder.expect(&format!("got 1, attempt {attempt}"));
        if is_killed {
            holder.kill();
        } else {
            holder.act("nack", "done");
        }
    }
    let letter = next_dead_letter(&queue);
    assert_eq!((letter.attempts, letter.reason), (4, DeadReason::Crashed));
    assert_eq!((letter.nacks, letter.crashes), (2, 2));
    assert!(queue.transport().discard(letter.id).unwrap());
    stage.assert_all_free(&queue);
}

#[test]
fn sender_killed_while_holding_a_loan_leaves_the_place_free() {
    for (kind, len) in [
        ("loan", SMALL),
        ("loan", LARGEST),
        ("owned-loan", SMALL),
        ("owned-loan", LARGEST),
    ] {
        let stage = Stage::new(&settings(3));
        let queue = stage.open();
        let mut holder = stage.puppet();
        for _ in 0..3 {
            holder.act(&format!("{kind} {len}"), "lent");
        }
        let refused = queue.sender().try_send(b"one more");
        let full = matches!(
            refused,
            Err(TrySendError::Full {
                capacity: 3,
                dead: 0,
                ..
            })
        );
        assert!(full, "{refused:?}");
        holder.kill();
        stage.assert_all_free(&queue);
        assert_eq!(stats(&queue).sent, 3, "no message of a loan");
    }
}

#[test]
fn blocked_receiver_continues_when_the_holder_is_killed() {
    let stage = Stage::new(&settings(1));
    let mut receiver = stage.puppet();
    for number in 1..=10 {
        // This process takes no part: only these two are attached.
        let mut holder = stage.puppet();
        holder.tell(&format!("send {number} {SMALL}"));
        assert!(holder.hear().starts_with("blocking"));
        holder.expect("sent");
        holder.tell("receive");
        assert!(holder.hear().starts_with("blocking"));
        holder.expect(&format!("got {number}, attempt 1"));
        receiver.act_and_sleep("receive");
        holder.kill();
        receiver.expect(&format!("got {number}, attempt 2"));
        receiver.act("ack", "done");
    }
}

#[test]
fn blocked_sender_continues_when_the_holder_of_the_last_place_is_killed() {
    let stage = Stage::new(&settings(1));
    let mut sender = stage.puppet();
    for number in 1..=10 {
        let mut holder = stage.puppet();
        holder.act(&format!("loan {LARGEST}"), "lent");
        sender.act_and_sleep(&format!("send {number} {LARGEST}"));
        holder.kill();
        sender.expect("sent");
        sender.tell("receive");
        assert!(sender.hear().starts_with("blocking"));
        sender.expect(&format!("got {number}, attempt 1"));
        sender.act("ack", "done");
    }
}

#[test]
fn all_killed_and_the_next_process_gets_everything() {
    let stage = Stage::new(&settings(8));
    let mut holders: Vec<_> = (0..4).map(|_| stage.puppet()).collect();
    for (number, holder) in (1..).zip(&mut holders) {
        let len = if number % 2 == 0 { SMALL } else { LARGEST };
        holder.tell(&format!("send {number} {len}"));
        assert!(holder.hear().starts_with("blocking"));
        holder.expect("sent");
    }
    // When all processes die, two of four messages are held, and four places are lent.
    for (number, holder) in (1..).zip(&mut holders[..2]) {
        holder.tell("receive");
        assert!(holder.hear().starts_with("blocking"));
        holder.expect(&format!("got {number}, attempt 1"));
    }
    for holder in &mut holders {
        holder.act(&format!("loan {LARGEST}"), "lent");
    }
    for holder in holders {
        holder.kill();
    }
    let queue = stage.open();
    let receiver = queue.receiver();
    let mut got: Vec<_> = (0..4)
        .map(|_| {
            let delivery = receiver.recv_timeout(PATIENCE).unwrap();
            let number = ipc_queue::conformance::number_in(delivery.payload());
            let attempt = delivery.attempt();
            delivery.ack().unwrap();
            (number, attempt)
        })
        .collect();
    got.sort_unstable();
    assert_eq!(got, [(1, 2), (2, 2), (3, 1), (4, 1)]);
    stage.assert_all_free(&queue);
    assert_eq!(stats(&queue).participants, 1);
}

#[test]
fn messages_outlive_every_process() {
    let stage = Stage::new(&settings(4));
    let mut sender = stage.puppet();
    for number in 1..=4 {
        sender.tell(&format!("send {number} {LARGEST}"));
        assert!(sender.hear().starts_with("blocking"));
        sender.expect("sent");
    }
    assert!(sender.end().success());
    // No process has the queue open now.
    let mut receiver = stage.puppet();
    for number in 1..=4 {
        receiver.tell("receive");
        assert!(receiver.hear().starts_with("blocking"));
        receiver.expect(&format!("got {number}, attempt 1"));
        receiver.act("ack", "done");
    }
    assert!(receiver.end().success());
    let queue = stage.open();
    assert_eq!((stats(&queue).sent, stats(&queue).acked), (4, 4));
    stage.assert_all_free(&queue);
}

#[test]
fn a_receiver_that_ends_without_settling_returns_its_message() {
    let stage = Stage::new(&settings(1));
    let queue = stage.open();
    queue.sender().try_send(&content(1, SMALL)).unwrap();
    let mut holder = stage.puppet();
    holder.tell("receive");
    assert!(holder.hear().starts_with("blocking"));
    holder.expect("got 1, attempt 1");
    assert!(holder.end().success());
    expect_message(&queue.receiver(), 1, 2).ack().unwrap();
    assert_eq!(stats(&queue).nacked, 1);
}

#[test]
fn a_crash_at_the_end_of_a_closed_queue_loses_nothing() {
    let stage = Stage::new(&settings(2));
    let mut holder = stage.puppet();
    let mut others = [stage.puppet(), stage.puppet()];
    {
        let queue = stage.open();
        queue.sender().try_send(&content(1, SMALL)).unwrap();
        holder.tell("receive");
        assert!(holder.hear().starts_with("blocking"));
        holder.expect("got 1, attempt 1");
        holder.act(&format!("loan {SMALL}"), "lent");
        queue.transport().close().unwrap();
    }
    for other in &mut others {
        other.act_and_sleep("drain");
    }
    holder.kill();
    let ends = others.map(|mut other| {
        let first = other.hear();
        if first.starts_with("got") {
            assert_eq!(first, "got 1, attempt 2");
            other.expect("the queue is closed and drained");
        } else {
            assert_eq!(first, "the queue is closed and drained");
        }
        first.starts_with("got")
    });
    assert!(ends[0] != ends[1], "one of them gets it");
}

#[test]
fn slots_of_dead_processes_are_reused() {
    let stage = Stage::new(&QueueSettings {
        max_participants: 2,
        ..settings(2)
    });
    let queue = stage.open();
    for number in 1..=20 {
        let mut other = stage.puppet();
        other.tell(&format!("send {number} {SMALL}"));
        assert!(other.hear().starts_with("blocking"));
        other.expect("sent");
        if number % 2 == 0 {
            other.kill();
        } else {
            assert!(other.end().success());
        }
        expect_message(&queue.receiver(), number, 1).ack().unwrap();
    }
}

#[test]
fn a_queue_full_of_dead_letters_reports_them_and_drops_none() {
    const CAPACITY: u32 = 3;
    let stage = Stage::new(&QueueSettings {
        attempt_limit: 1,
        ..settings(CAPACITY)
    });
    let queue = stage.open();
    let sender = queue.sender();
    for number in 0..CAPACITY {
        sender.try_send(&content(number.into(), SMALL)).unwrap();
        let mut holder = stage.puppet();
        holder.tell("receive");
        assert!(holder.hear().starts_with("blocking"));
        holder.expect(&format!("got {number}, attempt 1"));
        holder.kill();
        while queue.transport().dead_letters().unwrap().len() <= number as usize {
            std::thread::yield_now();
        }
    }
    let refused = sender.try_send(b"one more");
    assert!(
        matches!(refused, Err(TrySendError::Full { capacity: CAPACITY, dead, .. }) if dead == u64::from(CAPACITY)),
        "{refused:?}"
    );
    let blocked = sender.send_timeout(b"one more", std::time::Duration::from_millis(10));
    assert!(
        matches!(blocked, Err(SendTimeoutError::TimedOut { dead, .. }) if dead == u64::from(CAPACITY)),
        "{blocked:?}"
    );
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("3 dead letters") && said.contains("requeued or discarded"),
        "{said}"
    );
    // Only the process that started the receiver can report the signal. It stays with the letter.
    let letters = queue.transport().dead_letters().unwrap();
    assert_eq!(letters[0].signal, None);
    assert!(queue.transport().note_signal(letters[0].id, 9).unwrap());
    let letters = queue.transport().dead_letters().unwrap();
    assert_eq!((letters.len(), letters[0].signal), (3, Some(9)));
    for letter in letters {
        assert!(queue.transport().discard(letter.id).unwrap());
        assert!(!queue.transport().note_signal(letter.id, 9).unwrap());
    }
    stage.assert_all_free(&queue);
}
