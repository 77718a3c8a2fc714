//! Futures under two executors: tokio, whose tasks move between threads, and pollster, which has no
//! threads.
#![cfg(target_os = "linux")]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipc_queue::Queue;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const MESSAGES: u64 = 2000;

fn queue() -> (String, Queue<u64>) {
    let name = format!(
        "shm:test-async-{}/{:x}",
        std::process::id(),
        fastrand::u64(..)
    );
    let queue = Queue::open(&name).unwrap();
    (name, queue)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_reaches_one_of_many_tokio_tasks_that_keep_it_across_await() {
    let (name, queue) = queue();
    let acked = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (mut receiver, acked) = (queue.receiver(), Arc::clone(&acked));
            tokio::spawn(async move {
                loop {
                    match receiver.recv_async().await {
                        Ok(delivery) => {
                            tokio::task::yield_now().await;
                            delivery.ack().unwrap();
                            acked.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) if error.is_closed() => return,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let mut sender = queue.sender();
    for number in 0..MESSAGES {
        sender.send_async(number).await.unwrap();
        tokio::task::yield_now().await;
    }
    queue.close().unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(acked.load(Ordering::SeqCst) as u64, MESSAGES);
    assert!(ipc_queue::remove(&name).unwrap());
}

#[tokio::test]
async fn a_descriptor_is_readable_whenever_there_is_something() {
    let (name, queue) = queue();
    let sender = queue.sender();
    let sending = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            sender.send(number).unwrap();
        }
    });
    let receiver = queue.receiver();
    let mut readiness = receiver.readiness().unwrap();
    let fd = readiness.as_fd().try_clone_to_owned().unwrap();
    #[allow(
        deprecated,
        reason = "sound for a descriptor that it owns, and without `unsafe`"
    )]
    let readable = AsyncFd::with_interest(fd, Interest::READABLE).unwrap();
    let mut next = 0;
    while next < MESSAGES {
        readiness.arm().unwrap();
        while let Ok(delivery) = receiver.try_recv() {
            assert_eq!(*delivery.data(), next);
            delivery.ack().unwrap();
            next += 1;
        }
        if next < MESSAGES {
            readable.readable().await.unwrap().clear_ready();
        }
    }
    sending.join().unwrap();
    drop(receiver);
    assert!(ipc_queue::remove(&name).unwrap());
}

#[test]
fn pollster_receives_what_another_thread_sends() {
    let (name, queue) = queue();
    let mut sender = queue.sender();
    let sending = std::thread::spawn(move || {
        pollster::block_on(async {
            for number in 0..MESSAGES {
                sender.send_async(number).await.unwrap();
            }
        });
    });
    let mut receiver = queue.receiver();
    for number in 0..MESSAGES {
        let delivery = pollster::block_on(receiver.recv_async()).unwrap();
        assert_eq!(*delivery.data(), number);
        delivery.ack().unwrap();
    }
    sending.join().unwrap();
    assert!(ipc_queue::remove(&name).unwrap());
}
