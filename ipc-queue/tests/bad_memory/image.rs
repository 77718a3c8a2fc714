//! The image of a queue that may be damaged, and all uses of a queue.
//!
//! The tests here and the fuzz target `image` use queues through this file; they differ in the
//! source of the damage. Whatever the damage is, nothing here may panic, hang, or access memory
//! outside the mapping.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;
use std::{panic, process, thread};

use ipc_proto::{Kind, Name, QueueSettings};
use ipc_queue::shm::Inspector;
use ipc_queue::transport::{
    OpenMode, OpenRequest, SendPort, SendPortError, Settle, Transport, Wait,
};
use ipc_queue::{
    ByteQueue, OverflowPolicy, Priority, QueueError, RecvFailure, SendError, SendFailure,
    SendOptions, SendTimeoutError, SettleError, SettleFailure, ShmQueue, TryRecvError,
    TrySendError, Unavailable,
};
use ipc_shm::Namespace;

pub const CAPACITY: u32 = 8;
/// The offset of the header's checksum, which covers the bytes before it.
pub const CHECKSUM: usize = 248;
/// The offset of the words that change while the queue is used.
pub const FLAGS: usize = 256;

/// The largest payload in an image. A header that lies may allow less.
const LARGEST: usize = 1000;

/// A queue with ready, delayed and dead messages, inline and in chunks, and one redelivered.
pub struct Image {
    _folder: tempfile::TempDir,
    pub namespace: Namespace,
    pub bytes: Vec<u8>,
}

/// The result of using an image.
#[derive(Debug, PartialEq, Eq)]
pub enum Use {
    /// It was not opened, with this error.
    Refused(String),
    /// The number of messages received, of messages that could then be sent, and of dead letters.
    Worked {
        received: usize,
        sent: usize,
        dead: usize,
    },
}

/// The features of the queue of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    Messages,
    /// With priorities and keys, and messages that use them.
    Everything,
    /// A run of messages, and one of room.
    Runs,
}

fn settings(with: With) -> QueueSettings {
    let everything = with == With::Everything;
    QueueSettings {
        capacity: CAPACITY,
        inline_bytes: 64,
        max_message_bytes: 1024,
        pool_bytes: 4096,
        attempt_limit: 2,
        backoff: ipc_queue::Backoff::None,
        lease: None,
        max_participants: 2,
        priorities: everything,
        dedup_window: everything.then_some(Duration::from_secs(3600)),
        dedup_keys: QueueSettings::MIN_DEDUP_KEYS,
        ..QueueSettings::default()
    }
}

/// The largest payload that a queue with these settings accepts.
fn accepted(settings: &QueueSettings) -> usize {
    settings.max_message_bytes.max(settings.inline_bytes) as usize
}

fn open(namespace: &Namespace, mode: OpenMode, with: With) -> Result<ShmQueue, QueueError> {
    let request = OpenRequest {
        mode,
        settings: settings(with),
        ..OpenRequest::default()
    };
    ShmQueue::open(namespace, &name(), &request)
}

fn name() -> Name {
    Name::new("q").unwrap()
}

fn path(namespace: &Namespace) -> PathBuf {
    namespace.path().join("q.queue")
}

/// Updates the checksum of a changed header.
pub fn seal(bytes: &mut [u8]) {
    if let Some((header, rest)) = bytes.split_at_mut_checked(CHECKSUM)
        && let Some(checksum) = rest.get_mut(..8)
    {
        let crc = u64::from(crc32fast::hash(header));
        checksum.copy_from_slice(&crc.to_le_bytes());
    }
}

impl Image {
    pub fn new() -> Self {
        Self::of(With::Messages)
    }

    pub fn of(with: With) -> Self {
        watch_the_watcher();
        let folder = tempfile::Builder::new()
            .prefix("ipc-test-")
            .tempdir_in("/dev/shm")
            .unwrap();
        let namespace = Namespace::in_folder(folder.path().join("root"), "image").unwrap();
        let queue = open(&namespace, OpenMode::Create, with).unwrap();
        let (sender, receiver) = (queue.sender(), queue.receiver());
        if with == With::Runs {
            let send_run = |count| {
                let payloads = vec![&[0x5a; 10][..]; count];
                sender.send_batch(&payloads, Kind::Data, Wait::No).unwrap();
            };
            send_run(3);
            let bytes = ByteQueue::over(Arc::new(queue.clone()));
            let bytes = bytes.receiver();
            bytes.recv_batch(3, Wait::No).unwrap().ack().unwrap();
            send_run(4);
            drop((sender, receiver, bytes));
            return Self::ending((folder, namespace), queue);
        }
        let send = |len: usize| {
            let mut loan = sender.loan(len, Kind::Data, Wait::No).unwrap();
            loan.fill(0x5a);
            loan.publish().unwrap();
        };
        [10, 10, 1000, 1000, 10].into_iter().for_each(send);
        let settle = |how: Settle| {
            let received = receiver.recv(Wait::No);
            received.map(|delivery| delivery.settle(how).unwrap())
        };
        settle(Settle::Ack).unwrap();
        settle(Settle::Bury { reason: "" }).unwrap();
        settle(Settle::Nack {
            delay: Some(Duration::from_secs(3600)),
            reason: "",
        })
        .unwrap();
        settle(Settle::Nack {
            delay: Some(Duration::ZERO),
            reason: "",
        })
        .unwrap();
        [64, 0].into_iter().for_each(send);
        if with == With::Everything {
            send_with_everything(&*sender).unwrap();
        }
        drop((sender, receiver));
        Self::ending((folder, namespace), queue)
    }

    fn ending(place: (tempfile::TempDir, Namespace), queue: ShmQueue) -> Self {
        let (folder, namespace) = place;
        drop(queue);
        let bytes = fs::read(path(&namespace)).unwrap();
        assert!(ShmQueue::remove(&namespace, &name()).unwrap());
        Self {
            _folder: folder,
            namespace,
            bytes,
        }
    }

    /// Uses a file with these bytes, and returns the result. `meanwhile` changes the file further
    /// before every step, and chooses how a received message is settled.
    pub fn used(&self, bytes: &[u8], mut meanwhile: impl FnMut(&File) -> Settle<'static>) -> Use {
        let path = path(&self.namespace);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for folder in path.ancestors().skip(1).take(2) {
            fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
        }
        let mut file = fs::OpenOptions::new();
        let file = file.write(true).create_new(true).mode(0o600);
        let file = file.open(&path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let used = match open(&self.namespace, OpenMode::Open, With::Messages) {
            Ok(queue) => {
                self.look_at_it(&mut || meanwhile(&file));
                use_it(&queue, || meanwhile(&file))
            }
            Err(error) => Use::Refused(error.to_string()),
        };
        // Damaged or not, the queue can be removed. If it is marked as being removed, it is removed
        // already.
        ShmQueue::remove(&self.namespace, &name()).unwrap();
        assert!(!path.exists());
        used
    }
}

/// Sends a message of each priority, with a key and an expiry time.
fn send_with_everything(sender: &dyn SendPort) -> Result<(), SendPortError> {
    for (number, priority) in (0_u8..).zip(Priority::ALL) {
        let options = SendOptions::new().priority(priority).key([number]);
        let options = options.expires_in(Duration::from_secs(3600));
        let len = if number % 2 == 0 { 10 } else { 1000 };
        let loan = sender.loan_with(len, &options, Wait::No)?;
        loan.publish().map_err(|error| error.failure)?;
    }
    Ok(())
}

impl Image {
    /// Inspects everything that can be seen without attaching.
    fn look_at_it(&self, meanwhile: &mut impl FnMut() -> Settle<'static>) {
        meanwhile();
        let Ok(inspector) = Inspector::open(&self.namespace, &name()) else {
            return; // It changed since it was opened.
        };
        meanwhile();
        let settings = inspector.settings();
        let most = accepted(settings).max(LARGEST);
        let waiting = inspector.waiting(usize::MAX);
        let letters = inspector.dead_letters();
        let seen = waiting.iter().map(|one| one.payload.len());
        let seen = seen.chain(letters.iter().map(|one| one.payload.len()));
        assert!(seen.max().is_none_or(|len| len <= most));
        meanwhile();
        let _ = (inspector.stats(), inspector.leases(), inspector.oldest());
        let _ = (inspector.participants(), inspector.payload_type());
        let _ = (inspector.is_removed(), inspector.id(), inspector.bytes());
    }
}

fn is_end(cause: &Unavailable) -> bool {
    use Unavailable::{Deleted, Removed, Truncated};
    matches!(cause, Removed | Deleted | Truncated)
}

/// Uses everything that a queue offers. Every loop is bounded by more than the queue can hold.
fn use_it(queue: &ShmQueue, mut meanwhile: impl FnMut() -> Settle<'static>) -> Use {
    const BOUND: usize = 4 * CAPACITY as usize;
    let bytes = ByteQueue::over(Arc::new(queue.clone()));
    let (sender, receiver) = (bytes.sender(), bytes.receiver());
    let settings = queue.settings().clone();
    let most = accepted(&settings);
    let _ = (queue.stats(), queue.leases());
    let mut received = 0;
    for _ in 0..BOUND {
        meanwhile();
        match receiver.try_recv() {
            Ok(delivery) => {
                meanwhile();
                // Reads every byte of the payload, wherever it claims to be.
                let sum: u64 = delivery.payload().iter().map(|byte| u64::from(*byte)).sum();
                let longest = most.max(LARGEST) as u64;
                assert!(sum <= 255 * longest, "more than the largest payload");
                received += 1;
                let extended = delivery.extend(Duration::from_secs(1));
                let settled = match meanwhile() {
                    Settle::Ack => delivery.ack(),
                    Settle::Bury { .. } => delivery.bury(),
                    Settle::Snooze { delay } => delivery.snooze(delay),
                    Settle::Nack { delay, .. } => delivery.nack_after(delay.unwrap_or_default()),
                };
                let settled = extended.and(settled);
                let is_lost = |error: SettleError| {
                    [SettleFailure::LeaseLost, Unavailable::Truncated.into()]
                        .contains(&error.failure)
                };
                assert!(settled.is_ok() || settled.is_err_and(is_lost));
            }
            Err(error) if error.is_empty() => break,
            Err(TryRecvError::Failed(error)) => match error.failure {
                RecvFailure::Damaged { reason } => assert!(!reason.is_empty()),
                RecvFailure::Closed => break,
                RecvFailure::Unavailable(cause) if is_end(&cause) => break,
                other => panic!("{other}"),
            },
            Err(other) => panic!("{other}"),
        }
    }
    meanwhile();
    let letters = queue.dead_letters().unwrap_or_default();
    for letter in &letters {
        meanwhile();
        let _ = queue.requeue(letter.id);
        let _ = queue.discard(letter.id);
    }
    let mut sent = 0;
    for len in [0, 64, 65, most].into_iter().cycle().take(BOUND) {
        meanwhile();
        match sender.try_loan(len) {
            Ok(mut loan) => {
                loan.fill(1);
                meanwhile();
                sent += usize::from(loan.publish().is_ok());
            }
            Err(TrySendError::Failed(error)) => match error.failure {
                SendFailure::TooLarge { .. } => assert!(len > most),
                SendFailure::Closed => break,
                SendFailure::Unavailable(cause) if is_end(&cause) => break,
                SendFailure::Damaged { reason } => assert!(!reason.is_empty()),
                other => panic!("{other}"),
            },
            Err(error) if error.is_full() => {}
            Err(other) => panic!("{other}"),
        }
    }
    for priority in Priority::ALL {
        meanwhile();
        let options = SendOptions::new().priority(priority).key([9]);
        let dropping = options.clone().overflow(OverflowPolicy::DropOldest);
        for options in [options, dropping] {
            match sender.loan_with(1, &options.wait(Wait::No)) {
                Ok(loan) => drop(loan.publish()),
                Err(SendTimeoutError::Failed(SendError {
                    failure: SendFailure::Damaged { reason },
                    ..
                })) => assert!(!reason.is_empty()),
                Err(_) => {} // No such feature, or the key is known, in use, or has no slot.
            }
        }
    }
    let _ = queue.purge();
    let _ = queue.close();
    meanwhile();
    let _ = (queue.stats(), queue.leases());
    // May time out if a damaged cell looks as if a message were still being written.
    let _ = receiver.recv_timeout(Duration::ZERO);
    Use::Worked {
        received,
        sent,
        dead: letters.len(),
    }
}

/// A panic in the watcher thread fails no test, so it ends the process.
fn watch_the_watcher() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            usual(what);
            if thread::current().name() == Some("ipc-watch") {
                process::abort();
            }
        }));
    });
}
