//! The promises about delivery.

use std::collections::HashSet;
use std::thread;

use ipc_proto::{Kind, MessageId, QueueSettings};

use super::crowd::{Crowd, Receipt, Sending, Settling};
use super::walk::{Focus, walk};
use super::{INLINE, LARGEST, Subject, Trial, content, number_in, rounds, settings, walks};
use crate::bytes::ByteQueue;
use crate::capability::Feature;
use crate::delivery::ByteDelivery;
use crate::error::{QueueError, TryRecvError};
use crate::metadata::Metadata;
use crate::open_request::{OpenMode, OpenRequest};
use crate::send_options::SendOptions;
use crate::wait::Wait;

/// While one receiver holds a message, no other has it; and of several receivers one gets it.
///
/// # Panics
/// If the subject breaks the promise.
pub fn every_message_goes_to_exactly_one_receiver_at_a_time(subject: &dyn Subject) {
    for capacity in [1, 2, 3, 64] {
        let crowd = Crowd::of(subject, capacity, 3, 3);
        let receipts = crowd.work(subject);
        assert_acked_once(&crowd, receipts.iter().flatten());
        assert_eq!(receipts.iter().flatten().count() as u64, 3 * crowd.each);
    }
}

/// An accepted message is delivered, and delivered again after each nack, until it is acked.
///
/// # Panics
/// If the subject breaks the promise.
pub fn an_accepted_message_is_delivered_until_it_is_acked(subject: &dyn Subject) {
    for capacity in [1, 2, 3, 64] {
        let crowd = Crowd {
            settling: Settling::Fickle,
            ..Crowd::of(subject, capacity, 3, 3)
        };
        assert_acked_once(&crowd, crowd.work(subject).iter().flatten());
        for seed in 0..walks(subject, 40) {
            walk(subject, capacity, seed, Focus::Messages);
        }
    }
}

fn assert_acked_once<'r>(crowd: &Crowd, receipts: impl Iterator<Item = &'r Receipt>) {
    let mut acked = HashSet::new();
    for receipt in receipts.filter(|receipt| receipt.acked) {
        let new = acked.insert((receipt.sender, receipt.number));
        assert!(new, "acked twice: {receipt:?}");
    }
    let sent = crowd.senders * crowd.each;
    assert_eq!(acked.len() as u64, sent, "messages acked, of {sent} sent");
}

/// While nothing fails, each receiver gets each sender's messages in the order in which they were
/// sent. That also holds if a sender fills a loan slowly, or drops one.
///
/// # Panics
/// If the subject breaks the promise.
pub fn first_deliveries_keep_each_senders_order(subject: &dyn Subject) {
    for (capacity, receivers) in [(1, 2), (2, 1), (2, 3), (3, 2), (8, 1), (64, 3)] {
        for sending in [Sending::Brisk, Sending::Dawdling] {
            let crowd = Crowd {
                sending,
                ..Crowd::of(subject, capacity, 3, receivers)
            };
            for receipts in crowd.work(subject) {
                assert_in_order(&crowd, &receipts);
            }
        }
    }
    a_slow_loan_is_not_overtaken_by_its_senders_next_message(subject);
}

fn assert_in_order(crowd: &Crowd, receipts: &[Receipt]) {
    for sender in 0..crowd.senders {
        let theirs = receipts.iter().filter(|receipt| receipt.sender == sender);
        let numbers: Vec<u64> = theirs.map(|receipt| receipt.number).collect();
        assert!(
            numbers.is_sorted(),
            "with {} places, sender {sender}'s messages arrived as {numbers:?}",
            crowd.settings.capacity
        );
    }
}

/// Messages of other senders pass a loan that is being filled. Those of its own sender do not.
fn a_slow_loan_is_not_overtaken_by_its_senders_next_message(subject: &dyn Subject) {
    for (capacity, len) in [(3, 10), (4, 10), (4, 5000), (9, 10)] {
        let trial = Trial::new(subject);
        let queue = trial.create(&settings(capacity));
        let (slow, other, receiver) = (queue.sender(), queue.sender(), queue.receiver());
        let mut loan = slow.loan(len).expect("a place");
        other.try_send(&content(1, 10)).expect("a place");
        // A receiver may, but need not, find the message that was sent after the loan.
        if let Ok(delivery) = receiver.try_recv() {
            assert_eq!(number_in(delivery.payload()), 1);
            delivery.ack().expect("we hold it");
        }
        loan.copy_from_slice(&content(2, len));
        loan.publish().expect("the loan held a place");
        while let Ok(_id) = slow.try_send(&content(3, 10)) {}
        let mut numbers = Vec::new();
        while let Ok(delivery) = receiver.try_recv() {
            numbers.push(number_in(delivery.payload()));
            delivery.ack().expect("we hold it");
        }
        numbers.retain(|number| *number != 1);
        assert_eq!((numbers[0], numbers.is_sorted()), (2, true), "{numbers:?}");
    }
}

/// A payload of any size up to the largest arrives unchanged, whatever else is in the queue.
///
/// # Panics
/// If the subject breaks the promise.
pub fn payloads_of_every_size_arrive_intact(subject: &dyn Subject) {
    const CAPACITY: usize = 32;
    let sizes = sizes();
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(32));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    // Several times, so that memory is reused for another size.
    let numbered: Vec<(u64, usize)> = (0..)
        .zip(sizes.iter().cycle().copied())
        .take(3 * sizes.len())
        .collect();
    for batch in numbered.chunks(CAPACITY) {
        for (number, len) in batch {
            let message = content(*number, *len);
            if number % 2 == 0 {
                sender.try_send(&message).expect("a place and memory");
            } else {
                let mut loan = sender.try_loan(*len).expect("a place and memory");
                assert_eq!(loan.len(), *len);
                loan.copy_from_slice(&message);
                assert!(*loan == *message);
                loan.publish().expect("the loan held a place");
            }
        }
        for (number, len) in batch {
            let delivery = receiver.try_recv().expect("it was sent");
            assert!(
                delivery.payload() == content(*number, *len),
                "message {number} ({len} bytes) arrived changed, with {} bytes",
                delivery.payload().len()
            );
            delivery.ack().expect("we hold it");
        }
    }
}

/// Returns every size near a limit that some transport may have.
fn sizes() -> Vec<usize> {
    let (inline, largest) = (INLINE as usize, LARGEST as usize);
    let mut sizes = vec![0, 1, 2, 7, 8, 9, largest - 1, largest];
    let rounded = inline.next_multiple_of(64);
    let borders = [inline, rounded, 1024, 4096];
    // Memory may come in sizes that grow by a factor up to the largest.
    let classes = [2, 4, 8, 16].map(|factor| largest / factor);
    for border in borders.into_iter().chain(classes) {
        let rounded = border.next_multiple_of(64);
        sizes.extend([
            border - 1,
            border,
            border + 1,
            rounded - 1,
            rounded,
            rounded + 1,
        ]);
    }
    sizes
}

/// Applies if memory is shared. Otherwise loans are buffers, and there is nothing to refuse.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_payload_is_read_in_place(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(4));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let copies = !queue.transport().capabilities().has(Feature::ZeroCopy);
    for len in [1, INLINE as usize, LARGEST as usize] {
        let mut loan = sender.try_loan(len).expect("a place and memory");
        loan.copy_from_slice(&content(7, len));
        let written_at = loan.as_ptr();
        loan.publish().expect("the loan held a place");
        let delivery = receiver.try_recv().expect("it was sent");
        assert!(delivery.payload() == content(7, len));
        assert!(
            copies || delivery.payload().as_ptr() == written_at,
            "{len} bytes were copied"
        );
        delivery.ack().expect("we hold it");
    }
}

/// The kind arrives, with and without a payload. The id and the time of sending are the same at
/// each delivery.
///
/// # Panics
/// If the subject breaks the promise.
pub fn every_kind_of_message_is_carried(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(8));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let kinds = [Kind::Data, Kind::Control, Kind::Heartbeat, Kind::Shutdown];
    for payload in [&b""[..], b"something"] {
        let ids = kinds.map(|kind| {
            sender
                .send_with(payload, &SendOptions::new().kind(kind).wait(Wait::No))
                .expect("a place")
        });
        for (one, next) in ids.iter().zip(&ids[1..]) {
            let expected = MessageId::new(one.sender, one.sequence + 1);
            assert_eq!(*next, expected, "a sender counts its messages");
        }
        let firsts = kinds.map(|_| receiver.try_recv().expect("it was sent"));
        // Everything except the parts that differ from one delivery to the next.
        let same = |delivery: &ByteDelivery<'_>| Metadata {
            attempt: 0,
            delivery: 0,
            ..delivery.metadata()
        };
        let all = firsts.each_ref().map(same);
        for (first, (kind, id)) in firsts.into_iter().zip(kinds.into_iter().zip(ids)) {
            assert_eq!(
                (first.kind(), first.id(), first.payload()),
                (kind, id, payload)
            );
            first.nack().expect("we hold it");
        }
        for _ in kinds {
            let again = receiver.try_recv().expect("it was returned");
            let metadata = same(&again);
            assert!(all.contains(&metadata), "{metadata:?} is not among {all:?}");
            again.ack().expect("we hold it");
        }
    }
    let loan = sender
        .loan_with(0, &SendOptions::new().kind(Kind::Control).wait(Wait::No))
        .expect("a place");
    loan.publish().expect("the loan held a place");
    let delivery = receiver.try_recv().expect("it was sent");
    assert_eq!(delivery.kind(), Kind::Control);
    delivery.ack().expect("we hold it");
}

/// Every opener of a name gets the same queue, with the settings that it was created with, until it
/// is removed. An opener that requires other settings gets a typed error.
///
/// # Panics
/// If the subject breaks the promise.
pub fn all_openers_of_a_name_get_the_same_queue(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let opened = |request: &OpenRequest| subject.open(&trial.name, request).map(ByteQueue::over);
    let only_open = OpenRequest {
        mode: OpenMode::Open,
        ..OpenRequest::default()
    };
    assert!(matches!(
        opened(&only_open),
        Err(QueueError::NotFound { .. })
    ));

    let wanted = QueueSettings {
        lease: Some(std::time::Duration::from_secs(5)),
        ..settings(5)
    };
    let queue = trial.create(&wanted);
    assert_eq!(*queue.transport().settings(), wanted);
    let create = OpenRequest {
        mode: OpenMode::Create,
        settings: wanted.clone(),
        ..OpenRequest::default()
    };
    assert!(matches!(opened(&create), Err(QueueError::Exists { .. })));

    let found = opened_with_other_settings(&trial, &wanted);
    // The queue and its contents stay while no handle has it open.
    found.sender().try_send(&content(1, 3000)).expect("a place");
    drop((queue, found));
    let queue = trial.open();
    let receiver = queue.receiver();
    let delivery = receiver.try_recv().expect("it was sent");
    assert_eq!(number_in(delivery.payload()), 1);
    delivery.ack().expect("we hold it");

    // Another name is another queue.
    let elsewhere = Trial::new(subject);
    elsewhere
        .create(&wanted)
        .sender()
        .try_send(b"there")
        .expect("a place");
    assert_eq!(
        receiver.try_recv().expect_err("nothing here"),
        TryRecvError::Empty
    );

    // After the removal, the name is free for a new queue.
    assert!(trial.remove());
    assert!(!trial.remove());
    assert!(matches!(
        opened(&only_open),
        Err(QueueError::NotFound { .. })
    ));
    all_at_once(subject);
}

/// Settings that a request does not require are those of the existing queue. Returns the queue.
fn opened_with_other_settings(trial: &Trial<'_>, wanted: &QueueSettings) -> ByteQueue {
    let opened = |request: &OpenRequest| {
        let queue = trial.subject.open(&trial.name, request);
        queue.map(ByteQueue::over)
    };
    let other = settings(6);
    let mut request = OpenRequest {
        settings: other,
        insist_on: vec!["attempt_limit"],
        ..OpenRequest::default()
    };
    let found = opened(&request).expect("the capacity is not insisted on");
    assert_eq!(*found.transport().settings(), *wanted);
    for field in ["capacity", "lease"] {
        request.insist_on = vec![field];
        match opened(&request) {
            Err(QueueError::SettingsDiffer { field: named, .. }) => assert_eq!(named, field),
            other => panic!("opened with another {field}: {other:?}"),
        }
    }
    request.insist_on.clear();
    request.payload = "Resize".to_owned();
    assert!(matches!(
        opened(&request),
        Err(QueueError::PayloadDiffers { .. })
    ));
    found
}

/// Many threads open a queue that does not exist yet: one creates it, and all get that one.
fn all_at_once(subject: &dyn Subject) {
    const OPENERS: u32 = 8;
    for _ in 0..rounds(subject, 20) {
        let trial = Trial::new(subject);
        let request = OpenRequest {
            settings: settings(OPENERS),
            ..OpenRequest::default()
        };
        thread::scope(|scope| {
            for _ in 0..OPENERS {
                scope.spawn(|| {
                    let queue = subject.open(&trial.name, &request).map(ByteQueue::over);
                    queue
                        .expect("opened or created")
                        .sender()
                        .try_send(b"here")
                        .expect("a place");
                });
            }
        });
        let queue = trial.open();
        assert_eq!(queue.transport().stats().unwrap().ready, u64::from(OPENERS));
    }
}
