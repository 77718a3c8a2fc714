//! Chunks: memory for payloads that do not fit their cells.
//!
//! The payload memory of a level is an array of *units*, each with a tag. A chunk is a run of
//! neighbouring units. The tag of its first unit is its *head*: it names the chunk's length, and
//! the cell and the generation for which the chunk was last allocated. The chunk is in use exactly
//! while that cell is not free and still has that generation. So the one compare-and-swap that
//! frees a cell, in an ack or in the recovery of a dead sender, frees its chunk too. There is no
//! free list that a crash could leave half-linked, and no second step that a crash could leave
//! undone. Nothing must be adopted from dead processes.
//!
//! Allocating is a compare-and-swap of a head that was seen to be over. A head that is over stays
//! over, because generations never come back, so the swap needs no further check. A check of a tag
//! may be wrong only in the direction of "in use". Between a claim and the record of its
//! generation, the earlier tag looks current once more.
//!
//! A chunk of another length is split, or swallows the chunks behind it (`allocating`). Only the
//! owner of a chunk changes its length. So these hold at every moment, also after a crash between
//! any two accesses:
//!
//! 1. From the first unit on, the length of each chunk leads to the next one, up to the end.
//! 2. A tag that is a head is the first of a chunk. No other tag is ever taken.
//! 3. If the first tag of a chunk is not a head, the chunk before it is over, or its owner is in
//!    the middle of an allocation. The next owner of the chunk before it makes it a head again.
//!
//! A sender that is stopped in the middle of an allocation keeps what it has taken: one chunk, at
//! most as long as that of one of the largest messages more than it needs.

mod allocating;
mod finding;

use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};

pub use allocating::Allocation;
pub use finding::{Candidate, Chunk};

use super::memory::{Memory, Word};
use super::ring::{Claim, Ring};
use super::tag::HEAD;
use super::word::{CellKind, Lap, State};

/// `cell+1:21 | generation:35`; zero: never used. For the slots of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    cell: Option<u32>,
    occupancy: Lap,
}

impl Tag {
    const CELL_SHIFT: u32 = 35;

    pub(super) fn of(cell: u32, occupancy: Lap) -> Self {
        let cell = Some(cell);
        Self { cell, occupancy }
    }

    pub(super) fn to_word(self) -> u64 {
        let cell = self.cell.map_or(0, |cell| u64::from(cell) + 1);
        cell << Self::CELL_SHIFT | self.occupancy.number()
    }

    fn from_word(word: u64) -> Self {
        Self {
            cell: ((word >> Self::CELL_SHIFT) as u32).checked_sub(1),
            occupancy: Lap::new(word),
        }
    }
}

/// The first unit of a chunk, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct First {
    /// The tag as it is in memory.
    tag: u64,
    is_head: bool,
    /// The number of units; zero if the tag cannot be that of a first unit.
    length: u32,
}

impl<M: Memory> Ring<M> {
    /// Reads the tag of a unit below `units()`.
    #[inline(always)]
    fn first_at(&self, unit: u32) -> First {
        let tag = self.memory().tag(unit).load(Acquire);
        if tag == 0 {
            return self.untouched(unit);
        }
        let length = self.tags().length_of(tag);
        let fits = length <= self.memory().units() - unit;
        First {
            tag,
            is_head: tag & HEAD != 0 && fits && length != 0,
            length: if fits { length } else { 0 },
        }
    }

    /// Returns the meaning of a tag that no process has written.
    #[cold]
    fn untouched(&self, unit: u32) -> First {
        let block = self.memory().block_units();
        let is_head = unit.is_multiple_of(block);
        let length = block.min(self.memory().units() - unit);
        First {
            tag: 0,
            is_head,
            length: if is_head { length } else { 0 },
        }
    }

    /// Transfers a chunk that was allocated for the claim `from` to the claim `to`. The caller owns
    /// both claims. `false`: the chunk was not that of `from`.
    pub fn hand_over(&self, chunk: u32, from: &Claim, to: &Claim) -> bool {
        let tag = self.memory().tag(chunk);
        let seen = tag.load(Acquire);
        let (from, to) = (self.owner_of(from.index()), self.owner_of(to.index()));
        let length = self.tags().length_of(seen);
        seen == self.tags().head(from, length)
            && tag
                .swap_if(seen, self.tags().head(to, length), AcqRel)
                .is_ok()
    }

    /// Returns whether the chunk that begins at unit `chunk` was allocated for the present
    /// generation of cell `index`, and has at least this many units.
    #[inline]
    pub fn belongs(&self, chunk: u32, index: u32, units: u32) -> bool {
        let tag = self.memory().tag(chunk).load(Acquire);
        let tags = self.tags();
        tags.is_head_of(tag, self.owner_of(index)) && tags.length_of(tag) >= units
    }

    #[inline(always)]
    fn owner_of(&self, index: u32) -> u64 {
        self.tags().owner(index, self.cell(index).claim())
    }

    /// Returns whether the allocation under the head of a chunk has ended.
    #[inline]
    fn has_ended(&self, head: u64) -> bool {
        let tags = self.tags();
        let index = tags.cell_of(head);
        if index >= self.cells() {
            return true; // Of no cell.
        }
        let cell = self.cell(index);
        let state = State::from_word(cell.state().load(SeqCst));
        state.kind == CellKind::Free || !tags.is_of(head, cell.claim())
    }

    /// Returns the tag of a reason in this cell.
    pub(super) fn tag_of(&self, index: u32) -> Tag {
        Tag::of(index, self.cell(index).occupancy())
    }

    /// Returns whether the use of a slot for a reason under this tag has ended.
    pub(super) fn is_over(&self, word: u64) -> bool {
        let tag = Tag::from_word(word);
        let Some(cell) = tag.cell.filter(|cell| *cell < self.cells()) else {
            return true;
        };
        let cell = self.cell(cell);
        let state = State::from_word(cell.state().load(SeqCst));
        state.kind == CellKind::Free || cell.occupancy() != tag.occupancy
    }

    /// Returns the approximate number of chunks in use now.
    pub fn chunks_in_use(&self) -> u32 {
        let used = self.chunks().filter(|(_, is_used)| *is_used);
        u32::try_from(used.count()).unwrap_or(u32::MAX)
    }

    /// Returns the free units below `limit`, as ranges that are not adjacent, first to last.
    /// Approximate while senders allocate.
    pub fn free_units(&self, limit: u32) -> Vec<Range<u32>> {
        let mut free: Vec<Range<u32>> = Vec::new();
        for (units, is_used) in self.chunks() {
            let units = units.start..units.end.min(limit);
            match free.last_mut() {
                _ if is_used || units.is_empty() => {}
                Some(last) if last.end == units.start => last.end = units.end,
                _ => free.push(units),
            }
        }
        free
    }

    /// Returns the chunks, first to last: their units, and whether they are in use. Approximate
    /// while senders allocate.
    fn chunks(&self) -> impl Iterator<Item = (Range<u32>, bool)> {
        self.walk_from(0).map(|step| {
            let is_used = step.is_head && !self.has_ended(step.tag);
            (step.unit..step.unit + step.length, is_used)
        })
    }
}
