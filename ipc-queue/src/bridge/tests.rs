use std::sync::atomic::AtomicU64;

use ipc_proto::{Headers, Kind};

use super::*;
use crate::options::QueueOptions;

fn queue(options: QueueOptions) -> ByteQueue {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("local:bridge-test-{number}");
    options.open_bytes(&name).unwrap()
}

fn run_to_the_end(bridge: &Bridge) -> Carried {
    let stop = AtomicBool::new(false);
    bridge.run(Until::Drained, &stop, |_| {}).unwrap()
}

#[test]
fn kinds_and_order_are_kept() {
    let (from, to) = (queue(QueueOptions::new()), queue(QueueOptions::new()));
    let kinds = [Kind::Data, Kind::Control, Kind::Heartbeat, Kind::Shutdown];
    for number in 0..200_u8 {
        let kind = kinds[usize::from(number) % 4];
        from.sender()
            .send_with(&[number], &SendOptions::new().kind(kind).wait(Wait::No))
            .unwrap();
    }
    from.transport().close().unwrap();
    let carried = run_to_the_end(&Bridge::new(from.clone(), to.clone()).batch(7));
    assert_eq!((carried.messages, carried.bytes), (200, 200));
    let receiver = to.receiver();
    for number in 0..200_u8 {
        let delivery = receiver.try_recv().unwrap();
        let kind = kinds[usize::from(number) % 4];
        assert_eq!((delivery.kind(), delivery.payload()), (kind, &[number][..]));
        delivery.ack().unwrap();
    }
    assert_eq!(from.transport().stats().unwrap().acked, 200);
}

/// Returns a closed queue that contains a message with headers and one without, and those
/// headers.
fn with_and_without_headers() -> (ByteQueue, Headers) {
    let from = queue(QueueOptions::new());
    let options = SendOptions::new().header("traceparent", "00-1-2-01");
    let options = options.unwrap();
    let sender = from.sender();
    sender
        .send_with(b"with", &options.clone().wait(Wait::No))
        .unwrap();
    sender.send(b"without").unwrap();
    from.transport().close().unwrap();
    (from, options.headers)
}

#[test]
fn headers_are_carried() {
    let (from, headers) = with_and_without_headers();
    let to = queue(QueueOptions::new());
    let bridge = Bridge::new(from, to.clone());
    assert!(bridge.carries_headers());
    let carried = run_to_the_end(&bridge);
    assert_eq!((carried.messages, carried.without_headers), (2, 0));
    let receiver = to.receiver();
    assert_eq!(receiver.try_recv().unwrap().headers(), headers);
    assert!(receiver.try_recv().unwrap().headers().is_empty());
}

/// The second queue's transport has no headers.
#[test]
fn headers_that_the_other_queue_does_not_support_are_dropped_and_counted() {
    let (from, _) = with_and_without_headers();
    let to = queue(QueueOptions::new());
    let bridge = Bridge {
        headers: false,
        ..Bridge::new(from, to.clone())
    };
    let carried = run_to_the_end(&bridge);
    assert_eq!((carried.messages, carried.without_headers), (2, 1));
    assert!(to.receiver().try_recv().unwrap().headers().is_empty());
}

#[test]
fn messages_published_before_a_kill_are_not_published_again() {
    let from = queue(QueueOptions::new());
    let to = queue(QueueOptions::new().dedup_window(Duration::from_secs(3600)));
    let bridge = Bridge::new(from.clone(), to.clone());
    assert!(bridge.is_exactly_once());
    from.sender().send(b"once").unwrap();
    // The state after a kill between publishing and acking.
    let mut trip = Trip {
        bridge: &bridge,
        sender: to.sender(),
        stop: &AtomicBool::new(false),
        note: |_| {},
        carried: Carried::default(),
    };
    let receiver = from.receiver();
    let held = receiver.recv().unwrap();
    trip.publish(&held, SLICE).unwrap();
    drop(held);
    from.transport().close().unwrap();
    let carried = run_to_the_end(&bridge);
    assert_eq!((carried.messages, carried.known), (0, 1));
    assert_eq!(to.transport().stats().unwrap().sent, 1);
}

#[test]
fn messages_refused_by_the_other_queue_are_buried_and_the_rest_continues() {
    let from = queue(QueueOptions::new().max_message_bytes(2000));
    let to = queue(QueueOptions::new().inline_bytes(64).max_message_bytes(64));
    for len in [10, 2000, 10] {
        from.sender().send(&vec![7; len]).unwrap();
    }
    from.transport().close().unwrap();
    let mut said = Vec::new();
    let stop = AtomicBool::new(false);
    let carried = Bridge::new(from.clone(), to).run(Until::Drained, &stop, |note| {
        if let Note::Buried { why, .. } = note {
            said.push(why);
        }
    });
    let carried = carried.unwrap();
    assert_eq!((carried.messages, carried.buried), (2, 1));
    assert!(matches!(
        said[..],
        [SendFailure::TooLarge { bytes: 2000, .. }]
    ));
    assert_eq!(
        from.transport().dead_letters().unwrap()[0].payload,
        [7; 2000]
    );
}

#[test]
fn leases_are_extended_while_waiting_for_a_full_queue() {
    let lease = Duration::from_secs(2);
    let from = queue(QueueOptions::new().lease(lease));
    let to = queue(QueueOptions::new().capacity(1));
    to.sender().send(b"in the way").unwrap();
    from.sender().send(b"first").unwrap();
    from.sender().send(b"second").unwrap();
    from.transport().close().unwrap();
    let bridge = Bridge::new(from.clone(), to.clone());
    let carried = thread::scope(|scope| {
        let run = scope.spawn(|| run_to_the_end(&bridge));
        // Each refusal is one slice of waiting; together they are longer than the lease.
        while to.transport().stats().unwrap().refused < 5 {
            thread::yield_now();
        }
        let receiver = to.receiver();
        for said in [&b"in the way"[..], b"first", b"second"] {
            let delivery = receiver.recv().unwrap();
            assert_eq!(delivery.payload(), said);
            delivery.ack().unwrap();
        }
        run.join().unwrap()
    });
    assert_eq!((carried.messages, carried.lost), (2, 0));
    assert_eq!(from.transport().stats().unwrap().redelivered, 0);
}

#[test]
fn a_stopped_bridge_returns_messages_without_room() {
    let from = queue(QueueOptions::new());
    let to = queue(QueueOptions::new().capacity(1));
    from.sender().send(b"fits").unwrap();
    from.sender().send(b"does not").unwrap();
    let stop = AtomicBool::new(false);
    let carried = Bridge::new(from.clone(), to).run(Until::Stopped, &stop, |note| {
        if matches!(note, Note::Waiting { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(carried.unwrap().messages, 1);
    let stats = from.transport().stats().unwrap();
    assert_eq!((stats.ready, stats.acked), (1, 1));
}
