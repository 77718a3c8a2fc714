//! Reference: Leslie Lamport's queue for one sender and one receiver, in shared memory, with cached
//! indices.
//!
//! Each side owns an index and keeps a copy of the other's. It reads the other index again only
//! when the copy shows nothing to do. There is no locked instruction at all, and in a stream most
//! messages transfer no cache lines but their own.
//!
//! Sources: Lamport, "Specifying Concurrent Program Modules", 1983; for the cached indices: Lee,
//! Bu, Chandranmenon, "A lock-free, cache-efficient shared ring buffer" (MCRingBuffer), 2010.

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::rings::{Cells, HEAD, Ring, TAIL, Waited};
use super::waiting::{Adaptive, Polling};
use crate::player::Player;
use crate::work::Work;

#[derive(Debug)]
pub struct Lamport {
    cells: Cells,
    /// The sender's own index and its copy of the receiver's, or the reverse.
    own: Cell<u64>,
    other: Cell<u64>,
}

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    all.push(Box::new(Waited::<Lamport, Polling>::new()));
    all.push(Box::new(Waited::<Lamport, Adaptive>::new()));
}

impl Ring for Lamport {
    const NAME: &str = "lamport";
    const NOTE: &str = "no ack; one sender and one receiver only";

    const SHARED: bool = false;

    fn prepare(_: &Cells) {}

    fn over(cells: Cells) -> Self {
        Self {
            cells,
            own: Cell::new(0),
            other: Cell::new(0),
        }
    }

    #[inline]
    fn try_push(&self, len: usize, fill: &mut impl FnMut(&mut [u8])) -> bool {
        let tail = self.own.get();
        if tail - self.other.get() == self.cells.count {
            self.other.set(self.cells.shared.word(HEAD).load(Acquire));
            if tail - self.other.get() == self.cells.count {
                return false;
            }
        }
        // SAFETY: ahead of head by less than a lap, so the receiver is done with the cell, and this
        // is the only sender.
        fill(unsafe { self.cells.payload_mut(tail, len) });
        self.own.set(tail + 1);
        self.cells.shared.word(TAIL).store(tail + 1, Release);
        true
    }

    #[inline]
    fn try_pop(&self, read: &mut impl FnMut(&[u8])) -> bool {
        let head = self.own.get();
        if head == self.other.get() {
            self.other.set(self.cells.shared.word(TAIL).load(Acquire));
            if head == self.other.get() {
                return false;
            }
        }
        // SAFETY: below tail, so the sender is done with the cell, and does not reuse it before
        // head has passed it.
        read(unsafe { self.cells.payload(head) });
        self.own.set(head + 1);
        self.cells.shared.word(HEAD).store(head + 1, Release);
        true
    }

    fn does(work: Work) -> bool {
        match work {
            Work::OneWay {
                senders, receivers, ..
            } => (senders, receivers) == (1, 1),
            Work::RoundTrip { .. } => true,
            Work::Alone { bytes } => bytes == 64,
            // The ends are opened only once, because they keep their indices themselves.
            Work::Visit | Work::Create | Work::Open | Work::Shares { .. } => false,
        }
    }
}
