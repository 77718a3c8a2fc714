//! Advice about files of queues that are damaged, or that another version wrote.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::{ByteQueue, QueueOptions, snapshot};
use ipc_shm::Namespace;

use crate::{Place, advises};

// Offsets in the header of a segment: see `ipc-shm/src/layout.rs`.
const ABI_VERSION: usize = 8;
const LAYOUT: usize = 24;
const TOTAL_BYTES: usize = 32;
const BODY_OFFSET: usize = 48;
const SETTINGS: usize = 128;
const CHECKSUM: usize = 248;

impl Place {
    /// The path of the queue's file.
    fn file(&self) -> PathBuf {
        let name = self.0.strip_prefix("shm:").unwrap();
        let any = Namespace::new("any").unwrap();
        any.path().with_file_name(format!("{name}.queue"))
    }

    /// Replaces a word in the header, and returns the header as it was before. With a checksum that
    /// fits, it is a header that another program wrote.
    fn change(&self, at: usize, word: u64, fits: bool) -> [u8; CHECKSUM + 8] {
        let file = File::options().read(true).write(true).open(self.file());
        let file = file.unwrap();
        let mut before = [0; CHECKSUM + 8];
        file.read_exact_at(&mut before, 0).unwrap();
        let mut changed = before;
        changed[at..at + 8].copy_from_slice(&word.to_le_bytes());
        if fits {
            let checksum = u64::from(crc32fast::hash(&changed[..CHECKSUM]));
            changed[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        }
        file.write_all_at(&changed, 0).unwrap();
        before
    }
}

fn open(place: &Place) -> Result<ByteQueue, ipc_queue::QueueError> {
    QueueOptions::new().mode(OpenMode::Open).open_any(&place.0)
}

#[test]
fn a_file_that_does_not_describe_a_queue_is_removed() {
    for (at, word, fits, advice) in [
        (SETTINGS, 77, false, "its header is damaged"),
        (SETTINGS, u64::MAX, true, "does not describe a queue"),
        (
            TOTAL_BYTES,
            77 << 12,
            true,
            "other code truncated or extended it",
        ),
        (
            BODY_OFFSET,
            u64::MAX,
            true,
            "header field body offset has the invalid value",
        ),
        (0, 77, true, "so it is not a segment"),
    ] {
        let place = Place::new("shm");
        drop(ByteQueue::open(&place.0).unwrap());
        place.change(at, word, fits);
        let refused = open(&place).unwrap_err();
        advises(&refused, advice);
        advises(&refused, "; remove it");
        assert!(ipc_queue::remove(&place.0).unwrap());
        let again = ByteQueue::open(&place.0).unwrap();
        again.sender().send(b"one").unwrap();
    }
}

#[test]
fn a_queue_of_another_version_is_saved_and_restored_or_drained_and_removed() {
    let files = tempfile::tempdir().unwrap();
    for (at, advice) in [
        (ABI_VERSION, "it has ABI version 77"),
        (LAYOUT, "its layout is "),
    ] {
        for is_saved in [true, false] {
            let place = Place::new("shm");
            let file = files.path().join(format!("{at}"));
            let old = ByteQueue::open(&place.0).unwrap();
            old.sender().send(b"one").unwrap();
            drop(old);
            let before = place.change(at, 77, true);
            let refused = open(&place).unwrap_err();
            advises(&refused, advice);
            advises(
                &refused,
                "save it with the old version (ipc save) and restore it with the new one (ipc \
                 restore), or drain it with the old program and remove it",
            );
            // This program takes the part of the old one.
            let theirs = File::options().write(true).open(place.file()).unwrap();
            theirs.write_all_at(&before, 0).unwrap();
            if is_saved {
                snapshot::save(&place.0, &file, Wait::No).unwrap();
                snapshot::restore(&file, &place.0, &QueueOptions::new(), Wait::No).unwrap();
            } else {
                let old = open(&place).unwrap();
                old.transport().close().unwrap();
                old.receiver().recv().unwrap().ack().unwrap();
                drop(old);
                assert!(ipc_queue::remove(&place.0).unwrap());
            }
            let new = ByteQueue::open(&place.0).unwrap();
            assert_eq!(new.receiver().try_recv().is_ok(), is_saved);
        }
    }
}

#[test]
fn a_snapshot_of_a_later_version_is_restored_by_the_version_that_saved_it() {
    const VERSION: u64 = 8;
    let (place, files) = (Place::new("shm"), tempfile::tempdir().unwrap());
    let path = files.path().join("saved");
    let queue = ByteQueue::open(&place.0).unwrap();
    queue.sender().send(b"one").unwrap();
    drop(queue);
    snapshot::save(&place.0, &path, Wait::No).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut version = [0; 4];
    file.read_exact_at(&mut version, VERSION).unwrap();
    file.write_all_at(&77_u32.to_le_bytes(), VERSION).unwrap();
    let restore = || snapshot::restore(&path, &place.0, &QueueOptions::new(), Wait::No);
    advises(
        restore().unwrap_err(),
        "restore it with the version of ipc-queue that saved it, or a later one",
    );
    // This program takes the part of the later version.
    file.write_all_at(&version, VERSION).unwrap();
    assert_eq!(restore().unwrap().messages, 1);
}
