//! Taking messages, in FIFO order and out of order.
//!
//! The receiver may die between any two lines. Its cell says `LEASED` and names it. The process
//! that recovers the cell makes the message ready again, or a dead letter at a limit.

use std::mem;
use std::sync::atomic::Ordering::SeqCst;

use super::walk::{ForReceiver, Walk};
use super::{Cursor, Lease, Look, Place, Ring, Scan, Turns};
use crate::shm::cell::Cell;
use crate::shm::memory::{Memory, RingWord, Word};
use crate::shm::word::{CellKind, Position, Seat, State};

impl<M: Memory> Ring<M> {
    /// Takes the next message. `None`: there is none.
    #[inline(always)]
    pub fn take(&self, me: Seat, cursor: &mut Cursor) -> Option<Lease> {
        match self.take_at_once(me, cursor) {
            Some(lease) => Some(lease),
            None => self.take_somewhere(me, cursor),
        }
    }

    /// Takes the next message in FIFO order, if it is ready by itself and was never delivered.
    #[inline(always)]
    fn take_at_once(&self, me: Seat, cursor: &mut Cursor) -> Option<Lease> {
        let at = self.start(RingWord::Head, cursor);
        let cell = self.cell(at.index());
        let ready = State::free(at.lap()).released_as(CellKind::Ready);
        let fresh = ready.to_word();
        let run = mem::take(&mut cursor.run);
        if run == 0 && cell.state().load(SeqCst) != fresh {
            return None;
        }
        if run < M::STREAM {
            // The payload arrives while the swap below waits for the header.
            self.memory.fetch_to_take(at.index());
        }
        let lease = Self::take_word(cell, me, at.index(), fresh, ready)?;
        cursor.run = if run < M::STREAM {
            run + 1
        } else {
            self.memory.fetch_to_take(self.ahead(at));
            run
        };
        self.advance(RingWord::Head, cursor, at.next(self.cells()));
        Some(lease)
    }

    #[inline(never)]
    fn take_somewhere(&self, me: Seat, cursor: &mut Cursor) -> Option<Lease> {
        if let Some(taken) = self.take_run(me, cursor, 1) {
            // The rest of the run is next, and its word must be loaded before a swap.
            cursor.run = 0;
            return taken.into_leases().next();
        }
        let mut turns = Turns::Kept;
        loop {
            let look = self.take_in_turn(me, cursor);
            if let Look::Found(lease) = look {
                return Some(lease);
            }
            if matches!(look, Look::Contradiction) {
                turns = Turns::Ignored;
            }
            let strays = self.memory.ring_word(RingWord::Stray).load(SeqCst);
            if matches!(look, Look::Nothing) && strays == cursor.dealt_with {
                return None;
            }
            // Only a full scan that found nothing out of order deals with the strays.
            match self.take_anywhere(me, cursor.position, turns) {
                Scan::Took(lease) => return Some(lease),
                Scan::ComesInTurn { others } => {
                    turns = Turns::Ignored;
                    if !others {
                        cursor.dealt_with = strays;
                    }
                }
                Scan::Nothing => {
                    cursor.dealt_with = strays;
                    if matches!(look, Look::Contradiction) {
                        return None;
                    }
                }
            }
        }
    }

    fn take_in_turn(&self, me: Seat, cursor: &mut Cursor) -> Look<Lease> {
        let cells = self.cells();
        let refind = || self.refind(RingWord::Head);
        let mut walk = Walk::new(self.start(RingWord::Head, cursor), cursor.trusted());
        // After a full round without an end, every cell is ahead of this handle.
        while walk.steps <= cells || walk.mend(refind) {
            let at = walk.at;
            let cell = self.cell(at.index());
            let word = cell.state().load(SeqCst);
            let Some(state) = self.begins(at, word, walk.trusted) else {
                if walk.mend(refind) {
                    continue;
                }
                break;
            };
            match ForReceiver::of(state.lap.since(at.lap()), state.kind) {
                ForReceiver::Take => {
                    // If this is a run, the next cell begins the rest.
                    let ready = state.of_len(1);
                    if let Some(lease) = Self::take_word(cell, me, at.index(), word, ready) {
                        self.advance(RingWord::Head, cursor, at.next(cells));
                        return Look::Found(lease);
                    }
                    continue; // Another receiver took it: load its new word.
                }
                ForReceiver::Unwritten => match self.wait_for_sender(at, word) {
                    Patience::Nothing => {
                        cursor.go_to(at);
                        return Look::Nothing;
                    }
                    Patience::Changed => continue,
                    Patience::Over => {
                        let over = state.stepped_over().to_word();
                        // Failed: its sender, or another receiver, changed it: look again.
                        if cell.state().swap_if(word, over, SeqCst).is_err() {
                            continue;
                        }
                    }
                },
                ForReceiver::NothingYet => {
                    cursor.go_to(at);
                    return Look::Nothing;
                }
                ForReceiver::Pass => {}
                ForReceiver::Contradiction if walk.mend(refind) => continue,
                ForReceiver::Contradiction => break,
            }
            walk.pass(state.len(), cells);
        }
        cursor.go_to(walk.at);
        Look::Contradiction
    }

    /// Waits briefly for the sender of the cell at `at`, if a message behind it is ready.
    #[cold]
    fn wait_for_sender(&self, at: Position, word: u64) -> Patience {
        let cell = self.cell(at.index()).state();
        let len = State::from_word(word).len();
        if !self.is_ready_behind(at, len) {
            // The check of the other cells counts only if this one was being written all the while.
            return if cell.load(SeqCst) == word {
                Patience::Nothing
            } else {
                Patience::Changed
            };
        }
        for _ in 0..M::PATIENCE {
            self.memory.pause();
            if cell.load(SeqCst) != word {
                return Patience::Changed;
            }
        }
        Patience::Over
    }

    /// Returns whether a message is ready after `at` that receivers reach in FIFO order.
    fn is_ready_behind(&self, at: Position, len: u32) -> bool {
        let cells = self.cells();
        let mut next = at.after(len, cells);
        let mut steps = len;
        while steps < cells {
            let word = self.cell(next.index()).state().load(SeqCst);
            let state = State::from_word(word).alone();
            match (state.lap.since(next.lap()), state.kind) {
                (0, CellKind::Ready) => return true,
                (0, CellKind::Writing) | (1.., _) => {}
                _ => return false,
            }
            next = next.after(state.len(), cells);
            steps += state.len();
        }
        false
    }

    /// Takes a message that is ready out of order: a redelivered one, or the first of the others.
    /// Leaves messages that the next search in FIFO order finds, unless `turns` says otherwise.
    #[cold]
    fn take_anywhere(&self, me: Seat, position: Position, turns: Turns) -> Scan<Lease> {
        let cells = self.cells();
        let mut first: Option<(Position, u64)> = None;
        loop {
            let mut next: Option<(Position, u64)> = None;
            let mut in_turn: Option<Position> = None;
            let mut at = position;
            let mut reached = turns == Turns::Kept;
            let mut steps = 0;
            while steps < cells {
                let index = at.index();
                let word = self.cell(index).state().load(SeqCst);
                let state = State::from_word(word);
                let is_inside = state.kind == CellKind::Inside;
                let state = state.alone();
                let ahead = state.lap.since(at.lap());
                if state.kind == CellKind::Ready {
                    let found = Position::new(state.lap, index);
                    if reached && ahead == 0 {
                        in_turn = in_turn.or(Some(found));
                    } else if is_inside {
                        // Never out of order.
                    } else if state.attempt > 0 {
                        // Delivered before, so no order is promised.
                        if let Some(lease) = self.take_redelivered(me, index, word) {
                            return Scan::Took(lease);
                        }
                    } else if next.is_none_or(|(next, _)| found.compare(next).is_lt()) {
                        next = Some((found, word));
                    }
                }
                reached &= match state.kind {
                    CellKind::Ready | CellKind::Writing => ahead >= 0,
                    _ => ahead > 0,
                };
                at = at.after(state.len(), cells);
                steps += state.len();
            }
            let (at, word) = match (next, in_turn) {
                (None, None) => return Scan::Nothing,
                (None, Some(_)) => return Scan::ComesInTurn { others: false },
                (Some((next, _)), Some(turn)) if turn.compare(next).is_lt() => {
                    return Scan::ComesInTurn { others: true };
                }
                (Some(next), _) => next,
            };
            // Only if a second scan says the same. An earlier message of the same sender was ready
            // before this one, but maybe in a cell that the first scan had already passed.
            if first == next
                && let Some(lease) = self.take_stray(me, at.index(), word)
            {
                return Scan::Took(lease);
            }
            first = next;
        }
    }

    fn take_redelivered(&self, me: Seat, index: u32, mut word: u64) -> Option<Lease> {
        // Retries if a zombie let go just now.
        while State::from_word(word).kind == CellKind::Ready && State::from_word(word).attempt > 0 {
            if let Some(lease) = self.take_stray(me, index, word) {
                return Some(lease);
            }
            word = self.cell(index).state().load(SeqCst);
        }
        None
    }

    fn take_stray(&self, me: Seat, index: u32, word: u64) -> Option<Lease> {
        // If this is a run, the next cell begins the rest.
        let ready = State::from_word(word).of_len(1);
        let lease = Self::take_word(self.cell(index), me, index, word, ready)?;
        Some(Lease::new(Place::out_of_turn(index), lease.word()))
    }

    #[inline(always)]
    pub(super) fn take_word(
        cell: Cell<'_, M::Word>,
        me: Seat,
        index: u32,
        word: u64,
        ready: State,
    ) -> Option<Lease> {
        let taken = ready.taken_by(me);
        // Acquire: makes the published header and payload visible here.
        let swapped = cell.state().swap_if(word, taken.to_word(), SeqCst);
        let taken = taken.to_word();
        (swapped.ok()).map(|()| Lease::new(Place::in_turn(index), taken))
    }
}

/// The result of a wait for a cell that is being written.
enum Patience {
    /// There is no later message, so there is nothing to receive.
    Nothing,
    /// The cell changed: its sender is done, or another receiver stepped over it.
    Changed,
    /// The sender takes too long, and a later message may be there.
    Over,
}
