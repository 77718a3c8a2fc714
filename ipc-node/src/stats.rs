//! The counters of a node, in memory that any process can read and that outlives the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipc_shm::Attachment;
use serde::{Deserialize, Serialize};

/// A node's statistics, as of now or of its death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeStats {
    /// Messages sent.
    pub messages_sent: u64,
    /// Messages received, including redeliveries.
    pub messages_received: u64,
    /// Payload bytes sent and received.
    pub bytes_transferred: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Messages received that had been delivered before.
    pub redeliveries: u64,
    /// Heartbeats.
    pub beats: u64,
}

/// The counters of one node. Cheap to clone; any number of threads can use them.
///
/// Each count is one atomic addition, visible to every process at once.
#[derive(Clone, Debug)]
pub struct Counters {
    attachment: Arc<Attachment>,
}

#[derive(Clone, Copy)]
enum Counter {
    Sent,
    Received,
    Bytes,
    Errors,
    Redeliveries,
}

impl Counters {
    pub(crate) fn new(attachment: Arc<Attachment>) -> Self {
        Self { attachment }
    }

    /// Counts a message that was sent.
    pub fn sent(&self, payload_bytes: usize) {
        self.add(Counter::Sent, 1);
        self.add(Counter::Bytes, payload_bytes as u64);
    }

    /// Counts a message that was received, at attempt number `attempt`.
    pub fn received(&self, payload_bytes: usize, attempt: u8) {
        self.add(Counter::Received, 1);
        self.add(Counter::Bytes, payload_bytes as u64);
        if attempt > 1 {
            self.add(Counter::Redeliveries, 1);
        }
    }

    /// Counts an operation that failed.
    pub fn error(&self) {
        self.add(Counter::Errors, 1);
    }

    /// Records that no other process has the node's name.
    pub(crate) fn settle(&self) {
        self.attachment.counters()[SETTLED].store(1, Ordering::SeqCst);
    }

    fn add(&self, counter: Counter, count: u64) {
        self.attachment.counters()[counter as usize].fetch_add(count, Ordering::Relaxed);
    }
}

/// The word after the counters: set when no other process has the node's name.
const SETTLED: usize = 7;

/// Returns `true` if [`Counters::settle`] was called for a slot.
pub(crate) fn is_settled(counters: &[AtomicU64]) -> bool {
    counters[SETTLED].load(Ordering::SeqCst) != 0
}

/// Reads the statistics from a slot's counters.
pub(crate) fn read(counters: &[AtomicU64], beats: u64) -> NodeStats {
    let load = |counter: Counter| counters[counter as usize].load(Ordering::Relaxed);
    NodeStats {
        messages_sent: load(Counter::Sent),
        messages_received: load(Counter::Received),
        bytes_transferred: load(Counter::Bytes),
        errors: load(Counter::Errors),
        redeliveries: load(Counter::Redeliveries),
        beats,
    }
}
