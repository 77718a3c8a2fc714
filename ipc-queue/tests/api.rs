//! The interface as a user writes it from memory, in the style of std and crossbeam. Each function is
//! one short use; that they compile is most of the test.

use std::collections::HashSet;
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::{
    Address, Backoff, ByteQueue, DeadReason, Delivery, Incoming, Kind, Nack, OwnedByteDelivery,
    OwnedDelivery, Queue, QueueOptions, Receiver, RecvFailure, SendError, SendFailure, SendOptions,
    Sender, Signal, TryRecvError, Unavailable,
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

/// A queue that is removed at the end; in shared memory, and among threads.
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
fn bytes_that_were_kept_stay_as_they_are() {
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
        assert_eq!(end.failure(), Some(&RecvFailure::Shutdown));
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
fn options_say_how_long_to_wait() {
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
