//! Walking through the ring in FIFO order: where, and what to do with the cell there.

use crate::shm::word::{CellKind, Position};

/// A walk from one place where something begins to the next.
#[derive(Debug)]
pub struct Walk {
    pub at: Position,
    /// A place where something certainly begins. See [`Ring::begins`](super::Ring::begins).
    pub trusted: Position,
    /// The number of cells that were passed since the walk began, or began again.
    pub steps: u32,
    is_mended: bool,
}

impl Walk {
    pub fn new(at: Position, trusted: Position) -> Self {
        Self {
            at,
            trusted,
            steps: 0,
            is_mended: false,
        }
    }

    /// Advances past something of this length.
    pub fn pass(&mut self, len: u32, cells: u32) {
        self.at = self.at.after(len, cells);
        self.trusted = self.at;
        self.steps += len;
    }

    /// Begins again at a place where something begins.
    pub fn go_back_to(&mut self, at: Position) {
        (self.at, self.trusted, self.steps) = (at, at, 0);
    }

    /// Begins again at the position that the cells show, after a hint turned out to be wrong.
    /// `false`: this was done before, so the cells contradict each other.
    pub fn mend(&mut self, refind: impl FnOnce() -> Position) -> bool {
        if self.is_mended {
            return false;
        }
        self.is_mended = true;
        self.go_back_to(refind());
        true
    }
}

/// What a receiver does with the cell at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForReceiver {
    /// The message is ready: take it.
    Take,
    /// A sender is writing: wait for it, or step over it.
    Unwritten,
    /// No sender has claimed the cell: there is no message in FIFO order.
    NothingYet,
    /// Its position is used up.
    Pass,
    /// The position is wrong.
    Contradiction,
}

impl ForReceiver {
    /// `ahead` is the number of laps by which the cell is ahead of the position.
    pub fn of(ahead: i64, kind: CellKind) -> Self {
        match (ahead, kind) {
            (0, CellKind::Ready) => Self::Take,
            (0, CellKind::Writing) => Self::Unwritten,
            (0, _) => Self::NothingYet,
            (1.., _) => Self::Pass,
            _ => Self::Contradiction,
        }
    }
}

/// What a sender does with the cell at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForSender {
    /// The cell is free: claim it.
    Claim,
    /// Another sender used this position.
    Pass,
    /// A message of an earlier position is still in the cell, and receivers are past it. If there
    /// is room behind it, the cell is moved on to its next lap.
    Occupied,
    /// Receivers have not come here for a whole lap: the ring is full.
    Full,
    /// The position is wrong.
    Contradiction,
}

impl ForSender {
    /// `ahead` is the number of laps by which the cell is ahead of the position.
    pub fn of(ahead: i64, kind: CellKind) -> Self {
        match (ahead, kind) {
            (0, CellKind::Free) => Self::Claim,
            (0, CellKind::Writing | CellKind::Ready) | (1.., _) => Self::Pass,
            (0, _) => Self::Occupied,
            (-1, CellKind::Writing | CellKind::Ready) => Self::Full,
            _ => Self::Contradiction,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CellKind::{Dead, Delayed, Free, Leased, Quarantined, Ready, Writing};

    const KINDS: [CellKind; 7] = [Free, Writing, Ready, Leased, Delayed, Dead, Quarantined];

    #[test]
    fn a_receiver_waits_for_its_own_lap_and_passes_later_ones() {
        use ForReceiver::{Contradiction, NothingYet, Pass, Take, Unwritten};
        let table = [
            (-2, [Contradiction; 7]),
            (-1, [Contradiction; 7]),
            (
                0,
                [
                    NothingYet, Unwritten, Take, NothingYet, NothingYet, NothingYet, NothingYet,
                ],
            ),
            (1, [Pass; 7]),
            (2, [Pass; 7]),
        ];
        for (ahead, wanted) in table {
            assert_eq!(KINDS.map(|kind| ForReceiver::of(ahead, kind)), wanted);
        }
    }

    #[test]
    fn a_sender_claims_what_is_free_in_its_lap_and_is_full_a_lap_before() {
        use ForSender::{Claim, Contradiction, Full, Occupied, Pass};
        let behind = [
            Contradiction,
            Full,
            Full,
            Contradiction,
            Contradiction,
            Contradiction,
            Contradiction,
        ];
        let table = [
            (-2, [Contradiction; 7]),
            (-1, behind),
            (
                0,
                [Claim, Pass, Pass, Occupied, Occupied, Occupied, Occupied],
            ),
            (1, [Pass; 7]),
            (2, [Pass; 7]),
        ];
        for (ahead, wanted) in table {
            assert_eq!(KINDS.map(|kind| ForSender::of(ahead, kind)), wanted);
        }
    }
}
