//! The payloads: bytes that depend on the message's number. So the sums of both sides agree only if
//! every byte of every message arrived.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// The number of messages, and the sum of all their words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub messages: u64,
    pub sum: u64,
}

impl Tally {
    /// Counts one message.
    #[inline]
    pub fn add(&mut self, sum: u64) {
        self.messages += 1;
        self.sum = self.sum.wrapping_add(sum);
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// The first word of a message that ends the work.
const STOP: u64 = u64::MAX;

/// Writes message `number` into all of `memory`, and returns the sum that its reader must get.
///
/// Only whole words are written; a remainder at the end is not counted.
#[inline]
pub fn fill(memory: &mut [u8], number: u64) -> u64 {
    let first = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1;
    let (words, _) = memory.as_chunks_mut::<8>();
    let mut word = first;
    for place in &mut *words {
        *place = word.to_le_bytes();
        word = word.wrapping_add(1);
    }
    let count = words.len() as u64;
    let steps = count.wrapping_mul(count.wrapping_sub(1)) / 2;
    count.wrapping_mul(first).wrapping_add(steps)
}

/// Returns the sum of all words of `memory`.
#[inline]
pub fn sum(memory: &[u8]) -> u64 {
    let (words, _) = memory.as_chunks::<8>();
    words.iter().fold(0, |sum: u64, word| {
        sum.wrapping_add(u64::from_le_bytes(*word))
    })
}

/// Writes the message that ends the work.
pub fn fill_stop(memory: &mut [u8]) {
    memory.fill(0xFF);
}

/// Returns whether this message ends the work.
#[inline]
pub fn is_stop(memory: &[u8]) -> bool {
    word(memory, 0) == STOP
}

/// Returns the word at `index`.
#[inline]
pub fn word(memory: &[u8], index: usize) -> u64 {
    let (words, _) = memory.as_chunks::<8>();
    words.get(index).map_or(0, |word| u64::from_le_bytes(*word))
}

/// Writes the word at `index`. Returns the resulting change of the message's sum.
#[inline]
pub fn set_word(memory: &mut [u8], index: usize, value: u64) -> u64 {
    let (words, _) = memory.as_chunks_mut::<8>();
    let old = u64::from_le_bytes(std::mem::replace(&mut words[index], value.to_le_bytes()));
    value.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_gets_the_sum_that_the_writer_promised() {
        for len in [8, 64, 1024, 1 << 20] {
            for number in [0, 1, 77, u64::MAX] {
                let mut memory = vec![0; len];
                let promised = fill(&mut memory, number);
                assert_eq!(sum(&memory), promised);
                assert!(!is_stop(&memory));
                let changed = set_word(&mut memory, 0, 5);
                assert_eq!(sum(&memory), promised.wrapping_add(changed));
            }
        }
    }

    #[test]
    fn a_stop_is_one() {
        let mut memory = [0; 64];
        fill_stop(&mut memory);
        assert!(is_stop(&memory));
    }
}
