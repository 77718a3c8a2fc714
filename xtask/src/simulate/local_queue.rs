//! A host's queue in shared memory: cells that belong to somebody. It survives every process, and nothing survives the host.
//!
//! The ring's protocol is checked elsewhere, instruction by instruction; here is what it promises.

use std::collections::VecDeque;

use super::agenda::Time;
use super::event::{Message, Who};
use super::mutation::Break;
use super::plan::{CELLS, LOCAL_LEASE};

#[derive(Debug)]
pub struct LocalQueue {
    cells: Vec<Cell>,
    /// The last one that became free is used first: the harshest for whoever still thinks that it has it.
    free: Vec<u16>,
    ready: VecDeque<u16>,
    /// When leases end, in that order; some were settled since.
    ends: VecDeque<(Time, Lease)>,
    leases: u32,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    state: State,
    message: Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Writing(Who),
    Ready,
    Leased(Who, u32),
}

/// The right to settle a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    cell: u16,
    /// Tells it from all others, also of the same cell.
    number: u32,
}

impl LocalQueue {
    pub fn new() -> Self {
        let free = Cell {
            state: State::Free,
            message: 0,
        };
        Self {
            cells: vec![free; CELLS.into()],
            free: (0..CELLS).rev().collect(),
            ready: VecDeque::new(),
            ends: VecDeque::new(),
            leases: 0,
        }
    }

    /// A place to write into; `None` if the queue is full.
    pub fn claim(&mut self, who: Who) -> Option<u16> {
        let cell = self.free.pop()?;
        self.cells[usize::from(cell)].state = State::Writing(who);
        Some(cell)
    }

    pub fn publish(&mut self, cell: u16, message: Message) {
        self.cells[usize::from(cell)] = Cell {
            state: State::Ready,
            message,
        };
        self.ready.push_back(cell);
    }

    pub fn receive(&mut self, who: Who, now: Time) -> Option<(Lease, Message)> {
        let cell = self.ready.pop_front()?;
        self.leases += 1;
        let lease = Lease {
            cell,
            number: self.leases,
        };
        let place = &mut self.cells[usize::from(cell)];
        place.state = State::Leased(who, lease.number);
        self.ends.push_back((now + LOCAL_LEASE, lease));
        Some((lease, place.message))
    }

    /// Whether the lease was still good.
    pub fn ack(&mut self, lease: Lease, broken: Option<Break>) -> bool {
        let state = self.cells[usize::from(lease.cell)].state;
        let is_held = matches!(state, State::Leased(_, number) if number == lease.number);
        if !is_held && (broken != Some(Break::StaleLocalAck) || state == State::Free) {
            return false;
        }
        if state == State::Ready {
            self.ready.retain(|cell| *cell != lease.cell);
        }
        self.release(lease.cell);
        true
    }

    /// Makes messages ready again whose lease is over.
    pub fn expire(&mut self, now: Time) {
        while let Some((end, lease)) = self.ends.front().copied() {
            if end > now {
                break;
            }
            self.ends.pop_front();
            let state = &mut self.cells[usize::from(lease.cell)].state;
            if matches!(state, State::Leased(_, number) if *number == lease.number) {
                *state = State::Ready;
                self.ready.push_back(lease.cell);
            }
        }
    }

    /// Frees what a dead process was writing, and makes ready what it held.
    pub fn recover(&mut self, dead: Who) {
        for cell in 0..CELLS {
            let state = &mut self.cells[usize::from(cell)].state;
            match *state {
                State::Writing(who) if who == dead => self.release(cell),
                State::Leased(who, _) if who == dead => {
                    *state = State::Ready;
                    self.ready.push_back(cell);
                }
                _ => {}
            }
        }
    }

    fn release(&mut self, cell: u16) {
        self.cells[usize::from(cell)].state = State::Free;
        self.free.push(cell);
    }

    /// The messages in it.
    pub fn messages(&self) -> impl Iterator<Item = Message> {
        let holds = |cell: &&Cell| matches!(cell.state, State::Ready | State::Leased(..));
        self.cells.iter().filter(holds).map(|cell| cell.message)
    }

    pub fn is_empty(&self) -> bool {
        self.free.len() == usize::from(CELLS)
    }
}
