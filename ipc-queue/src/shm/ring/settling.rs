//! Ending deliveries, and dropping waiting messages.
//!
//! Exactly one compare-and-swap ends a delivery: that of its receiver, or that of a process that
//! found the lease expired or the receiver dead.

use std::sync::atomic::Ordering::SeqCst;

use super::{Lease, Ring, Settled, Settlement};
use crate::shm::cell::{Cause, Cell};
use crate::shm::due::Due;
use crate::shm::memory::{Memory, Word};
use crate::shm::word::{CellKind, Seat, State};

impl<M: Memory> Ring<M> {
    /// Acks a message: the fast path of [`settle`](Self::settle).
    #[inline(always)]
    pub fn ack(&self, lease: &Lease) -> Settled {
        let cell = self.cell(lease.index()).state();
        if !lease.place().is_out_of_turn()
            && let Some(freed) = State::freed_from(lease.word())
            // Fails for a message that is still in the run that it was taken with.
            && cell.swap_if(lease.word(), freed, SeqCst).is_ok()
        {
            return Settled::Freed;
        }
        self.settle(lease, Settlement::Ack)
    }

    /// Ends a delivery. Exactly one settlement of a delivery is accepted, or none if its lease was
    /// lost.
    pub fn settle(&self, lease: &Lease, how: Settlement) -> Settled {
        self.make_single(lease);
        let cell = self.cell(lease.index());
        let mut word = lease.word();
        let Some(me) = State::from_word(word).owner else {
            return Settled::LeaseLost;
        };
        if how != Settlement::Ack {
            word = cell.state().load(SeqCst);
        }
        loop {
            let state = State::from_word(word);
            if !lease.is_held_in(state) {
                self.let_go(lease.index(), me);
                return Settled::LeaseLost;
            }
            let (next, settled) = self.outcome(state, how, cell);
            let noted = match how {
                Settlement::Ack => true,
                Settlement::Nack => cell.note(word, Cause::Nack, self.memory.process(me)),
                Settlement::Bury => cell.note(word, Cause::Bury, self.memory.process(me)),
            };
            if !noted {
                word = cell.state().load(SeqCst);
                continue;
            }
            match cell.state().swap_if(word, next.to_word(), SeqCst) {
                Ok(()) => {
                    let moved_on = state.lap != State::from_word(lease.word()).lap;
                    self.raise_hint(settled, lease.place().is_out_of_turn() || moved_on);
                    return settled;
                }
                // Failed: a sender moved it on, a zombie let go, or the lease was lost. The next
                // round tells.
                Err(changed) => word = changed,
            }
        }
    }

    /// Nacks a message: it is to be delivered again after `until`, if attempts are left.
    pub fn settle_later(&self, lease: &Lease, until: Due) -> Settled {
        self.make_single(lease);
        let cell = self.cell(lease.index());
        if self.is_exhausted(State::from_word(lease.word()), cell, Cause::Nack) {
            return self.settle(lease, Settlement::Nack);
        }
        self.give_back_until(lease, until)
    }

    /// Snoozes a message: it is to be delivered again after `until`, and this delivery does not
    /// count as an attempt. `at_once`: that time is now.
    ///
    /// While a receiver that lost the message may still be reading it, this is a nack. The number
    /// of such a message's deliveries must stay below the number at which they start over (`word`).
    pub fn snooze(&self, lease: &Lease, until: Due, at_once: bool) -> Settled {
        self.make_single(lease);
        let cell = self.cell(lease.index());
        let holder = self.holder(State::from_word(lease.word()));
        // Recorded before the time, because a watcher that finds the time must know that this is
        // not a nack.
        loop {
            let word = cell.state().load(SeqCst);
            let state = State::from_word(word);
            if !lease.is_held_in(state) {
                return self.give_up(lease);
            }
            if state.zombie.is_some() {
                return if at_once {
                    self.settle(lease, Settlement::Nack)
                } else {
                    self.settle_later(lease, until)
                };
            }
            // Failed: a sender moved the cell on, or the lease was lost.
            if cell.note(word, Cause::Snooze, holder) {
                break;
            }
        }
        if !at_once {
            return self.give_back_until(lease, until);
        }
        // Recorded even if the time is now. Otherwise an earlier delivery's record could come to
        // look like one about a later delivery, after enough of them.
        let occupancy = cell.occupancy();
        if !self.note_put_off(lease, until) {
            return self.give_up(lease);
        }
        loop {
            let word = cell.state().load(SeqCst);
            let state = State::from_word(word);
            if !lease.is_held_in(state) || cell.occupancy() != occupancy {
                return Settled::Delayed; // A watcher has done it.
            }
            let ready = state.released_as(CellKind::Ready).to_word();
            // Failed: a watcher delayed it, or a sender moved it on.
            if cell.state().swap_if(word, ready, SeqCst).is_ok() {
                self.stray();
                return Settled::Ready;
            }
        }
    }

    /// Delays the message. Once the time is recorded, a watcher does the rest if this process is
    /// stopped.
    fn give_back_until(&self, lease: &Lease, until: Due) -> Settled {
        let cell = self.cell(lease.index());
        let occupancy = cell.occupancy();
        if !self.note_put_off(lease, until) {
            return self.give_up(lease);
        }
        loop {
            let word = cell.state().load(SeqCst);
            // Once a watcher has done it, nothing of ours is in the cell. By now another thread of
            // this process may hold another message there.
            let is_ours = lease.is_held_in(State::from_word(word)) && cell.occupancy() == occupancy;
            if !is_ours || self.put_off(cell, word) {
                return Settled::Delayed;
            }
        }
    }

    /// Ends a delivery whose lease is over, unless another process has done so. The caller stops
    /// reading, so the cell needs no zombie mark.
    fn give_up(&self, lease: &Lease) -> Settled {
        let cell = self.cell(lease.index());
        loop {
            let word = cell.state().load(SeqCst);
            let state = State::from_word(word);
            if !lease.is_held_in(state) {
                if let Some(me) = State::from_word(lease.word()).owner {
                    self.let_go(lease.index(), me);
                }
                return Settled::LeaseLost;
            }
            let next = self.again_or_dead(state, cell, Cause::Expiry);
            if cell.note(word, Cause::Expiry, self.holder(state))
                && cell.state().swap_if(word, next.to_word(), SeqCst).is_ok()
            {
                self.stray();
                return Settled::Over;
            }
        }
    }

    fn outcome(&self, state: State, how: Settlement, cell: Cell<'_, M::Word>) -> (State, Settled) {
        match how {
            Settlement::Ack => match state.finished() {
                freed if freed.kind == CellKind::Free => (freed, Settled::Freed),
                kept => (kept, Settled::Quarantined),
            },
            Settlement::Nack if !self.is_exhausted(state, cell, Cause::Nack) => {
                (state.released_as(CellKind::Ready), Settled::Ready)
            }
            _ => (state.released_as(CellKind::Dead), Settled::Dead),
        }
    }

    fn raise_hint(&self, settled: Settled, strayed: bool) {
        match settled {
            Settled::Ready => self.stray(),
            Settled::Freed if strayed => self.spare(),
            _ => {}
        }
    }

    /// Removes one of `me`'s zombie marks from a cell. Returns whether that made room.
    pub fn let_go(&self, index: u32, me: Seat) -> bool {
        let cell = self.cell(index).state();
        loop {
            let word = cell.load(SeqCst);
            let Some(left) = State::from_word(word).let_go_by(me) else {
                return false;
            };
            if cell.swap_if(word, left.to_word(), SeqCst).is_ok() {
                if left.kind == CellKind::Free {
                    self.spare();
                }
                return left.kind == CellKind::Free;
            }
        }
    }

    /// Drops the message in a cell, if the cell still has this word and the message waits for a
    /// receiver or for its time. Returns what the cell is then.
    pub fn drop_waiting(&self, index: u32, word: u64) -> Option<CellKind> {
        let state = State::from_word(word);
        if state.len() > 1 {
            return None;
        }
        let left = match state.kind {
            // Its position is used up, as if a receiver had taken and acked it.
            CellKind::Ready => state.moved_on().finished(),
            CellKind::Delayed => state.finished(),
            _ => return None,
        };
        let cell = self.cell(index).state();
        cell.swap_if(word, left.to_word(), SeqCst).ok()?;
        if left.kind == CellKind::Free {
            self.spare();
        }
        Some(left.kind)
    }

    /// Drops all waiting messages. Returns how many.
    pub fn purge(&self) -> u64 {
        let drop_one = |index: &u32| {
            let word = self.cell(*index).state().load(SeqCst);
            let word = match State::from_word(word).kind {
                // One message at a time, from the first on.
                CellKind::Ready | CellKind::Inside => self.part_first(*index, word),
                _ => Some(word),
            };
            word.is_some_and(|word| self.drop_waiting(*index, word).is_some())
        };
        (0..self.cells()).filter(drop_one).count() as u64
    }
}
