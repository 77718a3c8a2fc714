//! Leases and payload memory, as an [`Inspector`](super::Inspector) sees them.
//!
//! Reads only. Everything may change meanwhile, but each lease was so at some moment.

use std::time::Duration;

use ipc_proto::{MessageId, Timestamp};
use ipc_shm::{Participant, Participants, Segment, clock};

use super::contents::Contents;
use super::due::Due;
use super::last_taken;
use super::word::CellKind;

/// A message that a receiver holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseView {
    /// The message.
    pub message: MessageId,
    /// The number of its deliveries, this one included.
    pub attempt: u8,
    /// When the message was sent.
    pub sent_at: Timestamp,
    /// The process that holds it.
    pub holder: Participant,
    /// Whether that process is gone without having left: the next user of the queue returns the
    /// message.
    pub is_gone: bool,
    /// The time until the lease ends; zero if it is over and no process noted that yet. `None`: it
    /// has no end, or no watcher has recorded one yet.
    pub ends_in: Option<Duration>,
    /// The time for which it has been held at least: its holder has taken nothing since. Counted
    /// from the holder's next regular look, so up to half a second is missing. Zero if the holder
    /// has just taken another message.
    pub held_at_least: Duration,
}

/// The memory for payloads that do not fit in their cells. With priorities, that of all four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolView {
    /// Bytes of chunks that hold payloads now, rounded up to whole units.
    pub used_bytes: u64,
    /// Bytes of all units.
    pub total_bytes: u64,
    /// The largest payload that finds memory now, if a place is free, too.
    pub largest_fit_bytes: u64,
}

impl Contents {
    pub(super) fn lease_views(&self, segment: &Segment, table: &Participants) -> Vec<LeaseView> {
        let now = Due::at(clock::monotonic());
        let mut leases = Vec::new();
        for ring in self.rings() {
            for index in 0..ring.cells() {
                let cell = ring.cell(index);
                let state = ring.seen(index);
                let owner = state.owner.filter(|_| state.kind == CellKind::Leased);
                let Some(seat) = owner.filter(|seat| seat.slot() < table.count()) else {
                    continue;
                };
                let envelope = cell.envelope();
                let ends = ring.lease_end(cell, state.to_word());
                let attempt = cell.attempts(state);
                // What was read is the message's only if the cell did not change hands meanwhile.
                if ring.seen(index) != state {
                    continue;
                }
                let holder = table.get(seat.slot());
                let taken = self.counters.taken_in(seat.slot());
                let since = last_taken::of_member(table, holder.member, taken);
                let since = since.unwrap_or(now).since_boot();
                let left = |end: Due| end.since_boot().saturating_sub(now.since_boot());
                leases.push(LeaseView {
                    message: envelope.id,
                    attempt,
                    sent_at: envelope.sent_at,
                    is_gone: table.is_departed(segment, holder.member),
                    holder,
                    ends_in: self.settings.lease.and(ends).map(left),
                    held_at_least: now.since_boot().saturating_sub(since),
                });
            }
        }
        leases
    }

    /// For each size of payload memory, smallest first: the largest payload in bytes, and how many
    /// messages of that size fit at once.
    pub(super) fn room(&self) -> Vec<(usize, u32)> {
        let limit = self.settings.max_message_bytes as usize;
        let Some(level) = self.levels.first() else {
            return Vec::new();
        };
        let geometry = level.payloads.geometry();
        let inline = geometry.inline_bytes;
        let mut room = vec![(inline.min(limit), geometry.cells)];
        // Sizes grow fourfold up to the largest.
        let mut bytes = limit;
        let mut larger = Vec::new();
        while bytes > inline {
            larger.push((bytes, geometry.holds(bytes)));
            bytes /= 4;
        }
        for (bytes, held) in larger.into_iter().rev() {
            if held == room[room.len() - 1].1 {
                room.pop();
            }
            room.push((bytes, held));
        }
        room
    }

    pub(super) fn pool(&self) -> PoolView {
        let mut pool = PoolView::default();
        for level in &self.levels {
            let geometry = level.payloads.geometry();
            let bytes = |units: u32| u64::from(units) * geometry.unit_bytes as u64;
            // Those of payloads without headers.
            let free = level.ring.free_units(geometry.plain_units);
            let free = free.iter().map(|units| units.end - units.start);
            pool.total_bytes += bytes(geometry.plain_units);
            pool.used_bytes += bytes(geometry.plain_units - free.clone().sum::<u32>());
            let largest = bytes(free.max().unwrap_or_default());
            let largest = largest.max(geometry.inline_bytes as u64);
            let limit = u64::from(self.settings.max_message_bytes);
            pool.largest_fit_bytes = pool.largest_fit_bytes.max(largest.min(limit));
        }
        pool
    }
}
