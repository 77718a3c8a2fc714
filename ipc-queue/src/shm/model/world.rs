//! Shared memory in which every access is a place where somebody else may go on, or die.
//!
//! An operation of the ring is run again and again, each time one shared access further: accesses
//! that it made before are answered from its log, the next one is made for real, and the one after
//! that ends the run by unwinding. So a state of the model is plain data (words, logs, what each
//! actor holds), can be copied and compared, and the code between two accesses is the ring's own.
//!
//! Accesses take effect one after the other, in the order in which they are made: weaker orders are
//! `weak`'s.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::ledger::{Ledger, Tags, Verdict};
use crate::shm::memory::{CELL_WORDS, Memory, RingWord, Word};
use crate::shm::tag::TagFields;
use crate::shm::word::{Position, State};

/// Ends the run of an operation that reached its next shared access.
pub struct Suspended;

/// Ends the run of an operation that broke a promise.
pub struct Broken(pub String);

/// How many of each word there are.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub cells: u32,
    /// How many units of memory for chunks, and of each chunk at first.
    pub units: u32,
    pub block_units: u32,
    pub seats: u32,
    /// Which words of a cell's header are places to stop at: bit 0 is its state.
    pub stops: u8,
    /// Whether the hints of where to look are, too.
    pub hints_stop: bool,
}

/// What a word is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Cell { index: u32, word: usize },
    Ring(usize),
    Unit(u32),
    Seat(u32),
    Closed,
}

impl Shape {
    pub fn words(self) -> usize {
        self.at(Place::Closed) + 1
    }

    pub fn at(self, place: Place) -> usize {
        let cells = self.cells as usize * CELL_WORDS;
        let chunks = cells + RingWord::COUNT;
        let seats = chunks + self.units as usize;
        match place {
            Place::Cell { index, word } => index as usize * CELL_WORDS + word,
            Place::Ring(word) => cells + word,
            Place::Unit(index) => chunks + index as usize,
            Place::Seat(index) => seats + index as usize,
            Place::Closed => seats + self.seats as usize,
        }
    }

    fn place(self, at: usize) -> Place {
        let cells = self.cells as usize * CELL_WORDS;
        let chunks = cells + RingWord::COUNT;
        let seats = chunks + self.units as usize;
        match at {
            _ if at < cells => Place::Cell {
                index: (at / CELL_WORDS) as u32,
                word: at % CELL_WORDS,
            },
            _ if at < chunks => Place::Ring(at - cells),
            _ if at < seats => Place::Unit((at - chunks) as u32),
            _ if at < seats + self.seats as usize => Place::Seat((at - seats) as u32),
            _ => Place::Closed,
        }
    }
}

/// The words, and the run that is being made on them.
pub struct World {
    pub shape: Shape,
    pub words: RefCell<Vec<u64>>,
    pub ledger: RefCell<Ledger>,
    /// What the operation's accesses so far returned.
    pub log: RefCell<Vec<u64>>,
    replayed: Cell<usize>,
    /// Whether the run is past its log: what it does now happens for the first time.
    live: Cell<bool>,
    /// Whether this run made its one access.
    moved: Cell<bool>,
    /// Runs whole operations at once, if not.
    pub stepping: Cell<bool>,
    /// Whether the ledger watches.
    pub watched: Cell<bool>,
    pub actor: Cell<usize>,
    pub trace: RefCell<Option<String>>,
}

/// A log longer than this means that an operation does not come to an end.
const LONGEST: usize = 400;

#[derive(Clone, Copy)]
enum Access {
    Load,
    Store(u64),
    Swap { current: u64, new: u64 },
    Add(u64),
}

impl World {
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            words: RefCell::new(vec![0; shape.words()]),
            ledger: RefCell::new(Ledger::default()),
            log: RefCell::default(),
            replayed: Cell::new(0),
            live: Cell::new(true),
            moved: Cell::new(false),
            stepping: Cell::new(false),
            watched: Cell::new(true),
            actor: Cell::new(0),
            trace: RefCell::new(None),
        }
    }

    /// Gets ready to run `actor`'s operation one access further.
    pub fn rewind(&self, actor: usize) {
        self.actor.set(actor);
        self.replayed.set(0);
        self.moved.set(false);
        self.live.set(self.log.borrow().is_empty());
    }

    /// Does something to the ledger, once, when it happens for the first time.
    pub fn live(&self, change: impl FnOnce(&mut Ledger, &[u64]) -> Verdict) {
        if self.live.get() && self.watched.get() {
            obey(change(&mut self.ledger.borrow_mut(), &self.words.borrow()));
        }
    }

    fn access(&self, at: usize, access: Access) -> u64 {
        if self.stepping.get() {
            let replayed = self.replayed.get();
            if let Some(value) = self.log.borrow().get(replayed) {
                self.replayed.set(replayed + 1);
                return *value;
            }
            let stops = match self.shape.place(at) {
                Place::Cell { word, .. } => self.shape.stops >> word & 1 != 0,
                Place::Ring(word) if word <= RingWord::Tail as usize => self.shape.hints_stop,
                _ => true,
            };
            if stops && self.moved.replace(true) {
                resume_unwind(Box::new(Suspended));
            }
            if replayed > LONGEST {
                let message = "an operation does not come to an end".to_owned();
                resume_unwind(Box::new(Broken(message)));
            }
        }
        self.live.set(true);
        let (value, verdict) = self.perform(at, access);
        obey(verdict);
        if self.stepping.get() {
            self.log.borrow_mut().push(value);
            self.replayed.set(self.replayed.get() + 1);
        }
        value
    }

    fn perform(&self, at: usize, access: Access) -> (u64, Verdict) {
        let mut words = self.words.borrow_mut();
        let value = words[at];
        let now = match access {
            Access::Load => value,
            Access::Store(new) => new,
            Access::Swap { current, new } if current == value => new,
            Access::Swap { .. } => value,
            Access::Add(more) => value.wrapping_add(more),
        };
        words[at] = now;
        let place = self.shape.place(at);
        if let Some(trace) = &mut *self.trace.borrow_mut() {
            let _ = write!(trace, "    {} ", name(place));
            let _ = match access {
                Access::Load => writeln!(trace, "is {}", show(self.shape, place, value)),
                Access::Swap { current, .. } if current != value => {
                    writeln!(
                        trace,
                        "is {}, not {}: swap fails",
                        show(self.shape, place, value),
                        show(self.shape, place, current)
                    )
                }
                _ => writeln!(
                    trace,
                    "{} => {}",
                    show(self.shape, place, value),
                    show(self.shape, place, now)
                ),
            };
        }
        if !self.watched.get() || now == value {
            return (value, Ok(()));
        }
        let mut ledger = self.ledger.borrow_mut();
        let actor = self.actor.get();
        let tags = Tags {
            shape: self.shape,
            words: &words,
        };
        let verdict = match place {
            Place::Cell { index, word: 0 } => {
                let (was, is) = (State::from_word(value), State::from_word(now));
                ledger.cell_changed(actor, index as usize, was, is, tags)
            }
            Place::Cell { index, word: 6 } => {
                ledger.time_changed(actor, index as usize, value, now, &words)
            }
            Place::Unit(index) => ledger.tag_changed(index, tags),
            _ => Ok(()),
        };
        (value, verdict)
    }
}

/// Ends the run if a promise was broken.
pub fn obey(verdict: Verdict) {
    if let Err(broken) = verdict {
        resume_unwind(Box::new(Broken(broken)));
    }
}

fn name(place: Place) -> String {
    const HEADER: [&str; CELL_WORDS] = [
        "", "body", "claim", "sender", "sequence", "sent_at", "due", "tally",
    ];
    const RING: [&str; RingWord::COUNT] = ["head", "tail", "stray", "spare"];
    match place {
        Place::Cell { index, word } => format!("cell {index} {}", HEADER[word]),
        Place::Ring(word) => RING[word].to_owned(),
        Place::Unit(index) => format!("unit {index}"),
        Place::Seat(index) => format!("seat {index}"),
        Place::Closed => "closed".to_owned(),
    }
}

fn show(shape: Shape, place: Place, word: u64) -> String {
    match place {
        Place::Cell { word: 0, .. } => {
            let state = State::from_word(word);
            let seat = |seat: Option<crate::shm::word::Seat>| {
                seat.map_or(String::new(), |seat| seat.slot().to_string())
            };
            format!(
                "{:?} x{} ({}) attempt {} zombie({}) lap {}",
                state.kind,
                state.len(),
                seat(state.owner),
                state.attempt,
                seat(state.zombie),
                state.lap.number()
            )
        }
        Place::Ring(0 | 1) => {
            let position = Position::from_word(word, u32::MAX);
            format!("lap {} cell {}", position.lap().number(), position.index())
        }
        Place::Unit(_) if word != 0 => TagFields::new(shape.units, shape.cells).to_text(word),
        Place::Seat(_) => format!("epoch {} presence {}", word >> 2, word & 3),
        _ => format!("{word:#x}"),
    }
}

/// One word of a [`World`].
pub struct ModelWord {
    world: Rc<World>,
    at: usize,
}

impl Word for ModelWord {
    fn load(&self, _: Ordering) -> u64 {
        self.world.access(self.at, Access::Load)
    }

    fn store(&self, value: u64, _: Ordering) {
        self.world.access(self.at, Access::Store(value));
    }

    fn swap_if(&self, current: u64, new: u64, _: Ordering) -> Result<(), u64> {
        match self.world.access(self.at, Access::Swap { current, new }) {
            found if found == current => Ok(()),
            found => Err(found),
        }
    }

    fn add(&self, value: u64, _: Ordering) {
        self.world.access(self.at, Access::Add(value));
    }
}

/// The ring's memory in a [`World`].
pub struct ModelMemory {
    pub world: Rc<World>,
    cells: Vec<[ModelWord; CELL_WORDS]>,
    others: Vec<ModelWord>,
}

impl ModelMemory {
    pub fn new(shape: Shape) -> Self {
        let world = Rc::new(World::new(shape));
        let word = |at| ModelWord {
            world: Rc::clone(&world),
            at,
        };
        let cells = (0..shape.cells)
            .map(|index| {
                std::array::from_fn(|of_cell| {
                    let place = Place::Cell {
                        index,
                        word: of_cell,
                    };
                    word(shape.at(place))
                })
            })
            .collect();
        let others = (shape.at(Place::Ring(0))..shape.words())
            .map(word)
            .collect();
        Self {
            world,
            cells,
            others,
        }
    }

    /// A word that is not in a cell.
    pub fn word(&self, place: Place) -> &ModelWord {
        let shape = self.world.shape;
        &self.others[shape.at(place) - shape.at(Place::Ring(0))]
    }
}

impl Memory for ModelMemory {
    type Word = ModelWord;

    /// The explorer makes every length of wait by itself.
    const PATIENCE: usize = 0;
    const STREAM: u8 = 1;

    fn cells(&self) -> u32 {
        self.world.shape.cells
    }

    fn cell(&self, index: u32) -> &[ModelWord; CELL_WORDS] {
        &self.cells[index as usize]
    }

    fn ring_word(&self, word: RingWord) -> &ModelWord {
        self.word(Place::Ring(word as usize))
    }

    fn units(&self) -> u32 {
        self.world.shape.units
    }

    fn block_units(&self) -> u32 {
        self.world.shape.block_units
    }

    fn tag(&self, index: u32) -> &ModelWord {
        self.word(Place::Unit(index))
    }
}
