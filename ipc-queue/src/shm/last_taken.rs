//! The time since which a process has taken no message, for viewers.
//!
//! A lease has no beginning in memory: to write one would cost each message a clock reading. But
//! each process counts the messages that it takes (`tally`). Its watcher compares that count
//! regularly, and writes down the count with the time. While the count stays the same, the process
//! has held what it holds for at least as long.
//!
//! Two words of the process's own participant slot:
//!
//! | word | content |
//! |---|---|
//! | 2 | `milliseconds:40`, `epoch:24` (low bits, of the slot's owner); 0: none |
//! | 3 | the number of messages taken by the processes in this slot so far |
//!
//! Only the watcher writes them: zero to word 2, then word 3, then word 2.
//!
//! The time is read after the count, so it is not earlier than the last counted message. A message
//! that was taken and not counted yet is an exception: if its process is stopped right there, that
//! message seems to have been held for longer than it was.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use ipc_shm::{Attachment, Member, Participants, clock};

use super::due::Due;

const TIME: usize = 2;
const COUNT: usize = 3;
const EPOCH_BITS: u32 = 24;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;

/// Writes down the number of messages that this process's slot has taken, if it has changed.
pub(super) fn note(attachment: &Attachment, count: u64) {
    // Rounded up, and the viewer's time down: what it shows is never too long.
    let now = || Due::not_before(clock::monotonic());
    note_in(attachment.counters(), attachment.member(), count, now);
}

fn note_in(words: &[AtomicU64], member: Member, count: u64, now: impl Fn() -> Due) {
    if is_of(words[TIME].load(Relaxed), member) && words[COUNT].load(Relaxed) == count {
        return;
    }
    // A viewer between these stores finds no time, or a changed one.
    words[TIME].store(0, Release);
    words[COUNT].store(count, Release);
    let time = now().millis() << EPOCH_BITS | member.epoch & EPOCH_MASK;
    words[TIME].store(time, Release);
}

/// Returns a time since which `member` has taken nothing. `count` is the number of messages that
/// its slot has taken by now. `None`: it has just taken one, or its watcher has written nothing.
pub(super) fn of_member(table: &Participants, member: Member, count: u64) -> Option<Due> {
    of_words(table.counters(member.index), member, count)
}

fn of_words(words: &[AtomicU64], member: Member, count: u64) -> Option<Due> {
    let time = words[TIME].load(Acquire);
    let noted = words[COUNT].load(Acquire);
    let is_whole = words[TIME].load(Acquire) == time && is_of(time, member);
    (is_whole && noted == count).then(|| Due::at_millis(time >> EPOCH_BITS))
}

fn is_of(time: u64, member: Member) -> bool {
    time != 0 && time & EPOCH_MASK == member.epoch & EPOCH_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_first_look_after_the_last_message() {
        let words: [AtomicU64; 8] = Default::default();
        let member = Member { index: 0, epoch: 7 };
        let note = |count, ms| note_in(&words, member, count, || Due::at_millis(ms));
        assert_eq!(of_words(&words, member, 0), None);
        note(5, 100);
        note(5, 200);
        assert_eq!(of_words(&words, member, 5), Some(Due::at_millis(100)));
        // Taken since, and not looked at.
        assert_eq!(of_words(&words, member, 6), None);
        note(6, 300);
        assert_eq!(of_words(&words, member, 6), Some(Due::at_millis(300)));
        // What an earlier owner of the slot wrote says nothing about the next one.
        assert_eq!(of_words(&words, Member { epoch: 8, ..member }, 6), None);
    }
}
