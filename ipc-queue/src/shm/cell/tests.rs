//! Tests of cells.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::shm::word::attempt_after;

#[test]
fn a_header_survives_its_words() {
    let words: [AtomicU64; CELL_WORDS] = Default::default();
    let cell = Cell::new(&words);
    let id = MessageId::new(SenderId::new(u64::MAX), 9);
    cell.begin(Lap::new(77), Kind::Shutdown);
    cell.set_envelope(id, Timestamp::from_nanos(5));
    assert_eq!(cell.occupancy(), Lap::new(77));
    let envelope = cell.envelope();
    assert_eq!((envelope.kind, envelope.id), (Kind::Shutdown, id));
    assert_eq!(cell.expiry(), None);
    for at_ms in [1, (1 << 14) - 1, 1 << 14, (1 << 39) - 1] {
        cell.begin(Lap::new(u64::MAX), Kind::Shutdown);
        cell.set_envelope(id, Timestamp::from_nanos(5));
        cell.set_expiry(at_ms);
        assert_eq!(cell.expiry(), Some(at_ms));
        assert_eq!(cell.occupancy(), Lap::new(u64::MAX));
        assert_eq!(cell.envelope(), envelope);
    }
    for body in [
        Body {
            len: 3,
            chunk: None,
        },
        Body {
            len: u32::MAX,
            chunk: Some(1 << 20),
        },
    ] {
        cell.set_body(body);
        assert_eq!(cell.body(), body);
        assert_eq!(cell.body().before_headers(), None);
        cell.mark_headers();
        assert_eq!(cell.body().before_headers(), Some(body));
        assert!(cell.body().chunk >= Some(Body::MOST_UNITS));
    }
}

/// Puts a message into a cell of the third lap, and returns its state during the delivery.
fn held(cell: Cell<'_, AtomicU64>, attempt: u8) -> u64 {
    let state = State {
        kind: CellKind::Leased,
        attempt,
        ..State::free(Lap::new(3))
    };
    cell.state().store(state.to_word(), Relaxed);
    state.to_word()
}

fn note(cell: Cell<'_, AtomicU64>, attempt: u8, cause: Cause, holder: u32) {
    assert!(cell.note(held(cell, attempt), cause, holder));
}

fn tally(cell: Cell<'_, AtomicU64>) -> Tally {
    cell.tally(State::from_word(cell.state().load(Relaxed)))
}

#[test]
fn a_delivery_is_counted_once_by_whoever_ended_it() {
    let words: [AtomicU64; CELL_WORDS] = Default::default();
    let cell = Cell::new(&words);
    for lap in [3, u64::MAX] {
        cell.begin(Lap::new(lap), Kind::Shutdown);
        held(cell, 1);
        assert_eq!(tally(cell), Tally::default());
        note(cell, 1, Cause::Nack, 7);
        note(cell, 2, Cause::Nack, 7);
        note(cell, 2, Cause::Expiry, 7);
        note(cell, 3, Cause::Crash, (1 << 22) - 1);
        note(cell, 3, Cause::Crash, (1 << 22) - 1);
        let tally = tally(cell);
        assert_eq!((tally.nacks, tally.expiries, tally.crashes), (1, 1, 1));
        assert_eq!((tally.last, tally.holder), (Cause::Crash, (1 << 22) - 1));
    }
}

#[test]
fn the_end_of_a_delivery_that_is_over_is_not_noted() {
    let words: [AtomicU64; CELL_WORDS] = Default::default();
    let cell = Cell::new(&words);
    cell.begin(Lap::new(3), Kind::Data);
    let first = held(cell, 1);
    held(cell, 2);
    assert!(!cell.note(first, Cause::Expiry, 7));
    assert_eq!(tally(cell), Tally::default());
}

#[test]
fn an_empty_tally_is_that_of_its_occupancy_only() {
    let words: [AtomicU64; CELL_WORDS] = Default::default();
    let cell = Cell::new(&words);
    let empty = [3, 4].map(|lap| {
        cell.begin(Lap::new(lap), Kind::Data);
        words[TALLY].load(Relaxed)
    });
    assert_ne!(empty[0], empty[1]);
}

#[test]
fn the_signal_is_that_of_the_last_delivery_and_outlives_a_late_note() {
    let words: [AtomicU64; CELL_WORDS] = Default::default();
    let cell = Cell::new(&words);
    cell.begin(Lap::new(3), Kind::Data);
    let word = || words[STATE].load(Relaxed);
    note(cell, 1, Cause::Nack, 7);
    assert!(!cell.note_signal(word(), 9), "it was nacked");
    note(cell, 2, Cause::Crash, 8);
    assert!(cell.note_signal(word(), 9) && !cell.note_signal(word(), 34));
    assert!(!cell.note_signal(word() + 1, 9), "it is another letter");
    note(cell, 2, Cause::Crash, 8);
    let noted = tally(cell);
    assert_eq!((noted.signal, noted.last), (9, Cause::Crash));
    assert_eq!((noted.nacks, noted.crashes, noted.holder), (1, 1, 8));
    note(cell, 3, Cause::Crash, 9);
    assert_eq!(tally(cell).signal, 0);
}

#[test]
fn a_letter_keeps_its_attempts_until_it_is_requeued_and_starts_anew_then() {
    let words: [AtomicU64; CELL_WORDS] = Default::default();
    let cell = Cell::new(&words);
    cell.begin(Lap::new(3), Kind::Control);
    cell.set_expiry(1 << 20);
    let mut attempt = 0;
    // Attempt numbers wrap at 256.
    for _ in 0..100 {
        for delivery in 1..=3 {
            attempt = attempt_after(attempt);
            let state = State::from_word(held(cell, attempt));
            assert_eq!(cell.attempts(state), delivery);
            note(cell, attempt, Cause::Nack, 7);
        }
        let letter = State::from_word(held(cell, attempt)).released_as(CellKind::Dead);
        let claim = cell.claim();
        let (before, name) = (cell.tally(letter), claim.letter(letter));
        assert_eq!((cell.attempts(letter), before.nacks), (3, 3));
        assert!(cell.count_from(claim, letter));
        // A process that is killed here leaves the letter unchanged.
        assert_eq!((cell.attempts(letter), cell.tally(letter)), (3, before));
        assert_eq!(cell.claim().letter(letter), name);
        assert!(cell.count_from(cell.claim(), letter), "nothing to change");
        assert_eq!((cell.expiry(), cell.envelope().kind), (None, Kind::Control));
        let again = letter.requeued().unwrap();
        assert_eq!(
            (cell.attempts(again), cell.tally(again)),
            (0, Tally::default())
        );
        let next = State {
            attempt: attempt_after(attempt),
            ..letter
        };
        assert_ne!(cell.claim().letter(next), name, "another letter");
        assert!(!cell.count_from(claim, letter), "that letter is gone");
    }
}
