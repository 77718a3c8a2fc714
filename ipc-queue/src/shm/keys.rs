//! The keys that a queue remembers, so that no message is sent twice, whichever process dies.
//!
//! A table of slots, in buckets of sixteen. A key has two buckets, and at any time at most one of
//! their slots belongs to it. One word of the slot records its state and its owner:
//!
//! ```text
//! state:2 | seat:9 | turn:11 | key:42
//!
//! Free ──claim──► Claimed(me) ──place──► Placed(me) ──sent──► Sent ──window over──► Claimed(other)
//!   ▲                  │ dropped              │ not published
//!   └──────────────────┴──────────────────────┘
//! ```
//!
//! A process that claims a slot searches both buckets once more after the claim. If two processes
//! claim slots for the same key at the same time, they cannot both miss each other. By Dekker's
//! argument, each writes, then reads what the other writes, in one total order. A process that sees
//! the other withdraws; maybe both do. So there is no lock that a dead or stopped process could
//! hold.
//!
//! A message is published by one swap in its cell, and its key becomes `Sent` by another. Its
//! sender may die between the two. So before the first swap it records the cell and the generation
//! in which the message will be published, and sets the state to `Placed`. Recovery resolves the
//! keys of a dead process *before* its cells. If the dead process is still writing that cell in
//! that generation, nothing was published, and the key is free. Otherwise the message was
//! published. If a message moves to another cell, its record is updated before it is published
//! there.
//!
//! One swap of the word frees the slot of a key that is forgotten or whose window is over. A
//! process that forgets the key swaps `Sent` to `Free`; a process that needs the slot swaps `Sent`
//! to `Claimed`. The further life of the message does not affect its key.
//!
//! The turn grows with each claim and distinguishes the slot's uses. A process that has read the
//! notes of one use cannot mistake them for those of another. The only exception is a sleep through
//! exactly a multiple of 2,048 uses. The notes contain the full key. The 42 bits in the word only
//! decide which other processes a claimer has to wait for.

use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::time::Duration;

use ipc_proto::{MessageId, SenderId};

use super::memory::Word;
use super::word::{Lap, Seat};

/// The number of words of notes in a slot.
pub const NOTE_WORDS: usize = 5;

const PLACE: usize = 0;
const KEY: usize = 1;
const SENDER: usize = 2;
const SEQUENCE: usize = 3;
const UNTIL: usize = 4;

/// Returns a time since boot as keys record it: in nanoseconds.
pub fn nanos(since_boot: Duration) -> u64 {
    u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX)
}

/// The memory of a table. Zeroed memory is an empty table.
pub trait KeyMemory {
    /// The type of its words.
    type Word: Word;

    /// The number of slots in a bucket: two cache lines of their first words.
    const BUCKET: u32 = 16;

    /// Returns the number of slots: a power of two, at least two buckets.
    fn slots(&self) -> u32;

    /// Returns the word with a slot's state and owner.
    fn word(&self, slot: u32) -> &Self::Word;

    /// Returns a slot's notes.
    fn notes(&self, slot: u32) -> &[Self::Word; NOTE_WORDS];
}

/// The table of keys, on some memory.
#[derive(Debug)]
pub struct Keys<M> {
    memory: M,
}

/// The right to a key. If it is dropped without a return, the key stays taken until the process
/// ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "give it back"]
pub struct HeldKey {
    slot: u32,
    word: u64,
}

impl HeldKey {
    /// Returns the number of the slot.
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

/// The state of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// Not remembered.
    Nothing,
    /// Sent with this message.
    Sent(MessageId),
    /// Another sender is about to send with it, or was just seen to try.
    InUse,
}

/// The reason why a key cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// As [`Known::Sent`].
    Sent(MessageId),
    /// As [`Known::InUse`].
    InUse,
    /// Both of its buckets are full.
    NoSlot,
}

/// One generation of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellName {
    /// The level's number.
    pub level: u32,
    /// The cell's number.
    pub index: u32,
    /// The cell's generation.
    pub occupancy: Lap,
}

impl CellName {
    const INDEX_SHIFT: u32 = 35;
    const LEVEL_SHIFT: u32 = 55;
    const INDEX_MASK: u64 = (1 << 20) - 1;

    fn to_word(self) -> u64 {
        u64::from(self.level) << Self::LEVEL_SHIFT
            | u64::from(self.index) << Self::INDEX_SHIFT
            | self.occupancy.number()
    }

    fn from_word(word: u64) -> Self {
        Self {
            level: (word >> Self::LEVEL_SHIFT) as u32,
            index: (word >> Self::INDEX_SHIFT & Self::INDEX_MASK) as u32,
            occupancy: Lap::new(word),
        }
    }
}

/// The state of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    Claimed,
    Placed,
    Sent,
}

/// The parts of a slot's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    used: Use,
    /// The owner while the slot is claimed or placed: its participant slot plus one. Otherwise
    /// zero.
    seat: u16,
    turn: u16,
    key: u64,
}

impl Slot {
    const KEY_BITS: u32 = 42;
    const TURN_BITS: u32 = 11;
    const SEAT_BITS: u32 = 9;
    const TURN_MASK: u64 = (1 << Self::TURN_BITS) - 1;
    const SEAT_MASK: u64 = (1 << Self::SEAT_BITS) - 1;

    fn from_word(word: u64) -> Self {
        let seat = word >> (Self::KEY_BITS + Self::TURN_BITS) & Self::SEAT_MASK;
        let used = match word >> (Self::KEY_BITS + Self::TURN_BITS + Self::SEAT_BITS) {
            0 => Use::Free,
            1 => Use::Claimed,
            2 => Use::Placed,
            _ => Use::Sent,
        };
        Self {
            used,
            seat: seat as u16,
            turn: (word >> Self::KEY_BITS & Self::TURN_MASK) as u16,
            key: word & ((1 << Self::KEY_BITS) - 1),
        }
    }

    fn to_word(self) -> u64 {
        (self.used as u64) << (Self::KEY_BITS + Self::TURN_BITS + Self::SEAT_BITS)
            | u64::from(self.seat) << (Self::KEY_BITS + Self::TURN_BITS)
            | (u64::from(self.turn) & Self::TURN_MASK) << Self::KEY_BITS
            | self.key
    }

    fn claimed_by(self, me: Seat, key: u64) -> Self {
        Self {
            used: Use::Claimed,
            seat: me.slot() + 1,
            turn: self.turn.wrapping_add(1),
            key: Self::key_bits(key),
        }
    }

    fn freed(self) -> Self {
        Self {
            used: Use::Free,
            seat: 0,
            key: 0,
            ..self
        }
    }

    fn sent(self) -> Self {
        Self {
            used: Use::Sent,
            seat: 0,
            ..self
        }
    }

    /// Returns the part of a key that is stored in the word: without the bits that choose its first
    /// bucket.
    fn key_bits(key: u64) -> u64 {
        key >> (64 - Self::KEY_BITS)
    }

    fn is_held_by(self, seat: Seat) -> bool {
        matches!(self.used, Use::Claimed | Use::Placed) && self.seat == seat.slot() + 1
    }
}

impl<M: KeyMemory> Keys<M> {
    /// Creates the table on `memory`.
    pub fn new(memory: M) -> Self {
        Self { memory }
    }

    /// Returns the state of a key at the time `now`, in nanoseconds since boot.
    pub fn look_up(&self, key: u64, now: u64) -> Known {
        self.look_beside(None, key, now)
    }

    /// Takes a key for a message that is about to be sent.
    pub fn take(&self, me: Seat, key: u64, now: u64) -> Result<HeldKey, Refused> {
        match self.look_up(key, now) {
            Known::Nothing => {}
            Known::Sent(id) => return Err(Refused::Sent(id)),
            Known::InUse => return Err(Refused::InUse),
        }
        let held = self.claim(me, key, now).ok_or(Refused::NoSlot)?;
        // Checked only now: a process that claimed before this one is seen here, and one that
        // claims later sees this claim.
        let refused = match self.look_beside(Some(held.slot), key, now) {
            Known::Nothing => {
                self.memory.notes(held.slot)[KEY].store(key, Release);
                return Ok(held);
            }
            Known::Sent(id) => Refused::Sent(id),
            Known::InUse => Refused::InUse,
        };
        self.give_back(held);
        Err(refused)
    }

    /// Records the place and the id of the message that is about to be published, and the end of
    /// its key's window.
    pub fn place(&self, held: &mut HeldKey, at: CellName, id: MessageId, until: u64) {
        let notes = self.memory.notes(held.slot);
        notes[PLACE].store(at.to_word(), Release);
        notes[SENDER].store(id.sender.get(), Release);
        notes[SEQUENCE].store(id.sequence, Release);
        notes[UNTIL].store(until, Release);
        let placed = Slot {
            used: Use::Placed,
            ..Slot::from_word(held.word)
        };
        self.change(held, placed);
    }

    /// Records that a placed message will be published elsewhere.
    pub fn move_to(&self, slot: u32, at: CellName) {
        self.memory.notes(slot)[PLACE].store(at.to_word(), Release);
    }

    /// Remembers a key whose message was published.
    pub fn sent(&self, mut held: HeldKey) {
        let sent = Slot::from_word(held.word).sent();
        self.change(&mut held, sent);
    }

    /// Frees a key whose message was not published.
    pub fn give_back(&self, mut held: HeldKey) {
        let freed = Slot::from_word(held.word).freed();
        self.change(&mut held, freed);
    }

    /// Forgets a key whose message was sent. `false`: the key is not remembered, or is just being
    /// sent.
    ///
    /// The swap expects the word that was read around the notes, so it ends exactly this use of the
    /// slot. Failed: another process has claimed the slot meanwhile, so the key's window was over.
    pub fn forget(&self, key: u64, now: u64) -> bool {
        let slots = self.buckets(key).into_iter().flat_map(Self::slots_of);
        let mut forgotten = false;
        for slot in slots {
            let word = self.memory.word(slot);
            let seen = word.load(SeqCst);
            let is_sent = matches!(self.ask(slot, key, now), Known::Sent(_));
            if is_sent && Slot::from_word(seen).used == Use::Sent {
                let freed = Slot::from_word(seen).freed().to_word();
                forgotten |= word.swap_if(seen, freed, SeqCst).is_ok();
            }
        }
        forgotten
    }

    /// Returns the keys that are remembered at the time `now`, each with its message and the end of
    /// its window.
    pub fn remembered(&self, now: u64) -> impl Iterator<Item = (u64, MessageId, u64)> {
        (0..self.memory.slots()).filter_map(move |slot| {
            let word = self.memory.word(slot);
            let seen = word.load(SeqCst);
            if Slot::from_word(seen).used != Use::Sent {
                return None;
            }
            let [key, sender, sequence, until] = [KEY, SENDER, SEQUENCE, UNTIL]
                .map(|note| self.memory.notes(slot)[note].load(Acquire));
            let id = MessageId::new(SenderId::new(sender), sequence);
            (word.load(SeqCst) == seen && until > now).then_some((key, id, until))
        })
    }

    /// Returns the number of keys that are remembered at the time `now`, including those that are
    /// just being sent.
    pub fn count(&self, now: u64) -> u64 {
        let in_use = (0..self.memory.slots()).filter(|slot| {
            let word = self.memory.word(*slot).load(SeqCst);
            match Slot::from_word(word).used {
                Use::Free => false,
                Use::Claimed | Use::Placed => true,
                Use::Sent => self.memory.notes(*slot)[UNTIL].load(Acquire) > now,
            }
        });
        in_use.count() as u64
    }

    /// Remembers a key from another queue. A kill before the last swap leaves a claimed slot, which
    /// recovery frees.
    pub fn restore(
        &self,
        me: Seat,
        key: u64,
        id: MessageId,
        until: u64,
        now: u64,
    ) -> Result<(), Refused> {
        let held = self.take(me, key, now)?;
        let notes = self.memory.notes(held.slot);
        notes[SENDER].store(id.sender.get(), Release);
        notes[SEQUENCE].store(id.sequence, Release);
        notes[UNTIL].store(until, Release);
        self.sent(held);
        Ok(())
    }

    /// Resolves the keys of `seat`, whose process is certainly gone. Called before its cells are
    /// freed. `false`: another process has the seat now, and others have done everything.
    ///
    /// `still_departed` is called after each word was read. `is_unpublished` returns whether the
    /// departed process is still writing that generation of that cell.
    pub fn recover(
        &self,
        seat: Seat,
        still_departed: impl Fn() -> bool,
        is_unpublished: impl Fn(CellName) -> bool,
    ) -> bool {
        for number in 0..self.memory.slots() {
            let word = self.memory.word(number);
            loop {
                let seen = word.load(SeqCst);
                let slot = Slot::from_word(seen);
                if !slot.is_held_by(seat) {
                    break;
                }
                if !still_departed() {
                    return false;
                }
                let place = || CellName::from_word(self.memory.notes(number)[PLACE].load(Acquire));
                let next = match slot.used {
                    Use::Placed if !is_unpublished(place()) => slot.sent(),
                    _ => slot.freed(),
                };
                // Failed: another recovery was faster, also before any cell was freed. Its result
                // is kept.
                let _ = word.swap_if(seen, next.to_word(), SeqCst);
            }
        }
        true
    }

    /// Claims a free slot, in the emptier of the key's buckets. If there is none, claims one whose
    /// window is over.
    fn claim(&self, me: Seat, key: u64, now: u64) -> Option<HeldKey> {
        loop {
            let (slot, seen) = self.free_slot(key).or_else(|| self.old_slot(key, now))?;
            let word = Slot::from_word(seen).claimed_by(me, key).to_word();
            // Failed: another process changed the slot. The next round chooses again.
            if self.memory.word(slot).swap_if(seen, word, SeqCst).is_ok() {
                return Some(HeldKey { slot, word });
            }
        }
    }

    fn free_slot(&self, key: u64) -> Option<(u32, u64)> {
        let free = |bucket: u32| {
            let words =
                Self::slots_of(bucket).map(|slot| (slot, self.memory.word(slot).load(SeqCst)));
            let mut free = words.filter(|(_, word)| Slot::from_word(*word).used == Use::Free);
            let first = free.next();
            (first.map_or(0, |_| 1 + free.count()), first)
        };
        let [one, other] = self.buckets(key).map(free);
        if one.0 >= other.0 { one.1 } else { other.1 }
    }

    fn old_slot(&self, key: u64, now: u64) -> Option<(u32, u64)> {
        let mut slots = self.buckets(key).into_iter().flat_map(Self::slots_of);
        slots.find_map(|slot| {
            let seen = self.memory.word(slot).load(SeqCst);
            let sent = Slot::from_word(seen).used == Use::Sent;
            let over = sent && self.memory.notes(slot)[UNTIL].load(Acquire) <= now;
            over.then_some((slot, seen))
        })
    }

    /// Returns the state of a key according to all its slots except `ours`.
    fn look_beside(&self, ours: Option<u32>, key: u64, now: u64) -> Known {
        let mut known = Known::Nothing;
        for slot in self.buckets(key).into_iter().flat_map(Self::slots_of) {
            if ours == Some(slot) {
                continue;
            }
            match self.ask(slot, key, now) {
                Known::Sent(id) => return Known::Sent(id),
                Known::InUse => known = Known::InUse,
                Known::Nothing => {}
            }
        }
        known
    }

    fn ask(&self, slot: u32, key: u64, now: u64) -> Known {
        let word = self.memory.word(slot);
        let mut seen = word.load(SeqCst);
        loop {
            let said = Slot::from_word(seen);
            match said.used {
                Use::Free => return Known::Nothing,
                _ if said.key != Slot::key_bits(key) => return Known::Nothing,
                Use::Claimed | Use::Placed => return Known::InUse,
                Use::Sent => {}
            }
            let [whole_key, sender, sequence, until] = [KEY, SENDER, SEQUENCE, UNTIL]
                .map(|note| self.memory.notes(slot)[note].load(Acquire));
            let again = word.load(SeqCst);
            if again != seen {
                seen = again; // The notes may be of either use.
            } else if whole_key != key || until <= now {
                return Known::Nothing;
            } else {
                return Known::Sent(MessageId::new(SenderId::new(sender), sequence));
            }
        }
    }

    /// Returns the two buckets of a key, which always differ.
    fn buckets(&self, key: u64) -> [u32; 2] {
        let mask = self.memory.slots() / M::BUCKET - 1;
        let one = key as u32 & mask;
        [one, one ^ ((key >> 21) as u32 & mask | 1)]
    }

    fn slots_of(bucket: u32) -> Range<u32> {
        bucket * M::BUCKET..(bucket + 1) * M::BUCKET
    }

    /// Changes the word of a slot that this process owns. No other process changes it while this
    /// one lives.
    fn change(&self, held: &mut HeldKey, to: Slot) {
        let to = to.to_word();
        let word = self.memory.word(held.slot);
        // Failed: recovery has freed the slot of this process, which it believed dead.
        if word.swap_if(held.word, to, SeqCst).is_ok() {
            held.word = to;
        }
    }
}

#[cfg(test)]
mod tests;
