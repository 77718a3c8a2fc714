//! Reference: Dmitry Vyukov's bounded MPMC queue, in shared memory. The fastest subject that is
//! *not* crash-safe.
//!
//! Each cell's word shows whose turn it is. If it equals a position, the cell is free for the
//! sender of that position. If it is one more, the cell is full for the receiver. Both sides claim
//! a position by a compare-and-swap of their index. A process that is killed between the claim and
//! the store that ends it stops the ring forever.
//!
//! Source: "Bounded MPMC queue", 1024cores.net.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::copying::Copying;
use super::rings::{AHEAD, Cells, HEAD, Ring, TAIL, Waited};
use super::waiting::{Adaptive, Polling};
use crate::player::Player;
use crate::work::{SMALL, Work};

/// With `FETCHES`, each side asks for the lines of a cell further ahead, as this project's queue
/// does.
#[derive(Debug)]
pub struct Vyukov<const FETCHES: bool>(Cells);

type Plain = Vyukov<false>;
type Prefetching = Vyukov<true>;

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    all.push(Box::new(Waited::<Plain, Polling>::new()));
    all.push(Box::new(Waited::<Plain, Adaptive>::new()));
    all.push(Box::new(Waited::<Prefetching, Adaptive>::new()));
    all.push(Box::new(Copying(Waited::<Plain, Adaptive>::new())));
}

impl<const FETCHES: bool> Vyukov<FETCHES> {
    /// Claims a position whose cell's word is `ahead` of it.
    #[inline]
    fn claim(&self, index: usize, ahead: u64) -> Option<u64> {
        let index = self.0.shared.word(index);
        let mut position = index.load(Relaxed);
        loop {
            let word = self.0.word(position).load(Acquire);
            #[expect(clippy::cast_possible_wrap, reason = "a difference that wraps")]
            match word.wrapping_sub(position + ahead) as i64 {
                0 => match index.compare_exchange_weak(position, position + 1, Relaxed, Relaxed) {
                    Ok(_) => return Some(position),
                    Err(now) => position = now,
                },
                // One lap behind: the ring is full, or empty.
                ..0 => return None,
                _ => position = index.load(Relaxed),
            }
        }
    }
}

impl<const FETCHES: bool> Ring for Vyukov<FETCHES> {
    const NAME: &str = if FETCHES {
        "vyukov prefetching"
    } else {
        "vyukov"
    };
    const NOTE: &str = "no ack; wedged forever by one badly timed kill";

    const SHARED: bool = !FETCHES;

    fn prepare(cells: &Cells) {
        for position in 0..cells.count {
            cells.word(position).store(position, Release);
        }
    }

    fn over(cells: Cells) -> Self {
        Self(cells)
    }

    #[inline]
    fn try_push(&self, len: usize, fill: &mut impl FnMut(&mut [u8])) -> bool {
        let Some(position) = self.claim(TAIL, 0) else {
            return false;
        };
        if FETCHES {
            self.0.fetch_to_write(position + AHEAD);
        }
        // SAFETY: claimed, so only this sender uses it until the store below.
        fill(unsafe { self.0.payload_mut(position, len) });
        self.0.word(position).store(position + 1, Release);
        true
    }

    #[inline]
    fn try_pop(&self, read: &mut impl FnMut(&[u8])) -> bool {
        let Some(position) = self.claim(HEAD, 1) else {
            return false;
        };
        if FETCHES {
            self.0.fetch_to_read(position + AHEAD);
        }
        // SAFETY: claimed, so no process writes to it until the store below.
        read(unsafe { self.0.payload(position) });
        self.0
            .word(position)
            .store(position + self.0.count, Release);
        true
    }

    fn does(work: Work) -> bool {
        match work {
            Work::Alone { bytes } => bytes == SMALL,
            // Ahead of a round trip there is nothing to fetch.
            Work::OneWay { bytes, .. } if FETCHES => bytes == SMALL,
            _ => !FETCHES,
        }
    }
}
