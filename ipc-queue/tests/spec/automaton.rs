//! What a cell can be, and the changes that anybody can make.

use super::World;

pub const CELLS: usize = 3;
/// A message is delivered so often.
pub const ATTEMPTS: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    #[default]
    Free,
    Writing,
    Ready,
    Leased,
    Delayed,
    Dead,
    Quarantined,
}

/// A cell's state word. Zeroed, it is a free cell of the first lap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Word {
    pub kind: Kind,
    pub attempt: u8,
    /// In a dead letter or a quarantined cell: a second zombie.
    pub owner: Option<u8>,
    pub zombie: Option<u8>,
    pub lap: u8,
}

impl Word {
    pub fn free(lap: u8) -> Self {
        Self {
            lap,
            ..Self::default()
        }
    }

    pub fn moved_on(self) -> Self {
        Self {
            lap: self.lap + 1,
            ..self
        }
    }

    /// Another kind, and nobody's.
    pub fn released_as(self, kind: Kind) -> Self {
        Self {
            kind,
            owner: None,
            ..self
        }
    }

    /// Given back, if attempts are left.
    pub fn given_back_as(self, kind: Kind) -> Self {
        self.released_as(if self.attempt < ATTEMPTS {
            kind
        } else {
            Kind::Dead
        })
    }

    /// Acked.
    pub fn finished(self) -> Self {
        match self.zombie {
            None => Self::free(self.lap),
            Some(_) => self.released_as(Kind::Quarantined),
        }
    }

    /// Without one of `who`'s zombie marks.
    pub fn let_go_by(self, who: u8) -> Option<Self> {
        let mut left = self;
        let retired = matches!(self.kind, Kind::Dead | Kind::Quarantined);
        if self.zombie == Some(who) {
            left.zombie = None;
        } else if retired && self.owner == Some(who) {
            left.owner = None;
        } else {
            return None;
        }
        if left.kind == Kind::Quarantined && left.zombie.is_none() && left.owner.is_none() {
            left = Self::free(left.lap);
        }
        Some(left)
    }
}

impl World {
    /// A dead process that the cell names.
    pub fn dead_in(&self, word: Word) -> Option<u8> {
        let dead = |who: &u8| !self.processes[usize::from(*who)].alive;
        word.owner.filter(dead).or(word.zombie.filter(dead))
    }

    /// What anybody does about one cell of a dead process.
    pub fn recover(&mut self, index: u8) {
        let word = self.cells[usize::from(index)];
        let Some(who) = self.dead_in(word) else {
            return;
        };
        let next = match word.kind {
            Kind::Writing => Word::free(word.lap + 1),
            Kind::Leased if word.owner == Some(who) => word.given_back_as(Kind::Ready),
            _ => word.let_go_by(who).unwrap_or(word),
        };
        self.set(index, next);
    }

    /// Whether somebody died whose cells were all seen to, and the others were not told.
    pub fn must_wake(&self) -> bool {
        self.processes
            .iter()
            .any(|process| !process.alive && !process.buried)
            && self.cells.iter().all(|word| self.dead_in(*word).is_none())
    }

    /// After a recovery everybody looks everywhere.
    pub fn wake(&mut self) {
        for process in &mut self.processes {
            process.buried |= !process.alive;
        }
        self.doubt();
    }

    /// A lease ends; the second time, the message is poison.
    pub fn expire(&mut self, index: u8) {
        let word = self.cells[usize::from(index)];
        let next = match word.zombie {
            None => Word {
                zombie: word.owner,
                ..word.given_back_as(Kind::Ready)
            },
            Some(_) => Word {
                kind: Kind::Dead,
                ..word
            },
        };
        self.set(index, next);
        self.doubt();
    }

    /// A delay ends.
    pub fn fall_due(&mut self, index: u8) {
        let word = self.cells[usize::from(index)];
        self.set(index, word.released_as(Kind::Ready));
        self.doubt();
    }

    /// A message that waits is dropped. One that could be taken leaves its position used up.
    pub fn drop_waiting(&mut self, index: u8) {
        let word = self.cells[usize::from(index)];
        let left = match word.kind {
            Kind::Ready => word.moved_on().finished(),
            _ => word.finished(),
        };
        self.ledger.forget(self.messages[usize::from(index)]);
        self.set(index, left);
        self.doubt();
    }

    /// The one place where a word changes.
    pub fn set(&mut self, index: u8, next: Word) {
        self.cells[usize::from(index)] = next;
        if matches!(next.kind, Kind::Free | Kind::Quarantined) {
            self.messages[usize::from(index)] = 0;
        }
    }

    /// Raises the hints: nobody says "empty" or "full" before it looked everywhere.
    pub fn doubt(&mut self) {
        for process in &mut self.processes {
            process.doubts = true;
        }
    }

    /// A cell that is being written by a live process is read by no other live one.
    pub fn nobody_writes_what_is_read(&self) -> bool {
        let cells = (0u8..).zip(&self.cells);
        let written = cells.filter(|(_, word)| word.kind == Kind::Writing);
        written.into_iter().all(|(index, word)| {
            let readers = self.processes.iter().filter(|process| process.alive);
            let mut cells = readers.filter_map(|process| process.reads());
            let live = word
                .owner
                .is_some_and(|who| self.processes[usize::from(who)].alive);
            !live || cells.all(|read| read != index)
        })
    }

    /// Nothing is left to do, or nobody to do it.
    pub fn is_at_rest(&self) -> bool {
        let receivers = self.processes.iter().filter(|process| process.receives());
        let nobody = receivers.into_iter().all(|process| !process.alive);
        let settled = |word: &Word| match word.kind {
            Kind::Free | Kind::Dead => word.owner.is_none() && word.zombie.is_none(),
            Kind::Ready | Kind::Writing => nobody && word.owner.is_none(),
            _ => false,
        };
        self.cells.iter().all(settled)
    }
}
