//! Claiming cells, and publishing what was written there.
//!
//! The sender may die between any two lines. Its cell says `WRITING` and names it. The process that
//! recovers the cell frees it. Until then receivers step over it.

use std::mem;
use std::sync::atomic::Ordering::SeqCst;

use ipc_proto::Kind;

use super::walk::{ForSender, Walk};
use super::{Claim, Cursor, Look, Place, Publication, Ring, Scan, Turns};
use crate::shm::cell::Cell;
use crate::shm::memory::{Memory, RingWord, Word};
use crate::shm::word::{CellKind, Lap, Position, Seat, State};

impl<M: Memory> Ring<M> {
    /// Claims a cell for a message. `None`: all cells are in use.
    #[inline(always)]
    pub fn claim(&self, me: Seat, kind: Kind, cursor: &mut Cursor) -> Option<Claim> {
        if let Some(claim) = self.claim_at_once(me, kind, cursor) {
            return Some(claim);
        }
        let claim = self.claim_somewhere(me, cursor)?;
        let lap = State::from_word(claim.word).lap;
        self.cell(claim.index()).begin(lap, kind);
        Some(claim)
    }

    /// Claims the next cell in FIFO order, if it is free by itself.
    #[inline(always)]
    fn claim_at_once(&self, me: Seat, kind: Kind, cursor: &mut Cursor) -> Option<Claim> {
        let at = self.start(RingWord::Tail, cursor);
        let cell = self.cell(at.index());
        let free = State::free(at.lap());
        let run = mem::take(&mut cursor.run);
        if run == 0 && cell.state().load(SeqCst) != free.to_word() {
            return None;
        }
        if run < M::STREAM {
            // The payload's line arrives while the swap below waits for the header's.
            self.memory.fetch_to_fill(at.index());
        }
        let claim = Self::claim_word(cell, me, at.index(), free.to_word(), free, cursor)?;
        cursor.run = if run < M::STREAM {
            run + 1
        } else {
            self.memory.fetch_to_fill(self.ahead(at));
            run
        };
        cell.begin(State::from_word(claim.word).lap, kind);
        self.advance(RingWord::Tail, cursor, at.next(self.cells()));
        Some(claim)
    }

    #[inline(never)]
    fn claim_somewhere(&self, me: Seat, cursor: &mut Cursor) -> Option<Claim> {
        let mut turns = Turns::Kept;
        loop {
            if let Look::Found(claim) = self.claim_in_turn(me, cursor) {
                return Some(claim);
            }
            let spare = self.memory.ring_word(RingWord::Spare).load(SeqCst);
            if spare == cursor.dealt_with {
                return None;
            }
            match self.claim_anywhere(me, cursor, turns) {
                Scan::Took(claim) => return Some(claim),
                Scan::ComesInTurn { others } => {
                    turns = Turns::Ignored;
                    if !others {
                        cursor.dealt_with = spare;
                    }
                }
                Scan::Nothing => cursor.dealt_with = spare,
            }
        }
    }

    fn claim_in_turn(&self, me: Seat, cursor: &mut Cursor) -> Look<Claim> {
        let cells = self.cells();
        let refind = || self.refind(RingWord::Tail);
        let mut walk = Walk::new(self.start(RingWord::Tail, cursor), cursor.trusted());
        // The first occupied cell. Occupied cells are moved on only after a free cell was found
        // behind them: a sender that finds no room must not disturb the processes that make room.
        let mut busy: Option<Position> = None;
        let mut moving = false;
        loop {
            let is_round = busy.is_some() && walk.steps >= cells;
            // Every cell is ahead of this handle if it started from a stale hint.
            if is_round || walk.steps > cells && (moving || !walk.mend(refind)) {
                break;
            }
            let at = walk.at;
            let cell = self.cell(at.index());
            let word = cell.state().load(SeqCst);
            let Some(state) = self.begins(at, word, walk.trusted) else {
                if walk.mend(refind) {
                    continue;
                }
                break;
            };
            match ForSender::of(state.lap.since(at.lap()), state.kind) {
                ForSender::Claim => {
                    if let Some(first) = busy.take() {
                        moving = true;
                        walk.go_back_to(first);
                        continue;
                    }
                    // If this is a run, the next cell begins the rest.
                    let free = state.of_len(1);
                    if let Some(claim) = Self::claim_word(cell, me, at.index(), word, free, cursor)
                    {
                        self.advance(RingWord::Tail, cursor, at.next(cells));
                        return Look::Found(claim);
                    }
                    continue; // Another sender claimed it: load its new word.
                }
                ForSender::Pass => {}
                ForSender::Occupied if moving => {
                    let next = state.moved_on().to_word();
                    // Failed: its holder settled it, or another sender moved it on: look again.
                    if cell.state().swap_if(word, next, SeqCst).is_err() {
                        continue;
                    }
                }
                ForSender::Occupied if busy.is_none() => {
                    busy = Some(at);
                    walk.steps = 0;
                }
                ForSender::Occupied => {}
                ForSender::Contradiction if walk.mend(refind) => continue,
                ForSender::Full | ForSender::Contradiction => break,
            }
            walk.pass(state.len(), cells);
        }
        cursor.go_to(busy.unwrap_or(walk.at));
        Look::Nothing
    }

    /// Claims a cell that is free out of order, if none is free in FIFO order.
    #[cold]
    fn claim_anywhere(&self, me: Seat, cursor: &mut Cursor, turns: Turns) -> Scan<Claim> {
        loop {
            let mut free = None;
            let mut in_turn = false;
            let mut at = cursor.position;
            let mut reached = turns == Turns::Kept;
            let mut steps = 0;
            while steps < self.cells() {
                let word = self.cell(at.index()).state().load(SeqCst);
                let state = State::from_word(word);
                let is_inside = state.kind == CellKind::Inside;
                let state = state.alone();
                let ahead = state.lap.since(at.lap());
                match state.kind {
                    CellKind::Free if reached && ahead == 0 => in_turn = true,
                    // A cell inside a run is never out of order.
                    CellKind::Free if !is_inside => free = free.or(Some((at.index(), word))),
                    _ => {}
                }
                reached &= ahead >= 0;
                at = at.after(state.len(), self.cells());
                steps += state.len();
            }
            let (index, word) = match free {
                _ if in_turn => {
                    let others = free.is_some();
                    return Scan::ComesInTurn { others };
                }
                None => return Scan::Nothing,
                Some(found) => found,
            };
            let state = State::from_word(word);
            if state.len() > 1 {
                // No sender comes here in FIFO order and finds the rest.
                self.part_all(index, state.len());
                continue;
            }
            let cell = self.cell(index);
            if let Some(claim) = Self::claim_word(cell, me, index, word, state, cursor) {
                return Scan::Took(Claim {
                    place: Place::out_of_turn(index),
                    ..claim
                });
            }
        }
    }

    /// Claims a free cell, whose word means `free`. If this handle has claimed a later position
    /// before, it claims the cell for a later lap than the cell stands for.
    #[inline(always)]
    pub(super) fn claim_word(
        cell: Cell<'_, M::Word>,
        me: Seat,
        index: u32,
        word: u64,
        free: State,
        cursor: &mut Cursor,
    ) -> Option<Claim> {
        let lap = cursor.lap_in_order(index, free.lap);
        let claimed = State { lap, ..free }.claimed_by(me).to_word();
        let swapped = cell.state().swap_if(word, claimed, SeqCst);
        swapped.ok().map(|()| {
            cursor.last = Some(Position::new(lap, index));
            Claim {
                place: if lap == free.lap {
                    Place::in_turn(index)
                } else {
                    Place::out_of_turn(index)
                },
                word: claimed,
            }
        })
    }

    /// Makes the message in a claimed cell available.
    #[inline(always)]
    pub fn publish(&self, claim: Claim) -> Publication {
        let ready = State::from_word(claim.word)
            .released_as(CellKind::Ready)
            .to_word();
        // Release: publishes the header and the payload. SeqCst: before the check for waiters.
        match self
            .cell(claim.index())
            .state()
            .swap_if(claim.word, ready, SeqCst)
        {
            Ok(()) => {
                if claim.place.is_out_of_turn() {
                    self.stray();
                }
                Publication::Done
            }
            Err(word) => self.stepped_over(claim, word),
        }
    }

    #[cold]
    fn stepped_over(&self, claim: Claim, word: u64) -> Publication {
        let (was, is) = (State::from_word(claim.word), State::from_word(word));
        if is.kind == CellKind::Writing && is.owner == was.owner {
            Publication::SteppedOver(Claim { word, ..claim })
        } else {
            Publication::Lost
        }
    }

    /// Makes a message available in its cell although receivers are past its position: its claim
    /// was stepped over, or that of an earlier message of the same sender. It comes after
    /// everything that this sender sent before, and the sender's next claim comes after it.
    #[cold]
    pub fn publish_late(&self, claim: Claim, cursor: &mut Cursor) -> Publication {
        let index = claim.index();
        let (published, lap) = self.publish_as(claim, |state| State {
            lap: cursor.lap_in_order(index, state.lap),
            ..state.written_as(CellKind::Ready)
        });
        if matches!(published, Publication::Done) {
            cursor.last = Some(Position::new(lap, index));
            self.stray();
        }
        published
    }

    /// Publishes the message in a claimed cell with a delay, until the time that
    /// [`note_delay`](Self::note_delay) recorded. Its position is used up.
    #[cold]
    pub fn publish_delayed(&self, claim: Claim) -> Publication {
        let delayed = |state: State| state.written_as(CellKind::Delayed).moved_on();
        self.publish_as(claim, delayed).0
    }

    /// Publishes a message from another queue in the state that it had there: ready, delayed or
    /// dead, after this number of deliveries. A message that is not ready uses its position up.
    #[cold]
    pub fn publish_restored(&self, claim: Claim, kind: CellKind, deliveries: u8) -> Publication {
        let out_of_turn = claim.place.is_out_of_turn();
        let restored = |state: State| {
            let state = State {
                attempt: deliveries,
                ..state.written_as(kind)
            };
            match kind {
                CellKind::Ready => state,
                _ => state.moved_on(),
            }
        };
        let published = self.publish_as(claim, restored).0;
        if out_of_turn && kind == CellKind::Ready {
            self.stray();
        }
        published
    }

    /// Publishes at whatever lap the cell stands for. Also returns the lap of the new state.
    fn publish_as(&self, claim: Claim, published: impl Fn(State) -> State) -> (Publication, Lap) {
        let mut claim = claim;
        loop {
            let next = published(State::from_word(claim.word));
            let cell = self.cell(claim.index()).state();
            let done = match cell.swap_if(claim.word, next.to_word(), SeqCst) {
                Ok(()) => Publication::Done,
                Err(word) => match self.stepped_over(claim, word) {
                    Publication::SteppedOver(again) => {
                        claim = again;
                        continue;
                    }
                    other => other,
                },
            };
            return (done, next.lap);
        }
    }

    /// Frees a claimed cell that was not used. The caller notifies the waiters for room.
    pub fn abandon(&self, claim: Claim) {
        let cell = self.cell(claim.index()).state();
        let owner = State::from_word(claim.word).owner;
        let mut word = claim.word;
        loop {
            let state = State::from_word(word);
            if state.kind != CellKind::Writing || state.owner != owner {
                return; // No longer ours: damage.
            }
            // To the next lap, because this lap's position already counts as used.
            match cell.swap_if(word, State::free(state.lap.next()).to_word(), SeqCst) {
                Ok(()) => break,
                Err(changed) => word = changed,
            }
        }
        self.spare(); // It is free ahead of the senders' position.
    }
}
