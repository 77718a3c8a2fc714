//! What the next process must find, whatever happened before.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::SeqCst;

use ipc_proto::Kind;

use super::actor::Do;
use super::actor::at;
use super::explorer::{Folding, Scenario, Seen, Snapshot, kill};
use super::ledger::{Ledger, MESSAGES, Verdict, What, tells_of};
use super::world::{ModelMemory, World};
use crate::shm::cell::Cause;
use crate::shm::chunk::Allocation;
use crate::shm::memory::{RingWord, Word};
use crate::shm::ring::{Cursor, Ring, Settled};
use crate::shm::word::{CellKind, Seat, State};

/// Ends a state in several ways and looks at what is left.
pub struct Judge<'a> {
    ring: &'a Ring<ModelMemory>,
    scenario: &'a Scenario,
}

/// Nobody's in any scenario.
const SEAT: Seat = Seat::of_slot(500);

/// What is noted of the delivery that somebody holds.
struct Noted {
    lease: bool,
    put_off: bool,
}

impl<'a> Judge<'a> {
    pub fn new(ring: &'a Ring<ModelMemory>, scenario: &'a Scenario) -> Self {
        Self { ring, scenario }
    }

    fn world(&self) -> &World {
        &self.ring.memory().world
    }

    /// `ended`: no actor has anything left to do. `known`: what was judged before.
    pub fn judge(&self, snapshot: &Snapshot, ended: bool, known: &mut Seen) -> Verdict {
        let world = self.world();
        world.stepping.set(false);
        world.watched.set(false);
        let judged = catch_unwind(AssertUnwindSafe(|| {
            self.all_die(snapshot, known)
                .map_err(|broken| format!("if all die here: {broken}"))?;
            self.all_stop(snapshot)
                .map_err(|broken| format!("if all stop here: {broken}"))?;
            if ended {
                self.survivors_go_on(snapshot)
                    .map_err(|broken| format!("at the end: {broken}"))?;
            }
            Ok(())
        }));
        world.stepping.set(true);
        world.watched.set(true);
        judged.unwrap_or_else(|_| Err("a panic in the judgement".to_owned()))
    }

    /// Everybody is killed, and a new process comes.
    fn all_die(&self, snapshot: &Snapshot, known: &mut Seen) -> Verdict {
        let mut ledger = snapshot.ledger;
        for (id, runner) in snapshot.runners.iter().enumerate() {
            if !runner.dead {
                let begun = !runner.log.is_empty();
                let script = &self.scenario.actors[id].1;
                runner.actor.crashes(id, script, begun, &mut ledger);
            }
        }
        let mut hasher = Folding::default();
        snapshot.words.hash(&mut hasher);
        ledger.hash_remains(&mut hasher);
        if !known.insert(hasher.finish()) {
            return Ok(());
        }
        self.recover(snapshot, |_| true);
        self.knows_its_chunks(&ledger)?;
        let mut head = self.ring.cursor(RingWord::Head);
        let mut tail = self.ring.cursor(RingWord::Tail);
        self.drains(&ledger, &mut head)?;
        self.has_room(&mut tail)
    }

    /// Those who live still have their cursors; what the dead held is recovered, and so is what the
    /// living would hold for ever.
    fn survivors_go_on(&self, snapshot: &Snapshot) -> Verdict {
        let alive = snapshot.runners.iter().filter(|runner| !runner.dead);
        let heads: Vec<Cursor> = alive
            .clone()
            .filter_map(|runner| runner.actor.head().cloned())
            .collect();
        let tails: Vec<Cursor> = alive
            .filter_map(|runner| runner.actor.tail().cloned())
            .collect();
        let mut snapshot = snapshot.clone();
        let mut gone = [false; 16];
        for id in 0..snapshot.runners.len() {
            let runner = &snapshot.runners[id];
            if runner.actor.holds_something() && !runner.dead {
                gone[usize::from(runner.actor.seat())] = true;
                kill(&mut snapshot, id, &self.scenario.actors[id].1);
            }
            gone[usize::from(snapshot.runners[id].actor.seat())] |=
                snapshot.ledger.dead[usize::from(snapshot.runners[id].actor.seat())];
        }
        self.recover(&snapshot, |seat| gone[usize::from(seat)]);
        let words = self.world().words.borrow().clone();
        let fresh = (
            self.ring.cursor(RingWord::Head),
            self.ring.cursor(RingWord::Tail),
        );
        for head in heads.iter().chain([&fresh.0]) {
            self.world().words.borrow_mut().clone_from(&words);
            self.drains(&snapshot.ledger, &mut head.clone())?;
            let drained = self.world().words.borrow().clone();
            for tail in tails.iter().chain([&fresh.1]) {
                self.world().words.borrow_mut().clone_from(&drained);
                self.has_room(&mut tail.clone())?;
            }
        }
        Ok(())
    }

    /// Puts the state into the world and frees what the gone held.
    fn recover(&self, snapshot: &Snapshot, gone: impl Fn(u8) -> bool) {
        self.world().words.borrow_mut().clone_from(&snapshot.words);
        for seat in 0..self.scenario.shape.seats as u8 {
            if gone(seat) {
                let _ = self.ring.recover(Seat::of_slot(seat.into()), || true);
            }
        }
        // Delays are over; leases are all recovered, or none is left.
        let _ = self.ring.look_at_clock(at(1 << 30), None);
    }

    /// Exactly what was accepted and not settled is there, each once.
    fn drains(&self, ledger: &Ledger, head: &mut Cursor) -> Verdict {
        let mut found = [0u8; MESSAGES];
        while let Some(lease) = self.ring.take(SEAT, head) {
            found[usize::from(ledger.cells[lease.index() as usize].message)] += 1;
            let acked = self.ring.ack(&lease);
            if acked != Settled::Freed {
                return Err(format!("cell {} is {acked:?} after an ack", lease.index()));
            }
        }
        for index in 0..self.ring.cells() {
            let cell = self.ring.cell(index);
            let state = State::from_word(cell.state().load(SeqCst));
            if state.kind == CellKind::Dead {
                found[usize::from(ledger.cells[index as usize].message)] += 1;
                self.is_accounted_for(index, state)?;
                if !self.ring.drop_dead(index, cell.claim().letter(state)) {
                    return Err(format!("the dead letter in cell {index} can't be dropped"));
                }
            }
            let state = self.ring.seen(index);
            if state.kind != CellKind::Free {
                return Err(format!("cell {index} is never free again: {state:?}"));
            }
        }
        for (number, (message, found)) in ledger.messages.iter().zip(found).enumerate() {
            let surely = message.accepted && !message.gone && !message.maybe_gone;
            let possibly = (message.accepted || message.maybe_there) && !message.gone;
            if found > u8::from(possibly) || found < u8::from(surely) {
                return Err(format!(
                    "message {number} is there {found} times: {message:?}"
                ));
            }
        }
        match self.ring.chunks_in_use() {
            0 => Ok(()),
            used => Err(format!("{used} chunks are in use, but no cell")),
        }
    }

    /// A dead letter says how each of its deliveries ended.
    fn is_accounted_for(&self, index: u32, letter: State) -> Verdict {
        let cell = self.ring.cell(index);
        let (attempts, tally) = (cell.claim().deliveries(letter), cell.tally(letter));
        let buried = u8::from(tally.last == Cause::Bury);
        let ends = tally.nacks + tally.expiries + tally.crashes + buried;
        // A snoozed delivery is none of them.
        let scripts = self.scenario.actors.iter().flat_map(|actor| &actor.1);
        let snoozes = scripts.filter(|what| matches!(what, Do::Snooze(_))).count();
        let is_accounted_for = ends <= attempts && usize::from(attempts - ends) <= snoozes;
        if is_accounted_for
            && cell.attempts(letter) == ends
            && (1..=self.scenario.attempt_limit).contains(&ends)
        {
            return Ok(());
        }
        Err(format!(
            "the letter in cell {index} was delivered {attempts} times: {tally:?}"
        ))
    }

    /// Everybody is stopped for good, but nobody is dead: leases and delays end all the same.
    fn all_stop(&self, snapshot: &Snapshot) -> Verdict {
        const FAR: u64 = 1 << 20;
        let lease = self.scenario.rules.lease();
        self.world().words.borrow_mut().clone_from(&snapshot.words);
        let cells = 0..self.ring.cells();
        let noted: Vec<Noted> = cells.map(|index| self.noted(index)).collect();
        for now in [FAR, FAR + 2] {
            let _ = self.ring.look_at_clock(at(now), lease);
        }
        for (index, noted) in (0..).zip(noted) {
            let state = State::from_word(self.ring.cell(index).state().load(SeqCst));
            let over = noted.put_off || noted.lease && lease.is_some();
            match state.kind {
                CellKind::Delayed => return Err(format!("cell {index} is delayed for ever")),
                CellKind::Leased if over => {
                    return Err(format!("cell {index} is leased though its time is over"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn noted(&self, index: u32) -> Noted {
        let cell = self.ring.cell(index);
        let state = State::from_word(cell.state().load(SeqCst));
        let is_leased = state.kind == CellKind::Leased;
        let note = cell.due().load(SeqCst);
        Noted {
            lease: is_leased
                && tells_of(note, state, cell.claim().occupancy()) == Some(What::Lease),
            put_off: is_leased
                && tells_of(note, state, cell.claim().occupancy()) == Some(What::Delay),
        }
    }

    /// While nobody writes, a chunk is in use exactly as long as its message is there.
    fn knows_its_chunks(&self, ledger: &Ledger) -> Verdict {
        let words = self.world().words.borrow().clone();
        let used = ledger.chunks_in_use(&words);
        match self.ring.chunks_in_use() as usize {
            found if found == used => Ok(()),
            found => Err(format!("{found} chunks count as used, {used} are")),
        }
    }

    /// All units together are free for one message.
    fn has_memory(&self, tail: &mut Cursor) -> Verdict {
        let units = self.scenario.shape.units;
        if units == 0 {
            return Ok(());
        }
        let claim = self.ring.claim(SEAT, Kind::Data, tail);
        let claim = claim.ok_or("no cell is free")?;
        let found = self.ring.find_chunk(0..units, units);
        let found = found.ok_or("not all units are free for one message")?;
        let allocated = self.ring.allocate(found, &claim);
        self.ring.abandon(claim);
        match allocated {
            Allocation::Done => Ok(()),
            other => Err(format!("{other:?}: not all units could be allocated")),
        }
    }

    /// Exactly as many claims succeed as there are cells.
    fn has_room(&self, tail: &mut Cursor) -> Verdict {
        self.has_memory(tail)?;
        let claims = (0..).map_while(|_| self.ring.claim(SEAT, Kind::Data, tail));
        let room = claims.take(10).count();
        match self.ring.cells() as usize {
            cells if cells == room => Ok(()),
            cells => Err(format!("room for {room} messages in {cells} cells")),
        }
    }
}
