//! Advice of failed sends.

use std::time::Duration;

use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteQueue, Feature, NoRoom, Priority, QueueOptions, SendFailure, SendOptions, SendTimeoutError,
    TrySendError,
};

use crate::{Place, advises};

const LARGE: &[u8] = &[1; 3000];

/// A small queue, whose payload memory has room for one large message.
fn small() -> QueueOptions {
    let small = QueueOptions::new().capacity(2).inline_bytes(64);
    small.max_message_bytes(4096).pool_bytes(4096)
}

fn receive_one(queue: &ByteQueue) {
    queue.receiver().recv().unwrap().ack().unwrap();
}

/// Receives a message in another thread, once this one waits for room or soon before that.
fn send_while_another_thread_receives(queue: &ByteQueue, payload: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| receive_one(queue));
        queue.sender().send(payload).unwrap();
    });
}

#[test]
fn a_full_queue_takes_a_message_after_a_wait_a_receive_or_with_a_larger_capacity() {
    let (place, larger) = (Place::new("shm"), Place::new("shm"));
    let queue = small().open_bytes(&place.0).unwrap();
    let sender = queue.sender();
    sender.send_batch(&[b"one", b"two"]).unwrap();
    let refused = sender.try_send(b"three").unwrap_err();
    assert!(matches!(refused, TrySendError::Full { .. }));
    advises(
        refused,
        "wait, receive some, or create it with a larger capacity",
    );
    let refused = sender
        .send_with(b"three", &SendOptions::new().wait(Wait::No))
        .unwrap_err();
    let no_place = matches!(
        &refused,
        SendTimeoutError::TimedOut {
            missing: NoRoom::Places { .. },
            ..
        }
    );
    assert!(no_place, "{refused}");
    advises(
        refused,
        "(receive some, or create it with a larger capacity)",
    );
    send_while_another_thread_receives(&queue, b"three");
    receive_one(&queue);
    sender.try_send(b"four").unwrap();
    let queue = small().capacity(3).open_bytes(&larger.0).unwrap();
    for payload in [b"1", b"2", b"3"] {
        queue.sender().try_send(payload).unwrap();
    }
}

#[test]
fn full_payload_memory_takes_a_message_after_a_wait_a_receive_or_with_a_larger_pool() {
    let (place, larger) = (Place::new("shm"), Place::new("shm"));
    let queue = small().open_bytes(&place.0).unwrap();
    let sender = queue.sender();
    sender.try_send(LARGE).unwrap();
    let refused = sender.try_send(LARGE).unwrap_err();
    advises(
        refused,
        "wait, receive some, or create it with larger pool_bytes",
    );
    let refused = sender
        .send_with(LARGE, &SendOptions::new().wait(Wait::No))
        .unwrap_err();
    advises(
        refused,
        "(receive some, or create the queue with larger pool_bytes)",
    );
    send_while_another_thread_receives(&queue, LARGE);
    receive_one(&queue);
    sender.try_send(LARGE).unwrap();
    let queue = small().pool_bytes(16 << 10).open_bytes(&larger.0).unwrap();
    queue.sender().try_send(LARGE).unwrap();
    queue.sender().try_send(LARGE).unwrap();
}

#[test]
fn an_oversized_payload_is_split_or_sent_to_a_queue_for_larger_ones() {
    let (place, larger) = (Place::new("shm"), Place::new("shm"));
    let queue = small()
        .max_message_bytes(2000)
        .open_bytes(&place.0)
        .unwrap();
    let refused = queue.sender().send(LARGE).unwrap_err();
    advises(
        refused,
        "split it, or create the queue with a larger max_message_bytes",
    );
    for part in LARGE.chunks(2000) {
        queue.sender().send(part).unwrap();
    }
    let queue = small()
        .max_message_bytes(3000)
        .open_bytes(&larger.0)
        .unwrap();
    queue.sender().send(LARGE).unwrap();
}

#[test]
fn a_key_in_use_is_free_for_another_try() {
    let place = Place::new("shm");
    let keyed = small().dedup_window(Duration::from_secs(3600));
    let queue = keyed.open_bytes(&place.0).unwrap();
    let (sender, other) = (queue.sender(), queue.sender());
    let options = SendOptions::new().key("order 17").wait(Wait::No);
    let loan = other.loan_with(3, &options).unwrap();
    let refused = sender.send_with(b"one", &options).unwrap_err();
    let in_use = matches!(
        &refused,
        SendTimeoutError::TimedOut {
            missing: NoRoom::Key,
            ..
        }
    );
    assert!(in_use, "{refused}");
    advises(
        &refused,
        "another sender is sending a message with the same key (try again)",
    );
    let refused = TrySendError::<()>::KeyInUse {
        queue: place.0.clone(),
        message: (),
    };
    advises(&refused, "with the same key; try again");
    drop(loan);
    sender.send_with(b"one", &options).unwrap();
}

#[test]
fn an_empty_key_is_replaced_by_one_that_distinguishes_or_by_none() {
    let place = Place::new("shm");
    let keyed = small().dedup_window(Duration::from_secs(3600));
    let queue = keyed.open_bytes(&place.0).unwrap();
    let sender = queue.sender();
    let refused = sender
        .send_with(b"one", &SendOptions::new().key(""))
        .unwrap_err();
    assert_eq!(refused.failure(), Some(&SendFailure::EmptyKey));
    advises(refused, "use a key that distinguishes messages, or none");
    sender
        .send_with(b"one", &SendOptions::new().key("17"))
        .unwrap();
    sender.send_with(b"two", &SendOptions::new()).unwrap();
}

#[test]
fn a_message_that_would_expire_first_is_sent_with_another_time_or_delay() {
    let place = Place::new("shm");
    let queue = small().open_bytes(&place.0).unwrap();
    let [short, long] = [Duration::from_secs(60), Duration::from_secs(3600)];
    let options = SendOptions::new().delay(long).expires_in(short);
    let refused = queue.sender().send_with(b"never", &options).unwrap_err();
    advises(refused, "use a longer time to live, or a shorter delay");
    let options = SendOptions::new().delay(long).expires_in(2 * long);
    queue.sender().send_with(b"in an hour", &options).unwrap();
    let options = SendOptions::new().delay(short / 2).expires_in(short);
    queue.sender().send_with(b"soon", &options).unwrap();
    assert_eq!(queue.transport().stats().unwrap().delayed, 2);
}

#[test]
fn a_feature_that_a_queue_lacks_is_asked_for_in_its_options() {
    let (place, other) = (Place::new("shm"), Place::new("shm"));
    let queue = small().open_bytes(&place.0).unwrap();
    let options = SendOptions::new().priority(Priority::High);
    let refused = queue.sender().send_with(b"one", &options).unwrap_err();
    advises(
        refused,
        "this queue was created without it: see QueueOptions",
    );
    let queue = small().priorities(true).open_bytes(&other.0).unwrap();
    queue.sender().send_with(b"one", &options).unwrap();
}

#[test]
fn capabilities_tell_the_transports_that_support_a_feature() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let (local, shm) = (Place::new("local"), Place::new("shm"));
    for (place, is_supported) in [(&local, false), (&shm, true)] {
        let queue = ByteQueue::open(&place.0).unwrap();
        let capabilities = queue.transport().capabilities();
        assert_eq!(capabilities.has(Feature::Snapshot), is_supported);
        drop(queue);
        let saved = ipc_queue::snapshot::save(&place.0, &file, Wait::No);
        assert_eq!(saved.is_ok(), is_supported);
        if let Err(refused) = saved {
            advises(
                refused,
                "this transport does not support it: see Transport::capabilities",
            );
        }
    }
}
