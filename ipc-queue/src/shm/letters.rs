//! Dead letters of a queue in shared memory: listed in place, requeued, dropped.

use std::sync::atomic::Ordering::SeqCst;

use super::Shared;
use super::cell::{Cause, ClaimWord};
use super::contents::Contents;
use super::events;
use super::level::Level;
use super::memory::{Memory, Word};
use super::ring::Ring;
use super::word::{CellKind, State};
use crate::dead_letter::{DeadLetter, DeadLetterId, DeadReason};
use crate::error::SendFailure;

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
    pub(crate) fn requeue(&self, id: DeadLetterId) -> Result<bool, SendFailure> {
        self.check_open()?;
        let Some((level, index)) = self.place_of(id) else {
            return Ok(false);
        };
        let ring = &self.contents.levels[level].ring;
        let Some(word) = ring.requeue(index, id.1) else {
            return Ok(false);
        };
        // Checked again, as by a sender: a process that closed the queue before the requeue may
        // have seen it drained.
        if let Err(closed) = self.check_open()
            && ring.take_back_requeued(index, word)
        {
            return Err(closed);
        }
        self.items().notify_one();
        self.wake_if_closed();
        events::requeued(self, id);
        Ok(true)
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
        let place = self.place_of(id);
        let ring = |level: usize| &self.contents.levels[level].ring;
        place.is_some_and(|(level, index)| ring(level).note_signal(index, id.1, signal))
    }

    /// Returns the level and the cell that an id names.
    fn place_of(&self, id: DeadLetterId) -> Option<(usize, u32)> {
        let cells = u64::from(self.contents.settings.capacity);
        let level = usize::try_from(id.0 / cells).ok()?;
        let index = u32::try_from(id.0 % cells).ok()?;
        (level < self.contents.levels.len()).then_some((level, index))
    }
}

/// Returns the letter in a cell, if there is one. `first` is the number of the level's first cell.
fn dead_letter(level: &Level, first: u64, index: u32) -> Option<DeadLetter> {
    let cell = level.ring.cell(index);
    let word = cell.state().load(SeqCst);
    let state = State::from_word(word);
    if state.kind != CellKind::Dead {
        return None;
    }
    let claim = cell.claim();
    let letter = claim.letter(state);
    let (envelope, tally, body) = (cell.envelope(), cell.tally(state), cell.body());
    let (body, headers) = level.headers_of(index, body);
    let payload = level
        .payloads
        .snapshot(index, body.chunk, body.len as usize)?;
    let error = level.ring.reason(index, claim, state);
    // The letter may have been dropped during the copy. A changed word alone does not prove that,
    // because a sender may have advanced the cell.
    level.ring.dead_word(index, letter)?;
    Some(DeadLetter {
        id: DeadLetterId(first + u64::from(index), letter),
        message: envelope.id,
        kind: envelope.kind,
        sent_at: envelope.sent_at,
        attempts: tally.attempts(state),
        reason: match tally.last {
            Cause::Nack => DeadReason::Nacked,
            Cause::Expiry => DeadReason::Expired,
            Cause::Crash => DeadReason::Crashed,
            Cause::Bury => DeadReason::Buried,
            // Snoozed messages do not become dead letters, so the record is damaged.
            Cause::Unknown | Cause::Snooze => DeadReason::Unknown,
        },
        nacks: tally.nacks,
        expiries: tally.expiries,
        crashes: tally.crashes,
        last_worker: Some(tally.holder).filter(|pid| *pid != 0),
        signal: Some(tally.signal).filter(|signal| *signal != 0),
        error,
        headers,
        payload,
    })
}

impl<M: Memory> Ring<M> {
    /// Makes a dead letter a message that was never delivered, in place. Returns the new state word
    /// of its cell. `None` if the letter is gone, or while two former holders may still be reading.
    pub(super) fn requeue(&self, index: u32, letter: u64) -> Option<u64> {
        let cell = self.cell(index);
        // Retries if a sender advanced the cell, or a zombie let go, meanwhile.
        loop {
            let (word, claim) = self.dead_word(index, letter)?;
            let state = State::from_word(word);
            let ready = state.requeued()?.to_word();
            if cell.count_from(claim, state) && cell.state().swap_if(word, ready, SeqCst).is_ok() {
                self.stray();
                return Some(ready);
            }
        }
    }

    /// Reverts a requeue, unless a receiver has taken the message. `false`: the swap failed for
    /// that reason.
    pub(super) fn take_back_requeued(&self, index: u32, word: u64) -> bool {
        // Its position is used up, as if a receiver had taken and buried the message.
        let dead = State::from_word(word)
            .moved_on()
            .released_as(CellKind::Dead);
        self.cell(index)
            .state()
            .swap_if(word, dead.to_word(), SeqCst)
            .is_ok()
    }

    /// Records in a dead letter the signal that ended its last receiver, unless the letter is gone
    /// or ended otherwise.
    fn note_signal(&self, index: u32, letter: u64, signal: u8) -> bool {
        let cell = self.cell(index);
        // Retries if a sender advanced the cell, or a zombie let go, meanwhile.
        while let Some((word, _)) = self.dead_word(index, letter) {
            let noted = cell.note_signal(word, signal);
            if noted || cell.state().load(SeqCst) == word {
                return noted;
            }
        }
        false
    }

    /// Drops a dead letter, unless it is gone.
    pub(super) fn drop_dead(&self, index: u32, letter: u64) -> bool {
        // Retries if a sender advanced the cell, or a zombie let go, meanwhile.
        while let Some((word, _)) = self.dead_word(index, letter) {
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

    /// Returns the word of a cell that still contains that dead letter, and its claim.
    fn dead_word(&self, index: u32, letter: u64) -> Option<(u64, ClaimWord)> {
        let cell = self.cell(index);
        let word = cell.state().load(SeqCst);
        let (state, claim) = (State::from_word(word), cell.claim());
        let same = state.kind == CellKind::Dead && claim.letter(state) == letter;
        same.then_some((word, claim))
    }
}
