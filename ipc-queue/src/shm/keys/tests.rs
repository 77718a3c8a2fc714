//! Tests of the table of keys.

use std::sync::atomic::AtomicU64;

use super::*;

const KEYS: u32 = 64;
const WINDOW: u64 = 1000;

struct Heap(Vec<([AtomicU64; 1], [AtomicU64; NOTE_WORDS])>);

impl KeyMemory for Heap {
    type Word = AtomicU64;

    fn slots(&self) -> u32 {
        self.0.len() as u32
    }

    fn word(&self, slot: u32) -> &AtomicU64 {
        &self.0[slot as usize].0[0]
    }

    fn notes(&self, slot: u32) -> &[AtomicU64; NOTE_WORDS] {
        &self.0[slot as usize].1
    }
}

fn table() -> Keys<Heap> {
    Keys::new(Heap((0..2 * KEYS).map(|_| Default::default()).collect()))
}

fn key(number: u64) -> u64 {
    crate::Key::of(number.to_le_bytes()).number()
}

fn id(sequence: u64) -> MessageId {
    MessageId::new(SenderId::new(7), sequence)
}

fn seat(slot: u16) -> Seat {
    Seat::of_slot(slot)
}

const CELL: CellName = CellName {
    level: 3,
    index: (1 << 20) - 1,
    occupancy: Lap::new(u64::MAX),
};

fn send(keys: &Keys<Heap>, key: u64, sequence: u64, now: u64) -> Result<(), Refused> {
    let mut held = keys.take(seat(0), key, now)?;
    keys.place(&mut held, CELL, id(sequence), now + WINDOW);
    keys.sent(held);
    Ok(())
}

#[test]
fn a_key_is_one_messages_for_the_window() {
    let keys = table();
    let held = keys.take(seat(0), key(1), 0).unwrap();
    assert_eq!(keys.look_up(key(1), 0), Known::InUse);
    assert_eq!(keys.take(seat(1), key(1), 0), Err(Refused::InUse));
    keys.give_back(held);
    send(&keys, key(1), 5, 0).unwrap();
    assert_eq!(
        keys.take(seat(1), key(1), WINDOW - 1),
        Err(Refused::Sent(id(5)))
    );
    assert_eq!(keys.look_up(key(1), WINDOW), Known::Nothing);
    send(&keys, key(1), 6, WINDOW).unwrap();
    assert_eq!(keys.look_up(key(1), WINDOW), Known::Sent(id(6)));
}

#[test]
fn as_many_keys_as_promised_are_remembered_and_old_ones_make_room() {
    let keys = table();
    for round in 0..50 {
        for number in 0..u64::from(KEYS) {
            let number = 1000 * round + number;
            assert_eq!(send(&keys, key(number), number, round * WINDOW), Ok(()));
        }
        for number in 0..u64::from(KEYS) {
            let number = 1000 * round + number;
            assert_eq!(
                keys.look_up(key(number), round * WINDOW),
                Known::Sent(id(number))
            );
        }
    }
}

#[test]
fn a_full_table_says_so_and_forgets_nothing() {
    let keys = table();
    let mut sent = 0;
    while send(&keys, key(sent), sent, 0) == Ok(()) {
        sent += 1;
    }
    assert_eq!(send(&keys, key(sent), sent, 0), Err(Refused::NoSlot));
    assert!((u64::from(KEYS)..=u64::from(2 * KEYS)).contains(&sent));
    for number in 0..sent {
        assert_eq!(keys.look_up(key(number), 0), Known::Sent(id(number)));
    }
}

#[test]
fn a_forgotten_key_is_free_and_its_place_too() {
    let keys = table();
    send(&keys, key(1), 1, 0).unwrap();
    send(&keys, key(2), 2, 0).unwrap();
    assert!(keys.forget(key(1), 0) && !keys.forget(key(1), 0));
    assert!(!keys.forget(key(2), WINDOW), "its window is over");
    assert_eq!(keys.look_up(key(1), 0), Known::Nothing);
    assert_eq!(
        (keys.look_up(key(2), 0), keys.count(0)),
        (Known::Sent(id(2)), 1)
    );
    let held = keys.take(seat(0), key(1), 0).unwrap();
    assert!(!keys.forget(key(1), 0), "a sender is about to use it");
    assert_eq!(keys.look_up(key(1), 0), Known::InUse);
    keys.give_back(held);
}

#[test]
fn what_is_remembered_can_be_remembered_elsewhere() {
    let (from, to) = (table(), table());
    for number in 0..20 {
        send(&from, key(number), number, number).unwrap();
    }
    let now = WINDOW + 10;
    let remembered: Vec<_> = from.remembered(now).collect();
    assert_eq!(remembered.len(), 9);
    for (key, id, until) in remembered {
        to.restore(seat(1), key, id, until, now).unwrap();
        let again = to.restore(seat(1), key, id, until, now);
        assert_eq!(again, Err(Refused::Sent(id)));
    }
    assert_eq!(to.look_up(key(10), now), Known::Nothing);
    assert_eq!(to.look_up(key(11), now), Known::Sent(id(11)));
    assert_eq!(to.look_up(key(11), WINDOW + 11), Known::Nothing);
}

#[test]
fn keys_that_look_alike_in_a_slot_are_told_apart_once_sent() {
    let keys = table();
    let (one, other) = (u64::MAX << 22, u64::MAX << 22 | 1 << 21);
    send(&keys, one, 1, 0).unwrap();
    assert_eq!(keys.look_up(other, 0), Known::Nothing);
    send(&keys, other, 2, 0).unwrap();
    assert_eq!(keys.look_up(one, 0), Known::Sent(id(1)));
    assert_eq!(keys.look_up(other, 0), Known::Sent(id(2)));
}

#[test]
fn the_keys_of_the_dead_are_sent_if_their_messages_were() {
    let keys = table();
    let claimed = keys.take(seat(1), key(1), 0).unwrap();
    let mut unpublished = keys.take(seat(1), key(2), 0).unwrap();
    keys.place(&mut unpublished, CELL, id(2), WINDOW);
    let mut published = keys.take(seat(1), key(3), 0).unwrap();
    let elsewhere = CellName { level: 0, ..CELL };
    keys.place(&mut published, CELL, id(3), WINDOW);
    keys.move_to(published.slot(), elsewhere);
    let others = keys.take(seat(2), key(4), 0).unwrap();
    assert!(
        !keys.recover(seat(1), || false, |_| true),
        "no longer its slot"
    );
    assert_eq!(keys.look_up(key(1), 0), Known::InUse);
    assert!(keys.recover(seat(1), || true, |cell| cell == CELL));
    assert_eq!(keys.look_up(key(1), 0), Known::Nothing);
    assert_eq!(keys.look_up(key(2), 0), Known::Nothing);
    assert_eq!(keys.look_up(key(3), 0), Known::Sent(id(3)));
    assert_eq!(keys.look_up(key(4), 0), Known::InUse);
    // If a process returns that was thought dead, its slots belong to others.
    let again = keys.take(seat(3), key(1), 0).unwrap();
    keys.give_back(claimed);
    assert_eq!(keys.look_up(key(1), 0), Known::InUse);
    keys.give_back(again);
    keys.give_back(others);
}
