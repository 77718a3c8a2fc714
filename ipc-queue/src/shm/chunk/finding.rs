//! Finding free chunks.
//!
//! Reads only, while other processes split and swallow. A walk goes from head to head. It begins at
//! a head, and every head is the first tag of a chunk, so a walk may miss a chunk that changes
//! meanwhile, but finds none that is not there.

use std::ops::Range;
use std::sync::atomic::Ordering::Acquire;

use super::First;
use crate::shm::memory::{Memory, Word};
use crate::shm::ring::Ring;
use crate::shm::tag::HEAD;

/// A chunk that was free when it was checked. With the chunks behind it, which were also free, it
/// is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The number of its first unit.
    pub chunk: u32,
    /// The units that are needed.
    pub units: u32,
    pub(super) length: u32,
    pub(super) tag: u64,
}

/// The state of the chunk that begins at a unit.
pub enum Chunk {
    /// A free chunk of exactly the length that is needed.
    Free(Candidate),
    /// A chunk in use.
    Used,
    /// A free chunk of another length, or no chunk.
    Other,
}

impl Candidate {
    /// Returns the number of the unit behind those that are needed.
    #[inline(always)]
    pub fn end(self) -> u32 {
        self.chunk + self.units
    }
}

/// A chunk that a walk has reached.
pub(super) struct Step {
    pub(super) unit: u32,
    pub(super) length: u32,
    pub(super) tag: u64,
    /// If not, the chunk before it was free, or it was being changed.
    pub(super) is_head: bool,
}

/// A walk over chunks.
pub(super) struct Walk<'a, M> {
    ring: &'a Ring<M>,
    at: u32,
    /// The last head, and its unit.
    before: Option<(u32, u64)>,
}

impl<M: Memory> Walk<'_, M> {
    /// Returns whether the last head still leads to where the walk is.
    fn is_on_its_way(&self) -> bool {
        let is_same = |(unit, tag)| self.ring.memory().tag(unit).load(Acquire) == tag;
        self.before.is_some_and(is_same)
    }
}

impl<M: Memory> Iterator for Walk<'_, M> {
    type Item = Step;

    #[inline]
    fn next(&mut self) -> Option<Step> {
        while self.at < self.ring.memory().units() {
            let unit = self.at;
            let First {
                tag,
                is_head,
                length,
            } = self.ring.first_at(unit);
            if is_head {
                self.before = Some((unit, tag));
            } else if length == 0 || !self.is_on_its_way() {
                // The walk lost its way, because a chunk was changed meanwhile, or the tag is
                // damaged. It continues at the next head.
                (self.at, self.before) = (unit + 1, None);
                continue;
            }
            self.at += length;
            return Some(Step {
                unit,
                length,
                tag,
                is_head,
            });
        }
        None
    }
}

impl<M: Memory> Ring<M> {
    /// Walks over the chunks, from the first head at or behind `unit` on.
    pub(super) fn walk_from(&self, unit: u32) -> Walk<'_, M> {
        Walk {
            ring: self,
            at: unit,
            before: None,
        }
    }

    /// Looks at the chunk that begins at this unit.
    #[inline(always)]
    pub fn look_at_chunk(&self, unit: u32, units: u32) -> Chunk {
        if unit >= self.memory().units() {
            return Chunk::Other;
        }
        let tag = self.memory().tag(unit).load(Acquire);
        if tag & HEAD == 0 {
            return Chunk::Other;
        }
        if !self.has_ended(tag) {
            return Chunk::Used;
        }
        if self.tags().length_of(tag) != units {
            return Chunk::Other;
        }
        Chunk::Free(Candidate {
            chunk: unit,
            units,
            length: units,
            tag,
        })
    }

    /// Returns whether the tag of this unit is surely a head.
    #[inline(always)]
    pub(super) fn has_head(&self, unit: u32) -> bool {
        self.memory().tag(unit).load(Acquire) & HEAD != 0
    }

    /// Returns whether a chunk begins at this unit.
    pub fn begins_chunk(&self, unit: u32) -> bool {
        unit < self.memory().units() && self.first_at(unit).is_head
    }

    /// Returns the first free chunk of these units that is long enough, or is so with the free
    /// chunks behind it.
    #[inline]
    pub fn find_chunk(&self, range: Range<u32>, units: u32) -> Option<Candidate> {
        let mut found: Option<Candidate> = None;
        // The end of the free chunks from `found` on.
        let mut free_end = range.start;
        for step in self.walk_from(range.start) {
            let follows = found.is_some() && step.unit == free_end;
            if !follows {
                found = None;
                if step.unit >= range.end {
                    break;
                }
            }
            if step.is_head {
                if !self.has_ended(step.tag) {
                    found = None;
                    continue;
                }
                let candidate = found.get_or_insert(Candidate {
                    chunk: step.unit,
                    units,
                    length: step.length,
                    tag: step.tag,
                });
                let first = candidate.chunk;
                free_end = step.unit + step.length;
                if free_end - first >= units {
                    return found;
                }
            } else if let Some(candidate) = found {
                // The rest of an interrupted allocation.
                free_end = step.unit + step.length;
                if free_end - candidate.chunk >= units {
                    return found;
                }
            }
        }
        None
    }
}
