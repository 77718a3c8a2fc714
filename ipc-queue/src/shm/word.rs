//! The words that the ring is made of, as values with names.
//!
//! A cell's state word is the whole truth about its message. Who may change it, and into what:
//!
//! | from | to | by | when |
//! |---|---|---|---|
//! | `FREE lap` | `WRITING(me) lap` | a sender | it claims the cell |
//! | `FREE lap` | `WRITING(me)`, a later lap | a sender | so that it comes after what that sender claimed before |
//! | `WRITING(me) lap` | `READY lap` | that sender | it publishes |
//! | `WRITING(me) lap` | `READY`, that lap or a later one | that sender | it publishes late, behind what it sent before |
//! | `WRITING(me) lap` | `FREE lap+1` | that sender, or anybody once it is dead | the loan is abandoned |
//! | `WRITING lap` | `WRITING lap+1`, one step more | a receiver | it can't wait and steps over |
//! | `WRITING(me) lap` | `DELAYED lap+1` | that sender | it puts the message off |
//! | `READY lap` | `LEASED(me) attempt+1 lap+1` | a receiver | it takes the message |
//! | `LEASED(me)` | `FREE` | that receiver | ack; `QUARANTINED` if a zombie still reads |
//! | `LEASED(me)` | `READY`, `DEAD` | that receiver | nack; bury, or a nack when the attempts are used up |
//! | `LEASED(x)` | `DELAYED` | x, or anybody | x noted until when the message is put off (`due`): a nack with a delay, or a snooze |
//! | `LEASED(me)` | `READY` | that receiver | it snoozed without a delay, and noted that |
//! | `LEASED(dead)` | `READY`, `DEAD` | anybody | after the holder's death |
//! | `LEASED(x)` | `READY zombie=x` | anybody | the lease expired; a second time: `DEAD` |
//! | `DELAYED` | `READY` | anybody | when due |
//! | `READY lap` | `FREE lap+1`, `QUARANTINED lap+1` | anybody | purged, or not wanted in time |
//! | `DELAYED` | `FREE`, `QUARANTINED` | anybody | purged |
//! | `DEAD` | `FREE`, `QUARANTINED` | anybody | dropped |
//! | `DEAD` | `READY`, its mark, if it has one, as `zombie` | anybody | requeued; not while two may still be reading |
//! | `READY lap` | `DEAD lap+1` | who requeued it | the queue was closed meanwhile, and nobody took it |
//! | any with `zombie=me` | the same without | the zombie, or anybody once it is dead | it let go; `QUARANTINED` becomes `FREE` |
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
//! | `WRITING(me) xn` | `WRITING(me) xm`, m > n | that sender | it claimed the cells behind, too |
//! | inside `WRITING(me)` | `INSIDE(READY)` | that sender, by a store | it filled the cell |
//! | `WRITING(me) xn lap` | `READY xn lap` | that sender | it publishes all |
//! | `READY xn lap` | `LEASED(me) xm`, attempt 1, lap+1, m ≤ n | a receiver | it takes the first messages of a run |
//! | inside `LEASED(me)` | `INSIDE(FREE)` | that receiver, by a store | it is about to ack all |
//! | `LEASED(me) xn` | `FREE xn` | that receiver | it acks all |
//! | `WRITING xn lap` | `WRITING xn lap+1`, one step more | a receiver | it steps over all |
//! | `LEASED xn lap` | `LEASED xn lap+1` | a sender | it steps over all |
//! | inside `WRITING(x)`, `LEASED(x)` | `WRITING(x)`, `LEASED(x)`, of the run's lap | x, by a store; anybody once it is dead | each is to be a cell by itself, the last first |
//! | `WRITING(x) xn`, `LEASED(x) xn` | the same, x1 | x, or anybody once it is dead | each cell behind it is one by itself |
//! | `FREE xn`, `READY xn` | the same, x1 | anybody | it parts the first cell from the others |
//!
//! Laps only grow, and a cell is claimed at most once a lap, so a word never comes back: a
//! compare-and-swap that succeeds acted on the very state that was read. Only inside a run a word
//! may come back, when the sender gives the run up. No other process swaps words there.
//!
//! # Requeueing
//!
//! The one swap `DEAD` → `READY` is all that requeueing is; the attempt stays what it is.
//! `Cell::count_from` said before from which attempt on deliveries count if this letter is
//! requeued, and what it said is about this letter only once it is not `DEAD` at that attempt any
//! more. So a process that is killed, or stopped for however long, leaves either the letter with
//! its attempts and its reason, or a message that starts anew. Since attempts count on, no two
//! deliveries of an occupancy have the same: whoever lost a lease before can't be taken for the one
//! who has it now.
//!
//! # Attempts and deliveries
//!
//! The `attempt` of a word numbers deliveries, snoozed ones included. The limits are about
//! attempts: those are the sum of the tally's counters, which a snoozed delivery does not change
//! (`Tally`). The holder notes the snooze before the time, and the time before the state changes.
//! So a kill in between leaves a crash, or a nack that was put off: one attempt too many, never one
//! too few.
//!
//! Numbers start over after 255, at 2. Attempts can't get that far, since the limits are below;
//! snoozes can. So while somebody who lost the message may still be reading, a snooze is a nack,
//! and every snooze leaves a note of its time, also one without a delay. Of a message that was
//! requeued and is snoozed 254 times after that, attempts may be counted anew once.

use std::cmp::Ordering;
use std::num::NonZeroU16;

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CellKind {
    /// Nothing.
    Free = 0,
    /// A message that its sender is filling in.
    Writing = 1,
    /// A message for anybody to take.
    Ready = 2,
    /// A message that a receiver works on.
    Leased = 3,
    /// A message to be delivered again later.
    Delayed = 4,
    /// A dead letter.
    Dead = 5,
    /// A settled message whose memory a former holder may still be reading.
    Quarantined = 6,
    /// Not the first cell of its run: [`State::inside`] says which. Anything else is damage.
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

/// A participant's slot, as cells name it: its index plus one, so that zero is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seat(NonZeroU16);

impl Seat {
    /// The seat of participant slot `index`.
    ///
    /// # Panics
    /// If `index` is above 510: settings allow no such slot.
    #[must_use]
    pub const fn of_slot(index: u16) -> Self {
        assert!(index < 511, "nine bits hold 511 seats and nobody");
        Self(NonZeroU16::MIN.saturating_add(index))
    }

    /// The participant slot.
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

/// How often the ring went round, modulo 2^35. Two laps compare right while they are less than 2^34
/// apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lap(u64);

impl Lap {
    const MASK: u64 = (1 << 35) - 1;

    /// The lap with this number, which wraps.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number & Self::MASK)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The lap after this one.
    #[inline(always)]
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.0 + 1)
    }

    /// How many laps this is after `other`; negative if it is before.
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

    /// The place of cell `index`, below 2^21, in a lap.
    #[inline(always)]
    #[must_use]
    pub const fn new(lap: Lap, index: u32) -> Self {
        Self(lap.0 << Self::INDEX_BITS | index as u64)
    }

    /// How often the ring went round before.
    #[inline(always)]
    #[must_use]
    pub const fn lap(self) -> Lap {
        Lap(self.0 >> Self::INDEX_BITS)
    }

    /// Which cell.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        (self.0 & Self::INDEX_MASK) as u32
    }

    /// The position `len` cells after this one, in a ring of `cells` cells. Runs end with the
    /// ring: what would lie beyond its end begins the next lap.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, len: u32, cells: u32) -> Self {
        if self.index() + len < cells {
            Self(self.0 + len as u64)
        } else {
            Self::new(self.lap().next(), 0)
        }
    }

    /// The position after this one, in a ring of `cells` cells.
    #[inline(always)]
    #[must_use]
    pub const fn next(self, cells: u32) -> Self {
        if self.index() + 1 < cells {
            Self(self.0 + 1)
        } else {
            Self::new(self.lap().next(), 0)
        }
    }

    /// Which of two positions comes first. Right while they are less than 2^34 laps apart.
    #[inline(always)]
    #[must_use]
    pub fn compare(self, other: Self) -> Ordering {
        let ahead = self.0.wrapping_sub(other.0) << (u64::BITS - Self::BITS);
        ahead.cast_signed().cmp(&0)
    }

    /// As a word, for a hint.
    #[inline(always)]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// From a hint. An index outside the ring, which only damage makes, becomes 0.
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
    /// What the cell holds.
    pub kind: CellKind,
    /// How often the message was delivered, also before it was requeued, and snoozed deliveries
    /// included: `Cell::attempts` says how many attempts there were since. In `Writing`: how often
    /// receivers stepped over it, so that the lap of its claim can be told.
    pub attempt: u8,
    /// Who writes it or works on it. In `Dead` and `Quarantined`: a second zombie.
    pub owner: Option<Seat>,
    /// Who lost its lease and may still be reading.
    pub zombie: Option<Seat>,
    /// The number of further cells that this word governs; 0: only its own.
    pub more: u16,
    /// The lap that the cell stands for.
    pub lap: Lap,
}

/// What the rest of a run is that begins at a cell inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Inside {
    /// Messages, once what is before them was taken.
    Ready = READY_INSIDE,
    /// Room, once what is before it was claimed.
    Free = FREE_INSIDE,
}

/// In the place of an attempt. Damage of a few bits makes neither.
const READY_INSIDE: u8 = 0x5a;
const FREE_INSIDE: u8 = 0xa5;

const SEAT_MASK: u64 = (1 << 9) - 1;
const ZOMBIE_SHIFT: u32 = 35;
const OWNER_SHIFT: u32 = 44;
const ATTEMPT_SHIFT: u32 = 53;
const KIND_SHIFT: u32 = 61;

impl State {
    /// A free cell.
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

    /// From the word in shared memory. Every word means something.
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

    /// As the word in shared memory.
    #[inline(always)]
    #[must_use]
    pub fn to_word(self) -> u64 {
        (self.kind as u64) << KIND_SHIFT
            | u64::from(self.attempt) << ATTEMPT_SHIFT
            | seat_bits(self.owner) << OWNER_SHIFT
            | (seat_bits(self.zombie) | u64::from(self.more)) << ZOMBIE_SHIFT
            | self.lap.0
    }

    /// The number of cells that this word governs, its own included.
    #[inline(always)]
    #[must_use]
    pub fn len(self) -> u32 {
        u32::from(self.more) + 1
    }

    /// The same word, governing `len` cells.
    #[inline(always)]
    #[must_use]
    pub fn of_len(self, len: u32) -> Self {
        // In range: runs are short.
        let more = (len - 1) as u16;
        Self { more, ..self }
    }

    /// A cell inside a run, of which `rest` cells are left from here on.
    #[inline(always)]
    #[must_use]
    pub fn inside_of(inside: Inside, rest: u32, lap: Lap) -> Self {
        Self {
            kind: CellKind::Inside,
            attempt: inside as u8,
            ..Self::free(lap).of_len(rest)
        }
    }

    /// What a cell inside a run is once no cell before it governs it. `None`: it is not inside
    /// a run, or damaged.
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

    /// What this word means if no cell before it governs it.
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

    /// Whether the message names this seat, as its owner or as a zombie.
    #[must_use]
    pub fn names(self, seat: Seat) -> bool {
        self.owner == Some(seat) || self.zombie == Some(seat)
    }

    /// The same, standing for the next lap.
    #[inline(always)]
    #[must_use]
    pub fn moved_on(self) -> Self {
        Self {
            lap: self.lap.next(),
            ..self
        }
    }

    /// Claimed by a sender.
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

    /// A cell that is being written, stepped over by a receiver.
    #[must_use]
    pub fn stepped_over(self) -> Self {
        Self {
            attempt: self.attempt.saturating_add(1),
            ..self.moved_on()
        }
    }

    /// The lap at which a cell was claimed that is being written; `None` if it was stepped over too
    /// often to tell.
    #[must_use]
    pub fn claimed_at(self) -> Option<Lap> {
        let told = self.attempt < u8::MAX;
        told.then(|| Lap::new(self.lap.0.wrapping_sub(self.attempt.into())))
    }

    /// Written, and stepped over meanwhile: what it is now, as another kind.
    #[must_use]
    pub fn written_as(self, kind: CellKind) -> Self {
        Self {
            attempt: 0,
            ..self.released_as(kind)
        }
    }

    /// Taken by a receiver.
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

    /// A dead letter that is an ordinary message again. `None` while two who lost its lease may
    /// still be reading: one mark is all that there is room for in a message.
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

    /// Another kind, owned by nobody.
    #[inline(always)]
    #[must_use]
    pub fn released_as(self, kind: CellKind) -> Self {
        Self {
            kind,
            owner: None,
            ..self
        }
    }

    /// Done with: free, or quarantined while somebody may still read.
    #[inline]
    #[must_use]
    pub fn finished(self) -> Self {
        match self.zombie {
            None => Self::free(self.lap),
            Some(_) => self.released_as(CellKind::Quarantined),
        }
    }

    /// The word of a free cell after the message with this leased word was acked. `None`: there is
    /// a zombie, or the lease is of several messages.
    #[inline(always)]
    #[must_use]
    pub fn freed_from(leased: u64) -> Option<u64> {
        let alone = leased >> ZOMBIE_SHIFT & SEAT_MASK == 0;
        alone.then(|| Self::free(Lap::new(leased)).to_word())
    }

    /// After one of `seat`'s zombie marks was taken away. `None` if it has none here.
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

/// The number of the delivery after number `attempt`.
///
/// Of a message that is requeued again and again they start over, but not at the numbers that only
/// a message has that was never requeued: 0, never delivered, and 1.
#[inline(always)]
#[must_use]
pub const fn attempt_after(attempt: u8) -> u8 {
    if attempt == u8::MAX { 2 } else { attempt + 1 }
}

/// How many deliveries there were up to number `attempt`, after number `base`. Right up to 253,
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
