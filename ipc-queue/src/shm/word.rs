//! The words of the ring, as values with named fields.
//!
//! A cell's state word is the only source of truth about its message. Its transitions:
//!
//! | from | to | by | when |
//! |---|---|---|---|
//! | `FREE lap` | `WRITING(me) lap` | a sender | it claims the cell |
//! | `FREE lap` | `WRITING(me)`, a later lap | a sender | so that it comes after what that sender claimed before |
//! | `WRITING(me) lap` | `READY lap` | that sender | it publishes |
//! | `WRITING(me) lap` | `READY`, that lap or a later one | that sender | it publishes late, behind what it sent before |
//! | `WRITING(me) lap` | `FREE lap+1` | that sender, or any process once it is dead | the loan is abandoned |
//! | `WRITING lap` | `WRITING lap+1`, one step more | a receiver | it cannot wait, and steps over |
//! | `WRITING(me) lap` | `DELAYED lap+1` | that sender | it delays the message |
//! | `READY lap` | `LEASED(me) attempt+1 lap+1` | a receiver | it takes the message |
//! | `LEASED(me)` | `FREE` | that receiver | ack; `QUARANTINED` if a zombie still reads |
//! | `LEASED(me)` | `READY`, `DEAD` | that receiver | nack; bury, or a nack when the attempts are used up |
//! | `LEASED(x)` | `DELAYED` | x, or any process | x recorded a delay (`due`): a nack with a delay, or a snooze |
//! | `LEASED(me)` | `READY` | that receiver | it snoozed without a delay, and recorded that |
//! | `LEASED(dead)` | `READY`, `DEAD` | any process | after the holder's death |
//! | `LEASED(x)` | `READY zombie=x` | any process | the lease expired; a second time: `DEAD` |
//! | `DELAYED` | `READY` | any process | when due |
//! | `READY lap` | `FREE lap+1`, `QUARANTINED lap+1` | any process | purged, or expired |
//! | `DELAYED` | `FREE`, `QUARANTINED` | any process | purged |
//! | `DEAD` | `FREE`, `QUARANTINED` | any process | dropped |
//! | `DEAD` | `READY`, its mark, if it has one, as `zombie` | any process | requeued, unless two former holders may be reading |
//! | `READY lap` | `DEAD lap+1` | the process that requeued it | the queue was closed meanwhile, and no receiver took it |
//! | any with `zombie=me` | the same without | the zombie, or any process once it is dead | it let go; `QUARANTINED` becomes `FREE` |
//! | `LEASED DELAYED DEAD QUARANTINED lap` | the same, `lap+1` | a sender | it steps over |
//!
//! # Runs
//!
//! Some words govern `more` cells behind their own: those of `FREE`, of `WRITING`, of `READY`
//! before the first delivery, and of `LEASED` in the first delivery. Together they are a run of `n`
//! cells, written `xn`. Where the table above has no length, it is 1. The words inside a run say
//! what the rest of it is from there on. Once no cell before it governs it, `INSIDE(READY) xn`
//! means `READY xn`, and `INSIDE(FREE) xn` means `FREE xn`. See `ring/runs.rs`.
//!
//! | from | to | by | when |
//! |---|---|---|---|
//! | `FREE xn lap` | `WRITING(me) xm lap`, m ≤ n | a sender | it claims the first cells of a run of room |
//! | `WRITING(me) xn` | `WRITING(me) xm`, m > n | that sender | it also claimed the cells behind |
//! | inside `WRITING(me)` | `INSIDE(READY)` | that sender, by a store | it filled the cell |
//! | `WRITING(me) xn lap` | `READY xn lap` | that sender | it publishes all |
//! | `READY xn lap` | `LEASED(me) xm`, attempt 1, lap+1, m ≤ n | a receiver | it takes the first messages of a run |
//! | inside `LEASED(me)` | `INSIDE(FREE)` | that receiver, by a store | it is about to ack all |
//! | `LEASED(me) xn` | `FREE xn` | that receiver | it acks all |
//! | `WRITING xn lap` | `WRITING xn lap+1`, one step more | a receiver | it steps over all |
//! | `LEASED xn lap` | `LEASED xn lap+1` | a sender | it steps over all |
//! | inside `WRITING(x)`, `LEASED(x)` | `WRITING(x)`, `LEASED(x)`, of the run's lap | x, by a store; any process once it is dead | each is to be a cell by itself, the last first |
//! | `WRITING(x) xn`, `LEASED(x) xn` | the same, x1 | x, or any process once it is dead | each cell behind it is one by itself |
//! | `FREE xn`, `READY xn` | the same, x1 | any process | it parts the first cell from the others |
//!
//! Laps only grow, and a cell is claimed at most once a lap, so a word never comes back. A
//! compare-and-swap that succeeds acted on exactly the state that was read. A word may come back
//! only inside a run, when the sender gives the run up. No other process swaps words there.
//!
//! # Requeueing
//!
//! Requeueing is one swap, `DEAD` → `READY`. The attempt does not change. Before the swap,
//! `Cell::count_from` records the attempt from which deliveries count if this letter is requeued.
//! The record is about this letter only once the letter is no longer `DEAD` at that attempt. So a
//! process that is killed, or stopped for any length of time, leaves either the letter with its
//! attempts and its reason, or a message that starts anew. Since attempts count on, no two
//! deliveries of a generation have the same number. So a receiver that lost a lease before cannot
//! be mistaken for the present one.
//!
//! # Attempts and deliveries
//!
//! The `attempt` of a word numbers deliveries, including snoozed ones. The limits are about
//! attempts. Their number is the sum of the tally's counters, which a snoozed delivery does not
//! change (`Tally`). The holder records the snooze before the time, and the time before the state
//! changes. So a kill in between leaves a crash, or a nack with a delay: one attempt too many,
//! never one too few.
//!
//! After 255, numbers start over at 2. Attempts cannot get that far, because the limits are lower,
//! but snoozes can. So while a receiver that lost the message may still be reading, a snooze is a
//! nack. Every snooze records its time, even one without a delay. If a message was requeued and is
//! then snoozed 254 times, its attempts may be counted anew once.

use std::cmp::Ordering;
use std::num::NonZeroU16;

/// The contents of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CellKind {
    /// Nothing.
    Free = 0,
    /// A message that its sender is filling in.
    Writing = 1,
    /// A message that any receiver may take.
    Ready = 2,
    /// A message that a receiver is processing.
    Leased = 3,
    /// A message to be delivered again later.
    Delayed = 4,
    /// A dead letter.
    Dead = 5,
    /// A settled message whose memory a former holder may still be reading.
    Quarantined = 6,
    /// Not the first cell of its run: see [`State::inside`]. Anything else is damage.
    Inside = 7,
}

impl CellKind {
    const ALL: [Self; 8] = [
        Self::Free,
        Self::Writing,
        Self::Ready,
        Self::Leased,
        Self::Delayed,
        Self::Dead,
        Self::Quarantined,
        Self::Inside,
    ];
}

/// A participant slot, as cells name it: its index plus one, so that zero means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seat(NonZeroU16);

impl Seat {
    /// Returns the seat of participant slot `index`.
    ///
    /// # Panics
    /// If `index` is above 510: settings allow no such slot.
    #[must_use]
    pub const fn of_slot(index: u16) -> Self {
        assert!(index < 511, "nine bits hold 511 seats and nobody");
        Self(NonZeroU16::MIN.saturating_add(index))
    }

    /// Returns the index of the participant slot.
    #[must_use]
    pub const fn slot(self) -> u16 {
        self.0.get() - 1
    }

    #[inline(always)]
    fn from_bits(bits: u64) -> Option<Self> {
        NonZeroU16::new((bits & SEAT_MASK) as u16).map(Self)
    }
}

#[inline(always)]
fn seat_bits(seat: Option<Seat>) -> u64 {
    seat.map_or(0, |seat| seat.0.get().into())
}

/// The number of times that the ring went round, modulo 2^35. Comparisons are right for laps that
/// are less than 2^34 apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lap(u64);

impl Lap {
    /// The number of bits of a lap.
    pub const BITS: u32 = 35;
    const MASK: u64 = (1 << Self::BITS) - 1;

    /// Returns the lap with this number, which wraps.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number & Self::MASK)
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the lap after this one.
    #[inline(always)]
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.0 + 1)
    }

    /// Returns the number of laps by which this is after `other`; negative if it is before.
    #[inline(always)]
    #[must_use]
    pub const fn since(self, other: Self) -> i64 {
        const UNUSED: u32 = 64 - 35;
        (self.0.wrapping_sub(other.0) << UNUSED).cast_signed() >> UNUSED
    }
}

/// A place in the endless sequence of messages: `lap:35 | cell:21`, in the order of the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position(u64);

impl Position {
    const INDEX_BITS: u32 = 21;
    /// No position.
    pub const NOWHERE: Self = Self(u64::MAX);
    const INDEX_MASK: u64 = (1 << Self::INDEX_BITS) - 1;
    const BITS: u32 = Self::INDEX_BITS + 35;

    /// Returns the position of cell `index`, below 2^21, in a lap.
    #[inline(always)]
    #[must_use]
    pub const fn new(lap: Lap, index: u32) -> Self {
        Self(lap.0 << Self::INDEX_BITS | index as u64)
    }

    /// Returns the lap: the number of times that the ring went round before.
    #[inline(always)]
    #[must_use]
    pub const fn lap(self) -> Lap {
        Lap(self.0 >> Self::INDEX_BITS)
    }

    /// Returns the index of the cell.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        (self.0 & Self::INDEX_MASK) as u32
    }

    /// Returns the position `len` cells after this one, in a ring of `cells` cells. Runs end with
    /// the ring, so a position beyond its end is the first of the next lap.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, len: u32, cells: u32) -> Self {
        if self.index() + len < cells {
            Self(self.0 + len as u64)
        } else {
            Self::new(self.lap().next(), 0)
        }
    }

    /// Returns the position after this one, in a ring of `cells` cells.
    #[inline(always)]
    #[must_use]
    pub const fn next(self, cells: u32) -> Self {
        if self.index() + 1 < cells {
            Self(self.0 + 1)
        } else {
            Self::new(self.lap().next(), 0)
        }
    }

    /// Compares two positions. Right while they are less than 2^34 laps apart.
    #[inline(always)]
    #[must_use]
    pub fn compare(self, other: Self) -> Ordering {
        let ahead = self.0.wrapping_sub(other.0) << (u64::BITS - Self::BITS);
        ahead.cast_signed().cmp(&0)
    }

    /// Returns the word for a hint.
    #[inline(always)]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// Returns the position in a hint. An index outside the ring, which only damage makes, becomes
    /// 0.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64, cells: u32) -> Self {
        let position = Self(word & ((1 << Self::BITS) - 1));
        if position.index() < cells {
            position
        } else {
            Self::new(position.lap(), 0)
        }
    }
}

/// A cell's state word: `kind:3 | attempt:8 | owner:9 | zombie:9 | lap:35`, from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The contents of the cell.
    pub kind: CellKind,
    /// The number of deliveries of the message, including snoozed ones and those before it was
    /// requeued. `Cell::attempts` returns the attempts since. In `Writing`: the number of times
    /// that receivers stepped over the cell, from which the lap of its claim is computed.
    pub attempt: u8,
    /// The process that is writing or processing it. In `Dead` and `Quarantined`: a second zombie.
    pub owner: Option<Seat>,
    /// The process that lost its lease and may still be reading.
    pub zombie: Option<Seat>,
    /// The number of further cells that this word governs; 0: only its own.
    pub more: u16,
    /// The lap that the cell stands for.
    pub lap: Lap,
}

/// The state of the rest of a run that begins at a cell inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Inside {
    /// Messages, once those before them were taken.
    Ready = READY_INSIDE,
    /// Room, once the room before it was claimed.
    Free = FREE_INSIDE,
}

/// Stored in the place of an attempt. Damage of a few bits makes neither value.
const READY_INSIDE: u8 = 0x5a;
const FREE_INSIDE: u8 = 0xa5;

const SEAT_MASK: u64 = (1 << 9) - 1;
const ZOMBIE_SHIFT: u32 = 35;
const OWNER_SHIFT: u32 = 44;
const ATTEMPT_SHIFT: u32 = 53;
const KIND_SHIFT: u32 = 61;

impl State {
    /// Returns a free cell.
    #[inline(always)]
    #[must_use]
    pub const fn free(lap: Lap) -> Self {
        Self {
            kind: CellKind::Free,
            attempt: 0,
            owner: None,
            zombie: None,
            more: 0,
            lap,
        }
    }

    /// Returns the state in a word of shared memory. Every word has a meaning.
    #[inline(always)]
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        let kind = CellKind::ALL[(word >> KIND_SHIFT) as usize];
        let attempt = (word >> ATTEMPT_SHIFT) as u8;
        // Such states have no zombie.
        let is_of_run = match kind {
            CellKind::Free | CellKind::Writing | CellKind::Inside => true,
            CellKind::Ready => attempt == 0,
            CellKind::Leased => attempt == 1,
            CellKind::Delayed | CellKind::Dead | CellKind::Quarantined => false,
        };
        let bits = word >> ZOMBIE_SHIFT;
        Self {
            kind,
            attempt,
            owner: Seat::from_bits(word >> OWNER_SHIFT),
            zombie: Seat::from_bits(bits).filter(|_| !is_of_run),
            more: if is_of_run {
                (bits & SEAT_MASK) as u16
            } else {
                0
            },
            lap: Lap::new(word),
        }
    }

    /// Returns the word for shared memory.
    #[inline(always)]
    #[must_use]
    pub fn to_word(self) -> u64 {
        (self.kind as u64) << KIND_SHIFT
            | u64::from(self.attempt) << ATTEMPT_SHIFT
            | seat_bits(self.owner) << OWNER_SHIFT
            | (seat_bits(self.zombie) | u64::from(self.more)) << ZOMBIE_SHIFT
            | self.lap.0
    }

    /// Returns the number of cells that this word governs, including its own.
    #[inline(always)]
    #[must_use]
    pub fn len(self) -> u32 {
        u32::from(self.more) + 1
    }

    /// Returns the same state, governing `len` cells.
    #[inline(always)]
    #[must_use]
    pub fn of_len(self, len: u32) -> Self {
        // In range: runs are short.
        let more = (len - 1) as u16;
        Self { more, ..self }
    }

    /// Returns a cell inside a run, of which `rest` cells are left from here on.
    #[inline(always)]
    #[must_use]
    pub fn inside_of(inside: Inside, rest: u32, lap: Lap) -> Self {
        Self {
            kind: CellKind::Inside,
            attempt: inside as u8,
            ..Self::free(lap).of_len(rest)
        }
    }

    /// Returns what a cell inside a run is once no cell before it governs it. `None`: it is not
    /// inside a run, or is damaged.
    #[inline]
    #[must_use]
    pub fn inside(self) -> Option<Inside> {
        if self.kind != CellKind::Inside || self.owner.is_some() {
            return None;
        }
        match self.attempt {
            READY_INSIDE => Some(Inside::Ready),
            FREE_INSIDE => Some(Inside::Free),
            _ => None,
        }
    }

    /// Returns the meaning of this word if no cell before it governs it.
    #[inline(always)]
    #[must_use]
    pub fn alone(self) -> Self {
        match self.inside() {
            None => self,
            Some(Inside::Free) => Self {
                kind: CellKind::Free,
                attempt: 0,
                ..self
            },
            Some(Inside::Ready) => Self {
                kind: CellKind::Ready,
                attempt: 0,
                ..self
            },
        }
    }

    /// Returns whether the state names this seat, as its owner or as a zombie.
    #[must_use]
    pub fn names(self, seat: Seat) -> bool {
        self.owner == Some(seat) || self.zombie == Some(seat)
    }

    /// Returns the same state at the next lap.
    #[inline(always)]
    #[must_use]
    pub fn moved_on(self) -> Self {
        Self {
            lap: self.lap.next(),
            ..self
        }
    }

    /// Returns the state after a sender's claim.
    #[inline(always)]
    #[must_use]
    pub fn claimed_by(self, seat: Seat) -> Self {
        Self {
            kind: CellKind::Writing,
            attempt: 0,
            owner: Some(seat),
            zombie: None,
            more: self.more,
            lap: self.lap,
        }
    }

    /// Returns the state of a cell that is being written, after a receiver stepped over it.
    #[must_use]
    pub fn stepped_over(self) -> Self {
        Self {
            attempt: self.attempt.saturating_add(1),
            ..self.moved_on()
        }
    }

    /// Returns the lap at which a cell that is being written was claimed. `None`: it was stepped
    /// over too often to tell.
    #[must_use]
    pub fn claimed_at(self) -> Option<Lap> {
        let told = self.attempt < u8::MAX;
        told.then(|| Lap::new(self.lap.0.wrapping_sub(self.attempt.into())))
    }

    /// Returns the state after the message was written, as another kind. Receivers may have stepped
    /// over it meanwhile.
    #[must_use]
    pub fn written_as(self, kind: CellKind) -> Self {
        Self {
            attempt: 0,
            ..self.released_as(kind)
        }
    }

    /// Returns the state after a receiver took the message.
    #[inline(always)]
    #[must_use]
    pub fn taken_by(self, seat: Seat) -> Self {
        Self {
            kind: CellKind::Leased,
            attempt: attempt_after(self.attempt),
            owner: Some(seat),
            zombie: self.zombie,
            more: self.more,
            lap: self.lap.next(),
        }
    }

    /// Returns a dead letter as an ordinary message again. `None` while two former holders may
    /// still be reading: a message has room for only one mark.
    #[must_use]
    pub fn requeued(self) -> Option<Self> {
        let zombie = match (self.owner, self.zombie) {
            (Some(_), Some(_)) => return None,
            (owner, zombie) => owner.or(zombie),
        };
        Some(Self {
            zombie,
            ..self.released_as(CellKind::Ready)
        })
    }

    /// Returns the same message as another kind, without an owner.
    #[inline(always)]
    #[must_use]
    pub fn released_as(self, kind: CellKind) -> Self {
        Self {
            kind,
            owner: None,
            ..self
        }
    }

    /// Returns the state after the message is done: free, or quarantined while a zombie may read.
    #[inline]
    #[must_use]
    pub fn finished(self) -> Self {
        match self.zombie {
            None => Self::free(self.lap),
            Some(_) => self.released_as(CellKind::Quarantined),
        }
    }

    /// Returns the word of the free cell after the message with this leased word was acked. `None`:
    /// there is a zombie, or the lease is of several messages.
    #[inline(always)]
    #[must_use]
    pub fn freed_from(leased: u64) -> Option<u64> {
        let alone = leased >> ZOMBIE_SHIFT & SEAT_MASK == 0;
        alone.then(|| Self::free(Lap::new(leased)).to_word())
    }

    /// Returns the state without one of `seat`'s zombie marks. `None`: it has none here.
    #[must_use]
    pub fn let_go_by(self, seat: Seat) -> Option<Self> {
        let mut left = self;
        let retired = matches!(self.kind, CellKind::Dead | CellKind::Quarantined);
        if self.zombie == Some(seat) {
            left.zombie = None;
        } else if retired && self.owner == Some(seat) {
            left.owner = None;
        } else {
            return None;
        }
        if left.kind == CellKind::Quarantined && left.owner.is_none() && left.zombie.is_none() {
            left = Self::free(left.lap);
        }
        Some(left)
    }
}

/// Returns the number of the delivery after number `attempt`.
///
/// If a message is requeued again and again, the numbers start over at 2. Only a message that was
/// never requeued has number 0 (never delivered) or 1.
#[inline(always)]
#[must_use]
pub const fn attempt_after(attempt: u8) -> u8 {
    if attempt == u8::MAX { 2 } else { attempt + 1 }
}

/// Returns the number of deliveries up to number `attempt`, after number `base`. Right up to 253,
/// which is above any limit.
#[must_use]
pub const fn attempts_since(attempt: u8, base: u8) -> u8 {
    if attempt >= base {
        attempt - base
    } else {
        // 2 follows 255.
        attempt.wrapping_sub(base).wrapping_sub(2)
    }
}

#[cfg(test)]
mod tests;
