//! What should be true: a book kept beside the shared words, which the ring can't see.
//!
//! It checks every change of a cell's word against the table in `word` (what, and by whom), that
//! no receiver may still be reading a cell that becomes free, that no delivery is made or settled
//! twice, the order of first deliveries, and that a chunk is given away only when its message is
//! over.

use std::hash::Hasher;

use super::world::{Place, Shape};
use crate::shm::cell::ClaimWord;
use crate::shm::memory::CELL_WORDS;
use crate::shm::ring::seen_in;
use crate::shm::tag::TagFields;
use crate::shm::word::{CellKind, Inside, Lap, Seat, State};

/// What a note of time is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Lease,
    Delay,
}

/// What a note tells of the delivery in this state, if it is about that one.
pub fn tells_of(note: u64, state: State, occupancy: Lap) -> Option<What> {
    let tag = u64::from(state.attempt) << 15 | occupancy.number() & 0x7fff;
    let of_this = note & ((1 << 23) - 1) == tag;
    of_this.then_some(if note >> 23 & 1 == 0 {
        What::Lease
    } else {
        What::Delay
    })
}

/// The error says which promise was broken.
pub type Verdict = Result<(), String>;

pub const ACTORS: usize = 6;
pub const CELLS: usize = 4;
pub const SEATS: usize = 6;
/// Message 0 is no message.
pub const MESSAGES: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    pub cell_count: u8,
    /// How often a message is delivered at most.
    pub attempt_limit: u8,
    pub cells: [CellEntry; CELLS],
    pub messages: [MessageEntry; MESSAGES],
    /// Which seat each actor acts by.
    pub seats: [u8; ACTORS],
    /// Whether the process that has the seat is dead.
    pub dead: [bool; SEATS],
    /// What was ready, and everybody was told, when an actor's receiving began: message and
    /// attempt.
    pub seen_ready: [[(u8, u8); CELLS]; ACTORS],
    /// What was free, and everybody was told, when an actor's claiming began.
    pub seen_free: [[u8; CELLS]; ACTORS],
    /// Which units had a free chunk when an actor's search for one began, and still have it: bits.
    pub seen_chunks: [u8; ACTORS],
    /// What each actor picks by its id, and its state and attempt when that began.
    pub picks: [(u8, Option<(CellKind, u8)>); ACTORS],
    /// Milliseconds.
    pub now: u64,
    /// By what time an actor's look at the clock judges.
    pub judges_by: [u64; ACTORS],
    /// How many messages were claimed so far.
    pub claims: u8,
    /// Somebody was told that the closed queue is drained.
    pub drained: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CellEntry {
    pub message: u8,
    /// How many deliveries of it each actor may be reading.
    pub readers: [u8; ACTORS],
    /// How often it was claimed.
    pub occupancy: u8,
    /// The first unit of its message's chunk, and how many it needs.
    pub chunk: Option<(u8, u8)>,
    /// Who made it what it is (ready, free), plus one; 0 once everybody was told.
    changed_by: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MessageEntry {
    sender: u8,
    order: u8,
    /// A publication returned `Done`.
    pub accepted: bool,
    /// An ack, or a drop of the dead letter, returned that it was done.
    pub gone: bool,
    /// Its sender crashed while it published it.
    pub maybe_there: bool,
    /// Its receiver crashed while it acked it.
    pub maybe_gone: bool,
    /// Published out of its place, because there was no other.
    pub late: bool,
    /// Its holder gave it back with a delay, whether the state says so or not yet.
    put_off: bool,
    /// How often it was delivered before it was requeued, and before that.
    base: u8,
    base_before: u8,
    /// It was requeued after somebody was told that the queue is drained.
    requeued_late: bool,
    /// Attempts that were made, that were settled, that were taken away: bits.
    delivered: u16,
    settled: u16,
    lost: u16,
    /// Its lease was extended, or it was delayed, to this time.
    pub safe_until: u64,
}

/// The tags of the units.
#[derive(Clone, Copy)]
pub struct Tags<'a> {
    pub shape: Shape,
    pub words: &'a [u64],
}

/// A tag: whether it is a head, how many units it says, and whose they are.
struct Tag {
    is_head: bool,
    units: u32,
    cell: Option<usize>,
}

impl Tags<'_> {
    fn at(self, unit: u32) -> Tag {
        let shape = self.shape;
        if unit >= shape.units {
            return Tag {
                is_head: false,
                units: 0,
                cell: None,
            };
        }
        let word = self.words[shape.at(Place::Unit(unit))];
        if word == 0 && unit.is_multiple_of(shape.block_units) {
            let (units, cell) = (shape.block_units, None);
            return Tag {
                is_head: true,
                units,
                cell,
            };
        }
        let (is_head, units, cell) = TagFields::new(shape.units, shape.cells).parts(word);
        Tag {
            is_head,
            units,
            cell: cell.checked_sub(1),
        }
    }

    /// Whether a sender may take the chunk at this unit for so many units.
    fn is_free(self, unit: u32, units: u32) -> bool {
        let tag = self.at(unit);
        let fields = TagFields::new(self.shape.units, self.shape.cells);
        let owner = fields.owner_of(self.words[self.shape.at(Place::Unit(unit))]);
        let is_owned = tag.cell.is_some_and(|cell| {
            let claim = ClaimWord::of_word(self.words[cell * CELL_WORDS + 2]);
            seen(self.words, cell).kind != CellKind::Free
                && fields.owner(cell as u32, claim) == owner
        });
        tag.is_head && tag.units >= units && !is_owned
    }

    /// The first units of chunks.
    fn beginnings(self) -> Result<Vec<u32>, String> {
        let mut beginnings = Vec::new();
        let mut at = 0;
        while at < self.shape.units {
            beginnings.push(at);
            match self.at(at).units {
                0 => return Err(format!("the chunk at unit {at} has no length")),
                units => at += units,
            }
        }
        if at == self.shape.units {
            Ok(beginnings)
        } else {
            Err(format!("the last chunk ends at unit {at}"))
        }
    }
}

/// What governs a cell from before it.
fn governor(words: &[u64], index: usize) -> Option<State> {
    (1..=index).find_map(|back| {
        let head = State::from_word(words[(index - back) * CELL_WORDS]);
        let governs = head.kind != CellKind::Inside && head.len() as usize > back;
        governs.then_some(head)
    })
}

fn seen(words: &[u64], index: usize) -> State {
    let load = |index: u32| words[index as usize * CELL_WORDS];
    let index = index as u32;
    seen_in(index, load(index), load)
}

impl Ledger {
    fn seat(&self, actor: usize) -> Option<Seat> {
        Some(Seat::of_slot(self.seats[actor].into()))
    }

    fn is_dead(&self, seat: Option<Seat>) -> bool {
        seat.is_some_and(|seat| self.dead[usize::from(seat.slot())])
    }

    /// `actor` changed a cell's word; `words` are as they are then.
    pub fn cell_changed(
        &mut self,
        actor: usize,
        index: usize,
        was: State,
        is: State,
        tags: Tags<'_>,
    ) -> Verdict {
        self.unsee_chunks(|unit| tags.at(unit).cell == Some(index));
        let (words, me) = (tags.words, self.seat(actor));
        let may_act_for = |owner: Option<Seat>| owner == me || self.is_dead(owner);
        if let Some(head) = governor(words, index) {
            let owned = matches!(head.kind, CellKind::Writing | CellKind::Leased);
            let single = is.kind == head.kind && is.owner == head.owner;
            let fits = is.kind == CellKind::Inside || single;
            if !(owned && may_act_for(head.owner) && fits) {
                return Err(format!(
                    "cell {index} becomes {is:?}, not {was:?}, inside the run of {head:?}"
                ));
            }
            return Ok(());
        }
        let (was, is) = (was.alone(), is.alone());
        self.is_a_run(index, is, words)?;
        let kinds = (was.kind, is.kind);
        let parts = match kinds {
            (CellKind::Free, CellKind::Writing) | (CellKind::Ready, CellKind::Leased) => {
                is.len() <= was.len()
            }
            _ => is.len() == was.len(),
        };
        // Another word for the same.
        if was == is && matches!(is.kind, CellKind::Free | CellKind::Ready) {
            return Ok(());
        }
        if parts {
            for number in 0..is.len() as usize {
                let (was, is) = (was.of_len(1), is.of_len(1));
                self.one_changed(actor, index + number, was, is)?;
            }
            return Ok(());
        }
        let same = was.of_len(1) == is.of_len(1);
        let allowed = match is.kind {
            _ if !same => false,
            // Joins what it claimed.
            CellKind::Writing if is.len() > was.len() => was.owner == me,
            CellKind::Writing | CellKind::Leased => {
                let others = index + 1..index + was.len() as usize;
                let mut others = others.map(|other| State::from_word(words[other * CELL_WORDS]));
                is.len() == 1 && may_act_for(was.owner) && others.all(|other| other == is)
            }
            CellKind::Free | CellKind::Ready => is.len() == 1,
            _ => false,
        };
        if allowed {
            return Ok(());
        }
        Err(format!("no such change of run {index}: {was:?} to {is:?}"))
    }

    /// What is free or ready together is so from each of its cells on.
    fn is_a_run(&self, index: usize, is: State, words: &[u64]) -> Verdict {
        let inside = match is.kind {
            CellKind::Free => Inside::Free,
            CellKind::Ready => Inside::Ready,
            _ => return Ok(()),
        };
        for number in 1..is.len() {
            let other = words[(index + number as usize) * CELL_WORDS];
            let right = State::inside_of(inside, is.len() - number, is.lap).to_word();
            if other != right {
                let other = State::from_word(other);
                return Err(format!(
                    "in {is:?} at {index}, number {number} is {other:?}"
                ));
            }
        }
        Ok(())
    }

    fn one_changed(&mut self, actor: usize, index: usize, was: State, is: State) -> Verdict {
        use CellKind::{Dead, Delayed, Free, Leased, Quarantined, Ready, Writing};
        let me = self.seat(actor);
        let lap = is.lap.since(was.lap);
        let same_marks = was.zombie == is.zombie;
        let mine = was.owner == me;
        let mine_or_dead = mine || self.is_dead(was.owner);
        let allowed = match (was.kind, is.kind) {
            (Free, Writing) => lap >= 0 && is.owner == me && is.zombie.is_none(),
            (Writing, Ready) => lap >= 0 && mine && is.owner.is_none(),
            (Writing, Delayed) => lap == 1 && mine && is.owner.is_none(),
            (Writing, Free) => lap == 1 && mine_or_dead,
            (Ready, Free) => lap == 1 && was.zombie.is_none(),
            (Ready, Quarantined) => lap == 1 && was.zombie.is_some() && same_marks,
            (Delayed, Free) => lap == 0 && was.zombie.is_none(),
            (Delayed, Quarantined) => lap == 0 && was.zombie.is_some() && same_marks,
            (Ready, Leased) => {
                lap == 1 && is.owner == me && is.attempt == was.attempt + 1 && same_marks
            }
            (Leased, Free) => lap == 0 && mine && was.zombie.is_none(),
            (Leased, Quarantined) => lap == 0 && mine && was.zombie.is_some() && same_marks,
            (Leased, Delayed) => {
                lap == 0 && same_marks && is.owner.is_none() && self.message_in(index).put_off
            }
            (Leased, Ready | Dead) => {
                let given_back = mine_or_dead && same_marks && is.owner.is_none();
                let expires = self.expires(was, is) && !self.message_in(index).put_off;
                lap == 0 && is.attempt == was.attempt && (given_back || expires)
            }
            (Delayed, Ready) => lap == 0 && same_marks,
            (Dead, Free) => lap == 0 && was.zombie.is_none() && was.owner.is_none(),
            (Dead, Quarantined) => lap == 0 && (was.owner, was.zombie) == (is.owner, is.zombie),
            (Dead, Ready) => {
                let marks = is.zombie == was.owner.or(was.zombie) && is.owner.is_none();
                lap == 0
                    && marks
                    && is.attempt == was.attempt
                    && (was.owner.is_none() || was.zombie.is_none())
            }
            (Ready, Dead) => lap == 1 && same_marks && is.attempt == self.message_in(index).base,
            (Quarantined, Free) => lap == 0 && self.lets_go(me, was, is),
            (one, other) if one == other => {
                let marks = (was.owner, was.zombie) == (is.owner, is.zombie);
                let moved_on = lap == 1 && marks && !matches!(one, Free | Ready);
                moved_on || lap == 0 && !matches!(one, Free | Writing) && self.lets_go(me, was, is)
            }
            _ => false,
        };
        if !allowed {
            return Err(format!("no such change of cell {index}: {was:?} to {is:?}"));
        }
        self.book(actor, index, was, is)
    }

    fn message_in(&self, index: usize) -> &MessageEntry {
        &self.messages[usize::from(self.cells[index].message)]
    }

    fn expires(&self, was: State, is: State) -> bool {
        match was.zombie {
            None => is.zombie == was.owner && is.owner.is_none(),
            Some(_) => {
                is.kind == CellKind::Dead && (is.owner, is.zombie) == (was.owner, was.zombie)
            }
        }
    }

    /// Whether one mark was taken away, by the marked one or after its death.
    fn lets_go(&self, me: Option<Seat>, was: State, is: State) -> bool {
        let by = |mark: Option<Seat>| mark.is_some() && (mark == me || self.is_dead(mark));
        (by(was.zombie) && is.zombie.is_none() && is.owner == was.owner)
            || (by(was.owner) && is.owner.is_none() && is.zombie == was.zombie)
    }

    fn book(&mut self, actor: usize, index: usize, was: State, is: State) -> Verdict {
        use CellKind::{Dead, Delayed, Free, Leased, Quarantined, Ready, Writing};
        let by = actor as u8 + 1;
        let expires = self.expires(was, is);
        let used = self.cells.iter().map(|entry| u16::from(entry.occupancy));
        let others = used.sum::<u16>() > 1;
        let entry = &mut self.cells[index];
        let number = entry.message;
        let (picked, _) = self.picks[actor];
        let ends = matches!((was.kind, is.kind), (Leased, Ready | Dead)) && expires
            || matches!((was.kind, is.kind), (Ready | Delayed, Free | Quarantined));
        if ends && picked != 0 && picked != number {
            return Err(format!("message {number} picked instead of {picked}"));
        }
        let message = &mut self.messages[usize::from(number)];
        let attempt = 1u16 << was.attempt.min(15);
        match (was.kind, is.kind) {
            (Free, Writing) => {
                entry.occupancy += 1;
                (entry.message, entry.chunk) = (0, None);
            }
            (Writing, Writing) if !others => {
                return Err(format!(
                    "message {number} is stepped over, but there never was another"
                ));
            }
            (Writing, Ready | Delayed) if self.drained => {
                return Err(format!("message {number} came after the queue was drained"));
            }
            (Ready, Leased) => {
                let attempt = 1u16 << is.attempt.min(15);
                if message.delivered & attempt != 0 {
                    return Err(format!("attempt {} of {number} made twice", is.attempt));
                }
                let attempts = is.attempt - message.base;
                if attempts > self.attempt_limit {
                    return Err(format!("message {number} delivered {attempts} times"));
                }
                message.delivered |= attempt;
                (message.safe_until, message.put_off) = (0, false);
                entry.readers[actor] += 1;
                if is.attempt == 1 {
                    self.check_order(number)?;
                }
            }
            (Dead, Ready) => {
                (message.base, message.base_before) = (was.attempt, message.base);
                message.requeued_late = self.drained;
            }
            (Ready, Dead) => message.base = message.base_before,
            (Ready | Delayed | Dead, Free | Quarantined) => message.gone = true,
            (Delayed, Ready) if self.judges_by[actor] < message.safe_until => {
                return Err(format!(
                    "message {number} comes back at {}, delayed to {}",
                    self.judges_by[actor], message.safe_until
                ));
            }
            (Leased, Ready | Dead) if expires => {
                if self.judges_by[actor] < message.safe_until {
                    return Err(format!(
                        "lease of {number} ended at {}, extended to {}",
                        self.judges_by[actor], message.safe_until
                    ));
                }
                message.lost |= attempt;
            }
            _ => {}
        }
        let entry = &mut self.cells[index];
        if is.kind != was.kind && matches!(is.kind, Ready | Free) {
            entry.changed_by = by;
        }
        if is.kind == Free && entry.readers != [0; ACTORS] {
            return Err(format!(
                "cell {index} is free while its message {number} may still be read"
            ));
        }
        Ok(())
    }

    fn check_order(&self, number: u8) -> Verdict {
        let this = &self.messages[usize::from(number)];
        let overtook = |other: &&MessageEntry| {
            other.sender == this.sender
                && other.order > this.order
                && other.delivered != 0
                && !other.late
        };
        match self.messages.iter().find(overtook) {
            Some(other) if !this.late => Err(format!(
                "message {number}, the sender's claim number {}, comes after number {}",
                this.order, other.order
            )),
            _ => Ok(()),
        }
    }

    /// An actor is about to end the lease of a message, or to drop it.
    pub fn pick_begins(&mut self, actor: usize, number: u8, words: &[u64]) -> Verdict {
        self.picks[actor] = (number, self.state_of(number, words));
        // Whatever its end: a revoked lease is over now.
        self.judges_by[actor] = u64::MAX;
        Ok(())
    }

    /// The same is done. `found` says whether the message was in a state of that kind.
    pub fn pick_ends(
        &mut self,
        actor: usize,
        found: bool,
        kind: CellKind,
        words: &[u64],
    ) -> Verdict {
        let (number, before) = std::mem::take(&mut self.picks[actor]);
        let now = self.state_of(number, words);
        match before {
            Some((was, _)) if !found && was == kind && before == now => Err(format!(
                "message {number} was {was:?} all the while, but not found"
            )),
            _ => Ok(()),
        }
    }

    fn state_of(&self, number: u8, words: &[u64]) -> Option<(CellKind, u8)> {
        let mut cells = self.cells[..self.cell_count.into()].iter();
        let index = cells.position(|cell| cell.message == number)?;
        let state = seen(words, index);
        Some((state.kind, state.attempt))
    }

    /// The note of time in a cell was changed: it must not take the place of one about the cell's
    /// delivery.
    pub fn time_changed(
        &mut self,
        actor: usize,
        index: usize,
        was: u64,
        is: u64,
        words: &[u64],
    ) -> Verdict {
        let cell = &words[index * CELL_WORDS..][..CELL_WORDS];
        let (state, occupancy) = (State::from_word(cell[0]), Lap::new(cell[2]));
        let number = usize::from(self.cells[index].message);
        if !matches!(state.kind, CellKind::Leased | CellKind::Delayed) {
            return Ok(());
        }
        let (before, now) = (
            tells_of(was, state, occupancy),
            tells_of(is, state, occupancy),
        );
        let until = is >> 24;
        match (before, now) {
            (Some(_), None) => {
                return Err(format!("the time of message {number} was written over"));
            }
            (Some(What::Delay), Some(_)) => {
                return Err(format!("message {number} was put off, and is not any more"));
            }
            // Revoked, by the record that the lease is over: any process may end the lease now.
            (_, Some(What::Lease))
                if self.picks[actor].0 as usize == number && until == u64::MAX >> 24 =>
            {
                self.messages[number].safe_until = 0;
            }
            (_, Some(What::Delay)) => {
                let message = &mut self.messages[number];
                (message.put_off, message.safe_until) = (true, until);
            }
            _ => {}
        }
        Ok(())
    }

    /// A dead letter was requeued, as far as whoever did it was told; it was left as this word.
    pub fn requeued(&mut self, index: u32, word: u64, words: &[u64]) -> Verdict {
        let entry = &self.cells[index as usize];
        let is_there = words[index as usize * CELL_WORDS] == word;
        if is_there && self.messages[usize::from(entry.message)].requeued_late {
            let number = entry.message;
            return Err(format!(
                "letter {number} requeued after the queue was drained"
            ));
        }
        Ok(())
    }

    /// A unit's tag was changed: no message's chunk changes, unless it is handed over.
    pub fn tag_changed(&mut self, unit: u32, tags: Tags<'_>) -> Verdict {
        self.unsee_chunks(|other| other == unit);
        let owner = tags.at(unit).cell.filter(|_| tags.at(unit).is_head);
        if let Some(to) = owner
            && let Some(from) = self.position_of_chunk(unit, tags.words)
            && from != to
            // Only between two cells that one process writes the same message into.
            && self.cells[from].message == self.cells[to].message
            && seen(tags.words, from).owner == seen(tags.words, to).owner
        {
            self.cells[to].chunk = self.cells[from].chunk.take();
        }
        self.has_chunks(tags)
    }

    /// The cell whose message's chunk begins at this unit.
    fn position_of_chunk(&self, unit: u32, words: &[u64]) -> Option<usize> {
        let is_at = |cell: &CellEntry| cell.chunk.is_some_and(|chunk| u32::from(chunk.0) == unit);
        let mut cells = self.cells.iter().enumerate();
        let found = cells.find(|(index, cell)| is_at(cell) && self.is_used(*index, words));
        found.map(|(index, _)| index)
    }

    /// The chunks are one behind the other, and those of messages are theirs.
    fn has_chunks(&self, tags: Tags<'_>) -> Verdict {
        let beginnings = tags.beginnings()?;
        for unit in 0..tags.shape.units {
            if tags.at(unit).is_head && !beginnings.contains(&unit) {
                return Err(format!("unit {unit} has a head inside another chunk"));
            }
        }
        for (index, cell) in self.cells.iter().enumerate() {
            let Some((unit, units)) = cell.chunk.filter(|_| self.is_used(index, tags.words)) else {
                continue;
            };
            let tag = tags.at(unit.into());
            if !tag.is_head || tag.cell != Some(index) || tag.units != u32::from(units) {
                return Err(format!(
                    "the chunk at unit {unit} is not that of cell {index} any more"
                ));
            }
        }
        Ok(())
    }

    /// A message has memory now.
    pub fn allocated(&mut self, index: u32, chunk: u32, units: u32, tags: Tags<'_>) -> Verdict {
        self.cells[index as usize].chunk = Some((chunk as u8, units as u8));
        let next = chunk + units;
        if next < tags.shape.units && !tags.at(next).is_head {
            return Err(format!("no sender can take the chunk at unit {next}"));
        }
        self.has_chunks(tags)
    }

    fn unsee_chunks(&mut self, changed: impl Fn(u32) -> bool) {
        if self.seen_chunks == [0; ACTORS] {
            return;
        }
        let changed = (0..u8::BITS).filter(|unit| changed(*unit));
        let changed = changed.fold(0, |bits, unit| bits | 1 << unit);
        self.seen_chunks
            .iter_mut()
            .for_each(|seen| *seen &= !changed);
    }

    /// A sender begins to search for so many units.
    pub fn search_begins(&mut self, actor: usize, units: u32, tags: Tags<'_>) {
        let beginnings = tags.beginnings().unwrap_or_default();
        let free = beginnings
            .into_iter()
            .filter(|unit| tags.is_free(*unit, units));
        self.seen_chunks[actor] = free.fold(0, |bits, unit| bits | 1 << unit);
    }

    pub fn search_ends(&mut self, actor: usize, found: bool) -> Verdict {
        match std::mem::take(&mut self.seen_chunks[actor]) {
            seen if found || seen == 0 => Ok(()),
            seen => Err(format!("\"no memory\" while chunks stood free: {seen:b}")),
        }
    }

    fn is_used(&self, index: usize, words: &[u64]) -> bool {
        index < self.cell_count.into() && seen(words, index).kind != CellKind::Free
    }

    /// How many chunks have a message.
    pub fn chunks_in_use(&self, words: &[u64]) -> usize {
        let cells = self.cells.iter().enumerate();
        cells
            .filter(|(index, cell)| cell.chunk.is_some() && self.is_used(*index, words))
            .count()
    }

    /// What the judgement of a state whose actors are all dead hangs on, besides the words.
    pub fn hash_remains(&self, hasher: &mut impl Hasher) {
        for cell in &self.cells {
            hasher.write_u8(cell.message);
            hasher.write_u8(cell.occupancy);
            let (unit, units) = cell.chunk.unwrap_or_default();
            hasher.write_u8(unit);
            hasher.write_u8(units);
        }
        for message in &self.messages {
            let fates = [
                message.accepted,
                message.gone,
                message.maybe_there,
                message.maybe_gone,
            ];
            let bits = fates
                .iter()
                .fold(0, |bits, fate| bits << 1 | u8::from(*fate));
            hasher.write_u8(bits);
        }
    }

    // --- what operations return ------------------------------------------------------------------

    /// A message was put into a claimed cell.
    pub fn filled(&mut self, index: u32, number: u8, sender: usize) {
        let entry = &mut self.messages[usize::from(number)];
        if self.cells.iter().all(|cell| cell.message != number) {
            self.claims += 1;
            (entry.sender, entry.order) = (sender as u8, self.claims);
        }
        self.cells[index as usize].message = number;
    }

    pub fn accepted(&mut self, number: u8) -> Verdict {
        let entry = &mut self.messages[usize::from(number)];
        if std::mem::replace(&mut entry.accepted, true) {
            return Err(format!("message {number} accepted twice"));
        }
        Ok(())
    }

    /// A settlement of delivery `attempt` was accepted; `gone`: it was the end of the message.
    pub fn settled(&mut self, number: u8, attempt: u8, gone: bool) -> Verdict {
        let entry = &mut self.messages[usize::from(number)];
        let bit = 1 << attempt.min(15);
        if entry.settled & bit != 0 || entry.gone && gone {
            return Err(format!("attempt {attempt} of {number} settled twice"));
        }
        if entry.lost & bit != 0 {
            return Err(format!(
                "attempt {attempt} of {number} settled though its lease was lost"
            ));
        }
        entry.settled |= bit;
        entry.gone |= gone;
        Ok(())
    }

    pub fn extended(&mut self, number: u8, attempt: u8, to: u64) -> Verdict {
        let entry = &mut self.messages[usize::from(number)];
        if entry.lost & 1 << attempt.min(15) != 0 {
            return Err(format!(
                "attempt {attempt} of {number} extended after its end"
            ));
        }
        entry.safe_until = to;
        Ok(())
    }

    /// What `actor` changed, it has told everybody about.
    pub fn notified(&mut self, actor: usize) {
        let by = actor as u8 + 1;
        let changed = self.cells.iter_mut().filter(|cell| cell.changed_by == by);
        changed.for_each(|cell| cell.changed_by = 0);
    }

    /// Whatever changed by this seat's hand, everybody was told about.
    pub fn notified_for_seat(&mut self, seat: u8) {
        for actor in 0..ACTORS {
            if self.seats[actor] == seat && self.dead[usize::from(seat)] {
                self.notified(actor);
            }
        }
    }

    fn ready_for_all(&self, words: &[u64]) -> [(u8, u8); CELLS] {
        let mut ready = [(0, 0); CELLS];
        let cells = ready.iter_mut().enumerate();
        for (index, ready) in cells.take(self.cell_count.into()) {
            let state = seen(words, index);
            let cell = &self.cells[index];
            if state.kind == CellKind::Ready && cell.changed_by == 0 && cell.message != 0 {
                *ready = (cell.message, state.attempt + 1);
            }
        }
        ready
    }

    /// For each cell that is free as far as everybody was told: its occupancy so far, plus one.
    fn free_for_all(&self, words: &[u64]) -> [u8; CELLS] {
        let mut free = [0; CELLS];
        let cells = free.iter_mut().enumerate();
        for (index, free) in cells.take(self.cell_count.into()) {
            let cell = &self.cells[index];
            if seen(words, index).kind == CellKind::Free && cell.changed_by == 0 {
                *free = cell.occupancy + 1;
            }
        }
        free
    }

    pub fn take_begins(&mut self, actor: usize, words: &[u64]) {
        self.seen_ready[actor] = self.ready_for_all(words);
    }

    pub fn take_found(&mut self, actor: usize) {
        self.seen_ready[actor] = Default::default();
    }

    /// A receiver was told that there is nothing.
    pub fn take_found_nothing(&mut self, actor: usize, words: &[u64]) -> Verdict {
        let (before, now) = (self.seen_ready[actor], self.ready_for_all(words));
        self.seen_ready[actor] = Default::default();
        match before
            .iter()
            .zip(now)
            .find(|(one, other)| **one == *other && one.0 != 0)
        {
            Some(((number, attempt), _)) => Err(format!(
                "\"empty\" while message {number} stood ready, attempt {attempt} to come"
            )),
            None => Ok(()),
        }
    }

    /// A receiver was told that the closed queue is drained.
    pub fn told_drained(&mut self, words: &[u64]) -> Verdict {
        self.drained = true;
        match self.ready_for_all(words).iter().find(|one| one.0 != 0) {
            Some((number, _)) => Err(format!("drained, but message {number} is ready")),
            None => Ok(()),
        }
    }

    pub fn claim_begins(&mut self, actor: usize, words: &[u64]) {
        self.seen_free[actor] = self.free_for_all(words);
    }

    pub fn claim_found(&mut self, actor: usize) {
        self.seen_free[actor] = Default::default();
    }

    /// A sender was told that there is no room.
    pub fn claim_found_nothing(&mut self, actor: usize, words: &[u64]) -> Verdict {
        let (before, now) = (self.seen_free[actor], self.free_for_all(words));
        self.seen_free[actor] = Default::default();
        let stood_free = |(one, other): (&u8, u8)| *one == other && other != 0;
        match before.iter().zip(now).position(stood_free) {
            Some(index) => Err(format!("\"full\" while cell {index} stood free")),
            None => Ok(()),
        }
    }
}
