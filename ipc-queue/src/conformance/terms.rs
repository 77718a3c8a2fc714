//! The promises about the options of messages, and about pausing, purging and draining a queue.

use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::{Priority, QueueSettings};

use super::control::expect_unsupported;
use super::{Subject, Trial, settings};
use crate::bytes::{ByteQueue, ByteReceiver, ByteSender};
use crate::capability::Feature;
use crate::error::{
    DrainError, NoRoom, QueueError, RecvTimeoutError, SendFailure, SendTimeoutError, TryRecvError,
    TrySendError,
};
use crate::open_request::OpenRequest;
use crate::send_options::{OverflowPolicy, SendOptions};
use crate::wait::Wait;

/// Returns a short time that is long enough for some operations.
fn short(subject: &dyn Subject) -> Duration {
    const MICROSECONDS_EACH: Duration = Duration::from_millis(30);
    const ASKING_A_SERVER: Duration = Duration::from_millis(500);
    match subject.slowness() {
        0 | 1 => MICROSECONDS_EACH,
        _ => ASKING_A_SERVER,
    }
}

const LONG: Duration = Duration::from_secs(3600);

/// Returns whether the queue's transport has the feature. If not, checks that a send with it is
/// refused for that reason.
fn has(queue: &ByteQueue, feature: Feature, options: &SendOptions) -> bool {
    let has = queue.transport().capabilities().has(feature);
    if !has {
        let refused = queue
            .sender()
            .send_with(b"no", &options.clone().wait(Wait::No));
        assert!(
            lacks(&refused, feature),
            "{feature} is not declared, but the result was {refused:?}"
        );
    }
    has
}

fn lacks<T>(refused: &Result<T, SendTimeoutError>, feature: Feature) -> bool {
    let failure = refused.as_ref().err().and_then(SendTimeoutError::failure);
    matches!(failure, Some(SendFailure::Unsupported(what)) if what.feature == feature)
}

/// Checks that a queue is not created with settings that it cannot support.
fn refuses_to_create(trial: &Trial<'_>, settings: QueueSettings, feature: Feature) {
    let request = OpenRequest {
        settings,
        ..OpenRequest::default()
    };
    let refused = trial.subject.open(&trial.name, &request);
    assert!(
        matches!(&refused, Err(QueueError::Unsupported(what)) if what.feature == feature),
        "{feature} is not declared, but the result was {refused:?}"
    );
}

fn said(receiver: &ByteReceiver) -> Result<Vec<u8>, TryRecvError> {
    let delivery = receiver.try_recv()?;
    let said = delivery.payload().to_vec();
    delivery.ack().expect("we hold it");
    Ok(said)
}

fn send(sender: &ByteSender, payload: &[u8], options: &SendOptions) {
    let sent = sender.send_with(payload, &options.clone().wait(Wait::No));
    sent.expect("there is room");
}

/// See [`transport`](crate::transport).
pub fn a_delayed_message_is_not_delivered_early(subject: &dyn Subject) {
    let short = short(subject);
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(3));
    let delayed = SendOptions::new().delay(short);
    if !has(&queue, Feature::Delay, &delayed) {
        return;
    }
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let sent_at = Instant::now();
    send(&sender, b"later", &delayed);
    sender.try_send(b"now").expect("there is room");
    assert_eq!(queue.transport().stats().unwrap().delayed, 1);
    assert_eq!(said(&receiver), Ok(b"now".to_vec()));
    let delivery = receiver.recv().expect("it comes");
    assert!(sent_at.elapsed() >= short, "it was delivered early");
    assert_eq!((delivery.payload(), delivery.attempt()), (&b"later"[..], 1));
    delivery.ack().expect("we hold it");

    // Each takes exactly one place.
    let much_later = SendOptions::new().delay(LONG);
    for _ in 0..3 {
        send(&sender, b"", &much_later);
    }
    let full = sender.try_send(b"one more");
    assert!(matches!(full, Err(TrySendError::Full { .. })), "{full:?}");
    assert_eq!(said(&receiver), Err(TryRecvError::Empty));
}

/// See [`transport`](crate::transport).
pub fn an_expired_message_is_dropped_and_its_place_is_free(subject: &dyn Subject) {
    let short = short(subject);
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(2));
    let soon = SendOptions::new().expires_in(short);
    if !has(&queue, Feature::Expiry, &soon) {
        return;
    }
    let (sender, receiver) = (queue.sender(), queue.receiver());
    // The holder of an expired message keeps it.
    send(&sender, b"held", &soon);
    let sent_at = Instant::now();
    let held = receiver.try_recv().expect("it is there");
    send(&sender, b"unwanted", &soon);
    // Blocks until the message that is not received is dropped.
    let lasting = SendOptions::new().expires_in(LONG);
    let sent = sender.send_with(b"lasting", &lasting);
    sent.expect("there is room then");
    assert!(sent_at.elapsed() >= short, "it was dropped early");
    held.ack().expect("it is ours");
    assert_eq!(said(&receiver), Ok(b"lasting".to_vec()));
    assert_eq!(said(&receiver), Err(TryRecvError::Empty));

    // A message that is returned after its time is not delivered again.
    send(&sender, b"late", &soon);
    let late = receiver.try_recv().expect("it is there");
    thread::sleep(2 * short);
    late.nack().expect("it is ours");
    assert_eq!(said(&receiver), Err(TryRecvError::Empty));
    let stats = queue.transport().stats().unwrap();
    assert_eq!((stats.expired, stats.in_use()), (2, 0));
}

/// See [`transport`](crate::transport).
pub fn urgent_messages_go_first_and_others_do_not_starve(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let with = |aging| QueueSettings {
        priorities: true,
        aging,
        ..settings(2)
    };
    let plain = trial.create(&settings(2));
    let urgent = SendOptions::new().priority(Priority::Urgent);
    let refused = plain
        .sender()
        .send_with(b"no", &urgent.clone().wait(Wait::No));
    assert!(
        lacks(&refused, Feature::Priorities),
        "a queue without priorities has none: {refused:?}"
    );
    trial.remove();
    if !plain.transport().capabilities().has(Feature::Priorities) {
        refuses_to_create(&trial, with(LONG), Feature::Priorities);
        return;
    }
    let queue = trial.create(&with(LONG));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for turn in [b"1", b"2"] {
        for priority in Priority::ALL {
            let payload = [&[priority as u8], &turn[..]].concat();
            send(&sender, &payload, &SendOptions::new().priority(priority));
        }
    }
    for priority in Priority::ALL {
        let options = SendOptions::new().priority(priority);
        let full = sender.send_with(b"", &options.clone().wait(Wait::No));
        assert!(full.unwrap_err().is_timeout());
    }
    for priority in Priority::ALL.into_iter().rev() {
        for turn in [b"1", b"2"] {
            let next = [&[priority as u8], &turn[..]].concat();
            assert_eq!(said(&receiver), Ok(next), "{priority:?}");
        }
    }
    assert_eq!(said(&receiver), Err(TryRecvError::Empty));
    // A blocked receiver wakes for each message.
    for priority in Priority::ALL {
        thread::scope(|scope| {
            let options = SendOptions::new().priority(priority);
            scope.spawn(|| queue.receiver().recv().expect("it comes").ack());
            send(&sender, b"", &options);
        });
    }

    // A message that is old enough goes first, although it has the lowest priority.
    trial.remove();
    let queue = trial.create(&with(Duration::from_millis(1)));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    send(&sender, b"low", &SendOptions::new().priority(Priority::Low));
    thread::sleep(Duration::from_millis(50));
    send(&sender, b"urgent", &urgent);
    assert_eq!(said(&receiver), Ok(b"low".to_vec()));
    assert_eq!(said(&receiver), Ok(b"urgent".to_vec()));
}

/// See [`transport`](crate::transport).
pub fn a_key_is_sent_once_while_it_is_remembered(subject: &dyn Subject) {
    let short = short(subject);
    let trial = Trial::new(subject);
    let keyed = SendOptions::new().key("order 17");
    let plain = trial.create(&settings(8));
    let refused = plain
        .sender()
        .send_with(b"no", &keyed.clone().wait(Wait::No));
    assert!(
        lacks(&refused, Feature::Deduplication),
        "a queue without keys has none: {refused:?}"
    );
    trial.remove();
    let with_keys = QueueSettings {
        dedup_window: Some(LONG),
        ..settings(8)
    };
    if !(plain.transport().capabilities()).has(Feature::Deduplication) {
        refuses_to_create(&trial, with_keys, Feature::Deduplication);
        return;
    }
    a_remembered_key_is_refused(&trial.create(&with_keys), &keyed);
    trial.remove();
    let queue = trial.create(&QueueSettings {
        dedup_window: Some(short),
        ..settings(8)
    });
    a_forgotten_key_is_accepted(&queue, &keyed, short);
}

fn a_remembered_key_is_refused(queue: &ByteQueue, keyed: &SendOptions) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let empty = SendOptions::new().key("");
    let refused = sender.send_with(b"no", &empty.clone().wait(Wait::No));
    assert_eq!(refused.unwrap_err().failure(), Some(&SendFailure::EmptyKey));
    // While a loan has the key, no other message can have it. When the loan is dropped, the key is
    // free again.
    let loan = sender
        .loan_with(3, &keyed.clone().wait(Wait::No))
        .expect("a place");
    let taken = queue
        .sender()
        .send_with(b"two", &keyed.clone().wait(Wait::No));
    assert!(
        matches!(
            taken,
            Err(SendTimeoutError::TimedOut {
                missing: NoRoom::Key,
                ..
            })
        ),
        "{taken:?}"
    );
    drop(loan);
    let first = sender.send_with(b"one", &keyed.clone().wait(Wait::No));
    // The key is known to another handle, and after the message was received.
    assert_eq!(
        queue
            .sender()
            .send_with(b"two", &keyed.clone().wait(Wait::No)),
        first
    );
    assert_eq!(said(&receiver), Ok(b"one".to_vec()));
    assert_eq!(
        sender.send_with(b"two", &keyed.clone().wait(Wait::No)),
        first
    );
    let of = first.expect("it was sent");
    let lent = sender.loan_with(3, &keyed.clone().wait(Wait::No)).map(drop);
    let duplicate = SendFailure::Duplicate { of };
    assert_eq!(lent.unwrap_err().failure(), Some(&duplicate));
    assert_eq!(said(&receiver), Err(TryRecvError::Empty));
    assert_eq!(queue.transport().stats().unwrap().duplicates, 3);
    // Other keys are not affected.
    for number in 0..32 {
        let options = SendOptions::new().key(format!("order {}", 100 + number));
        send(&sender, b"other", &options);
        assert_eq!(said(&receiver), Ok(b"other".to_vec()));
    }
}

fn a_forgotten_key_is_accepted(queue: &ByteQueue, keyed: &SendOptions, short: Duration) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    send(&sender, b"one", keyed);
    let first_at = Instant::now();
    while queue.transport().stats().unwrap().sent < 2 {
        send(&sender, b"two", keyed);
        thread::yield_now();
    }
    assert!(
        first_at.elapsed() + Duration::from_millis(5) >= short,
        "it was forgotten early"
    );
    assert_eq!(said(&receiver), Ok(b"one".to_vec()));
    assert_eq!(said(&receiver), Ok(b"two".to_vec()));
}

/// See [`transport`](crate::transport).
pub fn a_token_grows_with_each_delivery(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(2));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let id = sender.try_send(b"").expect("there is room");
    let first = receiver.try_recv().expect("it is there");
    let before = first.token();
    assert_eq!((before.queue, before.message), (queue.transport().id(), id));
    first.nack().expect("we hold it");
    let second = receiver.try_recv().expect("it is there again");
    assert!(second.token() > before);
    assert_eq!(second.token().queue, before.queue);
    // Another queue of the same name is another queue.
    second.ack().expect("we hold it");
    trial.remove();
    assert_ne!(trial.create(&settings(2)).transport().id(), before.queue);
}

/// See [`transport`](crate::transport).
pub fn a_full_queue_drops_the_oldest_message_on_request(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(3));
    let dropping = SendOptions::new().overflow(OverflowPolicy::DropOldest);
    if !has(&queue, Feature::DropOldest, &dropping) {
        return;
    }
    let (sender, receiver) = (queue.sender(), queue.receiver());
    send(&sender, b"held", &dropping);
    let held = receiver.try_recv().expect("it is there");
    for payload in [b"1", b"2", b"3", b"4"] {
        send(&sender, payload, &dropping);
    }
    assert_eq!(said(&receiver), Ok(b"3".to_vec()));
    assert_eq!(said(&receiver), Ok(b"4".to_vec()));
    held.ack().expect("it was not dropped");
    assert_eq!(queue.transport().stats().unwrap().overflowed, 2);
    // If no message waits, there is nothing to drop.
    let mut held = Vec::new();
    for _ in 0..3 {
        send(&sender, b"held", &dropping);
        held.push(receiver.try_recv().expect("it is there"));
    }
    let full = sender.send_with(b"", &dropping.clone().wait(Wait::No));
    assert!(full.unwrap_err().is_timeout());
}

/// See [`transport`](crate::transport).
pub fn a_paused_queue_delivers_nothing_until_it_is_resumed(subject: &dyn Subject) {
    let short = short(subject);
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(3));
    let transport = queue.transport();
    if !transport.capabilities().has(Feature::Pause) {
        expect_unsupported(transport.pause(), Feature::Pause);
        expect_unsupported(transport.resume(), Feature::Pause);
        return;
    }
    let (sender, receiver) = (queue.sender(), queue.receiver());
    sender.try_send(b"before").expect("there is room");
    sender.try_send(b"held").expect("there is room");
    let held = receiver.try_recv().expect("it is there");
    transport.pause().expect("it can");
    assert!(
        trial.open().transport().is_paused().unwrap(),
        "the pause applies to the whole queue"
    );
    assert_eq!(said(&receiver), Err(TryRecvError::Paused));
    let waited = receiver.recv_timeout(short);
    assert!(
        matches!(waited, Err(RecvTimeoutError::TimedOut { .. })),
        "{waited:?}"
    );
    sender.try_send(b"meanwhile").expect("sending goes on");
    held.ack().expect("settling goes on");
    let alarm = trial.alarm();
    thread::scope(|scope| {
        let receivers = [0; 2].map(|_| {
            scope.spawn(|| {
                let receiver = queue.receiver();
                let delivery = receiver.recv().expect("it is resumed");
                delivery.ack().expect("we hold it");
            })
        });
        transport.resume().expect("it can");
        for receiver in receivers {
            receiver.join().expect("each gets one");
        }
    });
    drop(alarm);
    assert!(!transport.is_paused().unwrap());
    assert_eq!(said(&receiver), Err(TryRecvError::Empty));
}

/// See [`transport`](crate::transport).
pub fn a_purge_drops_only_waiting_messages(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(5));
    let transport = queue.transport();
    if !transport.capabilities().has(Feature::Purge) {
        expect_unsupported(transport.purge(), Feature::Purge);
        return;
    }
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for payload in [b"buried", b"held..", b"back..", b"fresh."] {
        sender.try_send(payload).expect("there is room");
    }
    receiver
        .try_recv()
        .expect("it is there")
        .bury()
        .expect("we hold it");
    let held = receiver.try_recv().expect("it is there");
    receiver
        .try_recv()
        .expect("it is there")
        .nack()
        .expect("we hold it");
    let mut waiting = 2;
    if transport.capabilities().has(Feature::Delay) {
        send(&sender, b"delayed", &SendOptions::new().delay(LONG));
        waiting += 1;
    }
    assert_eq!(transport.purge().unwrap(), waiting);
    assert_eq!(said(&receiver), Err(TryRecvError::Empty));
    held.ack().expect("it was not dropped");
    let stats = transport.stats().unwrap();
    assert_eq!((stats.purged, stats.dead, stats.in_use()), (waiting, 1, 1));
    // All places are free again, in their order.
    for number in 0..4_u8 {
        sender.try_send(&[number]).expect("there is room");
    }
    for number in 0..4 {
        assert_eq!(said(&receiver), Ok(vec![number]));
    }
}

/// See [`transport`](crate::transport).
pub fn a_queue_is_drained_when_everything_is_settled(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(3));
    let transport = queue.transport();
    if !transport.capabilities().has(Feature::Drain) {
        match transport.drain(Wait::No) {
            Err(DrainError::Control(error)) => {
                expect_unsupported::<()>(Err(error), Feature::Drain);
            }
            other => panic!("{other:?}"),
        }
        return;
    }
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for payload in [b"buried", b"held.."] {
        sender.try_send(payload).expect("there is room");
    }
    receiver
        .try_recv()
        .expect("it is there")
        .bury()
        .expect("we hold it");
    let held = receiver.try_recv().expect("it is there");
    let left = transport.drain(Wait::No);
    assert!(
        matches!(left, Err(DrainError::TimedOut { left: 1, .. })),
        "{left:?}"
    );
    assert_eq!(
        sender.try_send(b"").unwrap_err().failure(),
        Some(&SendFailure::Closed)
    );
    let alarm = trial.alarm();
    thread::scope(|scope| {
        let other = trial.open();
        let drainer = scope.spawn(move || other.transport().drain(Wait::Forever));
        held.ack().expect("we hold it");
        drainer.join().expect("it ends").expect("it is drained");
    });
    drop(alarm);
    assert_eq!(transport.stats().unwrap().dead, 1);
}
