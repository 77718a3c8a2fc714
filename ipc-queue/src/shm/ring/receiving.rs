//! Taking messages, in turn and out of it.
//!
//! The receiver may die between any two lines: its cell says `LEASED` and who, and whoever recovers
//! it makes the message ready again.

use std::mem;
use std::sync::atomic::Ordering::SeqCst;

use super::walk::{ForReceiver, Walk};
use super::{Cursor, Lease, Look, Place, Ring, Scan, Turns};
use crate::shm::cell::Cell;
use crate::shm::memory::{Memory, RingWord, Word};
use crate::shm::word::{CellKind, Position, Seat, State};

impl<M: Memory> Ring<M> {
    /// Takes the next message, or `None` when there is none.
    #[inline(always)]
    pub fn take(&self, me: Seat, cursor: &mut Cursor) -> Option<Lease> {
        match self.take_at_once(me, cursor) {
            Some(lease) => Some(lease),
            None => self.take_somewhere(me, cursor),
        }
    }

    /// The message whose turn it is, if it is ready by itself and was never delivered.
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
            // The payload comes while the swap below waits for the header.
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
            // A rest is there, which has to be looked at.
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
            // Only a whole scan that found nothing out of turn deals with the strays.
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
        // Once round without an end: every cell is ahead of us.
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
                    // Of a run, what follows begins the rest.
                    let ready = state.of_len(1);
                    if let Some(lease) = Self::take_word(cell, me, at.index(), word, ready) {
                        self.advance(RingWord::Head, cursor, at.next(cells));
                        return Look::Found(lease);
                    }
                    continue; // Another receiver has it: look at what it is now.
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

    /// The cell at `at` is being written. Is there a message behind it that would have to wait for
    /// it?
    #[cold]
    fn wait_for_sender(&self, at: Position, word: u64) -> Patience {
        let cell = self.cell(at.index()).state();
        let len = State::from_word(word).len();
        if !self.is_ready_behind(at, len) {
            // The look at the other cells counts only if this one was being written all the while.
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

    /// Whether a message is ready at a position after `at` that receivers get to in turn.
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

    /// Takes a message that is ready out of turn: a redelivered one, or the first of the others.
    /// Leaves those that come in turn to be taken so, unless turns are ignored.
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
                        // Never out of turn.
                    } else if state.attempt > 0 {
                        // Delivered before: no order is promised.
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
            // Only if a second scan says the same: what its sender sent before it was ready before
            // it, maybe behind our back.
            if first == next
                && let Some(lease) = self.take_stray(me, at.index(), word)
            {
                return Scan::Took(lease);
            }
            first = next;
        }
    }

    fn take_redelivered(&self, me: Seat, index: u32, mut word: u64) -> Option<Lease> {
        // Again, if a zombie let go just now.
        while State::from_word(word).kind == CellKind::Ready && State::from_word(word).attempt > 0 {
            if let Some(lease) = self.take_stray(me, index, word) {
                return Some(lease);
            }
            word = self.cell(index).state().load(SeqCst);
        }
        None
    }

    fn take_stray(&self, me: Seat, index: u32, word: u64) -> Option<Lease> {
        // Of a run, what follows begins the rest.
        let ready = State::from_word(word).of_len(1);
        let lease = Self::take_word(self.cell(index), me, index, word, ready)?;
        Some(Lease {
            place: Place::out_of_turn(index),
            ..lease
        })
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
        // Acquire: the header and the payload that the publication released.
        let swapped = cell.state().swap_if(word, taken.to_word(), SeqCst);
        swapped.ok().map(|()| Lease {
            place: Place::in_turn(index),
            ..Lease::of_state(index, taken)
        })
    }
}

/// What a receiver found out about a cell that is being written.
enum Patience {
    /// No later message is there: nothing to receive.
    Nothing,
    /// It is done, or somebody stepped over it.
    Changed,
    /// It takes too long, and a later message may be there.
    Over,
}
