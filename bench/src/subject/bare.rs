//! Reference: the four swaps of this project's queue in a straight line, and nothing else.
//!
//! A cell's word is `{ kind, owner, lap }`. It goes from `FREE` to `WRITING(me)` to `READY`, and
//! with the next lap to `LEASED(me)` and `FREE`, each by a compare-and-swap, so that a cell always
//! tells which process has it. That is what crash-safety takes. Everything that makes use of it is
//! missing: recovery, attempts, leases, statistics, sleeping, messages of other sizes. What `shm`
//! takes beyond this is the cost of those.
//!
//! Lines are fetched as far ahead as `shm` fetches them.

use std::cell::Cell;
use std::process;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::rings::{AHEAD, Cells, HEAD, Ring, TAIL, Waited};
use super::waiting::Adaptive;
use crate::player::Player;
use crate::work::{SMALL, Work};

#[derive(Debug)]
pub struct Bare {
    cells: Cells,
    /// The next position to try.
    position: Cell<u64>,
    /// This process, as part of a word.
    owner: u64,
}

/// The kinds of words.
const FREE: u64 = 0;
const WRITING: u64 = 1 << 61;
const READY: u64 = 2 << 61;
const LEASED: u64 = 3 << 61;
const KIND: u64 = 7 << 61;
const LAP_BITS: u32 = 35;
const LAP: u64 = (1 << LAP_BITS) - 1;
const OWNER: u64 = !(KIND | LAP);

pub fn bare() -> Box<dyn Player> {
    Box::new(Waited::<Bare, Adaptive>::new())
}

impl Bare {
    fn lap(&self, position: u64) -> u64 {
        position >> self.cells.count.trailing_zeros()
    }

    /// Claims the first cell of this kind from the own position on. Returns its position, and its
    /// new word. `passed` tells from the word of another kind whether the cell is behind.
    #[inline]
    fn claim(
        &self,
        hint: usize,
        from: u64,
        to: u64,
        step: u64,
        passed: impl Fn(u64, u64) -> bool,
    ) -> Option<(u64, u64)> {
        let hint = self.cells.shared.word(hint);
        let mut position = self.position.get();
        loop {
            let lap = self.lap(position);
            let claimed = to | self.owner | (lap + step);
            let word = self.cells.word(position);
            let found = match word.compare_exchange(from | lap, claimed, SeqCst, Acquire) {
                Ok(_) => {
                    self.position.set(position + 1);
                    // May go back: only ever a place to continue from.
                    hint.store(position + 1, Relaxed);
                    return Some((position, claimed));
                }
                Err(found) => found,
            };
            if !passed(found, lap) {
                self.position.set(position);
                return None;
            }
            position = hint.load(Relaxed).max(position + 1);
        }
    }

    /// Ends what a claim began. Nothing else changes a word that names this process.
    #[inline]
    fn end(&self, position: u64, claimed: u64, kind: u64) {
        let ended = kind | (claimed & LAP);
        let swapped = self
            .cells
            .word(position)
            .compare_exchange(claimed, ended, SeqCst, Acquire);
        debug_assert!(swapped.is_ok(), "another process changed a claimed cell");
    }
}

impl Ring for Bare {
    const NAME: &str = "bare protocol";
    const NOTE: &str = "the same four swaps, but no recovery, leases, statistics or sleeping";

    /// Nothing recovers what a killed process had.
    const SHARED: bool = false;

    fn prepare(_: &Cells) {}

    fn over(cells: Cells) -> Self {
        Self {
            cells,
            position: Cell::new(0),
            owner: (u64::from(process::id()) << LAP_BITS) & OWNER,
        }
    }

    #[inline]
    fn try_push(&self, len: usize, fill: &mut impl FnMut(&mut [u8])) -> bool {
        let taken = |word: u64, lap: u64| {
            let being_sent = matches!(word & KIND, WRITING | READY);
            word & LAP > lap || (word & LAP == lap && being_sent)
        };
        let Some((position, claimed)) = self.claim(TAIL, FREE, WRITING, 0, taken) else {
            return false;
        };
        self.cells.fetch_to_write(position + AHEAD);
        // SAFETY: claimed, so only this sender uses it until the swap below.
        fill(unsafe { self.cells.payload_mut(position, len) });
        self.end(position, claimed, READY);
        true
    }

    #[inline]
    fn try_pop(&self, read: &mut impl FnMut(&[u8])) -> bool {
        let taken = |word: u64, lap: u64| word & LAP > lap;
        let Some((position, claimed)) = self.claim(HEAD, READY, LEASED, 1, taken) else {
            return false;
        };
        self.cells.fetch_to_read(position + AHEAD);
        // SAFETY: claimed, so no process writes to it until the swap below.
        read(unsafe { self.cells.payload(position) });
        self.end(position, claimed, FREE);
        true
    }

    fn does(work: Work) -> bool {
        match work {
            Work::OneWay { bytes, .. } | Work::Alone { bytes } => bytes == SMALL,
            Work::RoundTrip { .. } => true,
            _ => false,
        }
    }
}
