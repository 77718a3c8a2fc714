//! The contents of the ring, for callers that only read.
//!
//! The contents may change during each call, unless its documentation says otherwise.

use std::sync::atomic::Ordering::SeqCst;

use ipc_proto::{MessageId, Timestamp};

use super::{Cursor, Ring, seen_in};
use crate::shm::memory::{Memory, RingWord, Word};
use crate::shm::word::{CellKind, Seat, State};

impl<M: Memory> Ring<M> {
    /// Returns a sum that changes when messages are taken. Approximate, like its summands.
    pub fn takes(&self) -> u64 {
        let word = |word| self.memory.ring_word(word).load(SeqCst);
        word(RingWord::Head).wrapping_add(word(RingWord::Stray))
    }

    /// Returns the time when the next message in FIFO order was sent, if there is one. It may be
    /// that of another message by now, so use it only to choose where to look first.
    pub fn next_sent_at(&self, cursor: &Cursor) -> Option<Timestamp> {
        let at = self.start(RingWord::Head, cursor);
        let cell = self.cell(at.index());
        let state = State::from_word(cell.state().load(SeqCst)).alone();
        let is_next = state.kind == CellKind::Ready && state.lap == at.lap();
        is_next.then(|| cell.envelope().sent_at)
    }

    /// Returns whether there is another message, or more room, right behind the last one found.
    pub fn has_more(&self, which: RingWord, cursor: &Cursor) -> bool {
        let wanted = match which {
            RingWord::Head | RingWord::Stray => CellKind::Ready,
            RingWord::Tail | RingWord::Spare => CellKind::Free,
        };
        let at = self.start(which, cursor);
        let state = State::from_word(self.cell(at.index()).state().load(SeqCst)).alone();
        state.kind == wanted && state.lap == at.lap()
    }

    /// Returns the owner, the message and the number of attempts of each lease.
    pub fn leased(&self) -> impl Iterator<Item = (Seat, MessageId, u8)> + '_ {
        (0..self.cells()).filter_map(|index| {
            let cell = self.cell(index);
            let state = self.seen(index);
            let id = cell.envelope().id;
            // The id belongs to this state only if the state did not change meanwhile.
            let owner = state.owner.filter(|_| state.kind == CellKind::Leased)?;
            let attempts = cell.attempts(state);
            (self.seen(index) == state).then_some((owner, id, attempts))
        })
    }

    /// Returns the approximate number of cells of this kind.
    pub fn count(&self, kind: CellKind) -> u64 {
        let cells = (0..self.cells()).map(|index| self.seen(index));
        cells.filter(|state| state.kind == kind).count() as u64
    }

    /// Returns whether no message is left that a process other than `me` may still deliver or
    /// settle.
    pub fn is_drained(&self, me: Option<Seat>) -> bool {
        let words = || -> Vec<u64> {
            let states = (0..self.cells()).map(|index| self.cell(index).state());
            states.map(|state| state.load(SeqCst)).collect()
        };
        let done = |seen: &[u64], index: u32| {
            let load = |index: u32| seen[index as usize];
            let state = seen_in(index, load(index), load);
            match state.kind {
                CellKind::Free | CellKind::Dead | CellKind::Quarantined | CellKind::Inside => true,
                CellKind::Leased => me.is_some_and(|me| state.owner == Some(me)),
                CellKind::Writing | CellKind::Ready | CellKind::Delayed => false,
            }
        };
        let mut seen = words();
        loop {
            if !(0..self.cells()).all(|index| done(&seen, index)) {
                return false;
            }
            // Words never come back, so two equal readings were both true at one moment. A single
            // one could miss a message that its sender moved from a cell not yet read to one
            // already read.
            let again = words();
            if again == seen {
                return true;
            }
            seen = again;
        }
    }
}
