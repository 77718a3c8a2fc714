//! The memory of a ring: words and cells, wherever they are.
//!
//! In production they are in a shared mapping. Under a model checker they are on the heap, in words
//! that record every access. The algorithm is the same code on both.

use std::sync::atomic::{AtomicU64, Ordering};

use super::word::Seat;

/// A shared 64-bit word.
pub trait Word {
    /// Reads the word.
    fn load(&self, order: Ordering) -> u64;
    /// Writes the word.
    fn store(&self, value: u64, order: Ordering);
    /// Writes `new` if the value is `current`, otherwise returns the value. `order` is for success.
    fn swap_if(&self, current: u64, new: u64, order: Ordering) -> Result<(), u64>;
    /// Adds `value`, wrapping.
    fn add(&self, value: u64, order: Ordering);
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        Self::store(self, value, order);
    }

    #[inline]
    fn swap_if(&self, current: u64, new: u64, order: Ordering) -> Result<(), u64> {
        self.compare_exchange(current, new, order, Ordering::Acquire)
            .map(drop)
    }

    #[inline]
    fn add(&self, value: u64, order: Ordering) {
        self.fetch_add(value, order);
    }
}

/// Words in a cell's header.
pub const CELL_WORDS: usize = 8;

/// The number of units of each chunk in zeroed memory. Not all units are one chunk, so that a
/// sender that is stopped while it splits a chunk does not keep them all.
pub const BLOCK_UNITS: u32 = 1024;

/// Words in a slot for a reason.
pub const REASON_WORDS: usize = 32;

/// The words of a ring, each on a separate cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingWord {
    /// The position where receivers search first. May lag or be wrong; only ever a starting point
    /// for the search.
    Head = 0,
    /// The position where senders search first. May lag or be wrong; only ever a starting point for
    /// the search.
    Tail = 1,
    /// Hint: the number of messages that became ready behind or ahead of the receivers' position.
    Stray = 2,
    /// Hint: the number of cells that became free ahead of the senders' position.
    Spare = 3,
}

impl RingWord {
    /// The number of these words.
    pub const COUNT: usize = 4;
}

/// The memory of one ring.
pub trait Memory {
    /// The type of its words.
    type Word: Word;

    /// The number of checks of a receiver before it steps over a sender that has not published.
    const PATIENCE: usize = 64;

    /// The number of consecutive operations without a wait that make a stream.
    const STREAM: u8 = 4;

    /// Returns the number of cells: at least 1, at most 2^20.
    fn cells(&self) -> u32;

    /// Returns the header of cell `index`, which is below `cells()`.
    fn cell(&self, index: u32) -> &[Self::Word; CELL_WORDS];

    /// Hints that cell `index` will soon be claimed and filled.
    #[inline(always)]
    fn fetch_to_fill(&self, index: u32) {
        let _ = index;
    }

    /// Hints that cell `index` will soon be taken and read.
    #[inline(always)]
    fn fetch_to_take(&self, index: u32) {
        let _ = index;
    }

    /// Returns one of the ring's own words.
    fn ring_word(&self, word: RingWord) -> &Self::Word;

    /// Returns the number of units of memory for payloads that do not fit their cells: below 2^25.
    fn units(&self) -> u32;

    /// Returns the number of units of each chunk in zeroed memory.
    fn block_units(&self) -> u32 {
        BLOCK_UNITS
    }

    /// Returns the tag of unit `index`, which is below `units()`.
    fn tag(&self, index: u32) -> &Self::Word;

    /// Returns the number of slots for reasons.
    fn reasons(&self) -> u32 {
        0
    }

    /// Returns slot `index` for a reason, which is below `reasons()`.
    fn reason(&self, index: u32) -> &[Self::Word; REASON_WORDS] {
        unreachable!("there is no slot {index} for a reason")
    }

    /// Returns the pid of the process in a participant slot; 0 if unknown. For records about its
    /// death only.
    fn process(&self, seat: Seat) -> u32 {
        let _ = seat;
        0
    }

    /// Pauses briefly while another process is about to change a word.
    fn pause(&self) {
        std::hint::spin_loop();
    }
}
