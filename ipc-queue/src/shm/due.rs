//! The word of a cell that says when its lease ends, or until when its message is put off.
//!
//! It is a note about one delivery, which its tag names: `milliseconds:40 | delay:1 | attempt:8 |
//! occupancy:15`. A note about any other delivery than the cell's present one says nothing.
//! Delivery 0 is before the first.
//!
//! | from | to | by | when |
//! |---|---|---|---|
//! | anything | put off until t, delivery 0 | the claimer | before it publishes: the cell is its own |
//! | anything | put off until t, delivery n | the claimer | the same, of a message that another queue delivered n times |
//! | about an earlier delivery | the lease of D ends at t | who holds D | it took the message |
//! | about an earlier delivery | the lease of D ends a lease from now | anybody | D has no note |
//! | the lease of D ends at t | the lease of D ends at u | who holds D | it extends |
//! | the lease of D ends at t | the lease of D is over | anybody | t is over |
//! | about an earlier delivery, or the lease of D ends at t | put off until u, delivery D | who holds D | it gives it back with a delay |
//!
//! What is final about D is decided here, not by the state: once its lease is over it can't be
//! extended or put off, once it is put off its lease can't end, and once it was extended it does
//! not end before. The state follows, by whoever comes by: `LEASED` to `READY` or `DEAD` after the
//! one, to `DELAYED` after the other. So a holder that is stopped between the two keeps nothing
//! from anybody.
//!
//! # Why a stopped process can't change the time of a later message
//!
//! Every change but the claimer's is a compare-and-swap of a note N for one about D. The state of
//! the cell is looked at after N was read, and D must be the cell's delivery still.
//!
//! 1. A state never comes back (`word`). So all the while until the second look the cell's delivery
//!    was D, and N, which was read before that look, is about D or an earlier delivery.
//! 2. So each swap replaces a note by one about the same delivery or a later one. Once the word has
//!    a note about a delivery after D, N does not come back, and the swap fails, however late it is
//!    made.
//! 3. Until that later delivery has a note, the swap still succeeds, and puts a note about D there.
//!    Its tag says so: nobody takes it for the later delivery's, whose first note replaces it.
//!
//! A holder does not compare the whole state, which a sender may have moved on, but owner and
//! attempt. That suffices: who lost its lease and did not settle yet has left its mark in the cell,
//! so the cell has no other occupancy, and within one, attempts count on, also when a dead letter
//! is requeued. Only who put its message off leaves nothing, and asks for the occupancy, too.
//!
//! Fifteen bits of the occupancy are in the tag. Only who is stopped until its cell was claimed
//! exactly 32,768 times, or a multiple of that, and finds the very same note, to the millisecond,
//! is taken for another.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use std::time::Duration;

use super::cell::Cell;
use super::memory::{Memory, Word};
use super::ring::{Claim, Lease, Ring};
use super::word::{CellKind, State};

/// What the clock says about the message in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// Its lease or its delay lasts until then.
    Until(Due),
    /// Its lease or its delay is over, for good.
    Over,
    /// Its holder gave it back until then, and did not say so in the state yet.
    PutOff(Due),
    /// The cell changed while it was looked at: look again soon.
    Changed,
}

impl<M: Memory> Ring<M> {
    /// Notes when a lease ends that was just taken. If its holder is killed or stopped before this,
    /// whoever looks first notes an end of its own.
    #[inline]
    pub fn start_lease(&self, lease: &Lease, ends_at: Due) {
        let cell = self.cell(lease.index());
        let tag = Tag::of(lease.attempt(), cell);
        let seen = cell.due().load(Acquire);
        // Somebody else's note, made meanwhile, is as good.
        if !Due::is_tagged(seen, tag) && self.is_held(lease) {
            // Failed: there is one now.
            let _ = cell.due().swap_if(seen, ends_at.to_word(tag), AcqRel);
        }
    }

    /// Moves the end of a lease. `false`: it was lost.
    ///
    /// Once this returned true, the lease does not end before `ends_at`, however close it was.
    pub fn extend(&self, lease: &Lease, ends_at: Due) -> bool {
        self.replace(lease, |tag| ends_at.to_word(tag))
    }

    /// Notes until when the message is put off whose holder is about to give it back. `false`: its
    /// lease was lost.
    pub(super) fn note_put_off(&self, lease: &Lease, until: Due) -> bool {
        self.replace(lease, |tag| until.to_word(tag.of_delay()))
    }

    /// Notes something else about a delivery than when its lease ends. `false`: it is over.
    fn replace(&self, lease: &Lease, note: impl Fn(Tag) -> u64) -> bool {
        let cell = self.cell(lease.index());
        let tag = Tag::of(lease.attempt(), cell);
        loop {
            let seen = cell.due().load(Acquire);
            if seen == Due::ENDED.to_word(tag) || !self.is_held(lease) {
                return false;
            }
            // Failed: somebody noted an end, or that it is over.
            if cell.due().swap_if(seen, note(tag), AcqRel).is_ok() {
                return true;
            }
        }
    }

    /// Notes when the message in a claimed cell is due, for
    /// [`publish_delayed`](Self::publish_delayed).
    pub fn note_delay(&self, claim: &Claim, at: Due) {
        let cell = self.cell(claim.index());
        let tag = Tag::of(0, cell).of_delay();
        cell.due().store(at.to_word(tag), Release);
    }

    /// Notes the same of a message that was delivered so often before, in another queue.
    pub fn note_delay_after(&self, claim: &Claim, deliveries: u8, at: Due) {
        let cell = self.cell(claim.index());
        let tag = Tag::of(deliveries, cell).of_delay();
        cell.due().store(at.to_word(tag), Release);
    }

    /// Until when the message in this state is put off. `None`: it is not.
    pub fn delayed_until(&self, index: u32, word: u64) -> Option<Due> {
        let cell = self.cell(index);
        let state = State::from_word(word);
        let seen = cell.due().load(Acquire);
        let tag = Tag::of(state.attempt, cell).of_delay();
        let is_delayed = state.kind == CellKind::Delayed && Due::is_tagged(seen, tag);
        is_delayed.then(|| Due::from_word(seen))
    }

    /// Whether this lease's holder, who asks, still has it.
    #[inline]
    pub(super) fn is_held(&self, lease: &Lease) -> bool {
        let word = self.cell(lease.index()).state().load(SeqCst);
        lease.is_of(word) || lease.is_held_in(State::from_word(word))
    }

    /// How the lease or the delay of the message in this state stands. With `lease` `None` leases
    /// never end.
    ///
    /// What this notes of a lease, that it is over or when it ends if nobody did, holds for
    /// everybody.
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
        // Only now: what was read is about this state, or an earlier one.
        if cell.state().load(SeqCst) != word {
            return Time::Changed;
        }
        let (due, is_delay) = (Due::from_word(seen), Due::is_tagged(seen, tag.of_delay()));
        if state.kind == CellKind::Delayed {
            // Without a note only damage leaves it.
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
            // Its holder has not noted an end yet, or never will.
            _ => (now.after(lease), Time::Until(now.after(lease))),
        };
        match cell.due().swap_if(seen, note.to_word(tag), AcqRel) {
            Ok(()) => then,
            // Extended, put off or noted meanwhile: not now.
            Err(_) => Time::Changed,
        }
    }
}

/// A point in time, in milliseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due(u64);

/// Which delivery a note is about, and whether it says until when that is put off and not when its
/// lease ends.
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

/// Forty bits last 34 years from boot.
impl Due {
    const TAG_BITS: u32 = 24;
    /// Not a time: the lease is over.
    const ENDED: Self = Self((1 << 40) - 1);
    const LATEST: Self = Self(Self::ENDED.0 - 1);

    /// The point in time this long after boot. Rounded down: right for the present, which must not
    /// run ahead.
    #[must_use]
    pub fn at(since_boot: Duration) -> Self {
        let millis = u64::try_from(since_boot.as_millis()).unwrap_or(u64::MAX);
        Self(millis.min(Self::LATEST.0))
    }

    /// This many milliseconds after boot.
    #[must_use]
    pub fn at_millis(millis: u64) -> Self {
        Self(millis.min(Self::LATEST.0))
    }

    /// The same, rounded up: right for the end of something, which must not come before its time.
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

    /// A later one; never rounded down.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self::not_before(self.since_boot().saturating_add(time))
    }

    /// How long after boot this is.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// In milliseconds since boot.
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
