//! The ring of owned cells: many senders, many receivers, any of which may die between any two lines.
//!
//! One word per cell is the whole truth, and the compare-and-swap that changes who is responsible for a
//! message also writes who that is (`word` has the table of changes). A cell always stands for one
//! position, its lap's; whoever can't wait for it moves it on to its next lap. So nobody ever waits for
//! anybody: a sender steps over cells that are leased, delayed or dead, a receiver steps over a cell whose
//! sender does not come to an end while a later message is there.
//!
//! Four words beside the cells are hints. `Head` and `Tail` say where to start looking. `Stray` counts messages
//! that became ready elsewhere than at the receivers' position (given back, recovered): a receiver that
//! reads "empty" and sees a count that it has not dealt with scans all cells first, and forgets the count only
//! after a scan that found nothing. `Spare` does the same for senders and free cells, so that the capacity is
//! exact also after redeliveries. Hints that nobody raised are raised by recovery, and by patrols (`patrol`).
//!
//! Order: messages are taken in the order in which cells were claimed. A sender whose claim was stepped over
//! moves its message to the end instead of publishing it out of turn (`Publication::SteppedOver`). A cell that was
//! claimed out of turn may stand for a later position than cells that are still free, so a sender claims each
//! cell for a lap that puts it after its last one; and who takes out of turn takes the first of what is there.
//!
//! Does not wait, does not know payloads, does not decide who is dead.
//!
//! Kin: Vyukov's bounded MPMC queue (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>)
//! has the per-cell lap, but loses its way when a process dies between claim and publish; naming the owner in the
//! same word is what makes that recoverable.

use std::cmp::Ordering as Compared;
use std::mem;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use ipc_proto::{Kind, MessageId, Timestamp};

use super::cell::{Cause, Cell};
use super::memory::{Memory, RingWord, Word};
use super::word::{CellKind, Lap, Position, Seat, State};

/// The ring, on some memory.
#[derive(Debug)]
pub struct Ring<M> {
    memory: M,
    attempt_limit: u8,
}

/// What one handle remembers between calls; a starting point, never the truth.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub struct Cursor {
    position: Position,
    /// Where this handle claimed last. What it sends next must not come before that.
    last: Option<Position>,
    /// The `Stray` or `Spare` count that this handle has dealt with.
    dealt_with: u64,
    /// How often in a row it found what it looked for; at most [`STREAM`](Memory::STREAM).
    ///
    /// After once the next cell will be as expected, too, and is swapped without a look before: that would fetch its cache
    /// line twice, once to read and once to write. Who waits must look, or it would take the line from those who
    /// are to change it. In a stream cells are fetched ahead, for the same reason not before.
    run: u8,
}

impl Cursor {
    /// The lap, from `lap` on, at which cell `index` comes after whatever this handle claimed before.
    #[inline(always)]
    fn lap_in_order(&self, index: u32, lap: Lap) -> Lap {
        match self.last {
            Some(last) if last.compare(Position::new(lap, index)).is_ge() => {
                if index > last.index() {
                    last.lap()
                } else {
                    last.lap().next()
                }
            }
            _ => lap,
        }
    }
}

/// A cell that its holder may write.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
#[must_use = "publish or abandon it"]
pub struct Claim {
    /// If out of turn, receivers won't come by on their own.
    place: Place,
    word: u64,
}

impl Claim {
    /// Which cell.
    #[inline(always)]
    pub fn index(&self) -> u32 {
        self.place.index()
    }
}

/// What became of a publication.
#[derive(Debug)]
#[must_use]
pub enum Publication {
    /// Receivers can take the message.
    Done,
    /// Receivers went past while it was being written; nothing was published yet. Moving the message to a
    /// new claim keeps the order; [`Ring::publish_late`] does not, but needs no room.
    SteppedOver(Claim),
    /// The cell is not the sender's any more, which only damage explains.
    Lost,
}

/// A message that its holder may read and settle.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
#[must_use = "settle it"]
pub struct Lease {
    /// If out of turn, its cell will be free out of turn, too.
    place: Place,
    word: u64,
}

/// Which cell, and whether it was claimed or taken in turn.
///
/// One word, never zero, so that a claim or a lease, or none, is returned in two registers: through memory, written in
/// pieces and read back whole, each would stall the processor for longer than a locked instruction takes.
/// It is the index plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place(NonZeroU64);

impl Place {
    const OUT_OF_TURN: u64 = 1 << 32;

    #[inline(always)]
    fn in_turn(index: u32) -> Self {
        Self(NonZeroU64::MIN.saturating_add(index.into()))
    }

    #[inline(always)]
    fn out_of_turn(index: u32) -> Self {
        Self(Self::in_turn(index).0 | Self::OUT_OF_TURN)
    }

    #[inline(always)]
    fn index(self) -> u32 {
        (self.0.get() as u32).wrapping_sub(1)
    }

    #[inline(always)]
    fn is_out_of_turn(self) -> bool {
        self.0.get() & Self::OUT_OF_TURN != 0
    }
}

impl Lease {
    /// The lease that this state of a cell, just written by us, gives us.
    #[inline(always)]
    pub(super) fn of_state(index: u32, state: State) -> Self {
        Self {
            place: Place::out_of_turn(index),
            word: state.to_word(),
        }
    }

    /// The same right once more, for whoever forgets this one.
    pub(super) fn hand_over(&self) -> Self {
        Self {
            place: self.place,
            word: self.word,
        }
    }

    /// Which cell.
    #[inline(always)]
    pub fn index(&self) -> u32 {
        self.place.index()
    }

    /// How often the message was delivered, this time included.
    #[inline(always)]
    pub fn attempt(&self) -> u8 {
        State::from_word(self.word).attempt
    }
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done.
    Ack,
    /// To be delivered again at once, if attempts are left.
    Nack,
    /// To be delivered again when `Cell::due` says, if attempts are left.
    Delay,
    /// Never to be delivered again.
    Bury,
}

/// What a settlement made of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Settled {
    /// It has room for another message.
    Freed,
    /// The message can be taken again.
    Ready,
    /// The message will be ready later.
    Delayed,
    /// The message is a dead letter.
    Dead,
    /// Done with, but somebody may still be reading: no room yet.
    Quarantined,
    /// The lease had been lost: nothing was settled, and the message is somebody else's.
    LeaseLost,
}

/// What looking at one position showed.
enum Look<T> {
    Found(T),
    /// Nothing to find.
    Nothing,
    /// The cells contradict the position: it, or a cell, is damaged.
    Contradiction,
}

/// What a look at all cells showed.
enum Scan<T> {
    /// Something out of turn, which is ours now.
    Took(T),
    /// Something that the next look in turn finds; and whether there is more, out of turn.
    ComesInTurn {
        others: bool,
    },
    Nothing,
}

/// Whether a look at all cells leaves to the next look in turn what that would find.
///
/// What is taken out of turn makes others look everywhere, too: a stream in which both sides did so because of each
/// other would never find back into its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turns {
    Kept,
    Ignored,
}

impl<M: Memory> Ring<M> {
    /// The ring on `memory`. Zeroed memory is an empty ring.
    pub fn new(memory: M, attempt_limit: u8) -> Self {
        Self {
            memory,
            attempt_limit,
        }
    }

    /// How many messages it holds.
    #[inline]
    pub fn cells(&self) -> u32 {
        self.memory.cells()
    }

    /// The header of cell `index`.
    #[inline(always)]
    pub fn cell(&self, index: u32) -> Cell<'_, M::Word> {
        Cell::new(self.memory.cell(index))
    }

    /// The memory that it is on.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// How often a message is delivered before it becomes a dead letter.
    pub fn attempt_limit(&self) -> u8 {
        self.attempt_limit
    }

    /// A cursor for a new handle, that will scan once before it says "empty" or "full".
    pub fn cursor(&self, hint: RingWord) -> Cursor {
        let strays = match hint {
            RingWord::Head | RingWord::Stray => RingWord::Stray,
            RingWord::Tail | RingWord::Spare => RingWord::Spare,
        };
        Cursor {
            position: Position::from_word(self.load_hint(hint), self.cells()),
            last: None,
            dealt_with: self.load_hint(strays).wrapping_sub(1),
            run: 0,
        }
    }

    // --- sending ---------------------------------------------------------------------------------

    /// Claims a cell to write a message into, or `None` when all are in use.
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

    /// The cell whose turn it is, if it is free.
    #[inline(always)]
    fn claim_at_once(&self, me: Seat, kind: Kind, cursor: &mut Cursor) -> Option<Claim> {
        let at = self.start(RingWord::Tail, cursor);
        let cell = self.cell(at.index());
        let free = State::free(at.lap()).to_word();
        let run = mem::take(&mut cursor.run);
        if run == 0 && cell.state().load(SeqCst) != free {
            return None;
        }
        if run < M::STREAM {
            // The payload's line comes while the swap below waits for the header's.
            self.memory.fetch_to_fill(at.index());
        }
        let claim = Self::claim_word(cell, me, at.index(), free, cursor)?;
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
        let mut at = self.start(RingWord::Tail, cursor);
        let mut mended = false;
        let mut steps = 0;
        // The first cell that we can't wait for. It and those like it are moved on only once there is
        // something to claim behind them: whoever finds no room must not disturb those who make it.
        let mut busy: Option<Position> = None;
        let mut moving = false;
        loop {
            if busy.is_some() && steps == cells {
                break; // Once round.
            }
            if steps > cells {
                if mended || moving {
                    break;
                }
                // Every cell is ahead of us: we start from a hint that was held up.
                (mended, steps) = (true, 0);
                at = self.refind(RingWord::Tail);
            }
            let cell = self.cell(at.index()).state();
            let word = cell.load(SeqCst);
            let state = State::from_word(word);
            match (state.lap.since(at.lap()), state.kind) {
                (0, CellKind::Free) => {
                    if let Some(first) = busy.take() {
                        (moving, steps) = (true, 0);
                        at = first;
                        continue;
                    }
                    if let Some(claim) =
                        Self::claim_word(self.cell(at.index()), me, at.index(), word, cursor)
                    {
                        self.advance(RingWord::Tail, cursor, at.next(cells));
                        return Look::Found(claim);
                    }
                    continue; // Somebody else has it: look at what it is now.
                }
                (0, CellKind::Writing | CellKind::Ready) | (1.., _) => {}
                (0, _) if moving => {
                    if cell
                        .swap_if(word, state.moved_on().to_word(), SeqCst)
                        .is_err()
                    {
                        continue;
                    }
                }
                (0, _) if busy.is_none() => {
                    (busy, steps) = (Some(at), 0);
                }
                (0, _) => {}
                (-1, CellKind::Writing | CellKind::Ready) => break,
                _ if !mended => {
                    (mended, steps) = (true, 0);
                    at = self.refind(RingWord::Tail);
                    continue;
                }
                _ => break,
            }
            at = at.next(cells);
            steps += 1;
        }
        cursor.position = busy.unwrap_or(at);
        Look::Nothing
    }

    /// Claims a cell that is free out of turn, if none is free in turn.
    #[cold]
    fn claim_anywhere(&self, me: Seat, cursor: &mut Cursor, turns: Turns) -> Scan<Claim> {
        loop {
            let mut free = None;
            let mut in_turn = false;
            let mut at = cursor.position;
            let mut reached = turns == Turns::Kept;
            for _ in 0..self.cells() {
                let word = self.cell(at.index()).state().load(SeqCst);
                let state = State::from_word(word);
                let ahead = state.lap.since(at.lap());
                match state.kind {
                    CellKind::Free if reached && ahead == 0 => in_turn = true,
                    CellKind::Free => free = free.or(Some((at.index(), word))),
                    _ => {}
                }
                reached &= ahead >= 0;
                at = at.next(self.cells());
            }
            let (index, word) = match free {
                _ if in_turn => {
                    let others = free.is_some();
                    return Scan::ComesInTurn { others };
                }
                None => return Scan::Nothing,
                Some(found) => found,
            };
            if let Some(claim) = Self::claim_word(self.cell(index), me, index, word, cursor) {
                return Scan::Took(Claim {
                    place: Place::out_of_turn(index),
                    ..claim
                });
            }
        }
    }

    /// Claims a free cell; for a later lap than it stands for, if this handle claimed further on before.
    #[inline(always)]
    fn claim_word(
        cell: Cell<'_, M::Word>,
        me: Seat,
        index: u32,
        word: u64,
        cursor: &mut Cursor,
    ) -> Option<Claim> {
        let free = State::from_word(word);
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
        // Release: publishes the header and the payload. SeqCst: before the look at who waits.
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

    /// Makes a message available whose claim was stepped over: at its cell's present place, behind
    /// messages that were claimed later.
    #[cold]
    pub fn publish_late(&self, claim: Claim) -> Publication {
        let published = self.publish_as(claim, |state| state.written_as(CellKind::Ready));
        if matches!(published, Publication::Done) {
            self.stray();
        }
        published
    }

    /// Puts the message in a claimed cell off until the time that [`note_delay`](Self::note_delay) noted. Its position is
    /// used up.
    #[cold]
    pub fn publish_delayed(&self, claim: Claim) -> Publication {
        self.publish_as(claim, |state| {
            state.written_as(CellKind::Delayed).moved_on()
        })
    }

    /// Publishes at whatever lap the cell stands for: no order is promised.
    fn publish_as(&self, claim: Claim, published: impl Fn(State) -> State) -> Publication {
        let mut claim = claim;
        loop {
            let next = published(State::from_word(claim.word));
            let cell = self.cell(claim.index()).state();
            match cell.swap_if(claim.word, next.to_word(), SeqCst) {
                Ok(()) => return Publication::Done,
                Err(word) => match self.stepped_over(claim, word) {
                    Publication::SteppedOver(again) => claim = again,
                    other => return other,
                },
            }
        }
    }

    /// Gives a claimed cell back unused. Whoever waits for room is to be told.
    pub fn abandon(&self, claim: Claim) {
        let cell = self.cell(claim.index()).state();
        let owner = State::from_word(claim.word).owner;
        let mut word = claim.word;
        loop {
            let state = State::from_word(word);
            if state.kind != CellKind::Writing || state.owner != owner {
                return; // Not ours any more: damage.
            }
            // Moved on: senders and receivers already count this lap's position as used.
            match cell.swap_if(word, State::free(state.lap.next()).to_word(), SeqCst) {
                Ok(()) => break,
                Err(changed) => word = changed,
            }
        }
        self.spare(); // It is free ahead of the senders' position.
    }

    // --- receiving -------------------------------------------------------------------------------

    /// Takes the next message, or `None` when there is none.
    #[inline(always)]
    pub fn take(&self, me: Seat, cursor: &mut Cursor) -> Option<Lease> {
        match self.take_at_once(me, cursor) {
            Some(lease) => Some(lease),
            None => self.take_somewhere(me, cursor),
        }
    }

    /// The message whose turn it is, if it is ready and was never delivered.
    #[inline(always)]
    fn take_at_once(&self, me: Seat, cursor: &mut Cursor) -> Option<Lease> {
        let at = self.start(RingWord::Head, cursor);
        let cell = self.cell(at.index());
        let fresh = State::free(at.lap()).released_as(CellKind::Ready).to_word();
        let run = mem::take(&mut cursor.run);
        if run == 0 && cell.state().load(SeqCst) != fresh {
            return None;
        }
        if run < M::STREAM {
            // The payload comes while the swap below waits for the header.
            self.memory.fetch_to_take(at.index());
        }
        let lease = Self::take_word(cell, me, at.index(), fresh)?;
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
        let mut at = self.start(RingWord::Head, cursor);
        let mut mended = false;
        let mut steps = 0;
        loop {
            if steps > cells {
                if mended {
                    break;
                }
                (mended, steps) = (true, 0);
                at = self.refind(RingWord::Head);
            }
            let cell = self.cell(at.index()).state();
            let word = cell.load(SeqCst);
            let state = State::from_word(word);
            match (state.lap.since(at.lap()), state.kind) {
                (0, CellKind::Ready) => {
                    if let Some(lease) =
                        Self::take_word(self.cell(at.index()), me, at.index(), word)
                    {
                        self.advance(RingWord::Head, cursor, at.next(cells));
                        return Look::Found(lease);
                    }
                    continue; // Somebody else has it: look at what it is now.
                }
                (0, CellKind::Writing) => match self.wait_for_sender(at, word) {
                    Patience::Nothing => {
                        cursor.position = at;
                        return Look::Nothing;
                    }
                    Patience::Changed => continue,
                    Patience::Over => {
                        if cell
                            .swap_if(word, state.stepped_over().to_word(), SeqCst)
                            .is_err()
                        {
                            continue;
                        }
                    }
                },
                (0, _) => {
                    cursor.position = at;
                    return Look::Nothing;
                }
                (1.., _) => {}
                _ if !mended => {
                    mended = true;
                    at = self.refind(RingWord::Head);
                    continue;
                }
                _ => break,
            }
            at = at.next(cells);
            steps += 1;
        }
        cursor.position = at;
        Look::Contradiction
    }

    /// The cell at `at` is being written. Is there a message behind it that would have to wait for it?
    #[cold]
    fn wait_for_sender(&self, at: Position, word: u64) -> Patience {
        let cell = self.cell(at.index()).state();
        if !self.is_ready_behind(at) {
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
    fn is_ready_behind(&self, at: Position) -> bool {
        let mut next = at.next(self.cells());
        while next.index() != at.index() {
            let state = State::from_word(self.cell(next.index()).state().load(SeqCst));
            match (state.lap.since(next.lap()), state.kind) {
                (0, CellKind::Ready) => return true,
                (0, CellKind::Writing) | (1.., _) => {}
                _ => return false,
            }
            next = next.next(self.cells());
        }
        false
    }

    /// Takes a message that is ready out of turn: a redelivered one, or the first of the others. Leaves those that come
    /// in turn to be taken so, unless turns are ignored.
    #[cold]
    fn take_anywhere(&self, me: Seat, position: Position, turns: Turns) -> Scan<Lease> {
        let cells = self.cells();
        let mut first: Option<(Position, u64)> = None;
        loop {
            let mut next: Option<(Position, u64)> = None;
            let mut in_turn: Option<Position> = None;
            let mut at = position;
            let mut reached = turns == Turns::Kept;
            for _ in 0..cells {
                let index = at.index();
                let word = self.cell(index).state().load(SeqCst);
                let state = State::from_word(word);
                let ahead = state.lap.since(at.lap());
                if state.kind == CellKind::Ready {
                    let found = Position::new(state.lap, index);
                    if reached && ahead == 0 {
                        in_turn = in_turn.or(Some(found));
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
                at = at.next(cells);
            }
            let (at, word) = match (next, in_turn) {
                (None, None) => return Scan::Nothing,
                (None, Some(_)) => return Scan::ComesInTurn { others: false },
                (Some((next, _)), Some(turn)) if turn.compare(next).is_lt() => {
                    return Scan::ComesInTurn { others: true };
                }
                (Some(next), _) => next,
            };
            // Only if a second scan says the same: what its sender sent before it was ready before it, maybe
            // behind our back.
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
        let lease = Self::take_word(self.cell(index), me, index, word)?;
        Some(Lease {
            place: Place::out_of_turn(index),
            ..lease
        })
    }

    #[inline(always)]
    fn take_word(cell: Cell<'_, M::Word>, me: Seat, index: u32, word: u64) -> Option<Lease> {
        let taken = State::from_word(word).taken_by(me);
        // Acquire: the header and the payload that the publication released.
        let swapped = cell.state().swap_if(word, taken.to_word(), SeqCst);
        swapped.ok().map(|()| Lease {
            place: Place::in_turn(index),
            ..Lease::of_state(index, taken)
        })
    }

    // --- settling --------------------------------------------------------------------------------

    /// Acks: the hot half of [`settle`](Self::settle).
    #[inline(always)]
    pub fn ack(&self, lease: &Lease) -> Settled {
        let state = State::from_word(lease.word);
        let freed = State::free(state.lap).to_word();
        let cell = self.cell(lease.index()).state();
        if state.zombie.is_none()
            && !lease.place.is_out_of_turn()
            && cell.swap_if(lease.word, freed, SeqCst).is_ok()
        {
            return Settled::Freed;
        }
        self.settle(lease, Settlement::Ack)
    }

    /// Ends a delivery. Exactly one settlement of a delivery is accepted, or none if its lease was lost.
    pub fn settle(&self, lease: &Lease, how: Settlement) -> Settled {
        let cell = self.cell(lease.index());
        let mut word = lease.word;
        let Some(me) = State::from_word(word).owner else {
            return Settled::LeaseLost;
        };
        if how != Settlement::Ack {
            word = cell.state().load(SeqCst);
        }
        loop {
            let state = State::from_word(word);
            let ours = state.kind == CellKind::Leased
                && state.owner == Some(me)
                && state.attempt == lease.attempt();
            if !ours {
                self.let_go(lease.index(), me);
                return Settled::LeaseLost;
            }
            let (next, settled) = self.outcome(state, how);
            match how {
                Settlement::Ack => {}
                Settlement::Nack | Settlement::Delay => {
                    cell.note(lease.attempt(), Cause::Nack, self.memory.process(me));
                }
                Settlement::Bury => {
                    cell.note(lease.attempt(), Cause::Bury, self.memory.process(me));
                }
            }
            match cell.state().swap_if(word, next.to_word(), SeqCst) {
                Ok(()) => {
                    let moved_on = state.lap != State::from_word(lease.word).lap;
                    self.raise_hint(settled, lease.place.is_out_of_turn() || moved_on);
                    return settled;
                }
                // Moved on by a sender, a zombie let go, or lost: look at what it is now.
                Err(changed) => word = changed,
            }
        }
    }

    fn outcome(&self, state: State, how: Settlement) -> (State, Settled) {
        let exhausted = state.attempt >= self.attempt_limit;
        match how {
            Settlement::Ack => match state.finished() {
                freed if freed.kind == CellKind::Free => (freed, Settled::Freed),
                kept => (kept, Settled::Quarantined),
            },
            Settlement::Nack if !exhausted => (state.released_as(CellKind::Ready), Settled::Ready),
            Settlement::Delay if !exhausted => {
                (state.released_as(CellKind::Delayed), Settled::Delayed)
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

    /// Takes away one of `me`'s zombie marks on a cell; whether that made room.
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

    /// Drops the message in a cell if it still has this word, and waits for somebody to take it or for its time.
    pub fn drop_waiting(&self, index: u32, word: u64) -> Option<CellKind> {
        let state = State::from_word(word);
        let left = match state.kind {
            // Its position is used up, as if somebody had taken and acked it.
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

    /// Drops whatever waits; how many messages.
    pub fn purge(&self) -> u64 {
        let drop_one = |index: &u32| {
            let word = self.cell(*index).state().load(SeqCst);
            self.drop_waiting(*index, word).is_some()
        };
        (0..self.cells()).filter(drop_one).count() as u64
    }

    // --- looking ---------------------------------------------------------------------------------

    /// When the message was sent that this cursor finds next, if one is there whose turn it is. May be of another one by
    /// now: only for choosing where to look first.
    pub fn next_sent_at(&self, cursor: &Cursor) -> Option<Timestamp> {
        let at = self.start(RingWord::Head, cursor);
        let cell = self.cell(at.index());
        let state = State::from_word(cell.state().load(SeqCst));
        let is_next = state.kind == CellKind::Ready && state.lap == at.lap();
        is_next.then(|| cell.envelope().sent_at)
    }

    /// Whether there is more to take, or more room, right behind what this cursor found last.
    pub fn has_more(&self, which: RingWord, cursor: &Cursor) -> bool {
        let wanted = match which {
            RingWord::Head | RingWord::Stray => CellKind::Ready,
            RingWord::Tail | RingWord::Spare => CellKind::Free,
        };
        let at = self.start(which, cursor);
        let state = State::from_word(self.cell(at.index()).state().load(SeqCst));
        state.kind == wanted && state.lap == at.lap()
    }

    /// Who holds which message, delivered how often.
    pub fn leased(&self) -> impl Iterator<Item = (Seat, MessageId, u8)> + '_ {
        (0..self.cells()).filter_map(|index| {
            let cell = self.cell(index);
            let word = cell.state().load(SeqCst);
            let state = State::from_word(word);
            let id = cell.envelope().id;
            // The id is the message's only if the cell did not change hands meanwhile.
            let owner = state.owner.filter(|_| state.kind == CellKind::Leased)?;
            (cell.state().load(SeqCst) == word).then_some((owner, id, state.attempt))
        })
    }

    /// How many cells hold something of that kind, now more or less.
    pub fn count(&self, kind: CellKind) -> u64 {
        let states = (0..self.cells()).map(|index| self.cell(index).state().load(SeqCst));
        states
            .filter(|word| State::from_word(*word).kind == kind)
            .count() as u64
    }

    /// Whether nothing is left that somebody other than `me` may still have to deliver or settle.
    pub fn is_drained(&self, me: Option<Seat>) -> bool {
        let words = || -> Vec<u64> {
            let states = (0..self.cells()).map(|index| self.cell(index).state());
            states.map(|state| state.load(SeqCst)).collect()
        };
        let done = |word: &u64| {
            let state = State::from_word(*word);
            match state.kind {
                CellKind::Free | CellKind::Dead | CellKind::Quarantined | CellKind::Damaged => true,
                CellKind::Leased => {
                    me.is_some_and(|me| state.owner == Some(me)) || state.attempt == State::REQUEUED
                }
                CellKind::Writing | CellKind::Ready | CellKind::Delayed => false,
            }
        };
        let mut seen = words();
        loop {
            if !seen.iter().all(done) {
                return false;
            }
            // Words never come back: twice the same, and all of it was so at one moment. A message that its sender
            // moved from a cell not looked at yet to one looked at before would be missed otherwise.
            let again = words();
            if again == seen {
                return true;
            }
            seen = again;
        }
    }

    // --- hints -----------------------------------------------------------------------------------

    /// Says that a message is ready elsewhere than at the receivers' position.
    pub fn stray(&self) {
        self.memory.ring_word(RingWord::Stray).add(1, SeqCst);
    }

    /// Says that a cell is free elsewhere than at the senders' position.
    pub fn spare(&self) {
        self.memory.ring_word(RingWord::Spare).add(1, SeqCst);
    }

    #[inline(always)]
    fn load_hint(&self, which: RingWord) -> u64 {
        self.memory.ring_word(which).load(Relaxed)
    }

    #[inline(always)]
    fn start(&self, which: RingWord, cursor: &Cursor) -> Position {
        let hint = Position::from_word(self.load_hint(which), self.cells());
        match hint.compare(cursor.position) {
            Compared::Greater => hint,
            Compared::Less | Compared::Equal => cursor.position,
        }
    }

    #[inline(always)]
    fn advance(&self, which: RingWord, cursor: &mut Cursor, to: Position) {
        cursor.position = to;
        self.memory.ring_word(which).store(to.to_word(), Relaxed);
    }

    /// Has the next `count` cells fetched, which will be claimed or taken at once, in a batch.
    #[inline]
    pub fn fetch_batch(&self, which: RingWord, cursor: &Cursor, count: u32) {
        if cursor.run < M::STREAM {
            return;
        }
        let mut at = self.start(which, cursor);
        for _ in 0..count.min(self.cells()) {
            match which {
                RingWord::Tail | RingWord::Spare => self.memory.fetch_to_fill(at.index()),
                RingWord::Head | RingWord::Stray => self.memory.fetch_to_take(at.index()),
            }
            at = at.next(self.cells());
        }
    }

    /// The cell that is used `AHEAD` operations after the one at this position.
    #[inline(always)]
    fn ahead(&self, at: Position) -> u32 {
        let index = at.index() + AHEAD;
        index.checked_sub(self.cells()).unwrap_or(index)
    }

    /// Works out a position from the cells alone, after a hint was held up or turned out to be damaged: the first
    /// that senders (receivers) have still to deal with. Never too far on, whatever changes meanwhile, since
    /// cells only move on.
    #[cold]
    fn refind(&self, which: RingWord) -> Position {
        let position = |index: u32| {
            let state = State::from_word(self.cell(index).state().load(SeqCst));
            let lap = match (which, state.kind) {
                (RingWord::Tail | RingWord::Spare, CellKind::Ready | CellKind::Writing) => {
                    state.lap.next()
                }
                _ => state.lap,
            };
            Position::new(lap, index)
        };
        let first = (0..self.cells())
            .map(position)
            .min_by(|one, other| one.compare(*other))
            .unwrap_or_default();
        self.memory.ring_word(which).store(first.to_word(), Relaxed);
        first
    }
}

/// How many cells ahead to fetch: four operations take as long as a cache line from the other process.
const AHEAD: u32 = 4;

/// What a receiver found out about a cell that is being written.
enum Patience {
    /// No later message is there: nothing to receive.
    Nothing,
    /// It is done, or somebody stepped over it.
    Changed,
    /// It takes too long, and a later message may be there.
    Over,
}
