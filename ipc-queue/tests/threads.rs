//! Several threads on the handles of one queue, in one mapping, so that a race detector can follow
//! them.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ipc_proto::{Name, QueueSettings};
use ipc_queue::transport::{OpenMode, OpenRequest};
use ipc_queue::{ByteQueue, ShmQueue};
use ipc_shm::Namespace;

const SENDERS: u64 = 2;
const RECEIVERS: usize = 2;
const MESSAGES: u64 = 3_000;

/// Small, so that everything runs out.
fn settings() -> QueueSettings {
    QueueSettings {
        capacity: 8,
        inline_bytes: 64,
        max_message_bytes: 512,
        pool_bytes: 4096,
        attempt_limit: 250,
        crash_limit: 250,
        backoff: ipc_queue::Backoff::None,
        lease: None,
        max_participants: 2,
        ..QueueSettings::default()
    }
}

/// Two threads send, inline and in chunks. Two receive, nack some messages and ack the rest. Each
/// message is acked once, complete.
#[test]
fn messages_between_threads_arrive_once_and_whole() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let namespace = Namespace::in_folder(folder.path().join("root"), "threads").unwrap();
    let name = Name::new("q").unwrap();
    let request = OpenRequest {
        mode: OpenMode::Create,
        settings: settings(),
        ..OpenRequest::default()
    };
    let queue = ShmQueue::open(&namespace, &name, &request).unwrap();
    let queue = ByteQueue::over(Arc::new(queue));
    let (count, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let senders = [(); SENDERS as usize].map(|()| {
            scope.spawn(|| {
                let sender = queue.sender();
                for number in 0..MESSAGES {
                    let len = if number % 3 == 0 { 400 } else { 40 };
                    let mut loan = sender.loan(len).unwrap();
                    loan.fill(number as u8);
                    loan[..8].copy_from_slice(&number.to_le_bytes());
                    loan.publish().unwrap();
                }
            })
        });
        for _ in 0..RECEIVERS {
            scope.spawn(|| {
                let receiver = queue.receiver();
                loop {
                    let delivery = match receiver.recv() {
                        Ok(delivery) => delivery,
                        Err(error) if error.is_closed() => return,
                        Err(error) => panic!("{error}"),
                    };
                    let (number, rest) = delivery.payload().split_at(8);
                    let number = u64::from_le_bytes(number.try_into().unwrap());
                    assert!(rest.iter().all(|byte| *byte == number as u8));
                    if delivery.attempt() == 1 && number % 7 == 0 {
                        delivery.nack().unwrap();
                        continue;
                    }
                    delivery.ack().unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                    sum.fetch_add(number, Ordering::Relaxed);
                }
            });
        }
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
        queue.close().unwrap();
    });
    // Loaded atomically, because a race detector may not see that the threads have ended.
    let (count, sum) = (count.load(Ordering::SeqCst), sum.load(Ordering::SeqCst));
    assert_eq!(count, SENDERS * MESSAGES);
    assert_eq!(sum, SENDERS * MESSAGES * (MESSAGES - 1) / 2);
    assert_eq!(queue.stats().unwrap().in_use(), 0);
    drop(queue);
    assert!(ShmQueue::remove(&namespace, &name).unwrap());
}
