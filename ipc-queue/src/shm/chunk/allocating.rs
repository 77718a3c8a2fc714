//! Allocating chunks: taking, splitting and swallowing.
//!
//! The sender may die between any two lines. Its cell says `WRITING` and names it, so what it took
//! is over when its cell is recovered. It may leave a first tag that is not a head behind its
//! chunk. The next owner of its chunk makes that a head again, before it does anything else.

use std::sync::atomic::Ordering::{AcqRel, Release};

use super::Candidate;
use crate::shm::memory::{Memory, Word};
use crate::shm::ring::{Claim, Ring};

/// The outcome of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Allocation {
    /// The chunk is that of the claim.
    Done,
    /// Another sender was faster. Nothing has changed.
    Lost,
    /// Another sender was faster with a chunk behind it. What was taken is free again, and senders
    /// that wait for memory must be notified.
    GivenBack,
}

impl<M: Memory> Ring<M> {
    /// Allocates a chunk for a claimed cell.
    #[inline]
    pub fn allocate(&self, candidate: Candidate, claim: &Claim) -> Allocation {
        let Candidate {
            chunk,
            units,
            length,
            tag,
        } = candidate;
        let owner = self.owner_of(claim.index());
        let ours = self.tags().head(owner, length);
        // Failed: another sender took the chunk, or swallowed it.
        if self.memory().tag(chunk).swap_if(tag, ours, AcqRel).is_err() {
            return Allocation::Lost;
        }
        // In a stream of payloads of one size, all chunks have that size already.
        let next = chunk + units;
        if length == units && (next == self.memory().units() || self.has_head(next)) {
            return Allocation::Done;
        }
        self.fit(candidate, owner)
    }

    /// Changes the length of a chunk that this sender has taken to what it needs.
    #[inline(never)]
    fn fit(&self, candidate: Candidate, owner: u64) -> Allocation {
        let Candidate { chunk, units, .. } = candidate;
        let mut length = candidate.length;
        let head = self.memory().tag(chunk);
        while length < units {
            let Some(more) = self.swallow(chunk + length) else {
                head.store(self.tags().head(0, length), Release);
                return Allocation::GivenBack;
            };
            length += more;
            // From here on the swallowed tag is not the first of a chunk.
            head.store(self.tags().head(owner, length), Release);
        }
        self.mend(chunk + length);
        if length > units {
            self.split(candidate, length, owner);
        }
        Allocation::Done
    }

    /// Makes the first tag of the chunk at `next` one that no other process takes, and returns the
    /// chunk's length. `None`: it is in use. The caller owns the chunk before it.
    fn swallow(&self, next: u32) -> Option<u32> {
        if next >= self.memory().units() {
            return None;
        }
        let first = self.first_at(next);
        if !first.is_head {
            // The rest of an interrupted allocation, or damage.
            return Some(first.length).filter(|length| *length != 0);
        }
        let inner = self.tags().inner(first.length);
        let tag = self.memory().tag(next);
        // Failed: another sender took it.
        (self.has_ended(first.tag) && tag.swap_if(first.tag, inner, AcqRel).is_ok())
            .then_some(first.length)
    }

    /// Makes the first tag of the chunk at `next` a head, if an interrupted allocation left it
    /// without one. The caller owns the chunk before it, so no other process writes that tag.
    fn mend(&self, next: u32) {
        if next >= self.memory().units() {
            return;
        }
        let first = self.first_at(next);
        if first.is_head {
            return;
        }
        let length = match first.length {
            // Damage: up to the next head.
            0 => {
                let walk = self.walk_from(next).next();
                walk.map_or(self.memory().units(), |step| step.unit) - next
            }
            length => length,
        };
        let head = self.tags().head(0, length);
        self.memory().tag(next).store(head, Release);
    }

    /// Makes the units that are not needed a free chunk.
    fn split(&self, candidate: Candidate, length: u32, owner: u64) {
        let Candidate { chunk, units, .. } = candidate;
        let (tags, rest) = (self.tags(), length - units);
        let next = self.memory().tag(chunk + units);
        let is_damaged = self.first_at(chunk + units).is_head;
        if !is_damaged {
            // Before it is the first of a chunk: it says where the next one begins.
            next.store(tags.inner(rest), Release);
        }
        let ours = tags.head(owner, units);
        self.memory().tag(chunk).store(ours, Release);
        if !is_damaged {
            // After it is the first of a chunk: other senders take it from here on.
            next.store(tags.head(0, rest), Release);
        }
    }
}
