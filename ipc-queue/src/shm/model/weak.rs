//! The ring under loom: few accesses, but in weaker orders than those that a processor of today
//! makes.
//!
//! Loom lets a load return any value that the orderings allow, and finds two accesses to a payload
//! that nothing orders. It takes `SeqCst` accesses for acquire and release; where the total order
//! matters (a claim before the look at "closed", a publication before the look at who sleeps) a
//! `SeqCst` fence follows each such access, which is one way to make them on a processor.
//! Everything else is checked without those fences.
//!
//! A thread that is to be killed ends at its n-th access, for every n; only then others may see
//! that it is gone.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};
use std::time::Duration;

use ipc_proto::Kind;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;

use super::actor::at;
use crate::shm::chunk::Allocation;
use crate::shm::due::Time;
use crate::shm::keys::{KeyMemory, Keys, NOTE_WORDS};
use crate::shm::memory::{CELL_WORDS, Memory, RingWord, Word};
use crate::shm::ring::{
    Claim, Cursor, Lease, Limits, Publication, Ring, RunPublication, Settled, Settlement,
};
use crate::shm::word::{CellKind, Seat};

/// Whether `SeqCst` has its full strength.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Total {
    Yes,
    No,
}

/// A thread's view of a shared word.
pub(super) struct View {
    word: Rc<AtomicU64>,
    total: Total,
    /// How many accesses the thread makes before it is killed.
    left: Rc<Cell<Option<u64>>>,
}

struct Killed;

impl View {
    fn access<T>(&self, order: Ordering, access: impl FnOnce() -> T) -> T {
        match self.left.get() {
            Some(0) => resume_unwind(Box::new(Killed)),
            left => self.left.set(left.map(|left| left - 1)),
        }
        if self.total == Total::No || order != SeqCst {
            return access();
        }
        let value = access();
        fence(SeqCst);
        value
    }
}

impl Word for View {
    fn load(&self, order: Ordering) -> u64 {
        self.access(order, || self.word.load(order))
    }

    fn store(&self, value: u64, order: Ordering) {
        self.access(order, || self.word.store(value, order));
    }

    fn swap_if(&self, current: u64, new: u64, order: Ordering) -> Result<(), u64> {
        self.access(order, || {
            self.word
                .compare_exchange(current, new, order, Acquire)
                .map(drop)
        })
    }

    fn add(&self, value: u64, order: Ordering) {
        self.access(order, || self.word.fetch_add(value, order));
    }
}

/// Two buckets of two.
const SLOTS: usize = 4;

pub(super) struct Slots([[View; 1 + NOTE_WORDS]; SLOTS]);

impl KeyMemory for Slots {
    type Word = View;

    const BUCKET: u32 = 2;

    fn slots(&self) -> u32 {
        SLOTS as u32
    }

    fn word(&self, slot: u32) -> &View {
        &self.0[slot as usize][0]
    }

    fn notes(&self, slot: u32) -> &[View; NOTE_WORDS] {
        self.0[slot as usize].last_chunk().expect("the rest")
    }
}

pub(super) struct Words {
    cells: Vec<[View; CELL_WORDS]>,
    ring: [View; RingWord::COUNT],
    chunks: Vec<View>,
    block_units: u32,
}

impl Memory for Words {
    type Word = View;

    const PATIENCE: usize = 1;
    const STREAM: u8 = 1;

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
        self.chunks.len() as u32
    }

    fn block_units(&self) -> u32 {
        self.block_units
    }

    fn tag(&self, index: u32) -> &View {
        &self.chunks[index as usize]
    }

    fn pause(&self) {
        thread::yield_now();
    }
}

/// What all threads of a model share.
pub(super) struct World {
    total: Total,
    cells: Vec<[Rc<AtomicU64>; CELL_WORDS]>,
    ring: [Rc<AtomicU64>; RingWord::COUNT],
    chunks: Vec<Rc<AtomicU64>>,
    /// The units of each chunk at first.
    block_units: u32,
    /// A table of keys: each slot's word, then its notes.
    keys: [[Rc<AtomicU64>; 1 + NOTE_WORDS]; SLOTS],
    /// Stand for the payloads in cells and in chunks: written by senders, read by receivers.
    inline: Vec<UnsafeCell<()>>,
    large: Vec<UnsafeCell<()>>,
    /// Other words, as each model needs them.
    pub(super) words: [Rc<AtomicU64>; 2],
}

fn word() -> Rc<AtomicU64> {
    Rc::new(AtomicU64::new(0))
}

/// A thread of a model: the ring as it sees it, and its seat.
pub(super) struct Thread {
    pub(super) world: Rc<World>,
    pub(super) ring: Ring<Words>,
    pub(super) keys: Keys<Slots>,
    pub(super) seat: Seat,
    left: Rc<Cell<Option<u64>>>,
}

impl World {
    pub(super) fn new(cells: usize, chunks: usize, total: Total) -> Rc<Self> {
        Self::of_blocks(cells, [chunks, 1], total)
    }

    fn of_blocks(cells: usize, [blocks, units]: [usize; 2], total: Total) -> Rc<Self> {
        let chunks = blocks * units;
        Rc::new(Self {
            block_units: units as u32,
            total,
            cells: (0..cells)
                .map(|_| std::array::from_fn(|_| word()))
                .collect(),
            ring: std::array::from_fn(|_| word()),
            chunks: (0..chunks).map(|_| word()).collect(),
            keys: std::array::from_fn(|_| std::array::from_fn(|_| word())),
            inline: (0..cells).map(|_| UnsafeCell::new(())).collect(),
            large: (0..chunks).map(|_| UnsafeCell::new(())).collect(),
            words: std::array::from_fn(|_| word()),
        })
    }

    pub(super) fn thread(self: &Rc<Self>, seat: u16) -> Thread {
        let left = Rc::new(Cell::new(None));
        let view = |word: &Rc<AtomicU64>| View {
            word: Rc::clone(word),
            total: self.total,
            left: Rc::clone(&left),
        };
        let words = Words {
            cells: self
                .cells
                .iter()
                .map(|cell| cell.each_ref().map(view))
                .collect(),
            ring: self.ring.each_ref().map(view),
            chunks: self.chunks.iter().map(view).collect(),
            block_units: self.block_units,
        };
        let slots = Slots(self.keys.each_ref().map(|slot| slot.each_ref().map(view)));
        Thread {
            world: Rc::clone(self),
            ring: Ring::new(words, Limits::attempts(5)),
            keys: Keys::new(slots),
            seat: Seat::of_slot(seat),
            left,
        }
    }
}

impl Thread {
    pub(super) fn claim(&self) -> Option<Claim> {
        let mut cursor = self.ring.cursor(RingWord::Tail);
        self.ring.claim(self.seat, Kind::Data, &mut cursor)
    }

    fn take(&self) -> Option<Lease> {
        let mut cursor = self.ring.cursor(RingWord::Head);
        self.ring.take(self.seat, &mut cursor)
    }

    fn writes(&self, claim: &Claim) {
        self.world.inline[claim.index() as usize].with_mut(|_| ());
    }

    fn reads(&self, lease: &Lease) {
        // Loom's time goes on with each access to a word: without one, what is read now would count
        // as read before the swap that took the message, which releases.
        let _ = self.world.words[1].load(Relaxed);
        self.world.inline[lease.index() as usize].with(|_| ());
    }

    pub(super) fn send(&self) -> bool {
        self.send_with(&mut self.ring.cursor(RingWord::Tail))
    }

    fn send_with(&self, cursor: &mut Cursor) -> bool {
        let Some(claim) = self.ring.claim(self.seat, Kind::Data, cursor) else {
            return false;
        };
        self.writes(&claim);
        match self.ring.publish(claim) {
            Publication::Done => true,
            Publication::SteppedOver(claim) => {
                matches!(self.ring.publish_late(claim, cursor), Publication::Done)
            }
            Publication::Lost => panic!("lost"),
        }
    }

    /// Sends two messages as one run.
    fn send_run(&self) -> bool {
        let mut cursor = self.ring.cursor(RingWord::Tail);
        let Some(run) = self.ring.claim_run(self.seat, &mut cursor, 2) else {
            return false;
        };
        assert_eq!(run.len(), 2);
        for number in 0..2 {
            self.ring.begin_in(&run, number, Kind::Data);
            self.writes(&run.claim(number));
            self.ring.end_in(&run, number);
        }
        matches!(self.ring.publish_run(run), RunPublication::Done)
    }

    /// Takes up to two messages as they were sent, and acks them as one.
    fn receive_run(&self) -> usize {
        let mut cursor = self.ring.cursor(RingWord::Head);
        let Some(taken) = self.ring.take_run(self.seat, &mut cursor, 2) else {
            return 0;
        };
        let leases: Vec<Lease> = taken.into_leases().collect();
        leases.iter().for_each(|lease| self.reads(lease));
        let acked = match leases.len() {
            1 => self.ring.ack(&leases[0]),
            _ => self.ring.ack_run(&leases[0]),
        };
        assert_eq!(acked, Settled::Freed);
        leases.len()
    }

    pub(super) fn publish_late(&self, claim: Claim) -> bool {
        let cursor = &mut self.ring.cursor(RingWord::Tail);
        matches!(self.ring.publish_late(claim, cursor), Publication::Done)
    }

    pub(super) fn receive(&self, how: Settlement) -> Option<Settled> {
        self.receive_with(&mut self.ring.cursor(RingWord::Head), how)
    }

    fn receive_with(&self, cursor: &mut Cursor, how: Settlement) -> Option<Settled> {
        let lease = self.ring.take(self.seat, cursor)?;
        self.reads(&lease);
        Some(match how {
            Settlement::Ack => self.ring.ack(&lease),
            other => self.ring.settle(&lease, other),
        })
    }

    /// Finds memory for a large payload and writes it.
    fn fill_chunk(&self, claim: &Claim) -> Option<u32> {
        self.fill_units(claim, 1)
    }

    fn fill_units(&self, claim: &Claim, units: u32) -> Option<u32> {
        let all = self.ring.memory().units();
        let candidate = self.ring.find_chunk(0..all, units)?;
        let allocated = self.ring.allocate(candidate, claim) == Allocation::Done;
        allocated.then(|| {
            let chunk = candidate.chunk as usize;
            let units = &self.world.large[chunk..chunk + units as usize];
            units.iter().for_each(|unit| unit.with_mut(|_| ()));
            candidate.chunk
        })
    }
}

pub(super) fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let more = std::env::var_os("MODEL_LONG").is_some();
    builder.preemption_bound = Some(preemptions + usize::from(more));
    builder.max_branches = 20_000;
    builder.check(run);
}

/// Runs a model with a victim that is killed at its n-th access, for each n.
pub(super) fn model_with_victim(
    preemptions: usize,
    run: impl Fn(u64, &AtomicBool) + Send + Sync + 'static,
) {
    let run = Arc::new(run);
    for nth in 0.. {
        let killed = Arc::new(AtomicBool::new(false));
        let (run, at_least_once) = (Arc::clone(&run), Arc::clone(&killed));
        model(preemptions, move || run(nth, &at_least_once));
        if !killed.load(SeqCst) {
            assert!(nth > 3, "the victim did nothing");
            break;
        }
    }
}

/// Runs `what` until its `nth` access; then says in `gone` that the thread is dead. Whether it got
/// to the end.
pub(super) fn until_killed(
    thread: &Thread,
    nth: u64,
    gone: &AtomicU64,
    what: impl FnOnce(&Thread),
) -> bool {
    thread.left.set(Some(nth));
    let ended = catch_unwind(AssertUnwindSafe(|| what(thread)));
    thread.left.set(None);
    match ended {
        Ok(()) => true,
        Err(reason) if reason.is::<Killed>() => {
            gone.store(1, Release);
            false
        }
        Err(reason) => resume_unwind(reason),
    }
}

/// All that is left, taken and acked by one who knows that all others are done.
pub(super) fn drain(thread: &Thread) -> usize {
    let count = std::iter::from_fn(|| thread.receive(Settlement::Ack)).count();
    for index in 0..thread.ring.cells() {
        let state = thread.ring.seen(index);
        assert_eq!(state.kind, CellKind::Free, "cell {index}: {state:?}");
    }
    count
}

#[test]
fn a_payload_is_not_written_while_it_may_be_read() {
    model(3, || {
        let world = World::new(1, 0, Total::No);
        let receiver = world.thread(1);
        let receiver = thread::spawn(move || {
            (0..2)
                .filter_map(|_| receiver.receive(Settlement::Ack))
                .count()
        });
        let sender = world.thread(0);
        let sent = (0..2).filter(|_| sender.send()).count();
        let received = receiver.join().unwrap();
        assert_eq!(received + drain(&world.thread(2)), sent);
    });
}

/// Each handle is lucky the second time: it swaps the word without having read it.
#[test]
fn who_swaps_without_a_look_before_touches_only_what_is_its_own() {
    model(3, || {
        let world = World::new(1, 0, Total::No);
        let receiver = world.thread(1);
        let receiver = thread::spawn(move || {
            let mut cursor = receiver.ring.cursor(RingWord::Head);
            (0..2)
                .filter_map(|_| receiver.receive_with(&mut cursor, Settlement::Ack))
                .count()
        });
        let sender = world.thread(0);
        let mut cursor = sender.ring.cursor(RingWord::Tail);
        let sent = (0..2).filter(|_| sender.send_with(&mut cursor)).count();
        let received = receiver.join().unwrap();
        assert_eq!(received + drain(&world.thread(2)), sent);
    });
}

#[test]
fn two_senders_two_receivers_and_a_step_over() {
    model(1, || {
        let world = World::new(2, 0, Total::No);
        let senders = [sender(&world, 0), sender(&world, 1)];
        let other = world.thread(2);
        let other = thread::spawn(move || usize::from(other.receive(Settlement::Ack).is_some()));
        let receiver = world.thread(3);
        let received = usize::from(receiver.receive(Settlement::Ack).is_some());
        let sent: usize = senders
            .into_iter()
            .map(|sender| usize::from(sender.join().unwrap()))
            .sum();
        assert_eq!(sent, 2);
        assert_eq!(
            received + other.join().unwrap() + drain(&world.thread(4)),
            sent
        );
    });
}

#[test]
fn the_messages_of_a_run_are_read_by_whoever_takes_them() {
    model(2, || {
        let world = World::new(2, 0, Total::No);
        let (one, other) = (world.thread(1), world.thread(2));
        let one = thread::spawn(move || one.receive_run());
        let other = thread::spawn(move || usize::from(other.receive(Settlement::Ack).is_some()));
        assert!(world.thread(0).send_run());
        let received = one.join().unwrap() + other.join().unwrap();
        assert_eq!(received + drain(&world.thread(3)), 2);
    });
}

#[test]
fn the_cells_of_a_run_are_written_after_they_were_read() {
    model(2, || {
        let world = World::new(2, 0, Total::No);
        assert!(world.thread(0).send_run());
        let receiver = world.thread(1);
        let receiver = thread::spawn(move || receiver.receive_run());
        let other = sender(&world, 2);
        let sent = usize::from(world.thread(3).send()) + usize::from(other.join().unwrap());
        let received = receiver.join().unwrap();
        assert_eq!(received + drain(&world.thread(4)), 2 + sent);
    });
}

#[test]
fn a_run_is_claimed_again_as_a_run_after_it_was_read() {
    model(2, || {
        let world = World::new(2, 0, Total::No);
        assert!(world.thread(0).send_run());
        let receiver = world.thread(1);
        let receiver = thread::spawn(move || receiver.receive_run());
        let sent = 2 * usize::from(world.thread(2).send_run());
        let received = receiver.join().unwrap();
        assert_eq!(received + drain(&world.thread(4)), 2 + sent);
    });
}

#[test]
fn a_run_of_a_receiver_killed_anywhere_is_recovered_by_two_at_once() {
    model_with_victim(0, |nth, killed| {
        let world = World::new(2, 0, Total::No);
        assert!(world.thread(3).send_run());
        let victim = world.thread(0);
        let gone = Rc::clone(&world.words[0]);
        let acked = Cell::new(0);
        let ended = until_killed(&victim, nth, &gone, |me| acked.set(me.receive_run()));
        let (one, other) = (recoverer(&world, 1, 0), recoverer(&world, 2, 0));
        let received = one.join().unwrap() + other.join().unwrap() + acked.get();
        let last = world.thread(3);
        if !ended {
            killed.store(true, SeqCst);
            let _ = last.ring.recover(Seat::of_slot(0), || true);
        }
        let received = received + drain(&last);
        // Killed between its ack and its return, it has acked without saying so.
        assert!(received == 2 || !ended && received == 0);
    });
}

#[test]
fn each_delivery_has_a_lease_of_its_own() {
    model(0, || {
        let world = World::new(1, 0, Total::No);
        assert!(world.thread(0).send());
        let (clock, lease) = (world.thread(2), Some(Duration::from_millis(10)));
        let expired = |now| clock.ring.look_at_clock(at(now), lease).0.ready;
        let receiver = world.thread(1);
        let first = receiver.take().unwrap();
        assert_eq!(expired(5), 0);
        assert_eq!(
            receiver.ring.settle(&first, Settlement::Nack),
            Settled::Ready
        );
        let second = receiver.take().unwrap();
        assert_eq!((expired(20), expired(30), expired(31)), (0, 0, 1));
        assert_eq!(receiver.ring.ack(&second), Settled::LeaseLost);
    });
}

#[test]
fn what_is_put_off_comes_when_it_is_due_though_its_holder_is_stopped() {
    model(0, || {
        let world = World::new(1, 0, Total::No);
        assert!(world.thread(0).send());
        let (clock, lease) = (world.thread(2), Some(Duration::from_millis(100)));
        let changed = |now| clock.ring.look_at_clock(at(now), lease).0.ready;
        let receiver = world.thread(1);
        for (until, taken_at) in [(20, 0), (350, 100)] {
            let held = receiver.take().unwrap();
            assert_eq!(changed(taken_at), 0);
            assert!(receiver.ring.note_put_off(&held, at(until)));
            // Stopped here.
            assert_eq!((changed(until - 1), changed(until)), (0, 1));
            assert_eq!(
                receiver.ring.settle(&held, Settlement::Nack),
                Settled::LeaseLost
            );
        }
    });
}

#[test]
fn what_was_to_be_put_off_after_its_lease_comes_at_once() {
    model(0, || {
        let world = World::new(1, 0, Total::No);
        assert!(world.thread(0).send());
        let (clock, receiver) = (world.thread(2), world.thread(1));
        let held = receiver.take().unwrap();
        let lease = Some(Duration::from_millis(100));
        let _ = clock.ring.look_at_clock(at(0), lease);
        // Stopped after it noted that the lease is over.
        let (cell, word) = (clock.ring.cell(0), clock.ring.cell(0).state().load(SeqCst));
        assert_eq!(clock.ring.time_of(cell, word, at(101), lease), Time::Over);
        assert_eq!(receiver.ring.settle_later(&held, at(500)), Settled::Over);
        assert_eq!(receiver.take().unwrap().attempt(), 2);
    });
}

#[test]
fn a_message_given_back_is_read_again_before_its_cell_is_written() {
    model(2, || {
        let world = World::new(1, 0, Total::No);
        assert!(world.thread(0).send());
        let first = world.thread(1);
        let first = thread::spawn(move || {
            first.receive(Settlement::Nack);
        });
        let second = world.thread(2);
        let second = thread::spawn(move || usize::from(second.receive(Settlement::Ack).is_some()));
        let sent = 1 + usize::from(world.thread(0).send());
        first.join().unwrap();
        let received = second.join().unwrap();
        assert_eq!(received + drain(&world.thread(3)), sent);
    });
}

#[test]
fn a_zombie_keeps_its_payload() {
    model(2, || {
        let world = World::new(1, 0, Total::No);
        assert!(world.thread(0).send());
        let zombie = world.thread(1);
        let lease = zombie.take().unwrap();
        let zombie = thread::spawn(move || {
            zombie.reads(&lease);
            zombie.ring.ack(&lease)
        });
        let (time, lease) = (at(10), Some(Duration::from_millis(10)));
        let clock = world.thread(2);
        // Notes the lease's end, then comes back after it.
        let _ = clock.ring.look_at_clock(time, lease);
        let (changed, _) = clock.ring.look_at_clock(at(100), lease);
        let other = world.thread(3).receive(Settlement::Ack);
        let sent = world.thread(0).send();
        let acked = zombie.join().unwrap();
        match acked {
            Settled::LeaseLost => assert_eq!(changed.ready, 1),
            settled => assert_eq!((settled, other), (Settled::Freed, None)),
        }
        let left = usize::from(sent) + usize::from(acked == Settled::LeaseLost && other.is_none());
        assert_eq!(drain(&world.thread(4)), left);
    });
}

#[test]
fn a_chunk_is_not_written_while_it_may_be_read() {
    model(2, || {
        let world = World::new(2, 1, Total::No);
        let one = |world: &Rc<World>, seat| {
            let sender = world.thread(seat);
            thread::spawn(move || {
                let claim = sender.claim().unwrap();
                match sender.fill_chunk(&claim) {
                    Some(_) => {
                        assert!(sender.publish_late(claim))
                    }
                    None => sender.ring.abandon(claim),
                }
            })
        };
        let senders = [one(&world, 0), one(&world, 1)];
        let receiver = world.thread(2);
        if let Some(lease) = receiver.take() {
            assert!(receiver.ring.belongs(0, lease.index(), 1));
            world.large[0].with(|_| ());
            assert_eq!(receiver.ring.ack(&lease), Settled::Freed);
        }
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn a_chunk_of_an_earlier_occupancy_is_not_written_while_it_may_be_read() {
    model(2, || {
        let world = World::new(2, 1, Total::No);
        let first = world.thread(0);
        let claim = first.claim().unwrap();
        assert!(first.fill_chunk(&claim).is_some());
        assert!(matches!(first.ring.publish(claim), Publication::Done));
        let receiver = world.thread(1);
        let receiver = thread::spawn(move || {
            let lease = receiver.take().unwrap();
            receiver.world.large[0].with(|_| ());
            assert_eq!(receiver.ring.ack(&lease), Settled::Freed);
            // Its cell is claimed again, by a message that needs no chunk.
            while receiver.claim().is_some_and(|claim| claim.index() != 0) {}
        });
        let sender = world.thread(2);
        let claim = sender.claim();
        if let Some(claim) = claim {
            let _ = sender.fill_chunk(&claim);
        }
        receiver.join().unwrap();
    });
}

/// A message of so many units is there, and a thread that takes, reads and acks all.
fn large_messages(world: &Rc<World>, units: &[u32]) -> thread::JoinHandle<()> {
    let sender = world.thread(0);
    let mut cursor = sender.ring.cursor(RingWord::Tail);
    for units in units {
        let claim = sender.ring.claim(sender.seat, Kind::Data, &mut cursor);
        let claim = claim.unwrap();
        assert!(sender.fill_units(&claim, *units).is_some());
        assert!(matches!(sender.ring.publish(claim), Publication::Done));
    }
    let receiver = world.thread(1);
    let count = units.len();
    thread::spawn(move || {
        let mut cursor = receiver.ring.cursor(RingWord::Head);
        for _ in 0..count {
            let lease = receiver.ring.take(receiver.seat, &mut cursor).unwrap();
            let is_own = |unit: &usize| receiver.ring.belongs(*unit as u32, lease.index(), 1);
            let first = (0..receiver.world.large.len()).find(is_own).unwrap();
            let mut units = first..first + 1;
            while receiver
                .ring
                .belongs(first as u32, lease.index(), units.len() as u32 + 1)
            {
                units.end += 1;
            }
            let _ = receiver.world.words[1].load(Relaxed);
            let read = &receiver.world.large[units];
            read.iter().for_each(|unit| unit.with(|_| ()));
            assert_eq!(receiver.ring.ack(&lease), Settled::Freed);
        }
    })
}

fn fills(world: &Rc<World>, seat: u16, units: u32) -> thread::JoinHandle<()> {
    let sender = world.thread(seat);
    thread::spawn(move || {
        let claim = sender.claim().unwrap();
        match sender.fill_units(&claim, units) {
            Some(_) => assert!(sender.publish_late(claim)),
            None => sender.ring.abandon(claim),
        }
    })
}

#[test]
fn a_part_of_a_split_chunk_is_not_written_while_the_chunk_may_be_read() {
    model(2, || {
        let world = World::of_blocks(3, [1, 2], Total::No);
        let threads = [
            large_messages(&world, &[2]),
            fills(&world, 2, 1),
            fills(&world, 3, 1),
        ];
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_swallowed_chunk_is_not_written_while_it_may_be_read() {
    model(2, || {
        let world = World::of_blocks(4, [2, 1], Total::No);
        let threads = [
            large_messages(&world, &[1, 1]),
            fills(&world, 2, 2),
            fills(&world, 3, 1),
        ];
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn whoever_finds_a_closed_queue_drained_misses_no_message() {
    model(3, || {
        let world = World::new(1, 0, Total::Yes);
        let sender = world.thread(0);
        let sender = thread::spawn(move || {
            let closed = View {
                word: Rc::clone(&sender.world.words[0]),
                total: Total::Yes,
                left: Rc::default(),
            };
            let claim = sender.claim().unwrap();
            if closed.load(SeqCst) != 0 {
                sender.ring.abandon(claim);
                return false;
            }
            sender.publish_late(claim)
        });
        let closer = Rc::clone(&world);
        let closer = thread::spawn(move || {
            closer.words[0].store(1, SeqCst);
            fence(SeqCst);
        });
        let receiver = world.thread(1);
        let closed = world.words[0].load(SeqCst) != 0;
        fence(SeqCst);
        let taken = receiver.receive(Settlement::Ack).is_some();
        let drained = closed && !taken && receiver.ring.is_drained(Some(Seat::of_slot(1)));
        let sent = sender.join().unwrap();
        closer.join().unwrap();
        assert!(
            !(drained && sent),
            "told that it is drained, but a message came"
        );
    });
}

#[test]
fn either_the_receiver_sees_the_message_or_the_sender_sees_that_it_sleeps() {
    model(3, || {
        let world = World::new(1, 0, Total::Yes);
        let sender = world.thread(0);
        let sender = thread::spawn(move || {
            assert!(sender.send());
            let asleep = sender.world.words[0].load(SeqCst) != 0;
            fence(SeqCst);
            asleep
        });
        let receiver = world.thread(1);
        world.words[0].fetch_or(1, SeqCst);
        fence(SeqCst);
        let found = receiver.take().is_some();
        let seen_asleep = sender.join().unwrap();
        assert!(found || seen_asleep, "nobody wakes the receiver");
    });
}

#[test]
fn either_the_sender_sees_the_room_or_the_receiver_sees_that_it_sleeps() {
    model(3, || {
        let world = World::new(1, 0, Total::Yes);
        assert!(world.thread(2).send());
        let receiver = world.thread(1);
        let receiver = thread::spawn(move || {
            assert_eq!(receiver.receive(Settlement::Ack), Some(Settled::Freed));
            let asleep = receiver.world.words[0].load(SeqCst) != 0;
            fence(SeqCst);
            asleep
        });
        let sender = world.thread(0);
        world.words[0].fetch_or(1, SeqCst);
        fence(SeqCst);
        let found = sender.claim().is_some();
        let seen_asleep = receiver.join().unwrap();
        assert!(found || seen_asleep, "nobody wakes the sender");
    });
}

#[test]
fn either_the_receiver_sees_what_was_given_back_or_the_giver_sees_that_it_sleeps() {
    model(3, || {
        let world = World::new(2, 0, Total::Yes);
        let receiver = world.thread(1);
        let mut cursor = receiver.ring.cursor(RingWord::Head);
        assert!(receiver.ring.take(receiver.seat, &mut cursor).is_none());
        assert!(world.thread(0).send());
        let lease = receiver.ring.take(receiver.seat, &mut cursor).unwrap();
        let giver = thread::spawn(move || {
            let me = receiver.world.thread(1);
            let given = me.ring.settle(&lease, Settlement::Nack);
            assert_eq!(given, Settled::Ready);
            let asleep = me.world.words[0].load(SeqCst) != 0;
            fence(SeqCst);
            asleep
        });
        let receiver = world.thread(2);
        world.words[0].fetch_or(1, SeqCst);
        fence(SeqCst);
        let found = receiver.ring.take(receiver.seat, &mut cursor).is_some();
        let seen_asleep = giver.join().unwrap();
        assert!(found || seen_asleep, "nobody wakes the receiver");
    });
}

#[test]
fn either_the_sender_sees_what_was_freed_out_of_turn_or_the_giver_sees_that_it_sleeps() {
    model(3, || {
        let world = World::new(2, 0, Total::Yes);
        let sender = world.thread(0);
        let mut cursor = sender.ring.cursor(RingWord::Tail);
        let mut claim = || sender.ring.claim(sender.seat, Kind::Data, &mut cursor);
        let (first, second) = (claim().unwrap(), claim().unwrap());
        assert!(claim().is_none());
        let giver = world.thread(0);
        let giver = thread::spawn(move || {
            giver.ring.abandon(second);
            let asleep = giver.world.words[0].load(SeqCst) != 0;
            fence(SeqCst);
            asleep
        });
        world.words[0].fetch_or(1, SeqCst);
        fence(SeqCst);
        let found = claim().is_some();
        let seen_asleep = giver.join().unwrap();
        assert!(found || seen_asleep, "nobody wakes the sender");
        sender.ring.abandon(first);
    });
}

#[test]
fn a_sender_killed_anywhere_leaves_its_cell_to_others() {
    model_with_victim(1, |nth, killed| {
        let world = World::new(1, 0, Total::No);
        let victim = world.thread(0);
        let victim = thread::spawn(move || {
            let gone = Rc::clone(&victim.world.words[0]);
            let sent = Cell::new(false);
            let ended = until_killed(&victim, nth, &gone, |me| sent.set(me.send()));
            (ended, sent.get())
        });
        let (survivor, sender) = (recoverer(&world, 1, 0), sender(&world, 2));
        let (ended, sent) = victim.join().unwrap();
        let received = survivor.join().unwrap();
        let more = usize::from(sender.join().unwrap());
        let last = world.thread(3);
        if !ended {
            killed.store(true, SeqCst);
            let _ = last.ring.recover(Seat::of_slot(0), || true);
        }
        let received = received + drain(&last);
        let surely = more + usize::from(sent);
        // Killed between its publication and its return, it has sent without saying so.
        assert!(received == surely || !ended && received == surely + 1);
    });
}

#[test]
fn a_receiver_killed_anywhere_leaves_its_message_to_others() {
    model_with_victim(1, |nth, killed| {
        let world = World::new(1, 0, Total::No);
        assert!(world.thread(3).send());
        let victim = world.thread(0);
        let victim = thread::spawn(move || {
            let gone = Rc::clone(&victim.world.words[0]);
            let acked = Cell::new(false);
            let ended = until_killed(&victim, nth, &gone, |me| {
                acked.set(me.receive(Settlement::Ack).is_some());
            });
            (ended, acked.get())
        });
        let (survivor, sender) = (recoverer(&world, 1, 0), sender(&world, 2));
        let (ended, acked) = victim.join().unwrap();
        let received = survivor.join().unwrap() + usize::from(acked);
        let sent = 1 + usize::from(sender.join().unwrap());
        let last = world.thread(3);
        if !ended {
            killed.store(true, SeqCst);
            let _ = last.ring.recover(Seat::of_slot(0), || true);
        }
        let received = received + drain(&last);
        // Killed between its ack and its return, it has acked without saying so.
        assert!(received == sent || !ended && received + 1 == sent);
    });
}

/// Two recover the dead at the same time, each of which then receives.
#[test]
fn a_receiver_killed_anywhere_is_recovered_by_two_at_once() {
    model_with_victim(1, |nth, killed| {
        let world = World::new(1, 0, Total::No);
        assert!(world.thread(3).send());
        let victim = world.thread(0);
        let gone = Rc::clone(&world.words[0]);
        let acked = Cell::new(false);
        let ended = until_killed(&victim, nth, &gone, |me| {
            acked.set(me.receive(Settlement::Ack).is_some());
        });
        let (one, other) = (recoverer(&world, 1, 0), recoverer(&world, 2, 0));
        let received = one.join().unwrap() + other.join().unwrap() + usize::from(acked.get());
        let last = world.thread(3);
        if !ended {
            killed.store(true, SeqCst);
            let _ = last.ring.recover(Seat::of_slot(0), || true);
        }
        let received = received + drain(&last);
        // Killed between its ack and its return, it has acked without saying so.
        assert!(received == 1 || !ended && received == 0);
    });
}

fn sender(world: &Rc<World>, seat: u16) -> thread::JoinHandle<bool> {
    let me = world.thread(seat);
    thread::spawn(move || me.send())
}

/// Frees what the victim held, if it is gone, and receives. How many messages it acked.
fn recoverer(world: &Rc<World>, seat: u16, victim: u16) -> thread::JoinHandle<usize> {
    let me = world.thread(seat);
    thread::spawn(move || {
        if me.world.words[0].load(Acquire) != 0 {
            let _ = me.ring.recover(Seat::of_slot(victim), || true);
        }
        usize::from(me.receive(Settlement::Ack).is_some())
    })
}
