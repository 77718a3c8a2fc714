//! Keys under loom, with the ring that their messages go through.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering::{Acquire, SeqCst};

use ipc_proto::{MessageId, SenderId};
use loom::thread;

use super::weak::{Thread, Total, World, drain, model, model_with_victim, until_killed};
use crate::shm::keys::{CellName, Known, Refused};
use crate::shm::ring::{Publication, Settled, Settlement};
use crate::shm::word::Seat;

const KEY: u64 = 0x0123_4567_89ab_cdef;
const UNTIL: u64 = 9;

/// Sends a message with the key, as a sender does: first a cell, then the key. Whether it was sent.
fn send_keyed(me: &Thread) -> Result<bool, Refused> {
    let Some(claim) = me.claim() else {
        return Ok(false);
    };
    let mut held = match me.keys.take(me.seat, KEY, 0) {
        Ok(held) => held,
        Err(refused) => {
            me.ring.abandon(claim);
            return Err(refused);
        }
    };
    me.keys
        .place(&mut held, name(me, claim.index()), id(me), UNTIL);
    let published = match me.ring.publish(claim) {
        Publication::Done => true,
        Publication::SteppedOver(claim) => me.publish_late(claim),
        Publication::Lost => false,
    };
    assert!(published, "nobody takes a live sender's cell");
    me.keys.sent(held);
    Ok(true)
}

fn name(me: &Thread, index: u32) -> CellName {
    CellName {
        level: 0,
        index,
        occupancy: me.ring.cell(index).occupancy(),
    }
}

fn id(me: &Thread) -> MessageId {
    MessageId::new(SenderId::new(me.seat.slot().into()), 1)
}

/// What is done for the dead, in its order.
fn recover(me: &Thread, victim: u16) {
    let seat = Seat::of_slot(victim);
    let unpublished = |cell: CellName| me.ring.is_writing(seat, cell.index, cell.occupancy);
    assert!(me.keys.recover(seat, || true, unpublished));
    let _ = me.ring.recover(seat, || true);
}

#[test]
fn two_who_send_with_one_key_do_not_both_send() {
    model(2, || {
        let world = World::new(2, 0, Total::Yes);
        let other = world.thread(1);
        let other = thread::spawn(move || send_keyed(&other));
        let sent = [send_keyed(&world.thread(0)), other.join().unwrap()];
        let count = sent.iter().filter(|sent| **sent == Ok(true)).count();
        assert!(count <= 1, "{sent:?}");
        let last = world.thread(2);
        assert_eq!(drain(&last), count);
        let known = last.keys.look_up(KEY, 0);
        match count {
            // Each saw the other, and both let go.
            0 => assert_eq!(known, Known::Nothing),
            _ => assert!(matches!(known, Known::Sent(_)), "{known:?}"),
        }
        for refused in sent.into_iter().filter_map(Result::err) {
            assert_ne!(refused, Refused::NoSlot);
        }
    });
}

/// One finds a slot free that the other found taken, so neither learns of the other by losing a swap.
#[test]
fn two_who_claim_different_slots_see_each_other() {
    model(2, || {
        let world = World::new(1, 0, Total::Yes);
        let one = world.thread(0);
        let mut others: Vec<_> = (1..4)
            .map(|number| one.keys.take(one.seat, KEY.rotate_left(8 * number), 0))
            .map(Result::unwrap)
            .collect();
        let first = others.remove(0);
        let other = world.thread(1);
        let other = thread::spawn(move || other.keys.take(other.seat, KEY, 0).is_ok());
        one.keys.give_back(first);
        let took = one.keys.take(one.seat, KEY, 0).is_ok();
        assert!(!(other.join().unwrap() && took), "both have it");
    });
}

#[test]
fn a_key_is_given_to_the_next_without_a_gap() {
    model(2, || {
        let world = World::new(1, 0, Total::Yes);
        let holder = world.thread(0);
        let held = holder.keys.take(holder.seat, KEY, 0).unwrap();
        let next = world.thread(1);
        let next = thread::spawn(move || next.keys.take(next.seat, KEY, 0).is_ok());
        holder.keys.give_back(held);
        let got = next.join().unwrap();
        let known = world.thread(2).keys.look_up(KEY, 0);
        assert_eq!(known, if got { Known::InUse } else { Known::Nothing });
    });
}

/// A process with several threads: one has published and not yet said so, another writes in the same cell again.
#[test]
fn a_later_message_in_the_same_cell_does_not_hide_that_the_first_was_sent() {
    model(1, || {
        let world = World::new(1, 0, Total::Yes);
        let (me, receiver) = (world.thread(0), world.thread(1));
        let claim = me.claim().unwrap();
        let mut held = me.keys.take(me.seat, KEY, 0).unwrap();
        me.keys
            .place(&mut held, name(&me, claim.index()), id(&me), UNTIL);
        assert!(matches!(me.ring.publish(claim), Publication::Done));
        assert_eq!(receiver.receive(Settlement::Ack), Some(Settled::Freed));
        let later = me.claim().unwrap();
        recover(&receiver, 0);
        drop((held, later));
        assert_eq!(receiver.keys.look_up(KEY, 0), Known::Sent(id(&me)));
    });
}

/// The same, but the process is killed while it claims the cell again: the cell still bears its former occupancy then.
#[test]
fn a_cell_claimed_again_by_the_dead_does_not_hide_what_it_sent() {
    model_with_victim(1, |nth, killed| {
        let world = World::new(1, 0, Total::Yes);
        let (me, receiver) = (world.thread(0), world.thread(1));
        let claim = me.claim().unwrap();
        let mut held = me.keys.take(me.seat, KEY, 0).unwrap();
        me.keys
            .place(&mut held, name(&me, claim.index()), id(&me), UNTIL);
        assert!(matches!(me.ring.publish(claim), Publication::Done));
        assert_eq!(receiver.receive(Settlement::Ack), Some(Settled::Freed));
        let ended = until_killed(&me, nth, &world.words[0], |me| {
            let _claim = me.claim();
        });
        if !ended {
            killed.store(true, SeqCst);
        }
        recover(&receiver, 0);
        assert_eq!(receiver.keys.look_up(KEY, 0), Known::Sent(id(&me)));
    });
}

/// Receivers that step over what is being written do not make it look as if it had been sent.
#[test]
fn a_message_that_was_stepped_over_was_not_sent() {
    model(1, || {
        let world = World::new(2, 0, Total::Yes);
        let (me, other) = (world.thread(0), world.thread(1));
        let claim = me.claim().unwrap();
        let mut held = me.keys.take(me.seat, KEY, 0).unwrap();
        me.keys
            .place(&mut held, name(&me, claim.index()), id(&me), UNTIL);
        for _ in 0..3 {
            assert!(other.send());
            assert_eq!(other.receive(Settlement::Ack), Some(Settled::Freed));
        }
        recover(&other, 0);
        assert_eq!(other.keys.look_up(KEY, 0), Known::Nothing);
        assert_eq!(drain(&world.thread(2)), 0);
    });
}

#[test]
fn a_key_is_remembered_exactly_if_its_dead_senders_message_was_sent() {
    model_with_victim(1, |nth, killed| {
        let world = World::new(2, 0, Total::Yes);
        let victim = world.thread(0);
        let victim = thread::spawn(move || {
            let gone = Rc::clone(&victim.world.words[0]);
            let sent = Cell::new(false);
            let ended = until_killed(&victim, nth, &gone, |me| {
                sent.set(send_keyed(me) == Ok(true))
            });
            (ended, sent.get())
        });
        // Two recover it at the same time; then one of them sends with its key.
        let recoverer = world.thread(1);
        let recoverer = thread::spawn(move || {
            if recoverer.world.words[0].load(Acquire) != 0 {
                recover(&recoverer, 0);
            }
        });
        let survivor = world.thread(2);
        if survivor.world.words[0].load(Acquire) != 0 {
            recover(&survivor, 0);
        }
        let again = send_keyed(&survivor) == Ok(true);
        let (ended, sent) = victim.join().unwrap();
        recoverer.join().unwrap();
        let last = world.thread(3);
        if !ended {
            killed.store(true, SeqCst);
            recover(&last, 0);
        }
        let known = last.keys.look_up(KEY, 0);
        let there = drain(&last);
        assert!(there >= usize::from(again) + usize::from(sent));
        assert!(there <= 1, "sent twice");
        assert_eq!(matches!(known, Known::Sent(_)), there == 1, "{known:?}");
        assert_ne!(known, Known::InUse);
    });
}
