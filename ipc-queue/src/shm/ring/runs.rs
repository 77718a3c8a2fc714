//! Runs: neighbouring cells that one word claims, publishes, takes and frees together.
//!
//! The word of a run's first cell governs it: `more` is the number of cells behind it that share
//! its state. The words of those cells say only what the rest of the run is from there on, once the
//! cells before it were taken (messages) or claimed (room). A receiver that takes three of eight
//! messages leaves a run of five, and its one swap is all that this needs.
//!
//! Rules:
//! - A run ends with the ring at the latest, and has at most [`TOGETHER`] cells.
//! - A walk through the ring advances by lengths, from a place where something begins. A scan skips
//!   what is inside a run: the in-order path reaches it.
//! - Nothing inside a run is free or ready by itself. Any process may part the first cell from a
//!   run of messages or of room, by one swap: the next cell then begins the rest.
//! - The owner of a run that is being written or read makes single cells of it, the last one first.
//!   It then shortens the run to its first cell. So only cells inside the run lie between one of
//!   them and the first cell, and the nearest other cell before it tells what governs it.
//! - A message inside a run was never delivered before, and has no delay, expiry, chunk or zombie.
//! - A leased run has no end by time, so no process takes it from a living owner. For that reason
//!   the owner changes the words inside by plain stores. Only one thread has a run.
//!
//! The owner may die between any two lines. Recovery then parts the run into single cells by swaps,
//! and recovers each of them.

use std::mem;
use std::sync::atomic::Ordering::{Release, SeqCst};

use ipc_proto::Kind;

use super::{Claim, Cursor, Few, Lease, Place, Ring, Settled, TOGETHER};
use crate::shm::memory::{Memory, RingWord, Word};
use crate::shm::word::{CellKind, Inside, Position, Seat, State};

/// Neighbouring cells that their holder may write, and publishes together.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
#[must_use = "publish or abandon it"]
pub struct Run {
    first: u32,
    /// Set if the cells behind it are to be fetched.
    in_stream: bool,
    /// The word of the first cell.
    word: u64,
}

impl Run {
    /// Returns the number of cells.
    #[inline(always)]
    pub fn len(&self) -> usize {
        State::from_word(self.word).len() as usize
    }

    /// Returns the right to write one of its cells.
    #[inline(always)]
    pub fn claim(&self, number: usize) -> Claim {
        Claim {
            place: Place::in_turn(self.first + number as u32),
            word: State::from_word(self.word).of_len(1).to_word(),
        }
    }
}

/// Neighbouring messages that their holder may read and settle.
#[derive(Debug)]
#[must_use = "settle them"]
pub struct Taken {
    first: u32,
    len: u32,
    /// The word of each cell, or the word that it would have as a single cell.
    word: u64,
}

impl Taken {
    /// Returns the number of messages.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns the leases, in the order of the messages.
    #[inline(always)]
    pub fn into_leases(self) -> impl Iterator<Item = Lease> {
        (0..self.len).map(move |number| {
            let place = Place::in_turn(self.first + number).of_run(number, self.len);
            Lease::new(place, self.word)
        })
    }
}

/// The outcome of the publication of a run.
#[derive(Debug)]
#[must_use]
pub enum RunPublication {
    /// Receivers can take all of it.
    Done,
    /// Receivers stepped over the run while it was being written. Nothing is published yet, and
    /// each cell is now a separate claim, as in
    /// [`Publication::SteppedOver`](super::Publication::SteppedOver).
    SteppedOver(Few<Claim>),
    /// The cells no longer belong to the sender. Only damage explains that.
    Lost,
}

impl<M: Memory> Ring<M> {
    // --- sending ---------------------------------------------------------------------------------

    /// Claims up to `count` of the next cells in FIFO order as one run, at most [`TOGETHER`].
    /// `None`: the next cell is not free, or not for this handle in FIFO order.
    ///
    /// Each cell begins a new generation in [`begin_in`](Self::begin_in).
    #[inline]
    pub fn claim_run(&self, me: Seat, cursor: &mut Cursor, count: usize) -> Option<Run> {
        let count = count.min(TOGETHER) as u32;
        let at = self.start(RingWord::Tail, cursor);
        let claimed = self.claim_head(me, cursor, at, count)?;
        let mut run = Run {
            first: at.index(),
            in_stream: cursor.run == M::STREAM,
            word: claimed.to_word(),
        };
        let mut len = claimed.len();
        if len < count {
            len = self.claim_behind(me, &mut run, at, len, count);
        }
        cursor.run = cursor.run.saturating_add(len as u8).min(M::STREAM);
        let last = at.index() + len - 1;
        cursor.last = Some(Position::new(at.lap(), last));
        self.advance(RingWord::Tail, cursor, at.after(len, self.cells()));
        Some(run)
    }

    /// Claims up to `count` cells of what begins at a position, if it is free.
    #[inline(always)]
    fn claim_head(&self, me: Seat, cursor: &Cursor, at: Position, count: u32) -> Option<State> {
        let cell = self.cell(at.index()).state();
        // Loaded first: a sender that waits must not take the line from the receiver that frees it.
        let word = cell.load(SeqCst);
        let free = self.begins(at, word, cursor.trusted())?;
        if free.kind != CellKind::Free
            || free.lap != at.lap()
            || cursor.lap_in_order(at.index(), at.lap()) != at.lap()
        {
            return None;
        }
        let len = free.len().min(count).min(self.cells() - at.index());
        let claimed = free.claimed_by(me).of_len(len);
        // Failed: another sender claimed it just now.
        cell.swap_if(word, claimed.to_word(), SeqCst).ok()?;
        Some(claimed)
    }

    /// Claims further cells behind a run that was just claimed, and makes them part of it. Returns
    /// the length of the run.
    #[inline(never)]
    fn claim_behind(&self, me: Seat, run: &mut Run, at: Position, len: u32, count: u32) -> u32 {
        let claimed = State::from_word(run.word);
        let (first, mut all) = (run.first, len);
        while all < count && first + all < self.cells() {
            let cell = self.cell(first + all).state();
            let word = cell.load(SeqCst);
            let free = State::from_word(word).alone();
            if free.kind != CellKind::Free || free.lap != at.lap() {
                break;
            }
            let more = free.len().min(count - all).min(self.cells() - first - all);
            let also = free.claimed_by(me).of_len(more);
            // Failed: another sender claimed it just now.
            if cell.swap_if(word, also.to_word(), SeqCst).is_err() {
                break;
            }
            all += more;
        }
        if all == len {
            return len;
        }
        let joined = claimed.of_len(all);
        let cell = self.cell(first).state();
        if cell.swap_if(run.word, joined.to_word(), SeqCst).is_ok() {
            // The cells that were claimed behind it are inside it now: only the first word counts.
            run.word = joined.to_word();
            return all;
        }
        // Receivers stepped over the first part; its publication will find that out. The cells
        // behind it are freed one by one.
        let mut next = first + len;
        while next < first + all {
            next += self.abandon_part(me, next);
        }
        len
    }

    /// Frees a run of ours that was not joined. Returns its length.
    #[cold]
    fn abandon_part(&self, me: Seat, index: u32) -> u32 {
        let word = self.cell(index).state().load(SeqCst);
        let state = State::from_word(word);
        if state.kind != CellKind::Writing || state.owner != Some(me) {
            return 1; // No longer ours: damage.
        }
        let run = Run {
            first: index,
            in_stream: false,
            word,
        };
        let len = state.len();
        self.abandon_run(run);
        len
    }

    /// Starts the new generation of a cell of a run. The caller fills the cell, then calls
    /// [`end_in`](Self::end_in).
    #[inline(always)]
    pub fn begin_in(&self, run: &Run, number: usize, kind: Kind) {
        let (lap, index) = (State::from_word(run.word).lap, run.first + number as u32);
        if run.in_stream {
            self.memory
                .fetch_to_fill(self.behind(index, self.together()));
        }
        self.cell(index).begin(lap, kind);
    }

    /// Records the rest of the run from this cell on, after the cell was filled.
    #[inline(always)]
    pub fn end_in(&self, run: &Run, number: usize) {
        if number == 0 {
            return;
        }
        let state = State::from_word(run.word);
        let rest = state.len() - number as u32;
        let inside = State::inside_of(Inside::Ready, rest, state.lap);
        // Release: a receiver that takes this cell from the rest of the run reads its contents.
        self.cell(run.first + number as u32)
            .state()
            .store(inside.to_word(), Release);
    }

    /// Makes the messages in a run available.
    #[inline(always)]
    pub fn publish_run(&self, run: Run) -> RunPublication {
        let ready = State::from_word(run.word).released_as(CellKind::Ready);
        // Release: publishes all cells. SeqCst: before the check for waiters.
        match self
            .cell(run.first)
            .state()
            .swap_if(run.word, ready.to_word(), SeqCst)
        {
            Ok(()) => RunPublication::Done,
            // Receivers stepped over it, if it is still ours.
            Err(_) => match self.part_run(&run) {
                Some(claims) => RunPublication::SteppedOver(claims),
                None => RunPublication::Lost,
            },
        }
    }

    /// Frees a run that was not used. The caller notifies the waiters for room.
    #[cold]
    pub fn abandon_run(&self, run: Run) {
        let claims = self.part_run(&run).into_iter().flatten();
        claims.for_each(|claim| self.abandon(claim));
    }

    /// Makes single claims of a run. `None`: it is no longer ours.
    #[cold]
    fn part_run(&self, run: &Run) -> Option<Few<Claim>> {
        let ours = State::from_word(run.word);
        let word = self.part(run.first, |state| {
            state.kind == CellKind::Writing
                && state.owner == ours.owner
                && state.len() == ours.len()
        })?;
        let mut claims = Few::default();
        for number in 0..ours.len() {
            claims.push(Claim {
                place: Place::in_turn(run.first + number),
                word,
            });
        }
        Some(claims)
    }

    /// Makes single cells of a run that is ours, while its first word is as expected. Returns the
    /// word that each of them has then.
    #[cold]
    fn part(&self, first: u32, is_ours: impl Fn(State) -> bool) -> Option<u64> {
        let head = self.cell(first).state();
        let mut word = head.load(SeqCst);
        loop {
            let state = State::from_word(word);
            if !is_ours(state) {
                return None;
            }
            let single = state.of_len(1).to_word();
            for number in (1..state.len()).rev() {
                let cell = self.cell(first + number).state();
                cell.store(single, Release);
            }
            match head.swap_if(word, single, SeqCst) {
                Ok(()) => return Some(single),
                // Moved on: the other cells must stand for the same lap.
                Err(changed) => word = changed,
            }
        }
    }

    // --- receiving -------------------------------------------------------------------------------

    /// Takes the next messages in FIFO order that were never delivered before: as many of a run as
    /// `count` says, at most [`TOGETHER`], or a single one. `None`: the next message is not ready
    /// or not one of these.
    #[inline(always)]
    pub fn take_run(&self, me: Seat, cursor: &mut Cursor, count: usize) -> Option<Taken> {
        let at = self.start(RingWord::Head, cursor);
        let in_stream = mem::take(&mut cursor.run) == M::STREAM;
        let cell = self.cell(at.index()).state();
        let word = cell.load(SeqCst);
        let single = State::free(at.lap()).released_as(CellKind::Ready);
        let fresh = if word == single.to_word() {
            single
        } else {
            let fresh = self.begins(at, word, cursor.trusted())?;
            if fresh.of_len(1) != single {
                return None;
            }
            fresh
        };
        let len = fresh.len().min(count.min(TOGETHER) as u32);
        let len = len.min(self.cells() - at.index());
        let taken = fresh.taken_by(me).of_len(len);
        // Acquire: the headers and the payloads that the publication released.
        // Failed: another receiver took it just now.
        cell.swap_if(word, taken.to_word(), SeqCst).ok()?;
        if in_stream {
            for number in 0..len {
                let ahead = self.behind(at.index() + number, self.together());
                self.memory.fetch_to_take(ahead);
            }
            cursor.run = M::STREAM;
        } else {
            cursor.run = (len as u8).min(M::STREAM);
        }
        self.advance(RingWord::Head, cursor, at.after(len, self.cells()));
        Some(Taken {
            first: at.index(),
            len,
            word: taken.of_len(1).to_word(),
        })
    }

    /// Acks all messages of a run, given the lease of its first one.
    #[inline(always)]
    pub fn ack_run(&self, first: &Lease) -> Settled {
        let taken_at = State::from_word(first.word()).lap;
        let len = first.place().run_len();
        let head = self.cell(first.index()).state();
        let mut word = head.load(SeqCst);
        loop {
            let state = State::from_word(word);
            // Anything else is damage.
            if !first.is_held_in(state) || state.len() != len {
                return Settled::LeaseLost;
            }
            for number in 1..len {
                let rest = State::inside_of(Inside::Free, len - number, state.lap);
                // Release: a sender that claims the cell overwrites what this process has read.
                let cell = self.cell(first.index() + number).state();
                cell.store(rest.to_word(), Release);
            }
            let freed = State::free(state.lap).of_len(len);
            match head.swap_if(word, freed.to_word(), SeqCst) {
                Ok(()) => {
                    if state.lap != taken_at {
                        self.spare(); // It is free ahead of the senders' position.
                    }
                    return Settled::Freed;
                }
                // Moved on by a sender: the free cells must stand for the same lap.
                Err(changed) => word = changed,
            }
        }
    }

    /// Makes single leases of this one and of those that were taken together with it. Only for the
    /// thread that has all of them.
    #[inline(always)]
    pub fn make_single(&self, lease: &Lease) {
        if lease.place().run_len() > 1 {
            self.part_lease(lease);
        }
    }

    #[cold]
    fn part_lease(&self, lease: &Lease) {
        let (offset, len) = (lease.place().offset(), lease.place().run_len());
        // Done before, or no longer ours: its own word tells.
        let _ = self.part(lease.index() - offset, |state| {
            lease.is_held_in(state) && state.len() == len
        });
    }

    /// Returns whether a message that was taken with others is still held with them.
    #[cold]
    pub(in crate::shm) fn is_held_in_run(&self, lease: &Lease) -> bool {
        let (offset, len) = lease.in_run();
        let head = self.cell(lease.index() - offset).state().load(SeqCst);
        let state = State::from_word(head);
        len > 1 && state.len() == len && lease.is_held_in(state)
    }

    /// Returns the number of cells by which those of a batch are fetched ahead.
    #[inline(always)]
    fn together(&self) -> u32 {
        (TOGETHER as u32).min(self.cells() - 1)
    }

    // --- for both sides --------------------------------------------------------------------------

    /// Returns what begins at a position whose cell has this word. `None`: a cell before it governs
    /// it. `trusted` is a position where a handle found out by itself that something begins.
    /// Elsewhere only a hint says so, and it may be damaged.
    #[inline(always)]
    pub(super) fn begins(&self, at: Position, word: u64, trusted: Position) -> Option<State> {
        let state = State::from_word(word);
        if state.kind != CellKind::Inside {
            return Some(state);
        }
        (at == trusted || !self.is_governed(at.index(), word)).then(|| state.alone())
    }

    /// Returns whether a cell inside a run, with this word, is governed by a cell before it. If so,
    /// it does not begin the rest of a run.
    #[cold]
    pub(super) fn is_governed(&self, index: u32, word: u64) -> bool {
        loop {
            let load = |index: u32| self.cell(index).state().load(SeqCst);
            let mut between = Few::default();
            let mut head = None;
            for back in 1..(TOGETHER as u32).min(index + 1) {
                let word = load(index - back);
                let state = State::from_word(word);
                if state.kind != CellKind::Inside {
                    head = Some((back, state));
                    break;
                }
                between.push((index - back, word));
            }
            // All of them are as they were when the last one was read, since words never come back.
            let mut seen = between.iter().copied().chain([(index, word)]);
            if seen.all(|(index, word)| load(index) == word) {
                return head.is_some_and(|(back, state)| state.len() > back);
            }
            if load(index) != word {
                return true; // Whatever it was.
            }
        }
    }

    /// Returns the state of a cell, from its own word or the one that governs it. It may change
    /// meanwhile, even between the loads.
    pub fn seen(&self, index: u32) -> State {
        let word = self.cell(index).state().load(SeqCst);
        seen_in(index, word, |index| self.cell(index).state().load(SeqCst))
    }

    /// Parts a cell that is free or ready from the run that begins there. Returns its word then.
    /// `None`: it changed, or no run begins there.
    #[cold]
    pub(super) fn part_first(&self, index: u32, word: u64) -> Option<u64> {
        let state = State::from_word(word);
        if state.kind == CellKind::Inside && self.is_governed(index, word) {
            return None;
        }
        let single = state.alone().of_len(1);
        let may_part = matches!(single.kind, CellKind::Free | CellKind::Ready);
        if single.to_word() == word {
            return Some(word);
        }
        let cell = self.cell(index).state();
        let parted = may_part && cell.swap_if(word, single.to_word(), SeqCst).is_ok();
        parted.then(|| single.to_word())
    }

    /// Parts all cells of a free or ready run.
    #[cold]
    pub(super) fn part_all(&self, first: u32, len: u32) {
        for index in first..self.cells().min(first.saturating_add(len)) {
            let word = self.cell(index).state().load(SeqCst);
            if self.part_first(index, word).is_none() {
                return; // Another process claims or takes it.
            }
        }
    }

    /// Parts the cells of a waiting run up to this one.
    #[cold]
    pub(in crate::shm) fn part_up_to(&self, index: u32) {
        for index in index.saturating_sub(TOGETHER as u32 - 1)..=index {
            let word = self.cell(index).state().load(SeqCst);
            let kind = State::from_word(word).kind;
            if matches!(kind, CellKind::Ready | CellKind::Inside) {
                // Failed: another process parts or takes it, or a cell before it governs it.
                let _ = self.part_first(index, word);
            }
        }
    }

    /// Returns what begins at a cell. `None`: a cell before it governs it.
    #[cold]
    pub(in crate::shm) fn begins_at(&self, index: u32) -> Option<State> {
        let word = self.cell(index).state().load(SeqCst);
        let state = State::from_word(word);
        if state.kind == CellKind::Inside {
            return (!self.is_governed(index, word)).then(|| state.alone());
        }
        // The cell may be becoming a single one just now.
        let governs = |back: u32| {
            let before = State::from_word(self.cell(index - back).state().load(SeqCst));
            before.kind != CellKind::Inside && before.len() > back
        };
        let governed = (1..(TOGETHER as u32).min(index + 1)).any(governs);
        (!governed).then_some(state)
    }

    /// Makes single cells of a run whose owner is dead. Uses swaps, because several processes may
    /// do this at the same time. `false`: the first word changed meanwhile.
    pub(in crate::shm) fn part_for_the_dead(&self, first: u32, word: u64) -> bool {
        let head = State::from_word(word);
        let single = head.of_len(1);
        let cells = head.len().min(self.cells() - first);
        for number in (1..cells).rev() {
            let cell = self.cell(first + number).state();
            loop {
                let seen = cell.load(SeqCst);
                let state = State::from_word(seen);
                let is_its = state.kind == CellKind::Inside
                    || (state.kind == single.kind && state.owner == single.owner);
                // A cell that stands for a later lap came after all of this: the run is gone.
                if !is_its || state == single || state.lap.since(single.lap) > 0 {
                    break;
                }
                if cell.swap_if(seen, single.to_word(), SeqCst).is_ok() {
                    break;
                }
            }
        }
        let cell = self.cell(first).state();
        cell.swap_if(word, single.to_word(), SeqCst).is_ok()
    }
}

/// Returns the state of a cell with this word, according to the words before it.
pub(in crate::shm) fn seen_in(index: u32, word: u64, load: impl Fn(u32) -> u64) -> State {
    let state = State::from_word(word);
    if state.kind != CellKind::Inside {
        return state.of_len(1);
    }
    for back in 1..(TOGETHER as u32).min(index + 1) {
        let before = State::from_word(load(index - back));
        if before.kind != CellKind::Inside {
            if before.len() > back {
                return before.of_len(1);
            }
            break;
        }
    }
    state.alone().of_len(1)
}
