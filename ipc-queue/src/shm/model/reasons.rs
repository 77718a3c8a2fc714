//! The table of reasons, while one that lost its lease is stopped at any access and goes on at any
//! other.
//!
//! Two threads run the ring's own code. The first holds a message, and stops before its i-th
//! access. Its lease ends, and the second takes the message and buries it with a reason of its own;
//! before its j-th access, it lets the first go on to its end. All i and j are tried. Memory orders
//! weaker than these do not matter: a reader takes a text only if its check fits.

use std::cell::Cell;
use std::panic;
use std::sync::atomic::Ordering::{self, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ipc_proto::Kind;

use super::actor::at;
use crate::shm::memory::{CELL_WORDS, Memory, REASON_WORDS, RingWord, Word};
use crate::shm::ring::{Lease, Limits, Publication, Ring, Settled, Settlement};
use crate::shm::word::{CellKind, Seat, State};

const LEASE: Option<Duration> = Some(Duration::from_millis(10));
const META: usize = 1;
const TEXT: usize = 2;
/// Long enough for several words of text.
const LATE: &str = "said by the one that lost its lease";
const NEXT: &str = "said by the one that has the message now";

/// All shared words, and who wrote the table of reasons in which order.
struct World {
    cells: Vec<[AtomicU64; CELL_WORDS]>,
    ring: [AtomicU64; RingWord::COUNT],
    reasons: Vec<[AtomicU64; REASON_WORDS]>,
    written: Mutex<Vec<Write>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Write {
    seat: u16,
    word: usize,
}

/// Where a thread lets another one go first.
struct Stop {
    /// The number of accesses so far.
    count: AtomicUsize,
    at: usize,
    reached: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

#[derive(Clone, Copy)]
enum Place {
    Cell(u32, usize),
    Ring(usize),
    Reason(u32, usize),
}

/// A thread's view of a word.
struct View {
    world: Arc<World>,
    place: Place,
    seat: u16,
    stop: Option<Arc<Stop>>,
}

struct Views {
    cells: Vec<[View; CELL_WORDS]>,
    ring: [View; RingWord::COUNT],
    reasons: Vec<[View; REASON_WORDS]>,
}

impl World {
    fn new(cells: usize, reasons: usize) -> Arc<Self> {
        let words = || AtomicU64::new(0);
        Arc::new(Self {
            cells: (0..cells)
                .map(|_| std::array::from_fn(|_| words()))
                .collect(),
            ring: std::array::from_fn(|_| words()),
            reasons: (0..reasons)
                .map(|_| std::array::from_fn(|_| words()))
                .collect(),
            written: Mutex::default(),
        })
    }

    fn ring(self: &Arc<Self>, seat: u16, stop: Option<Arc<Stop>>) -> Ring<Views> {
        let view = |place| View {
            world: Arc::clone(self),
            place,
            seat,
            stop: stop.clone(),
        };
        let views = Views {
            cells: (0..self.cells.len() as u32)
                .map(|index| std::array::from_fn(|word| view(Place::Cell(index, word))))
                .collect(),
            ring: std::array::from_fn(|word| view(Place::Ring(word))),
            reasons: (0..self.reasons.len() as u32)
                .map(|index| std::array::from_fn(|word| view(Place::Reason(index, word))))
                .collect(),
        };
        Ring::new(views, Limits::attempts(5))
    }

    /// Whether the first thread wrote into the text after the second had begun with its own.
    fn was_disturbed(&self) -> bool {
        let written = self.written.lock().unwrap();
        let begun = Write {
            seat: 2,
            word: META,
        };
        let begun = written.iter().position(|write| *write == begun);
        let late = |write: &Write| write.seat == 1 && write.word >= TEXT;
        begun.is_some_and(|begun| written[begun..].iter().any(late))
    }
}

impl Stop {
    fn pass(&self) {
        if self.count.fetch_add(1, SeqCst) == self.at {
            let _ = self.reached.send(());
            let _ = self.go_on.lock().unwrap().recv();
        }
    }
}

impl View {
    fn access<T>(&self, access: impl FnOnce(&AtomicU64) -> (T, bool)) -> T {
        if let Some(stop) = &self.stop {
            stop.pass();
        }
        let word = match self.place {
            Place::Cell(index, word) => &self.world.cells[index as usize][word],
            Place::Ring(word) => &self.world.ring[word],
            Place::Reason(index, word) => &self.world.reasons[index as usize][word],
        };
        let (value, has_written) = access(word);
        if let Place::Reason(_, word) = self.place
            && has_written
        {
            let seat = self.seat;
            self.world
                .written
                .lock()
                .unwrap()
                .push(Write { seat, word });
        }
        value
    }
}

impl Word for View {
    fn load(&self, _: Ordering) -> u64 {
        self.access(|word| (word.load(SeqCst), false))
    }

    fn store(&self, value: u64, _: Ordering) {
        self.access(|word| (word.store(value, SeqCst), true));
    }

    fn swap_if(&self, current: u64, new: u64, _: Ordering) -> Result<(), u64> {
        self.access(|word| {
            let swapped = word.compare_exchange(current, new, SeqCst, SeqCst);
            (swapped.map(drop), swapped.is_ok())
        })
    }

    fn add(&self, value: u64, _: Ordering) {
        self.access(|word| (word.fetch_add(value, SeqCst), true));
    }
}

impl Memory for Views {
    type Word = View;

    const PATIENCE: usize = 0;

    fn cells(&self) -> u32 {
        self.cells.len() as u32
    }

    fn cell(&self, index: u32) -> &[View; CELL_WORDS] {
        &self.cells[index as usize]
    }

    fn ring_word(&self, word: RingWord) -> &View {
        &self.ring[word as usize]
    }

    fn units(&self) -> u32 {
        0
    }

    fn tag(&self, index: u32) -> &View {
        unreachable!("there is no unit {index}")
    }

    fn reasons(&self) -> u32 {
        self.reasons.len() as u32
    }

    fn reason(&self, index: u32) -> &[View; REASON_WORDS] {
        &self.reasons[index as usize]
    }
}

fn send(world: &Arc<World>) {
    let ring = world.ring(0, None);
    let mut cursor = ring.cursor(RingWord::Tail);
    let claim = ring.claim(Seat::of_slot(0), Kind::Data, &mut cursor);
    let claim = claim.expect("there is room");
    assert!(matches!(ring.publish(claim), Publication::Done));
}

fn take(ring: &Ring<Views>, seat: u16) -> Option<Lease> {
    ring.take(Seat::of_slot(seat), &mut ring.cursor(RingWord::Head))
}

fn bury(ring: &Ring<Views>, lease: &Lease, reason: &str) -> Settled {
    ring.keep_reason(lease, reason);
    ring.settle(lease, Settlement::Bury)
}

/// The reason of the dead letter in this cell.
fn letter(world: &Arc<World>, index: u32) -> String {
    let ring = world.ring(9, None);
    let cell = ring.cell(index);
    let state = State::from_word(cell.state().load(SeqCst));
    assert_eq!(state.kind, CellKind::Dead);
    ring.reason(index, cell.claim(), state)
}

/// The id of the dead letter in the first cell.
fn letter_id(ring: &Ring<Views>) -> u64 {
    let cell = ring.cell(0);
    let state = State::from_word(cell.state().load(SeqCst));
    cell.claim().letter(state)
}

/// How far a thread that is to be stopped got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// It stopped where it was told to.
    Stopped,
    /// It did not get that far.
    Ended,
}

/// Runs the first thread until its i-th access, then `then`, which is given what lets it go on to
/// its end.
fn stopped_at(
    world: &Arc<World>,
    i: usize,
    first: impl FnOnce(&Ring<Views>) + Send + 'static,
    then: impl FnOnce(&dyn Fn()),
) -> First {
    let (reached, when_reached) = mpsc::channel();
    let (go, go_on) = mpsc::channel();
    let ended = reached.clone();
    let stop = Arc::new(Stop {
        count: AtomicUsize::new(0),
        at: i,
        reached,
        go_on: Mutex::new(go_on),
    });
    let ring = world.ring(1, Some(Arc::clone(&stop)));
    let thread = thread::spawn(move || {
        first(&ring);
        let _ = ended.send(());
    });
    when_reached.recv().expect("it stops or ends");
    let outcome = match stop.count.load(SeqCst) > i {
        true => First::Stopped,
        false => First::Ended,
    };
    let is_held = Cell::new(outcome == First::Stopped);
    let go_on = || {
        if is_held.replace(false) {
            let _ = go.send(());
            let _ = when_reached.recv();
        }
    };
    then(&go_on);
    drop(go);
    if let Err(failure) = thread.join() {
        panic::resume_unwind(failure);
    }
    outcome
}

/// Runs `second` and lets the first go on before its j-th access. Whether it got that far.
fn second_until(
    world: &Arc<World>,
    j: usize,
    go_on: &dyn Fn(),
    second: impl FnOnce(&Ring<Views>) + Send,
) -> bool {
    let (reached, when_reached) = mpsc::channel();
    let (go, its_turn) = mpsc::channel();
    let ended = reached.clone();
    let stop = Arc::new(Stop {
        count: AtomicUsize::new(0),
        at: j,
        reached,
        go_on: Mutex::new(its_turn),
    });
    let ring = world.ring(2, Some(Arc::clone(&stop)));
    thread::scope(|scope| {
        scope.spawn(move || {
            second(&ring);
            let _ = ended.send(());
        });
        when_reached.recv().expect("it stops or ends");
        go_on();
        let _ = go.send(());
    });
    stop.count.load(SeqCst) > j
}

#[test]
fn one_that_lost_its_lease_never_says_the_reason_of_the_next() {
    let (mut kept, mut disturbed) = (0, 0);
    for i in 0.. {
        let mut first = First::Ended;
        for j in 0.. {
            let world = World::new(1, 1);
            send(&world);
            let clock = world.ring(3, None);
            let lease = take(&clock, 1).expect("it was sent");
            let _ = clock.look_at_clock(at(5), LEASE);
            let (mut is_taken, mut got_there) = (false, false);
            let late = move |ring: &Ring<Views>| {
                let _ = bury(ring, &lease, LATE);
            };
            first = stopped_at(&world, i, late, |go_on| {
                let _ = clock.look_at_clock(at(20), LEASE);
                // Buried by the first already, or else ready again.
                if let Some(lease) = take(&clock, 2) {
                    is_taken = true;
                    got_there = second_until(&world, j, go_on, |ring| {
                        assert_eq!(bury(ring, &lease, NEXT), Settled::Dead);
                    });
                }
                go_on();
            });
            let found = letter(&world, 0);
            match &found[..] {
                LATE => assert!(!is_taken, "stopped at {i}, went on at {j}"),
                NEXT => kept += 1,
                "" if world.was_disturbed() => disturbed += 1,
                other => panic!("stopped at {i}, went on at {j}: {other:?}"),
            }
            if !got_there {
                break;
            }
        }
        if first == First::Ended {
            break;
        }
    }
    assert!(kept > 100 && disturbed > 10, "{kept} kept, {disturbed} not");
}

/// Three messages are held, the first by participant 1, the others by 3. The reason of the last, and
/// any of the first, begin at the first slot, which the last has.
fn first_slot_taken(world: &Arc<World>) -> (Ring<Views>, Lease, Lease) {
    (0..3).for_each(|_| send(world));
    let others = world.ring(3, None);
    let [lease, _, last] = [1, 3, 3].map(|seat| take(&others, seat).expect("it was sent"));
    others.keep_reason(&last, "in the first slot");
    let _ = others.look_at_clock(at(5), LEASE);
    (others, lease, last)
}

#[test]
fn a_slot_taken_too_late_hides_no_reason() {
    for i in 0.. {
        let world = World::new(3, 2);
        let (others, lease, last) = first_slot_taken(&world);
        let late = move |ring: &Ring<Views>| {
            let _ = bury(ring, &lease, LATE);
        };
        let first = stopped_at(&world, i, late, |go_on| {
            assert_eq!(others.settle(&last, Settlement::Ack), Settled::Freed);
            go_on();
        });
        assert_eq!(letter(&world, 0), LATE, "stopped at {i}");
        if first == First::Ended {
            break;
        }
    }
    for i in 0.. {
        let world = World::new(3, 2);
        let (others, lease, last) = first_slot_taken(&world);
        let late = move |ring: &Ring<Views>| {
            let _ = bury(ring, &lease, LATE);
        };
        let first = stopped_at(&world, i, late, |go_on| {
            // Only the first cell's lease ends.
            assert!(others.extend(&last, at(1000)));
            let _ = others.look_at_clock(at(20), LEASE);
            let Some(next) = take(&others, 2) else {
                return go_on();
            };
            let second = world.ring(2, None);
            assert_eq!(bury(&second, &next, NEXT), Settled::Dead);
            assert_eq!(others.settle(&last, Settlement::Ack), Settled::Freed);
            go_on();
        });
        let found = letter(&world, 0);
        let is_right = found == NEXT || found == LATE || world.was_disturbed();
        assert!(is_right, "stopped at {i}: {found:?}");
        if first == First::Ended {
            break;
        }
    }
}

#[test]
fn a_full_table_drops_the_newest_reason_and_no_other() {
    let world = World::new(2, 1);
    (0..2).for_each(|_| send(&world));
    let ring = world.ring(1, None);
    let leases = [0, 1].map(|_| take(&ring, 1).expect("it was sent"));
    for (lease, reason) in leases.iter().zip(["first", "second"]) {
        assert_eq!(bury(&ring, lease, reason), Settled::Dead);
    }
    assert_eq!([0, 1].map(|cell| letter(&world, cell)), ["first", ""]);
}

#[test]
fn a_slot_is_free_again_with_its_message_and_says_nothing_about_the_next() {
    let world = World::new(1, 1);
    let ring = world.ring(1, None);
    for round in 0..300 {
        send(&world);
        let lease = take(&ring, 1).expect("it was sent");
        let said = format!("round {round}");
        let (nacked, reason) = match round % 3 {
            0 => (true, ""),
            1 => (false, &said[..]),
            _ => (false, ""),
        };
        if nacked {
            ring.keep_reason(&lease, &said);
            assert_eq!(ring.settle(&lease, Settlement::Nack), Settled::Ready);
            let again = take(&ring, 1).expect("it was given back");
            assert_eq!(ring.ack(&again), Settled::Freed);
            continue;
        }
        assert_eq!(bury(&ring, &lease, reason), Settled::Dead);
        assert_eq!(letter(&world, 0), reason);
        assert!(ring.drop_dead(0, letter_id(&ring)));
    }
}

#[test]
fn a_requeued_letter_forgets_its_reason() {
    let world = World::new(1, 1);
    let ring = world.ring(1, None);
    send(&world);
    let lease = take(&ring, 1).expect("it was sent");
    assert_eq!(bury(&ring, &lease, "before"), Settled::Dead);
    assert!(ring.requeue(0, letter_id(&ring)).is_some());
    for attempt in 1..=5 {
        let lease = take(&ring, 2).expect("it was requeued");
        drop(lease);
        let changed = ring.recover(Seat::of_slot(2), || true).unwrap();
        assert_eq!(
            (changed.crashes, changed.dead),
            (1, usize::from(attempt == 5))
        );
    }
    assert_eq!(letter(&world, 0), "");
}
