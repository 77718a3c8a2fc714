//! Places for messages with keys.

use ipc_proto::MessageId;
use ipc_shm::clock;

use super::{Lack, LevelSender};
use crate::capability::{Feature, Unsupported};
use crate::error::{SendFailure, SendPortError};
use crate::send_options::{Key, OverflowPolicy, SendOptions};
use crate::shm::keys::{CellName, HeldKey, Keys, Known, Refused, nanos};
use crate::shm::level::SegmentKeys;
use crate::shm::payload::Writable;
use crate::shm::ring::Claim;
use crate::shm::tally::Sent;
use crate::wait::Wait;

impl LevelSender {
    /// Returns a place, and the key for the message that is written there.
    #[cold]
    pub(super) fn lend_keyed(
        &self,
        len: usize,
        options: &SendOptions,
        key: Key,
        wait: Wait,
    ) -> Result<(Writable<'_>, HeldKey), SendPortError> {
        let Some(keys) = &self.shared.contents.keys else {
            return Err(SendFailure::from(Unsupported::by_settings(Feature::Deduplication)).into());
        };
        let try_lend = || self.try_lend_keyed(keys, len, options, key);
        try_lend().or_else(|lack| self.wait_until_lent(len, wait, lack, try_lend))
    }

    /// Checks the key before it takes anything, so that waiting senders do not wake each other.
    pub(super) fn try_lend_keyed(
        &self,
        keys: &Keys<SegmentKeys>,
        len: usize,
        options: &SendOptions,
        key: Key,
    ) -> Result<(Writable<'_>, HeldKey), Lack> {
        match keys.look_up(key.number(), nanos(clock::monotonic())) {
            Known::Nothing => {}
            Known::Sent(of) => return Err(self.duplicate(of)),
            Known::InUse => return Err(Lack::Key),
        }
        let place = match options.overflow {
            OverflowPolicy::Wait => self.try_lend_for(len, options)?,
            OverflowPolicy::DropOldest => self.try_lend_dropping(len, options)?,
        };
        let now = nanos(clock::monotonic());
        let refused = match keys.take(self.shared.seat, key.number(), now) {
            Ok(held) => return Ok((place, held)),
            Err(refused) => refused,
        };
        // This also wakes the senders that saw this attempt.
        self.give_back(place.into_claim());
        Err(match refused {
            Refused::Sent(of) => self.duplicate(of),
            Refused::InUse => Lack::Key,
            Refused::NoSlot => Lack::Over(SendFailure::KeysFull {
                keys: keys.count(now),
                window: self
                    .shared
                    .contents
                    .settings
                    .dedup_window
                    .unwrap_or_default(),
            }),
        })
    }

    pub(super) fn duplicate(&self, of: MessageId) -> Lack {
        self.lane.add(Sent::Duplicates, 1);
        Lack::Over(SendFailure::Duplicate { of })
    }

    pub(super) fn give_back_key(&self, held: HeldKey) {
        if let Some(keys) = &self.shared.contents.keys {
            keys.give_back(held);
            self.shared.tell_room();
        }
    }

    pub(super) fn name(&self, claim: &Claim) -> CellName {
        CellName {
            level: self.number,
            index: claim.index(),
            occupancy: self.level.ring.cell(claim.index()).occupancy(),
        }
    }
}
