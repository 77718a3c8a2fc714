//! The number of blocked handles of each process, for viewers.
//!
//! Two words of the process's own participant slot: one for senders, one for receivers. A word is
//! `epoch:32 | count:32`, with the low bits of the epoch in which the process took the slot.
//!
//! | from | to | by | when |
//! |---|---|---|---|
//! | a word of another epoch | `e, 1` | a thread of the process of epoch `e` | it is about to sleep |
//! | `e, n` | `e, n + 1` | the same | the same |
//! | `e, n` | `e, n - 1` | the same | it sleeps no more |
//!
//! Only threads of one process change a word, and only where they sleep, so no message pays for it.
//! No decision depends on it. A killed process's words stay until its slot is freed. A viewer
//! therefore asks the kernel whether the process lives. A thread that wakes after its process left
//! the queue finds another epoch, or none that counts, and changes nothing of a later owner.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use ipc_shm::{Attachment, Member, Participants};

use super::tally::Side;

/// The number of blocked handles: threads that sleep, and futures that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedView {
    /// Senders that wait for room.
    pub senders: u64,
    /// Receivers that wait for a message.
    pub receivers: u64,
}

/// Counts one blocked handle until it is dropped.
#[derive(Debug)]
pub(super) struct Blocked<'a> {
    attachment: &'a Attachment,
    side: Side,
}

impl<'a> Blocked<'a> {
    #[cold]
    pub(super) fn new(attachment: &'a Attachment, side: Side) -> Self {
        add(attachment, side);
        Self { attachment, side }
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        remove(self.attachment, self.side);
    }
}

/// Counts one more blocked handle of this process.
pub(super) fn add(attachment: &Attachment, side: Side) {
    change(attachment, side, one_more);
}

/// Counts one less, if the slot is still this process's.
pub(super) fn remove(attachment: &Attachment, side: Side) {
    change(attachment, side, one_less);
}

fn one_more(word: u64, own: u64) -> Option<u64> {
    Some(if word & EPOCH_MASK == own {
        word + 1
    } else {
        own | 1
    })
}

/// Returns `None` if there is nothing to take away: the slot has another owner.
fn one_less(word: u64, own: u64) -> Option<u64> {
    (word & EPOCH_MASK == own && word & !EPOCH_MASK > 0).then(|| word - 1)
}

/// Does nothing in a forked copy, because the slot is its parent's.
fn change(attachment: &Attachment, side: Side, change: fn(u64, u64) -> Option<u64>) {
    if attachment.is_this_process() {
        let own = epoch_bits(attachment.member());
        let word = &attachment.counters()[side as usize];
        let _ = word.fetch_update(Relaxed, Relaxed, |word| change(word, own));
    }
}

/// Returns what the words of a member say. The caller asks whether the member lives.
pub(super) fn of_member(table: &Participants, member: Member) -> BlockedView {
    let words = table.counters(member.index);
    let count = |side: Side| {
        let word: &AtomicU64 = &words[side as usize];
        let word = word.load(Relaxed);
        match word & EPOCH_MASK == epoch_bits(member) {
            true => word & !EPOCH_MASK,
            false => 0,
        }
    };
    BlockedView {
        senders: count(Side::Send),
        receivers: count(Side::Receive),
    }
}

/// Returns the low bits of the epoch, at their place in a word.
fn epoch_bits(member: Member) -> u64 {
    member.epoch << 32
}

const EPOCH_MASK: u64 = u64::MAX << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_an_earlier_owner_changes_nothing() {
        let own = |epoch| epoch_bits(Member { index: 0, epoch });
        let (first, second) = (own(1), own(2));
        let two = one_more(one_more(0, first).unwrap(), first).unwrap();
        assert_eq!(two, first | 2);
        // The slot is freed, and the next process joins: its words are zero.
        assert_eq!(one_less(0, first), None);
        let one = one_more(0, second).unwrap();
        assert_eq!(one_less(one, first), None);
        assert_eq!(one_less(one, second), Some(second));
        assert_eq!(one_less(second, second), None);
        // What an earlier owner left does not count.
        assert_eq!(one_more(two, second), Some(second | 1));
    }
}
