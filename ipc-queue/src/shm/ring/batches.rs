//! Claiming and taking several neighbouring cells, for batches.
//!
//! Each cell is claimed or taken by a compare-and-swap of its own, as in `sending` and `receiving`. Only
//! cells whose turn it is are considered. The loop ends at the first that is not as expected: what comes
//! out of order is left to [`Ring::claim`] and [`Ring::take`].
//!
//! The process may die between any two lines. Each cell then names it, as after single claims; `Head`
//! and `Tail`, stored once for all cells, lag by a few positions until the next store.

use std::array;
use std::sync::atomic::Ordering::SeqCst;

use ipc_proto::Kind;

use super::{Claim, Cursor, Lease, Ring};
use crate::shm::memory::{Memory, RingWord, Word};
use crate::shm::word::{CellKind, Seat, State};

/// The most messages of a batch that are claimed, or taken, together.
pub const TOGETHER: usize = 8;
/// The most bytes of a payload that is claimed, or taken, together with others: more would leave the first cache before
/// they are filled or read.
pub const SMALL_BYTES: usize = 512;

/// A few claims or leases, on the stack.
#[derive(Debug)]
pub struct Few<T> {
    items: [Option<T>; TOGETHER],
    len: usize,
}

impl<T> Default for Few<T> {
    #[inline(always)]
    fn default() -> Self {
        Self {
            items: array::from_fn(|_| None),
            len: 0,
        }
    }
}

impl<T> Few<T> {
    /// Adds one. There is room: at most `TOGETHER` are asked for.
    #[inline(always)]
    pub fn push(&mut self, item: T) {
        self.items[self.len] = Some(item);
        self.len += 1;
    }

    /// The number of items.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All, in their order.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items[..self.len].iter().flatten()
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Flatten<array::IntoIter<Option<T>, TOGETHER>>;

    #[inline(always)]
    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter().flatten()
    }
}

impl<M: Memory> Ring<M> {
    /// Claims the next `count` cells in FIFO order, at most [`TOGETHER`]: fewer if a cell is not free.
    #[inline]
    pub fn claim_batch(
        &self,
        me: Seat,
        kind: Kind,
        cursor: &mut Cursor,
        count: usize,
    ) -> Few<Claim> {
        let mut claims = Few::default();
        let count = count.min(TOGETHER);
        let mut at = self.start(RingWord::Tail, cursor);
        while claims.len() < count {
            let cell = self.cell(at.index());
            let free = State::free(at.lap()).to_word();
            // Optimistic CAS behind a first success. The first cell is looked at: a sender that waits must not
            // take its line from the receiver that frees it.
            if claims.is_empty() && cell.state().load(SeqCst) != free {
                break;
            }
            // Failed: it is in use, or another sender claimed it just now.
            let Some(claim) = Self::claim_word(cell, me, at.index(), free, cursor) else {
                break;
            };
            cell.begin(State::from_word(claim.word).lap, kind);
            claims.push(claim);
            if cursor.run == M::STREAM {
                self.memory.fetch_to_fill(self.ahead(at));
            }
            at = at.next(self.cells());
        }
        self.count_run(cursor, claims.len());
        if !claims.is_empty() {
            self.advance(RingWord::Tail, cursor, at);
        }
        claims
    }

    /// Takes the next `count` messages in FIFO order, at most [`TOGETHER`], that were never delivered before: fewer
    /// if one is not ready.
    #[inline]
    pub fn take_batch(&self, me: Seat, cursor: &mut Cursor, count: usize) -> Few<Lease> {
        let mut leases = Few::default();
        let count = count.min(TOGETHER);
        let mut at = self.start(RingWord::Head, cursor);
        while leases.len() < count {
            let cell = self.cell(at.index());
            let fresh = State::free(at.lap()).released_as(CellKind::Ready).to_word();
            // As for claims.
            if leases.is_empty() && cell.state().load(SeqCst) != fresh {
                break;
            }
            // Failed: nothing is there yet, or another receiver took it just now.
            let Some(lease) = Self::take_word(cell, me, at.index(), fresh) else {
                break;
            };
            leases.push(lease);
            if cursor.run == M::STREAM {
                self.memory.fetch_to_take(self.ahead(at));
            }
            at = at.next(self.cells());
        }
        self.count_run(cursor, leases.len());
        if !leases.is_empty() {
            self.advance(RingWord::Head, cursor, at);
        }
        leases
    }

    /// A batch that ends early ends no stream: only one that finds nothing does.
    #[inline(always)]
    fn count_run(&self, cursor: &mut Cursor, found: usize) {
        cursor.run = match found {
            0 => 0,
            // In range: at most `TOGETHER`.
            found => cursor.run.saturating_add(found as u8).min(M::STREAM),
        };
    }
}
