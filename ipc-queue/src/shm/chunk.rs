//! Chunks: memory for payloads that do not fit their cells.
//!
//! A chunk's tag says for which occupancy of which cell it was last allocated, and it is in use exactly while
//! that cell is not free and still has that occupancy. So the one compare-and-swap that frees a cell, be it
//! an ack or the recovery of a dead sender, frees its chunk too: there is no free list that a crash could
//! leave half-linked, no second step that a crash could leave undone, and nothing to adopt from the dead.
//!
//! Allocating is a compare-and-swap of a tag that was seen to be over. A tag that is over stays over, since
//! occupancies never come back, so the swap needs no further check. Judging a tag may err only towards
//! "in use": between a claim and the note of its occupancy the former tag looks current once more.

use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};

use super::memory::{Memory, Word};
use super::ring::{Claim, Ring};
use super::word::{CellKind, Lap, State};

/// A chunk that was free when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Which chunk.
    pub chunk: u32,
    tag: u64,
}

/// `cell+1:21 | occupancy:35`; zero: never used.
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
    /// A free chunk out of `range`, `first` and what follows it before the others.
    pub fn find_chunk(&self, range: Range<u32>, first: u32) -> Option<Candidate> {
        let first = first.clamp(range.start, range.end);
        (first..range.end)
            .chain(range.start..first)
            .find_map(|chunk| {
                let tag = self.memory().chunk_tag(chunk).load(Acquire);
                self.is_over(tag).then_some(Candidate { chunk, tag })
            })
    }

    /// Allocates a chunk for a claimed cell; `false` if somebody else was faster.
    pub fn allocate(&self, candidate: Candidate, claim: &Claim) -> bool {
        let tag = self.memory().chunk_tag(candidate.chunk);
        tag.swap_if(candidate.tag, self.tag_of(claim.index()).to_word(), AcqRel)
            .is_ok()
    }

    /// Hands a chunk that was allocated for the claim `from` to the claim `to`. Both are the caller's.
    pub fn hand_over(&self, chunk: u32, from: &Claim, to: &Claim) -> bool {
        let tag = self.memory().chunk_tag(chunk);
        let (from, to) = (self.tag_of(from.index()), self.tag_of(to.index()));
        tag.swap_if(from.to_word(), to.to_word(), AcqRel).is_ok()
    }

    /// Whether chunk `chunk` was allocated for the present occupancy of cell `index`.
    pub fn belongs(&self, chunk: u32, index: u32) -> bool {
        self.memory().chunk_tag(chunk).load(Acquire) == self.tag_of(index).to_word()
    }

    pub(super) fn tag_of(&self, index: u32) -> Tag {
        Tag::of(index, self.cell(index).occupancy())
    }

    /// How many chunks are in use, now more or less.
    pub fn chunks_in_use(&self) -> u32 {
        let used = |chunk: &u32| !self.is_over(self.memory().chunk_tag(*chunk).load(Acquire));
        u32::try_from((0..self.memory().chunks()).filter(used).count()).unwrap_or(u32::MAX)
    }

    /// Whether what was allocated under this tag is nobody's any more.
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
