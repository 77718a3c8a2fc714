//! The tags of units of payload memory, as values with named fields.
//!
//! `chunk` has the protocol of which these are the words.

use super::cell::ClaimWord;
use super::word::Lap;

/// The widths of the fields of a unit's tag, `head:1 | length | cell+1 | generation`.
///
/// The length counts units. Length and cell get the bits that they need, and the generation the
/// others. A generation that does not fit is cut. So a chunk that is over may look as if it were in
/// use, until its cell is used again.
///
/// | from | to | by | when |
/// |---|---|---|---|
/// | a head that is over | a head of the claim, of the same length | a sender | it takes the chunk |
/// | a head that is over | not a head, the same length | the owner of the chunk before | it swallows the chunk |
/// | a head of the claim | the same, another length | its owner | it has swallowed or split |
/// | a head of the claim | a head of no cell | its owner | the chunk did not become long enough |
/// | a head of the claim | a head of another claim of that sender | its owner | the message moved |
/// | not a head | the same, the length of the rest | the owner of that unit | it is about to split |
/// | not a head | a head of no cell, the same length | the owner of the chunk before | a chunk begins here |
///
/// Zero is a head of no cell in the first unit of each block, and elsewhere not a head. So zeroed
/// memory consists of free chunks of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct TagFields {
    owner_bits: u32,
    generation_bits: u32,
    owner_mask: u64,
    generation_mask: u64,
}

/// The bit of a head.
pub(super) const HEAD: u64 = 1 << 63;

impl TagFields {
    pub(super) fn new(units: u32, cells: u32) -> Self {
        let width = |most: u32| u32::BITS - most.leading_zeros();
        let owner_bits = u64::BITS - 1 - width(units);
        let generation_bits = owner_bits - width(cells);
        Self {
            owner_bits,
            generation_bits,
            owner_mask: (1 << owner_bits) - 1,
            generation_mask: (1 << generation_bits.min(Lap::BITS)) - 1,
        }
    }

    /// Returns the bits that name the owner.
    #[inline(always)]
    pub(super) const fn owner(self, cell: u32, claim: ClaimWord) -> u64 {
        (cell as u64 + 1) << self.generation_bits | claim.masked(self.generation_mask)
    }

    /// Returns the bits that name the owner in a tag.
    #[inline(always)]
    pub(super) const fn owner_of(self, tag: u64) -> u64 {
        tag & self.owner_mask
    }

    /// Returns the index of the cell that the tag names; `u32::MAX`: of no cell.
    #[inline(always)]
    pub(super) const fn cell_of(self, tag: u64) -> u32 {
        ((self.owner_of(tag) >> self.generation_bits) as u32).wrapping_sub(1)
    }

    /// Returns whether the tag has the generation of this claim.
    #[inline(always)]
    pub(super) const fn is_of(self, tag: u64, claim: ClaimWord) -> bool {
        claim.masked(self.generation_mask) == tag & self.generation_mask
    }

    /// Returns whether the tag is a head with these bits for its owner.
    #[inline(always)]
    pub(super) const fn is_head_of(self, tag: u64, owner: u64) -> bool {
        tag & (HEAD | self.owner_mask) == HEAD | owner
    }

    /// Returns the number of units.
    #[inline(always)]
    pub(super) const fn length_of(self, tag: u64) -> u32 {
        ((tag & !HEAD) >> self.owner_bits) as u32
    }

    /// Returns the head of a chunk.
    #[inline(always)]
    pub(super) const fn head(self, owner: u64, length: u32) -> u64 {
        HEAD | self.inner(length) | owner
    }

    /// Returns whether a tag is a head, its length, and the number of its cell, plus one.
    #[cfg(test)]
    pub(super) fn parts(self, tag: u64) -> (bool, u32, usize) {
        let cell = self.owner_of(tag) >> self.generation_bits;
        (tag & HEAD != 0, self.length_of(tag), cell as usize)
    }

    #[cfg(test)]
    pub(super) fn to_text(self, tag: u64) -> String {
        let (is_head, units, cell) = self.parts(tag);
        let generation = tag & self.generation_mask;
        match (is_head, cell.checked_sub(1)) {
            (false, _) => format!("x{units} inside"),
            (true, None) => format!("x{units} of no cell"),
            (true, Some(cell)) => format!("x{units} of cell {cell} lap {generation}"),
        }
    }

    /// Returns a tag that is not a head.
    #[inline(always)]
    pub(super) const fn inner(self, length: u32) -> u64 {
        (length as u64) << self.owner_bits
    }
}
