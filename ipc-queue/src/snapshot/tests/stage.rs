//! Queues to save and restore, and the comparison of their contents.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipc_proto::{Backoff, Kind, Priority};

use super::HOUR;
use crate::bytes::ByteQueue;
use crate::options::QueueOptions;
use crate::send_options::SendOptions;
use crate::settle::Nack;
use crate::shm::Frozen;
use crate::snapshot::record::{StoredKey, StoredMessage, StoredState};
use crate::snapshot::{Moved, Place, SnapshotError, restore, save};
use crate::wait::Wait;

/// A separate folder and separate addresses for one test.
pub(super) struct Stage {
    pub(super) folder: tempfile::TempDir,
    namespace: String,
}

impl Stage {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            folder: tempfile::tempdir().unwrap(),
            namespace: format!("snapshot-{}-{number}", std::process::id()),
        }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("saved")
    }

    pub(super) fn address(&self, name: &str) -> String {
        format!("shm:{}/{name}", self.namespace)
    }

    pub(super) fn open(&self, name: &str, options: QueueOptions) -> ByteQueue {
        options.open_bytes(self.address(name)).unwrap()
    }

    pub(super) fn save(&self, name: &str) -> Result<Moved, SnapshotError> {
        save(&self.address(name), &self.file(), Wait::No)
    }

    pub(super) fn restore(
        &self,
        name: &str,
        options: &QueueOptions,
    ) -> Result<Moved, SnapshotError> {
        restore(&self.file(), &self.address(name), options, Wait::No)
    }

    /// Freezes a queue, as if by a process that died.
    pub(super) fn frozen(&self, name: &str) -> Frozen {
        let place = Place::parse(&self.address(name)).unwrap();
        let queue = place.open_existing().unwrap();
        place.freeze(queue, Wait::No).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for name in ["q", "other"] {
            let _ = crate::remove(self.address(name));
        }
    }
}

pub(super) fn full() -> QueueOptions {
    QueueOptions::new()
        .capacity(16)
        .priorities(true)
        .dedup_window(HOUR)
        .dedup_keys(64)
        .backoff(Backoff::None)
        .attempt_limit(3)
}

/// Fills a queue with one message of each kind in each state.
pub(super) fn fill(queue: &ByteQueue) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let send = |payload: &[u8], options: SendOptions| {
        sender
            .send_with(payload, &options.clone().wait(Wait::No))
            .unwrap();
    };
    let new = SendOptions::new;
    send(b"dead", new().kind(Kind::Control).header("a", "b").unwrap());
    let nack = Nack::new().after(Duration::ZERO);
    for _ in 0..2 {
        receiver.recv().unwrap().nack_with(nack).unwrap();
    }
    let last = receiver.recv().unwrap();
    last.bury_with("the database is away").unwrap();
    send(b"tried", new().key("tried"));
    let tried = receiver.recv().unwrap();
    tried.nack_with(nack.reason("busy")).unwrap();
    send(b"snoozed", new().priority(Priority::High));
    receiver.recv().unwrap().snooze(HOUR).unwrap();
    send(b"late", new().delay(HOUR));
    send(b"brief", new().expires_in(HOUR).priority(Priority::Low));
    send(
        &[7; 5000],
        new().priority(Priority::Urgent).kind(Kind::Shutdown),
    );
    let headed = new().header("trace", [9; 300]).unwrap();
    send(&[8; 9000], headed.priority(Priority::Urgent));
    send(b"gone", new().key("acked").priority(Priority::Urgent));
    loop {
        let delivery = receiver.recv().unwrap();
        if delivery.payload() == b"gone" {
            delivery.ack().unwrap();
            break;
        }
        // Returned in order, without counting an attempt.
        delivery.snooze(Duration::ZERO).unwrap();
    }
}

/// Returns the contents of a frozen queue, with times rounded.
pub(super) fn contents(frozen: &Frozen) -> (Vec<StoredMessage>, Vec<StoredKey>) {
    let seconds = |left_ms: u64| left_ms.div_ceil(60_000);
    let messages = frozen.messages().map(|message| {
        let mut message = message.unwrap();
        if let StoredState::Delayed { left_ms } = &mut message.state {
            *left_ms = seconds(*left_ms);
        }
        message.expires_in_ms = message.expires_in_ms.map(seconds);
        message
    });
    let mut messages: Vec<_> = messages.collect();
    messages.sort_by_key(|message| message.id);
    let keys = frozen.keys().into_iter().map(|key| StoredKey {
        left_ms: seconds(key.left_ms),
        ..key
    });
    let mut keys: Vec<_> = keys.collect();
    keys.sort_by_key(|key| key.key);
    (messages, keys)
}
