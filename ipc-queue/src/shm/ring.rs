//! The ring of owned cells: many senders, many receivers, any of which may die between any two
//! lines.
//!
//! A cell's state is one word. The compare-and-swap that changes the owner of a message also
//! records the new owner in that word (`word` has the table of transitions). A cell always stands
//! for one position, that of its lap. A process that can't wait for a cell moves it on to its next
//! lap. So no process ever waits for another. A sender steps over cells that are leased, delayed or
//! dead. A receiver steps over a cell whose sender does not publish while a later message is there.
//!
//! Four words beside the cells are hints. `Head` and `Tail` say where to search first. `Stray`
//! counts messages that became ready elsewhere than at the receivers' position, because they were
//! returned or recovered. A receiver that finds nothing, and sees a count that it has not dealt
//! with, scans all cells before it reports "empty". It forgets the count only after a scan that
//! found nothing. `Spare` does the same for senders and free cells, so the capacity is exact even
//! after redeliveries. Recovery and the scrubber (`patrol`) raise the hints that a killed or
//! stopped process did not raise.
//!
//! Order: messages are taken in the order in which cells were claimed. A sender whose claim was
//! stepped over moves its message to the end instead of publishing it out of order
//! (`Publication::SteppedOver`). A cell that was claimed out of order may stand for a later
//! position than cells that are still free. So a sender claims each cell for a lap that puts it
//! after the sender's last one. A receiver that takes out of order takes the first message that is
//! there.
//!
//! Does not wait, does not know payloads, does not decide which processes are dead.
//!
//! Related: Vyukov's bounded MPMC queue
//! (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>) has the
//! per-cell lap, but cannot recover when a process dies between claim and publish. The owner in the
//! same word is what makes that recoverable.

mod batches;
mod looking;
mod receiving;
mod runs;
mod sending;
mod settling;
mod walk;

use std::cmp::Ordering as Compared;
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use ipc_proto::QueueSettings;

use super::cell::{Cell, Tally};
use super::memory::{Memory, RingWord, Word};
use super::tag::TagFields;
use super::word::{CellKind, Lap, Position, State};

pub use batches::{Few, TOGETHER};
pub(in crate::shm) use runs::seen_in;
pub use runs::{Run, RunPublication, Taken};

/// A ring on some memory.
#[derive(Debug)]
pub struct Ring<M> {
    memory: M,
    limits: Limits,
    tags: TagFields,
}

/// The limits on a message's failed deliveries. A message that reaches any of them becomes a dead
/// letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The number of attempts, however they ended.
    pub attempts: u8,
    /// The number of deliveries whose receiver died.
    pub crashes: u8,
    /// The number of deliveries whose lease expired.
    pub expiries: u8,
}

impl Limits {
    /// Returns limits of which only the number of attempts matters.
    #[cfg(test)]
    pub fn attempts(attempts: u8) -> Self {
        Self {
            attempts,
            crashes: attempts,
            expiries: attempts,
        }
    }

    /// Returns the limits of a queue with these settings.
    pub fn of(settings: &QueueSettings) -> Self {
        Self {
            attempts: settings.attempt_limit,
            crashes: settings.crash_limit,
            expiries: settings.expiry_limit,
        }
    }

    /// Returns whether a limit is reached.
    pub(super) fn are_reached(self, tally: Tally) -> bool {
        tally.failures() >= self.attempts
            || tally.crashes >= self.crashes
            || tally.expiries >= self.expiries
    }
}

/// What one handle keeps between calls: only ever a starting point for the search.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub struct Cursor {
    position: Position,
    /// Set if this handle found out by itself that something begins at `position`. Otherwise only a
    /// hint said so.
    is_known: bool,
    /// The position that this handle claimed or published last. Its next message must not come
    /// before it.
    last: Option<Position>,
    /// The `Stray` or `Spare` count that this handle has dealt with.
    dealt_with: u64,
    /// The number of consecutive operations that succeeded at once; at most
    /// [`STREAM`](Memory::STREAM).
    ///
    /// After one success the next cell is expected to be as predicted, so the handle swaps it
    /// without loading it first. A load would fetch its cache line twice: once to read and once to
    /// write. A handle that waits must load first: a swap would take the line from the processes
    /// that are about to change the cell. Cells are fetched ahead only in a stream, for the same
    /// reason.
    run: u8,
}

impl Cursor {
    /// Returns the position where this handle knows that something begins, or `NOWHERE`.
    #[inline(always)]
    fn trusted(&self) -> Position {
        if self.is_known {
            self.position
        } else {
            Position::NOWHERE
        }
    }

    /// Goes to a position where something begins.
    #[inline(always)]
    fn go_to(&mut self, position: Position) {
        self.position = position;
        self.is_known = true;
    }

    /// Returns the first lap, not before `lap`, at which cell `index` comes after everything that
    /// this handle claimed before.
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
    /// If it is out of order, receivers do not reach the cell by themselves.
    place: Place,
    word: u64,
}

impl Claim {
    /// Returns the index of the cell.
    #[inline(always)]
    pub fn index(&self) -> u32 {
        self.place.index()
    }
}

/// The outcome of a publication.
#[derive(Debug)]
#[must_use]
pub enum Publication {
    /// Receivers can take the message.
    Done,
    /// Receivers stepped over the cell while it was being written, and nothing is published yet.
    /// Moving the message to a new claim saves receivers a full scan. [`Ring::publish_late`] needs
    /// no new cell.
    SteppedOver(Claim),
    /// The cell no longer belongs to the sender. Only damage explains that.
    Lost,
}

/// A message that its holder may read and settle.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
#[must_use = "settle it"]
pub struct Lease(
    /// The cell's word when the message was taken, above the bits of its [`Place`]. One number,
    /// which the compiler moves in two registers.
    NonZeroU128,
);

/// The index of a cell, and whether the cell was claimed or taken in FIFO order.
///
/// One word, never zero, so that an optional claim or lease is returned in two registers. In memory
/// it would be written in pieces and read back whole, which stalls the processor for longer than a
/// locked instruction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place(NonZeroU64);

impl Place {
    /// Set in each.
    const IS_THERE: NonZeroU64 = NonZeroU64::new(1 << 63).unwrap();
    const OUT_OF_TURN: u64 = 1 << 32;
    /// For a lease that was taken with others: its offset in the run, and the number of the others.
    const OFFSET_SHIFT: u32 = 33;
    const MORE_SHIFT: u32 = 40;
    const SHORT_MASK: u64 = (1 << 7) - 1;

    #[inline(always)]
    fn from_bits(bits: u64) -> Self {
        Self(Self::IS_THERE | bits)
    }

    #[inline(always)]
    fn in_turn(index: u32) -> Self {
        Self::from_bits(index.into())
    }

    #[inline(always)]
    fn out_of_turn(index: u32) -> Self {
        Self(Self::in_turn(index).0 | Self::OUT_OF_TURN)
    }

    /// Returns the same place, as member `offset` of a run of `len` cells.
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
        self.0.get() as u32
    }

    #[inline(always)]
    fn is_out_of_turn(self) -> bool {
        self.0.get() & Self::OUT_OF_TURN != 0
    }
}

impl Lease {
    #[inline(always)]
    fn new(place: Place, word: u64) -> Self {
        Self(NonZeroU128::from(place.0) | u128::from(word) << u64::BITS)
    }

    /// Returns the cell. If it is out of order, it will be freed out of order, too.
    #[inline(always)]
    fn place(&self) -> Place {
        Place::from_bits(self.0.get() as u64)
    }

    /// Returns the word of the cell when the message was taken.
    #[inline(always)]
    fn word(&self) -> u64 {
        (self.0.get() >> u64::BITS) as u64
    }

    /// Returns the same right once more, for a caller that forgets this one.
    pub(super) fn hand_over(&self) -> Self {
        Self(self.0)
    }

    /// Returns the index of the cell.
    #[inline(always)]
    pub fn index(&self) -> u32 {
        self.place().index()
    }

    /// Returns the lease of message `offset` of those that were taken together.
    pub(super) fn other_of_run(&self, offset: u32) -> Self {
        let (own, len) = self.in_run();
        let place = Place::in_turn(self.index() - own + offset).of_run(offset, len);
        Self::new(place, self.word())
    }

    /// Returns the offset of this message among those that were taken together, and their number.
    #[inline(always)]
    pub fn in_run(&self) -> (u32, u32) {
        (self.place().offset(), self.place().run_len())
    }

    /// Returns the lap at which the message was taken. Each delivery advances its cell by at least
    /// one lap.
    pub fn lap_number(&self) -> u64 {
        State::from_word(self.word()).lap.number()
    }

    /// Returns the number of the delivery: 1 for the first of a message. It does not start over
    /// when a message is requeued; [`Ring::attempts`] does.
    #[inline(always)]
    pub fn attempt(&self) -> u8 {
        State::from_word(self.word()).attempt
    }

    /// Returns whether a cell's word is still the one that gave us this lease.
    #[inline(always)]
    pub(super) fn is_of(&self, word: u64) -> bool {
        self.word() == word
    }

    /// Returns whether this state of the cell has this lease. A sender may have moved the cell on.
    pub(super) fn is_held_in(&self, state: State) -> bool {
        let ours = State::from_word(self.word());
        state.kind == CellKind::Leased && state.owner == ours.owner && state.attempt == ours.attempt
    }
}

/// The end of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The message is done.
    Ack,
    /// The message is to be delivered again at once, if attempts are left.
    Nack,
    /// The message is never to be delivered again.
    Bury,
}

/// The state of the cell after a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Settled {
    /// The cell has room for another message.
    Freed,
    /// The message can be taken again.
    Ready,
    /// The message will be ready later.
    Delayed,
    /// The message is a dead letter.
    Dead,
    /// The message is done, but a former holder may still be reading it: there is no room yet.
    Quarantined,
    /// The lease had been lost. Nothing was settled, and the message is no longer this receiver's.
    LeaseLost,
    /// The lease was over, although no process had taken the message back yet. The message can be
    /// taken again, or is a dead letter.
    Over,
}

/// The result of a search in FIFO order.
enum Look<T> {
    Found(T),
    /// There is nothing to find.
    Nothing,
    /// The cells contradict the position: the position or a cell is damaged.
    Contradiction,
}

/// The result of a scan of all cells.
enum Scan<T> {
    /// Something out of order, which now belongs to this handle.
    Took(T),
    /// The next search in FIFO order finds something. `others`: there is more, out of order.
    ComesInTurn {
        others: bool,
    },
    Nothing,
}

/// How a scan of all cells treats what the next search in FIFO order would find: `Kept` leaves it,
/// `Ignored` does not.
///
/// Taking something out of order makes other handles scan, too. If both sides of a stream did so
/// because of each other, it would never return to FIFO order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turns {
    Kept,
    Ignored,
}

impl<M: Memory> Ring<M> {
    /// Creates the ring on `memory`. Zeroed memory is an empty ring.
    pub fn new(memory: M, limits: Limits) -> Self {
        let tags = TagFields::new(memory.units(), memory.cells());
        Self {
            memory,
            limits,
            tags,
        }
    }

    /// Returns the number of cells, each of which holds one message.
    #[inline]
    pub fn cells(&self) -> u32 {
        self.memory.cells()
    }

    /// Returns the header of cell `index`.
    #[inline(always)]
    pub fn cell(&self, index: u32) -> Cell<'_, M::Word> {
        Cell::new(self.memory.cell(index))
    }

    /// Returns the number of attempts at the message since it was sent or requeued, including this
    /// one. Snoozed deliveries are not attempts.
    #[inline]
    pub fn attempts(&self, lease: &Lease) -> u8 {
        match lease.attempt() {
            // A requeued message was delivered before, so its number is above 1.
            1 => 1,
            _ => self
                .cell(lease.index())
                .attempts(State::from_word(lease.word())),
        }
    }

    /// Returns the widths of the fields of the units' tags.
    #[inline(always)]
    pub(super) fn tags(&self) -> TagFields {
        self.tags
    }

    /// Returns the memory of the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the record of how the earlier deliveries of the message ended.
    pub fn tally(&self, lease: &Lease) -> Tally {
        let cell = self.cell(lease.index());
        cell.tally(State::from_word(lease.word()))
    }

    /// Returns the limits on failed deliveries.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns a cursor for a new handle, which scans once before it reports "empty" or "full".
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

    /// Raises the hint that a message is ready elsewhere than at the receivers' position.
    pub fn stray(&self) {
        self.memory.ring_word(RingWord::Stray).add(1, SeqCst);
    }

    /// Raises the hint that a cell is free elsewhere than at the senders' position.
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

    /// Returns the index of the cell that is used `AHEAD` operations after the one at this
    /// position.
    #[inline(always)]
    fn ahead(&self, at: Position) -> u32 {
        self.behind(at.index(), AHEAD)
    }

    /// Returns the index of the cell that is `count` cells after another.
    #[inline(always)]
    fn behind(&self, index: u32, count: u32) -> u32 {
        let index = index + count;
        index.checked_sub(self.cells()).unwrap_or(index)
    }

    /// Computes a position from the cells alone, after a hint was found stale or damaged: the first
    /// that senders (receivers) still have to deal with. The result is never too far ahead,
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

/// The number of cells to fetch ahead: four operations take as long as the transfer of a cache line
/// from the other process.
const AHEAD: u32 = 4;
