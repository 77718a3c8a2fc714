//! Batches in shared memory: what `Batch::ack` settles, counts and reports, and the size of
//! batches.
#![cfg(target_os = "linux")]

use std::process;
use std::time::Duration;

use ipc_queue::transport::Wait;
use ipc_queue::{Batch, ByteQueue, Queue, QueueOptions, remove};

const HOUR: Duration = Duration::from_secs(3600);

/// A queue that is removed at the end of its test.
struct Own<Q> {
    queue: Q,
    address: String,
}

impl<Q> Own<Q> {
    fn open(name: &str, open: impl FnOnce(&str) -> Q) -> Self {
        let address = format!("shm:batches-{}/{name}", process::id());
        Self {
            queue: open(&address),
            address,
        }
    }
}

impl<Q> Drop for Own<Q> {
    fn drop(&mut self) {
        let _ = remove(&*self.address);
    }
}

fn bytes(name: &str, options: &QueueOptions) -> Own<ByteQueue> {
    Own::open(name, |address| options.open_bytes(address).unwrap())
}

#[test]
fn a_batch_is_acknowledged_at_once_and_each_of_it_is_counted() {
    let own = bytes("counted", &QueueOptions::new().capacity(32));
    let (sender, receiver) = (own.queue.sender(), own.queue.receiver());
    let payloads: [&[u8]; 21] = [b"a"; 21];
    sender.send_batch(&payloads).unwrap();
    let mut batch = receiver.recv_batch(32, Wait::No).unwrap();
    assert_eq!(batch.len(), 21);
    batch.remove(3).nack_after(Duration::ZERO).unwrap();
    batch.ack().unwrap();
    assert!(batch.is_empty());
    let stats = own.queue.transport().stats().unwrap();
    assert_eq!((stats.acked, stats.nacked, stats.ready), (20, 1, 1));
    assert_eq!((stats.sent, stats.received), (21, 21));
    assert_eq!(stats.in_use(), 1);
}

#[test]
fn a_batch_that_waits_is_purged_as_single_messages_are() {
    let own = bytes("purged", &QueueOptions::new().capacity(16));
    let (sender, receiver) = (own.queue.sender(), own.queue.receiver());
    let payloads: [&[u8]; 11] = [b"a"; 11];
    sender.send_batch(&payloads).unwrap();
    let held = receiver.recv_batch(3, Wait::No).unwrap();
    assert_eq!(own.queue.transport().purge().unwrap(), 8);
    assert_eq!(own.queue.transport().stats().unwrap().in_use(), 3);
    held.into_iter().for_each(|one| one.ack().unwrap());
    let payloads: [&[u8]; 16] = [b"b"; 16];
    sender.send_batch(&payloads).unwrap();
    assert_eq!(own.queue.transport().purge().unwrap(), 16);
    assert_eq!(own.queue.transport().stats().unwrap().in_use(), 0);
}

#[test]
fn what_is_left_of_a_batch_is_settled_in_any_order_and_by_any_thread() {
    let own = bytes("anyhow", &QueueOptions::new().capacity(8));
    let (sender, receiver) = (own.queue.sender(), own.queue.receiver());
    let payloads: [&[u8]; 8] = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"];
    for _ in 0..3 {
        sender.send_batch(&payloads).unwrap();
        let mut batch = receiver.recv_batch(8, Wait::No).unwrap();
        batch.remove(6).nack_after(Duration::ZERO).unwrap();
        let owned = batch.remove(1).into_owned();
        batch.remove(0).ack().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || owned.ack().unwrap());
            batch.ack().unwrap();
        });
        let again = receiver.recv().unwrap();
        assert_eq!((again.payload(), again.attempt()), (&b"6"[..], 2));
        again.ack().unwrap();
        assert_eq!(own.queue.transport().stats().unwrap().in_use(), 0);
    }
}

#[test]
fn acking_a_batch_reports_the_lost_lease_and_acknowledges_the_rest() {
    let options = QueueOptions::new().lease(Duration::from_millis(50));
    let own = bytes("lost", &options.capacity(8));
    own.queue.sender().send_batch(&[b"a", b"b", b"c"]).unwrap();
    let (receiver, other) = (own.queue.receiver(), own.queue.receiver());
    let mut batch = receiver.recv_batch(3, Wait::No).unwrap();
    batch[0].extend(HOUR).unwrap();
    batch[2].extend(HOUR).unwrap();
    // It is delivered when the lease is over.
    let again = other.recv().unwrap();
    assert_eq!(again.payload(), b"b");
    let error = batch.ack().unwrap_err();
    assert_eq!((error.acked, error.failed), (2, 1));
    assert!(error.first.is_lease_lost());
    again.ack().unwrap();
    let stats = own.queue.transport().stats().unwrap();
    assert_eq!((stats.acked, stats.leases_lost, stats.in_use()), (3, 1, 0));
}

#[test]
fn a_batch_of_values_is_acknowledged_at_once() {
    let own = Own::open("typed", |address| {
        QueueOptions::new().open::<u32>(address).unwrap()
    });
    let queue: &Queue<u32> = &own.queue;
    queue.sender().send_batch(0..100).unwrap();
    let receiver = queue.receiver();
    let (mut batch, mut seen) = (Batch::new(), Vec::new());
    while receiver.recv_batch_into(&mut batch, 30, Wait::No).is_ok() {
        seen.extend(batch.iter().map(|delivery| *delivery.data()));
        batch.ack().unwrap();
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    assert_eq!(queue.stats().unwrap().in_use(), 0);
}

#[test]
fn a_batch_ends_where_its_payloads_would_leave_the_cache() {
    let options = QueueOptions::new().capacity(64).max_message_bytes(1 << 16);
    let own = bytes("large", &options);
    let large = vec![7; 40 << 10];
    let payloads = vec![&large[..]; 20];
    let (sender, receiver) = (own.queue.sender(), own.queue.receiver());
    let mut left = payloads.len();
    sender.send_batch(&payloads).unwrap();
    let mut sizes = Vec::new();
    while left > 0 {
        let mut batch = receiver.recv_batch(left, Wait::No).unwrap();
        assert!(batch.iter().all(|delivery| delivery.payload() == large));
        left -= batch.len();
        sizes.push(batch.len());
        batch.ack().unwrap();
    }
    // The receiver knows only after the first batch that the payloads are large.
    assert_eq!(sizes[1..], vec![2; sizes.len() - 1]);
    assert!(sizes[0] <= 8, "{sizes:?}");
}

#[test]
fn out_of_order_and_delayed_messages_are_also_in_a_batch() {
    let own = bytes("redelivered", &QueueOptions::new().capacity(8));
    let (sender, receiver) = (own.queue.sender(), own.queue.receiver());
    sender.send_batch(&[b"a", b"b", b"c", b"d"]).unwrap();
    let first = receiver.recv().unwrap();
    first.nack_after(Duration::ZERO).unwrap();
    let mut batch = receiver.recv_batch(8, Wait::No).unwrap();
    let mut payloads: Vec<_> = batch.iter().map(|one| one.payload().to_vec()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, [b"a", b"b", b"c", b"d"]);
    batch.ack().unwrap();
    assert_eq!(own.queue.transport().stats().unwrap().redelivered, 1);
}

#[test]
fn a_batch_without_room_in_time_reports_how_many_messages_were_sent() {
    let options = QueueOptions::new().capacity(2);
    let own = Own::open("within", |address| options.open_bytes(address).unwrap());
    let (tx, receiver) = (own.queue.sender(), own.queue.receiver());
    let refused = tx.send_batch_within(&[b"1", b"2", b"3"], Wait::No);
    let error = refused.unwrap_err();
    assert!(error.sent == 2 && error.error.is_timeout(), "{error}");
    receiver.recv_batch(2, Wait::No).unwrap().ack().unwrap();
    tx.send_batch_within(&[b"3"], Wait::No).unwrap();
}
