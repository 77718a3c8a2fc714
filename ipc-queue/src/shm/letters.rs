//! Dead letters of a queue in shared memory: looked at where they lie, requeued, dropped.

use std::sync::atomic::Ordering::SeqCst;

use super::Shared;
use super::by_priority::ShmSender;
use super::cell::Cause;
use super::contents::Contents;
use super::events;
use super::level::Level;
use super::memory::{Memory, Word};
use super::ring::{Lease, Ring, Settlement};
use super::word::{CellKind, Seat, State};
use ipc_proto::Headers;

use crate::dead_letter::{DeadLetter, DeadLetterId, DeadReason};
use crate::error::SendFailure;
use crate::transport::Wait;

impl Contents {
    pub(super) fn dead_letters(&self) -> Vec<DeadLetter> {
        let cells = self.settings.capacity;
        let places = (0..).zip(&self.levels).flat_map(|(number, level)| {
            (0..cells).map(move |index| (number * u64::from(cells), level, index))
        });
        places
            .filter_map(|(first, level, index)| dead_letter(level, first, index))
            .collect()
    }
}

impl Shared {
    pub(crate) fn requeue(
        &self,
        sender: &ShmSender,
        id: DeadLetterId,
    ) -> Result<bool, SendFailure> {
        self.check_open()?;
        let Some((number, index)) = self.place_of(id) else {
            return Ok(false);
        };
        let level = &self.contents.levels[number];
        let Some(lease) = level.ring.take_dead(self.seat, index, id.1) else {
            return Ok(false);
        };
        // Ours now: nobody else requeues it, and if we die it is a dead letter again.
        let cell = level.ring.cell(lease.index());
        let (body, kind) = (cell.body(), cell.envelope().kind);
        let copy = level
            .payloads
            .snapshot(lease.index(), body.chunk, body.len as usize);
        let sent = match copy {
            Some(copy) => sender.at(number).send(&copy, kind, Wait::No).map(drop),
            None => Err(SendFailure::Damaged(format!(
                "dead letter in cell {}",
                lease.index()
            ))),
        };
        if sent.is_ok() {
            // Lost only if we were stopped for longer than a lease: then the letter stays beside its copy.
            let _ = level.ring.settle(&lease, Settlement::Ack);
        } else {
            level.ring.put_back_dead(&lease);
        }
        self.wake_if_closed();
        self.tell_room();
        if sent.is_ok() {
            events::requeued(self, id);
        }
        sent.map(|()| true)
    }

    pub(crate) fn discard(&self, id: DeadLetterId) -> bool {
        let dropped = self
            .place_of(id)
            .is_some_and(|(level, index)| self.contents.levels[level].ring.drop_dead(index, id.1));
        if dropped {
            self.tell_room();
            events::discarded(self, id);
        }
        dropped
    }

    pub(crate) fn note_signal(&self, id: DeadLetterId, signal: u8) -> bool {
        self.place_of(id).is_some_and(|(level, index)| {
            let ring = &self.contents.levels[level].ring;
            ring.dead_word(index, id.1).is_some() && ring.cell(index).note_signal(signal)
        })
    }

    /// Which level and cell an id names.
    fn place_of(&self, id: DeadLetterId) -> Option<(usize, u32)> {
        let cells = u64::from(self.contents.settings.capacity);
        let level = usize::try_from(id.0 / cells).ok()?;
        let index = u32::try_from(id.0 % cells).ok()?;
        (level < self.contents.levels.len()).then_some((level, index))
    }
}

/// The letter in a cell, if there is one. `first` is the number of the level's first cell.
fn dead_letter(level: &Level, first: u64, index: u32) -> Option<DeadLetter> {
    let cell = level.ring.cell(index);
    let word = cell.state().load(SeqCst);
    let state = State::from_word(word);
    if state.kind != CellKind::Dead {
        return None;
    }
    let occupancy = cell.occupancy().number();
    let (envelope, tally, body) = (cell.envelope(), cell.tally(), cell.body());
    let payload = level
        .payloads
        .snapshot(index, body.chunk, body.len as usize)?;
    // Somebody may have dropped it while it was copied. Its word may have changed all the same: a sender
    // moved it on.
    level.ring.dead_word(index, occupancy)?;
    Some(DeadLetter {
        id: DeadLetterId(first + u64::from(index), occupancy),
        message: envelope.id,
        kind: envelope.kind,
        sent_at: envelope.sent_at,
        attempts: match state.attempt {
            // Its last sender died.
            State::REQUEUED => tally.attempt,
            attempt => attempt,
        },
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
        last_worker: Some(tally.holder).filter(|pid| *pid != 0),
        signal: Some(tally.signal).filter(|signal| *signal != 0),
        error: String::new(),
        headers: Headers::new(),
        payload,
    })
}

impl<M: Memory> Ring<M> {
    /// Takes a dead letter, to send it again. `None` if it is gone, or while two who lost its lease may still be
    /// reading, which leaves no place for our name.
    pub(super) fn take_dead(&self, me: Seat, index: u32, occupancy: u64) -> Option<Lease> {
        // Tried again when a sender moved the cell on, or a zombie let go, just now.
        loop {
            let word = self.dead_word(index, occupancy)?;
            let state = State::from_word(word);
            if state.owner.is_some() {
                return None;
            }
            let taken = State {
                kind: CellKind::Leased,
                attempt: State::REQUEUED,
                owner: Some(me),
                lap: state.lap.next(),
                ..state
            };
            let cell = self.cell(index).state();
            if cell.swap_if(word, taken.to_word(), SeqCst).is_ok() {
                return Some(Lease::of_state(index, taken));
            }
        }
    }

    /// Makes a letter that was taken a letter again, as it was.
    fn put_back_dead(&self, lease: &Lease) {
        let cell = self.cell(lease.index());
        loop {
            let word = cell.state().load(SeqCst);
            let state = State::from_word(word);
            if state.kind != CellKind::Leased || state.attempt != State::REQUEUED {
                return; // We took longer than a lease: somebody did it for us.
            }
            let back = State {
                attempt: cell.tally().attempt,
                ..state.released_as(CellKind::Dead)
            };
            if cell.state().swap_if(word, back.to_word(), SeqCst).is_ok() {
                return;
            }
        }
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
