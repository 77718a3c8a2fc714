//! Dead letters of a queue in shared memory: looked at where they lie, requeued, dropped.

use std::sync::atomic::Ordering::SeqCst;

use super::Shared;
use super::cell::Cause;
use super::handle::ShmSender;
use super::memory::{Memory, Word};
use super::ring::{Lease, Ring, Settlement};
use super::word::{CellKind, Seat, State};
use crate::dead_letter::{DeadLetter, DeadLetterId, DeadReason};
use crate::error::SendFailure;
use crate::transport::Wait;

impl Shared {
    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        (0..self.ring.cells())
            .filter_map(|index| self.dead_letter(index))
            .collect()
    }

    fn dead_letter(&self, index: u32) -> Option<DeadLetter> {
        let cell = self.ring.cell(index);
        let word = cell.state().load(SeqCst);
        let state = State::from_word(word);
        if state.kind != CellKind::Dead {
            return None;
        }
        let (envelope, tally, body) = (cell.envelope(), cell.tally(), cell.body());
        let payload = self
            .payloads
            .snapshot(index, body.chunk, body.len as usize)?;
        // All of it was copied while the letter was dead: somebody may have dropped it meanwhile.
        if cell.state().load(SeqCst) != word {
            return None;
        }
        Some(DeadLetter {
            id: DeadLetterId(index.into(), cell.occupancy().number()),
            message: envelope.id,
            kind: envelope.kind,
            sent_at: envelope.sent_at,
            attempts: state.attempt,
            reason: match tally.last {
                Cause::Nack => DeadReason::Nacked,
                Cause::Expiry => DeadReason::Expired,
                Cause::Crash => DeadReason::Crashed,
                Cause::Bury => DeadReason::Buried,
                Cause::Unknown => DeadReason::Unknown,
            },
            nacks: tally.nacks,
            expiries: tally.expiries,
            crashes: tally.crashes,
            payload,
        })
    }

    pub(crate) fn requeue(
        &self,
        sender: &ShmSender,
        id: DeadLetterId,
    ) -> Result<bool, SendFailure> {
        let Some(lease) = self
            .index_of(id)
            .and_then(|index| self.ring.take_dead(self.seat, index, id.1))
        else {
            return Ok(false);
        };
        // Ours now: nobody else requeues it, and if we die it is a dead letter again.
        let cell = self.ring.cell(lease.index);
        let (body, kind) = (cell.body(), cell.envelope().kind);
        let copy = self
            .payloads
            .snapshot(lease.index, body.chunk, body.len as usize);
        let sent = match copy {
            Some(copy) => sender.send(&copy, kind, Wait::No).map(drop),
            None => Err(SendFailure::Damaged(format!(
                "dead letter in cell {}",
                lease.index
            ))),
        };
        let how = if sent.is_ok() {
            Settlement::Ack
        } else {
            Settlement::Bury
        };
        let _ = self.ring.settle(&lease, how);
        self.room().notify_one();
        sent.map(|()| true)
    }

    pub(crate) fn discard(&self, id: DeadLetterId) -> bool {
        let dropped = self
            .index_of(id)
            .is_some_and(|index| self.ring.drop_dead(index, id.1));
        if dropped {
            self.room().notify_one();
        }
        dropped
    }

    fn index_of(&self, id: DeadLetterId) -> Option<u32> {
        u32::try_from(id.0)
            .ok()
            .filter(|index| *index < self.ring.cells())
    }
}

impl<M: Memory> Ring<M> {
    /// Takes a dead letter, to send it again. `None` if it is gone, or while two who lost its lease may still be
    /// reading, which leaves no place for our name.
    pub(super) fn take_dead(&self, me: Seat, index: u32, occupancy: u64) -> Option<Lease> {
        let word = self.dead_word(index, occupancy)?;
        let state = State::from_word(word);
        if state.owner.is_some() {
            return None;
        }
        let taken = State {
            kind: CellKind::Leased,
            owner: Some(me),
            ..state
        };
        let swapped = self
            .cell(index)
            .state()
            .swap_if(word, taken.to_word(), SeqCst);
        swapped.ok().map(|()| Lease::of_state(index, taken))
    }

    /// Drops a dead letter, unless it is gone.
    pub(super) fn drop_dead(&self, index: u32, occupancy: u64) -> bool {
        // Tried again when a sender moved the cell on, or a zombie let go, just now.
        while let Some(word) = self.dead_word(index, occupancy) {
            let state = State::from_word(word);
            let left = match state.owner {
                None => state.finished(),
                Some(_) => State {
                    kind: CellKind::Quarantined,
                    ..state
                },
            };
            if self
                .cell(index)
                .state()
                .swap_if(word, left.to_word(), SeqCst)
                .is_ok()
            {
                if left.kind == CellKind::Free {
                    self.spare();
                }
                return true;
            }
        }
        false
    }

    /// The word of a cell that still holds the dead letter of that occupancy.
    fn dead_word(&self, index: u32, occupancy: u64) -> Option<u64> {
        let cell = self.cell(index);
        let word = cell.state().load(SeqCst);
        let same =
            State::from_word(word).kind == CellKind::Dead && cell.occupancy().number() == occupancy;
        same.then_some(word)
    }
}
