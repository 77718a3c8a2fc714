//! What was promised about each message.

use super::automaton::{CELLS, Kind, Word};

/// Messages are numbered from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// A bit for each message whose send returned.
    accepted: u8,
    /// A bit for each message that was acked, or dropped because nobody wanted it.
    acked: u8,
    /// A bit for each message and attempt that was settled.
    settled: u16,
    /// Some delivery was settled twice, or some message acked twice.
    pub settled_twice: bool,
}

impl Ledger {
    pub fn accept(&mut self, message: u8) {
        self.accepted |= 1 << message;
    }

    /// A settlement was accepted.
    pub fn settle(&mut self, message: u8, attempt: u8, acked: bool) {
        let delivery = 1 << (message * 2 + attempt - 1);
        self.settled_twice |= self.settled & delivery != 0;
        self.settled |= delivery;
        if acked {
            self.settled_twice |= self.acked & (1 << message) != 0;
            self.acked |= 1 << message;
        }
    }

    /// A message was dropped. It counts as accepted, though its sender may not know it yet.
    pub fn forget(&mut self, message: u8) {
        self.settled_twice |= self.acked & (1 << message) != 0;
        self.acked |= 1 << message;
    }

    /// Each accepted message that was not acked is in exactly one cell; no acked one is in any.
    pub fn all_in_place(&self, cells: &[Word; CELLS], messages: &[u8; CELLS]) -> bool {
        (1..8u8).all(|message| {
            let held = cells.iter().zip(messages);
            let places = held.filter(|(word, held)| {
                **held == message
                    && !matches!(word.kind, Kind::Free | Kind::Writing | Kind::Quarantined)
            });
            match (places.count(), self.accepted & (1 << message) != 0) {
                (0, accepted) => !accepted || self.acked & (1 << message) != 0,
                (1, _) => self.acked & (1 << message) == 0,
                _ => false,
            }
        })
    }
}
