//! The `local` transport keeps every promise of `ipc_queue::transport`.

use std::sync::Arc;

use ipc_queue::conformance::Subject;
use ipc_queue::transport::{OpenRequest, Transport};
use ipc_queue::{ControlError, LocalQueue, Name, QueueError};

struct Local;

impl Subject for Local {
    fn open(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(LocalQueue::open(name, request)?))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        Ok(LocalQueue::remove(name))
    }
}

ipc_queue::conformance_tests!(Local);
