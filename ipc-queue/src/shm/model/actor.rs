//! What the processes of a model do: scripts of the ring's operations, as `handle` makes them.

use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::time::Duration;

use ipc_proto::{Kind, MessageId, SenderId, Timestamp};

use super::ledger::{Ledger, MESSAGES, Tags};
use super::world::{ModelMemory, Place, World, obey};
use crate::shm::chunk::{Allocation, Candidate};
use crate::shm::due::Due;
use crate::shm::memory::{Memory, RingWord, Word};
use crate::shm::ring::{
    Claim, Cursor, Lease, Publication, Ring, Run, RunPublication, Settled, Settlement,
};
use crate::shm::word::{CellKind, Seat, State};

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Claims a cell for this message, with a chunk if the scenario has chunks. No room: skips to
    /// the next.
    Claim(u8),
    /// Claims cells for these together, as far as they are free in FIFO order.
    ClaimRun(&'static [u8]),
    /// Publishes what was claimed, at the end if it was stepped over. Of a run that was stepped
    /// over only the first message: the others take one `Publish` each.
    Publish,
    /// Publishes what was claimed as a message that is put off to this time.
    PublishAt(u64),
    /// Gives back what was claimed.
    Abandon,
    /// Takes a message. If the scenario has leases, the next look at the clock starts its lease.
    Take,
    /// Takes so many messages together, as far as they are ready in FIFO order. Without leases.
    TakeRun(usize),
    /// Acks all messages that were taken, as one run if they are one.
    AckRun,
    /// Settles the message taken first.
    Ack,
    Nack,
    Bury,
    /// Nack with a delay to this time.
    Delay(u64),
    /// Snoozes to this time; zero: at once.
    Snooze(u64),
    /// Moves the end of the lease of the message taken first to this time.
    Extend(u64),
    /// Looks at the clock when it is this time.
    Clock(u64),
    /// Frees what this seat held once its process is dead, then the seat.
    Recover(u8),
    /// Becomes the seat's next process, once the seat is free.
    Join,
    Close,
    /// Writes a hint that was held up since the beginning.
    OldHint(RingWord),
    /// Drops every dead letter.
    Drop,
    /// Drops every message that waits.
    Purge,
    /// Requeues a dead letter, if there is one.
    Requeue,
    /// Revokes the lease of this message, if it is held.
    Revoke(u8),
    /// Drops this message, if it waits.
    DropMessage(u8),
}

/// What all actors of a scenario do the same way.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long leases last.
    pub lease_ms: Option<u64>,
    /// The units of memory that each message needs; zero: it fits its cell.
    pub units: [u32; MESSAGES],
    /// Whether the queue is closed at some time.
    pub closing: bool,
    /// Whether messages are picked by their ids, so that cells have to name them.
    pub picking: bool,
}

impl Rules {
    pub fn lease(self) -> Option<Duration> {
        self.lease_ms.map(Duration::from_millis)
    }
}

/// How far a composed operation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Stage {
    #[default]
    Begin,
    /// `Publish`: stepped over; a new place is looked for.
    Relocate,
    PublishNew,
    PublishLate,
    AbandonOld,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Writing {
    claim: Claim,
    message: u8,
    chunk: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reading {
    lease: Lease,
    message: u8,
}

/// A thread of a process; what it holds between two operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Actor {
    seat: u8,
    done: usize,
    stage: Stage,
    tail: Option<Cursor>,
    head: Option<Cursor>,
    writing: Option<Writing>,
    /// Where `writing` is being moved to.
    target: Option<Writing>,
    reading: Vec<Reading>,
    /// What is published together.
    run: Option<(Run, &'static [u8])>,
    /// What is published next, of a run that was stepped over.
    behind: Vec<Writing>,
    /// Whether a message of the batch moved to the end, so that those behind it must, too.
    moved: bool,
}

impl Actor {
    pub fn new(seat: u8) -> Self {
        Self {
            seat,
            ..Self::default()
        }
    }

    pub fn seat(&self) -> u8 {
        self.seat
    }

    fn as_seat(&self) -> Seat {
        Seat::of_slot(self.seat.into())
    }

    pub fn next(&self, script: &[Do]) -> Option<Do> {
        script.get(self.done).copied()
    }

    pub fn head(&self) -> Option<&Cursor> {
        self.head.as_ref()
    }

    pub fn tail(&self) -> Option<&Cursor> {
        self.tail.as_ref()
    }

    /// Between two operations of its script.
    pub fn is_between(&self) -> bool {
        self.stage == Stage::Begin
    }

    pub fn holds_something(&self) -> bool {
        self.writing.is_some() || self.run.is_some() || !self.reading.is_empty()
    }

    /// The process does not exist yet.
    pub fn is_unborn(&self, script: &[Do]) -> bool {
        self.done == 0 && script.first() == Some(&Do::Join)
    }

    /// Whether it can run now.
    pub fn is_enabled(
        &self,
        script: &[Do],
        ledger: &Ledger,
        seat_word: impl Fn(u8) -> u64,
    ) -> bool {
        match self.next(script) {
            None => false,
            Some(Do::Recover(seat)) => ledger.dead[usize::from(seat)],
            Some(Do::Join) => seat_word(self.seat) & 3 == 0,
            Some(_) => true,
        }
    }

    /// Its process ends here; `begun`: in the middle of an operation.
    pub fn crashes(&self, id: usize, script: &[Do], begun: bool, ledger: &mut Ledger) {
        for cell in &mut ledger.cells {
            cell.readers[id] = 0;
        }
        let begun = begun || self.stage != Stage::Begin;
        let entry = |message: u8| usize::from(message);
        let next = self.next(script);
        if let (Some(Do::Publish), Some((_, messages)), true) = (next, &self.run, begun) {
            for message in *messages {
                ledger.messages[entry(*message)].maybe_there = true;
            }
        }
        if next == Some(Do::AckRun) && begun {
            for reading in &self.reading {
                ledger.messages[entry(reading.message)].maybe_gone = true;
            }
        }
        match (next, &self.writing, self.reading.first()) {
            (Some(Do::Publish | Do::PublishAt(_)), Some(writing), _) if begun => {
                ledger.messages[entry(writing.message)].maybe_there = true;
            }
            (Some(Do::Ack), _, Some(reading)) if begun => {
                ledger.messages[entry(reading.message)].maybe_gone = true;
            }
            _ => {}
        }
    }

    /// Runs the operation that it is at, or as much of it as the world lets it.
    pub fn run(&mut self, id: usize, ring: &Ring<ModelMemory>, script: &[Do], rules: Rules) {
        let turn = Turn {
            id,
            ring,
            world: &ring.memory().world,
            rules,
        };
        let Some(what) = self.next(script) else {
            return;
        };
        let finished = match what {
            Do::Claim(message) => self.claim(&turn, message),
            Do::ClaimRun(messages) => self.claim_run(&turn, messages),
            Do::Publish => self.publish(&turn),
            Do::PublishAt(to) => self.publish_at(&turn, to),
            Do::Abandon => self.abandon(&turn),
            Do::Take => self.take(&turn),
            Do::TakeRun(count) => self.take_run(&turn, count),
            Do::AckRun => self.ack_run(&turn),
            Do::Ack => self.settle(&turn, |lease| ring.ack(lease)),
            Do::Nack => self.settle(&turn, |lease| ring.settle(lease, Settlement::Nack)),
            Do::Bury => self.settle(&turn, |lease| ring.settle(lease, Settlement::Bury)),
            Do::Delay(to) => self.settle(&turn, |lease| ring.settle_later(lease, at(to))),
            Do::Snooze(to) => self.settle(&turn, |lease| ring.snooze(lease, at(to), to == 0)),
            Do::Extend(to) => self.extend(&turn, to),
            Do::Clock(now) => turn.look_at_clock(now),
            Do::Recover(seat) => turn.recover(seat),
            Do::Join => self.join(&turn),
            Do::Close => {
                let closed = ring.memory().word(Place::Closed);
                closed.store(1, SeqCst);
                true
            }
            Do::OldHint(hint) => {
                ring.memory().ring_word(hint).store(0, SeqCst);
                true
            }
            Do::Drop => turn.drop_letters(),
            Do::Purge => {
                let _ = ring.purge();
                turn.notify();
                true
            }
            Do::Requeue => turn.requeue(),
            Do::Revoke(message) => turn.revoke(message),
            Do::DropMessage(message) => turn.drop_message(message),
        };
        if finished {
            self.done += 1;
            self.stage = Stage::Begin;
        }
    }

    // --- sending ---------------------------------------------------------------------------------

    fn claim_cell(&mut self, turn: &Turn<'_>) -> Option<Claim> {
        let (ring, id) = (turn.ring, turn.id);
        turn.world.live(|ledger, words| {
            ledger.claim_begins(id, words);
            Ok(())
        });
        let me = self.as_seat();
        let claim = ring.claim(me, Kind::Data, self.tail_cursor(ring));
        turn.world.live(|ledger, words| match &claim {
            None => ledger.claim_found_nothing(id, words),
            Some(_) => {
                ledger.claim_found(id);
                Ok(())
            }
        });
        claim
    }

    /// As `ShmSender::try_lend`.
    fn claim(&mut self, turn: &Turn<'_>, message: u8) -> bool {
        let (ring, units) = (turn.ring, turn.rules.units[usize::from(message)]);
        let find_chunk = || turn.find_chunk(units);
        let mut candidate = None;
        if units > 0 {
            candidate = find_chunk();
            if candidate.is_none() {
                return true;
            }
        }
        let Some(claim) = self.claim_cell(turn) else {
            return true;
        };
        if turn.rules.closing && turn.is_closed() {
            ring.abandon(claim);
            turn.notify();
            return true;
        }
        turn.fill(claim.index(), message);
        while let Some(chunk) = candidate {
            if ring.allocate(chunk, &claim) == Allocation::Done {
                turn.allocated(claim.index(), chunk);
                break;
            }
            candidate = find_chunk();
            if candidate.is_none() {
                ring.abandon(claim);
                turn.notify();
                return true;
            }
        }
        self.writing = Some(Writing {
            claim,
            message,
            chunk: candidate.map(|candidate| candidate.chunk),
        });
        true
    }

    /// As `LevelSender::send_together` and `fill_and_publish`.
    fn claim_run(&mut self, turn: &Turn<'_>, messages: &'static [u8]) -> bool {
        let (ring, me) = (turn.ring, self.as_seat());
        let Some(run) = ring.claim_run(me, self.tail_cursor(ring), messages.len()) else {
            return true;
        };
        let messages = &messages[..run.len()];
        for (number, message) in messages.iter().enumerate() {
            ring.begin_in(&run, number, Kind::Data);
            turn.fill(run.claim(number).index(), *message);
            ring.end_in(&run, number);
        }
        self.run = Some((run, messages));
        true
    }

    fn tail_cursor<M: Memory>(&mut self, ring: &Ring<M>) -> &mut Cursor {
        self.tail.get_or_insert_with(|| ring.cursor(RingWord::Tail))
    }

    /// As `ShmSender::publish` and `publish_at_end`.
    fn publish(&mut self, turn: &Turn<'_>) -> bool {
        let ring = turn.ring;
        if let Some((run, messages)) = self.run.clone() {
            return self.publish_run(turn, run, messages);
        }
        let Some(old) = self.writing.clone() else {
            return true;
        };
        match self.stage {
            // As `LevelSender::publish_all_at_end`.
            Stage::Begin if self.moved => {
                self.stage = Stage::Relocate;
                false
            }
            Stage::Begin => match ring.publish(old.claim.clone()) {
                Publication::SteppedOver(claim) => {
                    self.writing = Some(Writing { claim, ..old });
                    self.stage = Stage::Relocate;
                    false
                }
                done => self.sent(turn, &old, &done),
            },
            Stage::Relocate => {
                self.stage = Stage::PublishLate;
                if let Some(claim) = self.claim_cell(turn) {
                    turn.fill(claim.index(), old.message);
                    if let Some(chunk) = old.chunk {
                        let handed_over = ring.hand_over(chunk, &old.claim, &claim);
                        turn.insist(handed_over, "a sender's own chunk is its own");
                    }
                    self.target = Some(Writing { claim, ..old });
                    self.stage = Stage::PublishNew;
                }
                false
            }
            Stage::PublishNew => {
                let Some(new) = self.target.clone() else {
                    return true;
                };
                match ring.publish(new.claim.clone()) {
                    Publication::SteppedOver(claim) => {
                        self.target = Some(Writing { claim, ..new });
                        self.stage = Stage::PublishLate;
                    }
                    _ => self.stage = Stage::AbandonOld,
                }
                false
            }
            Stage::PublishLate => match self.target.clone() {
                Some(new) => {
                    let _ = ring.publish_late(new.claim, self.tail_cursor(ring));
                    self.stage = Stage::AbandonOld;
                    false
                }
                None => {
                    let done = ring.publish_late(old.claim.clone(), self.tail_cursor(ring));
                    self.sent(turn, &old, &done)
                }
            },
            Stage::AbandonOld => {
                ring.abandon(old.claim.clone());
                self.sent(turn, &old, &Publication::Done)
            }
        }
    }

    fn publish_run(&mut self, turn: &Turn<'_>, run: Run, messages: &'static [u8]) -> bool {
        let claims = match turn.ring.publish_run(run) {
            RunPublication::Done => {
                for message in messages {
                    turn.world.live(|ledger, _| ledger.accepted(*message));
                }
                turn.notify();
                self.run = None;
                return true;
            }
            RunPublication::SteppedOver(claims) => claims,
            RunPublication::Lost => {
                turn.insist(false, "a live sender's run is its own");
                return true;
            }
        };
        let parted = claims.into_iter().zip(messages);
        self.behind = parted
            .map(|(claim, message)| Writing {
                claim,
                message: *message,
                chunk: None,
            })
            .collect();
        self.run = None;
        self.writing = Some(self.behind.remove(0));
        self.moved = true;
        self.stage = Stage::Relocate;
        false
    }

    /// As `ShmSender::publish_timed`.
    fn publish_at(&mut self, turn: &Turn<'_>, to: u64) -> bool {
        let Some(writing) = self.writing.clone() else {
            return true;
        };
        turn.world.live(|ledger, _| {
            let message = &mut ledger.messages[usize::from(writing.message)];
            // No order is promised.
            (message.safe_until, message.late) = (to, true);
            Ok(())
        });
        turn.ring.note_delay(&writing.claim, at(to));
        let done = turn.ring.publish_delayed(writing.claim.clone());
        self.sent(turn, &writing, &done)
    }

    fn sent(&mut self, turn: &Turn<'_>, what: &Writing, how: &Publication) -> bool {
        let done = matches!(how, Publication::Done);
        turn.insist(done, "a live sender's cell is its own");
        turn.world.live(|ledger, _| ledger.accepted(what.message));
        turn.notify();
        self.moved &= !self.behind.is_empty();
        self.writing = (!self.behind.is_empty()).then(|| self.behind.remove(0));
        self.target = None;
        true
    }

    fn abandon(&mut self, turn: &Turn<'_>) -> bool {
        if let Some(writing) = self.writing.clone() {
            turn.ring.abandon(writing.claim);
            turn.notify();
            self.writing = None;
        }
        true
    }

    // --- receiving -------------------------------------------------------------------------------

    /// As `ShmReceiver::try_take` and `deliver`.
    fn take(&mut self, turn: &Turn<'_>) -> bool {
        let (ring, id, me) = (turn.ring, turn.id, self.as_seat());
        turn.world.live(|ledger, words| {
            ledger.take_begins(id, words);
            Ok(())
        });
        let closed = turn.rules.closing && turn.is_closed();
        let cursor = self.head.get_or_insert_with(|| ring.cursor(RingWord::Head));
        let Some(lease) = ring.take(me, cursor) else {
            turn.world
                .live(|ledger, words| ledger.take_found_nothing(id, words));
            if closed && ring.is_drained(Some(me)) {
                turn.world.live(|ledger, words| ledger.told_drained(words));
            }
            return true;
        };
        turn.world.live(|ledger, _| {
            ledger.take_found(id);
            Ok(())
        });
        turn.check_chunk(lease.index());
        let message = turn.message_in(lease.index());
        self.reading.push(Reading { lease, message });
        true
    }

    /// As `LevelReceiver::take_together`.
    fn take_run(&mut self, turn: &Turn<'_>, count: usize) -> bool {
        let (ring, me) = (turn.ring, self.as_seat());
        let mut left = count;
        while left > 0 {
            let cursor = self.head.get_or_insert_with(|| ring.cursor(RingWord::Head));
            let most = if turn.rules.lease_ms.is_none() {
                left
            } else {
                1
            };
            let Some(taken) = ring.take_run(me, cursor, most) else {
                break;
            };
            left -= taken.len();
            for lease in taken.into_leases() {
                let message = turn.message_in(lease.index());
                self.reading.push(Reading { lease, message });
            }
        }
        true
    }

    /// As `Acks`.
    fn ack_run(&mut self, turn: &Turn<'_>) -> bool {
        let run = self.reading.first().map(|first| first.lease.in_run());
        let goes_on = |(number, reading): (usize, &Reading)| {
            run.is_some_and(|(_, len)| reading.lease.in_run() == (number as u32, len))
        };
        let is_run = run.is_some_and(|(_, len)| len as usize == self.reading.len())
            && self.reading.iter().enumerate().all(goes_on);
        if !is_run {
            let first = self.reading.len();
            self.settle(turn, |lease| turn.ring.ack(lease));
            return first <= 1;
        }
        for reading in &self.reading {
            turn.stops_reading(reading.lease.index());
        }
        let settled = turn.ring.ack_run(&self.reading[0].lease);
        turn.insist(
            settled == Settled::Freed,
            "a living receiver's run is its own",
        );
        for reading in std::mem::take(&mut self.reading) {
            let attempt = reading.lease.attempt();
            turn.world
                .live(|ledger, _| ledger.settled(reading.message, attempt, true));
        }
        turn.notify();
        true
    }

    /// As `ShmReceiver::settle`.
    fn settle(&mut self, turn: &Turn<'_>, settle: impl FnOnce(&Lease) -> Settled) -> bool {
        let Some(reading) = self.reading.first().cloned() else {
            return true;
        };
        let lease = &reading.lease;
        turn.stops_reading(lease.index());
        let settled = settle(lease);
        let gone = matches!(settled, Settled::Freed | Settled::Quarantined);
        turn.world.live(|ledger, _| match settled {
            Settled::LeaseLost | Settled::Over => Ok(()),
            _ => ledger.settled(reading.message, lease.attempt(), gone),
        });
        turn.notify();
        self.reading.remove(0);
        true
    }

    fn extend(&mut self, turn: &Turn<'_>, to: u64) -> bool {
        if let Some(Reading { lease, message, .. }) = self.reading.first()
            && turn.ring.extend(lease, at(to))
        {
            turn.world
                .live(|ledger, _| ledger.extended(*message, lease.attempt(), to));
        }
        true
    }

    fn join(&mut self, turn: &Turn<'_>) -> bool {
        let seat = turn.ring.memory().word(Place::Seat(self.seat.into()));
        let free = seat.load(SeqCst);
        if free & 3 == 0 && seat.swap_if(free, free + (1 << 2) + 1, SeqCst).is_ok() {
            turn.world.live(|ledger, _| {
                ledger.dead[usize::from(self.seat)] = false;
                Ok(())
            });
            return true;
        }
        false
    }
}

/// Who runs, and on what.
struct Turn<'a> {
    id: usize,
    ring: &'a Ring<ModelMemory>,
    world: &'a World,
    rules: Rules,
}

impl Turn<'_> {
    fn notify(&self) {
        self.world.live(|ledger, _| {
            ledger.notified(self.id);
            Ok(())
        });
    }

    fn insist(&self, holds: bool, what: &str) {
        if !holds {
            obey(Err(format!("broken: {what}")));
        }
    }

    fn fill(&self, index: u32, message: u8) {
        if self.rules.picking {
            self.ring
                .cell(index)
                .set_envelope(id_of(message), Timestamp::default());
        }
        self.world.live(|ledger, _| {
            ledger.filled(index, message, self.id);
            Ok(())
        });
    }

    fn message_in(&self, index: u32) -> u8 {
        self.world.ledger.borrow().cells[index as usize].message
    }

    fn stops_reading(&self, index: u32) {
        self.world.live(|ledger, _| {
            ledger.cells[index as usize].readers[self.id] -= 1;
            Ok(())
        });
    }

    fn is_closed(&self) -> bool {
        self.ring.memory().word(Place::Closed).load(SeqCst) != 0
    }

    fn find_chunk(&self, units: u32) -> Option<Candidate> {
        let (id, shape) = (self.id, self.world.shape);
        self.world.live(|ledger, words| {
            ledger.search_begins(id, units, Tags { shape, words });
            Ok(())
        });
        let found = self.ring.find_chunk(0..shape.units, units);
        self.world
            .live(|ledger, _| ledger.search_ends(id, found.is_some()));
        found
    }

    fn allocated(&self, index: u32, chunk: Candidate) {
        self.world.live(|ledger, words| {
            let shape = self.world.shape;
            let tags = Tags { shape, words };
            ledger.allocated(index, chunk.chunk, chunk.units, tags)
        });
    }

    fn check_chunk(&self, index: u32) {
        let chunk = self.world.ledger.borrow().cells[index as usize].chunk;
        if let Some((chunk, units)) = chunk {
            let belongs = self.ring.belongs(chunk.into(), index, units.into());
            self.insist(belongs, "a delivered message's chunk is its own");
        }
    }

    /// As `Shared::look_at_clock`.
    fn look_at_clock(&self, now: u64) -> bool {
        self.world.live(|ledger, _| {
            ledger.now = ledger.now.max(now);
            ledger.judges_by[self.id] = now;
            Ok(())
        });
        let _ = self.ring.look_at_clock(at(now), self.rules.lease());
        self.notify();
        true
    }

    /// As `recover_departed` and `recover` in `shm`, on a table of participants that is one word
    /// for each.
    fn recover(&self, seat: u8) -> bool {
        let slot = self.ring.memory().word(Place::Seat(seat.into()));
        let member = slot.load(SeqCst);
        if member & 3 == 0 {
            return true;
        }
        let still_departed = || slot.load(SeqCst) == member;
        let recovered = self
            .ring
            .recover(Seat::of_slot(seat.into()), still_departed);
        if recovered.is_ok() {
            let slot_at = self.world.shape.at(Place::Seat(seat.into()));
            self.world.live(|ledger, words| {
                // If the seat was given away meanwhile, then by one who told everybody.
                if words[slot_at] == member {
                    ledger.notified_for_seat(seat);
                }
                ledger.notified(self.id);
                Ok(())
            });
            let _ = slot.swap_if(member, member & !3, SeqCst);
        }
        true
    }

    /// The name of the dead letter in a cell.
    fn letter_in(&self, index: u32) -> Option<u64> {
        let cell = self.ring.cell(index);
        let state = State::from_word(cell.state().load(Acquire));
        (state.kind == CellKind::Dead).then(|| cell.claim().letter(state))
    }

    /// As `Shared::requeue`.
    fn requeue(&self) -> bool {
        for index in 0..self.ring.cells() {
            let letter = self.letter_in(index);
            let Some(word) = letter.and_then(|letter| self.ring.requeue(index, letter)) else {
                continue;
            };
            let taken_back =
                self.rules.closing && self.is_closed() && self.ring.take_back_requeued(index, word);
            if !taken_back {
                self.world
                    .live(|ledger, words| ledger.requeued(index, word, words));
            }
            break;
        }
        self.notify();
        true
    }

    /// As `Shared::revoke`.
    fn revoke(&self, message: u8) -> bool {
        self.world
            .live(|ledger, words| ledger.pick_begins(self.id, message, words));
        let revoked = self.ring.revoke(id_of(message));
        self.world.live(|ledger, words| {
            let found = revoked.is_some();
            ledger.pick_ends(self.id, found, CellKind::Leased, words)
        });
        self.notify();
        true
    }

    /// As `Shared::drop_message`.
    fn drop_message(&self, message: u8) -> bool {
        self.world
            .live(|ledger, words| ledger.pick_begins(self.id, message, words));
        let found = self.ring.drop_message(id_of(message));
        self.world
            .live(|ledger, words| ledger.pick_ends(self.id, found, CellKind::Ready, words));
        self.notify();
        true
    }

    fn drop_letters(&self) -> bool {
        for index in 0..self.ring.cells() {
            if let Some(occupancy) = self.letter_in(index) {
                let _ = self.ring.drop_dead(index, occupancy);
            }
        }
        self.notify();
        true
    }
}

fn id_of(message: u8) -> MessageId {
    MessageId::new(SenderId::new(1), message.into())
}

pub fn at(millis: u64) -> Due {
    Due::at(Duration::from_millis(millis))
}
