//! What one process is at, and its steps.

use super::World;
use super::automaton::{CELLS, Kind, Word};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sends so many messages.
    Send(u8),
    /// Receives until nothing is left.
    Receive,
}

/// Where a process stands between two changes of shared words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Idle,
    /// It may write this cell, claimed in turn or not.
    Writing {
        index: u8,
        lap: u8,
        strayed: bool,
    },
    /// Receivers went past cell `old`: it may write `new` instead.
    Moving {
        old: u8,
        new: u8,
        lap: u8,
        strayed: bool,
    },
    /// The message is where it belongs; its old place is to be given back.
    GivingBack {
        old: u8,
    },
    /// A message or a cell was made available out of turn; the hint is to be raised.
    Hinting {
        accepts: bool,
    },
    /// It may read this cell.
    Reading {
        index: u8,
        attempt: u8,
    },
}

/// A place in the endless sequence of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Position {
    lap: u8,
    index: u8,
}

impl Position {
    fn next(self) -> Self {
        let index = (self.index + 1) % CELLS as u8;
        Self {
            lap: self.lap + u8::from(index == 0),
            index,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub alive: bool,
    /// Dead, and everybody was told.
    pub buried: bool,
    /// It looks everywhere before it says "empty" or "full".
    pub doubts: bool,
    role: Role,
    at: At,
    /// Where it looks next.
    cursor: Position,
    /// Where it claimed last.
    last: Option<Position>,
    /// The number of its next message, and of its last one plus one.
    message: u8,
    end: u8,
}

impl Process {
    /// Messages are numbered through from process to process.
    pub fn new(role: Role, sent_before: &mut u8) -> Self {
        let count = match role {
            Role::Send(count) => count,
            Role::Receive => 0,
        };
        let message = *sent_before + 1;
        *sent_before += count;
        Self {
            alive: true,
            buried: false,
            doubts: false,
            role,
            at: At::Idle,
            cursor: Position::default(),
            last: None,
            message,
            end: message + count,
        }
    }

    pub fn receives(&self) -> bool {
        self.role == Role::Receive
    }

    /// The cell that it may read, its lease lost or not.
    pub fn reads(&self) -> Option<u8> {
        match self.at {
            At::Reading { index, .. } => Some(index),
            _ => None,
        }
    }

    pub fn writes(&self) -> bool {
        matches!(self.at, At::Writing { .. })
    }

    pub fn can_go(&self) -> bool {
        self.at != At::Idle || self.receives() || self.message < self.end
    }

    /// The first lap from `lap` on at which cell `index` comes after what was claimed before.
    fn lap_in_order(&self, index: u8, lap: u8) -> u8 {
        match self.last {
            Some(last) if last >= (Position { lap, index }) => {
                last.lap + u8::from(index <= last.index)
            }
            _ => lap,
        }
    }
}

impl World {
    /// One step of process `me`.
    pub fn go(&mut self, me: u8) {
        let Process { at, role, .. } = *self.process(me);
        match at {
            At::Idle if role == Role::Receive => self.receive(me),
            At::Idle => {
                if let Some((index, lap, strayed)) = self.claim(me) {
                    self.process(me).at = At::Writing {
                        index,
                        lap,
                        strayed,
                    };
                }
            }
            At::Writing {
                index,
                lap,
                strayed,
            } => self.publish(me, index, lap, strayed),
            At::Moving {
                old,
                new,
                lap,
                strayed,
            } => self.publish_elsewhere(me, old, new, lap, strayed),
            At::GivingBack { old } => self.give_up(me, old),
            At::Hinting { accepts } => {
                self.doubt();
                if accepts {
                    self.accepted(me);
                }
                self.process(me).at = At::Idle;
            }
            At::Reading { index, attempt } => {
                self.settle(me, index, attempt, |word| (word.finished(), true))
            }
        }
    }

    /// A receiver gives back what it reads.
    pub fn give_back(&mut self, me: u8, kind: Kind) {
        if let At::Reading { index, attempt } = self.process(me).at {
            self.settle(me, index, attempt, |word| (word.given_back_as(kind), false));
        }
    }

    fn process(&mut self, me: u8) -> &mut Process {
        &mut self.processes[usize::from(me)]
    }

    fn accepted(&mut self, me: u8) {
        let message = self.process(me).message;
        self.ledger.accept(message);
        self.process(me).message += 1;
    }

    // --- sending ---

    /// Claims a cell in turn, or any that is free when in doubt.
    fn claim(&mut self, me: u8) -> Option<(u8, u8, bool)> {
        let mut at = self.process(me).cursor;
        let mut busy = None;
        for _ in 0..=2 * CELLS {
            let word = self.cells[usize::from(at.index)];
            match (word.lap.cmp(&at.lap), word.kind) {
                (std::cmp::Ordering::Equal, Kind::Free) => {
                    // What is in the way is moved on only when there is something to claim behind it.
                    if let Some(first) = busy.take() {
                        self.step_over(first, at);
                    }
                    self.process(me).cursor = at.next();
                    return Some(self.claim_cell(me, at.index, at.lap));
                }
                (std::cmp::Ordering::Equal, Kind::Writing | Kind::Ready)
                | (std::cmp::Ordering::Greater, _) => {}
                (std::cmp::Ordering::Equal, _) => busy = busy.or(Some(at)),
                (std::cmp::Ordering::Less, _) => break,
            }
            at = at.next();
        }
        self.process(me).cursor = busy.unwrap_or(at);
        if !std::mem::take(&mut self.process(me).doubts) {
            return None;
        }
        let index = (0u8..)
            .zip(&self.cells)
            .find(|(_, word)| word.kind == Kind::Free)?
            .0;
        self.process(me).doubts = true;
        let lap = self.cells[usize::from(index)].lap;
        let (index, lap, _) = self.claim_cell(me, index, lap);
        Some((index, lap, true))
    }

    fn claim_cell(&mut self, me: u8, index: u8, free: u8) -> (u8, u8, bool) {
        let lap = self.process(me).lap_in_order(index, free);
        self.process(me).last = Some(Position { lap, index });
        let message = self.process(me).message;
        self.set(
            index,
            Word {
                kind: Kind::Writing,
                owner: Some(me),
                lap,
                ..Word::default()
            },
        );
        self.messages[usize::from(index)] = message;
        (index, lap, lap != free)
    }

    /// A sender moves on what it can't wait for.
    fn step_over(&mut self, from: Position, to: Position) {
        let mut at = from;
        while at != to {
            let word = self.cells[usize::from(at.index)];
            let waits = matches!(
                word.kind,
                Kind::Leased | Kind::Delayed | Kind::Dead | Kind::Quarantined
            );
            if word.lap == at.lap && waits {
                self.set(at.index, word.moved_on());
            }
            at = at.next();
        }
    }

    fn publish(&mut self, me: u8, index: u8, lap: u8, strayed: bool) {
        let word = self.cells[usize::from(index)];
        if word.lap == lap {
            self.set(index, word.released_as(Kind::Ready));
            return self.published(me, strayed);
        }
        // Receivers went past: to the end with it, or here if there is no room.
        match self.claim(me) {
            Some((new, lap, strayed)) => {
                self.process(me).at = At::Moving {
                    old: index,
                    new,
                    lap,
                    strayed,
                }
            }
            None => {
                self.set(index, word.released_as(Kind::Ready));
                self.published(me, true);
            }
        }
    }

    /// Whatever lap it is at: no order is promised. Its position is used up.
    pub fn put_off(&mut self, me: u8) {
        let At::Writing { index, .. } = self.process(me).at else {
            return;
        };
        let word = self.cells[usize::from(index)];
        self.set(index, word.released_as(Kind::Delayed).moved_on());
        self.published(me, false);
    }

    fn publish_elsewhere(&mut self, me: u8, old: u8, new: u8, lap: u8, strayed: bool) {
        let word = self.cells[usize::from(new)];
        // Stepped over once more: then it stays where it is.
        let strayed = strayed || word.lap != lap;
        self.set(new, word.released_as(Kind::Ready));
        if strayed {
            self.doubt();
        }
        self.process(me).at = At::GivingBack { old };
    }

    fn published(&mut self, me: u8, strayed: bool) {
        if strayed {
            self.process(me).at = At::Hinting { accepts: true };
        } else {
            self.accepted(me);
            self.process(me).at = At::Idle;
        }
    }

    fn give_up(&mut self, me: u8, old: u8) {
        let word = self.cells[usize::from(old)];
        self.set(old, Word::free(word.lap + 1));
        self.process(me).at = At::Hinting { accepts: true };
    }

    // --- receiving ---

    /// Takes the message whose turn it is, steps over a sender, or takes any message when in doubt.
    fn receive(&mut self, me: u8) {
        let mut at = self.process(me).cursor;
        loop {
            let word = self.cells[usize::from(at.index)];
            match (word.lap.cmp(&at.lap), word.kind) {
                (std::cmp::Ordering::Equal, Kind::Ready) => {
                    self.process(me).cursor = at.next();
                    return self.take(me, at.index);
                }
                (std::cmp::Ordering::Equal, Kind::Writing) if self.is_ready_behind(at) => {
                    // The step over is a step of its own.
                    self.process(me).cursor = at.next();
                    return self.set(at.index, word.moved_on());
                }
                (std::cmp::Ordering::Greater, _) => at = at.next(),
                _ => break,
            }
        }
        self.process(me).cursor = at;
        if !std::mem::take(&mut self.process(me).doubts) {
            return;
        }
        let ready = (0u8..)
            .zip(&self.cells)
            .find(|(_, word)| word.kind == Kind::Ready);
        if let Some((index, _)) = ready {
            // Forgotten only after a whole scan that found nothing.
            self.process(me).doubts = true;
            self.take(me, index);
        }
    }

    /// Whether a message behind `at` would have to wait for it.
    fn is_ready_behind(&self, at: Position) -> bool {
        let mut next = at.next();
        while next.index != at.index {
            let word = self.cells[usize::from(next.index)];
            match (word.lap.cmp(&next.lap), word.kind) {
                (std::cmp::Ordering::Equal, Kind::Ready) => return true,
                (std::cmp::Ordering::Equal, Kind::Writing) | (std::cmp::Ordering::Greater, _) => {}
                _ => return false,
            }
            next = next.next();
        }
        false
    }

    fn take(&mut self, me: u8, index: u8) {
        let word = self.cells[usize::from(index)];
        let attempt = word.attempt + 1;
        self.set(
            index,
            Word {
                kind: Kind::Leased,
                attempt,
                owner: Some(me),
                zombie: word.zombie,
                lap: word.lap + 1,
            },
        );
        self.process(me).at = At::Reading { index, attempt };
    }

    /// Settles as `how` says, unless the lease was lost.
    fn settle(&mut self, me: u8, index: u8, attempt: u8, how: impl Fn(Word) -> (Word, bool)) {
        let word = self.cells[usize::from(index)];
        let ours = word.kind == Kind::Leased && word.owner == Some(me) && word.attempt == attempt;
        let next = if ours {
            let (next, acked) = how(word);
            let message = self.messages[usize::from(index)];
            self.ledger.settle(message, attempt, acked);
            Some(next)
        } else {
            word.let_go_by(me)
        };
        self.process(me).at = At::Idle;
        if let Some(next) = next {
            self.set(index, next);
            if matches!(next.kind, Kind::Free | Kind::Ready) {
                self.process(me).at = At::Hinting { accepts: false };
            }
        }
    }
}
