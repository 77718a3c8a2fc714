//! Damaged segments: an error or a bounded loss, never a panic, a hang or a stray access.
//!
//! An image of a small queue with messages in every state is changed in one place, put where a queue of
//! that name belongs, and used as any queue: opened, looked at, received from, settled, sent to, closed, drained.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc_proto::{Kind, Name, QueueSettings};
use ipc_queue::transport::{OpenMode, OpenRequest, Settle, Transport, Wait};
use ipc_queue::{QueueError, RecvError, SendFailure, ShmQueue};
use ipc_shm::Namespace;

const PAGE: usize = 4096;
const CAPACITY: u32 = 8;

struct Image {
    _folder: tempfile::TempDir,
    namespace: Namespace,
    bytes: Vec<u8>,
}

fn settings() -> QueueSettings {
    QueueSettings {
        capacity: CAPACITY,
        inline_bytes: 64,
        max_message_bytes: 1024,
        pool_bytes: 4096,
        attempt_limit: 2,
        lease: None,
        max_participants: 2,
    }
}

fn open(namespace: &Namespace, mode: OpenMode) -> Result<ShmQueue, QueueError> {
    let request = OpenRequest {
        mode,
        settings: settings(),
        ..OpenRequest::default()
    };
    ShmQueue::open(namespace, &name(), &request)
}

fn name() -> Name {
    Name::new("q").unwrap()
}

impl Image {
    /// A queue with ready, delayed and dead messages, inline and in chunks, and one redelivered.
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ipc-test-")
            .tempdir_in("/dev/shm")
            .unwrap();
        let namespace = Namespace::in_folder(folder.path().join("root"), "image").unwrap();
        let queue = open(&namespace, OpenMode::Create).unwrap();
        let (sender, receiver) = (queue.sender(), queue.receiver());
        let send = |len: usize| {
            let mut loan = sender.loan(len, Kind::Data, Wait::No).unwrap();
            loan.fill(0x5a);
            loan.publish().unwrap();
        };
        [10, 10, 1000, 1000, 10].into_iter().for_each(send);
        let settle = |how: Settle| {
            receiver.recv(Wait::No).map(|delivery| match how {
                Settle::Ack => delivery.ack().unwrap(),
                Settle::Bury => delivery.bury().unwrap(),
                Settle::Nack { delay } => delivery.nack_after(delay).unwrap(),
            })
        };
        settle(Settle::Ack).unwrap();
        settle(Settle::Bury).unwrap();
        settle(Settle::Nack {
            delay: Duration::from_secs(3600),
        })
        .unwrap();
        settle(Settle::Nack {
            delay: Duration::ZERO,
        })
        .unwrap();
        [64, 0].into_iter().for_each(send);
        drop((sender, receiver, queue));
        let bytes = fs::read(path(&namespace)).unwrap();
        assert!(ShmQueue::remove(&namespace, &name()).unwrap());
        Self {
            _folder: folder,
            namespace,
            bytes,
        }
    }

    /// What using the image with a change comes to.
    fn used_with(&self, change: impl FnOnce(&mut Vec<u8>)) -> Use {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        let path = path(&self.namespace);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for folder in path.ancestors().skip(1).take(2) {
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            fs::set_permissions(folder, private).unwrap();
        }
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        drop(file);
        let used = match open(&self.namespace, OpenMode::Open) {
            Ok(queue) => use_it(&queue),
            Err(error) => Use::Refused(error.to_string()),
        };
        // Damaged or not, it can be removed. One that says that it is being removed is so already.
        ShmQueue::remove(&self.namespace, &name()).unwrap();
        assert!(!path.exists());
        used
    }
}

fn path(namespace: &Namespace) -> PathBuf {
    namespace.path().join("q.queue")
}

#[derive(Debug, PartialEq, Eq)]
enum Use {
    Refused(String),
    /// Messages received, messages that then could be sent, dead letters.
    Worked {
        received: usize,
        sent: usize,
        dead: usize,
    },
}

/// Everything one does with a queue; every loop is bounded by more than the queue can hold.
fn use_it(queue: &ShmQueue) -> Use {
    const BOUND: usize = 4 * CAPACITY as usize;
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let _ = (queue.stats(), queue.holdings());
    let mut received = 0;
    for _ in 0..BOUND {
        match receiver.recv(Wait::No) {
            Ok(delivery) => {
                // Reads every byte, wherever it claims to be.
                let sum: u64 = delivery.payload().iter().map(|byte| u64::from(*byte)).sum();
                assert!(sum <= 255 * 1024, "more than the largest payload");
                received += 1;
                let _ = delivery.ack();
            }
            Err(RecvError::Damaged(reason)) => assert!(!reason.is_empty()),
            Err(RecvError::Empty | RecvError::Closed | RecvError::Removed) => break,
            Err(other) => panic!("{other}"),
        }
    }
    let letters = queue.dead_letters();
    for letter in &letters {
        let _ = queue.requeue(letter.id);
        let _ = queue.discard(letter.id);
    }
    let mut sent = 0;
    for len in [0, 64, 65, 1024].into_iter().cycle().take(BOUND) {
        match sender.loan(len, Kind::Data, Wait::No) {
            Ok(mut loan) => {
                loan.fill(1);
                let published = loan.publish();
                sent += usize::from(published.is_ok());
            }
            Err(SendFailure::Full { .. } | SendFailure::NoMemory { .. }) => {}
            Err(SendFailure::Closed | SendFailure::Removed | SendFailure::Damaged(_)) => break,
            Err(other) => panic!("{other}"),
        }
    }
    queue.close();
    // May time out if a damaged cell looks as if a message were still on its way.
    let _ = receiver.recv(Wait::at_most(Duration::ZERO));
    Use::Worked {
        received,
        sent,
        dead: letters.len(),
    }
}

#[test]
fn an_unchanged_image_is_a_working_queue() {
    let used = Image::new().used_with(|_| {});
    let Use::Worked {
        received,
        sent,
        dead,
    } = used
    else {
        panic!("{used:?}");
    };
    assert_eq!((received, dead), (4, 1));
    // One place is the delayed message's, one the requeued dead letter's.
    assert_eq!(sent, CAPACITY as usize - 2);
}

#[test]
fn any_flipped_bit_of_the_header_is_an_error_or_harmless() {
    let image = Image::new();
    let checksummed = 248;
    for bit in 0..8 * PAGE {
        let used = image.used_with(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        if bit / 8 < checksummed {
            assert!(matches!(used, Use::Refused(_)), "bit {bit}: {used:?}");
        }
    }
}

#[test]
fn any_flipped_bit_of_the_queue_loses_a_bounded_number_of_messages() {
    let image = Image::new();
    for bit in 8 * PAGE..8 * image.bytes.len() {
        let at = bit / 8;
        // Chunk payloads: a thousand bytes alike.
        if image.bytes[at] == 0x5a && bit % 97 != 0 {
            continue;
        }
        let used = image.used_with(|bytes| bytes[at] ^= 1 << (bit % 8));
        match used {
            Use::Refused(reason) => panic!("bit {bit}: {reason}"),
            Use::Worked { received, sent, .. } => {
                assert!(
                    received >= 2,
                    "bit {bit} at {at:#x} lost too much: {received} received"
                );
                assert!(
                    sent >= 3,
                    "bit {bit} at {at:#x} took too much room: {sent} sent"
                );
            }
        }
    }
}

#[test]
fn random_bytes_behind_a_good_header_do_no_harm() {
    let image = Image::new();
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        image.used_with(|bytes| {
            for byte in &mut bytes[256..] {
                if random.u32(..=3) >= (seed % 4) as u32 {
                    *byte = random.u8(..);
                }
            }
        });
    }
}

#[test]
fn a_file_of_any_other_length_is_refused() {
    let image = Image::new();
    let full = image.bytes.len();
    for len in [
        0,
        1,
        7,
        255,
        256,
        575,
        576,
        PAGE,
        full - PAGE,
        full - 1,
        full + 1,
        full + PAGE,
    ] {
        let used = image.used_with(|bytes| bytes.resize(len, 0));
        assert!(matches!(used, Use::Refused(_)), "{len} of {full}: {used:?}");
    }
}

#[test]
fn random_files_are_refused() {
    let image = Image::new();
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let used = image.used_with(|bytes| {
            bytes.truncate(random.usize(..20_000));
            random.fill(bytes);
        });
        assert!(matches!(used, Use::Refused(_)), "{seed}: {used:?}");
    }
}

#[test]
fn a_removed_image_leaves_nothing() {
    let image = Image::new();
    image.used_with(|_| {});
    assert!(!Path::new(&image.namespace.path()).exists());
}
