//! What only a partition's leader knows, and a new leader has to begin anew: who waits for which entry, who wants a message, and
//! what was delivered how often. So a new leader delivers again what may still be in somebody's hands, and counts its attempts from one:
//! harsher than a server that replicates these, too.

use std::collections::{HashMap, VecDeque};

use super::agenda::Time;
use super::event::{Request, Who};

#[derive(Debug, Default)]
pub struct Desk {
    /// By place in the log.
    pub waiting: HashMap<usize, Request>,
    /// Sequences to deliver, oldest first. Some may have been acked meanwhile.
    pub ready: VecDeque<u32>,
    pub attempts: HashMap<u32, u8>,
    pub pulls: VecDeque<Pull>,
    pub is_open: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Pull {
    pub who: Who,
    pub call: u32,
    pub until: Time,
}

impl Desk {
    /// The next who still waits.
    pub fn puller(&mut self, now: Time) -> Option<Pull> {
        while let Some(pull) = self.pulls.pop_front() {
            if pull.until > now {
                return Some(pull);
            }
        }
        None
    }

    /// Counts a delivery.
    pub fn attempt(&mut self, sequence: u32) -> u8 {
        let attempts = self.attempts.entry(sequence).or_default();
        *attempts = attempts.saturating_add(1);
        *attempts
    }
}
