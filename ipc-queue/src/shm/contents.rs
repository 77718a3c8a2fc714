//! What lies in a queue's segment, for whoever is attached and for whoever only looks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ipc_proto::{MessageId, QueueSettings};
use ipc_shm::{Member, Participants, Presence, Segment, View};

use super::events;
use super::geometry::{self, KeyTable};
use super::keys::{CellName, Keys};
use super::level::{Level, SegmentKeys, SegmentMemory};
use super::recovery::Changed;
use super::ring::Ring;
use super::tally::{Counters, Sent, Side};
use super::word::Seat;
use crate::error::QueueError;
use crate::transport::Holding;

/// A queue's parts.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(super) settings: QueueSettings,
    /// One, or as [`level_of`](super::by_priority::level_of) numbers them.
    pub(super) levels: Box<[Arc<Level>]>,
    /// `None`: messages have no keys.
    pub(super) keys: Option<Keys<SegmentKeys>>,
    pub(super) counters: Counters,
    flags: View<[AtomicU64; 1]>,
}

impl Contents {
    /// Finds them in a segment, by what its header says, which is checked.
    pub(super) fn of(segment: &Segment) -> Result<Self, QueueError> {
        let header = segment.header();
        let bad = |reason: &str| QueueError::Geometry {
            name: segment.name().to_string(),
            reason: reason.to_owned(),
        };
        let settings = geometry::from_params(&header.params, header.max_participants)
            .ok_or_else(|| bad("its settings are out of range"))?;
        let bounds = || bad("it is too small for its settings");
        let (levels, _) = geometry::levels(&settings)
            .filter(|(_, bytes)| *bytes <= header.total_bytes - header.body_offset)
            .ok_or_else(bounds)?;
        let levels: Result<Box<[_]>, _> = levels
            .into_iter()
            .map(|level| Level::new(segment, level, settings.attempt_limit).map(Arc::new))
            .collect();
        let keys = KeyTable::of(&settings).map(|table| SegmentKeys::new(segment, table));
        Ok(Self {
            levels: levels.map_err(|_| bounds())?,
            keys: keys.transpose().map_err(|_| bounds())?.map(Keys::new),
            counters: Counters::new(segment).map_err(|_| bounds())?,
            flags: segment.flag_view(),
            settings,
        })
    }

    #[inline]
    pub(super) fn flag(&self) -> &AtomicU64 {
        &self.flags[0]
    }

    /// The rings of all levels.
    pub(super) fn rings(&self) -> impl Iterator<Item = &Ring<SegmentMemory>> {
        self.levels.iter().map(|level| &level.ring)
    }

    /// Who holds what. `table` is the participants'.
    pub(super) fn holdings(&self, table: &Participants) -> Vec<Holding> {
        let holding = |(seat, message, attempt): (Seat, MessageId, u8)| {
            let holder = table.get(seat.slot());
            Holding {
                holder: holder.name,
                pid: holder.process.pid,
                message,
                attempt,
            }
        };
        let leased = self.rings().flat_map(Ring::leased);
        leased
            .filter(|(seat, ..)| seat.slot() < table.count())
            .map(holding)
            .collect()
    }

    /// Frees whatever a departed process held, then its slot.
    pub(super) fn recover(&self, segment: &Segment, table: &Participants, member: Member) {
        let seat = Seat::of_slot(member.index);
        let departed = || table.is_member(member);
        // Keys first: whether a message was published shows in its cell, until that is freed.
        let unpublished = |cell: CellName| {
            let level = self.levels.get(cell.level as usize);
            // A name that is none is damage: better sent twice than not at all.
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
            // On the account of the dead: whoever opens the queue has none yet.
            let lane = self.counters.shared(member, Side::Send);
            lane.add(Sent::Crashes, all.crashes as u64);
        }
        if died && all != Changed::default() {
            events::recovered(segment, slot.process.pid, all);
        }
        if done {
            // Before the slot is free: a recoverer that dies here leaves the rest to the next.
            segment.notify_all();
            table.release(segment, member);
        }
    }
}
