//! Counters in the segment, which any process can read, even after the counting process died.
//!
//! Each participant slot has four counter shards of eight words. One is for its first sender, one
//! for its first receiver, and one each for all further senders and receivers. The shard of a first
//! handle has one writer and needs no locked instruction. The shared ones are added to atomically.
//! Shards are never reset: the next participant in the slot continues them, so the queue's totals
//! are the sums over all shards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ipc_shm::{CACHE_LINE_BYTES, Member, OutOfBounds, Segment, View, Words};

use super::geometry::LANES;

/// The counters of a sender.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sent {
    Messages = 0,
    Bytes = 1,
    Refused = 2,
    Duplicates = 3,
    Overflowed = 4,
    Purged = 5,
    /// Ends of deliveries that other processes find. They do not belong to a sender, but its shard
    /// has room for them.
    Expiries = 6,
    Crashes = 7,
}

/// The counters of a receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Received {
    Messages = 0,
    Bytes = 1,
    Again = 2,
    Acked = 3,
    Nacked = 4,
    Buried = 5,
    Lost = 6,
    Expired = 7,
}

/// The kind of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Send = 0,
    Receive = 1,
}

/// All shards of a segment, and which of this process's are taken.
#[derive(Debug)]
pub(crate) struct Counters {
    lanes: Words<8>,
    /// Set if this process's first sender and first receiver exist.
    taken: [AtomicBool; 2],
}

/// The shard in which one handle counts.
#[derive(Debug)]
pub(crate) struct Lane {
    words: View<[AtomicU64; 8]>,
    /// Set if this handle is its only writer.
    exclusive: bool,
}

impl Counters {
    pub(crate) fn new(segment: &Segment) -> Result<Self, OutOfBounds> {
        let at = segment.header().body_offset;
        let count = usize::from(segment.header().slots()) * LANES;
        Ok(Self {
            lanes: segment.mapping().words(at, CACHE_LINE_BYTES, count)?,
            taken: [AtomicBool::new(false), AtomicBool::new(false)],
        })
    }

    /// Takes a shard for a new handle.
    pub(crate) fn take(&self, member: Member, side: Side) -> Lane {
        if self.taken[side as usize].swap(true, Ordering::Relaxed) {
            return self.shared(member, side);
        }
        Lane {
            words: (self.lanes).view(usize::from(member.index) * LANES + side as usize),
            exclusive: true,
        }
    }

    /// Returns the shard of all but the first handles of a process.
    pub(crate) fn shared(&self, member: Member, side: Side) -> Lane {
        Lane {
            words: (self.lanes).view(usize::from(member.index) * LANES + side as usize + 2),
            exclusive: false,
        }
    }

    /// Returns a handle's shard.
    pub(crate) fn give_back(&self, lane: &Lane, side: Side) {
        if lane.exclusive {
            self.taken[side as usize].store(false, Ordering::Relaxed);
        }
    }

    /// Returns the number of messages that the processes in this slot have taken so far.
    pub(crate) fn taken_in(&self, slot: u16) -> u64 {
        let first = usize::from(slot) * LANES + Side::Receive as usize;
        let count =
            |lane: usize| self.lanes.get(lane)[Received::Messages as usize].load(Ordering::Relaxed);
        count(first).wrapping_add(count(first + 2))
    }

    pub(super) fn total(&self, side: Side, what: usize) -> u64 {
        (0..self.lanes.count())
            .filter(|lane| lane % 2 == side as usize)
            .map(|lane| self.lanes.get(lane)[what].load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }
}

impl Lane {
    #[inline(always)]
    pub(crate) fn add(&self, what: impl Into<usize>, count: u64) {
        let word = &self.words[what.into()];
        if self.exclusive {
            word.store(
                word.load(Ordering::Relaxed).wrapping_add(count),
                Ordering::Relaxed,
            );
        } else {
            word.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// The index of a counter in its shard.
impl From<Sent> for usize {
    fn from(what: Sent) -> Self {
        what as Self
    }
}

impl From<Received> for usize {
    fn from(what: Received) -> Self {
        what as Self
    }
}

const _: () = assert!(size_of::<AtomicU64>() * 8 == CACHE_LINE_BYTES);
