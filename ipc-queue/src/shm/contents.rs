//! The contents of a queue's segment, for attached processes and for inspectors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipc_proto::{MessageId, QueueSettings};
use ipc_shm::{CACHE_LINE_BYTES, Member, Participants, Presence, Segment, View};

use super::LETTERS;
use super::events;
use super::geometry::{self, KeyTable};
use super::keys::{CellName, Keys};
use super::level::{Level, SegmentKeys, SegmentMemory};
use super::recovery::Changed;
use super::ring::{Limits, Ring};
use super::tally::{Counters, Sent, Side};
use super::word::Seat;
use crate::error::QueueError;
use crate::transport::LeaseInfo;

/// The parts of a queue.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(super) settings: QueueSettings,
    /// One, or four in the order of [`level_of`](super::by_priority::level_of).
    pub(super) levels: Box<[Arc<Level>]>,
    /// `None`: messages have no keys.
    pub(super) keys: Option<Keys<SegmentKeys>>,
    pub(super) counters: Counters,
    /// The saves and restores that are in progress or done: see `frozen`.
    pub(super) marks: View<[AtomicU64; 8]>,
    flags: View<[AtomicU64; 1]>,
}

impl Contents {
    /// Finds the parts in a segment. Checks what its header says.
    pub(super) fn of(segment: &Segment) -> Result<Self, QueueError> {
        let header = segment.header();
        let bad = |reason: &str| QueueError::Geometry {
            name: segment.name().to_string(),
            reason: reason.to_owned(),
        };
        if header.tool_slots != geometry::TOOL_SLOTS {
            return Err(bad("it has a different number of slots for tools"));
        }
        let settings = geometry::from_params(&header.params, header.max_participants)
            .ok_or_else(|| bad("its settings are out of range"))?;
        let bounds = || bad("it is too small for its settings");
        let (levels, _) = geometry::levels(&settings)
            .filter(|(_, bytes)| *bytes <= header.total_bytes - header.body_offset)
            .ok_or_else(bounds)?;
        let levels: Result<Box<[_]>, _> = levels
            .into_iter()
            .map(|level| Level::new(segment, level, Limits::of(&settings)).map(Arc::new))
            .collect();
        let keys = KeyTable::of(&settings).map(|table| SegmentKeys::new(segment, table));
        Ok(Self {
            levels: levels.map_err(|_| bounds())?,
            keys: keys.transpose().map_err(|_| bounds())?.map(Keys::new),
            counters: Counters::new(segment).map_err(|_| bounds())?,
            marks: {
                let at = header.body_offset + geometry::marks_at(header.slots());
                let words = segment.mapping().words(at, CACHE_LINE_BYTES, 1);
                words.map_err(|_| bounds())?.view(0)
            },
            flags: segment.flag_view(),
            settings,
        })
    }

    #[inline]
    pub(super) fn flag(&self) -> &AtomicU64 {
        &self.flags[0]
    }

    /// Returns the rings of all priorities.
    pub(super) fn rings(&self) -> impl Iterator<Item = &Ring<SegmentMemory>> + Clone {
        self.levels.iter().map(|level| &level.ring)
    }

    /// Returns the current leases. `table` is the table of participants.
    pub(super) fn leases(&self, table: &Participants) -> Vec<LeaseInfo> {
        let lease = |(seat, message, attempt): (Seat, MessageId, u8)| {
            let holder = table.get(seat.slot());
            LeaseInfo {
                holder: holder.name,
                pid: holder.process.pid,
                message,
                attempt,
            }
        };
        let leased = self.rings().flat_map(Ring::leased);
        leased
            .filter(|(seat, ..)| seat.slot() < table.count())
            .map(lease)
            .collect()
    }

    /// Frees everything that a departed process held, then its slot.
    pub(super) fn recover(&self, segment: &Segment, table: &Participants, member: Member) {
        let seat = Seat::of_slot(member.index);
        let departed = || table.is_member(member);
        // Keys first: a cell shows whether its message was published, until it is freed.
        let unpublished = |cell: CellName| {
            let level = self.levels.get(cell.level as usize);
            // An invalid name is damage. A message that may be sent twice is better than one that
            // is lost.
            level.is_none_or(|level| level.ring.is_writing(seat, cell.index, cell.occupancy))
        };
        let mut keys = self.keys.iter();
        let settled = keys.all(|keys| keys.recover(seat, departed, unpublished));
        if !settled {
            return;
        }
        let slot = table.get(member.index);
        let (died, mut all) = (slot.presence == Presence::Live, Changed::default());
        let done = self.rings().all(|ring| {
            let recovered = ring.recover(seat, departed);
            let (Ok(changed) | Err(changed)) = recovered;
            all = all.and(changed);
            recovered.is_ok()
        });
        if all.crashes > 0 {
            // Counted in the dead process's shard, because a process that is just opening the queue
            // has none yet.
            let lane = self.counters.shared(member, Side::Send);
            lane.add(Sent::Crashes, all.crashes as u64);
        }
        if all.dead > 0 {
            // Senders that find the queue full report dead letters.
            self.flag().fetch_or(LETTERS, Ordering::SeqCst);
        }
        if died && all != Changed::default() {
            events::recovered(segment, slot.process.pid, all);
        }
        if done {
            // Before the slot is freed: if this process dies here, the next recovery finishes the
            // rest.
            segment.notify_all();
            table.release(segment, member);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipc_proto::{Kind, MessageId, Name, SenderId};
    use ipc_shm::Namespace;

    use super::*;
    use crate::shm::ShmQueue;
    use crate::shm::keys::Known;
    use crate::shm::memory::RingWord;
    use crate::transport::{OpenRequest, Transport};

    const KEY: u64 = 17;

    /// Opens a queue twice, with something of every kind for the recovery to handle.
    fn opened_twice(test: &str) -> (Namespace, Name, [ShmQueue; 2]) {
        let namespace = Namespace::new(&format!("contents-{}-{test}", std::process::id())).unwrap();
        let name = Name::new("q").unwrap();
        let request = OpenRequest {
            settings: QueueSettings {
                priorities: true,
                dedup_window: Some(Duration::from_secs(3600)),
                ..QueueSettings::with_capacity(4)
            },
            ..OpenRequest::default()
        };
        let queues = [0; 2].map(|_| ShmQueue::open(&namespace, &name, &request).unwrap());
        (namespace, name, queues)
    }

    /// Recovers as if the first process had died.
    fn recover([dead, survivor]: &[ShmQueue; 2]) {
        let attachment = &survivor.shared.attachment;
        let (segment, table) = (attachment.segment(), attachment.participants());
        let gone = dead.shared.attachment.member();
        survivor.shared.contents.recover(segment, table, gone);
    }

    #[test]
    fn what_the_dead_hold_in_any_level_is_free_again() {
        let (namespace, name, queues) = opened_twice("levels");
        let seat = queues[0].shared.seat;
        for level in &queues[0].shared.contents.levels {
            let mut cursor = level.ring.cursor(RingWord::Tail);
            let _claim = level.ring.claim(seat, Kind::Data, &mut cursor).unwrap();
        }
        assert_eq!(queues[1].stats().unwrap().writing, 4);
        recover(&queues);
        assert_eq!(queues[1].stats().unwrap().writing, 0);
        drop(queues);
        ShmQueue::remove(&namespace, &name).unwrap();
    }

    #[test]
    fn the_key_of_what_the_dead_did_not_publish_is_free_again() {
        let (namespace, name, queues) = opened_twice("keys");
        let (shared, keys) = (&queues[0].shared, queues[1].shared.contents.keys.as_ref());
        let number = 3;
        let ring = &shared.contents.levels[number].ring;
        let mut cursor = ring.cursor(RingWord::Tail);
        let claim = ring.claim(shared.seat, Kind::Data, &mut cursor).unwrap();
        let keys = keys.unwrap();
        let mut held = keys.take(shared.seat, KEY, 0).unwrap();
        let at = CellName {
            level: number as u32,
            index: claim.index(),
            occupancy: ring.cell(claim.index()).occupancy(),
        };
        keys.place(&mut held, at, MessageId::new(SenderId::new(1), 1), u64::MAX);
        assert_eq!(keys.look_up(KEY, 0), Known::InUse);
        recover(&queues);
        assert_eq!(keys.look_up(KEY, 0), Known::Nothing);
        assert_eq!(queues[1].stats().unwrap().in_use(), 0);
        drop(queues);
        ShmQueue::remove(&namespace, &name).unwrap();
    }
}
