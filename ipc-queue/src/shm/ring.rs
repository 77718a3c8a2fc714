//! The ring of owned cells: many senders, many receivers, any of which may die between any two
//! lines.
//!
//! One word per cell is the whole truth, and the compare-and-swap that changes who is responsible
//! for a message also writes who that is (`word` has the table of changes). A cell always stands
//! for one position, its lap's; whoever can't wait for it moves it on to its next lap. So nobody
//! ever waits for anybody: a sender steps over cells that are leased, delayed or dead, a receiver
//! steps over a cell whose sender does not come to an end while a later message is there.
//!
//! Four words beside the cells are hints. `Head` and `Tail` say where to start looking. `Stray`
//! counts messages that became ready elsewhere than at the receivers' position (given back,
//! recovered): a receiver that reads "empty" and sees a count that it has not dealt with scans all
//! cells first, and forgets the count only after a scan that found nothing. `Spare` does the same
//! for senders and free cells, so that the capacity is exact also after redeliveries. Hints that
//! nobody raised are raised by recovery, and by patrols (`patrol`).
//!
//! Order: messages are taken in the order in which cells were claimed. A sender whose claim was
//! stepped over moves its message to the end instead of publishing it out of turn
//! (`Publication::SteppedOver`). A cell that was claimed out of turn may stand for a later position
//! than cells that are still free, so a sender claims each cell for a lap that puts it after its
//! last one; and who takes out of turn takes the first of what is there.
//!
//! Does not wait, does not know payloads, does not decide who is dead.
//!
//! Kin: Vyukov's bounded MPMC queue
//! (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>) has the
//! per-cell lap, but loses its way when a process dies between claim and publish; naming the owner
//! in the same word is what makes that recoverable.

mod batches;
mod looking;
mod receiving;
mod runs;
mod sending;
mod settling;
mod walk;

use std::cmp::Ordering as Compared;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use ipc_proto::QueueSettings;

use super::cell::{Cell, Tally};
use super::memory::{Memory, RingWord, Word};
use super::word::{CellKind, Lap, Position, State};

pub use batches::{Few, TOGETHER};
pub(in crate::shm) use runs::seen_in;
pub use runs::{Run, RunPublication, Taken};

/// The ring, on some memory.
#[derive(Debug)]
pub struct Ring<M> {
    memory: M,
    limits: Limits,
}

/// How often a message's deliveries may fail before it becomes a dead letter: whichever limit is
/// reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts, whatever ended them.
    pub attempts: u8,
    /// Receivers that died.
    pub crashes: u8,
    /// Leases that ended by time.
    pub expiries: u8,
}

impl Limits {
    /// Only the number of attempts counts.
    #[cfg(test)]
    pub fn attempts(attempts: u8) -> Self {
        Self {
            attempts,
            crashes: attempts,
            expiries: attempts,
        }
    }

    /// The limits of a queue with these settings.
    pub fn of(settings: &QueueSettings) -> Self {
        Self {
            attempts: settings.attempt_limit,
            crashes: settings.crash_limit,
            expiries: settings.expiry_limit,
        }
    }

    /// Whether one of them is reached.
    pub(super) fn are_reached(self, tally: Tally) -> bool {
        tally.failures() >= self.attempts
            || tally.crashes >= self.crashes
            || tally.expiries >= self.expiries
    }
}

/// What one handle remembers between calls; a starting point, never the truth.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub struct Cursor {
    position: Position,
    /// Whether this handle found out by itself that something begins at `position`. Else a hint
    /// said so.
    is_known: bool,
    /// Where this handle claimed or published last. What it sends next must not come before that.
    last: Option<Position>,
    /// The `Stray` or `Spare` count that this handle has dealt with.
    dealt_with: u64,
    /// How often in a row it found what it looked for; at most [`STREAM`](Memory::STREAM).
    ///
    /// After once the next cell will be as expected, too, and is swapped without a look before:
    /// that would fetch its cache line twice, once to read and once to write. Who waits must look,
    /// or it would take the line from those who are to change it. In a stream cells are fetched
    /// ahead, for the same reason not before.
    run: u8,
}

impl Cursor {
    /// Where this handle knows that something begins.
    #[inline(always)]
    fn trusted(&self) -> Position {
        if self.is_known {
            self.position
        } else {
            Position::NOWHERE
        }
    }

    /// Goes to where something begins.
    #[inline(always)]
    fn go_to(&mut self, position: Position) {
        self.position = position;
        self.is_known = true;
    }

    /// The lap, from `lap` on, at which cell `index` comes after whatever this handle claimed
    /// before.
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
    /// Receivers went past while it was being written; nothing was published yet. Moving the
    /// message to a new claim spares receivers a look everywhere; [`Ring::publish_late`] needs no
    /// room.
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
/// One word, never zero, so that a claim or a lease, or none, is returned in two registers: through
/// memory, written in pieces and read back whole, each would stall the processor for longer than a
/// locked instruction takes. It is the index plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place(NonZeroU64);

impl Place {
    const OUT_OF_TURN: u64 = 1 << 32;
    /// Of a lease that was taken with others: its number, and the number of the others.
    const OFFSET_SHIFT: u32 = 33;
    const MORE_SHIFT: u32 = 40;
    const SHORT_MASK: u64 = (1 << 7) - 1;

    #[inline(always)]
    fn in_turn(index: u32) -> Self {
        Self(NonZeroU64::MIN.saturating_add(index.into()))
    }

    #[inline(always)]
    fn out_of_turn(index: u32) -> Self {
        Self(Self::in_turn(index).0 | Self::OUT_OF_TURN)
    }

    /// The same, as number `offset` of a run of `len` cells.
    #[inline(always)]
    fn of_run(self, offset: u32, len: u32) -> Self {
        let more = u64::from(len) - 1;
        Self(self.0 | u64::from(offset) << Self::OFFSET_SHIFT | more << Self::MORE_SHIFT)
    }

    #[inline(always)]
    fn offset(self) -> u32 {
        (self.0.get() >> Self::OFFSET_SHIFT & Self::SHORT_MASK) as u32
    }

    #[inline(always)]
    fn run_len(self) -> u32 {
        (self.0.get() >> Self::MORE_SHIFT & Self::SHORT_MASK) as u32 + 1
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

    /// The lease of message `offset` of those that were taken together.
    pub(super) fn other_of_run(&self, offset: u32) -> Self {
        let (own, len) = self.in_run();
        Self {
            place: Place::in_turn(self.index() - own + offset).of_run(offset, len),
            word: self.word,
        }
    }

    /// Which of the messages this is that were taken together, and how many those are.
    #[inline(always)]
    pub fn in_run(&self) -> (u32, u32) {
        (self.place.offset(), self.place.run_len())
    }

    /// The lap at which the message was taken. Each delivery takes its cell at least one lap
    /// further.
    pub fn lap_number(&self) -> u64 {
        State::from_word(self.word).lap.number()
    }

    /// The number of the delivery: 1 for the first of a message. Not how often a requeued message
    /// was delivered since: [`Ring::attempts`] says that.
    #[inline(always)]
    pub fn attempt(&self) -> u8 {
        State::from_word(self.word).attempt
    }

    /// Whether a cell's word is still the one that gave us this lease.
    #[inline(always)]
    pub(super) fn is_of(&self, word: u64) -> bool {
        self.word == word
    }

    /// Whether this lease is the one in this state of its cell, which a sender may have moved on.
    pub(super) fn is_held_in(&self, state: State) -> bool {
        let ours = State::from_word(self.word);
        state.kind == CellKind::Leased && state.owner == ours.owner && state.attempt == ours.attempt
    }
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done.
    Ack,
    /// To be delivered again at once, if attempts are left.
    Nack,
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
    /// The lease was over, though nobody had taken the message away yet: it can be taken again, or
    /// is a dead letter.
    Over,
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
/// What is taken out of turn makes others look everywhere, too: a stream in which both sides did so
/// because of each other would never find back into its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turns {
    Kept,
    Ignored,
}

impl<M: Memory> Ring<M> {
    /// The ring on `memory`. Zeroed memory is an empty ring.
    pub fn new(memory: M, limits: Limits) -> Self {
        Self { memory, limits }
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

    /// The number of attempts at the message since it was sent, or requeued, this one included.
    /// Deliveries that were snoozed are not attempts.
    #[inline]
    pub fn attempts(&self, lease: &Lease) -> u8 {
        match lease.attempt() {
            // Whatever was requeued was delivered before.
            1 => 1,
            _ => self
                .cell(lease.index())
                .attempts(State::from_word(lease.word)),
        }
    }

    /// The memory that it is on.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// How the earlier deliveries of the message ended.
    pub fn tally(&self, lease: &Lease) -> Tally {
        let cell = self.cell(lease.index());
        cell.tally(State::from_word(lease.word))
    }

    /// How often deliveries may fail before a message becomes a dead letter.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A cursor for a new handle, that will scan once before it says "empty" or "full".
    pub fn cursor(&self, hint: RingWord) -> Cursor {
        let strays = match hint {
            RingWord::Head | RingWord::Stray => RingWord::Stray,
            RingWord::Tail | RingWord::Spare => RingWord::Spare,
        };
        Cursor {
            position: Position::from_word(self.load_hint(hint), self.cells()),
            is_known: false,
            last: None,
            dealt_with: self.load_hint(strays).wrapping_sub(1),
            run: 0,
        }
    }

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
        cursor.go_to(to);
        self.memory.ring_word(which).store(to.to_word(), Relaxed);
    }

    /// The cell that is used `AHEAD` operations after the one at this position.
    #[inline(always)]
    fn ahead(&self, at: Position) -> u32 {
        self.behind(at.index(), AHEAD)
    }

    /// The cell `count` cells after another.
    #[inline(always)]
    fn behind(&self, index: u32, count: u32) -> u32 {
        let index = index + count;
        index.checked_sub(self.cells()).unwrap_or(index)
    }

    /// Works out a position from the cells alone, after a hint was held up or turned out to be
    /// damaged: the first that senders (receivers) have still to deal with. Never too far on,
    /// whatever changes meanwhile, since cells only move on.
    #[cold]
    fn refind(&self, which: RingWord) -> Position {
        let position = |index: u32| {
            let state = self.begins_at(index)?;
            let lap = match (which, state.kind) {
                (RingWord::Tail | RingWord::Spare, CellKind::Ready | CellKind::Writing) => {
                    state.lap.next()
                }
                _ => state.lap,
            };
            Some(Position::new(lap, index))
        };
        let first = (0..self.cells())
            .filter_map(position)
            .min_by(|one, other| one.compare(*other))
            .unwrap_or_default();
        self.memory.ring_word(which).store(first.to_word(), Relaxed);
        first
    }
}

/// How many cells ahead to fetch: four operations take as long as a cache line from the other
/// process.
const AHEAD: u32 = 4;
