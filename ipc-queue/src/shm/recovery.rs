//! Maintenance that any process may do on all cells: it frees what dead processes held, ends
//! expired leases, and makes due messages ready.
//!
//! Every step is a compare-and-swap of the exact word. So any number of processes may do this at
//! the same time, any number of times, and die in the middle: the next one continues. Nothing here
//! depends on a hint.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::cell::{Cause, Cell};
use super::due::{Due, Time};
use super::memory::{Memory, Word};
use super::ring::Ring;
use super::word::{CellKind, Lap, Seat, State};

/// The changes of a pass over the cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Messages that can be taken again.
    pub ready: usize,
    /// Cells that have room again.
    pub freed: usize,
    /// Messages that became dead letters.
    pub dead: usize,
    /// Messages that were dropped because they were not received in time.
    pub expired: usize,
    /// Deliveries that ended with their lease.
    pub expiries: usize,
    /// Deliveries that ended with their receiver's death.
    pub crashes: usize,
}

impl<M: Memory> Ring<M> {
    /// Frees everything that names `seat`, whose process is certainly gone. Returns what this call
    /// changed.
    ///
    /// `still_departed` returns whether the seat still belongs to the departed process. Another
    /// process may have finished the recovery, and the seat may have a new owner by now. The check
    /// comes after each word was read, so a word that names the seat was written by the departed
    /// process.
    ///
    /// # Errors
    /// What this call changed, if the seat was given away meanwhile: other processes did the rest.
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
                if state.len() > 1 {
                    // Failed: another process did it, or the run was moved on.
                    self.part_for_the_dead(index, word);
                    continue;
                }
                let Some(next) = self.without(seat, word, cell) else {
                    continue;
                };
                if cell.state().swap_if(word, next.to_word(), SeqCst).is_ok() {
                    changed.count(next.kind);
                    let held = state.kind == CellKind::Leased && state.owner == Some(seat);
                    changed.crashes += usize::from(held);
                }
            }
        }
        // Also if nothing changed: the departed process may have died between a change and its
        // hint.
        self.stray();
        self.spare();
        Ok(changed)
    }

    /// Returns whether `seat` is still writing this generation of a cell. If so, it has not
    /// published it.
    pub fn is_writing(&self, seat: Seat, index: u32, occupancy: Lap) -> bool {
        if index >= self.cells() {
            return true;
        }
        let cell = self.cell(index);
        let state = State::from_word(cell.state().load(SeqCst));
        let writing = state.kind == CellKind::Writing && state.owner == Some(seat);
        // The state is preferred to the header. If the departed process claimed the cell again, the
        // header may still show the earlier generation.
        writing && state.claimed_at().unwrap_or_else(|| cell.occupancy()) == occupancy
    }

    /// Returns the state without one of its mentions of `seat`. `None`: the cell is in another
    /// state by now.
    fn without(&self, seat: Seat, word: u64, cell: Cell<'_, M::Word>) -> Option<State> {
        let state = State::from_word(word);
        Some(match state.kind {
            CellKind::Writing => State::free(state.lap.next()),
            CellKind::Leased if state.owner == Some(seat) => {
                if !cell.note(word, Cause::Crash, self.memory().process(seat)) {
                    return None;
                }
                self.again_or_dead(state, cell, Cause::Crash)
            }
            CellKind::Leased | CellKind::Delayed | CellKind::Dead | CellKind::Quarantined => state
                .let_go_by(seat)
                .unwrap_or_else(|| state.released_as(state.kind)),
            // A ready cell has no owner, and a free one has no mark at all. Damaged ones are
            // repaired.
            CellKind::Ready => State {
                owner: None,
                zombie: state.zombie.filter(|zombie| *zombie != seat),
                ..state
            },
            CellKind::Free | CellKind::Inside => State::free(state.lap.next()),
        })
    }

    /// Returns the state of a message whose delivery ended for this reason: ready or dead.
    pub(super) fn again_or_dead(
        &self,
        state: State,
        cell: Cell<'_, M::Word>,
        cause: Cause,
    ) -> State {
        state.released_as(if self.is_exhausted(state, cell, cause) {
            CellKind::Dead
        } else {
            CellKind::Ready
        })
    }

    /// Returns whether the message in this state reaches a limit when its present delivery ends for
    /// this reason. The end may be recorded already or not. No process can requeue the message
    /// meanwhile, because it is not a dead letter.
    pub(super) fn is_exhausted(&self, state: State, cell: Cell<'_, M::Word>, cause: Cause) -> bool {
        let tally = cell.tally(state).with(state.attempt, cause, 0);
        self.limits().are_reached(tally)
    }

    // --- time ------------------------------------------------------------------------------------

    /// Ends expired leases, drops messages that were not received in time, and makes due messages
    /// ready. Returns what changed, and when to come back. If `lease` is `None`, leases never
    /// expire.
    pub fn look_at_clock(&self, now: Due, lease: Option<Duration>) -> (Changed, Option<Due>) {
        let mut changed = Changed::default();
        let mut next: Option<Due> = None;
        for index in 0..self.cells() {
            let cell = self.cell(index);
            let word = cell.state().load(SeqCst);
            let state = State::from_word(word);
            if state.kind == CellKind::Ready {
                let Some(at) = cell.expiry().map(Due::at_millis) else {
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
            if !matches!(state.kind, CellKind::Delayed | CellKind::Leased) {
                continue;
            }
            let soon = now.after(Duration::from_millis(1));
            let again = match self.time_of(cell, word, now, lease) {
                // Without a lease time-out there is nothing to wait for.
                Time::Until(_) if state.kind == CellKind::Leased && lease.is_none() => continue,
                Time::Until(due) => due,
                Time::Over => match self.time_is_up(cell, word) {
                    Some(kind) => {
                        changed.count(kind);
                        changed.expiries += usize::from(state.kind == CellKind::Leased);
                        continue;
                    }
                    // The cell was moved on or settled just now. The next pass tells which.
                    None => soon,
                },
                Time::PutOff(due) => {
                    // Its holder may be stopped before it does this.
                    let _ = self.put_off(cell, word);
                    due.max(soon)
                }
                Time::Changed => soon,
            };
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        if changed.ready > 0 {
            self.stray();
        }
        (changed, next)
    }

    /// Ends the lease or delay of the message in this state, which is over. Returns what its cell
    /// holds now, if this call changed it.
    pub(super) fn time_is_up(&self, cell: Cell<'_, M::Word>, word: u64) -> Option<CellKind> {
        let state = State::from_word(word);
        let next = match state.kind {
            CellKind::Leased => expired(state, self.again_or_dead(state, cell, Cause::Expiry).kind),
            _ => state.released_as(CellKind::Ready),
        };
        if state.kind == CellKind::Leased && !cell.note(word, Cause::Expiry, self.holder(state)) {
            return None;
        }
        cell.state()
            .swap_if(word, next.to_word(), SeqCst)
            .ok()
            .map(|()| next.kind)
    }

    /// Delays a message whose holder recorded the end of the delay, and ends its delivery. `false`:
    /// the cell changed.
    pub(super) fn put_off(&self, cell: Cell<'_, M::Word>, word: u64) -> bool {
        let state = State::from_word(word);
        let delayed = state.released_as(CellKind::Delayed).to_word();
        // The cause that its holder recorded before the time. If recovery has just corrected it,
        // this is a nack: one attempt too many is counted, never one too few.
        let cause = if cell.tally(state).is_snoozed(state) {
            Cause::Snooze
        } else {
            Cause::Nack
        };
        // Failed: its holder or another watcher was faster, or a sender moved it on.
        cell.note(word, cause, self.holder(state))
            && cell.state().swap_if(word, delayed, SeqCst).is_ok()
    }

    /// Returns the pid of the process that holds a message in this state; 0: unknown.
    pub(super) fn holder(&self, state: State) -> u32 {
        state.owner.map_or(0, |seat| self.memory().process(seat))
    }
}

impl Changed {
    /// Returns the sum of both.
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

    /// Returns the changes from one lease that is over. Its message's cell now has this kind.
    pub(super) fn by_expiry(kind: CellKind) -> Self {
        let mut changed = Self {
            expiries: 1,
            ..Self::default()
        };
        changed.count(kind);
        changed
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

/// Returns the state of a message whose lease is over and which becomes `kind`.
fn expired(state: State, kind: CellKind) -> State {
    match state.zombie {
        None => State {
            zombie: state.owner,
            ..state.released_as(kind)
        },
        // A second holder kept it for too long while the first may still be reading, so it is
        // poison. Both are remembered, so the payload stays until both let go.
        Some(_) => State {
            kind: CellKind::Dead,
            ..state
        },
    }
}
