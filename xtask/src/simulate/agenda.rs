//! What is still to happen, and the clock: virtual, in microseconds, moved by nothing but the next event.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::event::Event;

/// Microseconds since the run began.
pub type Time = u64;

pub const MS: Time = 1_000;
pub const SECOND: Time = 1_000 * MS;

/// Events in the order of their times; those of one time in the order in which they were added.
#[derive(Debug, Default)]
pub struct Agenda {
    now: Time,
    added: u64,
    heap: BinaryHeap<Reverse<Due>>,
}

#[derive(Debug)]
struct Due {
    at: Time,
    number: u64,
    event: Event,
}

impl Agenda {
    pub fn now(&self) -> Time {
        self.now
    }

    /// How many events there were so far.
    pub fn added(&self) -> u64 {
        self.added
    }

    pub fn add_after(&mut self, delay: Time, event: Event) {
        self.add_at(self.now + delay, event);
    }

    /// Never before now.
    pub fn add_at(&mut self, at: Time, event: Event) {
        self.added += 1;
        self.heap.push(Reverse(Due {
            at: at.max(self.now),
            number: self.added,
            event,
        }));
    }

    /// The next event; it is then its time.
    pub fn next(&mut self) -> Option<Event> {
        let Reverse(due) = self.heap.pop()?;
        self.now = due.at;
        Some(due.event)
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}
