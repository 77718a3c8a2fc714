//! Goes through every order in which the actors of a scenario may access the shared words, and
//! every place where they may be killed.
//!
//! Depth first, each state once. A state is the words, each actor's place in its script with what
//! its present operation has seen so far, and the ledger; two ways that lead to the same state are
//! one from there on. In every state it also asks: if all died here, would the next process find
//! everything?

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

use super::actor::{Actor, Do, Rules};
use super::judge::Judge;
use super::ledger::{Ledger, MESSAGES};
use super::world::{Broken, ModelMemory, Place, Shape, Suspended, World};
use crate::shm::ring::{Limits, Ring};

/// What is explored.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub shape: Shape,
    pub rules: Rules,
    pub attempt_limit: u8,
    /// Each actor's seat and script.
    pub actors: Vec<(u8, Vec<Do>)>,
    /// Which actors do their first operations before everything else, one whole operation each
    /// time.
    pub before: Vec<usize>,
    /// How many processes are killed at most.
    pub crashes: u8,
    /// The seats whose processes may be killed.
    pub mortal: Vec<u8>,
    /// How often an operation is interrupted by another actor at most; `None`: always.
    pub preemptions: Option<u8>,
}

impl Scenario {
    pub fn new(cells: u32, actors: Vec<(u8, Vec<Do>)>) -> Self {
        let seats = actors.iter().map(|actor| actor.0).max().unwrap_or(0) + 1;
        Self {
            shape: Shape {
                cells,
                units: 0,
                block_units: 1,
                seats: seats.into(),
                stops: 1,
                hints_stop: false,
            },
            rules: Rules {
                lease_ms: None,
                units: [0; MESSAGES],
                closing: actors.iter().any(|actor| actor.1.contains(&Do::Close)),
                picking: (actors.iter().flat_map(|actor| &actor.1))
                    .any(|what| matches!(what, Do::Revoke(_) | Do::DropMessage(_))),
            },
            attempt_limit: 5,
            actors,
            before: Vec::new(),
            crashes: 0,
            mortal: Vec::new(),
            preemptions: None,
        }
    }

    pub fn prepared(mut self, before: impl IntoIterator<Item = usize>) -> Self {
        self.before.extend(before);
        self
    }

    pub fn killing(mut self, crashes: u8, mortal: &[u8]) -> Self {
        self.crashes = crashes;
        self.mortal = mortal.to_vec();
        self
    }

    pub fn leasing(mut self, lease_ms: u64) -> Self {
        self.rules.lease_ms = Some(lease_ms);
        self.shape.stops |= 1 << 6;
        self
    }

    /// Stops also between the accesses to the notes of time, and to the claim, whose occupancy they
    /// bear.
    pub fn timing(mut self) -> Self {
        self.shape.stops |= 1 << 2 | 1 << 6;
        self
    }

    /// Stops also between the accesses to the notes of causes.
    pub fn noting(mut self) -> Self {
        self.shape.stops |= 1 << 7;
        self.timing()
    }

    /// Chunks of `blocks` times `block_units` units. `units`: how many each message needs, from
    /// message 1 on.
    pub fn chunks(mut self, blocks: u32, block_units: u32, units: &[u32]) -> Self {
        self.shape.units = blocks * block_units;
        self.shape.block_units = block_units;
        self.rules.units[1..=units.len()].copy_from_slice(units);
        self.shape.stops |= 1 << 2;
        self
    }

    pub fn limit(mut self, attempts: u8) -> Self {
        self.attempt_limit = attempts;
        self
    }

    pub fn with_hints(mut self) -> Self {
        self.shape.hints_stop = true;
        self
    }

    pub fn preempted(mut self, times: u8) -> Self {
        self.preemptions = Some(times);
        self
    }
}

/// What an exploration did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    pub states: u64,
    pub steps: u64,
    pub ends: u64,
}

/// A way to a broken promise.
pub struct Counterexample {
    pub broken: String,
    pub trace: String,
}

/// An actor, and the operation that it is in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Runner {
    pub actor: Actor,
    /// What the operation's accesses returned so far.
    pub log: Vec<u64>,
    pub dead: bool,
}

#[derive(Clone)]
pub struct Snapshot {
    pub words: Vec<u64>,
    pub runners: Vec<Rc<Runner>>,
    pub ledger: Ledger,
    crashes: u8,
    /// Who ran last, and how many interruptions are left, if they are counted.
    last: Option<usize>,
    preemptions: u8,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Step(usize),
    Kill(u8),
}

struct Frame {
    snapshot: Snapshot,
    choices: Vec<Choice>,
    tried: usize,
}

pub struct Explorer<'a> {
    scenario: &'a Scenario,
    ring: Ring<ModelMemory>,
    visited: Seen,
    judged: Seen,
    explored: Explored,
}

/// Hashes of what was seen.
pub type Seen = HashSet<u64, BuildHasherDefault<Ready>>;

/// A hash that is a number already.
#[derive(Default)]
pub struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed with it");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Multiplies and folds; good enough to tell millions of states apart, and fast.
#[derive(Default)]
pub struct Folding(u64);

impl Hasher for Folding {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15)
            * u128::from(0xd134_2543_de82_ef95_u64);
        self.0 = ((product >> 64) ^ product) as u64 ^ self.0.rotate_left(23);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

impl Snapshot {
    fn key(&self, bounded: bool) -> u64 {
        let mut hasher = Folding::default();
        self.words.hash(&mut hasher);
        self.runners.hash(&mut hasher);
        self.ledger.hash(&mut hasher);
        self.crashes.hash(&mut hasher);
        if bounded {
            let busy = self.last.filter(|last| !self.runners[*last].log.is_empty());
            busy.hash(&mut hasher);
            self.preemptions.hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl<'a> Explorer<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        Self {
            scenario,
            ring: Ring::new(
                ModelMemory::new(scenario.shape),
                Limits::attempts(scenario.attempt_limit),
            ),
            visited: Seen::default(),
            judged: Seen::default(),
            explored: Explored::default(),
        }
    }

    fn world(&self) -> &World {
        &self.ring.memory().world
    }

    /// Explores all of it, or up to the first broken promise.
    pub fn explore(&mut self, most_states: u64) -> Result<Explored, Counterexample> {
        let mut stack = Vec::new();
        let start = self.start().map_err(|broken| Counterexample {
            broken,
            trace: "    (in the preparations)".to_owned(),
        })?;
        self.visit(start, &mut stack)
            .map_err(|broken| self.trace(&stack, broken))?;
        while let Some(frame) = stack.last_mut() {
            let Some(choice) = frame.choices.get(frame.tried).copied() else {
                stack.pop();
                continue;
            };
            frame.tried += 1;
            let mut next = frame.snapshot.clone();
            self.explored.steps += 1;
            let made = self.make(&mut next, choice);
            if let Err(broken) = made {
                return Err(self.trace(&stack, broken));
            }
            if self.explored.states >= most_states {
                return Err(self.trace(&stack, "too many states".to_owned()));
            }
            if let Err(broken) = self.visit(next, &mut stack) {
                return Err(self.trace(&stack, broken));
            }
        }
        Ok(self.explored)
    }

    fn start(&self) -> Result<Snapshot, String> {
        let world = self.world();
        let shape = self.scenario.shape;
        let mut ledger = Ledger {
            cell_count: shape.cells as u8,
            attempt_limit: self.scenario.attempt_limit,
            ..Ledger::default()
        };
        let mut words = vec![0; shape.words()];
        let mut runners = Vec::new();
        for (id, (seat, script)) in self.scenario.actors.iter().enumerate() {
            let actor = Actor::new(*seat);
            ledger.seats[id] = *seat;
            if !actor.is_unborn(script) {
                words[shape.at(Place::Seat((*seat).into()))] = 1 << 2 | 1;
            }
            runners.push(Rc::new(Runner {
                actor,
                log: Vec::new(),
                dead: false,
            }));
        }
        let mut snapshot = Snapshot {
            words,
            runners,
            ledger,
            crashes: self.scenario.crashes,
            last: None,
            preemptions: self.scenario.preemptions.unwrap_or(0),
        };
        world.stepping.set(false);
        for id in &self.scenario.before {
            self.step(&mut snapshot, *id)?;
            while !snapshot.runners[*id].actor.is_between() {
                self.step(&mut snapshot, *id)?;
            }
        }
        world.stepping.set(true);
        Ok(snapshot)
    }

    fn script(&self, id: usize) -> &'a [Do] {
        &self.scenario.actors[id].1
    }

    /// Puts a state on the stack, unless it was there before.
    fn visit(&mut self, snapshot: Snapshot, stack: &mut Vec<Frame>) -> Result<(), String> {
        if !self
            .visited
            .insert(snapshot.key(self.scenario.preemptions.is_some()))
        {
            return Ok(());
        }
        self.explored.states += 1;
        let choices = self.choices(&snapshot);
        let ended = !choices
            .iter()
            .any(|choice| matches!(choice, Choice::Step(_)));
        self.explored.ends += u64::from(ended);
        let judge = Judge::new(&self.ring, self.scenario);
        let judged = judge.judge(&snapshot, ended, &mut self.judged);
        stack.push(Frame {
            snapshot,
            choices,
            tried: 0,
        });
        judged
    }

    fn choices(&self, snapshot: &Snapshot) -> Vec<Choice> {
        let shape = self.scenario.shape;
        let seat_word = |seat: u8| snapshot.words[shape.at(Place::Seat(seat.into()))];
        let enabled = |id: usize| {
            let runner = &snapshot.runners[id];
            let script = self.script(id);
            let midway = !runner.log.is_empty();
            !runner.dead && (midway || runner.actor.is_enabled(script, &snapshot.ledger, seat_word))
        };
        let busy = snapshot
            .last
            .filter(|last| !snapshot.runners[*last].log.is_empty() && enabled(*last));
        let bound = self.scenario.preemptions.is_some() && snapshot.preemptions == 0;
        let mut choices: Vec<Choice> = (0..snapshot.runners.len())
            .filter(|id| enabled(*id) && (!bound || busy.is_none_or(|busy| busy == *id)))
            .map(Choice::Step)
            .collect();
        if snapshot.crashes > 0 {
            let mortal = self.scenario.mortal.iter().copied();
            let alive = mortal.filter(|seat| {
                self.processes(snapshot, *seat).any(|id| {
                    let actor = &snapshot.runners[id].actor;
                    enabled(id) || actor.holds_something()
                })
            });
            choices.extend(alive.map(Choice::Kill));
        }
        choices
    }

    /// The living actors of a seat.
    fn processes(&self, snapshot: &Snapshot, seat: u8) -> impl Iterator<Item = usize> {
        let of_seat = move |id: &usize| {
            let runner = &snapshot.runners[*id];
            !runner.dead && runner.actor.seat() == seat && !runner.actor.is_unborn(self.script(*id))
        };
        (0..snapshot.runners.len()).filter(of_seat)
    }

    fn make(&self, snapshot: &mut Snapshot, choice: Choice) -> Result<(), String> {
        match choice {
            Choice::Step(id) => {
                let interrupted = snapshot
                    .last
                    .is_some_and(|last| last != id && !snapshot.runners[last].log.is_empty());
                if interrupted && self.scenario.preemptions.is_some() {
                    snapshot.preemptions = snapshot.preemptions.saturating_sub(1);
                }
                snapshot.last = Some(id);
                self.step(snapshot, id)
            }
            Choice::Kill(seat) => {
                let killed: Vec<usize> = self.processes(snapshot, seat).collect();
                for id in killed {
                    kill(snapshot, id, self.script(id));
                    if snapshot.last == Some(id) {
                        snapshot.last = None;
                    }
                }
                snapshot.crashes -= 1;
                snapshot.ledger.dead[usize::from(seat)] = true;
                Ok(())
            }
        }
    }

    /// One shared access of one actor, and what follows it.
    fn step(&self, snapshot: &mut Snapshot, id: usize) -> Result<(), String> {
        let world = self.world();
        std::mem::swap(&mut *world.words.borrow_mut(), &mut snapshot.words);
        *world.ledger.borrow_mut() = snapshot.ledger;
        let runner = &snapshot.runners[id];
        world.log.borrow_mut().clone_from(&runner.log);
        world.rewind(id);
        let mut actor = runner.actor.clone();
        let run = || actor.run(id, &self.ring, self.script(id), self.scenario.rules);
        let ran = catch_unwind(AssertUnwindSafe(run));
        std::mem::swap(&mut *world.words.borrow_mut(), &mut snapshot.words);
        snapshot.ledger = *world.ledger.borrow();
        let (actor, log) = match ran {
            Ok(()) => (actor, Vec::new()),
            Err(reason) if reason.is::<Suspended>() => (
                snapshot.runners[id].actor.clone(),
                world.log.borrow().clone(),
            ),
            Err(reason) => match reason.downcast::<Broken>() {
                Ok(broken) => return Err(broken.0),
                Err(_) => return Err("a panic".to_owned()),
            },
        };
        snapshot.runners[id] = Rc::new(Runner {
            actor,
            log,
            dead: false,
        });
        Ok(())
    }

    /// Goes the way to a broken promise once more, and writes down every access.
    fn trace(&self, stack: &[Frame], broken: String) -> Counterexample {
        let world = self.world();
        let mut text = String::new();
        let way = stack
            .iter()
            .filter(|frame| frame.tried > 0)
            .map(|frame| (&frame.snapshot, frame.choices[frame.tried - 1]));
        let mut doing = Vec::new();
        for (snapshot, choice) in way {
            let mut snapshot = snapshot.clone();
            if let Choice::Step(id) = choice {
                let runner = &snapshot.runners[id];
                let what = (
                    id,
                    runner.actor.next(self.script(id)),
                    runner.log.is_empty(),
                );
                if what.2 || doing.last() != Some(&id) {
                    let begins = if what.2 { "" } else { " (goes on)" };
                    let what = what.1.map_or(String::new(), |what| format!("{what:?}"));
                    let seat = runner.actor.seat();
                    let _ = writeln!(text, "  actor {id}, seat {seat}: {what}{begins}");
                }
                doing.push(id);
            } else {
                let _ = writeln!(text, "  {choice:?}");
            }
            *world.trace.borrow_mut() = Some(String::new());
            let _ = self.make(&mut snapshot, choice);
            text.push_str(&world.trace.take().unwrap_or_default());
        }
        Counterexample {
            broken,
            trace: text,
        }
    }
}

/// The process of an actor ends.
pub fn kill(snapshot: &mut Snapshot, id: usize, script: &[Do]) {
    let runner = Rc::make_mut(&mut snapshot.runners[id]);
    let begun = !runner.log.is_empty();
    runner
        .actor
        .crashes(id, script, begun, &mut snapshot.ledger);
    // What it held is only in the words now.
    runner.actor = Actor::new(runner.actor.seat());
    runner.dead = true;
    runner.log.clear();
}

/// Explores a scenario; panics with the shortest way found to a broken promise.
#[track_caller]
pub fn check(name: &str, scenario: &Scenario) -> Explored {
    let started = Instant::now();
    let found = Explorer::new(scenario).explore(u64::MAX);
    match found {
        Ok(explored) => {
            let Explored {
                states,
                steps,
                ends,
            } = explored;
            let took = started.elapsed().as_secs_f64();
            println!("{name}: {states} states, {steps} steps, {ends} ends, {took:.1} s");
            explored
        }
        Err(mut found) => {
            // Once more with few interruptions: easier to read.
            for times in 0..4 {
                let mut easier = scenario.clone();
                easier.preemptions = Some(times);
                if let Err(shorter) = Explorer::new(&easier).explore(300_000)
                    && shorter.broken != "too many states"
                {
                    found = shorter;
                    break;
                }
            }
            panic!("{name}: {}\n{}", found.broken, found.trace);
        }
    }
}
