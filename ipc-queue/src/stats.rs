//! What a queue has done and what it holds.

use serde::{Deserialize, Serialize};

/// Counters of a queue since it was created, and its content now.
///
/// Counters are kept by each process for itself and summed up when asked: with others at work the sum is
/// of no single moment. They outlive the processes. A process that is killed between doing something and counting it
/// leaves that one thing uncounted; what the queue holds *now* is read from the messages themselves and always right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueStats {
    /// Messages accepted.
    pub sent: u64,
    /// Their payloads' bytes.
    pub bytes_sent: u64,
    /// Sends that found the queue full, or waited in vain.
    pub refused: u64,
    /// Deliveries made, redeliveries included.
    pub received: u64,
    /// Their payloads' bytes.
    pub bytes_received: u64,
    /// Deliveries that were not the message's first.
    pub redelivered: u64,
    /// Deliveries acked.
    pub acked: u64,
    /// Deliveries given back, by a nack or by dropping them.
    pub nacked: u64,
    /// Deliveries buried.
    pub buried: u64,
    /// Deliveries that ended with their lease.
    pub expiries: u64,
    /// Deliveries that ended with their receiver's death.
    pub crashes: u64,
    /// Settlements that came after the lease was lost.
    pub leases_lost: u64,
    /// Messages dropped because nobody wanted them in time.
    pub expired: u64,
    /// Messages dropped by purging.
    pub purged: u64,
    /// Messages dropped to make room for later ones.
    pub overflowed: u64,
    /// Sends that were not needed: a message of their key had been sent.
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
    /// Messages that are done but may still be read by somebody who lost their lease, now.
    pub quarantined: u64,
    /// Chunks that hold payloads too large for their places, now. 0 where there are none.
    pub chunks_in_use: u64,
    /// Keys that are remembered, now, of at least the setting `dedup_keys`. 0 where there are none, or where the transport keeps
    /// as many as come.
    pub keys: u64,
    /// Processes attached, now.
    pub participants: u64,
    /// Whether it delivers nothing, now.
    pub paused: bool,
    /// Whether it takes nothing more.
    pub closed: bool,
}

impl QueueStats {
    /// Returns the number of messages that are not settled now: ready, held, delayed, or just being
    /// written.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.ready + self.writing + self.leased + self.delayed
    }

    /// How many places are taken now.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.ready + self.writing + self.leased + self.delayed + self.dead + self.quarantined
    }
}
