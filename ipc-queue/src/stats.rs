//! The statistics of a queue: counters and present contents.

use serde::{Deserialize, Serialize};

/// Counters of a queue since it was created, and its present contents.
///
/// Each process keeps its own counters, and a query sums them up: if others are at work, the sum is
/// not from one moment. Counters outlive their processes. If a process is killed between an action
/// and its count, that action is not counted. The values marked *now* are read from the messages
/// themselves and are always right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueStats {
    /// Messages accepted.
    pub sent: u64,
    /// Bytes of their payloads.
    pub bytes_sent: u64,
    /// Sends that found the queue full, or whose wait ended without room.
    pub refused: u64,
    /// Deliveries made, including redeliveries.
    pub received: u64,
    /// Bytes of their payloads.
    pub bytes_received: u64,
    /// Deliveries other than the first of their message.
    pub redelivered: u64,
    /// Deliveries acked.
    pub acked: u64,
    /// Deliveries nacked, or dropped unsettled.
    pub nacked: u64,
    /// Deliveries buried.
    pub buried: u64,
    /// Deliveries that ended because their lease expired.
    pub expiries: u64,
    /// Deliveries that ended with their receiver's death.
    pub crashes: u64,
    /// Settlements that came after the lease was lost.
    pub leases_lost: u64,
    /// Messages dropped because they were not received in time.
    pub expired: u64,
    /// Messages dropped by a purge.
    pub purged: u64,
    /// Messages dropped to make room for later ones.
    pub overflowed: u64,
    /// Sends that sent nothing, because a message with the same key had been sent.
    pub duplicates: u64,
    /// Messages waiting to be received, now.
    pub ready: u64,
    /// Messages being written, now.
    pub writing: u64,
    /// Messages that a receiver holds, now.
    pub leased: u64,
    /// Messages waiting for their delay to end, now.
    pub delayed: u64,
    /// Dead letters, now.
    pub dead: u64,
    /// Messages that are settled, but may still be read by a receiver that lost its lease, now.
    pub quarantined: u64,
    /// Chunks that hold payloads too large for their cells, now. 0 if the transport has no chunks.
    pub chunks_in_use: u64,
    /// Keys that are remembered, now. There is room for at least the setting `dedup_keys`. 0 if the
    /// queue has no keys, or if its transport has no limit.
    pub keys: u64,
    /// Processes attached, now.
    pub participants: u64,
    /// Set if the queue is paused, now.
    pub paused: bool,
    /// Set if the queue is closed, now.
    pub closed: bool,
    /// Set if the counters, and `participants`, are about this process only: what it did since it
    /// opened the queue. The transport then has no common counters. What is marked *now* is about
    /// the queue in any case. Over a socket, the process is the server.
    pub only_this_process: bool,
}

impl QueueStats {
    /// Returns the number of messages that are not settled now: ready, held, delayed, or just being
    /// written.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.ready + self.writing + self.leased + self.delayed
    }

    /// Returns the number of places that are taken now.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.ready + self.writing + self.leased + self.delayed + self.dead + self.quarantined
    }
}
