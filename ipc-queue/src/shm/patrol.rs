//! The scrubber: searches for messages and places whose hint was lost, one stretch of cells at a
//! time.
//!
//! If a process is killed between a change and its hint, recovery raises all hints. But a process
//! that is *stopped* there may never go on, and some damage has the same effect. So every attached
//! process scans the cells regularly, and raises `Stray` if a message is ready, `Spare` if a cell
//! is free. If those were known already, this costs one scan of each handle that next finds nothing
//! in FIFO order. While there is nothing to find, no handle scans. Stretches are bounded, so a
//! large unused queue costs no more than a small one; a full round only takes longer.
//!
//! If a whole round found every cell free, and nothing was claimed or taken since, hardly any hint
//! can be missing. It would need a process that was stopped within a few instructions of the round.
//! Then the scrubber rests most of the time, because the cells of an unused queue are in no cache.

use std::sync::atomic::Ordering::SeqCst;

use super::memory::{Memory, RingWord, Word};
use super::ring::Ring;
use super::word::{CellKind, Inside, State};

/// The number of cells of one stretch: a third of a millisecond, if none is in the cache.
const STRETCH: u32 = 1 << 12;

/// The number of scans that are skipped for each that is made, in an unused queue.
const REST: u32 = 15;

/// The position of a process's scrubber in a queue.
#[derive(Debug, Default)]
pub struct Patrol {
    /// The start of the next stretch.
    from: u32,
    /// The number of consecutive cells that were free, while nothing was claimed or taken.
    free: u32,
    /// The positions of senders and receivers at the last scan.
    places: u64,
    rested: u32,
}

impl Patrol {
    /// Creates a scrubber at a random position: several processes at different positions complete a
    /// round sooner together.
    pub fn anywhere() -> Self {
        Self {
            from: fastrand::u32(..),
            ..Self::default()
        }
    }

    /// Scans the next stretch in each of a queue's rings, or skips this scan. The rings have the
    /// same size.
    pub fn go_on<'a, M: Memory + 'a>(&mut self, rings: impl Iterator<Item = &'a Ring<M>> + Clone) {
        let places = rings.clone().map(Ring::places).fold(0, u64::wrapping_add);
        if places != self.places {
            (self.places, self.free) = (places, 0);
        }
        let cells = rings.clone().map(Ring::cells).max().unwrap_or(0);
        if self.free >= cells && self.rested < REST {
            self.rested += 1;
            return;
        }
        self.rested = 0;
        let from = self.from;
        let mut all_free = true;
        rings.for_each(|ring| all_free &= ring.patrol(from));
        self.free = if all_free {
            self.free.saturating_add(STRETCH)
        } else {
            0
        };
        self.from = from.wrapping_add(STRETCH);
    }
}

impl<M: Memory> Ring<M> {
    /// Returns a sum that changes with every claim and delivery in FIFO order.
    fn places(&self) -> u64 {
        let place = |word| self.memory().ring_word(word).load(SeqCst);
        place(RingWord::Head).wrapping_add(place(RingWord::Tail))
    }

    /// Scans the stretch that begins at `from`, anywhere in the ring or beyond its end. Returns
    /// whether all of it was free.
    fn patrol(&self, from: u32) -> bool {
        let cells = self.cells();
        let (mut ready, mut free, mut others) = (false, false, false);
        for step in 0..STRETCH.min(cells) {
            let index = (from % cells + step) % cells;
            let word = self.cell(index).state().load(SeqCst);
            let state = State::from_word(word);
            match state.kind {
                CellKind::Ready => ready = true,
                CellKind::Free => free = true,
                // Senders reach it in FIFO order, so no hint is needed.
                CellKind::Inside if state.inside() == Some(Inside::Free) => {}
                _ => others = true,
            }
            if ready && free {
                break;
            }
        }
        if ready {
            self.stray();
        }
        if free {
            self.spare();
        }
        free && !ready && !others
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use ipc_proto::Kind;

    use super::*;
    use crate::shm::memory::CELL_WORDS;
    use crate::shm::ring::{Limits, Publication};
    use crate::shm::word::Seat;

    #[derive(Debug, Default)]
    struct Heap {
        cells: Vec<[AtomicU64; CELL_WORDS]>,
        words: [AtomicU64; RingWord::COUNT],
    }

    impl Memory for Heap {
        type Word = AtomicU64;

        fn cells(&self) -> u32 {
            u32::try_from(self.cells.len()).unwrap()
        }

        fn cell(&self, index: u32) -> &[AtomicU64; CELL_WORDS] {
            &self.cells[index as usize]
        }

        fn ring_word(&self, word: RingWord) -> &AtomicU64 {
            &self.words[word as usize]
        }

        fn units(&self) -> u32 {
            0
        }

        fn tag(&self, _: u32) -> &AtomicU64 {
            unreachable!("there are no units")
        }
    }

    fn ring(cells: u32) -> Ring<Heap> {
        let cells = (0..cells).map(|_| Default::default()).collect();
        let memory = Heap {
            cells,
            ..Heap::default()
        };
        Ring::new(memory, Limits::attempts(5))
    }

    fn strays(ring: &Ring<Heap>) -> u64 {
        ring.memory().ring_word(RingWord::Stray).load(SeqCst)
    }

    #[test]
    fn a_message_whose_hint_was_lost_is_found_when_the_patrol_comes_by() {
        let ring = ring(2 * STRETCH);
        let me = Seat::of_slot(0);
        let mut head = ring.cursor(RingWord::Head);
        assert!(ring.take(me, &mut head).is_none());
        let mut tail = ring.cursor(RingWord::Tail);
        let claim = ring.claim(me, Kind::Data, &mut tail).unwrap();
        assert!(matches!(ring.publish(claim), Publication::Done));
        let lease = ring.take(me, &mut head).unwrap();
        // Returned by a process that was stopped before it raised the hint.
        let cell = ring.cell(lease.index()).state();
        let held = State::from_word(cell.load(SeqCst));
        cell.store(held.released_as(CellKind::Ready).to_word(), SeqCst);
        assert!(ring.take(me, &mut head).is_none());
        ring.patrol(STRETCH);
        assert!(ring.take(me, &mut head).is_none());
        ring.patrol(2 * STRETCH);
        assert!(ring.take(me, &mut head).is_some());
    }

    #[test]
    fn a_patrol_rests_where_nothing_happens_and_only_there() {
        let ring = ring(2 * STRETCH);
        let me = Seat::of_slot(0);
        let looks = |patrol: &mut Patrol| {
            let looked = |patrol: &mut Patrol| {
                let before = patrol.from;
                patrol.go_on(std::iter::once(&ring));
                u32::from(patrol.from != before)
            };
            (0..2 * (1 + REST)).map(|_| looked(patrol)).sum::<u32>()
        };
        let mut patrol = Patrol::default();
        looks(&mut patrol);
        assert_eq!(looks(&mut patrol), 2);

        // A sender used the cells, but they are free again.
        let claim = ring.claim(me, Kind::Data, &mut ring.cursor(RingWord::Tail));
        ring.abandon(claim.unwrap());
        assert_eq!(looks(&mut patrol), 2 + 2 - 1);

        // A cell that is not free, at any position.
        let claim = ring.claim(me, Kind::Data, &mut ring.cursor(RingWord::Tail));
        assert_eq!(looks(&mut patrol), 2 * (1 + REST));
        ring.abandon(claim.unwrap());
    }

    #[test]
    fn where_nothing_is_ready_nobody_is_made_to_scan() {
        let ring = ring(3);
        let before = strays(&ring);
        ring.patrol(u32::MAX);
        assert_eq!(strays(&ring), before);
    }
}
