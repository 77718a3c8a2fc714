//! What anybody may do to cells that are not theirs: free what the dead held, end leases that expired, wake
//! what is due.
//!
//! Every step is a compare-and-swap of the exact word, so any number of processes may do this at once, again
//! and again, and die in the middle: the next one goes on. Nothing here depends on a hint.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use std::time::Duration;

use super::cell::{Cause, Cell};
use super::memory::{Memory, Word};
use super::ring::{Claim, Lease, Ring};
use super::word::{CellKind, Lap, Seat, State};

/// What a pass over the cells changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Messages that can be taken again.
    pub ready: usize,
    /// Cells that have room again.
    pub freed: usize,
    /// Messages that became dead letters.
    pub dead: usize,
    /// Messages dropped because nobody wanted them in time.
    pub expired: usize,
    /// Deliveries that ended with their lease.
    pub expiries: usize,
    /// Deliveries that ended with their receiver's death.
    pub crashes: usize,
}

impl<M: Memory> Ring<M> {
    /// Frees whatever names `seat`, whose process is certainly gone.
    ///
    /// `still_departed` says whether the seat is still the departed process's: another recoverer may have
    /// finished and the seat may be somebody else's by now. It is asked after each word was read, so
    /// a word that names the seat was written by the departed one.
    ///
    /// What we changed.
    ///
    /// # Errors
    /// The same, if the seat was given away meanwhile: all else was done by others.
    pub fn recover(
        &self,
        seat: Seat,
        still_departed: impl Fn() -> bool,
    ) -> Result<Changed, Changed> {
        let mut changed = Changed::default();
        for index in 0..self.cells() {
            let cell = self.cell(index);
            loop {
                let word = cell.state().load(SeqCst);
                let state = State::from_word(word);
                if !state.names(seat) {
                    break;
                }
                if !still_departed() {
                    return Err(changed);
                }
                let next = self.without(seat, state, cell);
                if cell.state().swap_if(word, next.to_word(), SeqCst).is_ok() {
                    changed.count(next.kind);
                    changed.crashes += usize::from(is_delivery(state, Some(seat)));
                }
            }
        }
        // Also if nothing changed: the departed one may have died between a change and its hint.
        self.stray();
        self.spare();
        Ok(changed)
    }

    /// Whether `seat` is still writing that occupancy of a cell: then it has not published it.
    pub fn is_writing(&self, seat: Seat, index: u32, occupancy: Lap) -> bool {
        if index >= self.cells() {
            return true;
        }
        let cell = self.cell(index);
        let state = State::from_word(cell.state().load(SeqCst));
        let writing = state.kind == CellKind::Writing && state.owner == Some(seat);
        // Not what the header says: it may be the former occupancy's still, if the departed one claimed the cell again.
        writing && state.claimed_at().unwrap_or_else(|| cell.occupancy()) == occupancy
    }

    /// The state after one of its mentions of `seat` was taken away.
    fn without(&self, seat: Seat, state: State, cell: Cell<'_, M::Word>) -> State {
        match state.kind {
            CellKind::Writing => State::free(state.lap.next()),
            CellKind::Leased if state.owner == Some(seat) => {
                if state.attempt != State::REQUEUED {
                    cell.note(state.attempt, Cause::Crash, self.memory().process(seat));
                }
                self.again_or_dead(state)
            }
            CellKind::Leased | CellKind::Delayed | CellKind::Dead | CellKind::Quarantined => state
                .let_go_by(seat)
                .unwrap_or_else(|| state.released_as(state.kind)),
            // Free and ready cells have no owner; damaged ones are made free.
            CellKind::Ready => State {
                owner: None,
                zombie: state.zombie.filter(|zombie| *zombie != seat),
                ..state
            },
            CellKind::Free | CellKind::Damaged => State::free(state.lap.next()),
        }
    }

    fn again_or_dead(&self, state: State) -> State {
        let exhausted = state.attempt >= self.attempt_limit();
        state.released_as(if exhausted {
            CellKind::Dead
        } else {
            CellKind::Ready
        })
    }

    // --- time ------------------------------------------------------------------------------------

    /// Notes when a lease ends that was just taken. If its holder is killed or stopped before this, whoever
    /// looks first notes an end of its own.
    pub fn start_lease(&self, lease: &Lease, ends_at: Due) {
        let cell = self.cell(lease.index());
        let tag = Tag::of(lease.attempt(), cell);
        let seen = cell.due().load(Acquire);
        if !Due::is_tagged(seen, tag) {
            // Somebody else's note, made meanwhile, is as good.
            let _ = cell.due().swap_if(seen, ends_at.to_word(tag), AcqRel);
        }
    }

    /// Moves the end of a lease. `false`: it was lost.
    ///
    /// Once this returned true, the lease does not end before `ends_at`, however close it was: who ends a
    /// lease first marks the note as ended, and the two changes of the note exclude each other.
    pub fn extend(&self, lease: &Lease, owner: Seat, ends_at: Due) -> bool {
        let cell = self.cell(lease.index());
        let tag = Tag::of(lease.attempt(), cell);
        loop {
            let seen = cell.due().load(Acquire);
            let state = State::from_word(cell.state().load(SeqCst));
            let held = is_held(state, lease, owner);
            if !held || (Due::is_tagged(seen, tag) && Due::from_word(seen) == Due::ENDED) {
                return false;
            }
            if cell
                .due()
                .swap_if(seen, ends_at.to_word(tag), AcqRel)
                .is_ok()
            {
                return true;
            }
        }
    }

    /// Notes when a message that `owner` is about to delay is due; nothing if its lease was lost. The next
    /// holder's note must not be written over, and is not: it would make this swap fail.
    ///
    /// This takes the place of the note of the lease's end. Should we be stopped before the message is delayed, the
    /// lease lasts as long again after the delay.
    pub fn set_due(&self, lease: &Lease, owner: Seat, at: Due) {
        let cell = self.cell(lease.index());
        let tag = Tag::of(lease.attempt(), cell).of_delay();
        loop {
            let seen = cell.due().load(Acquire);
            let state = State::from_word(cell.state().load(SeqCst));
            if !is_held(state, lease, owner)
                || cell.due().swap_if(seen, at.to_word(tag), AcqRel).is_ok()
            {
                return;
            }
        }
    }

    /// Notes when the message in a claimed cell is due, for [`publish_delayed`](Self::publish_delayed).
    pub fn note_delay(&self, claim: &Claim, at: Due) {
        let cell = self.cell(claim.index());
        let tag = Tag::of(0, cell).of_delay();
        cell.due().store(at.to_word(tag), Release);
    }

    /// Ends the leases that expired, drops what nobody wants any more, and makes ready what is due. What changed, and when to come
    /// back. With `lease` `None` leases never expire.
    pub fn look_at_clock(&self, now: Due, lease: Option<Duration>) -> (Changed, Option<Due>) {
        let mut changed = Changed::default();
        let mut next: Option<Due> = None;
        for index in 0..self.cells() {
            let cell = self.cell(index);
            let word = cell.state().load(SeqCst);
            let state = State::from_word(word);
            if state.kind == CellKind::Ready {
                let Some(at) = cell.expiry().map(Due) else {
                    continue;
                };
                if at > now {
                    next = Some(next.map_or(at, |next| next.min(at)));
                } else if let Some(kind) = self.drop_waiting(index, word) {
                    changed.expired += 1;
                    changed.count(kind);
                }
                continue;
            }
            let due = match (state.kind, lease) {
                (CellKind::Delayed, _) => Due::from_word(cell.due().load(Acquire)),
                (CellKind::Leased, Some(lease)) if state.attempt != State::REQUEUED => {
                    end_of_lease(cell, state, now, lease)
                }
                _ => continue,
            };
            let again = if due > now && due != Due::ENDED {
                due
            } else if let Some(kind) = self.time_is_up(cell, word) {
                changed.count(kind);
                changed.expiries += usize::from(is_delivery(state, state.owner));
                continue;
            } else {
                // The cell was moved on or settled just now: see which.
                now.after(Duration::from_millis(1))
            };
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        if changed.ready > 0 {
            self.stray();
        }
        (changed, next)
    }

    /// The lease or delay of the message in this state is over. What its cell holds now, if we changed it.
    fn time_is_up(&self, cell: Cell<'_, M::Word>, word: u64) -> Option<CellKind> {
        let state = State::from_word(word);
        let (next, cause) = expired(state, self.attempt_limit());
        if let Some(cause) = cause.filter(|_| state.attempt != State::REQUEUED) {
            let holder = state.owner.map_or(0, |seat| self.memory().process(seat));
            cell.note(state.attempt, cause, holder);
        }
        cell.state()
            .swap_if(word, next.to_word(), SeqCst)
            .ok()
            .map(|()| next.kind)
    }
}

impl Changed {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            ready: self.ready + other.ready,
            freed: self.freed + other.freed,
            dead: self.dead + other.dead,
            expired: self.expired + other.expired,
            expiries: self.expiries + other.expiries,
            crashes: self.crashes + other.crashes,
        }
    }

    fn count(&mut self, kind: CellKind) {
        match kind {
            CellKind::Ready => self.ready += 1,
            CellKind::Free => self.freed += 1,
            CellKind::Dead => self.dead += 1,
            _ => {}
        }
    }
}

/// Whether somebody, `owner`, holds a message in this state: not a dead letter that is being sent again.
fn is_delivery(state: State, owner: Option<Seat>) -> bool {
    state.kind == CellKind::Leased && state.owner == owner && state.attempt != State::REQUEUED
}

fn is_held(state: State, lease: &Lease, owner: Seat) -> bool {
    state.kind == CellKind::Leased && state.owner == Some(owner) && state.attempt == lease.attempt()
}

fn expired(state: State, attempt_limit: u8) -> (State, Option<Cause>) {
    match (state.kind, state.zombie) {
        (CellKind::Leased, None) => {
            let exhausted = state.attempt >= attempt_limit;
            let kind = if exhausted {
                CellKind::Dead
            } else {
                CellKind::Ready
            };
            let zombie = state.owner;
            (
                State {
                    zombie,
                    ..state.released_as(kind)
                },
                Some(Cause::Expiry),
            )
        }
        // A second one held it too long while the first may still be reading: it is poison. Both are
        // remembered, so that the payload stays until both let go.
        (CellKind::Leased, Some(_)) => (
            State {
                kind: CellKind::Dead,
                ..state
            },
            Some(Cause::Expiry),
        ),
        _ => (state.released_as(CellKind::Ready), None),
    }
}

/// When the lease in `state` ends: `Due::ENDED` once somebody, perhaps we, decided that it has.
fn end_of_lease<W: Word>(cell: Cell<'_, W>, state: State, now: Due, lease: Duration) -> Due {
    let tag = Tag::of(state.attempt, cell);
    let seen = cell.due().load(Acquire);
    let due = if Due::is_tagged(seen, tag) {
        Due::from_word(seen)
    } else if Due::is_tagged(seen, tag.of_delay()) {
        // About to be given back.
        Due::from_word(seen).after(lease)
    } else {
        // Its holder has not noted an end yet, or never will.
        let ends_at = now.after(lease);
        let _ = cell.due().swap_if(seen, ends_at.to_word(tag), AcqRel);
        return ends_at;
    };
    if due > now || due == Due::ENDED {
        return due;
    }
    match cell.due().swap_if(seen, Due::ENDED.to_word(tag), AcqRel) {
        Ok(()) => Due::ENDED,
        // Extended or noted meanwhile: not now.
        Err(_) => now.after(Duration::from_millis(1)),
    }
}

/// A point in time, in milliseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due(u64);

/// Which delivery a note of time belongs to, and whether it says when its delay is over and not when its lease
/// ends: `delay:1 | attempt:8 | occupancy:15`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(u64);

impl Tag {
    fn of<W: Word>(attempt: u8, cell: Cell<'_, W>) -> Self {
        Self(u64::from(attempt) << 15 | cell.occupancy().number() & 0x7fff)
    }

    fn of_delay(self) -> Self {
        Self(self.0 | 1 << 23)
    }
}

/// In a word: `milliseconds:40 | tag:24`, from the top. Forty bits last 34 years from boot.
impl Due {
    const TAG_BITS: u32 = 24;
    /// Not a time: the lease was declared ended.
    pub const ENDED: Self = Self((1 << 40) - 1);

    /// The point in time this long after boot. Rounded down: right for the present, which must not run ahead.
    #[must_use]
    pub fn at(since_boot: Duration) -> Self {
        let millis = u64::try_from(since_boot.as_millis()).unwrap_or(u64::MAX);
        Self(millis.min(Self::ENDED.0 - 1))
    }

    /// The same, rounded up: right for the end of something, which must not come before its time.
    #[must_use]
    pub fn not_before(since_boot: Duration) -> Self {
        let millis = u64::try_from(since_boot.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self(millis.min(Self::ENDED.0 - 1))
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

    fn to_word(self, tag: Tag) -> u64 {
        self.0 << Self::TAG_BITS | tag.0
    }

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
