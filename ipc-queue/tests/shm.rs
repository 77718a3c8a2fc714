//! The `shm` transport keeps every promise of `ipc_queue::transport`, and leaves nothing behind.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::{fs, thread};

use ipc_queue::conformance::Subject;
use ipc_queue::transport::{OpenRequest, Transport};
use ipc_queue::{Name, QueueError, ShmQueue};
use ipc_shm::Namespace;
use tempfile::TempDir;

/// Queues in a folder of their own, in which nothing may be left in the end.
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

    fn remove(&self, name: &Name) -> Result<bool, QueueError> {
        Ok(ShmQueue::remove(&self.namespace, name)?)
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
