//! Fixtures shared by this crate's unit tests.

use std::sync::atomic::AtomicU32;

use ipc_proto::Name;

use crate::layout::{Expected, Header, Kind, PARAMS, PayloadType};
use crate::namespace::Namespace;
use crate::segment::Segment;

pub(crate) const TEST_KIND: Kind = Kind::new("test");

/// A namespace in its own folder in shared memory, deleted when dropped.
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    pub(crate) namespace: Namespace,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ipc-test-")
            .tempdir_in("/dev/shm")
            .unwrap();
        Self::in_folder(folder)
    }

    pub(crate) fn in_folder(folder: tempfile::TempDir) -> Self {
        let namespace = Namespace::in_folder(folder.path().join("root"), "test").unwrap();
        Self { folder, namespace }
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn header(participants: u16) -> Header {
        let payload = PayloadType::bytes();
        Header::new(TEST_KIND, 1, payload, participants, [0; PARAMS], 4096).unwrap()
    }

    pub(crate) fn create(&self, name: &str, participants: u16) -> Segment {
        let name = Name::new(name).unwrap();
        Segment::create(&self.namespace, &name, &Self::header(participants)).unwrap()
    }

    pub(crate) fn open(&self, name: &str, kind: Kind) -> Segment {
        let expected = Expected {
            kind,
            layout_hash: 1,
            payload: None,
        };
        Segment::open(&self.namespace, &Name::new(name).unwrap(), &expected).unwrap()
    }
}

/// Returns the number of threads of this process that sleep in a futex call on one of `words`.
pub(crate) fn threads_asleep_on(words: &[&AtomicU32]) -> usize {
    let call = |word: &&AtomicU32| format!("{} {:p} ", libc::SYS_futex, word.as_ptr());
    let asleep: Vec<_> = words.iter().map(call).collect();
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("syscall")).ok())
        .filter(|call| asleep.iter().any(|asleep| call.starts_with(asleep)))
        .count()
}
