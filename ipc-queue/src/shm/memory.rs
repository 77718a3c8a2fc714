//! What the ring runs on: words and cells, wherever they are.
//!
//! In production they lie in a shared mapping; under a model checker on the heap, in words that record
//! every access. The algorithm is the same code on both.

use std::sync::atomic::{AtomicU64, Ordering};

use super::word::Seat;

/// A shared 64-bit word.
pub trait Word {
    /// Reads it.
    fn load(&self, order: Ordering) -> u64;
    /// Writes it.
    fn store(&self, value: u64, order: Ordering);
    /// Writes `new` if it is `current`, else says what it is. `order` is for success.
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

/// Words in a slot for a reason.
pub const REASON_WORDS: usize = 32;

/// Words for the whole ring, each on a cache line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingWord {
    /// Where receivers look next. May lag or lie; only ever a starting point for the search.
    Head = 0,
    /// Where senders look next. May lag or lie; only ever a starting point for the search.
    Tail = 1,
    /// Counts messages that became ready behind or ahead of the receivers' position.
    Stray = 2,
    /// Counts cells that became free ahead of the senders' position.
    Spare = 3,
}

impl RingWord {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// The memory of one ring.
pub trait Memory {
    /// Its words.
    type Word: Word;

    /// How often a receiver looks again before it steps over a sender that is not done.
    const PATIENCE: usize = 64;

    /// After how many operations in a row, none of which had to wait, a handle is in a stream.
    const STREAM: u8 = 4;

    /// How many cells there are; at least 1, at most 2^20.
    fn cells(&self) -> u32;

    /// The header of cell `index`, which is below `cells()`.
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

    /// One of the ring's own words.
    fn ring_word(&self, word: RingWord) -> &Self::Word;

    /// How many chunks there are for payloads that do not fit their cells.
    fn chunks(&self) -> u32;

    /// What chunk `index`, which is below `chunks()`, was last allocated for.
    fn chunk_tag(&self, index: u32) -> &Self::Word;

    /// How many slots there are for reasons.
    fn reasons(&self) -> u32 {
        0
    }

    /// Slot `index` for a reason, which is below `reasons()`.
    fn reason(&self, index: u32) -> &[Self::Word; REASON_WORDS] {
        unreachable!("there is no slot {index} for a reason")
    }

    /// The number of the process that has a seat; 0 if that can't be known. Only for those who ask who it was.
    fn process(&self, seat: Seat) -> u32 {
        let _ = seat;
        0
    }

    /// Spends a moment while another process is about to change a word.
    fn pause(&self) {
        std::hint::spin_loop();
    }
}
