//! Chunks: memory for payloads that do not fit their cells.
//!
//! A chunk's tag names the cell and the generation for which it was last allocated. The chunk is in
//! use exactly while that cell is not free and still has that generation. So the one
//! compare-and-swap that frees a cell, in an ack or in the recovery of a dead sender, frees its
//! chunk too. There is no free list that a crash could leave half-linked, and no second step that a
//! crash could leave undone. Nothing must be adopted from dead processes.
//!
//! Allocating is a compare-and-swap of a tag that was seen to be over. A tag that is over stays
//! over, because generations never come back, so the swap needs no further check. A check of a tag
//! may be wrong only in the direction of "in use". Between a claim and the record of its
//! generation, the earlier tag looks current once more.

use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};

use super::memory::{Memory, Word};
use super::ring::{Claim, Ring};
use super::word::{CellKind, Lap, State};

/// A chunk that was free when it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The chunk's number.
    pub chunk: u32,
    tag: u64,
}

/// `cell+1:21 | generation:35`; zero: never used.
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

impl<M: Memory> Ring<M> {
    /// Returns a free chunk in `range`; those from `first` on are tried before the others.
    #[inline]
    pub fn find_chunk(&self, range: Range<u32>, first: u32) -> Option<Candidate> {
        let first = first.clamp(range.start, range.end);
        let free = |chunk| self.free_chunk(chunk);
        // Two loops: a chained iterator took 60 instructions more for each message.
        let found = (first..range.end).find_map(free);
        found.or_else(|| (range.start..first).find_map(free))
    }

    /// Returns the chunk if it is free.
    #[inline]
    pub fn free_chunk(&self, chunk: u32) -> Option<Candidate> {
        let tag = self.memory().chunk_tag(chunk).load(Acquire);
        self.is_over(tag).then_some(Candidate { chunk, tag })
    }

    /// Allocates a chunk for a claimed cell. `false`: the swap failed, because another sender was
    /// faster.
    pub fn allocate(&self, candidate: Candidate, claim: &Claim) -> bool {
        let tag = self.memory().chunk_tag(candidate.chunk);
        tag.swap_if(candidate.tag, self.tag_of(claim.index()).to_word(), AcqRel)
            .is_ok()
    }

    /// Transfers a chunk that was allocated for the claim `from` to the claim `to`. The caller owns
    /// both claims. `false`: the tag was not that of `from`.
    pub fn hand_over(&self, chunk: u32, from: &Claim, to: &Claim) -> bool {
        let tag = self.memory().chunk_tag(chunk);
        let (from, to) = (self.tag_of(from.index()), self.tag_of(to.index()));
        tag.swap_if(from.to_word(), to.to_word(), AcqRel).is_ok()
    }

    /// Returns whether chunk `chunk` was allocated for the present generation of cell `index`.
    pub fn belongs(&self, chunk: u32, index: u32) -> bool {
        self.memory().chunk_tag(chunk).load(Acquire) == self.tag_of(index).to_word()
    }

    pub(super) fn tag_of(&self, index: u32) -> Tag {
        Tag::of(index, self.cell(index).occupancy())
    }

    /// Returns the approximate number of chunks in use now.
    pub fn chunks_in_use(&self) -> u32 {
        self.chunks_in_use_of(0..self.memory().chunks())
    }

    /// Returns the approximate number of these chunks that are in use now.
    pub fn chunks_in_use_of(&self, chunks: Range<u32>) -> u32 {
        let used = |chunk: &u32| !self.is_over(self.memory().chunk_tag(*chunk).load(Acquire));
        u32::try_from(chunks.filter(used).count()).unwrap_or(u32::MAX)
    }

    /// Returns whether the allocation under this tag has ended.
    pub(super) fn is_over(&self, word: u64) -> bool {
        let tag = Tag::from_word(word);
        let Some(cell) = tag.cell.filter(|cell| *cell < self.cells()) else {
            return true;
        };
        let cell = self.cell(cell);
        let state = State::from_word(cell.state().load(SeqCst));
        state.kind == CellKind::Free || cell.occupancy() != tag.occupancy
    }
}
