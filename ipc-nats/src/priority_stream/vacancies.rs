//! The numbered places that may be free: where a sender tries first.
//!
//! These are only hints. The server decides, by refusing to write a place that is taken. A lost
//! hint costs a sender a reading of all records, a wrong one costs a request.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(crate) struct Vacancies {
    /// The number of places.
    capacity: u32,
    hints: Mutex<Hints>,
}

#[derive(Debug)]
struct Hints {
    /// Places that were free when this process last heard of them.
    free: VecDeque<u32>,
    /// The place to try when `free` is empty. Messages leave roughly in the order in which they
    /// came, so the place behind the last one is the most likely to be free.
    next: u32,
}

/// The most places that are remembered. Others are found again by reading the records.
const MOST: usize = 4096;

impl Vacancies {
    pub(crate) fn new(capacity: u32) -> Self {
        let capacity = capacity.max(1);
        let next = fastrand::u32(..capacity);
        let free = VecDeque::new();
        Self {
            capacity,
            hints: Mutex::new(Hints { free, next }),
        }
    }

    /// The place that a sender should try next.
    pub(crate) fn guess(&self) -> u32 {
        let mut hints = self.lock();
        if let Some(place) = hints.free.pop_front() {
            return place;
        }
        let place = hints.next;
        hints.next = (place + 1) % self.capacity;
        place
    }

    /// The number of places that were free when this process last heard of them.
    pub(crate) fn known(&self) -> usize {
        self.lock().free.len()
    }

    /// Notes that a place was freed.
    pub(crate) fn freed(&self, place: u32) {
        let mut hints = self.lock();
        if place < self.capacity && hints.free.len() < MOST {
            hints.free.push_back(place);
        }
    }

    /// Replaces all hints from the records: these places are taken, the others are free.
    pub(crate) fn learn(&self, taken: impl Iterator<Item = u32>) {
        let taken: std::collections::HashSet<u32> = taken.collect();
        let mut hints = self.lock();
        // Senders of other processes read the same records: each begins elsewhere.
        let first = fastrand::u32(..self.capacity);
        let places = (first..self.capacity).chain(0..first);
        let free = places.filter(|place| !taken.contains(place)).take(MOST);
        hints.free = free.collect();
    }

    fn lock(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_tried_once_before_any_is_tried_again() {
        let vacancies = Vacancies::new(3);
        let mut tried: Vec<u32> = (0..3).map(|_| vacancies.guess()).collect();
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2]);
    }

    #[test]
    fn a_place_that_was_freed_is_tried_first() {
        let vacancies = Vacancies::new(1000);
        vacancies.freed(7);
        vacancies.freed(1000);
        assert_eq!(vacancies.guess(), 7);
        vacancies.learn((0..1000).filter(|place| *place != 500));
        assert_eq!(vacancies.guess(), 500);
    }
}
