//! The cell's automaton, written down once more and checked by itself: every order of steps of three processes on three
//! cells over two laps, each of which may be killed at every step.
//!
//! This is the protocol as the table in `shm/word.rs` tells it, not the code: a step here is one change of one word,
//! for words never come back, so that a compare-and-swap is an atomic step from the state that it compared with.
//! What happens between reading and swapping, and under weak memory, is walked on the code itself (`shm/model`).
//!
//! Checked: what a send accepted is in exactly one cell until it is acked; no delivery is settled twice, no message
//! acked twice; nobody writes what a live process may still read; and once nothing can happen any more,
//! every cell is free or a dead letter's, unless all receivers are dead.

mod automaton;
mod ledger;
mod process;

use automaton::{CELLS, Kind, Word};
use ledger::Ledger;
use process::{Process, Role};
use stateright::{Checker, Model, Property};

/// What is explored: who takes part, and how much of everything may happen.
#[derive(Clone, Debug)]
struct Plan {
    roles: [Role; 3],
    expiries: u8,
    nacks: u8,
    delays: u8,
    crashes: u8,
    put_offs: u8,
    purges: u8,
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    cells: [Word; CELLS],
    /// Whose message each cell holds, if any.
    messages: [u8; CELLS],
    processes: [Process; 3],
    ledger: Ledger,
    expiries: u8,
    nacks: u8,
    delays: u8,
    crashes: u8,
    put_offs: u8,
    purges: u8,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// A process does what it is at.
    Go(u8),
    /// A receiver gives its message back, at once or later.
    Nack(u8),
    Delay(u8),
    /// A process is killed.
    Crash(u8),
    /// Somebody sees to one cell that a dead process had to do with.
    Recover(u8),
    /// All cells of the dead were seen to: whoever waits looks everywhere.
    Wake,
    /// A lease runs out.
    Expire(u8),
    /// A delay is over.
    Due(u8),
    /// A sender puts off what it wrote.
    PutOff(u8),
    /// Somebody drops a message that waits, because nobody wants it any more.
    Drop(u8),
}

impl Model for Plan {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut next = 0;
        let processes = self.roles.map(|role| Process::new(role, &mut next));
        vec![World {
            cells: [Word::default(); CELLS],
            messages: [0; CELLS],
            processes,
            ledger: Ledger::default(),
            expiries: 0,
            nacks: 0,
            delays: 0,
            crashes: 0,
            put_offs: 0,
            purges: 0,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (me, process) in (0u8..).zip(&world.processes) {
            if !process.alive {
                continue;
            }
            if process.can_go() {
                steps.push(Step::Go(me));
            }
            if process.reads().is_some() && world.nacks < self.nacks {
                steps.push(Step::Nack(me));
            }
            if process.reads().is_some() && world.delays < self.delays {
                steps.push(Step::Delay(me));
            }
            if process.writes() && world.put_offs < self.put_offs {
                steps.push(Step::PutOff(me));
            }
            if world.crashes < self.crashes {
                steps.push(Step::Crash(me));
            }
        }
        for (index, word) in (0u8..).zip(&world.cells) {
            if world.dead_in(*word).is_some() {
                steps.push(Step::Recover(index));
            }
            if word.kind == Kind::Leased && world.expiries < self.expiries {
                steps.push(Step::Expire(index));
            }
            if word.kind == Kind::Delayed {
                steps.push(Step::Due(index));
            }
            let waits = matches!(word.kind, Kind::Ready | Kind::Delayed);
            if waits && world.purges < self.purges {
                steps.push(Step::Drop(index));
            }
        }
        if world.must_wake() {
            steps.push(Step::Wake);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Go(me) => world.go(me),
            Step::Nack(me) => {
                world.nacks += 1;
                world.give_back(me, Kind::Ready);
            }
            Step::Delay(me) => {
                world.delays += 1;
                world.give_back(me, Kind::Delayed);
            }
            Step::Crash(me) => {
                world.crashes += 1;
                world.processes[usize::from(me)].alive = false;
            }
            Step::Recover(index) => world.recover(index),
            Step::Wake => world.wake(),
            Step::Expire(index) => {
                world.expiries += 1;
                world.expire(index);
            }
            Step::Due(index) => world.fall_due(index),
            Step::PutOff(me) => {
                world.put_offs += 1;
                world.put_off(me);
            }
            Step::Drop(index) => {
                world.purges += 1;
                world.drop_waiting(index);
            }
        }
        // Nothing but the bookkeeping of who looked where.
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing accepted is lost or doubled", |_, world: &World| {
                world.ledger.all_in_place(&world.cells, &world.messages)
            }),
            Property::always("no delivery is settled twice", |_, world: &World| {
                !world.ledger.settled_twice
            }),
            Property::always(
                "nothing is written while it is readable",
                |_, world: &World| world.nobody_writes_what_is_read(),
            ),
            Property::always(
                "in the end everything is free",
                |plan: &Self, world: &World| {
                    let mut steps = Vec::new();
                    plan.actions(world, &mut steps);
                    let over = steps.iter().all(|step| {
                        matches!(step, Step::Crash(_)) || plan.next_state(world, *step).is_none()
                    });
                    !over || world.is_at_rest()
                },
            ),
        ]
    }
}

/// Explores all there is of `plan`; how many states that were.
fn explore(plan: Plan) -> usize {
    let checker = plan.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    println!("{} states", checker.unique_state_count());
    checker.unique_state_count()
}

#[test]
fn one_sender_and_two_receivers() {
    let states = explore(Plan {
        roles: [Role::Send(4), Role::Receive, Role::Receive],
        expiries: 1,
        nacks: 1,
        delays: 0,
        crashes: 2,
        put_offs: 0,
        purges: 0,
    });
    assert!(states > 10_000, "{states} states are not all there are");
}

#[test]
fn two_senders_and_one_receiver() {
    let states = explore(Plan {
        roles: [Role::Send(2), Role::Send(2), Role::Receive],
        expiries: 1,
        nacks: 0,
        delays: 0,
        crashes: 2,
        put_offs: 0,
        purges: 0,
    });
    assert!(states > 10_000, "{states} states are not all there are");
}

#[test]
fn two_leases_of_one_message_run_out() {
    let states = explore(Plan {
        roles: [Role::Send(2), Role::Receive, Role::Receive],
        expiries: 3,
        nacks: 1,
        delays: 1,
        crashes: 1,
        put_offs: 0,
        purges: 0,
    });
    assert!(states > 10_000, "{states} states are not all there are");
}

#[test]
fn messages_are_put_off_and_dropped() {
    let states = explore(Plan {
        roles: [Role::Send(2), Role::Send(1), Role::Receive],
        expiries: 1,
        nacks: 1,
        delays: 0,
        crashes: 1,
        put_offs: 1,
        purges: 1,
    });
    assert!(states > 10_000, "{states} states are not all there are");
}
