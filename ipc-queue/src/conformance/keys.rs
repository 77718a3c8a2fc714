//! The promises about the life of keys, and about saving a queue.

use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::{MessageId, QueueSettings};

use super::{Subject, Trial, settings};
use crate::bytes::{ByteQueue, ByteSender};
use crate::capability::Feature;
use crate::control::ControlFailure;
use crate::error::SendFailure;
use crate::send_options::{Key, OverflowPolicy, SendOptions};
use crate::wait::Wait;

const LONG: Duration = Duration::from_secs(3600);
const KEYS: u32 = 64;

/// Creates a queue with keys, if its transport has them.
fn with_keys(trial: &Trial<'_>, capacity: u32) -> Option<ByteQueue> {
    let plain = trial.create(&settings(capacity));
    let has_keys = (plain.transport().capabilities()).has(Feature::Deduplication);
    let refused = plain.transport().forget(Key::of("one"));
    let refused = refused.expect_err("a queue without keys has none to forget");
    assert!(
        matches!(&refused.failure, ControlFailure::Unsupported(what) if what.feature == Feature::Deduplication),
        "{refused}"
    );
    drop(plain);
    trial.remove();
    has_keys.then(|| {
        trial.create(&QueueSettings {
            dedup_window: Some(LONG),
            dedup_keys: KEYS,
            ..settings(capacity)
        })
    })
}

fn send(sender: &ByteSender, options: &SendOptions) -> MessageId {
    let sent = sender.send_with(b"keyed", &options.clone().wait(Wait::No));
    sent.expect("there is room")
}

/// Returns whether a message with this key is a duplicate of message `of`.
fn is_known(sender: &ByteSender, key: &str, of: MessageId) -> bool {
    let again = sender.loan_with(3, &SendOptions::new().key(key).wait(Wait::No));
    let Err(error) = again.map(drop) else {
        return false;
    };
    match error.failure() {
        Some(SendFailure::Duplicate { of: found }) => *found == of,
        _ => panic!("{key}: {error}"),
    }
}

/// See [`transport`](crate::transport).
pub fn a_key_outlives_its_message(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let Some(queue) = with_keys(&trial, 3) else {
        return;
    };
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let transport = queue.transport();
    let has = |feature| transport.capabilities().has(feature);
    let keyed = |key: &str| SendOptions::new().key(key);

    let acked = send(&sender, &keyed("acked"));
    receiver.recv().unwrap().ack().unwrap();
    assert!(is_known(&sender, "acked", acked));

    let buried = send(&sender, &keyed("buried"));
    receiver.recv().unwrap().bury().unwrap();
    assert!(is_known(&sender, "buried", buried));
    let letter = transport.dead_letters().unwrap()[0].id;
    assert_eq!(transport.requeue(letter).ok(), Some(true));
    assert!(is_known(&sender, "buried", buried), "requeued");
    receiver.recv().unwrap().bury().unwrap();
    let letter = transport.dead_letters().unwrap()[0].id;
    assert_eq!(transport.discard(letter).ok(), Some(true));
    assert!(is_known(&sender, "buried", buried), "discarded");

    if has(Feature::Purge) {
        let purged = send(&sender, &keyed("purged"));
        assert_eq!(transport.purge().ok(), Some(1));
        assert!(is_known(&sender, "purged", purged));
    }
    if has(Feature::DropOldest) {
        let oldest = send(&sender, &keyed("oldest"));
        send(&sender, &SendOptions::new());
        send(&sender, &SendOptions::new());
        send(
            &sender,
            &SendOptions::new().overflow(OverflowPolicy::DropOldest),
        );
        while receiver.try_recv().map(|found| found.ack()).is_ok() {}
        assert!(is_known(&sender, "oldest", oldest));
    }
    if has(Feature::Expiry) {
        let brief = keyed("expired").expires_in(Duration::from_millis(1));
        let expired = send(&sender, &brief);
        let sent_at = Instant::now();
        while sent_at.elapsed() < Duration::from_millis(5) {
            thread::yield_now();
        }
        // Polled until it is dropped.
        while transport.stats().unwrap().expired == 0 {
            assert!(receiver.recv_timeout(Duration::from_millis(5)).is_err());
        }
        assert!(is_known(&sender, "expired", expired));
    }
}

/// See [`transport`](crate::transport).
pub fn a_forgotten_key_can_be_sent_again(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let Some(queue) = with_keys(&trial, 5) else {
        return;
    };
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let transport = queue.transport();
    let one = SendOptions::new().key("one");
    let forget = || transport.forget(Key::of("one")).unwrap();
    assert!(!forget(), "the key is not remembered");
    // While a loan has the key, there is nothing to forget.
    let loan = sender.loan_with(3, &one.clone().wait(Wait::No)).unwrap();
    assert!(!forget());
    drop(loan);
    let first = send(&sender, &one);
    let other = send(&sender, &SendOptions::new().key("other"));
    assert!(forget() && !forget());
    // The message stays, and another one with the key may be sent.
    let second = send(&sender, &one);
    assert_ne!(first, second);
    assert!(is_known(&sender, "one", second) && is_known(&sender, "other", other));
    for expected in [first, other, second] {
        let delivery = receiver.recv().unwrap();
        assert_eq!(delivery.id(), expected);
        delivery.ack().unwrap();
    }
    assert!(
        is_known(&sender, "one", second),
        "the end of the first message does not free the key"
    );
    // The key is remembered even after its message is gone.
    assert!(forget());
    assert!(!is_known(&sender, "one", second));
}

/// See [`transport`](crate::transport).
pub fn the_promised_number_of_keys_is_remembered(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let Some(queue) = with_keys(&trial, 3) else {
        return;
    };
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let name = |number: usize| format!("order {number}");
    let mut sent = Vec::new();
    let full = loop {
        let key = SendOptions::new().key(name(sent.len()));
        match sender.loan_with(5, &key.clone().wait(Wait::No)) {
            Ok(loan) => sent.push(loan.publish().unwrap()),
            Err(full) => break Some(full),
        }
        receiver.recv().unwrap().ack().unwrap();
        // Some transports have no limit.
        if sent.len() > 4 * KEYS as usize {
            break None;
        }
    };
    assert!(sent.len() >= KEYS as usize, "only {} of {KEYS}", sent.len());
    let known = |number: usize| is_known(&sender, &name(number), sent[number]);
    for number in [0, sent.len() / 2, sent.len() - 1] {
        assert!(
            known(number),
            "{number} of {} was forgotten early",
            sent.len()
        );
    }
    let Some(full) = full else {
        return;
    };
    let keys = sent.len() as u64;
    let expected = SendFailure::KeysFull { keys, window: LONG };
    assert_eq!(full.failure(), Some(&expected));
    assert_eq!(queue.transport().stats().unwrap().keys, keys);
    // As the error advises: after keys are forgotten, sends succeed again.
    for number in 0..sent.len() {
        let key = Key::of(name(number));
        assert_eq!(queue.transport().forget(key).ok(), Some(true));
    }
    assert_eq!(queue.transport().stats().unwrap().keys, 0);
    send(&sender, &SendOptions::new().key(name(sent.len())));
}

/// See [`transport`](crate::transport).
#[cfg(not(target_os = "linux"))]
pub fn a_saved_queue_is_restored_completely(_: &dyn Subject) {}

/// See [`transport`](crate::transport).
#[cfg(target_os = "linux")]
pub fn a_saved_queue_is_restored_completely(subject: &dyn Subject) {
    use crate::options::QueueOptions;
    use crate::snapshot::{Place, SnapshotError, move_queue, restore_to, save, save_from};

    let trial = Trial::new(subject);
    let queue = trial.create(&settings(8));
    let address = queue.transport().address();
    let has = queue.transport().capabilities().has(Feature::Snapshot);
    let folder = std::env::temp_dir().join(format!("{}-{}", trial.name, std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("saved");
    queue.sender().send(b"first").unwrap();
    if !has {
        let refused = save(&address, &file, Wait::No);
        let moved = move_queue(&address, "shm:nowhere/else", &QueueOptions::new(), Wait::No);
        for refused in [refused, moved] {
            assert!(
                matches!(
                    &refused,
                    Err(SnapshotError::Unsupported { source, .. })
                        if source.feature == Feature::Snapshot
                ),
                "{refused:?}"
            );
        }
        assert_eq!(queue.transport().stats().unwrap().ready, 1);
        std::fs::remove_dir_all(&folder).unwrap();
        return;
    }
    queue.sender().send(&super::content(1, 5000)).unwrap();
    let place = Place::of(
        queue
            .transport()
            .downcast_ref()
            .expect("only such queues can be saved"),
    );
    drop(queue);
    let saved = save_from(&place, &file, Wait::No);
    assert_eq!(saved.expect("no process is attached").messages, 2);
    assert!(!trial.remove(), "the queue is in the file now");
    let options = QueueOptions::new();
    let restored = restore_to(&place, &file, &options, Wait::No);
    assert_eq!(restored.expect("it is complete").messages, 2);
    let queue = trial.open();
    assert_eq!(*queue.transport().settings(), settings(8));
    let receiver = queue.receiver();
    assert_eq!(receiver.recv().unwrap().payload(), b"first");
    drop(receiver);
    drop(queue);
    std::fs::remove_dir_all(&folder).unwrap();
}
