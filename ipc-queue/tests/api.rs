//! The interface as a user would write it from memory, in the style of std and crossbeam. Each
//! function is one short use; that they compile is most of the test.

use std::collections::HashSet;
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::{
    Address, Backoff, ByteQueue, DeadReason, Delivery, Incoming, Kind, Nack, OwnedByteDelivery,
    OwnedDelivery, Queue, QueueOptions, Receiver, RecvTimeoutError, SendError, SendFailure,
    SendOptions, Sender, Signal, TryRecvError, TrySendError, Unavailable,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Job {
    path: String,
    width: u32,
}

fn job(width: u32) -> Job {
    Job {
        path: format!("{width}.jpg"),
        width,
    }
}

/// A queue in shared memory or among threads, removed at the end.
struct Scratch {
    address: String,
    _folder: tempfile::TempDir,
}

impl Scratch {
    fn both(name: &str) -> [Self; 2] {
        ["local", "shm"].map(|scheme| Self {
            address: match scheme {
                "local" => format!("local:api-{name}"),
                _ => format!("shm:api-{}/{name}", std::process::id()),
            },
            _folder: tempfile::tempdir().unwrap(),
        })
    }

    fn queue(&self) -> Queue<Job> {
        let options = QueueOptions::new().backoff(Backoff::None);
        options.open(&self.address).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        ipc_queue::remove(&self.address).unwrap();
    }
}

fn for_both(name: &str, check: impl Fn(Queue<Job>)) {
    for scratch in Scratch::both(name) {
        check(scratch.queue());
    }
}

type Anyhow = anyhow::Result<()>;
type Boxed = Result<(), Box<dyn Error>>;
type BoxedForThreads = Result<(), Box<dyn Error + Send + Sync>>;

fn sends_by_reference_in_anyhow(queue: &Queue<Job>, job: &Job) -> Anyhow {
    queue.sender().send(job)?;
    Ok(())
}

fn sends_by_reference_in_a_box(queue: &Queue<Job>, job: &Job) -> Boxed {
    queue.sender().send(job)?;
    queue.sender().try_send(job)?;
    Ok(())
}

fn sends_by_value_in_a_box(queue: &Queue<Job>, job: Job) -> BoxedForThreads {
    queue.sender().send_timeout(job, Duration::from_secs(1))?;
    queue.receiver().recv()?.ack()?;
    Ok(())
}

#[test]
fn a_question_mark_works_after_every_send() {
    for_both("question", |queue| {
        sends_by_reference_in_anyhow(&queue, &job(1)).unwrap();
        sends_by_reference_in_a_box(&queue, &job(2)).unwrap();
        sends_by_value_in_a_box(&queue, job(3)).unwrap();
        assert_eq!(queue.len().unwrap(), 3);
    });
}

#[test]
fn a_worker_is_a_for_loop() {
    for_both("loop", |queue| {
        queue.sender().send_batch((1..=3).map(job)).unwrap();
        queue.close().unwrap();
        let mut sum = 0;
        for job in queue.receiver() {
            sum += job.data().width;
            job.ack().unwrap();
        }
        assert_eq!(sum, 6);
    });
}

#[test]
fn iterators_borrow_block_and_end_as_in_std() {
    for_both("iterators", |queue| {
        let (tx, rx) = (queue.sender(), queue.receiver());
        tx.send(job(1)).unwrap();
        tx.send(job(2)).unwrap();
        let now: Vec<u32> = rx.try_iter().map(done).collect();
        assert_eq!(now, [1, 2]);
        assert_eq!(rx.try_iter().count(), 0);
        tx.send(job(3)).unwrap();
        queue.close().unwrap();
        let mut iter = rx.iter();
        assert_eq!(iter.by_ref().map(done).collect::<Vec<_>>(), [3]);
        assert_eq!(iter.error(), None);
        let nothing: Vec<_> = (&rx).into_iter().map(done).collect();
        assert!(nothing.is_empty(), "it is closed and drained");
    });
}

fn done(job: Delivery<'_, Job>) -> u32 {
    let (job, rest) = job.into_parts();
    rest.ack().unwrap();
    job.width
}

#[test]
fn an_iterator_tells_which_error_ended_it() {
    for scratch in Scratch::both("ended") {
        let queue = scratch.queue();
        let receiver = queue.receiver();
        let mut iter = receiver.iter();
        ipc_queue::remove(&scratch.address).unwrap();
        assert!(iter.next().is_none());
        let error = iter.error().expect("it was removed");
        assert_eq!(error.failure, Unavailable::Removed.into());
        assert!(error.queue.contains("ended"), "{error}");
        scratch.queue();
    }
}

#[test]
fn a_value_moves_out_and_the_rest_is_settled() {
    for_both("moves", |queue| {
        queue.sender().send(job(640)).unwrap();
        let receiver = queue.receiver();
        let (owned, rest) = receiver.recv().unwrap().into_parts();
        let Job { path, width } = owned;
        assert_eq!((path.as_str(), width, rest.attempt()), ("640.jpg", 640, 1));
        rest.nack().unwrap();
        let mut again = receiver.recv().unwrap();
        again.data_mut().width = 1;
        let (changed, rest) = again.into_parts();
        assert_eq!(changed.width, 1);
        rest.bury_with("unwanted").unwrap();
        let letters = queue.dead_letters().unwrap();
        let letter = &letters[0];
        assert_eq!(letter.payload.as_ref().unwrap(), &job(640));
        assert_eq!(
            (letter.reason, letter.error.as_str()),
            (DeadReason::Buried, "unwanted")
        );
        assert!(queue.requeue(letter.id).unwrap());
        receiver.recv().unwrap().ack().unwrap();
        assert!(queue.is_empty().unwrap());
    });
}

#[test]
fn a_delivery_outlives_its_receiver_and_crosses_threads() {
    for_both("threads", |queue| {
        queue.sender().send(job(1)).unwrap();
        let owned: OwnedDelivery<Job> = queue.receiver().recv().unwrap().into_owned();
        let thread = thread::spawn(move || {
            assert_eq!((owned.data().width, owned.kind()), (1, Kind::Data));
            owned.ack()
        });
        thread.join().unwrap().unwrap();
        assert!(queue.is_empty().unwrap());
    });
}

#[test]
fn kept_bytes_stay_unchanged() {
    for scratch in Scratch::both("kept") {
        let queue = ByteQueue::open(&scratch.address).unwrap();
        let (sender, receiver) = (queue.sender(), queue.receiver());
        for size in [0, 3, 100_000] {
            sender.send(&vec![7; size]).unwrap();
        }
        let kept: Vec<OwnedByteDelivery> = receiver
            .try_iter()
            .map(ipc_queue::ByteDelivery::into_owned)
            .collect();
        drop((receiver, queue));
        for (owned, size) in kept.into_iter().zip([0, 3, 100_000]) {
            assert_eq!(owned.payload(), vec![7; size]);
            owned.check_whole().unwrap();
            owned.ack().unwrap();
        }
    }
}

#[test]
fn handles_are_cloned_for_other_threads() {
    for_both("clones", |queue| {
        let (tx, rx) = (queue.sender(), queue.receiver());
        let senders: Vec<_> = (0..4)
            .map(|n| {
                let tx: Sender<Job> = tx.clone();
                thread::spawn(move || tx.send(job(n)).map(drop))
            })
            .collect();
        let receivers: Vec<_> = (0..2)
            .map(|_| {
                let rx: Receiver<Job> = rx.clone();
                thread::spawn(move || rx.iter().map(done).collect::<Vec<_>>())
            })
            .collect();
        for sender in senders {
            sender.join().unwrap().unwrap();
        }
        queue.close().unwrap();
        let all = receivers.into_iter().flat_map(|it| it.join().unwrap());
        assert_eq!(all.collect::<HashSet<_>>(), HashSet::from([0, 1, 2, 3]));
    });
}

#[test]
fn a_heartbeat_is_skipped_and_a_shutdown_ends_the_loop() {
    for_both("signals", |queue| {
        let (tx, rx) = (queue.sender(), queue.receiver());
        tx.send_signal(Signal::Heartbeat).unwrap();
        tx.send(job(1)).unwrap();
        tx.send_signal(Signal::Shutdown).unwrap();
        tx.send(job(2)).unwrap();
        assert_eq!(rx.iter().map(done).collect::<Vec<_>>(), [1]);
        tx.send_signal(Signal::Shutdown).unwrap();
        assert_eq!(done(rx.recv().unwrap()), 2);
        let end = rx.try_recv().unwrap_err();
        assert!(end.is_shutdown() && !end.is_closed());
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    });
}

#[test]
fn signals_reach_a_receiver_that_asks_for_them() {
    for_both("asking", |queue| {
        let (tx, rx) = (queue.sender(), queue.receiver());
        tx.send_signal(Signal::Heartbeat).unwrap();
        let control = SendOptions::new().kind(Kind::Control);
        tx.send_with(job(1), &control).unwrap();
        match rx.recv_any(Wait::No).unwrap() {
            Incoming::Signal(signal) => {
                assert_eq!(*signal.data(), Signal::Heartbeat);
                signal.ack().unwrap();
            }
            Incoming::Message(job) => panic!("{job:?}"),
        }
        match rx.recv_any(Wait::No).unwrap() {
            Incoming::Message(job) => {
                assert_eq!((job.kind(), job.data().width), (Kind::Control, 1));
                job.ack().unwrap();
            }
            Incoming::Signal(signal) => panic!("{signal:?}"),
        }
    });
}

#[test]
fn a_queue_is_asked_and_controlled_without_a_transport() {
    for_both("control", |queue| {
        queue.sender().send(&job(1)).unwrap();
        assert_eq!(
            (queue.len().unwrap(), queue.is_empty().unwrap()),
            (1, false)
        );
        assert_eq!(queue.stats().unwrap().sent, 1);
        queue.pause().unwrap();
        let receiver = queue.receiver();
        assert!(matches!(receiver.try_recv(), Err(TryRecvError::Paused)));
        assert!(queue.is_paused().unwrap());
        queue.resume().unwrap();
        let held = receiver.recv().unwrap();
        assert_eq!(queue.leases().unwrap().len(), 1);
        held.ack().unwrap();
        queue.sender().send(&job(2)).unwrap();
        assert_eq!(queue.purge().unwrap(), 1);
        queue.drain(Wait::at_most(Duration::from_secs(5))).unwrap();
        assert!(queue.is_closed().unwrap());
        queue.reopen().unwrap();
    });
}

#[test]
fn a_failed_send_returns_the_value_and_names_the_queue() {
    for scratch in Scratch::both("returned") {
        let queue = scratch.queue();
        queue.close().unwrap();
        let error: SendError<Job> = queue.sender().send(job(9)).unwrap_err();
        assert!(error.to_string().contains("returned"), "{error}");
        assert_eq!(error.failure, SendFailure::Closed);
        assert_eq!(error.into_inner(), job(9));
    }
}

#[test]
fn addresses_are_texts_or_addresses() {
    let text = String::from("local:api-addresses");
    let address: Address = text.parse().unwrap();
    Queue::<u32>::open("local:api-addresses").unwrap();
    Queue::<u32>::open(&text).unwrap();
    Queue::<u32>::open(text.clone()).unwrap();
    Queue::<u32>::open(&address).unwrap();
    QueueOptions::new()
        .mode(OpenMode::Open)
        .open::<u32>(address.clone())
        .unwrap();
    assert!(ipc_queue::remove(&address).unwrap());
    assert!(!ipc_queue::remove(text).unwrap());
}

#[test]
fn options_set_the_waiting_time() {
    for scratch in Scratch::both("waiting") {
        let one = QueueOptions::new().capacity(1);
        let queue: Queue<Job> = one.open(&scratch.address).unwrap();
        let sender = queue.sender();
        sender.send_deadline(job(1), Instant::now()).unwrap();
        let options = SendOptions::new().timeout(Duration::from_millis(1));
        let late = sender.send_with(job(2), &options).unwrap_err();
        assert!(late.is_timeout(), "{late}");
    }
}

#[test]
fn a_delivery_is_settled_without_blocking_the_thread() {
    for_both("futures", |queue| {
        pollster::block_on(async {
            let (mut tx, mut rx) = (queue.sender(), queue.receiver());
            for n in 1..=3 {
                tx.send_async(job(n)).await.unwrap();
            }
            tx.send_with_async(&job(4), &SendOptions::new().delay(Duration::from_millis(1)))
                .await
                .unwrap();
            rx.recv_async().await.unwrap().ack_async().await.unwrap();
            let second = rx.recv_async().await.unwrap();
            second
                .nack_async(Nack::new().reason("later"))
                .await
                .unwrap();
            let third = rx.recv_async().await.unwrap();
            third.snooze_async(Duration::from_millis(1)).await.unwrap();
            let mut widths = Vec::new();
            while widths.len() < 3 {
                let job = rx.recv_async().await.unwrap();
                let (job, rest) = job.into_parts();
                rest.bury_async("enough").await.unwrap();
                widths.push(job.width);
            }
            widths.sort_unstable();
            assert_eq!(widths, [2, 3, 4]);
        });
        assert_eq!(queue.dead_letters().unwrap().len(), 3);
    });
}

#[test]
fn a_full_queue_is_matched_as_in_std() {
    for scratch in Scratch::both("full") {
        let one = QueueOptions::new().capacity(1);
        let queue: Queue<Job> = one.open(&scratch.address).unwrap();
        let (tx, rx) = (queue.sender(), queue.receiver());
        tx.try_send(job(1)).unwrap();
        let later = match tx.try_send(job(2)) {
            Err(TrySendError::Full { message, .. }) => message,
            other => panic!("{other:?}"),
        };
        rx.try_recv().unwrap().ack().unwrap();
        tx.try_send(later).unwrap();
        assert!(tx.try_send(job(3)).unwrap_err().is_full());
    }
}

#[test]
fn an_empty_queue_is_matched_as_in_std() {
    for_both("empty", |queue| {
        let rx = queue.receiver();
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        let late = rx.recv_timeout(Duration::from_millis(1)).unwrap_err();
        assert!(
            late.is_timeout() && late.to_string().contains("empty"),
            "{late}"
        );
        let late = rx.recv_deadline(Instant::now()).unwrap_err();
        assert!(matches!(late, RecvTimeoutError::TimedOut { .. }));
    });
}

#[test]
fn a_worker_loop_distinguishes_its_three_ends() {
    for_both("ends", |queue| {
        queue.sender().send(job(1)).unwrap();
        queue.close().unwrap();
        let rx = queue.receiver();
        let mut done_widths = Vec::new();
        loop {
            match rx.recv() {
                Ok(job) => done_widths.push(done(job)),
                Err(error) if error.is_closed() => break,
                Err(error) if error.is_of_one_message() => continue,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(done_widths, [1]);
    });
}

#[test]
fn a_lost_lease_is_asked_for_by_name() {
    for scratch in Scratch::both("lost") {
        let leased = QueueOptions::new().lease(Duration::from_millis(10));
        let queue: Queue<Job> = leased.open(&scratch.address).unwrap();
        queue.sender().send(job(1)).unwrap();
        let (slow, other) = (queue.receiver(), queue.receiver());
        let held = slow.recv().unwrap();
        let again = other.recv().unwrap();
        let error = held.ack().unwrap_err();
        assert!(error.is_lease_lost());
        assert!(
            error.queue.contains("lost") && error.message == again.id(),
            "{error}"
        );
        again.ack().unwrap();
    }
}

#[test]
fn a_batch_is_sent_and_settled_in_one_call() {
    for_both("batch", |queue| {
        queue.sender().send_batch((0..10).map(job)).unwrap();
        let rx = queue.receiver();
        let mut batch = rx.recv_batch(10, Wait::No).unwrap();
        assert_eq!(batch.iter().map(|job| job.data().width).sum::<u32>(), 45);
        batch.ack().unwrap();
        assert!(batch.is_empty() && queue.is_empty().unwrap());
    });
}

#[test]
fn a_partial_batch_error_says_where_it_stopped() {
    for_both("cut", |queue| {
        queue.close().unwrap();
        let error = queue.sender().send_batch([job(1), job(2)]).unwrap_err();
        assert_eq!((error.sent, &error.failure), (0, &SendFailure::Closed));
        assert!(error.to_string().contains("cut"), "{error}");
    });
}

#[test]
fn a_key_makes_a_send_repeatable() {
    for scratch in Scratch::both("keys") {
        let keyed = QueueOptions::new().dedup_window(Duration::from_secs(60));
        let queue: Queue<Job> = keyed.open(&scratch.address).unwrap();
        let options = SendOptions::new().key("order 17");
        let sender = queue.sender();
        let first = sender.send_with(job(1), &options).unwrap();
        assert_eq!(sender.send_with(job(1), &options).unwrap(), first);
        assert_eq!(queue.len().unwrap(), 1);
    }
}

#[test]
fn an_unsupported_option_says_how_to_get_it() {
    for_both("plain", |queue| {
        let options = SendOptions::new().key("order 17");
        let error = queue.sender().send_with(job(1), &options).unwrap_err();
        assert!(matches!(error.failure(), Some(SendFailure::Unsupported(_))));
        assert!(error.to_string().contains("plain"), "{error}");
    });
}

#[test]
fn a_delay_and_a_time_to_live_are_options() {
    for_both("times", |queue| {
        let options = SendOptions::new()
            .delay(Duration::from_millis(1))
            .expires_in(Duration::from_secs(60));
        queue.sender().send_with(job(1), &options).unwrap();
        assert_eq!(done(queue.receiver().recv().unwrap()), 1);
    });
}

#[test]
fn headers_are_read_where_the_value_is() {
    for_both("headers", |queue| {
        let options = SendOptions::new()
            .header("traceparent", "00-1-2-01")
            .unwrap();
        queue.sender().send_with(job(1), &options).unwrap();
        let rx = queue.receiver();
        let delivery = rx.recv().unwrap();
        assert_eq!(delivery.headers().get_str("traceparent"), Some("00-1-2-01"));
        delivery.ack().unwrap();
    });
}

#[test]
fn the_token_fences_off_an_earlier_delivery() {
    for_both("tokens", |queue| {
        queue.sender().send(job(1)).unwrap();
        let rx = queue.receiver();
        let first = rx.recv().unwrap();
        let token = first.token();
        first.nack().unwrap();
        let second = rx.recv().unwrap();
        assert!(second.token() > token && second.attempt() == 2);
        second.ack().unwrap();
    });
}

#[test]
fn bytes_are_lent_and_read_in_place() {
    let queue = ByteQueue::open("local:api-loans").unwrap();
    let (tx, rx) = (queue.sender(), queue.receiver());
    let mut loan = tx.loan(3).unwrap();
    loan.copy_from_slice(b"abc");
    loan.publish().unwrap();
    assert!(
        tx.try_loan(3).is_ok(),
        "a loan that is dropped sends nothing"
    );
    let delivery = rx.try_recv().unwrap();
    assert_eq!(delivery.payload(), b"abc");
    delivery.ack().unwrap();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    ipc_queue::remove("local:api-loans").unwrap();
}

#[test]
fn the_byte_and_the_typed_handles_have_the_same_sends() {
    let queue = ByteQueue::open("local:api-symmetry").unwrap();
    let tx = queue.sender();
    let soon = Duration::from_secs(1);
    tx.send(b"1").unwrap();
    tx.try_send(b"2").unwrap();
    tx.send_timeout(b"3", soon).unwrap();
    tx.send_deadline(b"4", Instant::now() + soon).unwrap();
    tx.send_with(b"5", &SendOptions::new()).unwrap();
    tx.send_batch(&[b"6", b"7"]).unwrap();
    tx.send_signal(Signal::Heartbeat).unwrap();
    assert_eq!(queue.receiver().try_iter().count(), 8);
    ipc_queue::remove("local:api-symmetry").unwrap();
}

#[test]
fn a_thread_scope_shares_a_queue() {
    for_both("scope", |queue| {
        let sum = thread::scope(|scope| {
            let worker = scope.spawn(|| queue.receiver().iter().map(done).sum::<u32>());
            for width in 1..=100 {
                queue.sender().send(job(width)).unwrap();
            }
            queue.close().unwrap();
            worker.join().unwrap()
        });
        assert_eq!(sum, 5050);
    });
}

#[test]
fn a_removed_queue_is_distinguished_from_a_closed_one() {
    for scratch in Scratch::both("gone") {
        let queue = scratch.queue();
        assert!(ipc_queue::remove(&scratch.address).unwrap());
        let send = queue.sender().send(job(1)).unwrap_err();
        assert_eq!(send.failure, Unavailable::Removed.into());
        let recv = queue.receiver().recv().unwrap_err();
        assert_eq!(recv.failure, Unavailable::Removed.into());
        assert!(!recv.is_closed() && recv.queue.contains("gone"));
        scratch.queue();
    }
}
