//! The `shm` transport keeps every promise of `ipc_queue::transport`, and leaves nothing behind.
#![cfg(target_os = "linux")]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use ipc_queue::conformance::{Subject, content, hold_until_killed, number_in};
use ipc_queue::transport::{OpenRequest, Transport, Wait};
use ipc_queue::{
    ByteQueue, ControlError, DrainError, Name, Priority, QueueError, QueueSettings, RecvFailure,
    RecvTimeoutError, SendFailure, SendOptions, SendTimeoutError, ShmQueue, TryRecvError,
    TrySendError,
};
use ipc_shm::Namespace;
use tempfile::TempDir;

/// Queues in a separate folder, which must be empty at the end.
struct Shm {
    folder: TempDir,
    namespace: Namespace,
}

impl Shm {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ipc-queue-test-")
            .tempdir_in("/dev/shm")
            .unwrap();
        let namespace = Namespace::in_folder(folder.path().join("ipc"), "test").unwrap();
        Self { folder, namespace }
    }
}

impl Subject for Shm {
    fn open(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(ShmQueue::open(&self.namespace, name, request)?))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        ShmQueue::remove(&self.namespace, name)
    }

    fn holder(&self, name: &Name) -> Option<Command> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "holder", "--nocapture", "--quiet"]);
        command.env(HOLDER, format!("shm:test/{name}"));
        command.env("IPC_SHM_DIR", self.folder.path().join("ipc"));
        Some(command)
    }
}

/// The environment variable with the queue's address, for a holder.
const HOLDER: &str = "IPC_QUEUE_TEST_HOLDER";

/// Not a test: the tests start it as another process.
#[test]
fn holder() {
    if let Ok(address) = env::var(HOLDER) {
        hold_until_killed(&ByteQueue::open(&address).unwrap());
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        let left: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(
            left.is_empty() || thread::panicking(),
            "left behind: {left:?}"
        );
    }
}

ipc_queue::conformance_tests!(Shm::new());

const LARGEST: usize = 4096;

/// Creates a queue of eight messages, with memory for one large payload.
fn short_of_memory(shm: &Shm) -> ByteQueue {
    let request = OpenRequest {
        settings: QueueSettings {
            capacity: 8,
            inline_bytes: 64,
            max_message_bytes: 4096,
            pool_bytes: 4096,
            backoff: ipc_queue::Backoff::None,
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    let queue = shm.open(&Name::new("short").unwrap(), &request).unwrap();
    ByteQueue::over(queue)
}

#[test]
fn headers_fit_after_payloads_that_fill_the_pool() {
    let shm = Shm::new();
    let queue = short_of_memory(&shm);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let options = SendOptions::new().header("large", vec![7; 4000]).unwrap();
    let options = options.wait(Wait::No);
    let payload = content(2, LARGEST);
    let id = sender.send_with(&payload, &options).unwrap();
    let too_large = sender.send_with(&content(2, LARGEST + 1), &options);
    let most = LARGEST;
    let bytes = LARGEST + 1;
    let expected = SendFailure::TooLarge { bytes, most };
    assert_eq!(too_large.unwrap_err().failure(), Some(&expected));
    let held = receiver.try_recv().unwrap().into_owned();
    assert_eq!((held.metadata().id, held.payload()), (id, &payload[..]));
    assert_eq!(held.headers(), &options.headers);
    held.ack().unwrap();
    // What is added to the pool is for headers only.
    sender.try_send(&content(1, LARGEST)).unwrap();
    assert!(sender.try_send(&content(2, 65)).is_err());
    sender.send_with(&content(2, 65), &options).unwrap();
    for number in [1, 2] {
        let delivery = receiver.try_recv().unwrap();
        assert_eq!(number_in(delivery.payload()), number);
        delivery.ack().unwrap();
    }
    shm.remove(&Name::new("short").unwrap()).unwrap();
}

#[test]
fn more_ended_leases_than_a_cell_remembers_are_refused_at_creation() {
    let shm = Shm::new();
    let request = OpenRequest {
        settings: QueueSettings {
            expiry_limit: 3,
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    let refused = shm.open(&Name::new("q").unwrap(), &request).unwrap_err();
    assert!(matches!(refused, QueueError::Settings(_)), "{refused:?}");
    assert!(refused.to_string().contains("expiry_limit"), "{refused}");
}

#[test]
fn a_message_may_be_limited_to_one_lease() {
    let shm = Shm::new();
    let request = OpenRequest {
        settings: QueueSettings {
            lease: Some(Duration::from_millis(20)),
            expiry_limit: 1,
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    let name = Name::new("once").unwrap();
    let queue = ByteQueue::over(shm.open(&name, &request).unwrap());
    let receiver = queue.receiver();
    queue.sender().try_send(b"job").unwrap();
    let lost = receiver.recv().unwrap();
    let again = receiver.recv_timeout(Duration::from_millis(500));
    assert!(
        matches!(again, Err(RecvTimeoutError::TimedOut { .. })),
        "{again:?}"
    );
    let letters = queue.transport().dead_letters().unwrap();
    assert_eq!((letters.len(), letters[0].expiries), (1, 1));
    drop((lost, again));
    drop(receiver);
    drop(queue);
    shm.remove(&name).unwrap();
}

/// The number of a message's deliveries must stay below the number at which it wraps.
#[test]
fn a_snooze_counts_while_a_former_holder_may_still_read() {
    let shm = Shm::new();
    let request = OpenRequest {
        settings: QueueSettings {
            lease: Some(Duration::from_millis(500)),
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    let name = Name::new("read").unwrap();
    let queue = ByteQueue::over(shm.open(&name, &request).unwrap());
    let receiver = queue.receiver();
    queue.sender().try_send(b"job").unwrap();
    let lost = receiver.recv().unwrap();
    let second = receiver.recv().unwrap();
    second.extend(Duration::from_secs(3600)).unwrap();
    second.snooze(Duration::ZERO).unwrap();
    let third = receiver.recv().unwrap();
    assert_eq!((lost.attempt(), third.attempt()), (1, 3));
    // After the first receiver has released it, a snooze does not count.
    drop(lost);
    third.extend(Duration::from_secs(3600)).unwrap();
    third.snooze(Duration::ZERO).unwrap();
    assert_eq!(receiver.recv().unwrap().attempt(), 3);
    drop(receiver);
    drop(queue);
    shm.remove(&name).unwrap();
}

#[test]
fn memory_is_waited_for_like_a_place() {
    let shm = Shm::new();
    let queue = short_of_memory(&shm);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    sender.try_send(&content(1, LARGEST)).unwrap();
    for bytes in [65, 1000, LARGEST] {
        let refused = sender.try_send(&content(2, bytes));
        assert!(
            matches!(refused, Err(TrySendError::NoMemory { bytes: b, .. }) if b == bytes as u64),
            "{refused:?}"
        );
        let deadline = Instant::now() + Duration::from_millis(2);
        let refused = sender.send_timeout(&content(2, bytes), Duration::from_millis(2));
        assert!(Instant::now() >= deadline);
        assert!(
            matches!(refused, Err(SendTimeoutError::TimedOut { .. })),
            "{refused:?}"
        );
    }
    // A payload that fits its cell needs no chunk.
    sender.try_send(&content(3, 64)).unwrap();
    for number in [1, 3] {
        let delivery = receiver.try_recv().unwrap();
        assert_eq!(number_in(delivery.payload()), number);
        delivery.ack().unwrap();
    }
    // A small payload may use a chunk for large ones.
    sender.try_send(&content(4, 65)).unwrap();
    receiver.try_recv().unwrap().ack().unwrap();
    assert!(shm.remove(&Name::new("short").unwrap()).unwrap());
}

#[test]
fn blocked_senders_continue_when_memory_is_free() {
    const EACH: usize = 200;
    let shm = Shm::new();
    let queue = short_of_memory(&shm);
    thread::scope(|scope| {
        for number in 0..2 {
            let sender = queue.sender();
            scope.spawn(move || {
                for _ in 0..EACH {
                    sender.send(&content(number, LARGEST)).unwrap();
                }
            });
        }
        let receiver = queue.receiver();
        for _ in 0..2 * EACH {
            let delivery = receiver.recv().unwrap();
            assert!(number_in(delivery.payload()) < 2);
            delivery.ack().unwrap();
        }
    });
    assert!(shm.remove(&Name::new("short").unwrap()).unwrap());
}

#[test]
fn a_process_that_leaves_a_queue_frees_its_slot() {
    let shm = Shm::new();
    let name = Name::new("narrow").unwrap();
    let request = OpenRequest {
        settings: QueueSettings {
            max_participants: 1,
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    for _ in 0..500 {
        let queue = shm.open(&name, &request).unwrap();
        assert!(matches!(
            shm.open(&name, &request),
            Err(QueueError::Join(_))
        ));
        drop(queue);
    }
    assert!(shm.remove(&name).unwrap());
}

#[test]
fn former_holders_cannot_change_a_dead_letter() {
    let shm = Shm::new();
    let request = OpenRequest {
        settings: QueueSettings {
            lease: Some(Duration::from_millis(10)),
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    let name = Name::new("late").unwrap();
    let queue = ByteQueue::over(shm.open(&name, &request).unwrap());
    queue.sender().try_send(b"poison").unwrap();
    // Two expired leases, the limit.
    let receivers = [queue.receiver(), queue.receiver()];
    let [first, second] = receivers
        .each_ref()
        .map(|receiver| receiver.recv().unwrap());
    let letters = || queue.transport().dead_letters().unwrap();
    let started = Instant::now();
    while letters().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(60));
        thread::yield_now();
    }
    let letter = letters();
    assert_eq!((letter[0].nacks, letter[0].expiries), (0, 2));
    assert!(first.nack().is_err());
    drop(second);
    assert_eq!(letters(), letter);
    shm.remove(&name).unwrap();
}

#[test]
fn a_batch_at_the_end_of_the_queue_leaves_no_late_error() {
    let shm = Shm::new();
    let name = Name::new("end").unwrap();
    let open = || ByteQueue::over(shm.open(&name, &OpenRequest::default()).unwrap());
    let (ours, theirs) = (open(), open());
    ours.sender().send_batch(&[b"one", b"two"]).unwrap();
    ours.transport().close().unwrap();
    let (receiver, other) = (ours.receiver(), theirs.receiver());
    // The batch holds everything that is left.
    let mut batch = receiver.recv_batch(5, Wait::No).unwrap();
    let last = batch.pop().unwrap();
    last.nack_after(Duration::ZERO).unwrap();
    let held = other.try_recv().unwrap();
    assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
    held.ack().unwrap();
    assert_eq!(
        receiver.try_recv().unwrap_err().failure(),
        Some(&RecvFailure::Closed)
    );
    drop(batch);
    shm.remove(&name).unwrap();
}

/// Creates a queue with priorities that contains one message of each.
fn of_each_priority(shm: &Shm, payload: &[u8], options: &SendOptions) -> ByteQueue {
    let request = OpenRequest {
        settings: QueueSettings {
            priorities: true,
            ..QueueSettings::with_capacity(2)
        },
        ..OpenRequest::default()
    };
    let queue = shm.open(&Name::new("levels").unwrap(), &request).unwrap();
    let queue = ByteQueue::over(queue);
    let sender = queue.sender();
    for priority in Priority::ALL {
        let options = options.clone().priority(priority);
        sender
            .send_with(payload, &options.clone().wait(Wait::No))
            .unwrap();
    }
    queue
}

#[test]
fn delayed_messages_of_all_priorities_are_delivered() {
    let shm = Shm::new();
    let delayed = SendOptions::new().delay(Duration::from_millis(5));
    let queue = of_each_priority(&shm, b"later", &delayed);
    let receiver = queue.receiver();
    for _ in Priority::ALL {
        receiver.recv().unwrap().ack().unwrap();
    }
    shm.remove(&Name::new("levels").unwrap()).unwrap();
}

#[test]
fn a_purge_and_a_drain_include_all_priorities() {
    let shm = Shm::new();
    let queue = of_each_priority(&shm, b"waits", &SendOptions::new());
    assert_eq!(queue.transport().purge().unwrap(), 4);
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let urgent = SendOptions::new().priority(Priority::Urgent);
    sender
        .send_with(b"waits", &urgent.clone().wait(Wait::No))
        .unwrap();
    let left = queue.transport().drain(Wait::No);
    assert!(
        matches!(left, Err(DrainError::TimedOut { left: 1, .. })),
        "{left:?}"
    );
    receiver.recv().unwrap().ack().unwrap();
    queue.transport().drain(Wait::No).unwrap();
    shm.remove(&Name::new("levels").unwrap()).unwrap();
}

#[test]
fn a_requeued_letter_keeps_its_priority() {
    for priority in Priority::ALL {
        let shm = Shm::new();
        let queue = of_each_priority(&shm, b"other", &SendOptions::new());
        assert_eq!(queue.transport().purge().unwrap(), 4);
        let (sender, receiver) = (queue.sender(), queue.receiver());
        let of = |priority| SendOptions::new().priority(priority);
        let name = format!("{priority:?}");
        sender
            .send_with(name.as_bytes(), &of(priority).wait(Wait::No))
            .unwrap();
        receiver.recv().unwrap().bury().unwrap();
        for other in Priority::ALL.into_iter().filter(|other| *other != priority) {
            let name = format!("{other:?}");
            sender
                .send_with(name.as_bytes(), &of(other).wait(Wait::No))
                .unwrap();
        }
        let letter = queue.transport().dead_letters().unwrap().remove(0);
        assert!(queue.transport().requeue(letter.id).unwrap());
        let mut came = Vec::new();
        while let Ok(delivery) = receiver.try_recv() {
            came.push(String::from_utf8(delivery.payload().to_vec()).unwrap());
            delivery.ack().unwrap();
        }
        let mut urgent_first = Priority::ALL;
        urgent_first.reverse();
        assert_eq!(came, urgent_first.map(|priority| format!("{priority:?}")));
        shm.remove(&Name::new("levels").unwrap()).unwrap();
    }
}

#[test]
fn a_requeued_letter_has_a_new_fencing_token() {
    let shm = Shm::new();
    let queue = of_each_priority(&shm, b"poison", &SendOptions::new());
    let receiver = queue.receiver();
    let mut delivery = receiver.recv().unwrap();
    let (id, mut token) = (delivery.id(), delivery.token());
    for _ in 0..3 {
        delivery.nack_after(Duration::ZERO).unwrap();
        delivery = receiver.recv().unwrap();
        assert_eq!((delivery.id(), delivery.attempt()), (id, 2));
        assert!(delivery.token() > token);
        token = delivery.token();
        delivery.bury().unwrap();
        let letter = queue.transport().dead_letters().unwrap().remove(0);
        assert_eq!((letter.attempts, letter.nacks), (2, 1));
        assert!(queue.transport().requeue(letter.id).unwrap());
        delivery = receiver.recv().unwrap();
        assert_eq!((delivery.id(), delivery.attempt()), (id, 1));
        assert!(delivery.token() > token);
        token = delivery.token();
    }
    drop(delivery);
    shm.remove(&Name::new("levels").unwrap()).unwrap();
}

#[test]
fn a_requeued_letter_does_not_expire() {
    const SHORT: Duration = Duration::from_millis(20);
    let shm = Shm::new();
    let queue = of_each_priority(&shm, b"wanted", &SendOptions::new());
    assert_eq!(queue.transport().purge().unwrap(), 4);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    // On a slow machine a message may expire before it is received.
    let held = std::iter::repeat_with(|| {
        let expiring = SendOptions::new().expires_in(SHORT);
        sender
            .send_with(b"late", &expiring.clone().wait(Wait::No))
            .unwrap();
        receiver.try_recv().ok()
    });
    held.flatten().next().unwrap().bury().unwrap();
    let nothing = receiver.recv_timeout(2 * SHORT);
    assert!(
        matches!(nothing, Err(RecvTimeoutError::TimedOut { .. })),
        "{nothing:?}"
    );
    let letter = queue.transport().dead_letters().unwrap().remove(0);
    assert!(queue.transport().requeue(letter.id).unwrap());
    let again = receiver.recv().unwrap();
    assert_eq!((again.id(), again.attempt()), (letter.message, 1));
    again.ack().unwrap();
    shm.remove(&Name::new("levels").unwrap()).unwrap();
}

#[test]
fn a_requeued_letter_is_named_once() {
    let shm = Shm::new();
    let queue = of_each_priority(&shm, b"poison", &SendOptions::new());
    let receiver = queue.receiver();
    receiver.recv().unwrap().bury().unwrap();
    let letter = queue.transport().dead_letters().unwrap().remove(0);
    assert!(queue.transport().requeue(letter.id).unwrap());
    // The letter's id stays unique, even if its cell contains another letter.
    assert!(!queue.transport().requeue(letter.id).unwrap());
    let again = receiver.recv().unwrap();
    assert_eq!(again.id(), letter.message);
    again.bury().unwrap();
    let urgent = SendOptions::new().priority(Priority::Urgent);
    let sender = queue.sender();
    sender
        .send_with(b"other", &urgent.clone().wait(Wait::No))
        .unwrap();
    receiver.recv().unwrap().bury().unwrap();
    assert!(
        !queue.transport().discard(letter.id).unwrap(),
        "it is another letter"
    );
    assert_eq!(queue.transport().stats().unwrap().dead, 2);
    // The urgent messages are gone, so the next one is less urgent.
    let next = receiver.recv().unwrap();
    assert_eq!(next.attempt(), 1);
    drop(next);
    shm.remove(&Name::new("levels").unwrap()).unwrap();
}
