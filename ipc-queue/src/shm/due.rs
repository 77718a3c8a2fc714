//! The deadline word of a cell: the end of its lease, or of its message's delay.
//!
//! It is a record about one delivery, which its tag names: `milliseconds:40 | delay:1 | attempt:8 |
//! generation:15`. A record about any other delivery than the cell's present one has no meaning.
//! Delivery 0 is before the first.
//!
//! `E` is a record about a delivery before D. `L(t)` says that the lease of D ends at t, and `O`
//! that it is over. `W(t, n)` says that the message is delayed until t, after delivery n.
//!
//! | from | to | by | when |
//! |---|---|---|---|
//! | any | `W(t, 0)` | the claimer | before it publishes: the cell is its own |
//! | any | `W(t, n)` | the claimer | the same, of a message that another queue delivered n times |
//! | `E` | `L(now + lease time)` | any process | it scans, and D has no record |
//! | `E` | `L(u)` | the holder of D | it extends |
//! | `L(t)` | `L(u)` | the holder of D | it extends |
//! | `L(t)` | `O` | any process | t is over |
//! | any but `W(u, D)` | `O` | any process | the lease is taken back by order (`picking`) |
//! | `E`, `L(t)` | `W(u, D)` | the holder of D | it returns the message with a delay |
//!
//! A receiver records nothing when it takes a message: the first watcher that scans does. So a lease
//! time-out costs a receiver one load, a lease never ends early, and it ends late by at most the
//! time between two scans ([`Scans`]).
//!
//! This word, not the state, decides the end of D. Once its lease is over, it cannot be extended or
//! delayed. Once it is delayed, its lease cannot end. Once it is extended, it does not end before
//! that. Any process may then update the state: from `LEASED` to `READY` or `DEAD` after the lease
//! is over, to `DELAYED` after a delay. So a holder that is stopped between the two steps delays no
//! other process.
//!
//! # Why a stopped process can't change the time of a later message
//!
//! Every change except the claimer's is a compare-and-swap of a record N by a record about D. The
//! state of the cell is read after N was read, and must show that D is still the cell's delivery.
//!
//! 1. A state never comes back (`word`). So until that second read the cell's delivery was D. N was
//!    read before, so it is about D or an earlier delivery.
//! 2. So each swap replaces a record by one about the same delivery or a later one. Once the word
//!    has a record about a delivery after D, N does not come back, and the swap fails, however late
//!    it is made.
//! 3. Until that later delivery has a record, the swap still succeeds, and writes a record about D.
//!    Its tag shows that. No process mistakes it for a record of the later delivery, whose first
//!    record replaces it.
//!
//! A holder does not compare the whole state, which a sender may have advanced, but owner and
//! attempt. That suffices. A holder that lost its lease and has not settled yet has left its mark
//! in the cell, so the generation is still the same. Within one generation attempts only grow, even
//! when a dead letter is requeued. Only a holder that delayed its message leaves no mark, so it
//! also compares the generation.
//!
//! The tag has fifteen bits of the generation. A mistake is only possible if a process is stopped
//! until its cell was claimed exactly 32,768 times, or a multiple of that. It must then also find
//! the very same record, to the millisecond.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use ipc_shm::wait::SLICE;

use super::cell::Cell;
use super::memory::{Memory, Word};
use super::ring::{Claim, Lease, Ring};
use super::word::{CellKind, State};

/// The state of a message's lease or delay, by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// The lease or the delay lasts until then.
    Until(Due),
    /// The lease or the delay is over, finally.
    Over,
    /// The holder delayed the message until then, but the state does not show it yet.
    PutOff(Due),
    /// The cell changed meanwhile: check again soon.
    Changed,
}

impl<M: Memory> Ring<M> {
    /// Changes the end of a lease. `false`: the lease was lost.
    ///
    /// Once this has returned true, the lease does not end before `ends_at`, however close the
    /// earlier end was.
    pub fn extend(&self, lease: &Lease, ends_at: Due) -> bool {
        self.replace(lease, |tag| ends_at.to_word(tag))
    }

    /// Records the delay of a message whose holder is about to return it. `false`: the lease was
    /// lost.
    pub(super) fn note_put_off(&self, lease: &Lease, until: Due) -> bool {
        self.replace(lease, |tag| until.to_word(tag.of_delay()))
    }

    /// Replaces the record about a delivery. `false`: the lease is over.
    fn replace(&self, lease: &Lease, note: impl Fn(Tag) -> u64) -> bool {
        let cell = self.cell(lease.index());
        let tag = Tag::of(lease.attempt(), cell);
        loop {
            let seen = cell.due().load(Acquire);
            if seen == Due::ENDED.to_word(tag) || !self.is_held(lease) {
                return false;
            }
            // Failed: another process recorded an end, or that the lease is over. The next round
            // reads it.
            if cell.due().swap_if(seen, note(tag), AcqRel).is_ok() {
                return true;
            }
        }
    }

    /// Records the end of the delay of the message in a claimed cell, for
    /// [`publish_delayed`](Self::publish_delayed).
    pub fn note_delay(&self, claim: &Claim, at: Due) {
        let cell = self.cell(claim.index());
        let tag = Tag::of(0, cell).of_delay();
        cell.due().store(at.to_word(tag), Release);
    }

    /// Records the same for a message that another queue delivered `deliveries` times.
    pub fn note_delay_after(&self, claim: &Claim, deliveries: u8, at: Due) {
        let cell = self.cell(claim.index());
        let tag = Tag::of(deliveries, cell).of_delay();
        cell.due().store(at.to_word(tag), Release);
    }

    /// Returns the end of the delay of the message in this state. `None`: it is not delayed.
    pub fn delayed_until(&self, index: u32, word: u64) -> Option<Due> {
        let cell = self.cell(index);
        let state = State::from_word(word);
        let seen = cell.due().load(Acquire);
        let tag = Tag::of(state.attempt, cell).of_delay();
        let is_delayed = state.kind == CellKind::Delayed && Due::is_tagged(seen, tag);
        is_delayed.then(|| Due::from_word(seen))
    }

    /// Returns the end of the lease of the message in this state, as far as it is recorded.
    pub(super) fn lease_end(&self, cell: Cell<'_, M::Word>, word: u64) -> Option<Due> {
        let tag = Tag::of(State::from_word(word).attempt, cell);
        let seen = cell.due().load(Acquire);
        let due = Due::is_tagged(seen, tag).then(|| Due::from_word(seen))?;
        // One that is over ended at no later time than now.
        Some(if due == Due::ENDED { Due(0) } else { due })
    }

    /// Records that the lease of the message in this state is over, whatever its end. `false`: its
    /// holder has just delayed it or extended its lease, or the state is another.
    pub(super) fn end_lease(&self, cell: Cell<'_, M::Word>, word: u64) -> bool {
        let tag = Tag::of(State::from_word(word).attempt, cell);
        let seen = cell.due().load(Acquire);
        // Read only now, so the record is about this state or an earlier one.
        if cell.state().load(SeqCst) != word || Due::is_tagged(seen, tag.of_delay()) {
            return false;
        }
        let ended = Due::ENDED.to_word(tag);
        // Failed: the lease was extended, delayed, or found to be over meanwhile.
        seen == ended || cell.due().swap_if(seen, ended, AcqRel).is_ok()
    }

    /// Delays the message if its holder recorded a delay that the state does not show yet.
    pub(super) fn put_off_if_noted(&self, cell: Cell<'_, M::Word>, word: u64) -> bool {
        let tag = Tag::of(State::from_word(word).attempt, cell).of_delay();
        let seen = cell.due().load(Acquire);
        let is_noted = cell.state().load(SeqCst) == word && Due::is_tagged(seen, tag);
        is_noted && self.put_off(cell, word)
    }

    /// Returns whether the caller, the holder of this lease, still has it.
    pub(super) fn is_held(&self, lease: &Lease) -> bool {
        let word = self.cell(lease.index()).state().load(SeqCst);
        lease.is_of(word) || self.is_held_by(lease, word)
    }

    /// Returns the same for a lease whose cell no longer has the word of the lease.
    #[cold]
    fn is_held_by(&self, lease: &Lease, word: u64) -> bool {
        lease.is_held_in(State::from_word(word)) || self.is_held_in_run(lease)
    }

    /// Returns the state of the lease or the delay of the message in this state. If `lease` is
    /// `None`, leases never end.
    ///
    /// This may record that the lease is over, or its end if none is recorded. Such a record holds
    /// for every process.
    pub(super) fn time_of(
        &self,
        cell: Cell<'_, M::Word>,
        word: u64,
        now: Due,
        lease: Option<Duration>,
    ) -> Time {
        let state = State::from_word(word);
        let tag = Tag::of(state.attempt, cell);
        let seen = cell.due().load(Acquire);
        // Read only now, so the deadline word is about this state or an earlier one.
        if cell.state().load(SeqCst) != word {
            return Time::Changed;
        }
        let (due, is_delay) = (Due::from_word(seen), Due::is_tagged(seen, tag.of_delay()));
        if state.kind == CellKind::Delayed {
            // Only damage leaves a delayed message without a record.
            return if is_delay && due > now {
                Time::Until(due)
            } else {
                Time::Over
            };
        }
        if is_delay {
            return Time::PutOff(due);
        }
        let is_noted = Due::is_tagged(seen, tag);
        let Some(lease) = lease else {
            return Time::Until(Due::LATEST);
        };
        let (note, then) = match due {
            Due::ENDED if is_noted => return Time::Over,
            due if is_noted && due > now => return Time::Until(due),
            _ if is_noted => (Due::ENDED, Time::Over),
            // This is the first scan since the message was taken.
            _ => {
                // The present time was rounded down, and the lease must not end early.
                let end = now.next().after(lease);
                (end, Time::Until(end))
            }
        };
        match cell.due().swap_if(seen, note.to_word(tag), AcqRel) {
            Ok(()) => then,
            // Failed: the lease was extended, delayed or recorded meanwhile, so it is not over now.
            Err(_) => Time::Changed,
        }
    }
}

/// The scans of one process for leases of one queue. Private to the process.
///
/// While its receivers take messages, the watcher scans once in each [`interval`](Self::interval),
/// and receivers do not wake it. Once they take none, it rests, and the next receiver that takes a
/// message wakes it.
#[derive(Debug, Default)]
pub(super) struct Scans {
    is_next_due: AtomicBool,
    /// [`Ring::takes`] at the last scan.
    takes: AtomicU64,
}

impl Scans {
    /// Returns whether a receiver that has just taken a message must wake the watcher.
    #[inline(always)]
    pub fn rest(&self) -> bool {
        !self.is_next_due.load(SeqCst)
    }

    /// Called by a receiver before it wakes the watcher. `false`: another one does so.
    pub fn begin(&self) -> bool {
        !self.is_next_due.swap(true, SeqCst)
    }

    /// Called by the watcher before a scan. Returns whether the next one is due after the interval.
    ///
    /// A receiver that took its message before this is found by the scan. One that takes it later
    /// wakes the watcher, or its message is found by the next scan.
    pub fn pass(&self, takes: impl FnOnce() -> u64) -> bool {
        let was_due = self.is_next_due.swap(false, SeqCst);
        let takes = takes();
        let goes_on = self.takes.swap(takes, SeqCst) != takes && was_due;
        if goes_on {
            self.is_next_due.store(true, SeqCst);
        }
        goes_on
    }

    /// Returns the longest time between two scans.
    pub fn interval(lease: Duration) -> Duration {
        (lease / 8).clamp(Duration::from_millis(1), SLICE)
    }
}

/// A point in time, in milliseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due(u64);

/// The delivery that a record is about, and whether the record is the end of a delay or of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(u64);

impl Tag {
    const OCCUPANCY_BITS: u32 = 15;

    #[inline(always)]
    fn of<W: Word>(attempt: u8, cell: Cell<'_, W>) -> Self {
        let occupancy = cell.claim().low_bits(Self::OCCUPANCY_BITS);
        Self(u64::from(attempt) << Self::OCCUPANCY_BITS | occupancy)
    }

    fn of_delay(self) -> Self {
        Self(self.0 | 1 << (Due::TAG_BITS - 1))
    }
}

/// Forty bits of milliseconds last for 34 years from boot.
impl Due {
    const TAG_BITS: u32 = 24;
    /// Not a time: the lease is over.
    const ENDED: Self = Self((1 << 40) - 1);
    const LATEST: Self = Self(Self::ENDED.0 - 1);

    /// Returns the time `since_boot` after boot, rounded down. For the present time, which must not
    /// run ahead.
    #[must_use]
    pub fn at(since_boot: Duration) -> Self {
        let millis = u64::try_from(since_boot.as_millis()).unwrap_or(u64::MAX);
        Self(millis.min(Self::LATEST.0))
    }

    /// Returns the time `millis` milliseconds after boot.
    #[must_use]
    pub fn at_millis(millis: u64) -> Self {
        Self(millis.min(Self::LATEST.0))
    }

    /// Returns the time, rounded up. For the end of a lease or delay, which must not come early.
    #[inline]
    #[must_use]
    pub fn not_before(since_boot: Duration) -> Self {
        let millis = u64::from(since_boot.subsec_nanos().div_ceil(1_000_000));
        let millis = since_boot
            .as_secs()
            .saturating_mul(1000)
            .saturating_add(millis);
        Self(millis.min(Self::LATEST.0))
    }

    /// Returns the next millisecond.
    fn next(self) -> Self {
        Self::at_millis(self.0.saturating_add(1))
    }

    /// Returns a time that is later by `time`; never rounded down.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self::not_before(self.since_boot().saturating_add(time))
    }

    /// Returns the time since boot.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Returns the milliseconds since boot.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.0
    }

    fn from_word(word: u64) -> Self {
        Self(word >> Self::TAG_BITS)
    }

    #[inline(always)]
    fn to_word(self, tag: Tag) -> u64 {
        self.0 << Self::TAG_BITS | tag.0
    }

    #[inline(always)]
    fn is_tagged(word: u64, tag: Tag) -> bool {
        word & ((1 << Self::TAG_BITS) - 1) == tag.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_due_before_its_time() {
        const STEP: Duration = Duration::from_micros(100);
        for started in (0..30).map(|steps| steps * STEP) {
            for time in (1..30).map(|steps| steps * STEP) {
                let due = Due::not_before(started + time);
                assert!(Due::at(started + time - Duration::from_nanos(1)) < due);
                assert!(Due::at(started + time + Duration::from_millis(1)) >= due);
            }
        }
    }

    #[test]
    fn the_end_of_time_is_no_ended_lease() {
        assert!(Due::not_before(Duration::MAX) < Due::ENDED);
        assert!(Due::at(Duration::MAX) < Due::ENDED);
        assert!(Due::at(Duration::ZERO).after(Duration::MAX) < Due::ENDED);
    }
}
